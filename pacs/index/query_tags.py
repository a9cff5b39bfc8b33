"""Extended query tags in the index: their definitions, their values, and how far filling has come.

A new instance's values are entered in the transaction of its row. Those of the instances that were
there before a tag are entered by a sweep, in the order of their ids; `done_id` says how far it is.
No instance falls between: `add` waits for whoever is storing, and who stores reads the tags after
making the instance's row.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, bindparam, delete, exists, func, insert, select, update

from pacs.dicom.attributes import Level
from pacs.dicom.query_tags import QueryTag, TagValue
from pacs.errors import Conflict, Exhausted, Missing
from pacs.index.catalog import INDEXED_BYTES_MAX
from pacs.index.schema import (
    TAG_VALUES,
    archives,
    insert_new,
    instances,
    now,
    query_tag_errors,
    query_tags,
    series,
)

TAGS_MAX: Final = 128  # tags that can be added to one archive; a further one is refused

# What every archive can be searched by (PS3.18 table 10.6.1-5), though it stands in a sequence.
BUILT_IN: Final = tuple(
    QueryTag((0x00400275, tag), "SH", Level.SERIES) for tag in (0x00400009, 0x00401001)
)

_OF_ARCHIVE: Final = select(query_tags).where(query_tags.c.archive_id == bindparam("archive"))


@dataclass(frozen=True, slots=True)
class Known:
    """A tag as it stands. Counts are of instances; `done` of them have been read for it."""

    tag: QueryTag
    is_queried: bool
    is_ready: bool
    instances: int
    done: int
    errors: int
    operation: str
    created_at: float

    @property
    def percent(self) -> int:
        """How much of the filling is done."""
        return 100 if self.is_ready else min(99, 100 * self.done // max(1, self.instances))


@dataclass(frozen=True, slots=True)
class Failure:
    """An instance whose value could not be read for a tag; `at` in seconds since 1970."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sentence: str
    at: float


def prepare(connection: Connection, archive: int) -> None:
    """Enter the tags that every archive has."""
    for tag in BUILT_IN:
        _insert(connection, archive, tag, operation="", is_built_in=True)


def add(connection: Connection, archive: int, tags: Sequence[QueryTag]) -> str:
    """Add tags; the id of the operation that fills them. Raises Conflict, or Exhausted beyond 128."""
    # A lock against whoever is making an instance's row, which refers to that of the archive.
    connection.execute(select(archives.c.id).where(archives.c.id == archive).with_for_update())
    held = connection.execute(
        select(func.count()).where(
            query_tags.c.archive_id == archive, query_tags.c.is_built_in.is_(False)
        )
    ).scalar_one()
    if held + len(tags) > TAGS_MAX:
        raise Exhausted("an archive has no place for more query tags", tags_max=TAGS_MAX)
    operation = uuid.uuid4().hex
    for tag in tags:
        if not _insert(connection, archive, tag, operation=operation, is_built_in=False):
            raise Conflict("this query tag is there already", tag=tag.text)
    return operation


def _insert(
    connection: Connection, archive: int, tag: QueryTag, *, operation: str, is_built_in: bool
) -> bool:
    of_archive = select(func.max(instances.c.id), func.count()).where(
        instances.c.archive_id == archive
    )
    wanted = {"archive_id": archive, "path": tag.text, "creator": tag.creator}
    held = select(query_tags.c.id).filter_by(**wanted)
    if connection.execute(held).scalar_one_or_none() is not None:
        return False
    newest, number = connection.execute(of_archive).one()
    _, is_new = insert_new(
        connection,
        query_tags,
        ["archive_id", "path", "creator"],
        {
            **wanted,
            "vr": tag.vr,
            "level": int(tag.level),
            "is_built_in": is_built_in,
            "to_id": newest or 0,
            "instances": number,
            "operation": operation,
        },
        stamped=["created_at"],
    )
    return is_new


def listed(connection: Connection, archive: int, *, built_in: bool = False) -> list[Known]:
    """The tags of an archive in the order they came; those that every archive has only if asked."""
    errors = (
        select(query_tag_errors.c.tag_id, func.count().label("errors"))
        .group_by(query_tag_errors.c.tag_id)
        .subquery()
    )
    rows = connection.execute(
        select(query_tags, func.coalesce(errors.c.errors, 0).label("errors"))
        .outerjoin(errors, errors.c.tag_id == query_tags.c.id)
        .where(query_tags.c.archive_id == archive)
        .order_by(query_tags.c.id)
    )
    return [_known(row) for row in rows if built_in or not row.is_built_in]


def _known(row: Row[Any]) -> Known:
    return Known(
        _tag(row),
        row.is_queried,
        row.done_id >= row.to_id,
        row.instances,
        row.done,
        row.errors,
        row.operation,
        row.created_at,
    )


def _tag(row: Row[Any]) -> QueryTag:
    path = tuple(int(step, 16) for step in row.path.split("."))
    return QueryTag(path, row.vr, Level(row.level), row.creator, row.id)


def remove(connection: Connection, tag: QueryTag) -> None:
    """Forget a tag, its values and its errors."""
    connection.execute(delete(query_tags).where(query_tags.c.id == tag.id))


def set_queried(connection: Connection, tag: QueryTag, is_queried: bool) -> None:
    """Let queries name a tag, or refuse them. Raises Missing."""
    changed = update(query_tags).where(query_tags.c.id == tag.id).values(is_queried=is_queried)
    if not connection.execute(changed).rowcount:
        raise Missing("there is no such query tag here")


def failures(connection: Connection, tag: QueryTag, limit: int, offset: int) -> list[Row[Any]]:
    """Instance id, sentence and time of a tag's errors, oldest first."""
    wanted = select(query_tag_errors).where(query_tag_errors.c.tag_id == tag.id)
    page = wanted.order_by(query_tag_errors.c.id).limit(limit).offset(offset)
    return list(connection.execute(page))


# values


def of_archive(connection: Connection, archive: int) -> list[QueryTag]:
    """Every tag that new instances are read for."""
    return [_tag(row) for row in connection.execute(_OF_ARCHIVE, {"archive": archive})]


Owners = Mapping[Level, int]  # the ids of an instance, of its series and of its study


def enter(
    connection: Connection, owners: Owners, found: Mapping[QueryTag, Sequence[TagValue]]
) -> None:
    """Enter an instance's values. A study or series that has some keeps them."""
    for tag, values in found.items():
        owner = owners[tag.level]
        if values and not _has_values(connection, tag, owner):
            connection.execute(
                insert(TAG_VALUES[tag.level]),
                [
                    {"tag_id": tag.id, "owner_id": owner, **_columns(value)}
                    for value in dict.fromkeys(values)
                ],
            )


def _columns(value: TagValue) -> dict[str, Any]:
    text = value.text and value.text.encode()[:INDEXED_BYTES_MAX].decode(errors="ignore")
    return {"items": value.items, "text": text, "number": value.number}


def _has_values(connection: Connection, tag: QueryTag, owner: int) -> bool:
    values = TAG_VALUES[tag.level]
    held = exists().where(values.c.owner_id == owner, values.c.tag_id == tag.id)
    return bool(connection.execute(select(held)).scalar())


def forget_values(connection: Connection, instance_id: int) -> None:
    """Forget the values that an instance has of its own, since other bytes became current."""
    values = TAG_VALUES[Level.INSTANCE]
    connection.execute(delete(values).where(values.c.owner_id == instance_id))


# filling


@dataclass(frozen=True, slots=True)
class Batch:
    """The next instances to read for some tags that have come equally far."""

    tags: Sequence[QueryTag]
    after_id: int
    to_id: int
    instance_ids: Sequence[int]


def next_batch(connection: Connection, archive: int, rows_max: int) -> Batch | None:
    """What a sweep should read next for an archive; None if every tag is ready."""
    unready = connection.execute(
        _OF_ARCHIVE.where(query_tags.c.done_id < query_tags.c.to_id).order_by(query_tags.c.id),
        {"archive": archive},
    ).all()
    if not unready:
        return None
    first = unready[0]
    together = [row for row in unready if (row.done_id, row.to_id) == (first.done_id, first.to_id)]
    ids = connection.scalars(
        select(instances.c.id)
        .where(
            instances.c.archive_id == archive,
            instances.c.id > first.done_id,
            instances.c.id <= first.to_id,
        )
        .order_by(instances.c.id)
        .limit(rows_max)
    ).all()
    return Batch([_tag(row) for row in together], first.done_id, first.to_id, ids)


def owners_of(connection: Connection, instance_ids: Sequence[int]) -> dict[int, Owners]:
    """The ids above each instance, of those that are still there."""
    rows = connection.execute(
        select(instances.c.id, instances.c.series_id, series.c.study_id)
        .join(series)
        .where(instances.c.id.in_(instance_ids))
    )
    return {
        row.id: {Level.INSTANCE: row.id, Level.SERIES: row.series_id, Level.STUDY: row.study_id}
        for row in rows
    }


def advance(connection: Connection, batch: Batch, read: int) -> None:
    """Note that a batch is done. Raises Conflict if another worker has done it meanwhile."""
    last = batch.instance_ids[-1] if batch.instance_ids else batch.to_id
    ids = [tag.id for tag in batch.tags]
    changed = connection.execute(
        update(query_tags)
        .where(query_tags.c.id.in_(ids), query_tags.c.done_id == batch.after_id)
        .values(done_id=last, done=query_tags.c.done + read)
    )
    if changed.rowcount != len(ids):
        raise Conflict("another worker fills these query tags")


def note_failures(
    connection: Connection, tags: Iterable[QueryTag], failed: Mapping[int, str]
) -> None:
    """Note the instances that could not be read for some tags, each with a sentence."""
    for tag in tags:
        for instance_id, sentence in failed.items():
            connection.execute(
                insert(query_tag_errors).values(
                    tag_id=tag.id, instance_id=instance_id, sentence=sentence, at=now()
                )
            )
