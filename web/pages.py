"""The node's own pages: worklist, study, models and jobs, rendered here without any script.

A page shows what DICOMweb and `/api` give, in words. Every value passes the templates' escaping,
and the content security policy lets a browser load this node's style sheet and nothing else, so a
hostile patient name stays text. Addresses carry search terms; no page sends them on as a referrer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter
from fastapi import Query as Parameter
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from inference.words import in_words
from pacs.access import Actor
from pacs.archive import Scope
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.matching import LIMIT_MAX, Match, Query, parse_key
from pacs.errors import Missing, NodeError
from pacs.index.jobs import QUEUED, RUNNING, STATES
from pacs.workflow import Run, StudyStatus
from web import words
from web.api import Api
from web.auth import Caller
from web.dicomweb import IDENTIFIED
from web.errors import status_of
from web.parts import Parts

STUDIES_PER_PAGE: Final = 25
JOBS_PER_PAGE: Final = 50
WAITED: Final = "queued"  # the stage of a run's timings in which nothing was done yet
REFRESH_S: Final = 5  # how often a page that waits for a result asks again
STATIC_MAX_AGE_S: Final = 31_536_000  # a style sheet's address names its content

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-store",
    "X-Content-Type-Options": "nosniff",
}
STATIC: Final[Mapping[str, str]] = {"style.css": "text/css", "mark.svg": "image/svg+xml"}

Text = Annotated[str, Field(max_length=256)]


def router(parts: Parts) -> APIRouter:
    """The routes of the pages and of their style sheet."""
    pages = Pages(parts)
    routes = APIRouter(include_in_schema=False, route_class=PageRoute)
    routes.add_api_route("/", pages.worklist)
    routes.add_api_route("/studies/{study_instance_uid}", pages.study)
    routes.add_api_route("/fragments/study/{study_instance_uid}", pages.study_fragment)
    routes.add_api_route("/models", pages.models)
    routes.add_api_route("/jobs", pages.jobs)
    routes.add_api_route("/static/{name}", pages.static)
    return routes


class PageRoute(APIRoute):
    """A route whose errors are pages too: a person asked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with errors of ours as a page."""
        handler = super().get_route_handler()

        async def answered(request: Request) -> Response:
            try:
                return await handler(request)
            except NodeError as error:
                return rendered("error.html", {"message": error.message}, status=status_of(error))

        return answered


class Search(BaseModel, frozen=True):
    """The worklist's search form, as it was filled in, and which page of its answer is wanted."""

    name: Text = ""
    id: Text = ""
    accession: Text = ""
    modality: Text = ""
    date_from: Text = ""
    date_to: Text = ""
    page: Annotated[int, Field(ge=1, le=1_000_000)] = 1

    def query(self) -> Query:
        """The studies of this page. Raises BadQuery."""
        keys: dict[str, str] = {
            "PatientName": _anywhere(self.name),
            "PatientID": _anywhere(self.id),
            "AccessionNumber": _anywhere(self.accession),
            "ModalitiesInStudy": self.modality.strip().upper(),
            "StudyDate": self._dates(),
        }
        matches: dict[Any, Match] = {
            INDEXED[keyword]: parse_key(INDEXED[keyword], text)
            for keyword, text in keys.items()
            if text
        }
        offset = (self.page - 1) * STUDIES_PER_PAGE
        return Query(Level.STUDY, matches, limit=STUDIES_PER_PAGE, offset=offset)

    def _dates(self) -> str:
        first, last = (day.replace("-", "").strip() for day in (self.date_from, self.date_to))
        return f"{first}-{last}" if first or last else ""

    def address(self, page: int) -> str:
        """The worklist's address for the same search and another page."""
        return "/?" + urlencode({**self.model_dump(exclude_defaults=True), "page": page})

    @property
    def is_empty(self) -> bool:
        """Whether nothing was asked for."""
        return self == Search(page=self.page)


def _anywhere(text: str) -> str:
    """What was typed, found anywhere in a value unless it has wildcards of its own."""
    text = text.strip()
    return text if not text or "*" in text or "?" in text else f"*{text}*"


class Pages:
    """What a person sees of the node."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._api = Api(parts)

    def worklist(self, caller: Caller, search: Annotated[Search, Parameter()]) -> Response:
        """The studies that fit the form, newest first, with what AI said of each."""
        found = self._parts.identified.search(caller, search.query())
        uids = [str(row["StudyInstanceUID"]) for row in found.rows]
        stands = {s.study_instance_uid: s for s in self._parts.workflow.statuses(caller, uids)}
        return self._page(
            "worklist.html",
            search=search,
            more=found.more,
            rows=[(row, _stand(row, stands)) for row in found.rows],
        )

    def study(self, study_instance_uid: str, caller: Caller) -> Response:
        """One study: who and what, AI results, series."""
        return self._study("study.html", study_instance_uid, caller)

    def study_fragment(self, study_instance_uid: str, caller: Caller) -> Response:
        """The same without header and footer, for the viewer's preview."""
        return self._study("study_fragment.html", study_instance_uid, caller)

    def _study(self, template: str, study_instance_uid: str, caller: Actor) -> Response:
        found = self._rows(caller, Level.STUDY, study_instance_uid)
        if not found:
            raise Missing("There is no such study here.")
        runs = self._parts.workflow.results(caller, study_instance_uid)
        (stand,) = self._parts.workflow.statuses(caller, [study_instance_uid])
        return self._page(
            template,
            study=found[0],
            series=self._rows(caller, Level.SERIES, study_instance_uid),
            runs=[run_view(run, self._report(caller, study_instance_uid, run)) for run in runs],
            stand=stand,
            dicomweb=f"{IDENTIFIED}/studies/{study_instance_uid}",
            refresh_s=REFRESH_S if _is_waiting(stand, runs) else 0,
        )

    def _report(self, caller: Actor, study_instance_uid: str, run: Run) -> list[str]:
        """The structured reports of a run as sentences; none if they were deleted."""
        archive, lines = self._parts.identified, []
        for written in run.objects:
            if written["kind"] != "SR":
                continue
            scope = Scope(
                study_instance_uid, written["series_instance_uid"], written["sop_instance_uid"]
            )
            try:
                (instance,) = archive.retrieve(caller, scope)
            except Missing:
                continue
            raw = archive.data_set(instance)
            lines += in_words(read_data_set(raw, instance.transfer_syntax_uid))
        return lines

    def _rows(
        self, caller: Actor, level: Level, study_instance_uid: str
    ) -> Sequence[Mapping[str, Any]]:
        key = INDEXED["StudyInstanceUID"]
        query = Query(level, {key: parse_key(key, study_instance_uid)}, limit=LIMIT_MAX)
        return self._parts.identified.search(caller, query).rows

    def models(self, caller: Caller) -> Response:
        """The model registry as cards."""
        listed = self._api.models(caller)
        return self._page("models.html", models=listed.models, faults=listed.faults)

    def jobs(
        self,
        caller: Caller,
        state: Annotated[str, Parameter(max_length=16)] = "",
        cursor: Annotated[int, Parameter(ge=0)] = 0,
    ) -> Response:
        """The queue, newest first."""
        listed = self._api.jobs(caller, state, limit=JOBS_PER_PAGE, cursor=cursor)
        return self._page(
            "jobs.html",
            jobs=listed.jobs,
            cursor=listed.cursor,
            state=state,
            states=STATES,
            refresh_s=0 if cursor else REFRESH_S,
        )

    async def static(self, name: str) -> Response:
        """One of the files that the pages need. Raises Missing."""
        if name not in STATIC:
            raise Missing("There is no such file here.")
        headers = {"Cache-Control": f"public, max-age={STATIC_MAX_AGE_S}, immutable"}
        return Response(_static(name), media_type=STATIC[name], headers=HEADERS | headers)

    def _page(self, template: str, **values: object) -> Response:
        return rendered(template, {"version": self._parts.version, **values})


@dataclass(frozen=True, slots=True)
class RunView:
    """One AI run in words. `report` is its structured report, read back from the archive."""

    title: str
    run: Run
    findings: list[words.FindingRow]
    report: list[str]
    objects: list[tuple[str, str]]  # what it is, and its address
    warnings: list[str]
    took: str


def run_view(run: Run, report: list[str]) -> RunView:
    """A run as the study page shows it."""
    took_ms = sum(took for stage, took in run.timings_ms.items() if stage != WAITED)
    return RunView(
        title=str(run.details.get("title") or run.model),
        run=run,
        findings=[words.finding_row(finding) for finding in run.findings],
        report=report,
        objects=[
            (words.OBJECT_WORDS.get(written["kind"], written["kind"]), written["url"])
            for written in run.objects
        ],
        warnings=[_sentence(warning) for warning in run.details.get("warnings", ())],
        took=words.duration(took_ms) if took_ms else "",
    )


def _sentence(reason: object) -> str:
    return words.sentence(reason.get("sentence") if isinstance(reason, Mapping) else reason)


def _stand(row: Mapping[str, Any], stands: Mapping[str, StudyStatus]) -> StudyStatus:
    """Where a study stands; one that was deleted a moment ago stands nowhere."""
    uid = str(row["StudyInstanceUID"])
    return stands.get(uid) or StudyStatus(uid, "complete", 0, "none", "")


def _is_waiting(stand: StudyStatus, runs: Sequence[Run]) -> bool:
    return stand.state == "receiving" or any(run.state in (QUEUED, RUNNING) for run in runs)


def _static(name: str) -> bytes:
    return files("web").joinpath("static", name).read_bytes()


def _address(name: str) -> str:
    """The address of a static file; it changes with the content, so browsers may keep it."""
    return f"/static/{name}?{hashlib.sha256(_static(name)).hexdigest()[:12]}"


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        static={name: _address(name) for name in STATIC},
        state_words=words.STATE_WORDS,
        job_words=words.JOB_WORDS,
        kind_words=words.KIND_WORDS,
        refresh_s=0,
        version="",
    )
    for filter_ in (
        *(words.person_name, words.date, words.time_of_day),
        *(words.text, words.moment, words.sentence),
    ):
        environment.filters[filter_.__name__] = filter_
    return environment


ENVIRONMENT: Final = _environment()


def rendered(template: str, values: Mapping[str, object], *, status: int = 200) -> Response:
    """A template as an answer, with the headers that every page has."""
    body = ENVIRONMENT.get_template(template).render(values)
    return HTMLResponse(body, status_code=status, headers=HEADERS)
