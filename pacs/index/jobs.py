"""The queue: rows with unique keys, leases and fencing tokens. No threads live here.

A job is written in the transaction of what caused it, so no crash can lose it and no repeat can
double it. A claim takes a lease by the database's clock and raises the token; whoever writes a
result must still hold that token, so a worker that wakes up late meets Conflict. A lease that runs
out gives the job back. What is merely unavailable is waited for, as long as the job has patience; a
job that ends its worker, or meets a bug, is a fault, and after FAULTS_MAX of them it fails aloud.
Jobs of one lane are done one after another: what one peer keeps waiting holds up nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Update,
    and_,
    case,
    exists,
    func,
    not_,
    or_,
    select,
    update,
)

from pacs.errors import Conflict
from pacs.index.schema import archives, insert_new, jobs, now

FAULTS_MAX: Final = 3  # workers lost and bugs met by one job; at the last one it is failed
ATTEMPTS_MAX: Final = 12  # claims of one job, about 2.5 hours; after the last one it is failed
DELIVERY_ATTEMPTS_MAX: Final = 176  # of what a peer must get: about seven days
LEASE_S: Final = 20.0  # how long a claim holds without being renewed
RETRY_PAUSE_S: Final = 5.0  # before the second attempt; twice as long before the third, and so on
RETRY_PAUSE_S_MAX: Final = 3_600.0  # no pause is longer

QUEUED, RUNNING, SUCCEEDED, FAILED, SKIPPED, SUPERSEDED = (
    "queued",
    "running",
    "succeeded",
    "failed",
    "skipped",
    "superseded",
)
STATES: Final = (QUEUED, RUNNING, SUCCEEDED, FAILED, SKIPPED, SUPERSEDED)
ENDED: Final = frozenset({SUCCEEDED, FAILED, SKIPPED, SUPERSEDED})


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work, as it stood when it was read."""

    id: int
    key: str
    kind: str
    archive: str
    study_instance_uid: str
    generation: int
    payload: Mapping[str, Any]
    state: str
    attempts: int
    attempts_max: int
    faults: int
    token: int
    lane: str
    created_at: float
    started_at: float | None
    finished_at: float | None
    reason_code: str
    reason: str


def enqueue(
    connection: Connection,
    *,
    key: str,
    kind: str,
    archive_id: int,
    study_instance_uid: str,
    generation: int,
    payload: Mapping[str, Any],
    attempts_max: int = ATTEMPTS_MAX,
    lane: str = "",
) -> bool:
    """Write a job into the caller's transaction; False if this very job is there already.

    `attempts_max` is its patience: how often it is tried while what it needs is unavailable.
    A job of generation 0 is of the study as such, and no later generation supersedes it.
    """
    _, is_new = insert_new(
        connection,
        jobs,
        ["key"],
        {
            "key": key,
            "kind": kind,
            "archive_id": archive_id,
            "study_instance_uid": study_instance_uid,
            "generation": generation,
            "payload": json.dumps(payload, sort_keys=True),
            "attempts_max": attempts_max,
            "lane": lane,
        },
        stamped=["created_at"],
    )
    return is_new


def claim(connection: Connection, kinds: Sequence[str], *, lease_s: float = LEASE_S) -> Job | None:
    """Take the oldest job that is due, or whose worker fell silent; None if there is none."""
    oldest = (
        select(jobs.c.id)
        .where(_is_due(kinds))
        .order_by(jobs.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = connection.execute(
        update(jobs)
        .where(jobs.c.id == oldest)
        .values(
            state=RUNNING,
            attempts=jobs.c.attempts + 1,
            faults=jobs.c.faults + case((jobs.c.state == RUNNING, 1), else_=0),
            token=jobs.c.token + 1,
            lease_until=now() + lease_s,
            started_at=now(),
            reason_code="",
            reason="",
        )
        .returning(*jobs.c, _archive_name())
    ).one_or_none()
    return None if row is None else _job(row)


def is_any_due(connection: Connection, kinds: Sequence[str]) -> bool:
    """Whether there is something to claim; a look that locks nothing."""
    return bool(connection.execute(select(exists().where(_is_due(kinds)))).scalar())


def _is_due(kinds: Sequence[str]) -> ColumnElement[bool]:
    return and_(jobs.c.kind.in_(kinds), _may_begin(jobs), _is_first_of_its_lane())


def _may_begin(some: FromClause) -> ColumnElement[bool]:
    is_waiting = and_(some.c.state == QUEUED, some.c.not_before <= now())
    is_abandoned = and_(_silent(some), some.c.faults < FAULTS_MAX - 1)
    return or_(is_waiting, is_abandoned)


def _is_first_of_its_lane() -> ColumnElement[bool]:
    """Whether nothing of the lane runs, nor could begin before.

    The second keeps two claims at the same moment apart: neither sees yet what the other takes,
    but both see which is the first.
    """
    other = jobs.alias("other")
    runs = and_(other.c.lane != "", other.c.state == RUNNING, not_(_silent(other)))
    is_ahead = and_(other.c.lane == jobs.c.lane, other.c.id < jobs.c.id, _may_begin(other))
    ahead = exists(select(1).where(is_ahead)).correlate(jobs)
    is_first = and_(jobs.c.lane.not_in(select(other.c.lane).where(runs)), not_(ahead))
    return or_(jobs.c.lane == "", is_first)


def _silent(some: FromClause) -> ColumnElement[bool]:
    return and_(some.c.state == RUNNING, some.c.lease_until < now())


def _archive_name() -> ColumnElement[str]:
    name = select(archives.c.name).where(archives.c.id == jobs.c.archive_id).scalar_subquery()
    return name.label("archive")


def _job(row: Row[Any]) -> Job:
    columns = {name: getattr(row, name) for name in Job.__dataclass_fields__ if name != "payload"}
    return Job(payload=json.loads(row.payload), **columns)


def renew(connection: Connection, job: Job, *, lease_s: float = LEASE_S) -> None:
    """Hold a job for longer. Raises Conflict if it is no longer ours."""
    _ours(connection, job, {"lease_until": now() + lease_s})


def finish(
    connection: Connection, job: Job, state: str, *, reason_code: str = "", reason: str = ""
) -> None:
    """End a job. Raises Conflict if it is no longer ours, which undoes the caller's transaction."""
    assert state in ENDED, state
    end = {"state": state, "finished_at": now(), "reason_code": reason_code, "reason": reason}
    _ours(connection, job, end)


def give_back(
    connection: Connection,
    job: Job,
    *,
    reason_code: str,
    reason: str,
    is_fault: bool = False,
    at_once: bool = False,
) -> bool:
    """Try again later, or fail for good after the last attempt; True if it will be tried again.

    `is_fault` says that the attempt met a bug, of which a job may have FAULTS_MAX; `at_once` that
    nothing stands in the way of the next attempt.
    """
    faults = job.faults + is_fault
    if faults >= FAULTS_MAX or job.attempts >= job.attempts_max:
        finish(connection, job, FAILED, reason_code=reason_code, reason=reason)
        return False
    again = {
        "state": QUEUED,
        "faults": faults,
        "not_before": now() + (0.0 if at_once else pause_s(job.attempts)),
        "lease_until": 0.0,
        "reason_code": reason_code,
        "reason": reason,
    }
    _ours(connection, job, again)
    return True


def pause_s(attempts: int) -> float:
    """How long a job waits after so many attempts."""
    return min(RETRY_PAUSE_S * 2.0 ** (attempts - 1), RETRY_PAUSE_S_MAX)


def gets_on(connection: Connection, job: Job) -> Job:
    """Note that part of a job is done: attempts and faults before this moment no longer count.

    Raises Conflict if it is no longer ours.
    """
    _ours(connection, job, {"attempts": 1, "faults": 0})
    return replace(job, attempts=1, faults=0)


def hold(connection: Connection, lane: str, seconds: float) -> None:
    """Let no queued job of a lane begin for so long: what one of them met awaits them all."""
    until = now() + seconds
    is_early = jobs.c.not_before < until
    connection.execute(_queued_in(connection, lane, is_early).values(not_before=until))


def wake(connection: Connection, lane: str, *, reason_codes: Sequence[str]) -> None:
    """Let the queued jobs of a lane begin now that were held, or gave up for one of these reasons."""
    is_held = and_(jobs.c.not_before > now(), jobs.c.reason_code.in_(["", *reason_codes]))
    connection.execute(_queued_in(connection, lane, is_held).values(not_before=0.0))


def _queued_in(connection: Connection, lane: str, condition: ColumnElement[bool]) -> Update:
    """Change queued jobs of a lane; those that somebody else is changing are not waited for."""
    asked = and_(jobs.c.lane == lane, jobs.c.state == QUEUED, condition)
    free = connection.scalars(select(jobs.c.id).where(asked).with_for_update(skip_locked=True))
    return update(jobs).where(jobs.c.id.in_(free.all()))


def retry(connection: Connection, ids: Sequence[int]) -> list[int]:
    """Queue jobs again that wait or ended badly, their patience and faults anew; which."""
    again = {"state": QUEUED, "attempts": 0, "faults": 0, "not_before": 0.0, "finished_at": None}
    return _change(connection, ids, (QUEUED, FAILED, SKIPPED), again)


def cancel(connection: Connection, ids: Sequence[int], reason: str) -> list[int]:
    """End jobs that have not ended; which. A worker that has one meets Conflict."""
    end = {"state": SKIPPED, "finished_at": now(), "reason_code": "cancelled", "reason": reason}
    return _change(connection, ids, (QUEUED, RUNNING), end)


def _change(
    connection: Connection, ids: Sequence[int], states: Sequence[str], values: Mapping[str, Any]
) -> list[int]:
    changed = update(jobs).where(jobs.c.id.in_(ids), jobs.c.state.in_(states)).values(**values)
    return list(connection.scalars(changed.returning(jobs.c.id)))


def _ours(connection: Connection, job: Job, values: Mapping[str, Any]) -> None:
    """Change a job only while its token is the one we were given."""
    held = and_(jobs.c.id == job.id, jobs.c.token == job.token, jobs.c.state == RUNNING)
    changed = connection.execute(
        update(jobs).where(held).values(**values).returning(jobs.c.id)
    ).one_or_none()
    if changed is None:
        raise Conflict("another worker holds this job now", job=job.id)


def fail_silent(connection: Connection) -> int:
    """Fail the jobs that lost a worker once too often; how many."""
    failed = connection.execute(
        update(jobs)
        .where(_silent(jobs), jobs.c.faults >= FAULTS_MAX - 1)
        .values(
            state=FAILED,
            finished_at=now(),
            reason_code="worker_lost",
            reason=f"Its worker was lost, or met a bug, {FAULTS_MAX} times.",
        )
        .returning(jobs.c.id)
    )
    return len(failed.all())


def supersede(connection: Connection, archive_id: int, study_instance_uid: str, before: int) -> int:
    """End the queued jobs of earlier generations of a study: a later one replaces them."""
    ended = connection.execute(
        update(jobs)
        .where(
            jobs.c.archive_id == archive_id,
            jobs.c.study_instance_uid == study_instance_uid,
            jobs.c.generation.between(1, before - 1),
            jobs.c.state == QUEUED,
        )
        .values(
            state=SUPERSEDED,
            finished_at=now(),
            reason_code="superseded",
            reason="More of the study arrived before this began.",
        )
        .returning(jobs.c.id)
    )
    return len(ended.all())


def newest_generation(connection: Connection, archive_id: int, study_instance_uid: str) -> int:
    """The newest generation of a study that had jobs, before it was deleted perhaps; else 0."""
    newest = select(func.max(jobs.c.generation)).where(
        jobs.c.archive_id == archive_id, jobs.c.study_instance_uid == study_instance_uid
    )
    return int(connection.execute(newest).scalar() or 0)


def listed(
    connection: Connection,
    *,
    state: str = "",
    study: str = "",
    kind: str = "",
    lane: str = "",
    states: Sequence[str] = (),
    limit: int,
    cursor: int,
) -> list[Job]:
    """Jobs, newest first, with ids below cursor (0: from the newest)."""
    asked = {"state": state, "study_instance_uid": study, "kind": kind, "lane": lane}
    wanted = [jobs.c[name] == value for name, value in asked.items() if value]
    wanted += [jobs.c.state.in_(states)] if states else []
    wanted += [jobs.c.id < cursor] if cursor else []
    rows = connection.execute(
        select(jobs, _archive_name()).where(*wanted).order_by(jobs.c.id.desc()).limit(limit)
    )
    return [_job(row) for row in rows]


def state_of(connection: Connection, key: str) -> str | None:
    """The state of the job with a key, None where there is no such job."""
    return connection.execute(select(jobs.c.state).where(jobs.c.key == key)).scalar_one_or_none()


def counts(connection: Connection) -> dict[str, int]:
    """How many jobs stand in each state."""
    found = connection.execute(
        select(jobs.c.state, func.count().label("number")).group_by(jobs.c.state)
    )
    return dict.fromkeys(STATES, 0) | {row.state: row.number for row in found}


def overdue(connection: Connection, *, by_s: float = 10 * LEASE_S) -> list[str]:
    """The keys of running jobs whose lease ran out long ago: nobody takes them up."""
    late = and_(jobs.c.state == RUNNING, jobs.c.lease_until < now() - by_s)
    return [key for (key,) in connection.execute(select(jobs.c.key).where(late))]
