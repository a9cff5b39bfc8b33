"""What was deleted and is kept for a while: rows of deletions and of the objects they took away.

A deletion is told twice: by its rows, and by a tombstone in the store, written before the rows. So
`rebuild`, which has nothing but the store, lets nothing rise again that was deleted. A tombstone
goes only after every object it names.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)

from pacs.index import catalog
from pacs.index.catalog import DIGESTS_ASKED_MAX, Scope
from pacs.index.schema import deletions, instances, now, recycled, series, studies, versions

TOMBSTONE_PREFIX: Final = b"isocenter deletion\n"  # how such an object begins, unlike any other


class Member(NamedTuple):
    """One object that a deletion takes away: an instance's current bytes, or a further version."""

    series_instance_uid: str
    sop_instance_uid: str
    digest: str
    size_bytes: int
    is_current: bool


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What a deletion took away, and when (s since 1970).

    `generation` is that of the study if it was complete, else 0.
    """

    deleted_at: float
    scope: Scope
    generation: int
    members: tuple[Member, ...]

    def packed(self) -> bytes:
        """As an object of the store, unlike any other that tells the same."""
        facts = {
            "deleted_at": self.deleted_at,
            "receipt": uuid.uuid4().hex,
            "generation": self.generation,
            **asdict(self.scope),
        }
        lines = (json.dumps(part, separators=(",", ":")) for part in (facts, self.members))
        return TOMBSTONE_PREFIX + "\n".join(lines).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Tombstone:
        """What `packed` gave. Raises ValueError, LookupError or TypeError for anything else."""
        head, _, tail = packed.removeprefix(TOMBSTONE_PREFIX).partition(b"\n")
        facts = json.loads(head)
        scope = Scope(**{name: facts[name] for name in Scope.__dataclass_fields__})
        members = tuple(Member(*member) for member in json.loads(tail))
        return cls(facts["deleted_at"], scope, facts["generation"], members)


def deleted_at(head: bytes) -> float:
    """The time of a tombstone, from its first bytes. Raises as `unpack`."""
    facts = head.removeprefix(TOMBSTONE_PREFIX).partition(b"\n")[0]
    return float(json.loads(facts)["deleted_at"])


@dataclass(frozen=True, slots=True)
class Deletion:
    """One deletion whose objects are still kept. `instances` are those it could give back."""

    id: int
    deleted_at: float
    scope: Scope
    generation: int
    tombstone: str  # the digest of the tombstone
    instances: int
    size_bytes: int


def members(
    connection: Connection, archive: int, scope: Scope, *, lock: bool = False
) -> tuple[Member, ...]:
    """The objects of a scope. With `lock` nothing can be noted beside them until the commit."""
    current = _columns(instances.c.digest, instances.c.size_bytes, is_current=True).select_from(
        instances.join(series).join(studies)
    )
    further = _columns(versions.c.digest, versions.c.size_bytes, is_current=False).select_from(
        versions.join(instances).join(series).join(studies)
    )
    current, further = (one.where(catalog.inside(archive, scope)) for one in (current, further))
    if lock:
        current = current.with_for_update(of=instances)
    found = [Member(*row) for one in (current, further) for row in connection.execute(one)]
    return tuple(sorted(found))


def _columns(
    digest: ColumnElement[str], size_bytes: ColumnElement[int], *, is_current: bool
) -> Select[Any]:
    uids = (series.c.SeriesInstanceUID, instances.c.SOPInstanceUID)
    return select(*uids, digest, size_bytes, literal(is_current))


def add(connection: Connection, archive: int, tombstone: Tombstone, digest: str) -> int:
    """Enter a deletion; its id. `digest` is that of its tombstone."""
    made = connection.execute(
        insert(deletions)
        .values(
            archive_id=archive,
            deleted_at=tombstone.deleted_at,
            generation=tombstone.generation,
            digest=digest,
            **_place(tombstone.scope),
        )
        .returning(deletions.c.id)
    ).scalar_one()
    rows = [{"deletion_id": made, **_member(one)} for one in tombstone.members]
    connection.execute(insert(recycled), rows)
    return int(made)


def _place(scope: Scope) -> dict[str, str]:
    return {
        "StudyInstanceUID": scope.study_instance_uid,
        "SeriesInstanceUID": scope.series_instance_uid,
        "SOPInstanceUID": scope.sop_instance_uid,
    }


def _member(member: Member) -> dict[str, Any]:
    return {
        "SeriesInstanceUID": member.series_instance_uid,
        "SOPInstanceUID": member.sop_instance_uid,
        "digest": member.digest,
        "size_bytes": member.size_bytes,
        "is_current": member.is_current,
    }


_DELETIONS: Final = (
    select(
        deletions,
        func.count(recycled.c.id).filter(recycled.c.is_current).label("instances"),
        func.coalesce(func.sum(recycled.c.size_bytes), 0).label("size_bytes"),
    )
    .select_from(deletions.outerjoin(recycled))
    .group_by(deletions.c.id)
)


def listed(connection: Connection, archive: int, limit: int, before: int = 0) -> list[Deletion]:
    """The newest deletions of an archive, those with a smaller id than `before` unless it is 0."""
    wanted = _DELETIONS.where(deletions.c.archive_id == archive)
    if before:
        wanted = wanted.where(deletions.c.id < before)
    rows = connection.execute(wanted.order_by(deletions.c.id.desc()).limit(limit))
    return [_deletion(row) for row in rows]


def find(connection: Connection, archive: int, deletion: int) -> Deletion | None:
    """One deletion, or None."""
    wanted = (deletions.c.archive_id == archive, deletions.c.id == deletion)
    row = connection.execute(_DELETIONS.where(*wanted)).one_or_none()
    return None if row is None else _deletion(row)


def _deletion(row: Row[Any]) -> Deletion:
    scope = Scope(row.StudyInstanceUID, row.SeriesInstanceUID, row.SOPInstanceUID)
    told = (row.digest, int(row.instances), int(row.size_bytes))
    return Deletion(row.id, row.deleted_at, scope, row.generation, *told)


def kept(connection: Connection, deletion: int) -> list[Member]:
    """The objects that a deletion could still give back, an instance's current one first."""
    rows = connection.execute(
        select(*(recycled.c[name] for name in _COLUMNS))
        .where(recycled.c.deletion_id == deletion)
        .order_by(recycled.c.SOPInstanceUID, recycled.c.is_current.desc(), recycled.c.id)
    )
    return [Member(*row) for row in rows]


_COLUMNS: Final = ("SeriesInstanceUID", "SOPInstanceUID", "digest", "size_bytes", "is_current")


def claim(connection: Connection, deletion: int, sop_instance_uid: str) -> set[str]:
    """Take an instance out of a deletion: the digests of its objects, none if another was first."""
    return set(
        connection.scalars(
            delete(recycled)
            .where(
                recycled.c.deletion_id == deletion, recycled.c.SOPInstanceUID == sop_instance_uid
            )
            .returning(recycled.c.digest)
        )
    )


def rename(connection: Connection, deletion: int, digest: str) -> None:
    """Let another tombstone stand for a deletion."""
    connection.execute(update(deletions).where(deletions.c.id == deletion).values(digest=digest))


def forget(connection: Connection, archive: int, deletion: int) -> list[str] | None:
    """Remove the rows of a deletion; the objects it kept, its tombstone last, or None."""
    ours = (deletions.c.archive_id == archive, deletions.c.id == deletion)
    lock = select(deletions.c.digest).where(*ours).with_for_update()
    tombstone = connection.execute(lock).scalar_one_or_none()
    if tombstone is None:
        return None
    kept_ones = delete(recycled).where(recycled.c.deletion_id == deletion)
    digests = list(connection.scalars(kept_ones.returning(recycled.c.digest)))
    connection.execute(delete(deletions).where(*ours))
    return [*digests, tombstone]


def due(connection: Connection, archive: int, recycle_s: float, rows_max: int) -> Sequence[int]:
    """The deletions that are older than the recycle time, the oldest first."""
    return connection.scalars(
        select(deletions.c.id)
        .where(deletions.c.archive_id == archive, deletions.c.deleted_at <= now() - recycle_s)
        .order_by(deletions.c.deleted_at)
        .limit(rows_max)
    ).all()


def holds(connection: Connection, archive: int, scope: Scope) -> bool:
    """Whether something of a scope was deleted and is still kept."""
    wanted = [
        deletions.c.archive_id == archive,
        deletions.c.StudyInstanceUID == scope.study_instance_uid,
    ]
    if scope.series_instance_uid:
        wanted.append(recycled.c.SeriesInstanceUID == scope.series_instance_uid)
    if scope.sop_instance_uid:
        wanted.append(recycled.c.SOPInstanceUID == scope.sop_instance_uid)
    found = exists(select(recycled.c.id).select_from(recycled.join(deletions)).where(and_(*wanted)))
    return bool(connection.execute(select(found)).scalar())


def every_digest(connection: Connection, archive: int) -> Iterator[str]:
    """The objects that an archive's deletions keep, and their tombstones."""
    ours = deletions.c.archive_id == archive
    yield from connection.scalars(select(recycled.c.digest).join(deletions).where(ours))
    yield from connection.scalars(select(deletions.c.digest).where(ours))


def still_named(connection: Connection, digests: set[str]) -> Iterator[str]:
    """Those of digests that some deletion names, in any archive."""
    asked = sorted(digests)
    for start in range(0, len(asked), DIGESTS_ASKED_MAX):
        some = asked[start : start + DIGESTS_ASKED_MAX]
        for table in (recycled, deletions):
            yield from connection.scalars(select(table.c.digest).where(table.c.digest.in_(some)))


def forget_everything(connection: Connection, archive: int) -> None:
    """Remove the rows of every deletion of an archive; its objects stay. For `rebuild`."""
    ours = select(deletions.c.id).where(deletions.c.archive_id == archive)
    connection.execute(delete(recycled).where(recycled.c.deletion_id.in_(ours)))
    connection.execute(delete(deletions).where(deletions.c.archive_id == archive))
