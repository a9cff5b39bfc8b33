"""What was deleted, while it is kept: to be listed, given back or removed for good.

`Archive.delete` takes rows away and leaves the objects, named by a deletion. Giving back reads each
file again and makes its rows anew, as `rebuild` does. An instance that was stored again meanwhile
stays as it is: its deleted bytes are left where they are until they are removed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from pacs.access import Action, Actor, permits
from pacs.archive import Archive
from pacs.archive.ingest import Refound, enter
from pacs.archive.values import Duplicates, Scope
from pacs.errors import Corrupt, Forbidden, Missing, NodeError
from pacs.index import audit, catalog, changes, recycled
from pacs.index.changes import Change, Told
from pacs.index.recycled import Deletion, Member, Tombstone

LISTED_MAX: Final = 1_000  # deletions of one page
PURGED_MAX: Final = 100  # deletions removed in one turn of the sweep; further ones wait

SWEEP: Final = Actor("node", "recycle")


@dataclass(frozen=True, slots=True)
class Restored:
    """How many instances came back, and how many stayed: they are held again, or damaged."""

    restored: int
    left: int


def listed(archive: Archive, actor: Actor, limit: int, before: int = 0) -> list[Deletion]:
    """The newest deletions; `before` is the smallest id of the page before. Raises Forbidden."""
    _permit(actor)
    with archive.index.read() as connection:
        return recycled.listed(connection, archive.id, min(limit, LISTED_MAX), before)


def purge(archive: Archive, actor: Actor, deletion: int) -> None:
    """Remove for good what a deletion took away. Raises Missing, Forbidden."""
    _permit(actor)
    with archive.index.write() as connection:
        found = recycled.find(connection, archive.id, deletion)
        digests = recycled.forget(connection, archive.id, deletion)
        if found is None or digests is None:
            raise Missing("there is no such deletion here")
        audit.append(
            connection,
            actor,
            "purge",
            archive=archive.name,
            outcome="done",
            subject={"study": found.scope.study_instance_uid, "instances": found.instances},
        )
    for digest in digests:  # the tombstone is the last: see `pacs.index.recycled`
        archive.objects.delete(digest)


def purge_due(archive: Archive) -> int:
    """Remove for good what has been kept for the recycle time; how many deletions."""
    with archive.index.read() as connection:
        due = recycled.due(connection, archive.id, archive.recycle_s, PURGED_MAX)
    purged = 0
    for deletion in due:
        try:
            purge(archive, SWEEP, deletion)
        except Missing:  # given back or removed at this moment
            continue
        purged += 1
    return purged


def restore(archive: Archive, actor: Actor, deletion: int) -> Restored:
    """Give back the instances of a deletion. Raises Missing, Forbidden, Unreachable.

    Each comes back whole, with its further versions, or not at all. What was not answered may be
    asked again.
    """
    _permit(actor)
    with archive.index.read() as connection:
        found = recycled.find(connection, archive.id, deletion)
        if found is None:
            raise Missing("there is no such deletion here")
        kept = recycled.kept(connection, deletion)
        study = found.scope.study_instance_uid
        is_here = catalog.study_row(connection, archive.id, study) is not None
    back = left = 0
    for _, group in groupby(kept, key=lambda one: one.sop_instance_uid):
        if _restore_instance(archive, actor, found, list(group)):
            back += 1
        else:
            left += 1
    _close(archive, found)
    if found.generation and not is_here:
        _complete_again(archive, found, back)
    return Restored(back, left)


def _restore_instance(
    archive: Archive, actor: Actor, deletion: Deletion, objects: list[Member]
) -> bool:
    """Make the rows of one instance anew, the current bytes first; whether it came back."""
    try:
        files = [_refound(archive, one) for one in objects]
    except NodeError as error:
        if isinstance(error, Corrupt | Missing):
            return False
        raise
    uid = objects[0].sop_instance_uid
    with archive.index.write() as connection:
        if catalog.find_instance(connection, archive.id, uid) is not None:
            return False
        claimed = recycled.claim(connection, deletion.id, uid)
        if claimed != {one.digest for one in objects}:
            raise Missing("the deletion was given back or removed at this very moment")
        for file in files:
            enter(connection, archive.id, file.examined, file.kept, Duplicates.KEEP)
        place = (deletion.scope.study_instance_uid, objects[0].series_instance_uid, uid)
        audit.append(
            connection,
            actor,
            "restore",
            archive=archive.name,
            outcome="done",
            subject=dict(zip(("study", "series", "instance"), place, strict=True)),
        )
        told = [Told(*place, objects[0].digest)]
        changes.tell(connection, archive.id, Change.CREATE, told)
    return True


def _refound(archive: Archive, member: Member) -> Refound:
    content = b"".join(archive.objects.read(member.digest))
    if hashlib.sha256(content).hexdigest() != member.digest:
        raise Corrupt(digest=member.digest)
    return Refound.of(member.digest, content)


def _close(archive: Archive, deletion: Deletion) -> None:
    """Let a tombstone name what is left of its deletion alone, or nothing.

    Until then a rebuild would take what came back for deleted; it would still be kept.
    """
    with archive.index.read() as connection:
        left = tuple(recycled.kept(connection, deletion.id))
    newer = ""
    if left:
        facts = (deletion.deleted_at, deletion.scope, deletion.generation)
        tombstone = Tombstone(*facts, left)
        newer = archive.objects.put((tombstone.packed(),)).digest
    with archive.index.write() as connection:
        if newer:
            recycled.rename(connection, deletion.id, newer)
        else:
            recycled.forget(connection, archive.id, deletion.id)
    archive.objects.delete(deletion.tombstone)


def _complete_again(archive: Archive, deletion: Deletion, instances: int) -> None:
    """A study that was complete stands where it stood, unless more than it came by now."""
    study = deletion.scope.study_instance_uid
    with archive.index.write() as connection:
        if len(catalog.instances_of(connection, archive.id, Scope(study))) == instances:
            catalog.restore_study(connection, archive.id, study, deletion.generation)


def _permit(actor: Actor) -> None:
    """Who may delete may list deletions and take them back."""
    if not permits(actor, Action.DELETE):
        raise Forbidden(f"this actor may not {Action.DELETE.value}")
