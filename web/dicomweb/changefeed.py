"""The change feed: what was stored and deleted, instance by instance, from any place on.

The contract is that of Microsoft's DICOM server: a sequence without gaps, in the order of commits,
and beside each change what has become of its instance by now. Who asks for what comes after the
last number read misses nothing and reads nothing twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Scope
from pacs.errors import BadQuery, Missing
from pacs.index.changes import Entry, State
from web.dicomweb.answers import json_answer
from web.dicomweb.door import At, Door
from web.dicomweb.media_types import JSON
from web.dicomweb.metadata import instance_metadata
from web.limits import NUMBER_MAX

LIMIT: Final = 100  # changes of one answer if nothing else is asked
LIMIT_MAX: Final = 200  # more are refused

_FAR: Final = (0.0, 253_402_300_799.0)  # from 1970 to 9999, where no time is given
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Asked:
    """What part of the feed is asked for; `times` in seconds since 1970, the end exclusive."""

    offset: int = 0
    limit: int = LIMIT
    times: tuple[float, float] | None = None
    has_metadata: bool = True


@router.get("/changefeed")
def read_changes(request: Request, door: At) -> Response:
    """Read what changed, in order."""
    asked = understood(request.query_params)
    found = door.archive.changes(door.actor, asked.offset, asked.limit, asked.times)
    told = [as_json(door, one, has_metadata=asked.has_metadata) for one in found]
    return json_answer(request, told, JSON, headers=FRESH)


@router.get("/changefeed/latest")
def read_latest_change(request: Request, door: At) -> Response:
    """Read the newest change; 204 if there is none."""
    asked = understood(request.query_params)
    found = door.archive.latest_change(door.actor)
    if found is None:
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=FRESH)
    told = as_json(door, found, has_metadata=asked.has_metadata)
    return json_answer(request, told, JSON, headers=FRESH)


FRESH: Final = {"Cache-Control": "no-store"}  # a state of today is another one tomorrow


def understood(parameters: Mapping[str, str]) -> Asked:
    """The parameters, their names in whichever case. Raises BadQuery."""
    given = {name.lower(): text for name, text in parameters.items()}
    limit = _number("limit", given.get("limit", str(LIMIT)))
    if not 1 <= limit <= LIMIT_MAX:
        raise BadQuery("limit is not within its bounds", limit_min=1, limit_max=LIMIT_MAX)
    times = None
    if "starttime" in given or "endtime" in given:
        start, end = (
            _time(name, given[name.lower()]) if name.lower() in given else far
            for name, far in zip(("startTime", "endTime"), _FAR, strict=True)
        )
        if start >= end:
            raise BadQuery("endTime is not after startTime")
        times = (start, end)
    wanted = given.get("includemetadata", "true").lower()
    if wanted not in ("true", "false"):
        raise BadQuery("includeMetadata is neither true nor false")
    return Asked(_number("offset", given.get("offset", "0")), limit, times, wanted == "true")


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > NUMBER_MAX:
        raise BadQuery(f"{name} is not a number from 0")
    return int(text)


def _time(name: str, text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time. One without an offset is in UTC."""
    try:
        found = datetime.fromisoformat(text.replace(" ", "+"))  # a plus sign arrives as a space
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise BadQuery(f"{name} is no time of ISO 8601") from error


def as_json(door: Door, entry: Entry, *, has_metadata: bool) -> dict[str, Any]:
    """One change as the feed tells it."""
    study, series, instance, _ = entry.told
    said: dict[str, Any] = {
        "sequence": entry.seq,
        "studyInstanceUid": study,
        "seriesInstanceUid": series,
        "sopInstanceUid": instance,
        "action": entry.change.value,
        "timestamp": datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="milliseconds"),
        "state": entry.state.value,
    }
    if has_metadata and entry.state is State.CURRENT:
        said |= _metadata(door, Scope(study, series, instance))
    return said


def _metadata(door: Door, scope: Scope) -> dict[str, Any]:
    """The metadata of an instance; none if it was deleted since its state was read."""
    try:
        return {"metadata": instance_metadata(door, scope)}
    except Missing:
        return {}
