"""`/api`: what the node knows of its studies, models and jobs, as JSON.

Plural nouns, stable ids, `limit` and `cursor` for pages; errors are problem documents. Pages and
viewers use what stands here and in DICOMweb, and have no door of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Query

from inference.registry import Model
from pacs.errors import Missing
from pacs.index.jobs import Job
from pacs.workflow import JOBS_LISTED_MAX, Run
from web.auth import Caller
from web.parts import Parts

STATUS_STUDIES_MAX: Final = 500  # studies of one worklist status, the newest; a longer list is cut

Limit = Annotated[int, Query(ge=1, le=JOBS_LISTED_MAX)]
Cursor = Annotated[int, Query(ge=0)]


@dataclass(frozen=True, slots=True)
class Results:
    """The AI runs of one study, newest generation first."""

    study_instance_uid: str
    results: list[Run]


@dataclass(frozen=True, slots=True)
class StatusView:
    """Where one study stands: whether it is complete, and what AI says of it in words."""

    state: str
    generation: int
    ai: str
    summary: str


@dataclass(frozen=True, slots=True)
class WorklistStatus:
    """The newest studies by Study Instance UID."""

    studies: dict[str, StatusView]


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. Times are seconds since 1970; the reason is empty unless something went wrong."""

    id: int
    kind: str
    state: str
    study_instance_uid: str
    generation: int
    attempts: int
    model: str
    project: str
    reason_code: str
    reason: str
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs, newest first. `cursor` asks for the next page; it is null on the last one."""

    jobs: list[JobView]
    cursor: int | None


@dataclass(frozen=True, slots=True)
class ModelView:
    """One model, as its manifest describes it."""

    id: str
    version: str
    sha256: str
    title: str
    task: str
    regulatory_status: str
    intended_use: str
    limitations: list[str]
    metrics: list[str]
    training_data: list[str]
    references: list[str]


@dataclass(frozen=True, slots=True)
class FaultView:
    """A folder that holds no usable model, and why."""

    folder: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Models:
    """The models this node can run, and the folders it cannot use."""

    models: list[ModelView]
    faults: list[FaultView]


@dataclass(frozen=True, slots=True)
class Version:
    """Which release answers."""

    name: str
    version: str


def router(parts: Parts) -> APIRouter:
    """The routes of `/api`."""
    api = Api(parts)
    routes = APIRouter(prefix="/api", tags=["API"])
    routes.add_api_route("/studies/{study_instance_uid}/results", api.results)
    routes.add_api_route("/worklist-status", api.worklist_status)
    routes.add_api_route("/jobs", api.jobs)
    routes.add_api_route("/models", api.models)
    routes.add_api_route("/version", api.version)
    return routes


class Api:
    """What the pages show and other programs read."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def results(self, study_instance_uid: str, caller: Caller) -> Results:
        """The AI runs of a study. Raises Missing for a study that is not here."""
        if not self._parts.workflow.statuses(caller, [study_instance_uid]):
            raise Missing("there is no such study here")
        return Results(study_instance_uid, self._parts.workflow.results(caller, study_instance_uid))

    def worklist_status(
        self,
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=STATUS_STUDIES_MAX)] = 100,
    ) -> WorklistStatus:
        """Where the newest studies stand, for the viewer's AI column."""
        newest = self._parts.workflow.newest(caller, limit)
        return WorklistStatus(
            {
                found.study_instance_uid: StatusView(
                    found.state, found.generation, found.ai, found.summary
                )
                for found in newest
            }
        )

    def jobs(
        self,
        caller: Caller,
        state: str = "",
        study: str = "",
        limit: Limit = 100,
        cursor: Cursor = 0,
    ) -> Jobs:
        """One page of jobs, of one state or study where that is asked for."""
        del caller  # jobs name models and studies, no patient; every signed-in caller may read them
        found = self._parts.workflow.jobs(state=state, study=study, limit=limit, cursor=cursor)
        return Jobs(
            [_job_view(job) for job in found], found[-1].id if len(found) == limit else None
        )

    def models(self, caller: Caller) -> Models:
        """The model registry."""
        del caller  # a model card is for everyone who may see a result
        registry = self._parts.models
        return Models(
            [_model_view(model) for model in registry.list()],
            [FaultView(fault.folder, fault.sentence) for fault in registry.faults()],
        )

    def version(self) -> Version:
        """Name and release."""
        return Version("Isocenter", self._parts.version)


def _job_view(job: Job) -> JobView:
    return JobView(
        id=job.id,
        kind=job.kind,
        state=job.state,
        study_instance_uid=job.study_instance_uid,
        generation=job.generation,
        attempts=job.attempts,
        model=str(job.payload.get("model", "")),
        project=str(job.payload.get("project", "")),
        reason_code=job.reason_code,
        reason=job.reason,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _model_view(model: Model) -> ModelView:
    described = model.manifest.metadata
    card = described.model_card
    return ModelView(
        id=model.id,
        version=model.version,
        sha256=model.sha256,
        title=described.title,
        task=described.task,
        regulatory_status=described.regulatory.status,
        intended_use=described.intended_use,
        limitations=list(card.limitations),
        metrics=list(card.metrics),
        training_data=list(card.training_data),
        references=list(card.references),
    )
