"""UPS-RS: workitems over HTTP (PS3.18 11), by the service that DIMSE uses.

A status of PS3.4 annex CC becomes a status of HTTP and the Warning header that PS3.18 gives it, both
from tables. Workitems belong to the identified archive; a research project has none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Final
from urllib.parse import parse_qsl, quote

from fastapi import APIRouter, Depends
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pacs.dicom import attribute_lists, criteria, uids
from pacs.dicom.attribute_lists import LIST_BYTES_MAX, first, only
from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import LIMIT_MAX
from pacs.errors import BadQuery
from pacs.workitems import FILTERED, Declined, Status, Workitems
from web.bodies import whole
from web.dicomweb.answers import json_answer
from web.dicomweb.door import At, Door, warning
from web.dicomweb.media_types import DICOM_JSON, JSON, media_type
from web.dicomweb.negotiation import json_type
from web.dicomweb.parameters import MORE_REMAIN, NOT_ATTRIBUTES
from web.dicomweb.search import EMPTY_RESULT_STATUS
from web.errors import problem

ANSWER_CHARACTERS_MAX: Final = 32 << 20  # of one page of a search; what is beyond is a further page

# The return keys of type 1 and 2 (PS3.4 table CC.2.5-3), which every answer of a search has.
RETURNED: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "ScheduledProcedureStepPriority",
    "ScheduledProcedureStepModificationDateTime",
    "ProcedureStepLabel",
    "WorklistLabel",
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledHumanPerformersSequence",
    "ScheduledProcedureStepStartDateTime",
    "ExpectedCompletionDateTime",
    "ScheduledWorkitemCodeSequence",
    "InputReadinessState",
    "StudyInstanceUID",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "AdmissionID",
    "ReferencedRequestSequence",
    "ReplacedProcedureStepSequence",
    "ProcedureStepState",
    "ProcedureStepProgressInformationSequence",
)

INCONSISTENT: Final = (
    "The submitted request is inconsistent with the current state of the Workitem."
)
# The Warning texts of PS3.18 11.4.3.2, 11.6.3.2, 11.7.3.2, 11.8.3.2 and 11.10.3.2.
WARNING: Final[Mapping[Status, str]] = {
    Status.CREATED_WITH_MODIFICATIONS: "The Workitem was created with modifications.",
    Status.COERCED: "The Workitem was updated with modifications.",
    Status.ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED.",
    Status.ALREADY_COMPLETED: "The UPS is already in the requested state of COMPLETED.",
    Status.NO_DELETION_LOCK: "Deletion Lock not granted.",
    Status.WRONG_TRANSACTION_UID: "The Transaction UID is incorrect.",
    Status.NOT_CLAIMED: "The target URI did not reference a claimed Workitem.",
    Status.ENDED: INCONSISTENT,
    Status.CLAIMED: INCONSISTENT,
    Status.NOT_TO_BE_SCHEDULED: INCONSISTENT,
    Status.NOT_FINISHED: INCONSISTENT,
    Status.COMPLETED_BEFORE: INCONSISTENT,
    Status.PERFORMER_OUT_OF_REACH: INCONSISTENT,
    Status.PERFORMER_REFUSES: INCONSISTENT,
}
NO_TRANSACTION_UID: Final = "The Transaction UID is missing."

HTTP: Final[Mapping[Status, HTTPStatus]] = {
    Status.UNKNOWN: HTTPStatus.NOT_FOUND,
    Status.FORGOTTEN: HTTPStatus.GONE,
    Status.INVALID_VALUE: HTTPStatus.BAD_REQUEST,
    Status.MISSING_ATTRIBUTE: HTTPStatus.BAD_REQUEST,
    Status.MISSING_VALUE: HTTPStatus.BAD_REQUEST,
    Status.NOT_SCHEDULED: HTTPStatus.BAD_REQUEST,
    Status.NOT_APPROPRIATE: HTTPStatus.BAD_REQUEST,
}  # all others: 409

_CONTROLS: Final = frozenset(
    ["", "accept", "charset", "fuzzymatching", "includefield", "limit", "offset"]
)

router = APIRouter(tags=["DICOMweb"])


@dataclass(frozen=True, slots=True)
class Body:
    """The attribute list in a request's body, empty where it has none."""

    model: JsonModel


async def body_of(request: Request, door: At) -> Body:
    """The body of a request.

    Raises TooLong, TooSlow, BadObject, and HTTPException 415 for another type.
    """
    body = await whole(request.stream(), door.parts.limits, LIST_BYTES_MAX)
    if not body:
        return Body({})
    given = media_type(request.headers.get("content-type", DICOM_JSON))
    if given is None or given.name not in (DICOM_JSON, JSON):
        raise HTTPException(415, f"a workitem comes as {DICOM_JSON}")
    return Body(attribute_lists.parse(body))


async def workitem_of(request: Request) -> str:
    """The UID in the path. Raises HTTPException 400 for what is none."""
    uid = str(request.path_params["workitem"])
    if not uids.is_valid(uid):
        raise HTTPException(400, "a UID in the path has other characters than digits and dots")
    return uid


Given = Annotated[Body, Depends(body_of)]
Uid = Annotated[str, Depends(workitem_of)]


@router.post("/workitems")
def create(request: Request, door: At, body: Given) -> Response:
    """Create a workitem (11.4); its UID is in the query, in the body, or chosen here."""
    uid = _uid_in_query(request, "workitem") or first(body.model, "SOPInstanceUID")
    uid = uid or f"2.25.{uuid.uuid4().int}"
    url = f"{door.url}/workitems/{uid}"
    return _answered(
        door,
        lambda: _service(door).create(door.actor, uid, body.model),
        HTTPStatus.CREATED,
        {"Location": url, "Content-Location": url},
    )


@router.get("/workitems/{workitem}")
def retrieve(request: Request, door: At, uid: Uid) -> Response:
    """Retrieve a workitem (11.5), never with its Transaction UID."""
    type_ = json_type(request)
    try:
        found = _service(door).get(door.actor, uid)
    except Declined as declined:
        return _declined(door, declined)
    return json_answer(request, [found], type_, headers={"Cache-Control": "no-store"})


@router.post("/workitems/{workitem}")
def update(request: Request, door: At, uid: Uid, body: Given) -> Response:
    """Update a workitem (11.6); the Transaction UID is in the query or in the body."""
    lock = _uid_in_query(request, "transaction-uid") or first(body.model, "TransactionUID")
    return _answered(
        door, lambda: _service(door).update(door.actor, uid, body.model, lock), has_lock=bool(lock)
    )


@router.put("/workitems/{workitem}/state")
@router.put("/workitems/{workitem}/state/{requester}")
def change_state(door: At, uid: Uid, body: Given) -> Response:
    """Change the state of a workitem (11.7)."""
    state, lock = first(body.model, "ProcedureStepState"), first(body.model, "TransactionUID")
    return _answered(
        door,
        lambda: _service(door).change_state(door.actor, uid, state, lock),
        has_lock=bool(lock),
    )


@router.post("/workitems/{workitem}/cancelrequest")
@router.post("/workitems/{workitem}/cancelrequest/{requester}")
def request_cancel(door: At, uid: Uid, body: Given) -> Response:
    """Request that a workitem be canceled (11.8)."""
    return _answered(
        door,
        lambda: _service(door).request_cancel(door.actor, uid, body.model),
        HTTPStatus.ACCEPTED,
    )


@router.post("/workitems/{workitem}/subscribers/{ae_title}")
def subscribe(request: Request, door: At, uid: Uid, ae_title: str) -> Response:
    """Subscribe to a workitem, or to a worklist (11.10). Events wait at a WebSocket."""
    lock = request.query_params.get("deletionlock", "false").lower()
    if lock not in ("true", "false"):
        raise BadQuery("deletionlock is neither true nor false")
    pairs = _filter(request.query_params.getlist("filter")) if uid == FILTERED else []
    socket = f"ws{door.url.removeprefix('http')}/ws/subscribers/{quote(ae_title, safe='')}"
    return _answered(
        door,
        lambda: _service(door).subscribe(
            door.actor, uid, ae_title, deletion_lock=lock == "true", pairs=pairs
        ),
        HTTPStatus.CREATED,
        {"Location": socket, "Content-Location": socket},
    )


@router.delete("/workitems/{workitem}/subscribers/{ae_title}")
def unsubscribe(door: At, uid: Uid, ae_title: str) -> Response:
    """Unsubscribe from a workitem, or from everything (11.11)."""
    return _ended(door, lambda: _service(door).unsubscribe(door.actor, uid, ae_title))


@router.post("/workitems/{workitem}/subscribers/{ae_title}/suspend")
def suspend(door: At, uid: Uid, ae_title: str) -> Response:
    """Subscribe to no more workitems that come (11.12)."""
    return _ended(door, lambda: _service(door).suspend(door.actor, uid, ae_title))


def _service(door: Door) -> Workitems:
    return door.parts.workitems


def _answered(
    door: Door,
    ask: Callable[[], Status],
    success: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    *,
    has_lock: bool = True,
) -> Response:
    """Do what is asked, and answer with the status and the Warning of how it ended."""
    try:
        status = ask()
    except Declined as declined:
        return _declined(door, declined, has_lock=has_lock)
    warned = warning(door, WARNING[status]) if status in WARNING else {}
    return Response(status_code=success, headers={**(headers or {}), **warned})


def _declined(door: Door, declined: Declined, *, has_lock: bool = True) -> Response:
    text = WARNING.get(declined.status, "")
    if declined.status is Status.WRONG_TRANSACTION_UID and not has_lock:
        text = NO_TRANSACTION_UID
    code = HTTP.get(declined.status, HTTPStatus.CONFLICT)
    warned = warning(door, text) if text else {}
    return problem(code, declined.message, warned, **declined.facts)


def _ended(door: Door, end: Callable[[], bool]) -> Response:
    try:
        was_there = end()
    except Declined as declined:
        return _declined(door, declined)
    if not was_there:
        raise HTTPException(404, "there is no such subscription")
    return Response()


def _uid_in_query(request: Request, name: str) -> str:
    """A UID that stands in the query alone, as PS3.18 writes it, or under its name."""
    given = parse_qsl(request.url.query, keep_blank_values=True)
    found = [value if key == name else key for key, value in given if key == name or not value]
    if len(found) > 1 or not all(map(uids.is_valid, found)):
        raise HTTPException(400, "the query is not one UID")
    return found[0] if found else ""


def _filter(texts: list[str]) -> list[tuple[str, str]]:
    """The pairs of a filter: `attribute=value`, with commas between them (11.10.1.2)."""
    pairs = []
    for text in ",".join(texts).split(","):
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise BadQuery("a filter is a list of attribute=value")
        pairs.append((_path(name.strip()), value))
    return pairs


def _path(name: str) -> str:
    return ".".join(criteria.attribute(step).keyword for step in name.split("."))


# search


@dataclass(frozen=True, slots=True)
class _Search:
    """A search as it was understood."""

    pairs: list[tuple[str, str]]
    returned: frozenset[str]  # keywords; empty for everything
    limit: int
    offset: int
    fuzzy: bool
    warnings: tuple[str, ...]


@router.get("/workitems")
def search(request: Request, door: At) -> Response:
    """Search for workitems (11.9)."""
    type_ = json_type(request)
    asked = _understood(request.query_params.multi_items())
    found = _service(door).search(
        door.actor, asked.pairs, fuzzy=asked.fuzzy, offset=asked.offset, limit=asked.limit + 1
    )
    page: list[JsonModel] = []
    characters, more = 0, False
    for model in islice(found, asked.limit + 1):
        characters += len(str(model))
        if len(page) == asked.limit or (page and characters > ANSWER_CHARACTERS_MAX):
            more = True
            break
        page.append(only(model, asked.returned) if asked.returned else model)
    headers = warning(door, *asked.warnings, *([MORE_REMAIN] if more else []))
    if not page and EMPTY_RESULT_STATUS == 204:
        return Response(status_code=EMPTY_RESULT_STATUS, headers=headers)
    return json_answer(request, page, type_, headers=headers)


def _understood(given: list[tuple[str, str]]) -> _Search:
    """What the parameters of a search ask (PS3.18 8.3.4). Raises BadQuery."""
    controls = {name.lower(): text for name, text in given if name.lower() in _CONTROLS}
    fuzzy = controls.get("fuzzymatching", "false")
    if fuzzy not in ("true", "false"):
        raise BadQuery("fuzzymatching is neither true nor false")
    pairs, ignored = _keys([(n, text) for n, text in given if n.lower() not in _CONTROLS])
    texts = ",".join(text for name, text in given if name.lower() == "includefield")
    fields = [field.strip() for field in texts.split(",") if field.strip()]
    included, unknown = _keys([(field, "") for field in fields if field != "all"])
    returned = {path.partition(".")[0] for path, _ in (*pairs, *included)} | set(RETURNED)
    return _Search(
        [(path, text) for path, text in pairs if text],
        frozenset() if "all" in fields else frozenset(returned),
        min(_number("limit", controls.get("limit", str(LIMIT_MAX))), LIMIT_MAX),
        _number("offset", controls.get("offset", "0")),
        fuzzy == "true",
        (NOT_ATTRIBUTES,) if ignored or unknown else (),
    )


def _keys(given: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], bool]:
    """Keys with their paths in keywords, and whether there were others that are no attributes."""
    keys, has_others = [], False
    for name, text in given:
        try:
            keys.append((_path(name), text))
        except BadQuery:
            has_others = True
    return keys, has_others


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise BadQuery(f"{name} is not a number from 0")
    return int(text)
