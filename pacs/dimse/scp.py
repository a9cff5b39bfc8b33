"""The receiver: who may associate, in which contexts, and how it starts, drains and stops.

Every storage SOP class is accepted, known to our dictionary or not, each with the first transfer
syntax its proposer lists: all bytes can be kept, so nobody needs to transcode for us.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, cast

from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.presentation import PresentationContext

from pacs.archive import Archive
from pacs.commitment import Commitments
from pacs.decode import Decoder
from pacs.dimse.commitment import PUSH_MODEL, CommitmentPort
from pacs.dimse.doors import Door
from pacs.dimse.entity import VERIFICATION, application_entity
from pacs.dimse.handlers import answer, on_c_echo, on_c_store
from pacs.dimse.messages import Answer
from pacs.dimse.procedure_steps import (
    PROCEDURE_STEP_CLASS,
    RETRIEVE_CLASS,
    on_n_create,
    on_n_get,
    on_n_set,
)
from pacs.dimse.query import ROOTS, on_c_find, on_extended_negotiation
from pacs.dimse.retrieve import Retriever
from pacs.dimse.sending import Supply
from pacs.dimse.status import SOP_CLASS_NOT_SUPPORTED, UNRECOGNISED_OPERATION
from pacs.dimse.tls import Credentials, SecureWire, TlsPort
from pacs.dimse.upper_layer import NOBODY, DimseLimits, Listener, PeerAssociation, Wire
from pacs.dimse.workitems import SERVED, WorkitemHandlers
from pacs.dimse.worklist import WORKLIST_FIND, on_worklist_find
from pacs.errors import Forbidden, Unavailable
from pacs.peers import Peers
from pacs.procedure_steps import ProcedureSteps
from pacs.workitems import Workitems
from pacs.worklist import Worklist

APPLICATION_CONTEXT: Final = "1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1

# The better first, though every peer must take the second (PS3.5 10.1).
QUERY_SYNTAXES: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)

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

ROOM_S: Final = 2.0  # a store that has room is asked again after so long
DRAIN_QUIET_S: Final = 1.0  # while draining, an association that is silent for so long is aborted
DRAIN_STEP_S: Final = 0.05

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
    proposed: list[PresentationContext],
    private_sop_class_uids: AbstractSet[str],
    receiving: AbstractSet[str] = frozenset(),
    served: AbstractSet[str] = frozenset(),
) -> list[PresentationContext]:
    """The contexts that answer a proposal: verification, query, storage commitment, the classes in
    `served`, and what it proposes for storage.

    Each proposed storage context is narrowed to one transfer syntax, so that it is the answer and
    pynetdicom's negotiation finds no other: the first, since we can store them all. Who wants to be
    sent instances, by C-GET, proposes the role of an SCP for their classes; either role is granted.
    For the classes in `receiving` it proposes no other role, and gets a syntax we can always make.
    """
    always = (VERIFICATION, *ROOTS, PUSH_MODEL)
    answers = {uid: _answer(uid, *QUERY_SYNTAXES) for uid in (*always, *served)}
    # Peers that we asked to commit come as its SCP, with their report (PS3.4 J.3.3).
    answers[PUSH_MODEL].scu_role = answers[PUSH_MODEL].scp_role = True
    for context in proposed:
        sop_class_uid = str(context.abstract_syntax)
        if not is_storage(sop_class_uid, private_sop_class_uids):
            continue
        first = context.transfer_syntax[0]
        if sop_class_uid in receiving:
            first = next((uid for uid in QUERY_SYNTAXES if uid in context.transfer_syntax), first)
        context.transfer_syntax = [first]
        answer = answers.setdefault(sop_class_uid, _answer(sop_class_uid))
        answer.add_transfer_syntax(first)
        answer.scu_role = answer.scp_role = True
    return list(answers.values())


def _answer(sop_class_uid: str, *transfer_syntax_uids: str) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = UID(sop_class_uid)
    context.transfer_syntax = [UID(uid) for uid in transfer_syntax_uids]
    return context


@dataclass(frozen=True, slots=True)
class Modalities:
    """The services that modalities use besides storage."""

    worklist: Worklist
    procedure_steps: ProcedureSteps


Handler = Callable[[evt.Event], Any]
Handlers = dict[evt.InterventionEvent, dict[str, Handler]]


def by_sop_class(event: evt.Event, handlers: Mapping[str, Handler], otherwise: Handler) -> Any:  # noqa: ANN401 - what the handler gives
    """Hand a request to the handler of its context's SOP class, or to the one for all others."""
    return handlers.get(str(event.context.abstract_syntax), otherwise)(event)


class Room:
    """Whether the store takes objects. What it says counts for a while, unless it is no."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._left_until = 0.0

    def is_left(self) -> bool:
        """Whether there was room when the store was last asked."""
        now = time.monotonic()
        if now < self._left_until:
            return True
        try:
            self._check()
        except Unavailable as error:
            log.warning("nothing can be stored now: %s", error)
            return False
        self._left_until = now + ROOM_S
        return True


def _no_find(_: evt.Event) -> Generator[Answer, None, None]:
    yield Answer(SOP_CLASS_NOT_SUPPORTED, comment="this SOP class has no C-FIND")


def _no_operation(_: evt.Event) -> tuple[Dataset, None]:
    return answer(UNRECOGNISED_OPERATION, "the SOP class has no such operation"), None


def _of_workitems(workitems: Workitems, answers_max: int) -> Handlers:
    service = WorkitemHandlers(workitems, answers_max)
    return {
        evt.EVT_C_FIND: dict.fromkeys(SERVED, service.on_c_find),
        evt.EVT_N_CREATE: dict.fromkeys(SERVED, service.on_n_create),
        evt.EVT_N_SET: dict.fromkeys(SERVED, service.on_n_set),
        evt.EVT_N_GET: dict.fromkeys(SERVED, service.on_n_get),
        evt.EVT_N_ACTION: dict.fromkeys(SERVED, service.on_n_action),
    }


def _of_modalities(modalities: Modalities, answers_max: int) -> Handlers:
    find = partial(on_worklist_find, worklist=modalities.worklist, answers_max=answers_max)
    steps = modalities.procedure_steps
    return {
        evt.EVT_C_FIND: {WORKLIST_FIND: find},
        evt.EVT_N_CREATE: {PROCEDURE_STEP_CLASS: partial(on_n_create, steps=steps)},
        evt.EVT_N_SET: {PROCEDURE_STEP_CLASS: partial(on_n_set, steps=steps)},
        evt.EVT_N_GET: {RETRIEVE_CLASS: partial(on_n_get, steps=steps)},
    }


# The operations that several services have, and what is said where a SOP class has none of them.
_SERVED_BY_SOP_CLASS: Final[Mapping[evt.InterventionEvent, Handler]] = {
    evt.EVT_C_FIND: _no_find,
    evt.EVT_N_CREATE: _no_operation,
    evt.EVT_N_SET: _no_operation,
    evt.EVT_N_GET: _no_operation,
    evt.EVT_N_ACTION: _no_operation,
    evt.EVT_N_EVENT_REPORT: _no_operation,
}


class Receiver:
    """The DIMSE service of one archive on one port, and on a second one by TLS where that is asked.

    The ports are bound once this exists, served after `start`, and free again after `stop`; or they
    are `doors` that were opened before, the plain one first. While it drains, new associations are
    told to come back later and running ones may finish. The limits hold for each port.
    `credentials` are what it shows to the peers that it calls by TLS. Without `modalities` there is
    no worklist, and nobody can tell of procedure steps.
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
        tls: TlsPort | None = None,
        credentials: Credentials = Credentials(),  # noqa: B008 - frozen, so one may be shared
        doors: Sequence[Door] = (),
        workitems: Workitems | None = None,
        modalities: Modalities | None = None,
    ) -> None:
        self.ae_title = ae_title.strip()
        self._peers = peers
        self._private_sop_class_uids = private_sop_class_uids
        self._is_draining = False
        self._limits = limits
        self._room = Room(archive.objects.check)
        self._decoder = Decoder()
        supply = Supply(archive, self._decoder, limits.spool)
        retriever = Retriever(supply, peers, self.ae_title, credentials)
        searched = partial(
            on_c_find, archive=archive, ae_title=self.ae_title, answers_max=limits.answers_max
        )
        storage = partial(is_storage, private_sop_class_uids=private_sop_class_uids)
        commitment = CommitmentPort(Commitments(archive), peers, storage)
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_C_ECHO, on_c_echo),
            (evt.EVT_C_STORE, on_c_store, [archive]),
            (evt.EVT_SOP_EXTENDED, on_extended_negotiation),
            (evt.EVT_C_GET, retriever.on_c_get),
            (evt.EVT_C_MOVE, retriever.on_c_move),
        ]
        services: list[Handlers] = [{evt.EVT_C_FIND: dict.fromkeys(ROOTS, searched)}]
        services.append(
            {
                evt.EVT_N_ACTION: {PUSH_MODEL: commitment.on_n_action},
                evt.EVT_N_EVENT_REPORT: {PUSH_MODEL: commitment.on_n_event_report},
            }
        )
        if workitems is not None:
            services.append(_of_workitems(workitems, limits.answers_max))
        if modalities is not None:
            services.append(_of_modalities(modalities, limits.answers_max))
        self._served = frozenset(uid for one in services for of in one.values() for uid in of)
        for event, otherwise in _SERVED_BY_SOP_CLASS.items():
            table = {
                uid: handler for one in services for uid, handler in one.get(event, {}).items()
            }
            handlers.append((event, by_sop_class, [table, otherwise]))
        wires: list[tuple[int, Callable[..., Wire]]] = [(port, Wire)]
        if tls is not None:
            wires.append((tls.port, partial(SecureWire, context=tls.context)))
        doors = doors or [
            Door.opened(address, number, limits.associations_max) for number, _ in wires
        ]
        entity = partial(application_entity, self.ae_title, limits)
        self._listeners = [
            Listener(entity(), door, limits, handlers, self._on_end, wire)
            for door, (_, wire) in zip(doors, wires, strict=True)
        ]

    @property
    def port(self) -> int:
        """The port that is bound: the one asked for, or the one the system chose for 0."""
        return self._listeners[0].port

    @property
    def tls_port(self) -> int | None:
        """The port that is bound for TLS, None without one."""
        return self._listeners[1].port if len(self._listeners) > 1 else None

    @property
    def associations(self) -> int:
        """Associations that stand, with those that are being refused."""
        return len(self._active)

    @property
    def _active(self) -> list[PeerAssociation]:
        return [one for listener in self._listeners for one in listener.active_associations]

    def start(self) -> None:
        """Answer requests, in threads of their own."""
        for listener in self._listeners:
            listener.start()

    def drain(self, deadline_s: float) -> bool:
        """Let running requests finish; True if all associations ended within the deadline.

        New associations are refused with 2,3,1, so that their peers try again later. Those that
        stand are aborted once they are silent: a sender that stays associated for its next study
        would otherwise hold us up for as long as it likes.
        """
        self._is_draining = True
        until = time.monotonic() + deadline_s
        while self.associations and time.monotonic() < until:
            for association in self._active:
                if not association.is_busy and association.quiet_s >= DRAIN_QUIET_S:
                    association.dismiss()
            time.sleep(DRAIN_STEP_S)
        return self.associations == 0

    def stop(self) -> None:
        """Free the ports and abort what still stands. What was not answered is not stored twice:
        its sender sends it again."""
        for listener in self._listeners:
            listener.stop()
        for association in self._active:
            association.dismiss()
            association.join()
        self._decoder.close()

    def _on_requested(self, event: evt.Event) -> None:
        """Refuse an association, or say which contexts it may have."""
        association = cast(PeerAssociation, event.assoc)
        request = cast(A_ASSOCIATE, association.requestor.primitive)
        refusal = rejection(
            request,
            ae_title=self.ae_title,
            is_draining=self._is_draining,
            is_over_the_cap=association.is_over_the_cap,
        )
        refusal = refusal or self._recognise(association, request)
        refusal = refusal or self._congestion(association, request)
        if refusal is None:
            association.acceptor.supported_contexts = supported(
                request.presentation_context_definition_list,
                self._private_sop_class_uids,
                {
                    str(uid)
                    for uid, role in association.requestor.role_selection.items()
                    if role.scp_role and not role.scu_role
                },
                self._served,
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
                cast(Wire, association.dul.socket).certified_names,
            )
        except Forbidden:
            return CALLING_AE_TITLE_NOT_RECOGNISED
        except Unavailable as error:
            log.warning("a caller cannot be recognised now: %s", error)
            return TEMPORARY_CONGESTION
        return None

    def _congestion(self, association: PeerAssociation, request: A_ASSOCIATE) -> Rejection | None:
        """Why an association has to wait: too many of its AE title, or nothing can be stored now.

        Whoever proposes more than storage is let in, since queries go on while the disk is full.
        """
        name = association.actor.name
        if self._held_by(name) > self._limits.associations_per_ae_max:
            return LOCAL_LIMIT_EXCEEDED
        only_storage = all(
            is_storage(str(context.abstract_syntax), self._private_sop_class_uids)
            for context in request.presentation_context_definition_list
        )
        return TEMPORARY_CONGESTION if only_storage and not self._room.is_left() else None

    def _held_by(self, ae_title: str) -> int:
        return sum(one.actor is not NOBODY and one.actor.name == ae_title for one in self._active)

    def _on_end(self, association: PeerAssociation) -> None:
        """Note what ended a peer's association before its time."""
        has_trouble = association.trouble and not association.is_released
        if has_trouble and association.actor is not NOBODY:
            self._peers.note(association.actor.name, association.trouble)
