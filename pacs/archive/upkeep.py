"""Looking after an archive: fsck, rebuild, scrub and sweep. For operators, not for doors.

`fsck` compares what rows name with what the store holds. `rebuild` makes the index anew from the
store alone: every Part 10 file carries its receipt, and every run its record. `scrub` reads each
byte again. `sweep` removes objects that nobody names, when they are old enough not to be on their
way into a row. Metadata of series are checked at every read and can be made again, so one that is
lost is no problem to any of them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from sqlalchemy import Connection

from pacs.access import Actor
from pacs.archive import Archive
from pacs.archive import series_metadata as made_metadata
from pacs.archive.ingest import Receipt, Refound, enter
from pacs.archive.values import Problem, Scope
from pacs.dicom.part10 import read_part10
from pacs.errors import Missing, NodeError, Refused
from pacs.index import audit, catalog, changes, jobs, recycled, results, series_metadata
from pacs.index.recycled import TOMBSTONE_PREFIX, Tombstone
from pacs.index.results import RUN_PREFIX, Run

ORPHAN_AGE_S: Final = 86_400.0  # an unnamed object younger than this may still get its row
HEAD_BYTES: Final = 4096  # enough of a file for its meta group

Progress = Callable[[int, int], None]  # done, all; all is 0 while it is not known


def silent(_done: int, _all: int) -> None:
    """Tell nobody."""


def fsck(archive: Archive) -> list[Problem]:
    """What is wrong between index and store, with the queue, and with the audit trail."""
    with archive.index.read() as connection:
        named = dict(catalog.every_digest(connection, archive.id))
        records = set(results.every_digest(connection, archive.id))
        derived = set(series_metadata.every_digest(connection, archive.id))
        records |= set(recycled.every_digest(connection, archive.id))
        broken_audit = audit.verify(connection)
        lost_jobs = jobs.overdue(connection)
    held = set(archive.objects.digests())
    found = [
        Problem("missing_object", "a row names an object that the store does not hold", digest)
        for digest in sorted((set(named) | records) - held)
        if _is_missing(archive, digest)
    ]
    found += [
        Problem("orphan_object", "no row names this object", digest)
        for digest in sorted(held - set(named) - records - derived)
        if is_orphan(archive, digest)
    ]
    found += [Problem("audit_broken", sentence) for sentence in broken_audit]
    found += [
        Problem("job_overdue", "a running job's lease ran out long ago; is a worker running?", key)
        for key in lost_jobs
    ]
    return found


def _is_missing(archive: Archive, digest: str) -> bool:
    """A second look: rows and objects were not listed at the same moment."""
    if not _is_named(archive, digest):
        return False
    try:
        next(archive.objects.read(digest), b"")
    except Missing:
        return True
    return False


def _is_named(archive: Archive, digest: str) -> bool:
    with archive.index.read() as connection:
        return any(
            named
            for table in (catalog, results, series_metadata, recycled)
            for named in table.still_named(connection, {digest})
        )


def is_orphan(archive: Archive, digest: str) -> bool:
    """Whether an unnamed object is too old to be on its way into a row."""
    return time.time() - _kept_at(archive, digest) > ORPHAN_AGE_S


def _kept_at(archive: Archive, digest: str) -> float:
    """When an object was kept, as it says itself; 0 if it does not say."""
    return _kind_and_time(archive, digest)[1]


def _kind_and_time(archive: Archive, digest: str) -> tuple[bool, float]:
    """Whether an object is no tombstone, and when it was kept."""
    try:
        head = b"".join(archive.objects.read(digest, 0, HEAD_BYTES))
        if head.startswith(TOMBSTONE_PREFIX):
            return False, recycled.deleted_at(head)
        if head.startswith(made_metadata.PREFIX):
            return True, made_metadata.made_at(head)
        if head.startswith(RUN_PREFIX):
            return True, Run.unpack(b"".join(archive.objects.read(digest))).ended_at
        return True, Receipt.of(read_part10(head).private).received_at
    except (NodeError, ValueError, TypeError, LookupError):
        return True, 0.0


def sweep(archive: Archive) -> int:
    """Remove objects that no row names and none will, and half-written ones; how many."""
    tidied = archive.objects.tidy()
    with archive.index.read() as connection:
        named = {digest for digest, _ in catalog.every_digest(connection, archive.id)}
        named |= set(results.every_digest(connection, archive.id))
        named |= set(series_metadata.every_digest(connection, archive.id))
        named |= set(recycled.every_digest(connection, archive.id))
    suspects = (digest for digest in archive.objects.digests() if digest not in named)
    orphans = [d for d in suspects if is_orphan(archive, d) and not _is_named(archive, d)]
    # A tombstone outlives what it names, or a rebuild would find that without it.
    for digest in sorted(orphans, key=lambda orphan: not _kind_and_time(archive, orphan)[0]):
        archive.objects.delete(digest)
    return tidied + len(orphans)


def scrub(archive: Archive, progress: Progress = silent) -> list[Problem]:
    """Read every object again and compare it with its digest; what is wrong."""
    with archive.index.read() as connection:
        named = [digest for digest, _ in catalog.every_digest(connection, archive.id)]
        named += results.every_digest(connection, archive.id)
        named += recycled.every_digest(connection, archive.id)
    found = []
    for done, digest in enumerate(named, start=1):
        problem = _reread(archive, digest)
        if problem:
            found.append(problem)
        progress(done, len(named))
    return found


def _reread(archive: Archive, digest: str) -> Problem | None:
    running = hashlib.sha256()
    try:
        for piece in archive.objects.read(digest):
            running.update(piece)
    except NodeError as error:
        return Problem("unreadable", error.message, digest)
    if running.hexdigest() != digest:
        return Problem("corrupt", "the bytes no longer have their digest", digest)
    return None


def rebuild(archive: Archive, actor: Actor, progress: Progress = silent) -> list[Problem]:
    """Make an archive's rows anew from its store; the objects that could not be entered.

    Instances are entered in the order they came, under the policy of their day, so the same one is
    current as before. What was deleted and is still kept stays deleted. What only the index knew is
    gone: waiting jobs, the audit trail before now.
    """
    digests = list(archive.objects.digests())
    in_order = sorted(digests, key=lambda digest: (*_kind_and_time(archive, digest), digest))
    with archive.index.write() as connection:
        results.forget_everything(connection, archive.id)
        series_metadata.forget_everything(connection, archive.id)
        recycled.forget_everything(connection, archive.id)
        catalog.forget_everything(connection, archive.id)
    problems: list[Problem] = []
    found = _Found()
    for done, digest in enumerate(in_order, start=1):
        problems += _enter_again(archive, digest, found)
        progress(done, len(in_order))
    with archive.index.write() as connection:
        _enter_deletions(connection, archive, found)
        for run, digest in sorted(found.runs, key=lambda one: one[0].generation):
            results.add(connection, archive.id, run, digest=digest)
            _restore_study(connection, archive.id, run)
    for digest in found.derived:
        made_metadata.enter_again(archive, digest)
    with archive.index.write() as connection:
        audit.append(
            connection,
            actor,
            "rebuild",
            archive=archive.name,
            outcome="done",
            subject={"objects": len(in_order), "problems": len(problems)},
        )
        changes.tell_untold(connection, archive.id)
    archive.index.maintain()
    return problems


@dataclass(slots=True)
class _Found:
    """What `rebuild` finds beside instances; tombstones are read before what they name."""

    tombstones: list[tuple[Tombstone, str]] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    recycled: set[str] = field(default_factory=set)  # those of the dead that are still kept
    runs: list[tuple[Run, str]] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)  # metadata of series

    def bury(self, tombstone: Tombstone, digest: str) -> None:
        """Note a deletion."""
        self.tombstones.append((tombstone, digest))
        self.dead |= {one.digest for one in tombstone.members}


def _restore_study(connection: Connection, archive_id: int, run: Run) -> None:
    """A study stands where its newest run left it, unless more of it came after that was planned."""
    study = run.study_instance_uid
    catalog.restore_study(connection, archive_id, study, run.generation)
    planned_at = float(run.record.get("planned_at", run.ended_at))
    held = catalog.instances_of(connection, archive_id, Scope(study))
    if any(one.received_at > planned_at and not one.made_by for one in held):
        catalog.touch(connection, held[0].study_id)


def _enter_again(archive: Archive, digest: str, found: _Found) -> Iterator[Problem]:
    if digest in found.dead:
        found.recycled.add(digest)
        return
    try:
        content = b"".join(archive.objects.read(digest))
        if hashlib.sha256(content).hexdigest() != digest:
            yield Problem("corrupt", "the bytes no longer have their digest", digest)
        elif content.startswith(made_metadata.PREFIX):
            found.derived.append(digest)
        elif content.startswith(TOMBSTONE_PREFIX):
            found.bury(Tombstone.unpack(content), digest)
        elif content.startswith(RUN_PREFIX):
            found.runs.append((Run.unpack(content), digest))
        else:
            _enter_file(archive, digest, content)
    except Refused as error:
        yield Problem("not_entered", error.message, digest)
    except (ValueError, TypeError, LookupError):
        yield Problem("not_entered", "a record of a run or a deletion cannot be read", digest)


def _enter_file(archive: Archive, digest: str, content: bytes) -> None:
    found = Refound.of(digest, content)
    with archive.index.write() as connection:
        enter(connection, archive.id, found.examined, found.kept, found.receipt.duplicates)


def _enter_deletions(connection: Connection, archive: Archive, found: _Found) -> None:
    """What was deleted is kept as before; of a deletion nothing of which is left, nothing is told."""
    for tombstone, digest in found.tombstones:
        members = tuple(one for one in tombstone.members if one.digest in found.recycled)
        if members:
            recycled.add(connection, archive.id, replace(tombstone, members=members), digest)
