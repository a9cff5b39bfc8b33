"""`/api/worklist`: what is scheduled; and `/api/studies/{uid}/procedure-steps`: what was performed.

An entry is plain JSON with DICOM's keywords. Its accession number and step ID say which one it is,
so who puts it twice has it once; they stand in the body, since addresses get into logs, and a
number names it from then on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Response
from starlette.requests import Request

from pacs.dicom.plain_json import plain_of
from pacs.errors import BadQuery, Missing
from pacs.procedure_steps import Performed
from pacs.worklist import STATION, Entry
from web.auth import Caller
from web.parts import Parts

LISTED_MAX: Final = 1_000  # entries of one page

EntryNumber = Annotated[int, Path(ge=1, le=(1 << 53))]


@dataclass(frozen=True, slots=True)
class EntryView:
    """One scheduled procedure step: its number, where it stands, and all that is said of it."""

    id: int
    status: str
    study_instance_uid: str
    entry: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EntryViews:
    """Entries by their start. `cursor` asks for the next page; it is null on the last one."""

    entries: list[EntryView]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class StatusBody:
    """What an entry's status becomes."""

    status: str


@dataclass(frozen=True, slots=True)
class ProcedureStepViews:
    """The procedure steps that were performed for a study, with what of them is missing here."""

    study_instance_uid: str
    procedure_steps: list[Performed]


async def _entry_of(request: Request) -> dict[str, object]:
    """The entry in a body. Raises BadQuery for what is no object."""
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise BadQuery("the body is not JSON") from error
    if not isinstance(found, dict):
        raise BadQuery("the body is not one entry")
    return found


EntryBody = Annotated[dict[str, object], Depends(_entry_of)]


def router(parts: Parts) -> APIRouter:
    """The routes of the worklist."""
    api = WorklistApi(parts)
    routes = APIRouter(prefix="/api", tags=["Worklist"])
    routes.add_api_route("/worklist", api.listed)
    routes.add_api_route("/worklist", api.put, methods=["PUT"])
    routes.add_api_route("/worklist/{number}", api.entry)
    routes.add_api_route("/worklist/{number}", api.set_status, methods=["PATCH"])
    routes.add_api_route("/worklist/{number}", api.remove, methods=["DELETE"], status_code=204)
    routes.add_api_route("/studies/{study_instance_uid}/procedure-steps", api.procedure_steps)
    return routes


class WorklistApi:
    """What whoever schedules says, and whoever waits for images asks."""

    def __init__(self, parts: Parts) -> None:
        self._worklist = parts.worklist
        self._procedure_steps = parts.procedure_steps
        self._workflow = parts.workflow

    def listed(
        self,
        caller: Caller,
        status: str = "",
        date: str = "",
        modality: str = "",
        station: str = "",
        limit: Annotated[int, Query(ge=1, le=LISTED_MAX)] = 100,
        cursor: str = "",
    ) -> EntryViews:
        """Entries by their start: of a `status`, and by `date`, `modality` or `station`."""
        keys = (
            ("ScheduledProcedureStepStartDate", date),
            ("Modality", modality),
            (STATION, station),
        )
        given = {keyword: text for keyword, text in keys if text}
        after = _position(cursor) if cursor else None
        found = self._worklist.listed(caller, given, status=status, after=after, limit=limit)
        further = "/".join(map(str, found[-1].position)) if len(found) == limit else None
        return EntryViews([_view(entry) for entry in found], further)

    def put(self, body: EntryBody, caller: Caller, response: Response) -> EntryView:
        """Enter a step (201), or replace what is said of it (200). Raises BadQuery, Exhausted."""
        scheduled = self._worklist.schedule(caller, body)
        response.status_code = HTTPStatus.CREATED if scheduled.is_new else HTTPStatus.OK
        return _view(self._worklist.get(caller, scheduled.id))

    def entry(self, number: EntryNumber, caller: Caller) -> EntryView:
        """One entry. Raises Missing."""
        return _view(self._worklist.get(caller, number))

    def set_status(self, number: EntryNumber, body: StatusBody, caller: Caller) -> EntryView:
        """Change the status of an entry. Raises BadQuery, Missing."""
        return _view(self._worklist.set_status(caller, number, body.status))

    def remove(self, number: EntryNumber, caller: Caller) -> None:
        """Remove an entry. Raises Missing."""
        self._worklist.remove(caller, number)

    def procedure_steps(self, study_instance_uid: str, caller: Caller) -> ProcedureStepViews:
        """What was performed for a study. Raises Missing where nothing is known of it."""
        steps = self._procedure_steps.of_study(caller, study_instance_uid)
        if not steps and not self._workflow.statuses(caller, [study_instance_uid]):
            raise Missing("there is no such study here")
        return ProcedureStepViews(study_instance_uid, steps)


def _view(entry: Entry) -> EntryView:
    return EntryView(entry.id, entry.status, entry.study_instance_uid, plain_of(entry.model))


def _position(cursor: str) -> tuple[str, int]:
    starts_at, _, number = cursor.rpartition("/")
    if not (number.isascii() and number.isdigit()) or len(number) > 18:
        raise BadQuery("the cursor is none of ours")
    return starts_at, int(number)
