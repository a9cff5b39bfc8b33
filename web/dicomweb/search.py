"""QIDO-RS: searching for patients, studies, series and instances (PS3.18 10.6).

A request becomes one `Query`, parsed by the same function as C-FIND's, and rows become DICOM JSON
or XML. A filter is never dropped in silence: what cannot be matched is refused by name, and a
parameter that is no attribute is ignored with a warning.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from pacs.archive import Found, Scope
from pacs.archive.tagging import QueryTags
from pacs.dicom.attributes import INDEXED, UNIQUE_KEY, Level
from pacs.dicom.matching import LIMIT_MAX, Query
from pacs.dicom.xml_model import xml_model
from pacs.errors import Exhausted
from web.dicomweb import multipart
from web.dicomweb.answers import fingerprint, json_answer
from web.dicomweb.direct import DirectRoute
from web.dicomweb.door import At, Door, InPath, warning
from web.dicomweb.elements import JsonElement, element, person_name
from web.dicomweb.included import Included, included_elements
from web.dicomweb.media_types import DICOM_XML, JSON
from web.dicomweb.negotiation import JSON_OFFERS, Offer, accept_of, chosen
from web.dicomweb.parameters import MORE_REMAIN, Understood, read_query

EMPTY_RESULT_STATUS: Final = 204  # PS3.18 8.3.4.4 as published; CP-2473 proposes 200 and `[]`
UNKNOWN_MODALITY: Final = ("OT",)  # a study without Modality: OHIF needs some value
INCLUDED_ROWS_MAX: Final = 200  # of an open search that must read stored objects; more remain
COUNTED_MAX: Final = 50_000  # further results that are counted; more are told without a number
COUNT_S_MAX: Final = 0.05  # and so are those whose counting takes longer

OFFERS: Final = (*JSON_OFFERS, Offer(DICOM_XML, multipart=True))

Value = str | int | tuple[str, ...] | None
Row = Mapping[str, Value]
Elements = dict[str, JsonElement]

router = APIRouter(route_class=DirectRoute)


@router.get("/patients/count")
def count_patients(request: Request, door: At) -> Response:
    """How many patients a search would find."""
    return _count(request, door, Level.PATIENT, Scope(""))


@router.get("/studies/count")
def count_studies(request: Request, door: At) -> Response:
    """How many studies a search would find."""
    return _count(request, door, Level.STUDY, Scope(""))


@router.get("/series/count")
@router.get("/studies/{study}/series/count")
def count_series(request: Request, door: At, scope: InPath) -> Response:
    """How many series a search would find, in all studies or in one."""
    return _count(request, door, Level.SERIES, scope)


@router.get("/instances/count")
@router.get("/studies/{study}/instances/count")
@router.get("/studies/{study}/series/{series}/instances/count")
def count_instances(request: Request, door: At, scope: InPath) -> Response:
    """How many instances a search would find, in all studies, in one, or in one series."""
    return _count(request, door, Level.INSTANCE, scope)


@router.get("/patients")
def search_patients(request: Request, door: At) -> Response:
    """Search for patients."""
    return _answer(request, door, Level.PATIENT, Scope(""))


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


def _asked(request: Request, door: Door, level: Level, scope: Scope) -> Understood:
    tags = QueryTags(door.archive)
    return read_query(
        level, scope, request.scope["query_string"], lambda: tags.listed(built_in=True)
    )


def _count(request: Request, door: Door, level: Level, scope: Scope) -> Response:
    chosen(accept_of(request), JSON_OFFERS)
    asked = _asked(request, door, level, scope)
    number = door.archive.count(door.actor, replace(asked.query, limit=sys.maxsize, offset=0))
    return JSONResponse({"count": number}, headers=warning(door, *asked.warnings), media_type=JSON)


def _answer(request: Request, door: Door, level: Level, scope: Scope) -> Response:
    choice = chosen(accept_of(request), OFFERS)
    asked = _asked(request, door, level, scope)
    is_open = not scope.study_instance_uid
    found = _found(door, asked.query, LIMIT_MAX if is_open else sys.maxsize)
    rows = _as_elements(door, level, found, asked.included, INCLUDED_ROWS_MAX if is_open else None)
    more = found.more or len(rows) < len(found.rows)
    told = [*asked.warnings, *([_remaining(door, asked.query, len(rows))] if more else [])]
    headers = warning(door, *told)
    if not rows and EMPTY_RESULT_STATUS == 204:
        return Response(status_code=EMPTY_RESULT_STATUS, headers=headers)
    if choice.offer.multipart:
        return _xml_answer(rows, headers)
    return json_answer(request, rows, choice.offer.media_type, headers=headers)


def _found(door: Door, query: Query, rows_max: int) -> Found:
    """One page of an open search, at most rows_max rows; inside one study, all that was asked.

    Viewers ask for the instances of a study once and ignore warnings.
    """
    rows: list[dict[str, Value]] = []
    ids: list[int] = []
    wanted = min(query.limit, rows_max)
    more = wanted > 0
    while more and len(rows) < wanted:
        limit = min(wanted - len(rows), LIMIT_MAX)
        offset = query.offset + len(rows)
        page = door.archive.search(door.actor, replace(query, limit=limit, offset=offset))
        rows += page.rows
        ids += page.ids
        more = page.more
    return Found(rows, more, ids)


def _remaining(door: Door, query: Query, given: int) -> str:
    """How many results remain behind those given (PS3.18 8.3.4.4); the number only if it is cheap."""
    rest = replace(query, offset=query.offset + given, limit=COUNTED_MAX + 1)
    try:
        number = door.archive.count(door.actor, rest, seconds_max=COUNT_S_MAX)
    except Exhausted:
        number = COUNTED_MAX + 1
    if number > COUNTED_MAX:
        return MORE_REMAIN
    return f"There are {number} additional results that can be requested"


def _as_elements(
    door: Door, level: Level, found: Found, included: Included, rows_max: int | None
) -> list[Elements]:
    """The rows as DICOM JSON, with what they tell beyond the index; cut where that costs reading."""
    if not included:
        return [as_json(row, level, door.url) for row in found.rows]
    rows = [as_json(row, level, door.url) for row in found.rows[:rows_max]]
    first = door.archive.first_instances(door.actor, level, found.ids[:rows_max])
    for row, instance in zip(rows, first, strict=True):
        told = included_elements(door.archive, instance, included, level, door.path)
        row |= {tag: value for tag, value in told.items() if tag not in row}
    return [dict(sorted(row.items())) for row in rows]


def _xml_answer(rows: list[Elements], headers: Mapping[str, str]) -> Response:
    """A multipart message of one Native DICOM Model a row (PS3.18 10.6.4)."""
    documents = [xml_model(row) for row in rows]
    boundary = fingerprint(*(document.decode() for document in documents))
    parts = (({"Content-Type": DICOM_XML}, [document]) for document in documents)
    return StreamingResponse(
        multipart.written(boundary, parts),
        headers={**headers, "Vary": "Accept"},
        media_type=multipart.content_type(DICOM_XML, boundary),
    )


def as_json(row: Row, level: Level, url: str) -> Elements:
    """One row of an answer as DICOM JSON (PS3.18 10.6.3), in the order of its tags."""
    told = dict(row)
    if level is Level.STUDY:
        told["ModalitiesInStudy"] = _modalities(row) or UNKNOWN_MODALITY
    if level is not Level.PATIENT:
        told["InstanceAvailability"] = "ONLINE"
        told["RetrieveURL"] = url + _path(row, level)
    return {tag: _element(vr, told[keyword]) for tag, vr, keyword in SHAPE if keyword in told}


def _shape() -> tuple[tuple[str, str, str], ...]:
    """Tag, VR and keyword of all that rows tell, in the order of the tags."""
    keywords = (*INDEXED, "InstanceAvailability", "RetrieveURL")
    return tuple(
        sorted(
            (tag, one["vr"], keyword)
            for keyword in keywords
            for tag, one in element(keyword).items()
        )
    )


SHAPE: Final = _shape()


def _element(vr: str, value: Value) -> JsonElement:
    """One element; a page has thousands, so plain text takes the short way."""
    if value is None or value in ("", ()):
        return {"vr": vr}
    if vr == "PN":
        return {"vr": vr, "Value": [person_name(str(value))]}
    return {"vr": vr, "Value": list(value) if isinstance(value, tuple) else [value]}


def _modalities(row: Row) -> tuple[str, ...]:
    found = row.get("ModalitiesInStudy")
    return tuple(filter(None, found)) if isinstance(found, tuple) else ()


def _path(row: Row, level: Level) -> str:
    steps = {Level.STUDY: "studies", Level.SERIES: "series", Level.INSTANCE: "instances"}
    return "".join(
        f"/{name}/{row[UNIQUE_KEY[step].keyword]}" for step, name in steps.items() if step <= level
    )
