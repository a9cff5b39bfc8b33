"""Instance Availability Notification to pynetdicom's own SCP, from the study's completion on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import N_CREATE
from sqlalchemy import Connection

from pacs.archive import Scope
from pacs.availability import NOTIFY, announce
from pacs.dimse.availability import NOTIFICATION, Notifications
from pacs.dimse.calls import Caller
from pacs.dimse.tls import Credentials
from pacs.index import jobs
from pacs.peers import Peer, Right
from pacs.worker import Worker
from pacs.workflow import Completed, Plan, Workflow
from tests import make
from tests.unit.dimse.scanner import OPERATOR, Node, node
from tests.wire.commitment_peers import BOTH, make_due, work

STUDY = make.uid("study")
WEB = "https://pacs.example.org/dicom-web"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as started:
        started.peers.remove(OPERATOR, "SCANNER")  # which has every right, this one too
        yield started


@dataclass
class Informed:
    """Who is told; `judge` gives the status of each answer."""

    judge: Callable[[], int] = lambda: 0
    told: list[tuple[str, Dataset]] = field(default_factory=list)  # SOP Instance UID, attributes

    def on_n_create(self, event: evt.Event) -> tuple[int, None]:
        uid = cast(N_CREATE, event.request).AffectedSOPInstanceUID
        self.told.append((str(uid), event.attribute_list))
        return self.judge(), None


@contextmanager
def informed(
    running: Node,
    *,
    judge: Callable[[], int] = lambda: 0,
    syntaxes: Sequence[UID] = BOTH,
    rights: frozenset[Right] = frozenset({Right.NOTIFY}),
) -> Iterator[Informed]:
    """A peer that the node lists as RIS."""
    made = Informed(judge)
    entity = ApplicationEntity("RIS")
    entity.add_supported_context(NOTIFICATION, list(syntaxes))
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_CREATE, made.on_n_create)]
    )
    assert server is not None
    port = int(server.server_address[1])
    running.peers.put(OPERATOR, Peer("RIS", "127.0.0.1", port, rights=rights))
    try:
        yield made
    finally:
        server.shutdown()


def complete(running: Node) -> None:
    """Let the study be complete, as the node's worker does."""

    def follow(connection: Connection, done: Completed) -> None:
        announce(connection, done.archive_id, done.study_instance_uid, done.generation)

    archive = running.archive
    workflow = Workflow(archive.index, archive, Plan(), quiet_s=-1.0, consequences=[follow])
    assert workflow.complete_quiet_studies() == 1


def store(running: Node, number: int, series: str = "a") -> None:
    made = make.data_set(number, series_instance_uid=make.uid(STUDY, series))
    running.archive.store(make.SCANNER, make.incoming(made))


def worker(running: Node, dicom_web_url: str = "") -> Worker:
    caller = Caller(running.peers, "ISOCENTER", Credentials(), answer_s=10.0)
    notifications = Notifications(running.archive, caller, dicom_web_url=dicom_web_url)
    return Worker(running.archive.index, {NOTIFY: notifications.handle})


def ended(running: Node) -> list[tuple[str, str]]:
    """State and reason code of every job."""
    with running.archive.index.read() as connection:
        found = jobs.listed(connection, limit=10, cursor=0)
    return [(job.state, job.reason_code) for job in found]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_complete_study_is_told_with_all_its_instances(running: Node, syntax: UID) -> None:
    for number, series in ((1, "a"), (2, "a"), (1, "b")):
        store(running, number, series)
    with informed(running, syntaxes=[syntax]) as peer:
        complete(running)
        assert work(worker(running, WEB)) == 1
    ((_, told),) = peer.told
    assert told.StudyInstanceUID == STUDY
    assert list(told.ReferencedPerformedProcedureStepSequence) == []
    found = {
        (str(series.SeriesInstanceUID), str(one.ReferencedSOPInstanceUID)): one
        for series in told.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    kept = running.instances(STUDY)
    assert set(found) == {(one.series_instance_uid, one.sop_instance_uid) for one in kept}
    assert len(told.ReferencedSeriesSequence) == 2
    for (series, uid), one in found.items():
        assert one.ReferencedSOPClassUID == kept[0].sop_class_uid
        assert (one.InstanceAvailability, one.RetrieveAETitle) == ("ONLINE", "ISOCENTER")
        assert one.RetrieveURL == f"{WEB}/studies/{STUDY}/series/{series}/instances/{uid}"


def test_each_generation_is_told_under_a_uid_of_its_own(running: Node) -> None:
    with informed(running) as peer:
        for number in (1, 2):
            store(running, number)
            complete(running)
            work(worker(running))
    uids = [uid for uid, _ in peer.told]
    assert len(set(uids)) == 2
    assert "RetrieveURL" not in str(peer.told[-1][1])


@pytest.mark.parametrize("statuses", [[0x0110, 0x0000], [0x0110, 0x0111], [0x0213, 0x0116]])
def test_it_is_told_again_until_the_peer_has_it(running: Node, statuses: list[int]) -> None:
    answers = iter(statuses)
    store(running, 1)
    with informed(running, judge=lambda: next(answers)) as peer:
        complete(running)
        for _ in range(3):
            work(worker(running))
            make_due(running)
    assert len({uid for uid, _ in peer.told}) == 1
    assert (len(peer.told), ended(running)) == (2, [("succeeded", "")])


def test_a_peer_that_is_away_is_waited_for(running: Node) -> None:
    store(running, 1)
    peer = Peer("RIS", "127.0.0.1", 1, rights=frozenset({Right.NOTIFY}))
    running.peers.put(OPERATOR, peer)
    complete(running)
    work(worker(running))
    assert ended(running) == [("queued", "unreachable")]
    assert running.peers.get("RIS").last_error == "nobody listens at that port"


def _delete(running: Node) -> None:
    running.archive.delete(OPERATOR, Scope(STUDY))


def _forbid(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("RIS", "127.0.0.1", 1))


def _remove(running: Node) -> None:
    running.peers.remove(OPERATOR, "RIS")


@pytest.mark.parametrize(
    ("change", "code"), [(_delete, "gone"), (_remove, "gone"), (_forbid, "unasked")]
)
def test_what_nobody_needs_to_know_any_more_is_not_told(
    running: Node, change: Callable[[Node], Any], code: str
) -> None:
    store(running, 1)
    with informed(running) as peer:
        complete(running)
        change(running)
        work(worker(running))
    assert (peer.told, ended(running)) == ([], [("skipped", code)])


def test_peers_without_the_right_are_not_told(running: Node) -> None:
    store(running, 1)
    with informed(running, rights=frozenset({Right.RECEIVE})) as peer:
        complete(running)
        assert work(worker(running)) == 0
    assert peer.told == []
