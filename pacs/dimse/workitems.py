"""Unified Procedure Step, all five SOP classes (PS3.4 annex CC): a handler for each message.

Every workitem is of the Push class, whatever class its message is sent under; the class of the
presentation context decides what may be asked (CC.2, CC.3.1). A handler turns the message's data
set into a checked attribute list, and the service's status into the response's. Event reports go
out on an association of our own, in which we propose to be the SCP.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from io import BytesIO
from typing import Any, Final, cast

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_GET, N_SET
from pynetdicom.events import Event

from pacs.access import Actor
from pacs.dicom import attribute_lists
from pacs.dicom.attribute_lists import first
from pacs.dicom.data_sets import UNFIT, read_data_set, written
from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import Buffer
from pacs.dimse.calls import Caller
from pacs.dimse.handlers import actor_of, answer
from pacs.dimse.identifiers import LATIN_1, Identifier, read_identifier
from pacs.dimse.messages import Answer
from pacs.dimse.query import Request, refusal
from pacs.dimse.status import (
    CANCELLED,
    NO_SUCH_ACTION,
    PENDING,
    PENDING_WITH_UNSUPPORTED_KEYS,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNISED_OPERATION,
    WORKITEMS,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import BadQuery, Exhausted, NodeError, Unreachable
from pacs.index.jobs import Job
from pacs.worker import End
from pacs.workitems import FILTERED, GLOBAL, PUSH, Declined, Status, Workitems
from pacs.workitems import Event as Report

WATCH: Final = "1.2.840.10008.5.1.4.34.6.2"
PULL: Final = "1.2.840.10008.5.1.4.34.6.3"
EVENT: Final = "1.2.840.10008.5.1.4.34.6.4"
QUERY: Final = "1.2.840.10008.5.1.4.34.6.5"

OPTIONAL_NOT_SUPPORTED: Final = 0x0001  # a warning of N-GET (PS3.4 table CC.2.7-1)
LINE_WAIT_S: Final = 2.0  # for another worker's association to the same peer; then: later
_TRANSACTION_UID: Final = 0x00081195
_TIMEZONE_OFFSET: Final = 0x00080201  # it qualifies a question and matches nothing

log = logging.getLogger(__name__)


class Asked(Enum):
    """What a message asks; of an N-ACTION, by its Action Type ID (PS3.4 tables CC.2.1-1 to 3-1)."""

    CHANGE_STATE = 1
    REQUEST_CANCEL = 2
    SUBSCRIBE = 3
    UNSUBSCRIBE = 4
    SUSPEND = 5
    CREATE = "N-CREATE"
    GET = "N-GET"
    SET = "N-SET"
    FIND = "C-FIND"


_WATCHING: Final = (Asked.SUBSCRIBE, Asked.UNSUBSCRIBE, Asked.SUSPEND)
# PS3.4 tables CC.2-1 to CC.2-5.
SERVED: Final[Mapping[str, frozenset[Asked]]] = {
    PUSH: frozenset({Asked.CREATE, Asked.REQUEST_CANCEL, Asked.GET}),
    WATCH: frozenset({*_WATCHING, Asked.GET, Asked.FIND, Asked.REQUEST_CANCEL}),
    PULL: frozenset({Asked.FIND, Asked.GET, Asked.SET, Asked.CHANGE_STATE}),
    EVENT: frozenset(),
    QUERY: frozenset({Asked.FIND}),
}

_Answered = tuple[int | Dataset, Dataset | None]


class WorkitemHandlers:
    """The handlers of the workitems' SOP classes."""

    def __init__(self, workitems: Workitems, answers_max: int) -> None:
        self._workitems = workitems
        self._answers_max = answers_max

    def on_n_create(self, event: Event) -> _Answered:
        """Answer an N-CREATE-RQ (CC.2.5)."""
        request = cast(N_CREATE, event.request)

        def create() -> Status:
            uid = str(request.AffectedSOPInstanceUID or "")
            if not uid:
                raise Declined(Status.MISSING_ATTRIBUTE)
            given = _attributes(event, request.AttributeList)
            return self._workitems.create(actor_of(event), uid, given)

        return self._answered(event, Asked.CREATE, create)

    def on_n_set(self, event: Event) -> _Answered:
        """Answer an N-SET-RQ (CC.2.6)."""
        request = cast(N_SET, event.request)

        def update() -> Status:
            changes = _attributes(event, request.ModificationList)
            return self._workitems.update(actor_of(event), _uid(request), changes)

        return self._answered(event, Asked.SET, update)

    def on_n_get(self, event: Event) -> _Answered:
        """Answer an N-GET-RQ (CC.2.7), whatever the order of the attributes that it names."""
        request = cast(N_GET, event.request)
        found: JsonModel = {}
        listed = request.AttributeIdentifierList or []
        tags = {int(tag) for tag in (listed if isinstance(listed, list) else [listed])}

        def get() -> Status:
            found.update(self._workitems.get(actor_of(event), _uid(request)))
            return Status.SUCCESS

        status, _ = self._answered(event, Asked.GET, get)
        if status != SUCCESS:
            return status, None
        if _TRANSACTION_UID in tags:
            status = OPTIONAL_NOT_SUPPORTED
        told = {tag: one for tag, one in found.items() if not tags or int(tag, 16) in tags}
        return status, attribute_lists.data_set(told)

    def on_n_action(self, event: Event) -> _Answered:
        """Answer an N-ACTION-RQ (CC.2.1 to CC.2.3)."""
        request = cast(N_ACTION, event.request)
        try:
            asked = Asked(request.ActionTypeID)
        except ValueError:
            return answer(
                NO_SUCH_ACTION, "the action type is none of unified procedure steps"
            ), None
        actor, uid = actor_of(event), _uid(request)

        def apply() -> Status:
            if uid in (GLOBAL, FILTERED) and asked not in _WATCHING:
                raise Declined(Status.NOT_APPROPRIATE)
            if asked is Asked.SUBSCRIBE:
                return self._subscribe(event, actor, uid, request.ActionInformation)
            given = _attributes(event, request.ActionInformation)
            return _ACTIONS[asked](self._workitems, actor, uid, given)

        return self._answered(event, asked, apply)

    def _subscribe(self, event: Event, actor: Actor, uid: str, encoded: BytesIO | None) -> Status:
        """Subscribe an AE; what else the action's information holds are matching keys."""
        question = _Question.of(_encoded(encoded), str(event.context.transfer_syntax))
        given = dict(question.pairs)
        receiver, lock = given.pop("ReceivingAE", ""), given.pop("DeletionLock", "")
        if not receiver or lock not in ("TRUE", "FALSE"):
            raise Declined(Status.MISSING_ATTRIBUTE)
        return self._workitems.subscribe(
            actor,
            uid,
            receiver,
            deletion_lock=lock == "TRUE",
            pairs=list(given.items()),
            is_called=True,
        )

    def _answered(self, event: Event, asked: Asked, apply: Callable[[], Status]) -> _Answered:
        """Do what is asked, if the context's class serves it; the status of the response."""
        if asked not in SERVED[str(event.context.abstract_syntax)]:
            return answer(UNRECOGNISED_OPERATION, "this class does not serve this request"), None
        try:
            self._workitems.check(actor_of(event))
            status = apply()
        except Declined as declined:
            log.info("%s declined: %s", asked.name, declined, extra={"facts": declined.facts})
            return answer(declined.status.code, declined.message), None
        except NodeError as error:
            log.warning("%s refused: %s", asked.name, error, extra={"facts": error.facts})
            return answer(status_of(error, WORKITEMS), error.message), None
        return (answer(status.code, status.sentence) if status.code else SUCCESS), None

    def on_c_find(self, event: Event) -> Generator[Answer, None, None]:
        """Answer a C-FIND-RQ (CC.2.8): every match, and then how it ended."""
        request = Request.of(event)
        try:
            if Asked.FIND not in SERVED[str(event.context.abstract_syntax)]:
                yield Answer(SOP_CLASS_NOT_SUPPORTED)
                return
            self._workitems.check(actor_of(event))
            encoded = _encoded(request.message.Identifier)
            question = _Question.of(encoded, request.transfer_syntax_uid)
            for answered, model in enumerate(
                self._workitems.search(
                    actor_of(event), question.pairs, is_stopped=request.is_stopped
                )
            ):
                if request.is_stopped():
                    yield Answer(CANCELLED)
                    return
                if answered == self._answers_max:
                    raise Exhausted("more match than are answered", answers_max=self._answers_max)
                yield question.answer(model)
            yield Answer(SUCCESS)
        except NodeError as error:
            yield Answer(CANCELLED) if request.is_stopped() else refusal(error)


def _change_state(workitems: Workitems, actor: Actor, uid: str, given: JsonModel) -> Status:
    state, lock = first(given, "ProcedureStepState"), first(given, "TransactionUID")
    return workitems.change_state(actor, uid, state, lock)


def _unsubscribe(workitems: Workitems, actor: Actor, uid: str, given: JsonModel) -> Status:
    workitems.unsubscribe(actor, uid, first(given, "ReceivingAE"))
    return Status.SUCCESS  # to end what never began changes nothing (table CC.2.3-2)


def _suspend(workitems: Workitems, actor: Actor, uid: str, given: JsonModel) -> Status:
    workitems.suspend(actor, uid, first(given, "ReceivingAE"))
    return Status.SUCCESS


_ACTIONS: Final[Mapping[Asked, Callable[[Workitems, Actor, str, JsonModel], Status]]] = {
    Asked.CHANGE_STATE: _change_state,
    Asked.REQUEST_CANCEL: lambda workitems, *asked: workitems.request_cancel(*asked),
    Asked.UNSUBSCRIBE: _unsubscribe,
    Asked.SUSPEND: _suspend,
}


def _uid(request: N_SET | N_GET | N_ACTION) -> str:
    return str(request.RequestedSOPInstanceUID or "")


def _attributes(event: Event, encoded: BytesIO | None) -> JsonModel:
    return attribute_lists.read(_encoded(encoded), str(event.context.transfer_syntax))


def _encoded(data_set: BytesIO | None) -> Buffer:
    return b"" if data_set is None else data_set.getbuffer()


class _Question:
    """What a C-FIND or a filtered subscription asks, and how its matches are told."""

    def __init__(
        self, identifier: Identifier, pairs: list[tuple[str, str]], transfer_syntax_uid: str
    ) -> None:
        self.pairs = pairs
        self._character_set = identifier.character_set or LATIN_1
        self._transfer_syntax_uid = transfer_syntax_uid
        self._asked = {f"{tag:08X}": key.vr for tag, key in identifier.keys.items()}
        known = all(keyword_for_tag(tag) for tag, key in identifier.keys.items() if key.text)
        self._status = PENDING if known else PENDING_WITH_UNSUPPORTED_KEYS

    @classmethod
    def of(cls, encoded: Buffer, transfer_syntax_uid: str) -> _Question:
        """The question of an identifier. Raises as `read_identifier` does."""
        identifier = read_identifier(encoded, transfer_syntax_uid)
        pairs = [
            (keyword, key.text)
            for tag, key in identifier.keys.items()
            if key.text and (keyword := keyword_for_tag(tag)) and tag != _TIMEZONE_OFFSET
        ]
        if any(key.vr == "SQ" for key in identifier.keys.values()):
            data_set = read_data_set(encoded, transfer_syntax_uid)
            try:
                pairs += _inside(data_set, "", is_top=True)
            except (*UNFIT, UserWarning) as error:
                raise BadQuery("a sequence cannot be read") from error
        return cls(identifier, pairs, transfer_syntax_uid)

    def answer(self, model: JsonModel) -> Answer:
        """A match with the attributes that were asked for."""
        told = {tag: model.get(tag, {"vr": vr}) for tag, vr in self._asked.items()}
        data_set = attribute_lists.data_set(told)
        if str(told).isascii():
            data_set.SpecificCharacterSet = list(self._character_set)
        return Answer(self._status, written(data_set, self._transfer_syntax_uid))


def _inside(data_set: Dataset, path: str, *, is_top: bool = False) -> Iterator[tuple[str, str]]:
    """The keys inside the sequences of a question, with their paths."""
    for element in data_set:
        name = keyword_for_tag(element.tag)
        if not name:
            continue
        if element.VR == "SQ":
            if len(element.value) > 1:
                raise BadQuery("a sequence has more than one item")
            for item in element.value:
                yield from _inside(item, f"{path}{name}.")
        elif not is_top and (text := _text(element.value)):
            yield path + name, text


def _text(value: Any) -> str:  # noqa: ANN401 - whatever pydicom makes of a VR
    parts = value if isinstance(value, MultiValue) else [value]
    return "\\".join("" if part is None else str(part) for part in parts)


# event reports


class EventReports:
    """Delivers events to those who are called by DIMSE, in their order (PS3.4 CC.2.4)."""

    def __init__(self, workitems: Workitems, caller: Caller) -> None:
        self._workitems = workitems
        self._caller = caller
        self._lines: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def handle(self, job: Job) -> End:
        """Send a peer all that it is to be told until now. Raises Missing, Unavailable.

        An event that was sent and could not be noted as sent before a crash is sent again.
        """
        ae_title = str(job.payload["ae_title"])
        if not self._workitems.due(ae_title):
            return End()  # another job of the same peer has sent it
        with self._alone(ae_title):
            self._send(ae_title)
        return End()

    @contextmanager
    def _alone(self, ae_title: str) -> Iterator[None]:
        """One association to a peer at a time, so that events arrive in order and once."""
        line = self._lines[ae_title]
        if not line.acquire(timeout=LINE_WAIT_S):
            raise Exhausted("another worker is telling this peer")
        try:
            yield
        finally:
            line.release()

    def _send(self, ae_title: str) -> None:
        events = self._workitems.due(ae_title)
        if not events:
            return
        peer = self._caller.peers.get(ae_title)
        with self._caller.line(peer, EVENT, is_scp=True) as association:
            while events:
                for event in events:
                    _report(association, event)
                    self._workitems.settle(event)
                events = self._workitems.due(ae_title)


def _report(association: PeerAssociation, event: Report) -> None:
    """Send one event. Whatever the peer answers, it has been told. Raises Unreachable."""
    context = next((one for one in association.accepted_contexts if one.as_scp), None)
    if context is None or context.context_id is None:
        association.abort()
        raise Unreachable("it takes no event reports of unified procedure steps")
    data_set = attribute_lists.data_set(event.information)
    status = association.report_event(
        context.context_id,
        PUSH,
        event.target,
        event.kind,
        written(data_set, str(context.transfer_syntax[0])),
    )
    if status != SUCCESS:
        log.warning("%s answers an event report with %04X", event.ae_title, status)
