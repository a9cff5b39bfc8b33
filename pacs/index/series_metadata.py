"""Which object of the store holds the metadata of a series, and which studies wait for theirs.

A row is no promise that the object is up to date: it names the digests of the instances that it
was made of, and whoever reads it compares them with the rows of today. So no writer of instances
has to think of it, and no race can make old metadata look current.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, delete, select, update

from pacs.index.catalog import DIGESTS_ASKED_MAX, Scope, members_of
from pacs.index.schema import insert_new, series, series_metadata, studies

DUE_STUDIES_MAX: Final = 20  # studies named at a time; further ones wait for the next turn


class Outline(NamedTuple):
    """A series, or one instance of it: what lies in the archive, in order, as digests.

    `kept` is the digest of the object that may hold its metadata, empty if there is none.
    """

    series_id: int
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...]
    digests: tuple[str, ...]
    kept: str

    @property
    def fingerprint(self) -> str:
        """The same for the same instances in the same order, in any archive and at any time."""
        return hashlib.sha256("".join(self.digests).encode()).hexdigest()

    @property
    def scope(self) -> Scope:
        """The whole series."""
        return Scope(self.study_instance_uid, self.series_instance_uid)


def outlines(connection: Connection, archive: int, scope: Scope) -> list[Outline]:
    """The series of a scope, in order; of an instance's scope, its series with it alone."""
    rows = members_of(connection, archive, scope)
    return [_outline(list(members)) for _, members in groupby(rows, lambda row: row.series_id)]


def _outline(members: Sequence[Row[Any]]) -> Outline:
    first = members[0]
    return Outline(
        first.series_id,
        first.StudyInstanceUID,
        first.SeriesInstanceUID,
        tuple(row.SOPInstanceUID for row in members),
        tuple(row.digest for row in members),
        first.kept or "",
    )


def keep(connection: Connection, archive: int, series_id: int, digest: str) -> str:
    """Let a series' metadata lie in this object; the digest of the one that is not needed any more.

    That is its own if the series is gone, and empty if there was none. Who removes instances waits
    meanwhile, or would leave the object behind; who stores does not.
    """
    row = series_metadata.c.series_id == series_id
    lock = select(series.c.id).where(series.c.id == series_id).with_for_update(key_share=True)
    if connection.execute(lock).scalar_one_or_none() is None:
        return digest
    values = {"archive_id": archive, "series_id": series_id, "digest": digest}
    if insert_new(connection, series_metadata, ["series_id"], values)[1]:
        return ""
    former = connection.scalar(select(series_metadata.c.digest).where(row))
    connection.execute(update(series_metadata).where(row).values(digest=digest))
    return str(former)


def due(connection: Connection, archive: int) -> list[Row[Any]]:
    """The studies whose metadata shall be made, those that wait longest first."""
    return list(
        connection.execute(
            select(studies.c.id, studies.c.StudyInstanceUID, studies.c.metadata_due_at)
            # Every time is above 0, and SQLite finds that in its index, unlike NOT NULL.
            .where(studies.c.archive_id == archive, studies.c.metadata_due_at > 0)
            .order_by(studies.c.metadata_due_at)
            .limit(DUE_STUDIES_MAX)
        )
    )


def done(connection: Connection, study: Row[Any]) -> None:
    """A study waits no longer, unless something came to it since it was found due."""
    connection.execute(
        update(studies)
        .where(studies.c.id == study.id, studies.c.metadata_due_at == study.metadata_due_at)
        .values(metadata_due_at=None)
    )


def every_digest(connection: Connection, archive: int) -> Iterator[str]:
    """The objects that hold the metadata of an archive's series."""
    yield from connection.scalars(
        select(series_metadata.c.digest).where(series_metadata.c.archive_id == archive)
    )


def still_named(connection: Connection, digests: set[str]) -> Iterator[str]:
    """Those of digests that some series names, in any archive."""
    asked = sorted(digests)
    for start in range(0, len(asked), DIGESTS_ASKED_MAX):
        some = asked[start : start + DIGESTS_ASKED_MAX]
        yield from connection.scalars(
            select(series_metadata.c.digest).where(series_metadata.c.digest.in_(some))
        )


def forget_everything(connection: Connection, archive: int) -> None:
    """Remove every row of an archive; its objects stay. For `rebuild`."""
    connection.execute(delete(series_metadata).where(series_metadata.c.archive_id == archive))
