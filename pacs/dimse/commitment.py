"""Storage commitment on the wire (PS3.4 annex J, PS3.3 C.14), as SCP and as SCU.

A report is an N-EVENT-REPORT on an association of our own to the address that is listed for the
peer, on which we propose the SCP's role: the only way that every SCU takes. What we asked of a peer
may be reported on our port, its roles reversed, or on the association we asked on. Whether a request
is open and what it is about is the business of `pacs/commitment.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final, cast

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.events import Event

from pacs.access import Action, Actor, permits
from pacs.commitment import REFERENCES_MAX, Commitment, Commitments, Reference
from pacs.dicom import uids
from pacs.dicom.data_sets import UNFIT, read_data_set, written
from pacs.dicom.part10 import scan
from pacs.dimse.calls import Caller, check_status, context_of
from pacs.dimse.handlers import actor_of, answer
from pacs.dimse.status import (
    COMMIT,
    NO_SUCH_ACTION,
    NO_SUCH_EVENT,
    NO_SUCH_INSTANCE,
    NO_SUCH_SOP_CLASS,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import BadObject, Exhausted, Forbidden, Missing, NodeError
from pacs.index.commitments import COMMITTED
from pacs.index.jobs import Job
from pacs.peers import ANYWHERE, Peers
from pacs.worker import End

PUSH_MODEL: Final = "1.2.840.10008.1.20.1"
PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # the well-known one (PS3.4 J.3.5)
REQUEST: Final = 1  # the only Action Type ID (PS3.4 J.3.2)
ALL_COMMITTED, SOME_FAILED = 1, 2  # Event Type IDs (PS3.4 J.3.3)
PROCESSING_FAILURE: Final = 0x0110  # the reason where a report gives none

INFORMATION_BYTES_MAX: Final = 8 << 20  # of a request or a report; a longer one is refused (0213)
ITEM: Final = b"\xfe\xff\x00\xe0"  # how an item of a sequence begins (PS3.5 7.5)
LINGER_S: Final = 2.0  # how long our association stays open for a report that comes at once

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Information:
    """What a request or a report says (PS3.4 tables J.3-1 and J.3-2)."""

    transaction_uid: str
    referenced: Sequence[Reference]
    failed: Sequence[Reference] = ()

    @property
    def verdicts(self) -> Mapping[tuple[str, str], int]:
        """Failure reasons, 0 for none, by SOP class and instance UID."""
        committed = {(one.sop_class_uid, one.sop_instance_uid): 0 for one in self.referenced}
        return committed | {
            (one.sop_class_uid, one.sop_instance_uid): one.failure_reason or PROCESSING_FAILURE
            for one in self.failed
        }


# what comes in


class CommitmentPort:
    """The handlers of N-ACTION and N-EVENT-REPORT, for an association of either side."""

    def __init__(
        self, commitments: Commitments, peers: Peers, is_storage: Callable[[str], bool]
    ) -> None:
        self._commitments = commitments
        self._peers = peers
        self._is_storage = is_storage

    def on_n_action(self, event: Event) -> tuple[int | Dataset, None]:
        """Answer one N-ACTION-RQ (PS3.4 J.3.2): 0000 once the request would survive a power cut."""
        actor, request = actor_of(event), cast(N_ACTION, event.request)
        if request.RequestedSOPClassUID != PUSH_MODEL:
            return answer(NO_SUCH_SOP_CLASS, "nothing of this SOP class is done here"), None
        if request.RequestedSOPInstanceUID != PUSH_MODEL_INSTANCE:
            return answer(
                NO_SUCH_INSTANCE, "there is one instance of this SOP class, a well-known one"
            ), None
        if request.ActionTypeID != REQUEST:
            return answer(
                NO_SUCH_ACTION, "the only action is number 1, to request commitment"
            ), None
        try:
            self._check_caller(actor)
            asked = read_information(request.ActionInformation, str(event.context.transfer_syntax))
            if not asked.referenced:
                raise BadObject("the request names no instance")
            self._commitments.request(
                actor, asked.transaction_uid, map(self._prejudged, asked.referenced)
            )
        except NodeError as error:
            return _refused("N-ACTION", actor, error), None
        return SUCCESS, None

    def _check_caller(self, actor: Actor) -> None:
        """Return if this caller may ask and can be reported to. Raises Missing or Forbidden."""
        try:
            peer = self._peers.get(actor.name)
        except Missing as error:
            raise Missing("only listed peers may request storage commitment") from error
        if not permits(actor, Action.VERIFY):
            raise Forbidden("this peer may not request storage commitment")
        if peer.host in ANYWHERE:
            raise Missing("this peer is listed without a host to report to")

    def _prejudged(self, reference: Reference) -> Reference:
        """The reference, with its failure reason where its class alone gives it."""
        if self._is_storage(reference.sop_class_uid):
            return reference
        return Reference(
            reference.sop_class_uid, reference.sop_instance_uid, SOP_CLASS_NOT_SUPPORTED
        )

    def on_n_event_report(self, event: Event) -> tuple[int | Dataset, None]:
        """Answer one N-EVENT-REPORT-RQ of a peer's (PS3.4 J.3.3), whichever side associated."""
        return take_report(self._commitments, self._peers, actor_of(event), event), None


def take_report(
    commitments: Commitments, peers: Peers, actor: Actor, event: Event
) -> int | Dataset:
    """Take the report of a peer that is known to be actor; what it is answered."""
    request = cast(N_EVENT_REPORT, event.request)
    if request.AffectedSOPClassUID != PUSH_MODEL:
        return answer(NO_SUCH_SOP_CLASS, "nothing of this SOP class is done here")
    if request.EventTypeID not in (ALL_COMMITTED, SOME_FAILED):
        return answer(NO_SUCH_EVENT, "the events are 1, all committed, and 2, failures exist")
    try:
        peers.get(actor.name)
        told = read_information(request.EventInformation, str(event.context.transfer_syntax))
        state = commitments.confirm(actor, told.transaction_uid, told.verdicts)
    except NodeError as error:
        return _refused("N-EVENT-REPORT", actor, error)
    log.info("%s has reported on a request of ours: %s", actor.name, state)
    return SUCCESS


def _refused(message: str, actor: Actor, error: NodeError) -> Dataset:
    log.warning("%s refused: %s", message, error, extra={"actor": actor, "facts": error.facts})
    return answer(status_of(error, COMMIT), error.message)


def read_information(received: BytesIO | None, transfer_syntax_uid: str) -> Information:
    """The information of a request or a report. Raises BadObject or Exhausted."""
    if received is None:
        raise BadObject("the message has no data set")
    encoded = received.getbuffer()
    if len(encoded) > INFORMATION_BYTES_MAX:
        raise Exhausted("the data set is too long", bytes_max=INFORMATION_BYTES_MAX)
    if bytes(encoded).count(ITEM) > REFERENCES_MAX:  # before an object is made of each
        raise Exhausted("too many instances are named", instances_max=REFERENCES_MAX)
    scan(encoded, transfer_syntax_uid)
    data_set = read_data_set(encoded, transfer_syntax_uid)
    try:
        information = Information(
            str(data_set.get("TransactionUID", "")),
            _references(data_set, "ReferencedSOPSequence"),
            _references(data_set, "FailedSOPSequence"),
        )
    except (*UNFIT, UserWarning) as error:
        raise BadObject("the data set cannot be read") from error
    if not uids.is_valid(information.transaction_uid):
        raise BadObject("the Transaction UID is missing or invalid")
    return information


def _references(data_set: Dataset, keyword: str) -> list[Reference]:
    found = [
        Reference(
            str(item.get("ReferencedSOPClassUID", "")),
            str(item.get("ReferencedSOPInstanceUID", "")),
            item.get("FailureReason"),
        )
        for item in data_set.get(keyword) or ()
    ]
    for one in found:
        if not (uids.is_valid(one.sop_class_uid) and uids.is_valid(one.sop_instance_uid)):
            raise BadObject("the UID of a referenced instance is missing or invalid")
        if not isinstance(one.failure_reason, int | None):
            raise BadObject("a Failure Reason is no number")
    return found


# what goes out


class Delivery:
    """The handlers of the jobs that call peers: `commit-report` and `commit-ask`."""

    def __init__(
        self, commitments: Commitments, caller: Caller, *, linger_s: float = LINGER_S
    ) -> None:
        self._commitments = commitments
        self._caller = caller
        self._linger_s = linger_s

    def report(self, job: Job) -> End:
        """Report to the peer that asked, until it confirms. Raises Missing, Unavailable, Conflict."""
        due = self._commitments.to_report(job)
        if due is None:
            return End(reason="This was reported before.")
        commitment, references = due
        peer = self._caller.peers.get(commitment.ae_title)
        with self._caller.line(peer, PUSH_MODEL, is_scp=True) as association:
            if self._commitments.is_still_ours(job):
                _send_report(association, self._caller.ae_title, commitment, references)
                self._commitments.reported(commitment)
        return End(reason=f"{peer.ae_title} has the report.")

    def ask(self, job: Job) -> End:
        """Ask a peer to commit. Raises Missing, Unavailable."""
        due = self._commitments.to_ask(job)
        if due is None:
            return End(reason="Its report is no longer waited for.")
        commitment, references = due
        peer = self._caller.peers.get(commitment.ae_title)
        has_reported = threading.Event()

        def on_report(event: Event) -> tuple[int | Dataset, None]:
            actor = Actor("peer", peer.ae_title, peer.host)
            status = take_report(self._commitments, self._caller.peers, actor, event)
            has_reported.set()
            return status, None

        handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
        with self._caller.line(peer, PUSH_MODEL, handlers=handlers) as association:
            _send_request(association, commitment.transaction_uid, references)
            has_reported.wait(self._linger_s)
        return End(reason=f"{peer.ae_title} will report, or has.")


def _send_report(
    association: PeerAssociation,
    ae_title: str,
    commitment: Commitment,
    references: Sequence[Reference],
) -> None:
    """Send the report (PS3.4 table J.3-2). Raises Unreachable unless the peer confirms it."""
    assert all(one.failure_reason is not None for one in references), "all were judged"
    committed = [one for one in references if one.failure_reason == COMMITTED]
    failed = [one for one in references if one.failure_reason != COMMITTED]
    information = Dataset()
    information.RetrieveAETitle = ae_title
    information.TransactionUID = commitment.transaction_uid
    if committed:
        information.ReferencedSOPSequence = [_item(one) for one in committed]
    if failed:
        information.FailedSOPSequence = [_item(one) for one in failed]
    context_id, syntax = context_of(association)
    event_type = SOME_FAILED if failed else ALL_COMMITTED
    status = association.report_event(
        context_id, PUSH_MODEL, PUSH_MODEL_INSTANCE, event_type, written(information, syntax)
    )
    check_status(status, "the report")


def _send_request(
    association: PeerAssociation, transaction_uid: str, references: Iterable[Reference]
) -> None:
    """Send the request (PS3.4 table J.3-1). Raises Unreachable unless the peer takes it."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_item(one) for one in references]
    context_id, syntax = context_of(association)
    request = N_ACTION()
    request.RequestedSOPClassUID = UID(PUSH_MODEL)
    request.RequestedSOPInstanceUID = UID(PUSH_MODEL_INSTANCE)
    request.ActionTypeID = REQUEST
    request.ActionInformation = BytesIO(written(information, syntax))
    check_status(association.exchange(request, context_id).Status, "the request")


def _item(reference: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = reference.sop_class_uid
    item.ReferencedSOPInstanceUID = reference.sop_instance_uid
    if reference.failure_reason:
        item.FailureReason = reference.failure_reason
    return item
