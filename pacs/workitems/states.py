"""What a workitem may become: the tables of PS3.4 annex CC, and pure functions over them.

A workitem's data set is DICOM JSON that `pacs/dicom/attribute_lists.py` has checked. Nothing here
knows who asks by which door, where rows are kept, or who is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum, unique
from typing import Any, Final

from pacs.dicom.attribute_lists import element, first, only, tag_of, values
from pacs.dicom.json_model import JsonModel
from pacs.errors import Fact, Refused

PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"  # the SOP class of every workitem (PS3.4 CC.3.1)
WORKLIST: Final = "DEFAULT"  # the Worklist Label of a workitem that comes without one

SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED = "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"
ENDS: Final = frozenset({COMPLETED, CANCELED})


@unique
class Status(Enum):
    """How a request ends: the status of PS3.4 CC.2 or PS3.7 C, and what it means in words."""

    SUCCESS = 0x0000, ""
    CREATED_WITH_MODIFICATIONS = 0xB300, "the workitem was created with modifications"
    NO_DELETION_LOCK = 0xB301, "the deletion lock is not granted"
    ALREADY_CANCELED = 0xB304, "the workitem is already CANCELED"
    COERCED = 0xB305, "invalid values were coerced to valid ones"
    ALREADY_COMPLETED = 0xB306, "the workitem is already COMPLETED"
    INVALID_VALUE = 0x0106, "an attribute has a value that it may not have"
    DUPLICATE = 0x0111, "there is or was a workitem of this UID"
    MISSING_ATTRIBUTE = 0x0120, "a required attribute is missing"
    MISSING_VALUE = 0x0121, "a required attribute has no value"
    ENDED = 0xC300, "the workitem may no longer be updated"
    WRONG_TRANSACTION_UID = 0xC301, "the Transaction UID is not the workitem's"
    CLAIMED = 0xC302, "the workitem is already IN PROGRESS"
    NOT_TO_BE_SCHEDULED = 0xC303, "a workitem becomes SCHEDULED only when it is created"
    NOT_FINISHED = 0xC304, "the requirements of the final state are not met"
    UNKNOWN = 0xC307, "there is no such workitem here"
    FORGOTTEN = (0xC307, "there is no such workitem here any more")
    UNKNOWN_RECEIVER = 0xC308, "the receiving AE title is not listed"
    NOT_SCHEDULED = 0xC309, "the state of a new workitem is SCHEDULED"
    NOT_CLAIMED = 0xC310, "the workitem is not yet IN PROGRESS"
    COMPLETED_BEFORE = 0xC311, "the workitem is already COMPLETED, it cannot be canceled"
    PERFORMER_OUT_OF_REACH = 0xC312, "nobody watches the workitem, so its performer cannot be told"
    PERFORMER_REFUSES = 0xC313, "this node performs the workitem and does not cancel it"
    NOT_APPROPRIATE = 0xC314, "the action does not fit what it is asked of"
    NO_EVENT_REPORTS = 0xC315, "the receiver has no host to which events could be reported"

    @property
    def code(self) -> int:
        """The status of a DIMSE response."""
        return self.value[0]

    @property
    def sentence(self) -> str:
        """What it means, in words."""
        return self.value[1]


class Declined(Refused):
    """A request that does not fit the workitem it is for."""

    def __init__(self, status: Status, **facts: Fact) -> None:
        super().__init__(status.sentence, **facts)
        self.status = status


@unique
class Ask(Enum):
    """What may be asked of a workitem that is there; the first four name the state they want."""

    SCHEDULE = SCHEDULED
    CLAIM = IN_PROGRESS
    COMPLETE = COMPLETED
    CANCEL = CANCELED
    REQUEST_CANCEL = "request cancel"
    UPDATE = "update"


# PS3.4 table CC.1.1-2, with N-SET (CC.2.6.3) as its last row. A second claim is told that the
# workitem is taken, and not that its Transaction UID is wrong: that it cannot know.
TRANSITIONS: Final[Mapping[Ask, Mapping[str, Status]]] = {
    Ask.SCHEDULE: dict.fromkeys(
        (SCHEDULED, IN_PROGRESS, COMPLETED, CANCELED), Status.NOT_TO_BE_SCHEDULED
    ),
    Ask.CLAIM: {
        SCHEDULED: Status.SUCCESS,
        IN_PROGRESS: Status.CLAIMED,
        COMPLETED: Status.ENDED,
        CANCELED: Status.ENDED,
    },
    Ask.COMPLETE: {
        SCHEDULED: Status.NOT_CLAIMED,
        IN_PROGRESS: Status.SUCCESS,
        COMPLETED: Status.ALREADY_COMPLETED,
        CANCELED: Status.ENDED,
    },
    Ask.CANCEL: {
        SCHEDULED: Status.NOT_CLAIMED,
        IN_PROGRESS: Status.SUCCESS,
        COMPLETED: Status.ENDED,
        CANCELED: Status.ALREADY_CANCELED,
    },
    Ask.REQUEST_CANCEL: {
        SCHEDULED: Status.SUCCESS,
        IN_PROGRESS: Status.SUCCESS,
        COMPLETED: Status.COMPLETED_BEFORE,
        CANCELED: Status.ALREADY_CANCELED,
    },
    Ask.UPDATE: {
        SCHEDULED: Status.SUCCESS,
        IN_PROGRESS: Status.SUCCESS,
        COMPLETED: Status.ENDED,
        CANCELED: Status.ENDED,
    },
}

# What the performer alone may ask, by the state in which it is asked.
_BY_PERFORMER: Final = {
    Ask.COMPLETE: frozenset({IN_PROGRESS, COMPLETED, CANCELED}),
    Ask.CANCEL: frozenset({IN_PROGRESS, COMPLETED, CANCELED}),
    Ask.UPDATE: frozenset({IN_PROGRESS}),
}
_WITH_TRANSACTION_UID: Final = frozenset({Ask.CLAIM, Ask.COMPLETE, Ask.CANCEL})
_WARNINGS: Final = frozenset({Status.ALREADY_CANCELED, Status.ALREADY_COMPLETED})


def judge(ask: Ask, state: str, given_uid: str, transaction_uid: str) -> Status:
    """SUCCESS for what may be done, or the warning that it is so already. Raises Declined.

    `given_uid` is the Transaction UID of the request, `transaction_uid` that of the workitem.
    """
    status = TRANSITIONS[ask][state]
    if ask is not Ask.SCHEDULE:
        is_missing = ask in _WITH_TRANSACTION_UID and not given_uid
        is_wrong = state in _BY_PERFORMER.get(ask, ()) and given_uid != transaction_uid
        if is_missing or is_wrong:
            raise Declined(Status.WRONG_TRANSACTION_UID)
        if ask is Ask.UPDATE and state == SCHEDULED and given_uid:
            raise Declined(Status.NOT_CLAIMED)
    if status is not Status.SUCCESS and status not in _WARNINGS:
        raise Declined(status)
    return status


# final states


@unique
class Need(Enum):
    """A final state code (PS3.4 table CC.2.5-1): the ends that need an attribute to have a value."""

    R = ENDS
    P = frozenset({COMPLETED})
    X = frozenset({CANCELED})


_PROGRESS: Final = "ProcedureStepProgressInformationSequence"
_PERFORMED: Final = "UnifiedProcedureStepPerformedProcedureSequence"

# The attributes of PS3.4 table CC.2.5-3 whose final state code is R, P or X. Those with RC depend
# on what only the performer knows, such as whether the human performer is known.
FINAL_STATE: Final = {
    "SOPClassUID": Need.R,
    "SOPInstanceUID": Need.R,
    "ScheduledProcedureStepPriority": Need.R,
    "ScheduledProcedureStepModificationDateTime": Need.R,
    "ScheduledProcedureStepStartDateTime": Need.R,
    "InputReadinessState": Need.R,
    "ProcedureStepState": Need.R,
    f"{_PROGRESS}.ProcedureStepCancellationDateTime": Need.X,
    f"{_PROGRESS}.ProcedureStepDiscontinuationReasonCodeSequence": Need.X,
    f"{_PERFORMED}.PerformedStationNameCodeSequence": Need.P,
    f"{_PERFORMED}.PerformedProcedureStepStartDateTime": Need.P,
    f"{_PERFORMED}.PerformedWorkitemCodeSequence": Need.P,
    f"{_PERFORMED}.PerformedProcedureStepEndDateTime": Need.P,
    f"{_PERFORMED}.OutputInformationSequence": Need.P,
}


def unmet(model: JsonModel, state: str) -> list[str]:
    """The paths of FINAL_STATE that a final state needs and that have no value (CC.2.5.1.1)."""
    return [
        path
        for path, need in FINAL_STATE.items()
        if state in need.value and not _has_value(model, path)
    ]


def _has_value(model: JsonModel, path: str) -> bool:
    name, _, rest = path.partition(".")
    found = values(model, name)
    return bool(found) and (not rest or all(_has_value(item, rest) for item in found))


# creation and update

REQUIRED_AT_CREATION: Final = (
    "ProcedureStepState",
    "ScheduledProcedureStepPriority",
    "ProcedureStepLabel",
    "ScheduledProcedureStepStartDateTime",
    "InputReadinessState",
)
# What a new workitem cannot know yet: given all the same, it is left out (CC.2.5-3: "shall be empty").
_UNKNOWN_AT_CREATION: Final = (_PROGRESS, _PERFORMED, "TransactionUID")
_OURS: Final = ("SOPClassUID", "SOPInstanceUID", "ScheduledProcedureStepModificationDateTime")
_ENUMERATED: Final = {
    "ScheduledProcedureStepPriority": frozenset({"HIGH", "MEDIUM", "LOW"}),
    "InputReadinessState": frozenset({"INCOMPLETE", "UNAVAILABLE", "READY"}),
}


def created(given: JsonModel, uid: str, at: datetime) -> tuple[JsonModel, Status]:
    """The data set of a new workitem (PS3.4 CC.2.5.3). Raises Declined."""
    for keyword in REQUIRED_AT_CREATION:
        if tag_of(keyword) not in given:
            raise Declined(Status.MISSING_ATTRIBUTE, attribute=keyword)
        if not values(given, keyword):
            raise Declined(Status.MISSING_VALUE, attribute=keyword)
    if first(given, "ProcedureStepState") != SCHEDULED:
        raise Declined(Status.NOT_SCHEDULED)
    if first(given, "SOPInstanceUID") not in ("", uid):
        raise Declined(Status.INVALID_VALUE, attribute="SOPInstanceUID")
    coerced, is_coerced = _coerced(given)
    has_more = any(values(given, keyword) for keyword in _UNKNOWN_AT_CREATION)
    label = {} if values(given, "WorklistLabel") else element("WorklistLabel", WORKLIST)
    kept = _without(coerced, (*_UNKNOWN_AT_CREATION, *_OURS)) | label
    made = kept | element("SOPClassUID", PUSH) | element("SOPInstanceUID", uid) | _modified(at)
    is_modified = is_coerced or has_more
    return _ordered(made), (Status.CREATED_WITH_MODIFICATIONS if is_modified else Status.SUCCESS)


def updated(
    current: JsonModel, changes: JsonModel, uid: str, at: datetime
) -> tuple[JsonModel, Status]:
    """The data set of a workitem after an update (PS3.4 CC.2.6). Raises Declined."""
    wanted = first(changes, "ProcedureStepState")
    if wanted == SCHEDULED != first(current, "ProcedureStepState"):
        raise Declined(Status.NOT_TO_BE_SCHEDULED)
    if wanted not in ("", first(current, "ProcedureStepState")):
        raise Declined(Status.INVALID_VALUE, attribute="ProcedureStepState")
    if first(changes, "SOPInstanceUID") not in ("", uid):
        raise Declined(Status.INVALID_VALUE, attribute="SOPInstanceUID")
    coerced, is_coerced = _coerced(changes)
    kept = _without(coerced, ("TransactionUID", "ProcedureStepState", *_OURS))
    for keyword in REQUIRED_AT_CREATION:
        if tag_of(keyword) in kept and not values(kept, keyword):
            raise Declined(Status.MISSING_VALUE, attribute=keyword)
    made = {**current, **kept}
    if first(current, "ProcedureStepState") == SCHEDULED:
        made |= _modified(at)
    return _ordered(made), Status.COERCED if is_coerced else Status.SUCCESS


def _coerced(given: JsonModel) -> tuple[JsonModel, bool]:
    """The same with enumerated values in the letters of PS3.3; others are refused."""
    made = dict(given)
    for keyword, allowed in _ENUMERATED.items():
        text = first(given, keyword)
        if text and text.upper() not in allowed:
            raise Declined(Status.INVALID_VALUE, attribute=keyword)
        if text and text not in allowed:
            made |= element(keyword, text.upper())
    return made, made != given


def _without(model: JsonModel, keywords: Sequence[str]) -> JsonModel:
    unwanted = set(map(tag_of, keywords))
    return {tag: found for tag, found in model.items() if tag not in unwanted}


def _ordered(model: JsonModel) -> JsonModel:
    return dict(sorted(model.items()))


def _modified(at: datetime) -> JsonModel:
    return element("ScheduledProcedureStepModificationDateTime", date_time(at))


def date_time(at: datetime) -> str:
    """A moment as DT, with its offset from UTC (PS3.5 6.2)."""
    return at.strftime("%Y%m%d%H%M%S%z")


def in_state(model: JsonModel, state: str) -> JsonModel:
    """The same workitem in another state."""
    return _ordered(model | element("ProcedureStepState", state))


# What a request to cancel may tell (PS3.4 table CC.2.2-1).
CANCEL_DETAILS: Final = (
    "ReasonForCancellation",
    "ProcedureStepDiscontinuationReasonCodeSequence",
    "ContactURI",
    "ContactDisplayName",
)
_UNSPECIFIED: Final = {
    **element("CodeValue", "110513"),
    **element("CodingSchemeDesignator", "DCM"),
    **element("CodeMeaning", "Discontinued for unspecified reason"),
}


def canceled(model: JsonModel, details: JsonModel, at: datetime) -> JsonModel:
    """A workitem that was canceled before anybody claimed it, by a request (PS3.4 CC.2.2.3).

    It meets the requirements of its final state: the reason is that of the request, or unspecified.
    """
    progress = {
        **element("ProcedureStepDiscontinuationReasonCodeSequence", _UNSPECIFIED),
        **only(details, CANCEL_DETAILS[:2]),
        **element("ProcedureStepCancellationDateTime", date_time(at)),
    }
    contact = only(details, CANCEL_DETAILS[2:])
    if contact:
        progress |= element("ProcedureStepCommunicationsURISequence", contact)
    return in_state(model | element(_PROGRESS, _ordered(progress)), CANCELED)


# events


@unique
class Kind(Enum):
    """Event Type IDs (PS3.4 table CC.2.4-1)."""

    STATE_REPORT = 1
    CANCEL_REQUESTED = 2
    PROGRESS_REPORT = 3
    SCP_STATUS_CHANGE = 4
    ASSIGNED = 5


_REPORTED_PROGRESS: Final = (
    "ProcedureStepProgress",
    "ProcedureStepProgressDescription",
    "ProcedureStepCommunicationsURISequence",
)
_ASSIGNMENT: Final = ("ScheduledStationNameCodeSequence", "ScheduledHumanPerformersSequence")


def state_report(model: JsonModel) -> JsonModel:
    """What a UPS State Report tells."""
    told = only(model, ("ProcedureStepState", "InputReadinessState"))
    if first(model, "ProcedureStepState") == CANCELED:
        told |= only(_item(model, _PROGRESS), CANCEL_DETAILS[:2])
    return told


def cancel_request(details: JsonModel, requesting_ae: str) -> JsonModel:
    """What a UPS Cancel Requested tells."""
    return element("RequestingAE", requesting_ae) | only(details, CANCEL_DETAILS)


def assignment(model: JsonModel) -> JsonModel:
    """What a UPS Assigned tells."""
    performer = _item(model, _ASSIGNMENT[1])
    of_performer = ("HumanPerformerCodeSequence", "HumanPerformerOrganization")
    return only(model, _ASSIGNMENT[:1]) | only(performer, of_performer)


def status_change() -> JsonModel:
    """What an SCP Status Change tells once this node is there again; it has forgotten nothing."""
    return {
        **element("SCPStatus", "RESTARTED"),
        **element("SubscriptionListStatus", "WARM START"),
        **element("UnifiedProcedureStepListStatus", "WARM START"),
    }


def news_of_creation(model: JsonModel) -> Iterator[tuple[Kind, JsonModel]]:
    """What those are told who watch everything that is created (PS3.4 CC.2.4.3)."""
    yield Kind.STATE_REPORT, state_report(model)
    if any(values(model, keyword) for keyword in _ASSIGNMENT):
        yield Kind.ASSIGNED, assignment(model)


def news_of_update(before: JsonModel, after: JsonModel) -> Iterator[tuple[Kind, JsonModel]]:
    """What watchers are told of an update, and whether they are told (PS3.4 CC.2.4.3)."""
    if first(before, "InputReadinessState") != first(after, "InputReadinessState"):
        yield Kind.STATE_REPORT, state_report(after)
    if only(before, _ASSIGNMENT) != only(after, _ASSIGNMENT):
        yield Kind.ASSIGNED, assignment(after)
    progress = [only(_item(model, _PROGRESS), _REPORTED_PROGRESS) for model in (before, after)]
    if progress[0] != progress[1]:
        yield Kind.PROGRESS_REPORT, only(after, (_PROGRESS,))


def _item(model: JsonModel, keyword: str) -> dict[str, Any]:
    return next(iter(values(model, keyword)), {})
