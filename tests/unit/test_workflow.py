"""When a study is complete, what follows from it, and which of its results is the visible one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Connection

from pacs.archive import Archive, Scope, upkeep
from pacs.errors import Refused, Unreachable
from pacs.index import Index, audit, jobs
from pacs.index.jobs import Job
from pacs.store.files import FileStore
from pacs.workflow import INFER, NODE, RELEASE, Completed, ModelRef, Plan, Run, Workflow
from tests import make

QUIET_S: Final = 0.02
MODEL: Final = ModelRef("lung", "1.0", "ab" * 32)
OTHER_MODEL: Final = ModelRef("bone", "2.0", "cd" * 32)
STUDY: Final = make.uid("study")


@pytest.fixture
def stored(tmp_path: Path, index: Index) -> Archive:
    """An archive with the first of some slices in it."""
    archive = Archive("main", FileStore(tmp_path / "objects"), index)
    _store(archive, 1)
    return archive


def _store(archive: Archive, number: int) -> None:
    archive.store(make.SCANNER, make.incoming(make.data_set(number)))


def _workflow(archive: Archive, *models: ModelRef, quiet_s: float = QUIET_S) -> Workflow:
    return Workflow(archive.index, archive, Plan(models or (MODEL,), ("demo",)), quiet_s=quiet_s)


def _complete(workflow: Workflow) -> int:
    time.sleep(2 * QUIET_S)
    return workflow.complete_quiet_studies()


def _claimed(archive: Archive, kind: str = INFER) -> Job:
    with archive.index.write() as connection:
        job = jobs.claim(connection, [kind])
    assert job is not None
    return job


def _keep(archive: Archive, job: Job, **record: Any) -> None:  # noqa: ANN401 - JSON of any shape
    """End a job as the pipeline does."""
    told: Mapping[str, Any] = {**job.payload, "planned_at": job.created_at, **record}
    archive.keep_result(NODE, job, [], model=job.payload["model"], state="succeeded", record=told)


def _fail(archive: Archive, job: Job) -> None:
    with archive.index.write() as connection:
        jobs.finish(connection, job, jobs.FAILED, reason_code="bad", reason="It broke.")


def _runs(workflow: Workflow) -> list[tuple[int, str, str]]:
    return [(run.generation, run.model, run.state) for run in _results(workflow)]


def _results(workflow: Workflow) -> list[Run]:
    return workflow.results(make.READER, STUDY)


def test_a_study_that_still_receives_is_left_alone(stored: Archive) -> None:
    workflow = _workflow(stored, quiet_s=60)
    assert workflow.complete_quiet_studies() == 0
    assert workflow.jobs() == []


def test_a_quiet_study_gets_a_generation_and_its_jobs_once(stored: Archive) -> None:
    workflow = _workflow(stored, MODEL, OTHER_MODEL)
    assert [_complete(workflow), _complete(workflow)] == [1, 0]
    found = [(job.kind, job.generation, job.payload) for job in reversed(workflow.jobs())]
    assert found == [
        (RELEASE, 1, {"project": "demo"}),
        (INFER, 1, MODEL.named()),
        (INFER, 1, OTHER_MODEL.named()),
    ]
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert (status.state, status.generation, status.ai) == ("complete", 1, "queued")


def test_a_study_that_was_deleted_and_came_again_is_analysed_again(stored: Archive) -> None:
    workflow = _workflow(stored, MODEL)
    _complete(workflow)
    stored.delete(make.READER, Scope(STUDY))
    _store(stored, 1)
    assert _complete(workflow) == 1
    assert [job.generation for job in workflow.jobs() if job.kind == INFER] == [2, 1]


def test_a_study_can_be_completed_before_it_is_quiet(stored: Archive) -> None:
    workflow = _workflow(stored, quiet_s=60)
    with stored.index.write() as connection:
        assert workflow.complete(connection, STUDY)
        assert not workflow.complete(connection, STUDY), "it is complete already"
        assert not workflow.complete(connection, make.uid("another study"))
    assert [job.kind for job in workflow.jobs()] == [INFER, RELEASE]


def test_what_follows_from_completion_shares_its_transaction(stored: Archive) -> None:
    told: list[Completed] = []

    def refuse(_connection: Connection, completed: Completed) -> None:
        told.append(completed)
        raise Unreachable("Nobody answers.")

    workflow = Workflow(stored.index, stored, Plan(), quiet_s=QUIET_S, consequences=[refuse])
    with pytest.raises(Unreachable):
        _complete(workflow)
    assert told == [Completed("main", stored.id, STUDY, 1)]
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert status.state == "receiving"


def test_completion_is_in_the_audit_trail(stored: Archive) -> None:
    _complete(_workflow(stored))
    with stored.index.read() as connection:
        assert audit.verify(connection) == ()
        events = connection.exec_driver_sql("SELECT event FROM audit").scalars().all()
    assert any('"action":"complete"' in event for event in events)


def test_a_late_slice_supersedes_what_is_queued_and_what_was_found(stored: Archive) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    _keep(stored, _claimed(stored))
    _store(stored, 2)
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert (status.state, status.generation) == ("receiving", 1)
    assert _runs(workflow) == [(1, "lung", "succeeded")], "until there is a better one"
    _complete(workflow)
    assert {(job.kind, job.generation, job.state) for job in workflow.jobs()} == {
        (RELEASE, 1, "superseded"),
        (INFER, 1, "succeeded"),
        (RELEASE, 2, "queued"),
        (INFER, 2, "queued"),
    }
    _keep(stored, _claimed(stored))
    assert _runs(workflow) == [(2, "lung", "succeeded"), (1, "lung", "superseded")]


def test_the_same_slice_again_changes_nothing(stored: Archive) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    before = workflow.jobs()
    _store(stored, 1)
    assert _complete(workflow) == 0
    assert workflow.jobs() == before


def test_an_earlier_generation_that_failed_is_superseded_too(stored: Archive) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    _fail(stored, _claimed(stored))
    assert [run.state for run in _results(workflow)] == ["failed"]
    _store(stored, 2)
    _complete(workflow)
    _keep(stored, _claimed(stored), findings=[{"words": "All is well"}])
    assert _runs(workflow) == [(2, "lung", "succeeded"), (1, "lung", "superseded")]
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert (status.ai, status.summary) == ("succeeded", "All is well")


def test_an_earlier_generation_that_ends_last_is_superseded(stored: Archive) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    slow = _claimed(stored)
    _store(stored, 2)
    _complete(workflow)
    _keep(stored, _claimed(stored))
    assert _runs(workflow) == [(2, "lung", "succeeded"), (1, "lung", "superseded")]
    _keep(stored, slow)
    assert _runs(workflow) == [(2, "lung", "succeeded"), (1, "lung", "superseded")]


def test_one_models_failure_is_seen_beside_anothers_success(stored: Archive) -> None:
    workflow = _workflow(stored, MODEL, OTHER_MODEL)
    _complete(workflow)
    _keep(stored, _claimed(stored))
    _fail(stored, _claimed(stored))
    assert _runs(workflow) == [(1, "bone", "failed"), (1, "lung", "succeeded")]
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert (status.ai, status.summary) == ("failed", "It broke.")


def test_copies_of_a_project_are_complete_and_nothing_follows(
    stored: Archive, tmp_path: Path
) -> None:
    copies = Archive("project-demo", FileStore(tmp_path / "copies"), stored.index)
    copies.store(NODE, make.incoming(make.data_set(study_instance_uid=make.uid("copy"))))
    workflow = _workflow(stored)
    assert _complete(workflow) == 2
    assert {job.study_instance_uid for job in workflow.jobs()} == {STUDY}
    assert workflow.statuses(make.READER, [make.uid("copy")]) == []


def test_a_result_is_kept_once_however_often_it_is_written(stored: Archive) -> None:
    _complete(_workflow(stored))
    job = _claimed(stored)
    _keep(stored, job)
    before = set(stored.objects.digests())
    with pytest.raises(Refused):
        _keep(stored, job)
    assert set(stored.objects.digests()) == before


def test_a_rebuilt_study_that_received_more_after_its_last_run_is_completed_anew(
    stored: Archive,
) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    job = _claimed(stored)
    _store(stored, 2)  # while the model runs
    _keep(stored, job)
    assert upkeep.rebuild(stored, make.READER) == []
    assert _complete(workflow) == 1
    (status,) = workflow.statuses(make.READER, [STUDY])
    assert (status.state, status.generation) == ("complete", 2)


def test_a_rebuilt_study_stands_where_its_last_run_left_it(stored: Archive) -> None:
    workflow = _workflow(stored)
    for generation in (1, 2):
        _store(stored, generation)
        _complete(workflow)
        _keep(stored, _claimed(stored))
    before = _results(workflow), workflow.statuses(make.READER, [STUDY])
    assert upkeep.rebuild(stored, make.READER) == []
    assert _complete(workflow) == 0
    assert (_results(workflow), workflow.statuses(make.READER, [STUDY])) == before


def test_the_counts_tell_rows_and_jobs(stored: Archive) -> None:
    workflow = _workflow(stored)
    _complete(workflow)
    counts = workflow.counts()
    assert (counts["studies"], counts["instances"], counts["jobs_queued"]) == (1, 1, 2)


def test_pages_of_jobs_follow_each_other(stored: Archive) -> None:
    workflow = _workflow(stored, MODEL, OTHER_MODEL)
    _complete(workflow)
    first = workflow.jobs(limit=2)
    second = workflow.jobs(limit=2, cursor=first[-1].id)
    assert [job.id for job in first + second] == sorted(
        (job.id for job in workflow.jobs()), reverse=True
    )
    assert (len(first), len(second)) == (2, 1)
