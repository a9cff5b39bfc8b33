"""Extended query tags: `/extendedquerytags` and `/operations`, in the shape of Microsoft's server.

Names in requests may be in any case; answers are in camel case, as clients of that server know them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydicom.datadict import keyword_for_tag
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pacs.archive.tagging import QueryTags
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.query_tags import QueryTag, checked_tag, read_path
from pacs.errors import BadQuery, Conflict
from pacs.index.query_tags import TAGS_MAX, Failure, Known
from web.bodies import whole
from web.dicomweb.door import At, Door

PAGE_MAX: Final = 200  # entries of one page

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Offset = Annotated[int, Query(ge=0, le=1 << 31)]
Json = dict[str, Any]

_LEVELS: Final = {"study": Level.STUDY, "series": Level.SERIES, "instance": Level.INSTANCE}
_QUERIED: Final = {"enabled": True, "disabled": False}

router = APIRouter()


@router.get("/extendedquerytags")
def listed(door: At, limit: Limit = 100, offset: Offset = 0) -> Response:
    """The extended query tags, in the order they came."""
    known = QueryTags(door.archive).listed()[offset : offset + limit]
    return JSONResponse([_shown(door, one) for one in known])


@router.post("/extendedquerytags")
async def add(request: Request, door: At) -> Response:
    """Add tags; the answer names the operation that reads the stored instances for them."""
    wanted = _tags_of(await _body(request, door))
    return await run_in_threadpool(_added, door, wanted)


def _added(door: Door, tags: Sequence[QueryTag]) -> Response:
    operation = QueryTags(door.archive).add(door.actor, tags)
    shown = _reference(door, operation)
    return JSONResponse(shown, HTTPStatus.ACCEPTED, {"Location": shown["href"]})


@router.get("/extendedquerytags/{tag}")
def get(door: At, tag: str) -> Response:
    """One tag."""
    return JSONResponse(_shown(door, QueryTags(door.archive).get(read_path(tag))))


@router.patch("/extendedquerytags/{tag}")
async def change(request: Request, door: At, tag: str) -> Response:
    """Let queries name a tag (`Enabled`), or refuse them (`Disabled`)."""
    body = await _body(request, door)
    status = _lower(body).get("querystatus") if isinstance(body, dict) else None
    if not isinstance(status, str) or status.lower() not in _QUERIED:
        raise BadQuery("QueryStatus is Enabled or Disabled")
    is_queried = _QUERIED[status.lower()]
    return await run_in_threadpool(_changed, door, tag, is_queried)


def _changed(door: Door, tag: str, is_queried: bool) -> Response:
    known = QueryTags(door.archive).set_queried(door.actor, read_path(tag), is_queried)
    return JSONResponse(_shown(door, known))


@router.delete("/extendedquerytags/{tag}", status_code=HTTPStatus.NO_CONTENT)
def remove(door: At, tag: str) -> Response:
    """Remove a tag and all that is known by it."""
    QueryTags(door.archive).remove(door.actor, read_path(tag))
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/extendedquerytags/{tag}/errors")
def errors(door: At, tag: str, limit: Limit = 100, offset: Offset = 0) -> Response:
    """The stored instances that could not be read for a tag."""
    found = QueryTags(door.archive).failures(read_path(tag), limit, offset)
    return JSONResponse([_shown_failure(one) for one in found])


@router.get("/operations/{operation}")
def operation(door: At, operation: str) -> Response:
    """How far the filling of some tags has come."""
    known = QueryTags(door.archive).of_operation(operation)
    percent = min(one.percent for one in known)
    return JSONResponse(
        {
            "operationId": operation,
            "type": "Reindex",
            "createdTime": _time(known[0].created_at),
            "status": "Completed" if percent == 100 else "Running",
            "percentComplete": percent,
            "resources": [f"{door.url}/extendedquerytags/{one.tag.text}" for one in known],
        }
    )


async def _body(request: Request, door: Door) -> object:
    """The JSON of a request. Raises TooLong, TooSlow, BadQuery."""
    body = await whole(request.stream(), door.parts.limits)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadQuery("the body is not JSON") from error


def _tags_of(body: object) -> list[QueryTag]:
    """The tags that a body wants. Raises BadQuery."""
    if not isinstance(body, list) or len(body) > TAGS_MAX:
        raise BadQuery(f"the body is a list of 1 to {TAGS_MAX} query tags")
    return [_tag_of(one) for one in body]


def _tag_of(one: object) -> QueryTag:
    given = _lower(one) if isinstance(one, dict) else {}
    path, vr, level, creator = (
        given.get(name) or "" for name in ("path", "vr", "level", "privatecreator")
    )
    if not all(isinstance(text, str) for text in (path, vr, level, creator)):
        raise BadQuery("Path, VR, Level and PrivateCreator of a query tag are texts")
    if level.lower() not in _LEVELS:
        raise BadQuery("the Level of a query tag is Study, Series or Instance")
    tag = checked_tag(path, vr.upper(), _LEVELS[level.lower()], creator)
    if len(tag.path) == 1 and keyword_for_tag(tag.path[0]) in INDEXED:
        raise Conflict("this attribute can be searched already", tag=tag.text)
    return tag


def _lower(given: Json) -> Json:
    return {name.lower(): value for name, value in given.items()}


def _shown(door: Door, known: Known) -> Json:
    tag = known.tag
    href = f"{door.url}/extendedquerytags/{tag.text}"
    shown = {
        "path": tag.text,
        "vr": tag.vr,
        "privateCreator": tag.creator or None,
        "level": tag.level.name.capitalize(),
        "status": "Ready" if known.is_ready else "Adding",
        "queryStatus": "Enabled" if known.is_queried else "Disabled",
        "errors": {"count": known.errors, "href": f"{href}/errors"} if known.errors else None,
        "operation": None if known.is_ready else _reference(door, known.operation),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _reference(door: Door, operation: str) -> dict[str, str]:
    return {"id": operation, "href": f"{door.url}/operations/{operation}"}


def _shown_failure(failure: Failure) -> Json:
    return {
        "studyInstanceUid": failure.study_instance_uid,
        "seriesInstanceUid": failure.series_instance_uid,
        "sopInstanceUid": failure.sop_instance_uid,
        "createdTime": _time(failure.at),
        "errorMessage": failure.sentence,
    }


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
