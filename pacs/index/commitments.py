"""The rows of storage commitment: requests in both directions, and their instances.

Both directions share two tables, since both are a Transaction UID, a peer, a list of instances and
what became of each. In the role of an SCP we were asked; in that of an SCU we asked. Functions take
the caller's connection, so that a request and the job that carries it on share one transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from pacs.index import jobs
from pacs.index.schema import commitment_references as references
from pacs.index.schema import commitments, insert_new, now
from pacs.index.schema import jobs as jobs_table

SCP, SCU = "scp", "scu"

CHECKING, REPORTING, REPORTED, UNDELIVERED = "checking", "reporting", "reported", "undelivered"
ASKED, CONFIRMED, FAILED, UNCONFIRMED = "asked", "confirmed", "failed", "unconfirmed"
STATES: Final = (
    *(CHECKING, REPORTING, REPORTED, UNDELIVERED),
    *(ASKED, CONFIRMED, FAILED, UNCONFIRMED),
)
WAITING: Final = (CHECKING, REPORTING, ASKED)  # for a job to end

COMMITTED: Final = 0  # the failure reason of what did not fail
ROWS_MAX: Final = 100  # requests that a sweep ends or forgets at once; others wait for the next


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance of a request, and why it is not committed (PS3.3 C.14.1.1).

    `failure_reason` is 0 for what is committed, and None while that is not known.
    """

    sop_class_uid: str
    sop_instance_uid: str
    failure_reason: int | None = None


@dataclass(frozen=True, slots=True)
class Commitment:
    """One request as it stands. Times are seconds since 1970; `failed` counts instances."""

    id: int
    role: str  # scp: the peer asked us; scu: we asked the peer
    ae_title: str
    transaction_uid: str
    state: str
    instances: int
    failed: int
    requested_at: float
    ended_at: float | None
    reason: str


_JUDGE: Final = (
    update(references)
    .where(references.c.id == bindparam("row_id"))
    .values(failure_reason=bindparam("reason"))
)
_COLUMNS: Final = tuple(commitments.c[name] for name in Commitment.__dataclass_fields__)


def _commitment(row: Row[*tuple[Any, ...]]) -> Commitment:
    return Commitment(**{name: getattr(row, name) for name in Commitment.__dataclass_fields__})


def add(
    connection: Connection,
    archive_id: int,
    *,
    role: str,
    ae_title: str,
    transaction_uid: str,
    wanted: Sequence[Reference],
    state: str,
    suffix: str = "",
) -> tuple[int, bool]:
    """Enter a request; its id, and whether it is new: none that is open has its UID and suffix."""
    commitment_id, is_new = insert_new(
        connection,
        commitments,
        ["open_key"],
        {
            "archive_id": archive_id,
            "role": role,
            "ae_title": ae_title,
            "transaction_uid": transaction_uid,
            "open_key": f"{role}/{ae_title}/{transaction_uid}{suffix}",
            "state": state,
            "instances": len(wanted),
        },
        stamped=["requested_at"],
    )
    if is_new:
        connection.execute(
            insert(references),
            [
                {
                    "commitment_id": commitment_id,
                    "sop_class_uid": one.sop_class_uid,
                    "sop_instance_uid": one.sop_instance_uid,
                    "failure_reason": one.failure_reason,
                }
                for one in wanted
            ],
        )
    return commitment_id, is_new


def find(connection: Connection, commitment_id: int) -> Commitment | None:
    """A request by its id; None once it is forgotten."""
    row = connection.execute(
        select(*_COLUMNS).where(commitments.c.id == commitment_id)
    ).one_or_none()
    return None if row is None else _commitment(row)


def newest(
    connection: Connection, role: str, ae_title: str, transaction_uid: str
) -> Commitment | None:
    """The newest request of a Transaction UID, ended or not, locked for us; None without one."""
    row = connection.execute(
        select(*_COLUMNS)
        .where(
            commitments.c.role == role,
            commitments.c.ae_title == ae_title,
            commitments.c.transaction_uid == transaction_uid,
        )
        .order_by(commitments.c.id.desc())
        .limit(1)
        .with_for_update()
    ).one_or_none()
    return None if row is None else _commitment(row)


def open_for(connection: Connection, role: str, ae_title: str) -> tuple[int, int]:
    """How many requests of a peer are open, and how many instances they name."""
    counted = select(func.count(), func.coalesce(func.sum(commitments.c.instances), 0)).where(
        commitments.c.role == role,
        commitments.c.ae_title == ae_title,
        commitments.c.ended_at.is_(None),
    )
    requests, instances = connection.execute(counted).one()
    return int(requests), int(instances)


def instances_of(connection: Connection, commitment_id: int) -> list[Reference]:
    """The instances of a request, in its order."""
    rows = connection.execute(
        select(references)
        .where(references.c.commitment_id == commitment_id)
        .order_by(references.c.id)
    )
    return [Reference(row.sop_class_uid, row.sop_instance_uid, row.failure_reason) for row in rows]


def unjudged(
    connection: Connection, commitment_id: int, rows_max: int
) -> list[tuple[int, Reference]]:
    """The next instances of a request of which nothing is known yet, with the ids of their rows."""
    rows = connection.execute(
        select(references)
        .where(references.c.commitment_id == commitment_id, references.c.failure_reason.is_(None))
        .order_by(references.c.id)
        .limit(rows_max)
    )
    return [(row.id, Reference(row.sop_class_uid, row.sop_instance_uid)) for row in rows]


def judge(connection: Connection, verdicts: Mapping[int, int]) -> None:
    """Note failure reasons, 0 for none, by the ids of the instances' rows."""
    if verdicts:
        connection.execute(
            _JUDGE, [{"row_id": row_id, "reason": reason} for row_id, reason in verdicts.items()]
        )


def judge_named(
    connection: Connection, commitment_id: int, verdicts: Mapping[tuple[str, str], int]
) -> None:
    """The same by SOP class and instance UID; the request's other instances stay unknown."""
    rows = connection.execute(
        select(references).where(references.c.commitment_id == commitment_id)
    ).all()
    named = {row.id: (row.sop_class_uid, row.sop_instance_uid) for row in rows}
    judge(connection, {one: verdicts[pair] for one, pair in named.items() if pair in verdicts})


def carry_on(connection: Connection, commitment_id: int, state: str, job_key: str) -> None:
    """Note the state of a request and the job that it waits for, unless it has ended."""
    connection.execute(
        update(commitments)
        .where(commitments.c.id == commitment_id, commitments.c.ended_at.is_(None))
        .values(state=state, job_key=job_key)
    )


def end(connection: Connection, commitment_id: int, state: str, *, reason: str = "") -> bool:
    """End a request, and count what failed; False if it has ended already."""
    failed = (
        select(func.count())
        .where(
            references.c.commitment_id == commitment_id,
            references.c.failure_reason.is_distinct_from(COMMITTED),
        )
        .scalar_subquery()
    )
    ended = connection.execute(
        update(commitments)
        .where(commitments.c.id == commitment_id, commitments.c.ended_at.is_(None))
        .values(state=state, failed=failed, ended_at=now(), open_key=None, reason=reason)
        .returning(commitments.c.id)
    )
    return ended.one_or_none() is not None


def unconfirm(connection: Connection, commitment_id: int, reason: str) -> None:
    """Say that a request of ours has no answer; one that still comes will be taken."""
    connection.execute(
        update(commitments)
        .where(commitments.c.id == commitment_id, commitments.c.state == ASKED)
        .values(state=UNCONFIRMED, reason=reason)
    )


def given_up(connection: Connection) -> list[tuple[Commitment, str]]:
    """Requests whose job has failed for good, each with the reason in a sentence."""
    rows = connection.execute(
        select(*_COLUMNS, jobs_table.c.reason.label("failure"))
        .join(jobs_table, jobs_table.c.key == commitments.c.job_key)
        .where(commitments.c.state.in_(WAITING), jobs_table.c.state == jobs.FAILED)
        .limit(ROWS_MAX)
    )
    return [(_commitment(row), row.failure) for row in rows.all()]


def overdue(connection: Connection, patience_s: float) -> list[int]:
    """Our requests that were not reported on for so long."""
    rows = connection.execute(
        select(commitments.c.id)
        .where(commitments.c.state == ASKED, commitments.c.requested_at < now() - patience_s)
        .limit(ROWS_MAX)
    )
    return list(rows.scalars())


def forget(connection: Connection, kept_s: float) -> int:
    """Remove old requests that wait for no job; how many."""
    old = connection.execute(
        select(commitments.c.id)
        .where(commitments.c.state.not_in(WAITING), commitments.c.requested_at < now() - kept_s)
        .limit(ROWS_MAX)
    )
    ids = list(old.scalars())
    connection.execute(delete(references).where(references.c.commitment_id.in_(ids)))
    connection.execute(delete(commitments).where(commitments.c.id.in_(ids)))
    return len(ids)


def listed(
    connection: Connection, *, role: str = "", state: str = "", limit: int, cursor: int
) -> list[Commitment]:
    """Requests, newest first, with ids below cursor (0: from the newest)."""
    wanted = [commitments.c.role == role] if role else []
    wanted += [commitments.c.state == state] if state else []
    wanted += [commitments.c.id < cursor] if cursor else []
    rows = connection.execute(
        select(*_COLUMNS).where(*wanted).order_by(commitments.c.id.desc()).limit(limit)
    )
    return [_commitment(row) for row in rows]
