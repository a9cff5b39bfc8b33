"""What changed in an archive, instance by instance: a narrow table to be read from any place on.

A row is written in the transaction of the deed, after its row of the audit trail, whose head lets
one writer at a time through until it has committed. So numbers have no gaps and none comes late:
who has read up to a number has missed nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    not_,
    select,
)

from pacs.index.schema import changes, instances, now, series, studies


@unique
class Change(Enum):
    """What happened to an instance."""

    CREATE = "create"  # it is held, which it was not before
    UPDATE = "update"  # other bytes were kept under its UID
    DELETE = "delete"  # it is held no more


@unique
class State(Enum):
    """What has become of the bytes that a change tells of."""

    CURRENT = "current"  # they are the instance's
    REPLACED = "replaced"  # the instance has other bytes
    DELETED = "deleted"  # the instance is not held


class Told(NamedTuple):
    """One instance that changed, and the digest of the object concerned."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the feed: its number from 1, its time (s since 1970), and the state of today."""

    seq: int
    at: float
    change: Change
    state: State
    told: Told


_LAST: Final = (
    select(changes.c.seq)
    .where(changes.c.archive_id == bindparam("archive"))
    .order_by(changes.c.seq.desc())
    .limit(1)
    .scalar_subquery()
)
_ROW: Final = insert(changes).values(
    archive_id=bindparam("archive"),
    seq=func.coalesce(_LAST, 0) + 1,
    at=now(),
    change=bindparam("change"),
    **{
        column: bindparam(name)
        for column, name in (
            ("StudyInstanceUID", "study"),
            ("SeriesInstanceUID", "series"),
            ("SOPInstanceUID", "instance"),
            ("digest", "digest"),
        )
    },
)


def tell(connection: Connection, archive: int, change: Change, told: Iterable[Told]) -> None:
    """Write what changed. The caller has written its row of the audit trail before."""
    rows = [
        {
            "archive": archive,
            "change": change.value,
            "study": one.study_instance_uid,
            "series": one.series_instance_uid,
            "instance": one.sop_instance_uid,
            "digest": one.digest,
        }
        for one in told
    ]
    for row in rows:  # one by one, since each takes the number after the last
        connection.execute(_ROW, row)


_ENTRIES: Final[Select[Any]] = select(
    changes, instances.c.digest.label("current_digest")
).select_from(
    changes.outerjoin(
        instances,
        and_(
            instances.c.archive_id == changes.c.archive_id,
            instances.c.SOPInstanceUID == changes.c.SOPInstanceUID,
        ),
    )
)


def after(connection: Connection, archive: int, seq: int, rows_max: int) -> list[Entry]:
    """What changed after a number, in order."""
    wanted = _ENTRIES.where(changes.c.archive_id == archive, changes.c.seq > seq)
    rows = connection.execute(wanted.order_by(changes.c.seq).limit(rows_max))
    return [_entry(row) for row in rows]


def between(
    connection: Connection, archive: int, times: tuple[float, float], skip: int, rows_max: int
) -> list[Entry]:
    """What changed from one time until before another, in order, without the first `skip` rows."""
    start, end = times
    page = (
        select(changes.c.archive_id, changes.c.seq)
        .where(changes.c.archive_id == archive, changes.c.at >= start, changes.c.at < end)
        .order_by(changes.c.at, changes.c.seq)
        .offset(skip)
        .limit(rows_max)
        .subquery()
    )
    ours = and_(page.c.archive_id == changes.c.archive_id, page.c.seq == changes.c.seq)
    rows = connection.execute(_ENTRIES.join(page, ours).order_by(changes.c.at, changes.c.seq))
    return [_entry(row) for row in rows]


def latest(connection: Connection, archive: int) -> Entry | None:
    """The newest row, or None."""
    wanted = _ENTRIES.where(changes.c.archive_id == archive)
    row = connection.execute(wanted.order_by(changes.c.seq.desc()).limit(1)).one_or_none()
    return None if row is None else _entry(row)


def _entry(row: Row[Any]) -> Entry:
    told = Told(row.StudyInstanceUID, row.SeriesInstanceUID, row.SOPInstanceUID, row.digest)
    change = Change(row.change)
    return Entry(row.seq, row.at, change, _state(change, row.digest, row.current_digest), told)


def _state(change: Change, digest: str, current: str | None) -> State:
    if current is None:
        return State.DELETED
    is_current = digest == current and change is not Change.DELETE
    return State.CURRENT if is_current else State.REPLACED


def tell_untold(connection: Connection, archive: int) -> None:
    """Write a creation for each instance whose bytes no row tells of, in the order they came.

    For `rebuild`; the caller has written its row of the audit trail before.
    """
    told = exists(
        select(literal(1)).where(
            changes.c.archive_id == archive, changes.c.digest == instances.c.digest
        )
    )
    last = connection.execute(select(_LAST), {"archive": archive}).scalar() or 0
    columns: Mapping[str, ColumnElement[Any]] = {
        "archive_id": instances.c.archive_id,
        "seq": func.row_number().over(order_by=(instances.c.received_at, instances.c.id)) + last,
        "at": now(),
        "change": literal(Change.CREATE.value),
        "StudyInstanceUID": studies.c.StudyInstanceUID,
        "SeriesInstanceUID": series.c.SeriesInstanceUID,
        "SOPInstanceUID": instances.c.SOPInstanceUID,
        "digest": instances.c.digest,
    }
    untold = (
        select(*columns.values())
        .select_from(instances.join(series).join(studies))
        .where(instances.c.archive_id == archive, not_(told))
    )
    connection.execute(insert(changes).from_select(list(columns), untold))
