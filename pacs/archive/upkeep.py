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
from typing import Final

from sqlalchemy import Connection

from pacs.access import Actor
from pacs.archive import Archive
from pacs.archive import series_metadata as made_metadata
from pacs.archive.ingest import Receipt, enter, examine
from pacs.archive.values import Incoming, Problem, Scope
from pacs.dicom.part10 import read_part10
from pacs.errors import Missing, NodeError, Refused
from pacs.index import audit, catalog, jobs, results, series_metadata
from pacs.index.catalog import Kept
from pacs.index.results import RUN_PREFIX, Run
from pacs.store import Blob

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
            for table in (catalog, results, series_metadata)
            for named in table.still_named(connection, {digest})
        )


def is_orphan(archive: Archive, digest: str) -> bool:
    """Whether an unnamed object is too old to be on its way into a row."""
    return time.time() - _kept_at(archive, digest) > ORPHAN_AGE_S


def _kept_at(archive: Archive, digest: str) -> float:
    """When an object was kept, as it says itself; 0 if it does not say."""
    try:
        head = b"".join(archive.objects.read(digest, 0, HEAD_BYTES))
        if head.startswith(made_metadata.PREFIX):
            return made_metadata.made_at(head)
        if head.startswith(RUN_PREFIX):
            return Run.unpack(b"".join(archive.objects.read(digest))).ended_at
        return Receipt.of(read_part10(head).private).received_at
    except (NodeError, ValueError, TypeError, LookupError):
        return 0.0


def sweep(archive: Archive) -> int:
    """Remove objects that no row names and none will, and half-written ones; how many."""
    tidied = archive.objects.tidy()
    with archive.index.read() as connection:
        named = {digest for digest, _ in catalog.every_digest(connection, archive.id)}
        named |= set(results.every_digest(connection, archive.id))
        named |= set(series_metadata.every_digest(connection, archive.id))
    suspects = (digest for digest in archive.objects.digests() if digest not in named)
    orphans = [d for d in suspects if is_orphan(archive, d) and not _is_named(archive, d)]
    for digest in orphans:
        archive.objects.delete(digest)
    return tidied + len(orphans)


def scrub(archive: Archive, progress: Progress = silent) -> list[Problem]:
    """Read every object again and compare it with its digest; what is wrong."""
    with archive.index.read() as connection:
        named = [digest for digest, _ in catalog.every_digest(connection, archive.id)]
        named += results.every_digest(connection, archive.id)
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
    current as before. What only the index knew is gone: waiting jobs, the audit trail before now.
    """
    digests = list(archive.objects.digests())
    in_order = sorted(digests, key=lambda digest: (_kept_at(archive, digest), digest))
    with archive.index.write() as connection:
        results.forget_everything(connection, archive.id)
        series_metadata.forget_everything(connection, archive.id)
        catalog.forget_everything(connection, archive.id)
    problems: list[Problem] = []
    runs: list[tuple[Run, str]] = []
    derived: list[str] = []
    for done, digest in enumerate(in_order, start=1):
        problems += _enter_again(archive, digest, runs, derived)
        progress(done, len(in_order))
    with archive.index.write() as connection:
        for run, digest in sorted(runs, key=lambda found: found[0].generation):
            results.add(connection, archive.id, run, digest=digest)
            _restore_study(connection, archive.id, run)
    for digest in derived:
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
    archive.index.maintain()
    return problems


def _restore_study(connection: Connection, archive_id: int, run: Run) -> None:
    """A study stands where its newest run left it, unless more of it came after that was planned."""
    study = run.study_instance_uid
    catalog.restore_study(connection, archive_id, study, run.generation)
    planned_at = float(run.record.get("planned_at", run.ended_at))
    held = catalog.instances_of(connection, archive_id, Scope(study))
    if any(one.received_at > planned_at and not one.made_by for one in held):
        catalog.touch(connection, held[0].study_id)


def _enter_again(
    archive: Archive, digest: str, runs: list[tuple[Run, str]], derived: list[str]
) -> Iterator[Problem]:
    try:
        content = b"".join(archive.objects.read(digest))
        if hashlib.sha256(content).hexdigest() != digest:
            yield Problem("corrupt", "the bytes no longer have their digest", digest)
        elif content.startswith(made_metadata.PREFIX):
            derived.append(digest)
        elif content.startswith(RUN_PREFIX):
            runs.append((Run.unpack(content), digest))
        else:
            _enter_file(archive, Blob(digest, len(content)), content)
    except Refused as error:
        yield Problem("not_entered", error.message, digest)
    except (ValueError, TypeError):
        yield Problem("not_entered", "a run record cannot be read", digest)


def _enter_file(archive: Archive, blob: Blob, content: bytes) -> None:
    file = read_part10(content)
    receipt = Receipt.of(file.private)
    examined = examine(Incoming(file.data_set, file.transfer_syntax_uid), {})
    kept = Kept(
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        data_set_digest=examined.data_set_digest,
        data_set_offset=file.data_set_offset,
        transfer_syntax_uid=file.transfer_syntax_uid,
        frame_table=examined.packed_frame_table,
        received_at=receipt.received_at,
        made_by=receipt.made_by,
        source_ae_title=receipt.source_ae_title,
    )
    with archive.index.write() as connection:
        enter(connection, archive.id, examined, kept, receipt.duplicates)
