"""`/api`: what the node knows of its studies, models, jobs and peers, as JSON.

Plural nouns, stable ids, `limit` and `cursor` for pages; errors are problem documents. Pages and
viewers use what stands here and in DICOMweb, and have no door of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response

from inference.registry import Model
from pacs.errors import Missing
from pacs.index.jobs import Job
from pacs.peers import Peer, rights_of
from pacs.workflow import JOBS_LISTED_MAX, Run
from web.auth import Caller
from web.limits import NUMBER_MAX
from web.parts import Parts

STATUS_STUDIES_MAX: Final = 500  # studies of one worklist status, the newest; a longer list is cut

Limit = Annotated[int, Query(ge=1, le=JOBS_LISTED_MAX)]
Cursor = Annotated[int, Query(ge=0, le=NUMBER_MAX)]


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
class PeerBody:
    """What is said of a peer: `rights` are some of store, query, retrieve, commit and receive."""

    host: str
    port: int = 0
    tls: bool = False
    rights: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PeerView:
    """One peer, and what was last heard of it. Times are seconds since 1970."""

    ae_title: str
    host: str
    port: int
    tls: bool
    rights: list[str]
    last_association_at: float | None
    last_error: str
    last_error_at: float | None


@dataclass(frozen=True, slots=True)
class PeerViews:
    """The peers, by AE title."""

    peers: list[PeerView]


@dataclass(frozen=True, slots=True)
class EchoView:
    """Whether a peer answered a C-ECHO, else why not in plain words."""

    answered: bool
    reason: str
    elapsed_ms: float


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
    routes.add_api_route("/peers", api.peers)
    # An AE title may hold a slash.
    routes.add_api_route("/peers/{ae_title:path}", api.peer)
    routes.add_api_route("/peers/{ae_title:path}", api.put_peer, methods=["PUT"])
    routes.add_api_route(
        "/peers/{ae_title:path}", api.remove_peer, methods=["DELETE"], status_code=204
    )
    routes.add_api_route("/peers/{ae_title:path}/echo", api.echo, methods=["POST"])
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

    def peers(self, caller: Caller) -> PeerViews:
        """The peers of this node."""
        del caller  # a peer is a machine; every signed-in caller may know of it
        return PeerViews([_peer_view(peer) for peer in self._parts.peers.list()])

    def peer(self, ae_title: str, caller: Caller) -> PeerView:
        """One peer. Raises Missing."""
        del caller  # as above
        return _peer_view(self._parts.peers.get(ae_title))

    def put_peer(
        self, ae_title: str, body: PeerBody, caller: Caller, response: Response
    ) -> PeerView:
        """Enter a peer (201), or replace what is said of it (200). Raises BadQuery or Exhausted."""
        peer = Peer(ae_title, body.host, body.port, body.tls, rights_of(body.rights))
        is_new = self._parts.peers.put(caller, peer)
        response.status_code = HTTPStatus.CREATED if is_new else HTTPStatus.OK
        return _peer_view(self._parts.peers.get(ae_title))

    def remove_peer(self, ae_title: str, caller: Caller) -> None:
        """Remove a peer. Raises Missing."""
        self._parts.peers.remove(caller, ae_title)

    def echo(self, ae_title: str, caller: Caller) -> EchoView:
        """Ask a peer whether it is there (C-ECHO). Raises Missing, or BadQuery without a host."""
        del caller  # nothing is told or changed but that the peer was asked
        echo = self._parts.echo(ae_title)
        return EchoView(echo.is_answered, echo.reason, echo.elapsed_ms)

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


def _peer_view(peer: Peer) -> PeerView:
    return PeerView(
        ae_title=peer.ae_title,
        host=peer.host,
        port=peer.port,
        tls=peer.tls,
        rights=sorted(right.value for right in peer.rights),
        last_association_at=peer.last_association_at,
        last_error=peer.last_error,
        last_error_at=peer.last_error_at,
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
