"""The worker's loop: what becomes of a job when its handler ends in each of the ways it can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from pacs.errors import BadObject, Conflict, Corrupt, Exhausted, NodeError, Unreachable
from pacs.index import Index, catalog, jobs
from pacs.index.jobs import Job
from pacs.worker import End, Handler, Worker, run

PATIENT = "Canary^Carla"


def _enqueue(index: Index, key: str = "a", kind: str = "work") -> None:
    with index.write() as connection:
        assert jobs.enqueue(
            connection,
            key=key,
            kind=kind,
            archive_id=catalog.archive_id(connection, "main"),
            study_instance_uid="1.2",
            generation=1,
            payload={},
        )


def _jobs(index: Index) -> list[Job]:
    with index.read() as connection:
        return jobs.listed(connection, limit=10, cursor=0)


def _ended(index: Index, handler: Handler) -> Job:
    """The one job, after one step with this handler."""
    _enqueue(index)
    assert Worker(index, {"work": handler}).step()
    (job,) = _jobs(index)
    return job


def _raising(error: Exception) -> Handler:
    def handler(_job: Job) -> End:
        raise error

    return handler


def test_without_a_job_nothing_is_done(index: Index) -> None:
    assert not Worker(index, {"work": lambda _job: End()}).step()


def test_jobs_of_other_kinds_are_left_to_others(index: Index) -> None:
    _enqueue(index, kind="other")
    assert not Worker(index, {"work": lambda _job: End()}).step()


def test_a_handler_says_how_its_job_ends(index: Index) -> None:
    job = _ended(index, lambda _job: End(jobs.SKIPPED, "no_fit", "It does not fit."))
    assert (job.state, job.reason_code, job.reason) == ("skipped", "no_fit", "It does not fit.")


def test_a_handler_that_ended_its_job_itself_is_left_alone(index: Index) -> None:
    def handler(job: Job) -> None:
        with index.write() as connection:
            jobs.finish(connection, job, jobs.SUCCEEDED, reason="by itself")

    assert _ended(index, handler).reason == "by itself"


@pytest.mark.parametrize(
    ("error", "code"), [(BadObject("It is bad."), "badobject"), (Corrupt("It is rotten."), "corrupt")]
)  # fmt: skip
def test_what_trying_again_cannot_mend_fails_at_once(
    index: Index, error: NodeError, code: str
) -> None:
    job = _ended(index, _raising(error))
    assert (job.state, job.attempts, job.reason_code) == ("failed", 1, code)
    assert job.reason == error.message


@pytest.mark.parametrize(
    "error", [Unreachable("Nobody answers."), Exhausted("No room."), KeyError(1)]
)
def test_what_may_pass_is_tried_again_later(index: Index, error: Exception) -> None:
    worker = Worker(index, {"work": _raising(error)})
    _enqueue(index)
    assert worker.step()
    (job,) = _jobs(index)
    assert (job.state, job.attempts) == ("queued", 1)
    assert not worker.step(), "there is a pause first"


def test_the_last_attempt_fails_aloud(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "RETRY_PAUSE_S", 0.0)
    worker = Worker(index, {"work": _raising(Unreachable("Nobody answers."))})
    _enqueue(index)
    assert [worker.step() for _ in range(jobs.ATTEMPTS_MAX + 1)] == [True] * jobs.ATTEMPTS_MAX + [
        False
    ]
    (job,) = _jobs(index)
    assert (job.state, job.reason) == ("failed", "Nobody answers.")


def test_a_bug_is_told_by_its_place_and_not_by_its_words(
    index: Index, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        job = _ended(index, _raising(ValueError(PATIENT)))
    assert (job.reason_code, job.reason) == ("internal_error", "The worker met a ValueError.")
    assert "ValueError at ['_attempt" in caplog.text
    assert PATIENT not in caplog.text


def test_a_job_that_was_taken_over_is_not_touched(index: Index) -> None:
    def handler(job: Job) -> End:
        with index.write() as connection:
            jobs.renew(connection, job, lease_s=-1)
            taken = jobs.claim(connection, ["work"])
        assert taken is not None
        return End()

    job = _ended(index, handler)
    assert (job.state, job.token) == ("running", 2)


def test_a_handler_that_meets_the_fence_leaves_the_job_to_its_new_owner(index: Index) -> None:
    assert _ended(index, _raising(Conflict("It is held."))).state == "running"


def test_a_job_under_way_is_finished_before_the_worker_stops(index: Index) -> None:
    stop = threading.Event()

    def handler(_job: Job) -> End:
        stop.set()
        return End()

    _enqueue(index, "a")
    _enqueue(index, "b")
    Worker(index, {"work": handler}).run(stop)
    assert sorted(job.state for job in _jobs(index)) == ["queued", "succeeded"]


def _until_enough(
    stop: threading.Event, sweep: Callable[[], int]
) -> tuple[list[int], Callable[[], int]]:
    """A sweep that counts its calls and stops the worker at the second."""
    calls: list[int] = []

    def counted() -> int:
        calls.append(1)
        if len(calls) == 2:
            stop.set()
        return sweep()

    return calls, counted


def _unreachable() -> int:
    raise Unreachable("Nobody answers.")


def test_a_sweep_that_finds_the_index_silent_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pacs.worker.SWEEP_S", 0.01)
    stop = threading.Event()
    calls, sweep = _until_enough(stop, _unreachable)
    run([], [sweep], stop)
    assert len(calls) == 2


def test_a_delivery_that_hangs_holds_up_no_other_work(index: Index) -> None:
    stop, is_hanging, is_worked = threading.Event(), threading.Event(), threading.Event()

    def hang(_job: Job) -> End:
        is_hanging.set()
        assert is_worked.wait(20)
        return End()

    def work(_job: Job) -> End:
        assert is_hanging.wait(20)
        is_worked.set()
        stop.set()
        return End()

    _enqueue(index, "a", kind="deliver")
    _enqueue(index, "b")
    run([Worker(index, {"deliver": hang}), Worker(index, {"work": work})], [], stop)
    assert {job.state for job in _jobs(index)} == {"succeeded"}


def test_a_job_that_meets_bugs_is_given_up_soon(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "RETRY_PAUSE_S", 0.0)
    worker = Worker(index, {"work": _raising(KeyError(1))})
    _enqueue(index)
    assert [worker.step() for _ in range(4)] == [True, True, True, False]
    (job,) = _jobs(index)
    assert (job.state, job.faults) == ("failed", 2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_whose_sweeps_met_a_bug_ends_so_that_a_new_one_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pacs.worker.SWEEP_S", 0.01)
    with pytest.raises(AssertionError, match="a sweep or a worker met a bug"):
        run([], [lambda: 1 // 0], threading.Event())
