"""The receiver: who may associate, in which contexts, and how it starts, drains and stops.

Every storage SOP class is accepted, known to our dictionary or not, each with the first transfer
syntax its proposer lists: all bytes can be kept, so nobody needs to transcode for us.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, cast

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from pacs.archive import Archive
from pacs.dicom import uids
from pacs.dimse.handlers import on_c_echo, on_c_store
from pacs.dimse.upper_layer import REFUSALS_MAX, DimseLimits, Listener, PeerAssociation
from pacs.errors import Broken, Forbidden, Unavailable
from pacs.peers import Peers

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
VERIFICATION: Final = "1.2.840.10008.1.1"

STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
STORAGE_ELSEWHERE: Final = frozenset(
    {"1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10"}  # RT delivery instructions
)
# FIND, MOVE, GET and creation services of protocol approvals and inventories, below the same root.
NOT_STORAGE: Final = frozenset(
    f"{STORAGE_ROOT}{tail}"
    for tail in ("200.4", "200.5", "200.6", "201.2", "201.3", "201.4", "201.5", "201.6")
)
# Private storage classes that scanners in daily use send with their series.
PRIVATE_STORAGE: Final = frozenset(
    {
        "1.3.12.2.1107.5.9.1",  # Siemens CSA Non-Image
        "1.2.392.200036.9116.7.8.1.1.1",  # Toshiba US Private Data
        "1.3.46.670589.5.0.1",  # Philips 3D Volume
        "1.3.46.670589.5.0.1.1",  # Philips 3D Volume Object
        "1.3.46.670589.5.0.2",  # Philips Surface
        "1.3.46.670589.5.0.3",  # Philips Composite Object
        "1.3.46.670589.5.0.4",  # Philips MR Cardio Profile
        "1.3.46.670589.5.0.8",  # Philips MR Color Image
        "1.3.46.670589.11.0.0.12.1",  # Philips MR Spectrum
        "1.3.46.670589.11.0.0.12.2",  # Philips MR Series Data
        "1.3.46.670589.11.0.0.12.4",  # Philips MR Exam Card
    }
)

DRAIN_QUIET_S: Final = 1.0  # while draining, an association that is silent for so long is aborted
DRAIN_STEP_S: Final = 0.05
STOP_STEP_S: Final = 0.1  # how often the listener looks whether it should stop

log = logging.getLogger(__name__)


class Rejection(NamedTuple):
    """The three numbers of an A-ASSOCIATE-RJ (PS3.8 9.3.4)."""

    result: int
    source: int
    diagnostic: int


NO_SUCH_APPLICATION_CONTEXT: Final = Rejection(1, 1, 2)
CALLING_AE_TITLE_NOT_RECOGNISED: Final = Rejection(1, 1, 3)
CALLED_AE_TITLE_NOT_RECOGNISED: Final = Rejection(1, 1, 7)
TEMPORARY_CONGESTION: Final = Rejection(2, 3, 1)
LOCAL_LIMIT_EXCEEDED: Final = Rejection(2, 3, 2)


def rejection(
    request: A_ASSOCIATE, *, ae_title: str, is_draining: bool, is_over_the_cap: bool
) -> Rejection | None:
    """Why an association is refused, or None where it is welcome (PS3.8 9.3.4)."""
    if is_draining:
        return TEMPORARY_CONGESTION
    if is_over_the_cap:
        return LOCAL_LIMIT_EXCEEDED
    if request.application_context_name != APPLICATION_CONTEXT:
        return NO_SUCH_APPLICATION_CONTEXT
    if (request.called_ae_title or "").strip() != ae_title:
        return CALLED_AE_TITLE_NOT_RECOGNISED
    if not (request.calling_ae_title or "").strip():
        return CALLING_AE_TITLE_NOT_RECOGNISED
    return None


def is_storage(sop_class_uid: str, private_sop_class_uids: AbstractSet[str]) -> bool:
    """Whether instances of a SOP class can be stored by C-STORE (PS3.4 B.5)."""
    if sop_class_uid.startswith(STORAGE_ROOT):
        return sop_class_uid not in NOT_STORAGE
    return sop_class_uid in STORAGE_ELSEWHERE or sop_class_uid in private_sop_class_uids


def supported(
    proposed: list[PresentationContext], private_sop_class_uids: AbstractSet[str]
) -> list[PresentationContext]:
    """The contexts that answer a proposal: verification, and what it proposes for storage.

    Each proposed storage context is narrowed to its first transfer syntax. We can store them all,
    so the first is the answer, and pynetdicom's negotiation finds no other.
    """
    verification = PresentationContext()
    verification.abstract_syntax = VERIFICATION
    verification.add_transfer_syntax(ImplicitVRLittleEndian)
    verification.add_transfer_syntax(ExplicitVRLittleEndian)
    answers = {VERIFICATION: verification}
    for context in proposed:
        sop_class_uid = str(context.abstract_syntax)
        if not is_storage(sop_class_uid, private_sop_class_uids):
            continue
        first = context.transfer_syntax[0]
        context.transfer_syntax = [first]
        answer = answers.setdefault(sop_class_uid, PresentationContext())
        answer.abstract_syntax = context.abstract_syntax
        answer.add_transfer_syntax(first)
    return list(answers.values())


class Receiver:
    """The DIMSE service of one archive on one port.

    The port is bound once this exists, served after `start`, and free again after `stop`. While it
    drains, new associations are told to come back later and running ones may finish.
    """

    def __init__(
        self,
        archive: Archive,
        peers: Peers,
        *,
        ae_title: str = "ISOCENTER",
        address: str = "127.0.0.1",
        port: int = 11112,
        limits: DimseLimits = DimseLimits(),  # noqa: B008 - frozen, so one may be shared
        private_sop_class_uids: AbstractSet[str] = PRIVATE_STORAGE,
    ) -> None:
        self.ae_title = ae_title.strip()
        self._peers = peers
        self._private_sop_class_uids = private_sop_class_uids
        self._is_draining = False
        self._listener = _listen(
            application_entity(self.ae_title, limits),
            (address, port),
            limits,
            [
                (evt.EVT_REQUESTED, self._on_requested),
                (evt.EVT_C_ECHO, on_c_echo),
                (evt.EVT_C_STORE, on_c_store, [archive]),
            ],
            self._on_end,
        )
        self._thread = threading.Thread(
            target=self._listener.serve_forever,
            args=(STOP_STEP_S,),
            name="DIMSE receiver",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port that is bound: the one asked for, or the one the system chose for 0."""
        return int(self._listener.server_address[1])

    @property
    def associations(self) -> int:
        """Associations that stand, with those that are being refused."""
        return len(self._listener.active_associations)

    def start(self) -> None:
        """Answer requests, in threads of their own."""
        self._thread.start()

    def drain(self, deadline_s: float) -> bool:
        """Let running requests finish; True if all associations ended within the deadline.

        New associations are refused with 2,3,1, so that their peers try again later. Those that
        stand are aborted once they are silent: a sender that stays associated for its next study
        would otherwise hold us up for as long as it likes.
        """
        self._is_draining = True
        until = time.monotonic() + deadline_s
        while self.associations and time.monotonic() < until:
            for association in self._listener.active_associations:
                if not association.is_busy and association.quiet_s >= DRAIN_QUIET_S:
                    association.dismiss()
            time.sleep(DRAIN_STEP_S)
        return self.associations == 0

    def stop(self) -> None:
        """Free the port and abort what still stands. What was not answered is not stored twice:
        its sender sends it again."""
        if self._thread.is_alive():
            self._listener.stop()
            self._thread.join()
        else:
            self._listener.server_close()
        for association in self._listener.active_associations:
            association.dismiss()
            association.join()

    def _on_requested(self, event: evt.Event) -> None:
        """Refuse an association, or say which contexts it may have."""
        association = cast(PeerAssociation, event.assoc)
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        refusal = rejection(
            request,
            ae_title=self.ae_title,
            is_draining=self._is_draining,
            is_over_the_cap=association.is_over_the_cap,
        ) or self._recognise(association, request)
        if refusal is None:
            association.acceptor.supported_contexts = supported(
                request.presentation_context_definition_list, self._private_sop_class_uids
            )
            return
        log.warning("association refused: %s", refusal, extra={"calling": request.calling_ae_title})
        association.acse.send_reject(*refusal)
        association.kill()

    def _recognise(self, association: PeerAssociation, request: A_ASSOCIATE) -> Rejection | None:
        """Give the association its actor; why it is refused where nobody is recognised."""
        requestor = association.requestor
        try:
            association.actor = self._peers.actor(
                request.calling_ae_title or "",
                requestor.address or "",
                requestor.implementation_version_name or "",
            )
        except Forbidden:
            return CALLING_AE_TITLE_NOT_RECOGNISED
        except Unavailable as error:
            log.warning("a caller cannot be recognised now: %s", error)
            return TEMPORARY_CONGESTION
        return None

    def _on_end(self, association: PeerAssociation) -> None:
        """Note what ended a peer's association before its time."""
        if association.trouble and association.actor.name:
            self._peers.note(association.actor.name, association.trouble)


def application_entity(ae_title: str, limits: DimseLimits) -> ApplicationEntity:
    """Who we are in an association, with the time-outs of the limits."""
    ae = ApplicationEntity(ae_title)
    ae.implementation_class_uid = uids.IMPLEMENTATION_CLASS_UID
    ae.implementation_version_name = uids.IMPLEMENTATION_VERSION_NAME
    ae.maximum_pdu_size = limits.pdu_bytes_max
    ae.maximum_associations = limits.associations_max + REFUSALS_MAX + 1  # the listener counts
    ae.acse_timeout = limits.artim_s
    ae.network_timeout = limits.idle_s
    return ae


def _listen(
    ae: ApplicationEntity,
    address: tuple[str, int],
    limits: DimseLimits,
    handlers: list[evt.EventHandlerType],
    on_end: Callable[[PeerAssociation], None],
) -> Listener:
    """Bind the port. Raises Broken where another process has it, or the address is not ours."""
    try:
        return Listener(ae, address, limits, handlers, on_end)
    except OSError as error:
        raise Broken("the DIMSE port cannot be bound", port=address[1]) from error
