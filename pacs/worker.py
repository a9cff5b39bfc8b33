"""The worker: take a job, run its handler, judge the error, hold the lease meanwhile.

A worker takes one job at a time; what must not wait for it has workers of its own (`run`).

This is the one loop of the node that catches every exception, because it must outlive any of
them: a handler's fault costs its job, never the worker. What follows from an error depends on who
must act (pacs/errors.py): what is refused is not tried again, what may pass is.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pacs.errors import Broken, Conflict, NodeError, Refused, Unavailable
from pacs.index import Index, jobs
from pacs.index.jobs import LEASE_S, Job

IDLE_S: Final = 0.5  # how long a worker without work waits before it asks again
SWEEP_S: Final = 1.0  # how often the sweeps run, at most

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class End:
    """How a handler wants its job to end."""

    state: str = jobs.SUCCEEDED
    reason_code: str = ""
    reason: str = ""


# A handler that returns None has ended its job itself, in the transaction of its result.
Handler = Callable[[Job], End | None]
Sweep = Callable[[], int]


def run(workers: Sequence[Worker], sweeps: Sequence[Sweep], stop: threading.Event) -> None:
    """Let workers and sweeps go on until stop is set; jobs under way are finished first."""
    threads = [
        threading.Thread(target=worker.run, args=(stop,), name=f"worker-{n}", daemon=True)
        for n, worker in enumerate(workers)
    ]
    threads.append(
        threading.Thread(target=_sweep_until, args=(sweeps, stop), name="sweeps", daemon=True)
    )
    for thread in threads:
        thread.start()
    while not stop.wait(IDLE_S):
        # Without sweeps no study is ever complete, which nobody would notice: better to die.
        assert all(thread.is_alive() for thread in threads), "a sweep or a worker met a bug"
    for thread in threads:
        thread.join()


def _sweep_until(sweeps: Sequence[Sweep], stop: threading.Event) -> None:
    while not stop.wait(SWEEP_S):
        for sweep in sweeps:
            try:
                sweep()
            except NodeError as error:
                log.warning("a sweep did not finish: %s", error)


class Worker:
    """Takes jobs of the kinds it has handlers for, one at a time."""

    def __init__(self, index: Index, handlers: Mapping[str, Handler]) -> None:
        self._index = index
        self._handlers = handlers

    def run(self, stop: threading.Event) -> None:
        """Work until stop is set; a job under way is finished first."""
        while not stop.is_set():
            if not self._step_survives():
                stop.wait(IDLE_S)

    def _step_survives(self) -> bool:
        try:
            return self.step()
        except NodeError as error:
            log.warning("the queue does not answer: %s", error)
            return False

    def step(self) -> bool:
        """Take one job and run it; False if there is none. Raises Unreachable."""
        kinds = tuple(self._handlers)
        with self._index.read() as connection:
            if not jobs.is_any_due(connection, kinds):  # an idle worker keeps no writer waiting
                return False
        with self._index.write() as connection:
            job = jobs.claim(connection, kinds)
        if job is None:
            return False
        log.info("job %d: %s, attempt %d", job.id, job.kind, job.attempts)
        with self._lease_held(job):
            self._attempt(job)
        return True

    def _attempt(self, job: Job) -> None:
        try:
            end = self._handlers[job.kind](job)
        except Conflict as conflict:
            log.warning("job %d is no longer ours: %s", job.id, conflict)
        except Exception as error:  # noqa: BLE001 - the worker outlives every handler
            self._judge(job, error)
        else:
            if end is not None:
                self._end(job, end)

    def _judge(self, job: Job, error: Exception) -> None:
        """What is refused or broken fails at once; what may pass is tried again."""
        if not isinstance(error, NodeError):
            # The traceback shows code and types; the message may quote a data set, so it stays out.
            frames = [f"{f.name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
            log.error("job %d met a bug: %s at %s", job.id, type(error).__name__, frames)
            sentence = f"The worker met a {type(error).__name__}."
            self._give_back(job, "internal_error", sentence, is_fault=True)
        elif isinstance(error, Unavailable):
            self._give_back(job, _code(error), error.message)
        else:
            level = logging.ERROR if isinstance(error, Broken) else logging.WARNING
            log.log(level, "job %d failed: %s", job.id, error)
            assert isinstance(error, Broken | Refused)
            self._end(job, End(jobs.FAILED, _code(error), error.message))

    def _give_back(self, job: Job, code: str, sentence: str, *, is_fault: bool = False) -> None:
        with self._unless_lost(job), self._index.write() as connection:
            again = jobs.give_back(
                connection, job, reason_code=code, reason=sentence, is_fault=is_fault
            )
            log.warning("job %d: %s %s", job.id, sentence, "Again later." if again else "Given up.")

    def _end(self, job: Job, end: End) -> None:
        with self._unless_lost(job), self._index.write() as connection:
            jobs.finish(connection, job, end.state, reason_code=end.reason_code, reason=end.reason)

    @contextmanager
    def _unless_lost(self, job: Job) -> Iterator[None]:
        try:
            yield
        except Conflict:
            log.warning("job %d was taken over before it ended here", job.id)
        except Unavailable as error:
            # The lease runs out by itself, and another claim repeats the job.
            log.warning("job %d could not be ended: %s", job.id, error)

    @contextmanager
    def _lease_held(self, job: Job) -> Iterator[None]:
        done = threading.Event()
        keeper = threading.Thread(target=self._renew_until, args=(job, done), name="lease")
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def _renew_until(self, job: Job, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 4):
            try:
                with self._index.write() as connection:
                    jobs.renew(connection, job)
            except Conflict:
                return
            except Unavailable as error:
                log.warning("the lease of job %d could not be renewed: %s", job.id, error)


def _code(error: NodeError) -> str:
    """A reason's code: what the error says it is, or its class."""
    return str(getattr(error, "code", "") or type(error).__name__.lower())
