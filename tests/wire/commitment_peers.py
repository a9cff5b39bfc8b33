"""Peers for storage commitment: one that asks and is reported to, one that is asked and reports."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import build_role
from sqlalchemy import update

from pacs.commitment import ASK, CHECK, REPORT, Commitments
from pacs.dimse.calls import Caller
from pacs.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE, Delivery
from pacs.dimse.tls import Credentials
from pacs.index.schema import jobs as jobs_table
from pacs.peers import Peer, Right
from pacs.worker import Worker
from tests import make
from tests.unit.dimse.scanner import OPERATOR, Node

BOTH: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
AFTER_S: Final = 0.3
REQUESTER, ARCHIVE = "REQUESTER", "ARCHIVE"

# When an archive that was asked reports: before its answer, after it, or when the test says so.
When = Literal["before", "after", "later"]
Pair = tuple[str, str]  # SOP class and instance UID


def stored(node: Node, number: int, *, study: str = "study") -> list[Pair]:
    """So many instances, kept in the node."""
    made = [make.data_set(n, study_instance_uid=make.uid(study)) for n in range(1, number + 1)]
    for one in made:
        node.archive.store(make.SCANNER, make.incoming(one))
    return [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in made]


def worker(
    node: Node,
    *,
    credentials: Credentials | None = None,
    answer_s: float = 10.0,
    linger_s: float = 0.0,
) -> Worker:
    """A worker that does what the node's own would do for storage commitment."""
    commitments = Commitments(node.archive)
    caller = Caller(node.peers, "ISOCENTER", credentials or Credentials(), answer_s)
    delivery = Delivery(commitments, caller, linger_s=linger_s)
    handlers = {CHECK: commitments.check, REPORT: delivery.report, ASK: delivery.ask}
    return Worker(node.archive.index, handlers)


def work(one: Worker) -> int:
    """Let a worker do everything that is due; how many jobs that was."""
    done = 0
    while one.step():
        done += 1
    return done


def make_due(node: Node) -> None:
    """Let the pauses of all jobs be over."""
    with node.archive.index.write() as connection:
        connection.execute(update(jobs_table).values(not_before=0.0))


def information(transaction_uid: str, pairs: Sequence[Pair]) -> Dataset:
    """What a request says."""
    made = Dataset()
    made.TransactionUID = transaction_uid
    made.ReferencedSOPSequence = [item(*pair) for pair in pairs]
    return made


def item(sop_class_uid: str, sop_instance_uid: str, reason: int | None = None) -> Dataset:
    """A reference to an instance, with a failure reason if there is one."""
    made = Dataset()
    made.ReferencedSOPClassUID = UID(sop_class_uid)
    made.ReferencedSOPInstanceUID = UID(sop_instance_uid)
    if reason is not None:
        made.FailureReason = reason
    return made


@contextmanager
def asking(
    node: Node, *, ae_title: str = REQUESTER, syntaxes: Sequence[UID] = BOTH
) -> Iterator[Association]:
    """An association on which storage commitment can be requested."""
    entity = ApplicationEntity(ae_title)
    entity.dimse_timeout = 20
    entity.add_requested_context(PUSH_MODEL, list(syntaxes))
    association = entity.associate("127.0.0.1", node.port, ae_title="ISOCENTER")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()
        association.join()


def request(
    node: Node,
    pairs: Sequence[Pair],
    *,
    transaction_uid: str = "",
    ae_title: str = REQUESTER,
    syntaxes: Sequence[UID] = BOTH,
) -> tuple[str, int, str]:
    """Request commitment: Transaction UID, and status and comment of the answer."""
    uid = transaction_uid or generate_uid()
    with asking(node, ae_title=ae_title, syntaxes=syntaxes) as association:
        status, _ = association.send_n_action(
            information(uid, pairs), 1, UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE)
        )
    return uid, int(status.Status), str(status.get("ErrorComment", ""))


@dataclass(frozen=True)
class Report:
    """One report as it came."""

    event_type: int
    transaction_uid: str
    committed: list[Pair]
    failed: dict[Pair, int]
    retrieve_ae_title: str
    transfer_syntax_uid: str


@dataclass
class Requester:
    """Whoever asked; keeps the reports it gets, and answers each as `judge` says."""

    judge: Callable[[evt.Event], int] = lambda _: 0
    reports: list[Report] = field(default_factory=list)
    port: int = 0

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        told = event.event_information
        self.reports.append(
            Report(
                event.event_type or 0,
                str(told.TransactionUID),
                [_pair(one) for one in told.get("ReferencedSOPSequence", [])],
                {_pair(one): int(one.FailureReason) for one in told.get("FailedSOPSequence", [])},
                str(told.get("RetrieveAETitle", "")),
                str(event.context.transfer_syntax),
            )
        )
        return self.judge(event), None


def _pair(one: Dataset) -> Pair:
    return str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)


def list_requester(node: Node, port: int, *, tls: bool = False) -> None:
    """Enter REQUESTER among the node's peers."""
    peer = Peer(REQUESTER, "127.0.0.1", port, tls, frozenset({Right.COMMIT}))
    node.peers.put(OPERATOR, peer)


@contextmanager
def reporting(
    port: int,
    *,
    syntaxes: Sequence[UID] = BOTH,
    judge: Callable[[evt.Event], int] = lambda _: 0,
    tls: ssl.SSLContext | None = None,
    knows_roles: bool = True,
) -> Iterator[Requester]:
    """A requester at home: it takes reports on its port."""
    made = Requester(judge)
    entity = ApplicationEntity(REQUESTER)
    roles = {"scu_role": False, "scp_role": True} if knows_roles else {}
    entity.add_supported_context(PUSH_MODEL, list(syntaxes), **roles)
    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, made.on_report)],
        ssl_context=tls,
    )
    assert server is not None
    made.port = int(server.server_address[1])
    try:
        yield made
    finally:
        server.shutdown()


@contextmanager
def requester(
    node: Node,
    *,
    port: int = 0,
    syntaxes: Sequence[UID] = BOTH,
    judge: Callable[[evt.Event], int] = lambda _: 0,
) -> Iterator[Requester]:
    """The same, listed by the node."""
    with reporting(port, syntaxes=syntaxes, judge=judge) as made:
        list_requester(node, made.port)
        yield made


@dataclass
class OtherArchive:
    """An archive that we ask; what it was asked is kept, and reported on by the test."""

    requests: list[Dataset] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)  # of our answers to its reports
    judge: Callable[[], int] = lambda: 0
    reports: When = "later"
    told: threading.Event = field(default_factory=threading.Event)

    def on_request(self, event: evt.Event) -> tuple[int, None]:
        self.requests.append(event.action_information)
        if self.reports == "before":
            self._report_on(event.assoc)
        elif self.reports == "after":
            # Not at once: pynetdicom's thread of the association has an answer to send first.
            threading.Timer(AFTER_S, self._report_on, args=(event.assoc,)).start()
        return self.judge(), None

    def _report_on(self, association: Association) -> None:
        self.statuses.append(_tell(association, all_committed(self.requests[-1])))
        self.told.set()


def all_committed(asked: Dataset) -> Dataset:
    """The report that answers a request with success."""
    told = Dataset()
    told.TransactionUID = asked.TransactionUID
    told.ReferencedSOPSequence = asked.ReferencedSOPSequence
    return told


def _tell(association: Association, told: Dataset, event_type: int = 1) -> int:
    status, _ = association.send_n_event_report(
        told, event_type, UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE)
    )
    return int(status.Status)


def report_to(node: Node, told: Dataset, *, event_type: int = 1, ae_title: str = ARCHIVE) -> int:
    """Report to the node on an association of the peer's own; the status that answers."""
    entity = ApplicationEntity(ae_title)
    entity.dimse_timeout = 20
    entity.add_requested_context(PUSH_MODEL)
    role = build_role(PUSH_MODEL, scp_role=True)
    association = entity.associate("127.0.0.1", node.port, ae_title="ISOCENTER", ext_neg=[role])
    assert association.is_established
    (context,) = association.accepted_contexts
    assert context.as_scp
    try:
        return _tell(association, told, event_type)
    finally:
        association.release()
        association.join()


@contextmanager
def other_archive(
    node: Node, *, judge: Callable[[], int] = lambda: 0, reports: When = "later"
) -> Iterator[OtherArchive]:
    """An archive that the node lists as ARCHIVE."""
    made = OtherArchive(judge=judge, reports=reports)
    entity = ApplicationEntity(ARCHIVE)
    entity.add_supported_context(PUSH_MODEL)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, made.on_request)]
    )
    assert server is not None
    port = int(server.server_address[1])
    rights = frozenset({Right.RECEIVE})
    node.peers.put(OPERATOR, Peer(ARCHIVE, "127.0.0.1", port, rights=rights))
    try:
        yield made
    finally:
        server.shutdown()
