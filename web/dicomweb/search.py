"""QIDO-RS: searching for studies, series and instances (PS3.18 10.6).

A request becomes one `Query`, parsed by the same function as C-FIND's, and rows become DICOM JSON.
A filter is never dropped in silence: what cannot be matched is refused by name, and a parameter
that is no attribute is ignored with a warning.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from fastapi import APIRouter
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from starlette.requests import Request
from starlette.responses import Response

from pacs.archive import Found, Scope
from pacs.dicom.attributes import INDEXED, UNIQUE_KEY, Attribute, Level
from pacs.dicom.matching import LIMIT_MAX, Match, Query, UidList, parse_key
from pacs.errors import BadQuery
from web.dicomweb.answers import json_answer
from web.dicomweb.door import At, Door, InPath, warning
from web.dicomweb.elements import JsonElement, element
from web.dicomweb.negotiation import json_type

EMPTY_RESULT_STATUS: Final = 204  # PS3.18 8.3.4.4 as published; CP-2473 proposes 200 and `[]`
UNKNOWN_MODALITY: Final = ("OT",)  # a study without Modality: OHIF needs some value

MORE_REMAIN: Final = "There are additional results that can be requested"
NOT_ATTRIBUTES: Final = "Parameters that are no attributes were ignored"
NO_ZONE: Final = "TimezoneOffsetFromUTC was ignored: dates and times are matched as stored"

Value = str | int | tuple[str, ...] | None
Row = Mapping[str, Value]

router = APIRouter()

_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_NUMBER = re.compile(r"[0-9]{1,18}")
_CONTROLS: Final = frozenset(["", "accept", "fuzzymatching", "includefield", "limit", "offset"])


@router.get("/studies")
def search_studies(request: Request, door: At) -> Response:
    """Search for studies."""
    return _answer(request, door, Level.STUDY, Scope(""))


@router.get("/series")
@router.get("/studies/{study}/series")
def search_series(request: Request, door: At, scope: InPath) -> Response:
    """Search for series, in all studies or in one."""
    return _answer(request, door, Level.SERIES, scope)


@router.get("/instances")
@router.get("/studies/{study}/instances")
@router.get("/studies/{study}/series/{series}/instances")
def search_instances(request: Request, door: At, scope: InPath) -> Response:
    """Search for instances, in all studies, in one, or in one series."""
    return _answer(request, door, Level.INSTANCE, scope)


def _answer(request: Request, door: Door, level: Level, scope: Scope) -> Response:
    media_type = json_type(request)
    asked = read_query(level, scope, request.query_params.multi_items())
    found = _found(door, asked.query, cut=not scope.study_instance_uid)
    headers = warning(door, *asked.warnings, *([MORE_REMAIN] if found.more else []))
    if not found.rows and EMPTY_RESULT_STATUS == 204:
        return Response(status_code=EMPTY_RESULT_STATUS, headers=headers)
    rows = [as_json(row, level, door.url) for row in found.rows]
    return json_answer(request, rows, media_type, headers=headers)


def _found(door: Door, query: Query, *, cut: bool) -> Found:
    """One page of an open search, at most LIMIT_MAX rows; inside one study, all that was asked.

    Viewers ask for the instances of a study once and ignore warnings.
    """
    rows: list[dict[str, Value]] = []
    wanted = min(query.limit, LIMIT_MAX) if cut else query.limit
    more = wanted > 0
    while more and len(rows) < wanted:
        limit = min(wanted - len(rows), LIMIT_MAX)
        offset = query.offset + len(rows)
        page = door.archive.search(door.actor, replace(query, limit=limit, offset=offset))
        rows += page.rows
        more = page.more
    return Found(rows, more)


@dataclass(frozen=True, slots=True)
class Understood:
    """A search as it was understood, and what was ignored."""

    query: Query
    warnings: tuple[str, ...] = ()


def read_query(level: Level, scope: Scope, parameters: Iterable[tuple[str, str]]) -> Understood:
    """The query that a path and its parameters ask (PS3.18 8.3.4). Raises BadQuery."""
    given = list(parameters)
    controls = {name.lower(): text for name, text in given if name.lower() in _CONTROLS}
    fuzzy = _flag("fuzzymatching", controls.get("fuzzymatching", "false"))
    keys = _of_path(scope)
    ignored: set[str] = set()
    for name, text in given:
        if name.lower() in _CONTROLS:
            continue
        if name == "TimezoneOffsetFromUTC":
            ignored.add(NO_ZONE)
        elif not _is_attribute(name):
            ignored.add(NOT_ATTRIBUTES)
        else:
            _add_key(keys, name, text, fuzzy=fuzzy)
    included = [text for name, text in given if name.lower() == "includefield"]
    if not all(map(_is_includable, ",".join(included).split(","))):
        ignored.add(NOT_ATTRIBUTES)
    limit = _number("limit", controls["limit"]) if "limit" in controls else sys.maxsize
    offset = _number("offset", controls.get("offset", "0"))
    return Understood(Query(level, keys, limit, offset), tuple(sorted(ignored)))


def _of_path(scope: Scope) -> dict[Attribute, Match]:
    levels = {Level.STUDY: scope.study_instance_uid, Level.SERIES: scope.series_instance_uid}
    return {UNIQUE_KEY[level]: UidList((uid,)) for level, uid in levels.items() if uid}


def _add_key(keys: dict[Attribute, Match], name: str, text: str, *, fuzzy: bool) -> None:
    """Add one matching key. An empty one matches everything, so any attribute will do (C.2.2.2.3)."""
    if not text.strip():
        return
    keyword = _keyword(name)
    attribute = INDEXED.get(keyword)
    if attribute is None:
        raise BadQuery(f"{keyword} cannot be matched")
    match = parse_key(attribute, text, fuzzy=fuzzy)
    if keys.setdefault(attribute, match) != match:
        raise BadQuery(f"{keyword} is given twice with different values")


def _is_attribute(path: str) -> bool:
    """Whether this is a keyword, a tag, or a path of them (PS3.18 8.3.4.1)."""
    return all(_TAG.fullmatch(name) or tag_for_keyword(name) for name in path.split("."))


def _is_includable(field: str) -> bool:
    return field in ("", "all") or _is_attribute(field)


def _keyword(name: str) -> str:
    """The keyword that a name means; the name itself where PS3.6 has none, as for private tags."""
    return (keyword_for_tag(int(name, 16)) if _TAG.fullmatch(name) else name) or name


def _flag(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise BadQuery(f"{name} is neither true nor false")
    return text == "true"


def _number(name: str, text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise BadQuery(f"{name} is not a number from 0")
    return int(text)


def as_json(row: Row, level: Level, url: str) -> dict[str, JsonElement]:
    """One row of an answer as DICOM JSON (PS3.18 10.6.3), in the order of its tags."""
    elements: dict[str, JsonElement] = {}
    for keyword, value in row.items():
        elements |= element(keyword, *(value if isinstance(value, tuple) else (value,)))
    if level is Level.STUDY:
        elements |= element("ModalitiesInStudy", *(_modalities(row) or UNKNOWN_MODALITY))
    elements |= element("InstanceAvailability", "ONLINE")
    elements |= element("RetrieveURL", url + _path(row, level))
    return dict(sorted(elements.items()))


def _modalities(row: Row) -> tuple[str, ...]:
    found = row.get("ModalitiesInStudy")
    return tuple(filter(None, found)) if isinstance(found, tuple) else ()


def _path(row: Row, level: Level) -> str:
    steps = {Level.STUDY: "studies", Level.SERIES: "series", Level.INSTANCE: "instances"}
    return "".join(
        f"/{name}/{row[UNIQUE_KEY[step].keyword]}" for step, name in steps.items() if step <= level
    )
