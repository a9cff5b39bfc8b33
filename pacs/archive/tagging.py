"""The verbs of extended query tags, and the sweep that reads what was stored before them.

Who may store may add a tag, who may delete may remove one: a tag changes what an archive knows, and
never what it keeps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row

from pacs.access import Action, Actor, permits
from pacs.archive import Archive
from pacs.archive.values import Instance
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    Scan,
    scan,
)
from pacs.dicom.query_tags import QueryTag, TagValue, tag_values
from pacs.errors import BadQuery, Conflict, Corrupt, Forbidden, Missing, Refused
from pacs.index import audit, catalog, query_tags
from pacs.index.query_tags import Batch, Failure, Known

BATCH_INSTANCES: Final = 100  # read between two looks at the clock, and entered together
FILL_S: Final = 0.5  # of one sweep, so that others have their turn

Found = Mapping[int, Mapping[QueryTag, Sequence[TagValue]]]


class QueryTags:
    """The extended query tags of one archive."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._index = archive.index

    def listed(self, *, built_in: bool = False) -> list[Known]:
        """Every tag that was added; with `built_in` those that every archive has as well."""
        with self._index.read() as connection:
            return query_tags.listed(connection, self._archive.id, built_in=built_in)

    def get(self, path: tuple[int, ...]) -> Known:
        """The tag with this path. Raises Missing."""
        found = [known for known in self.listed() if known.tag.path == path]
        if not found:
            raise Missing("there is no such query tag here")
        return found[0]

    def of_operation(self, operation: str) -> list[Known]:
        """The tags that one operation fills. Raises Missing."""
        found = [known for known in self.listed() if known.operation == operation]
        if not operation or not found:
            raise Missing("there is no such operation here")
        return found

    def add(self, actor: Actor, tags: Sequence[QueryTag]) -> str:
        """Add tags, all or none; the id of the operation that fills them.

        Raises Forbidden, BadQuery for none or one that is given twice, Conflict for one that is
        there already, Exhausted where they are too many.
        """
        self._permit(actor, Action.STORE)
        if not tags or len({tag.path for tag in tags}) < len(tags):
            raise BadQuery("query tags are a list of one or more, each with a path of its own")
        with self._index.write() as connection:
            paths = {known.tag.path for known in query_tags.listed(connection, self._archive.id)}
            if paths & {tag.path for tag in tags}:
                raise Conflict("this query tag is there already")
            operation = query_tags.add(connection, self._archive.id, tags)
            for tag in tags:
                self._audit(connection, actor, "query_tag_add", tag)
        return operation

    def remove(self, actor: Actor, path: tuple[int, ...]) -> None:
        """Remove a tag and what is known by it. Raises Forbidden, Missing."""
        self._permit(actor, Action.DELETE)
        tag = self.get(path).tag
        with self._index.write() as connection:
            query_tags.remove(connection, tag)
            self._audit(connection, actor, "query_tag_remove", tag)

    def set_queried(self, actor: Actor, path: tuple[int, ...], is_queried: bool) -> Known:
        """Let queries name a tag, or refuse them. Raises Forbidden, Missing."""
        self._permit(actor, Action.STORE)
        tag = self.get(path).tag
        with self._index.write() as connection:
            query_tags.set_queried(connection, tag, is_queried)
            self._audit(connection, actor, "query_tag_change", tag)
        return self.get(path)

    def failures(self, path: tuple[int, ...], limit: int, offset: int) -> list[Failure]:
        """The instances that could not be read for a tag. Raises Missing."""
        tag = self.get(path).tag
        with self._index.read() as connection:
            rows = query_tags.failures(connection, tag, limit, offset)
            placed = catalog.placed(connection, [row.instance_id for row in rows])
        return [_failure(placed[row.instance_id], row) for row in rows]

    def _permit(self, actor: Actor, action: Action) -> None:
        if not permits(actor, action):
            raise Forbidden("this actor may not change query tags")

    def _audit(self, connection: Connection, actor: Actor, deed: str, tag: QueryTag) -> None:
        audit.append(
            connection,
            actor,
            deed,
            archive=self._archive.name,
            outcome="done",
            subject={"tag": tag.text, "creator": tag.creator},
        )

    # the sweep

    def fill(self) -> int:
        """Read stored instances for the tags that want them, FILL_S long at most; how many."""
        until, done = time.monotonic() + FILL_S, 0
        while time.monotonic() < until and (read := self._fill_batch()):
            done += read
        return done

    def _fill_batch(self) -> int:
        with self._index.read() as connection:
            batch = query_tags.next_batch(connection, self._archive.id, BATCH_INSTANCES)
            if batch is None:
                return 0
            placed = catalog.placed(connection, batch.instance_ids)
        found: dict[int, Mapping[QueryTag, Sequence[TagValue]]] = {}
        failed: dict[int, str] = {}
        for instance_id, row in placed.items():
            try:
                walked, syntax = self._walked(Instance.of(row))
                found[instance_id] = {tag: tag_values(walked, syntax, tag) for tag in batch.tags}
            except (Refused, Corrupt) as error:
                failed[instance_id] = error.message
        try:
            self._enter(batch, found, failed)
        except Conflict:
            return 0  # another worker was quicker
        return len(batch.instance_ids)

    def _walked(self, instance: Instance) -> tuple[Scan, str]:
        """An instance's header and its syntax; one that was deflated is inflated."""
        syntax = instance.transfer_syntax_uid
        if syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            syntax = EXPLICIT_VR_LITTLE_ENDIAN
        return scan(self._archive.header(instance), syntax), syntax

    def _enter(self, batch: Batch, found: Found, failed: Mapping[int, str]) -> None:
        with self._index.write() as connection:
            query_tags.advance(connection, batch, len(batch.instance_ids))
            owners = query_tags.owners_of(connection, batch.instance_ids)
            for instance_id in sorted(found.keys() & owners):
                query_tags.enter(connection, owners[instance_id], found[instance_id])
            here = {key: sentence for key, sentence in failed.items() if key in owners}
            query_tags.note_failures(connection, batch.tags, here)


def _failure(instance: Row[Any], error: Row[Any]) -> Failure:
    place = (instance.StudyInstanceUID, instance.SeriesInstanceUID, instance.SOPInstanceUID)
    return Failure(*place, error.sentence, error.at)
