"""What happens next: when a study counts as complete, and which jobs follow from that.

DICOM has no end-of-study signal, so quiet is the guess (docs/promises.md): a study that received
nothing for `quiet_s` is complete. That is a query over rows, not a timer, so no crash can lose it.
Completion raises the study's generation and writes its jobs in one transaction; an instance that
comes later reopens the study, and the next generation supersedes what the last one found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select

from pacs.access import Actor
from pacs.archive import Archive
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.index import Index, audit, catalog, jobs, results
from pacs.index.jobs import Job
from pacs.index.schema import instances, studies

SWEEP_STUDIES_MAX: Final = 100  # completed in one transaction; further ones wait for the next
JOBS_LISTED_MAX: Final = 1_000  # jobs of one page

INFER, RELEASE = "infer", "release"
NODE: Final = Actor("node", "workflow")


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as jobs and results name it."""

    id: str
    version: str
    sha256: str

    def named(self) -> dict[str, str]:
        """As the fields of a job's payload and of a result."""
        return {"model": self.id, "model_version": self.version, "model_sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Completed:
    """A study of the identified archive that has just become complete."""

    archive: str
    archive_id: int
    study_instance_uid: str
    generation: int


# What another service does about it, in the transaction of the completion.
Consequence = Callable[[Connection, Completed], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from a complete study: the models to run and the projects to release it to."""

    models: Sequence[ModelRef] = ()
    projects: Sequence[str] = ()

    def jobs_for(
        self, archive: str, study_instance_uid: str, generation: int
    ) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
        """Key, kind and payload of each job. Equal causes give equal keys, so nothing is doubled."""
        of_study = f"{archive}/{study_instance_uid}/{generation}"
        for project in self.projects:
            yield f"{RELEASE}/{project}/{of_study}", RELEASE, {"project": project}
        for model in self.models:
            yield f"{INFER}/{model.id}/{model.sha256[:16]}/{of_study}", INFER, model.named()


@dataclass(frozen=True, slots=True)
class Run:
    """One AI run on a study, as `/api/studies/{uid}/results` tells it (interface.md)."""

    model: str
    model_version: str
    model_sha256: str
    state: str
    generation: int
    reason: Mapping[str, str] | None
    findings: Sequence[Mapping[str, Any]]
    objects: Sequence[Mapping[str, str]]
    timings_ms: Mapping[str, float]
    provider: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class StudyStatus:
    """Where a study stands, in a line: for the worklist's chip and the viewer's AI column."""

    study_instance_uid: str
    state: str  # receiving, complete
    generation: int
    ai: str  # none, or a job's state
    summary: str  # the findings in words, or the reason why there are none


class Workflow:
    """Completion and its consequences for one identified archive."""

    def __init__(
        self,
        index: Index,
        archive: Archive,
        plan: Plan,
        *,
        quiet_s: float,
        consequences: Sequence[Consequence] = (),
    ) -> None:
        self._index = index
        self._archive = archive
        self._plan = plan
        self._quiet_s = quiet_s
        self._consequences = consequences

    # what happens next

    def complete_quiet_studies(self) -> int:
        """Mark quiet studies complete and write their jobs, all in one transaction; how many."""
        with self._index.read() as connection:
            if not catalog.is_any_quiet(connection, self._quiet_s):
                return 0
        with self._index.write() as connection:
            quiet = catalog.quiet_studies(connection, self._quiet_s, SWEEP_STUDIES_MAX)
            for study in quiet:
                self._complete(connection, study)
        return len(quiet)

    def complete(self, connection: Connection, study_instance_uid: str) -> bool:
        """Complete one study at once, in the caller's transaction; False if it is, or is unknown.

        For who knows better than quiet does: a modality that says its procedure step has ended.
        """
        study = catalog.receiving_study(connection, self._archive.id, study_instance_uid)
        if study is not None:
            self._complete(connection, study)
        return study is not None

    def _complete(self, connection: Connection, study: Row[Any]) -> None:
        uid = study.StudyInstanceUID
        # A study that was deleted and came again begins anew; its former jobs are not its jobs.
        former = jobs.newest_generation(connection, study.archive_id, uid)
        generation = max(study.generation, former) + 1
        catalog.complete_study(connection, study.id, generation)
        if study.archive != self._archive.name:
            return  # a project's copies are complete, and nothing follows from them
        completed = Completed(study.archive, study.archive_id, uid, generation)
        jobs.supersede(connection, study.archive_id, uid, generation)
        for key, kind, payload in self._plan.jobs_for(study.archive, uid, generation):
            jobs.enqueue(
                connection,
                key=key,
                kind=kind,
                archive_id=study.archive_id,
                study_instance_uid=uid,
                generation=generation,
                payload=payload,
            )
        for follow in self._consequences:
            follow(connection, completed)
        audit.append(
            connection,
            NODE,
            "complete",
            archive=study.archive,
            outcome="done",
            subject={"study": uid, "generation": generation},
        )

    def fail_silent_jobs(self) -> int:
        """Fail aloud the jobs that lost a worker once too often; how many."""
        with self._index.write() as connection:
            return jobs.fail_silent(connection)

    # what is known

    def results(self, actor: Actor, study_instance_uid: str) -> list[Run]:
        """Every AI run on a study, ended or not, newest generation first. Raises Forbidden."""
        with self._index.read() as connection:
            waiting = jobs.listed(
                connection, study=study_instance_uid, limit=JOBS_LISTED_MAX, cursor=0
            )
        # In this order: a job that ends meanwhile is then told as the run that it became.
        ended = self._archive.runs(actor, study_instance_uid)
        known = {run.key for run in ended}
        found = [_run_of_record(run) for run in ended]
        found += [_run_of_job(j) for j in waiting if j.kind == INFER and j.key not in known]
        return sorted(_superseded(found), key=lambda run: (-run.generation, run.model))

    def statuses(self, actor: Actor, study_instance_uids: Sequence[str]) -> list[StudyStatus]:
        """Where each of these studies stands; unknown ones are left out."""
        wanted = set(study_instance_uids)
        with self._index.read() as connection:
            rows = connection.execute(
                select(studies.c.StudyInstanceUID, studies.c.state, studies.c.generation).where(
                    studies.c.archive_id == self._archive.id,
                    studies.c.StudyInstanceUID.in_(wanted),
                )
            ).all()
        return [
            _status(row, self.results(actor, row.StudyInstanceUID))
            for row in sorted(rows, key=lambda row: study_instance_uids.index(row.StudyInstanceUID))
        ]

    def newest(self, actor: Actor, limit: int) -> list[StudyStatus]:
        """Where the newest studies stand."""
        found = self._archive.search(actor, Query(Level.STUDY, limit=limit))
        return self.statuses(actor, [str(row["StudyInstanceUID"]) for row in found.rows])

    def jobs(
        self, *, state: str = "", study: str = "", limit: int = 100, cursor: int = 0
    ) -> list[Job]:
        """Jobs, newest first; those with ids below cursor."""
        with self._index.read() as connection:
            return jobs.listed(
                connection,
                state=state,
                study=study,
                limit=min(limit, JOBS_LISTED_MAX),
                cursor=cursor,
            )

    def counts(self) -> Mapping[str, int]:
        """How many studies and instances there are, and jobs in each state. No patient in it."""
        with self._index.read() as connection:
            held = {
                name: int(
                    connection.execute(
                        select(func.count()).where(table.c.archive_id == self._archive.id)
                    ).scalar_one()
                )
                for name, table in (("studies", studies), ("instances", instances))
            }
            return held | {f"jobs_{name}": n for name, n in jobs.counts(connection).items()}


def _superseded(runs: Sequence[Run]) -> Iterable[Run]:
    """The runs, each marked superseded if a later generation of its model has ended.

    An ended run's row says so itself; a job that failed or still runs has no row to say it.
    """
    newest = dict.fromkeys({run.model for run in runs}, 0)
    for run in runs:
        if run.state in jobs.ENDED - {jobs.SUPERSEDED}:
            newest[run.model] = max(newest[run.model], run.generation)
    for run in runs:
        is_old = run.generation < newest[run.model]
        yield replace(run, state=jobs.SUPERSEDED) if is_old else run


def _run_of_record(run: results.Run) -> Run:
    record = run.record
    return Run(
        model=str(record.get("model", run.model)),
        model_version=str(record.get("model_version", "")),
        model_sha256=str(record.get("model_sha256", "")),
        state=run.state,
        generation=run.generation,
        reason=record.get("reason"),
        findings=record.get("findings", []),
        objects=record.get("objects", []),
        timings_ms=record.get("timings_ms", {}),
        provider=str(record.get("provider", "")),
        details=record.get("details", {}),
    )


def _run_of_job(job: Job) -> Run:
    reason = {"code": job.reason_code, "sentence": job.reason} if job.reason_code else None
    return Run(
        model=str(job.payload["model"]),
        model_version=str(job.payload["model_version"]),
        model_sha256=str(job.payload["model_sha256"]),
        state=job.state,
        generation=job.generation,
        reason=reason,
        findings=[],
        objects=[],
        timings_ms={},
        provider="",
        details={},
    )


# Which state speaks for a study with several runs: the one that most needs to be seen.
_LOUDEST: Final = (
    jobs.FAILED,
    jobs.RUNNING,
    jobs.QUEUED,
    jobs.SUCCEEDED,
    jobs.SKIPPED,
    jobs.SUPERSEDED,
)


def _status(row: Row[*tuple[Any, ...]], runs: Sequence[Run]) -> StudyStatus:
    current = [run for run in runs if run.state != jobs.SUPERSEDED]
    loudest = min(current, key=lambda run: _LOUDEST.index(run.state), default=None)
    return StudyStatus(
        row.StudyInstanceUID,
        row.state,
        row.generation,
        loudest.state if loudest else "none",
        _summary(loudest) if loudest else "",
    )


def _summary(run: Run) -> str:
    if run.reason:
        return run.reason.get("sentence", "")
    return "; ".join(str(finding.get("words", "")) for finding in run.findings)
