"""The queue on every database: no job is lost, none is done twice, and the last attempt ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from pacs.errors import Conflict
from pacs.index import Index, catalog, jobs
from pacs.index.jobs import FAILED, FAULTS_MAX, QUEUED, RUNNING, STATES, SUCCEEDED, Job
from pacs.index.schema import archives, now
from pacs.index.schema import jobs as jobs_table

KINDS = ["infer"]
PATIENCE = 5  # attempts of a job in these tests


def enqueue(index: Index, key: str, *, generation: int = 1, study: str = "1.2") -> bool:
    with index.write() as connection:
        return jobs.enqueue(
            connection,
            key=key,
            kind="infer",
            archive_id=catalog.archive_id(connection, "main"),
            study_instance_uid=study,
            generation=generation,
            payload={"model": "a", "number": 1},
            attempts_max=PATIENCE,
        )


def claim(index: Index, *, lease_s: float = 60.0, kinds: Sequence[str] = KINDS) -> Job | None:
    with index.write() as connection:
        return jobs.claim(connection, kinds, lease_s=lease_s)


def claimed(index: Index, *, lease_s: float = 60.0) -> Job:
    job = claim(index, lease_s=lease_s)
    assert job is not None
    return job


def finish(index: Index, job: Job, state: str = SUCCEEDED) -> None:
    with index.write() as connection:
        jobs.finish(connection, job, state)


def give_back(index: Index, job: Job, *, is_fault: bool = False) -> bool:
    with index.write() as connection:
        return jobs.give_back(
            connection, job, reason_code="timeout", reason="It took too long.", is_fault=is_fault
        )


def make_due(index: Index) -> None:
    """Let the pauses of all jobs be over."""
    with index.write() as connection:
        connection.execute(update(jobs_table).values(not_before=0.0))


def only(index: Index) -> Job:
    with index.read() as connection:
        (job,) = jobs.listed(connection, limit=10, cursor=0)
    return job


def test_a_job_goes_its_way(index: Index) -> None:
    assert claim(index) is None
    assert enqueue(index, "one")
    queued = only(index)
    assert (queued.state, queued.attempts, queued.started_at) == (QUEUED, 0, None)
    job = claimed(index)
    assert (job.key, job.kind, job.archive, job.study_instance_uid) == (
        "one",
        "infer",
        "main",
        "1.2",
    )
    assert job.payload == {"model": "a", "number": 1}
    assert (job.state, job.attempts, job.generation) == (RUNNING, 1, 1)
    assert claim(index) is None
    finish(index, job)
    ended = only(index)
    assert ended.state == SUCCEEDED
    assert ended.finished_at is not None
    assert job.started_at is not None
    assert ended.finished_at >= job.started_at >= queued.created_at
    assert claim(index) is None


def test_a_job_is_enqueued_once(index: Index) -> None:
    assert enqueue(index, "one")
    assert not enqueue(index, "one")
    finish(index, claimed(index))
    assert not enqueue(index, "one")
    assert claim(index) is None


def test_a_job_is_lost_with_the_transaction_of_its_cause(index: Index) -> None:
    def fail() -> None:
        with index.write() as connection:
            archive_id = catalog.archive_id(connection, "main")
            jobs.enqueue(
                connection,
                key="one",
                kind="infer",
                archive_id=archive_id,
                study_instance_uid="1.2",
                generation=1,
                payload={},
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert claim(index) is None


def test_the_oldest_job_of_the_wanted_kinds_comes_first(index: Index) -> None:
    for key in ("one", "two", "three"):
        enqueue(index, key)
    assert claim(index, kinds=["export"]) is None
    assert claim(index, kinds=[]) is None
    assert [claimed(index).key for _ in range(3)] == ["one", "two", "three"]


def test_a_lease_that_ran_out_gives_the_job_to_another_worker(index: Index) -> None:
    enqueue(index, "one")
    late = claimed(index, lease_s=-1)
    other = claimed(index)
    assert (other.id, other.attempts) == (late.id, 2)
    assert other.token > late.token


def test_a_worker_that_wakes_up_late_changes_nothing(index: Index) -> None:
    enqueue(index, "one")
    late = claimed(index, lease_s=-1)
    other = claimed(index)
    for verb in (finish, give_back):
        with pytest.raises(Conflict):
            verb(index, late)
    with pytest.raises(Conflict), index.write() as connection:
        jobs.renew(connection, late)
    assert only(index).state == RUNNING
    finish(index, other)
    with pytest.raises(Conflict):
        finish(index, late)
    with pytest.raises(Conflict):
        finish(index, other)


def test_what_a_late_worker_wrote_is_undone_with_its_end(index: Index) -> None:
    enqueue(index, "one")
    late = claimed(index, lease_s=-1)
    claimed(index)

    def write_late() -> None:
        with index.write() as connection:
            catalog.archive_id(connection, "written by the late one")
            jobs.finish(connection, late, SUCCEEDED)

    with pytest.raises(Conflict):
        write_late()
    with index.read() as connection:
        assert connection.scalars(select(archives.c.name)).all() == ["main"]


def test_a_silent_worker_that_nobody_replaced_may_still_finish(index: Index) -> None:
    enqueue(index, "one")
    job = claimed(index, lease_s=-1)
    finish(index, job)
    assert only(index).state == SUCCEEDED


def test_a_renewed_lease_holds(index: Index) -> None:
    enqueue(index, "one")
    job = claimed(index, lease_s=-1)
    with index.write() as connection:
        jobs.renew(connection, job)
    assert claim(index) is None


def test_a_job_given_back_waits_and_fails_after_its_last_attempt(index: Index) -> None:
    enqueue(index, "one")
    for attempt in range(1, PATIENCE):
        job = claimed(index)
        assert job.attempts == attempt
        assert give_back(index, job)
        assert claim(index) is None, "there is a pause before the next attempt"
        assert only(index).reason == "It took too long."
        make_due(index)
    last = claimed(index)
    assert last.reason == ""
    assert not give_back(index, last)
    failed = only(index)
    assert (failed.state, failed.attempts, failed.reason_code) == (FAILED, PATIENCE, "timeout")
    make_due(index)
    assert claim(index) is None


def test_a_job_that_meets_bugs_fails_before_its_patience_ends(index: Index) -> None:
    enqueue(index, "one")
    for _ in range(FAULTS_MAX - 1):
        assert give_back(index, claimed(index), is_fault=True)
        make_due(index)
    assert not give_back(index, claimed(index), is_fault=True)
    assert only(index).state == FAILED


def test_a_patient_delivery_outlives_a_lost_worker(index: Index) -> None:
    enqueue(index, "one")
    for _ in range(FAULTS_MAX):
        assert give_back(index, claimed(index))
        make_due(index)
    claimed(index, lease_s=-1)
    with index.write() as connection:
        assert jobs.fail_silent(connection) == 0
    assert claimed(index).faults == 1


def test_no_pause_is_longer_than_an_hour(index: Index) -> None:
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, "main")
        jobs.enqueue(
            connection,
            key="far",
            kind="infer",
            archive_id=archive_id,
            study_instance_uid="",
            generation=0,
            payload={},
            attempts_max=jobs.DELIVERY_ATTEMPTS_MAX,
        )
        connection.execute(update(jobs_table).values(attempts=100))
        before = connection.execute(select(now())).scalar_one()
    assert give_back(index, claimed(index))
    with index.read() as connection:
        due = connection.execute(select(jobs_table.c.not_before)).scalar_one()
    assert 3_600 <= due - before < 3_660


def test_an_idle_look_tells_whether_a_claim_would_find_something(index: Index) -> None:
    def is_any_due(kind: str = "infer") -> bool:
        with index.read() as connection:
            return jobs.is_any_due(connection, [kind])

    assert not is_any_due()
    enqueue(index, "one")
    assert is_any_due()
    assert not is_any_due("release")
    claimed(index)
    assert not is_any_due()


def test_a_job_whose_last_worker_fell_silent_fails_aloud(index: Index) -> None:
    enqueue(index, "one")
    for _ in range(FAULTS_MAX):
        last = claimed(index, lease_s=-1)
    assert claim(index) is None
    with index.write() as connection:
        assert jobs.fail_silent(connection) == 1
        assert jobs.fail_silent(connection) == 0
    failed = only(index)
    assert (failed.state, failed.reason_code) == (FAILED, "worker_lost")
    with pytest.raises(Conflict):
        finish(index, last)


def test_a_worker_that_is_alive_is_not_failed(index: Index) -> None:
    enqueue(index, "one")
    for _ in range(FAULTS_MAX - 1):
        claimed(index, lease_s=-1)
    claimed(index, lease_s=60)
    with index.write() as connection:
        assert jobs.fail_silent(connection) == 0


def test_a_later_generation_supersedes_what_has_not_begun(index: Index) -> None:
    enqueue(index, "begun", generation=1)
    claimed(index)
    enqueue(index, "old", generation=1)
    enqueue(index, "new", generation=2)
    enqueue(index, "other study", generation=1, study="9.9")
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, "main")
        assert jobs.supersede(connection, archive_id, "1.2", before=2) == 1
    with index.read() as connection:
        states = {job.key: job.state for job in jobs.listed(connection, limit=9, cursor=0)}
    assert states == {
        "begun": RUNNING,
        "old": jobs.SUPERSEDED,
        "new": QUEUED,
        "other study": QUEUED,
    }


def test_jobs_are_listed_newest_first_in_pages_and_counted(index: Index) -> None:
    for n in range(5):
        enqueue(index, f"job {n}", study=f"1.{n % 2}")
    finish(index, claimed(index))
    with index.read() as connection:
        first = jobs.listed(connection, limit=2, cursor=0)
        second = jobs.listed(connection, limit=9, cursor=first[-1].id)
        assert [job.key for job in first + second] == [f"job {n}" for n in (4, 3, 2, 1, 0)]
        assert len(jobs.listed(connection, state=SUCCEEDED, limit=9, cursor=0)) == 1
        assert len(jobs.listed(connection, study="1.1", limit=9, cursor=0)) == 2
        assert jobs.counts(connection) == dict.fromkeys(STATES, 0) | {QUEUED: 4, SUCCEEDED: 1}


def test_many_workers_do_every_job_exactly_once(index: Index) -> None:
    number = 200
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, "main")
        for n in range(number):
            jobs.enqueue(
                connection,
                key=f"job {n}",
                kind="infer",
                archive_id=archive_id,
                study_instance_uid="1.2",
                generation=1,
                payload={},
            )
    done: list[str] = []
    lock = threading.Lock()

    def work(_: int) -> None:
        while (job := claim(index)) is not None:
            finish(index, job)
            with lock:
                done.append(job.key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    # A claim may find its oldest job just taken; then the worker leaves, and another one stays.
    work(0)
    assert sorted(done) == sorted(f"job {n}" for n in range(number))
    with index.read() as connection:
        assert jobs.counts(connection)[SUCCEEDED] == number
