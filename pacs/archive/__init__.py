"""The archive: the only door to the store and the index.

Its verbs are store, search, retrieve, delete and verify. The actor comes first in each, is asked
`permits`, and is written into the audit trail in the transaction of the deed. The order of a store
is bytes, then row, then answer: an object that nobody names is garbage, and a row never names an
object that is not there. One `Archive` stands for one archive; a research project has its own.
"""

from __future__ import annotations

import hashlib
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Final

from pydicom import Dataset
from sqlalchemy import Connection

from pacs.access import Action, Actor, permits
from pacs.archive.commits import GroupCommit
from pacs.archive.ingest import Examined, Receipt, enter, examine, file_meta, holds_already
from pacs.archive.values import (
    Duplicates,
    Found,
    Held,
    Incoming,
    Instance,
    Outcome,
    Problem,
    Scope,
    Stored,
)
from pacs.dicom.attributes import Level
from pacs.dicom.data_sets import read_header
from pacs.dicom.frames import Span
from pacs.dicom.json_model import JsonModel, json_model
from pacs.dicom.matching import LIMIT_MAX, Query
from pacs.dicom.part10 import DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, inflate, scan
from pacs.errors import Conflict, Corrupt, Forbidden, Gone, Missing, NodeError, Refused
from pacs.index import Index, audit, catalog, changes, jobs, queries, query_tags, recycled, results
from pacs.index.catalog import Kept
from pacs.index.changes import Change, Entry, Told
from pacs.index.jobs import Job
from pacs.index.queries import Value
from pacs.index.recycled import Tombstone
from pacs.index.results import Run
from pacs.index.series_metadata import Outline, outlines
from pacs.store import ObjectStore

__all__ = [
    "Archive",
    "Duplicates",
    "Found",
    "Held",
    "Incoming",
    "Instance",
    "Outcome",
    "Problem",
    "Scope",
    "Stored",
]

RETRIEVAL_WINDOW_S: Final = 60.0  # reads of one study by one actor within it are one audit row
RETRIEVALS_REMEMBERED_MAX: Final = 10_000  # beyond this the window begins anew for everyone
PAGE_ROWS: Final = 200  # of `pages`; a peer that reads its first answers waits for no more
SEARCH_S_MAX: Final = 2.0  # for a page of `pages`; one that takes longer is given up
DELETE_ATTEMPTS_MAX: Final = 10  # a scope that instances enter each time is not deleted

_CHANGE: Final = {
    Outcome.NEW: Change.CREATE,
    Outcome.KEPT_VERSION: Change.UPDATE,
    Outcome.REPLACED: Change.UPDATE,
}


def _never() -> bool:
    return False


class Archive:
    """One archive: its objects below one prefix of the store, its rows under one id.

    What is deleted is kept for `recycle_s`, see `pacs.archive.recycle`; with 0 it goes at once.
    """

    def __init__(
        self,
        name: str,
        store: ObjectStore,
        index: Index,
        *,
        duplicates: Duplicates = Duplicates.KEEP,
        recycle_s: float = 0.0,
    ) -> None:
        self.name = name
        self.objects = store
        self.index = index
        self.recycle_s = recycle_s
        self._duplicates = duplicates
        self._commits = GroupCommit(index)
        self._recent: dict[tuple[str, ...], float] = {}
        self._recent_lock = threading.Lock()
        with index.write() as connection:
            self.id = catalog.archive_id(connection, name)
            query_tags.prepare(connection, self.id)

    # store

    def store(
        self, actor: Actor, incoming: Incoming, *, expect: Mapping[str, str] | None = None
    ) -> Stored:
        """Keep an instance. When this returns it would survive a power cut, and so would its row.

        `expect` gives values that the data set must have, by keyword: the C-STORE command's UIDs,
        or the study a STOW-RS request names. Raises BadObject, Mismatch, Conflict (policy
        `refuse`), Forbidden, Exhausted, Unreachable; nothing is kept then.
        """
        self._permit(actor, Action.STORE)
        examined = examine(incoming, expect or {})
        known = self._known(actor, examined)
        return known or self._keep(actor, examined)

    def _known(self, actor: Actor, examined: Examined) -> Stored | None:
        """Success at once for a data set that is here already, before a byte is written."""
        with self.index.read() as connection:
            current = catalog.find_instance(connection, self.id, examined.sop_instance_uid)
            if current is None or not holds_already(connection, current, examined):
                return None
        stored = examined.stored(Outcome.IDENTICAL)
        with self.index.write() as connection:
            self._audit_store(connection, actor, stored)
        return stored

    def _keep(self, actor: Actor, examined: Examined) -> Stored:
        receipt = Receipt.now(actor, self._duplicates)
        kept = self._put(examined, receipt)

        def commit(connection: Connection) -> Stored:
            outcome, warning = enter(connection, self.id, examined, kept, self._duplicates)
            stored = examined.stored(outcome, warning)
            self._audit_store(connection, actor, stored)
            self._tell(connection, stored, kept.digest)
            return stored

        with self._taken_back_if_refused(kept.digest):
            stored = self._commits.run(commit)
        if stored.outcome is Outcome.IDENTICAL:
            self.objects.delete(kept.digest)
        return stored

    @contextmanager
    def _taken_back_if_refused(self, *digests: str) -> Iterator[None]:
        """Forget objects whose row is refused.

        Only then: if the index falls silent during the commit, the row may be there after all, and
        the bytes must stay. The sweep removes them later if no row names them.
        """
        try:
            yield
        except Refused:
            for digest in digests:
                self.objects.delete(digest)
            raise

    def _put(self, examined: Examined, receipt: Receipt) -> Kept:
        """Keep the bytes, before any row names them."""
        meta = file_meta(examined, receipt)
        blob = self.objects.put((meta, memoryview(examined.incoming.data_set)))
        return Kept(
            digest=blob.digest,
            size_bytes=blob.size_bytes,
            data_set_digest=examined.data_set_digest,
            data_set_offset=len(meta),
            transfer_syntax_uid=examined.incoming.transfer_syntax_uid,
            frame_table=examined.packed_frame_table,
            received_at=receipt.received_at,
            made_by=receipt.made_by,
            source_ae_title=receipt.source_ae_title,
        )

    def _audit_store(self, connection: Connection, actor: Actor, stored: Stored) -> None:
        audit.append(
            connection,
            actor,
            Action.STORE,
            archive=self.name,
            outcome=stored.outcome.value,
            subject={
                "study": stored.study_instance_uid,
                "series": stored.series_instance_uid,
                "instance": stored.sop_instance_uid,
            },
        )

    def _tell(self, connection: Connection, stored: Stored, digest: str) -> None:
        """Write what a store changed, once its row of the audit trail is there."""
        change = _CHANGE.get(stored.outcome)
        if change is not None:
            place = (stored.study_instance_uid, stored.series_instance_uid, stored.sop_instance_uid)
            changes.tell(connection, self.id, change, [Told(*place, digest)])

    def keep_result(
        self,
        actor: Actor,
        job: Job,
        outputs: Sequence[Incoming],
        *,
        model: str,
        state: str,
        record: Mapping[str, Any],
    ) -> None:
        """End a job with what it made: its instances, its run record and its end, all or nothing.

        The record is kept in the store as well, so that `rebuild` finds it. Raises Conflict, and
        keeps nothing, if another worker holds the job by now.
        """
        self._permit(actor, Action.STORE)
        receipt = Receipt.now(actor, Duplicates.KEEP, made_by=job.key)
        examined = [examine(output, {}) for output in outputs]
        run = Run(
            job.key,
            job.study_instance_uid,
            job.generation,
            model,
            state,
            record,
            receipt.received_at,
        )
        kept = [self._put(one, receipt) for one in examined]
        blob = self.objects.put((run.packed(),))
        digests = [place.digest for place in kept] + [blob.digest]
        with self._taken_back_if_refused(*digests), self.index.write() as connection:
            code, sentence = run.reason
            jobs.finish(connection, job, state, reason_code=code, reason=sentence)
            stored = [
                one.stored(*enter(connection, self.id, one, place, Duplicates.KEEP))
                for one, place in zip(examined, kept, strict=True)
            ]
            results.add(connection, self.id, run, digest=blob.digest)
            audit.append(
                connection,
                actor,
                "infer",
                archive=self.name,
                outcome=state,
                subject={"study": job.study_instance_uid, "model": model, "job": job.key},
            )
            for done, place in zip(stored, kept, strict=True):
                self._tell(connection, done, place.digest)

    # search and retrieve

    def search(self, actor: Actor, query: Query) -> Found:
        """The rows that satisfy a query, LIMIT_MAX of them at most.

        Raises Forbidden, Unreachable, and Exhausted where that takes longer than SEARCH_S_MAX.
        """
        self._permit(actor, Action.SEARCH)
        limit = min(query.limit, LIMIT_MAX)
        with self.index.read_within(SEARCH_S_MAX, _never) as connection:
            ids = queries.found_ids(connection, self.id, replace(query, limit=limit + 1))
            rows = queries.answers(connection, query.level, ids[:limit])
        self._audit_search(actor, query)
        return Found(rows, len(ids) > limit, ids[:limit])

    def count(self, actor: Actor, query: Query, *, seconds_max: float = SEARCH_S_MAX) -> int:
        """How many rows satisfy a query, from its offset on and up to its limit.

        Raises Forbidden, Unreachable, and Exhausted where counting takes longer than seconds_max.
        """
        self._permit(actor, Action.SEARCH)
        self._audit_search(actor, query)
        with self.index.read_within(seconds_max, _never) as connection:
            return queries.count(connection, self.id, query)

    def first_instances(self, actor: Actor, level: Level, ids: Sequence[int]) -> list[Instance]:
        """The instance that came first of each row of an answer, in its order.

        What an answer should tell beyond the index is read from it. Raises Forbidden.
        """
        self._permit(actor, Action.SEARCH)
        with self.index.read() as connection:
            first = queries.first_instances(connection, level, ids)
            rows = catalog.placed(connection, list(first.values()))
        return [Instance.of(rows[first[one]]) for one in ids if first.get(one) in rows]

    def _audit_search(self, actor: Actor, query: Query) -> None:
        keys = sorted({*(key.keyword for key in query.keys), *(t.keyword for t in query.tags)})
        self._audit_read(actor, Action.SEARCH, {"level": query.level.name, "keys": ",".join(keys)})

    def pages(
        self, actor: Actor, query: Query, *, is_stopped: Callable[[], bool] = _never
    ) -> Iterator[list[dict[str, Value]]]:
        """Every row that satisfies a query, up to its limit, in pages and in order.

        Between two pages nothing is held but the ids of the rows to come: a peer that reads slowly
        keeps no transaction open, and what is stored meanwhile moves no row from its page. Raises
        Forbidden, Unreachable, and Exhausted where a page takes longer than SEARCH_S_MAX or
        `is_stopped` came true.
        """
        self._permit(actor, Action.SEARCH)
        self._audit_search(actor, query)
        with self.index.read_within(SEARCH_S_MAX, is_stopped) as connection:
            first = replace(query, limit=min(query.limit, PAGE_ROWS))
            ids = queries.found_ids(connection, self.id, first)
            yielded = queries.answers(connection, query.level, ids)
        yield yielded
        if len(ids) < PAGE_ROWS:
            return
        with self.index.read_within(SEARCH_S_MAX, is_stopped) as connection:
            every = queries.found_ids(connection, self.id, query)
        had = set(ids)
        rest = array("q", (one for one in every if one not in had))
        for start in range(0, len(rest), PAGE_ROWS):
            with self.index.read_within(SEARCH_S_MAX, is_stopped) as connection:
                yielded = queries.answers(connection, query.level, rest[start : start + PAGE_ROWS])
            yield yielded

    def select(self, actor: Actor, query: Query, *, destination: str = "") -> list[Held]:
        """Where the instances are kept that satisfy a query, in order; none is a result as well.

        `destination` names the peer they go to, for the audit. Raises Forbidden, Unreachable.
        """
        self._permit(actor, Action.RETRIEVE)
        with self.index.read() as connection:
            found = [Held._make(row) for row in queries.held(connection, self.id, query)]
        for study in dict.fromkeys(one.study_instance_uid for one in found):
            to = {"destination": destination} if destination else {}
            self._audit_read(actor, Action.RETRIEVE, {"study": study, **to})
        return found

    def retrieve(self, actor: Actor, scope: Scope) -> list[Instance]:
        """The instances of a scope, in order. Raises Missing where there is none, Forbidden.

        It is Gone that is raised for what was deleted, while that is kept.
        """
        self._permit(actor, Action.RETRIEVE)
        with self.index.read() as connection:
            rows = catalog.instances_of(connection, self.id, scope)
            if not rows:
                raise self._absence(connection, scope)
        self._audit_read(actor, Action.RETRIEVE, {"study": scope.study_instance_uid})
        return [Instance.of(row) for row in rows]

    def outlines(self, actor: Actor, scope: Scope) -> list[Outline]:
        """What a scope holds, series by series in order, for `pacs.archive.series_metadata`.

        Raises Missing where there is none, Forbidden.
        """
        self._permit(actor, Action.RETRIEVE)
        with self.index.read() as connection:
            found = outlines(connection, self.id, scope)
            if not found:
                raise self._absence(connection, scope)
        self._audit_read(actor, Action.RETRIEVE, {"study": scope.study_instance_uid})
        return found

    def changes(
        self, actor: Actor, after: int, rows_max: int, times: tuple[float, float] | None = None
    ) -> list[Entry]:
        """What changed after a number of the feed, in order. Raises Forbidden.

        With two `times` (s since 1970): between them, but for the first `after` rows.
        """
        self._permit(actor, Action.SEARCH)
        with self.index.read() as connection:
            if times is None:
                found = changes.after(connection, self.id, after, rows_max)
            else:
                found = changes.between(connection, self.id, times, after, rows_max)
        self._audit_read(actor, Action.SEARCH, {"level": "CHANGES"})
        return found

    def latest_change(self, actor: Actor) -> Entry | None:
        """The newest change, or None. Raises Forbidden."""
        self._permit(actor, Action.SEARCH)
        with self.index.read() as connection:
            found = changes.latest(connection, self.id)
        self._audit_read(actor, Action.SEARCH, {"level": "CHANGES"})
        return found

    def runs(self, actor: Actor, study_instance_uid: str) -> list[Run]:
        """What AI runs that ended said of a study, newest generation first. Raises Forbidden."""
        self._permit(actor, Action.RETRIEVE)
        with self.index.read() as connection:
            found = results.of_study(connection, self.id, study_instance_uid)
        if found:
            self._audit_read(actor, Action.RETRIEVE, {"study": study_instance_uid})
        return found

    def _audit_read(self, actor: Actor, action: Action, subject: Mapping[str, str]) -> None:
        """One row per actor and subject within the window: a viewer reads a study frame by frame."""
        deed = (actor.kind, actor.name, actor.address, action.value, *subject.values())
        at = time.monotonic()
        with self._recent_lock:
            if at - self._recent.get(deed, -RETRIEVAL_WINDOW_S) < RETRIEVAL_WINDOW_S:
                return
            if len(self._recent) >= RETRIEVALS_REMEMBERED_MAX:
                self._recent.clear()
        with self.index.write() as connection:
            audit.append(
                connection, actor, action, archive=self.name, outcome="done", subject=subject
            )
        with self._recent_lock:
            self._recent[deed] = at

    def chunks(
        self, instance: Instance | Held, start: int = 0, size: int | None = None
    ) -> Iterator[bytes]:
        """The stored Part 10 file or a range of it, piece by piece.

        A file read whole is checked: Corrupt is raised after its last piece, so a door must not
        close its answer cleanly before the iterator ends.
        """
        pieces = self.objects.read(instance.digest, start, size)
        whole = start == 0 and size in (None, instance.size_bytes)
        return _checked(pieces, instance.digest) if whole else pieces

    def read(self, instance: Instance | Held, start: int = 0, size: int | None = None) -> bytes:
        """The same in one piece."""
        return b"".join(self.chunks(instance, start, size))

    def data_set(self, instance: Instance) -> bytes:
        """The data set as it was received, checked against its digest. Raises Corrupt."""
        return self.read(instance)[instance.data_set_offset :]

    def _inflated(self, instance: Instance) -> memoryview | None:
        """The inflated data set of a deflated instance; its offsets do not fit the file."""
        if instance.transfer_syntax_uid != DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            return None
        return inflate(self.data_set(instance))

    def _range(self, instance: Instance, start: int, size: int) -> bytes:
        inflated = self._inflated(instance)
        if inflated is not None:
            return bytes(inflated[start : start + size])
        return self.read(instance, instance.data_set_offset + start, size)

    def header(self, instance: Instance) -> bytes:
        """The data set up to its pixel data, inflated where it was deflated."""
        return self._range(instance, 0, instance.table.header_bytes)

    def around_pixels(self, instance: Instance) -> Dataset:
        """The data set without its pixel data: what comes before them, and what comes after."""
        table = instance.table
        raw = self.header(instance)
        if table.trailer_bytes:
            inflated = self._inflated(instance)
            size = instance.size_bytes - instance.data_set_offset
            end = size if inflated is None else len(inflated)
            raw += self._range(instance, end - table.trailer_bytes, table.trailer_bytes)
        return read_header(raw, instance.transfer_syntax_uid)

    def metadata(self, instance: Instance, base: str = "") -> JsonModel:
        """The DICOM JSON model (PS3.18 F), its elements in the order of their tags.

        Binary values above 1 KiB become a BulkDataURI, `bulkdata/PATH` after the given base.
        """
        model = json_model(self.around_pixels(instance), lambda path: f"{base}bulkdata/{path}")
        table = instance.table
        if table.pixel_tag:
            path = f"{table.pixel_tag:08X}"
            model[path] = {"vr": table.pixel_vr, "BulkDataURI": f"{base}bulkdata/{path}"}
        return dict(sorted(model.items()))

    def frame(self, instance: Instance, number: int) -> bytes:
        """The stored bytes of a frame, from 1: native, or its encapsulated fragments joined.

        Raises Missing past the last frame and for what is no image.
        """
        table = instance.table
        raw = b"".join(self.pieces(instance, table.spans(number)))
        return table.native_frame(number, raw) if table.frame_bits else raw

    def pieces(self, instance: Instance, spans: Sequence[Span]) -> Iterator[bytes]:
        """What lies in some places of the data set, in rising order; one read of the store.

        Raises Corrupt, before the last of it, where the object is shorter than its row says.
        """
        inflated = self._inflated(instance)
        if inflated is not None:
            return (bytes(inflated[start : start + size]) for start, size in spans)
        begin, end = spans[0][0], sum(spans[-1])
        chunks = self.chunks(instance, instance.data_set_offset + begin, end - begin)
        return _inside(chunks, begin, spans, instance.digest)

    def bulk(self, instance: Instance, tag: int) -> bytes:
        """The value of a top-level element. Raises Missing."""
        table = instance.table
        if tag == table.pixel_tag and table.frame_bits:
            return self._range(instance, table.start, -(-table.frame_bits * table.count // 8))
        if tag == table.pixel_tag and table.count:
            return b"".join(self.frame(instance, n) for n in range(1, table.count + 1))
        found = scan(self.data_set(instance), instance.transfer_syntax_uid).value(tag)
        if found is None:
            raise Missing("the instance has no such element")
        return found

    # delete and verify

    def delete(self, actor: Actor, scope: Scope) -> int:
        """Take the instances of a scope out of the archive; how many.

        They are gone from every search and retrieval when this returns. Their bytes are kept for
        `recycle_s`. Raises Missing, Forbidden, and Conflict where instances keep coming into it.
        """
        self._permit(actor, Action.DELETE)
        for _ in range(DELETE_ATTEMPTS_MAX - 1):
            try:
                return self._delete(actor, scope)
            except Conflict:
                continue
        return self._delete(actor, scope)

    def _delete(self, actor: Actor, scope: Scope) -> int:
        """Bytes first, then the rows: the tombstone is durable before anything is gone."""
        with self.index.read() as connection:
            held = recycled.members(connection, self.id, scope)
            study = catalog.study_row(connection, self.id, scope.study_instance_uid)
        if not held or study is None:
            raise Missing("there is no such study, series or instance here")
        generation = study.generation if study.state == catalog.COMPLETE else 0
        tombstone = Tombstone(time.time(), scope, generation, held)
        blob = self.objects.put((tombstone.packed(),))
        number = sum(one.is_current for one in held)
        with self._taken_back_if_untrue(blob.digest), self.index.write() as connection:
            freed = self._remove(connection, tombstone)
            deletion = recycled.add(connection, self.id, tombstone, blob.digest)
            self._audit_delete(connection, actor, scope, number)
            gone = [Told(scope.study_instance_uid, *one[:3]) for one in held if one.is_current]
            changes.tell(connection, self.id, Change.DELETE, gone)
        for digest in set(freed) - {one.digest for one in held}:
            self.objects.delete(digest)
        if not self.recycle_s:
            self._discard(deletion)
        return number

    def _discard(self, deletion: int) -> None:
        with self.index.write() as connection:
            digests = recycled.forget(connection, self.id, deletion) or ()
        for digest in digests:
            self.objects.delete(digest)

    @contextmanager
    def _taken_back_if_untrue(self, tombstone: str) -> Iterator[None]:
        """Forget a tombstone whose deletion came to nothing.

        If the index does not tell, it stays: a rebuild then takes what it names for deleted, and
        keeps that as long as any deletion's. The sweep removes it within two days.
        """
        try:
            yield
        except NodeError:
            with suppress(NodeError):
                with self.index.read() as connection:
                    is_true = any(recycled.still_named(connection, {tombstone}))
                if not is_true:
                    self.objects.delete(tombstone)
            raise

    def _remove(self, connection: Connection, tombstone: Tombstone) -> list[str]:
        """Remove just the rows that a tombstone tells of; the digests no row names any more.

        Raises Conflict if the scope holds others by now.
        """
        scope = tombstone.scope
        catalog.lock_study(connection, self.id, scope)
        held = recycled.members(connection, self.id, scope, lock=True)
        number, digests = catalog.remove(connection, self.id, scope)
        if held != tombstone.members or number != sum(one.is_current for one in held):
            raise Conflict("instances were stored into it at this very moment")
        return digests

    def _audit_delete(
        self, connection: Connection, actor: Actor, scope: Scope, number: int
    ) -> None:
        audit.append(
            connection,
            actor,
            Action.DELETE,
            archive=self.name,
            outcome="done",
            subject={
                "study": scope.study_instance_uid,
                "series": scope.series_instance_uid,
                "instance": scope.sop_instance_uid,
                "instances": number,
            },
        )

    def _absence(self, connection: Connection, scope: Scope) -> Missing:
        """What to raise where nothing of a scope is held."""
        if recycled.holds(connection, self.id, scope):
            return Gone("this was deleted")
        return Missing("there is no such study, series or instance here")

    def verify(self, actor: Actor, scope: Scope) -> list[Problem]:
        """Read every byte of a scope again and compare digests; what is wrong."""
        self._permit(actor, Action.VERIFY)
        with self.index.read() as connection:
            rows = catalog.instances_of(connection, self.id, scope)
        found = [self._verified(Instance.of(row)) for row in rows]
        self._audit_read(actor, Action.VERIFY, {"study": scope.study_instance_uid})
        return [problem for problem in found if problem]

    def _verified(self, instance: Instance) -> Problem | None:
        try:
            for _ in self.chunks(instance):
                pass
        except NodeError as error:
            return Problem(type(error).__name__.lower(), error.message, instance.sop_instance_uid)
        return None

    def prove(self, actor: Actor, sop_instance_uid: str) -> str:
        """Read all bytes kept under a SOP Instance UID again, versions too; its SOP Class UID.

        Raises Missing where nothing is kept under it, Corrupt where its bytes are not what they
        were or are gone, Forbidden, Unavailable.
        """
        self._permit(actor, Action.VERIFY)
        sop_class_uid, digests = self._kept_under(sop_instance_uid)
        try:
            for digest in digests:
                for _ in _checked(self.objects.read(digest), digest):
                    pass
        except Missing as error:
            self._kept_under(sop_instance_uid)  # Missing, if it was deleted meanwhile
            raise Corrupt("the bytes of an instance are gone", digest=digest) from error
        return sop_class_uid

    def _kept_under(self, sop_instance_uid: str) -> tuple[str, list[str]]:
        with self.index.read() as connection:
            found = catalog.find_instance(connection, self.id, sop_instance_uid)
            if found is None:
                raise Missing("there is no such instance here")
            others = catalog.version_digests(connection, found.id)
        return found.SOPClassUID or "", [found.digest, *others]

    def _permit(self, actor: Actor, action: Action) -> None:
        if not permits(actor, action):
            raise Forbidden(f"this actor may not {action.value}")


def _inside(
    chunks: Iterator[bytes], begin: int, spans: Sequence[Span], digest: str
) -> Iterator[bytes]:
    """What of a stream that begins at an offset lies inside of spans."""
    left = deque(spans)
    at = begin
    for chunk in chunks:
        while left and left[0][0] < at + len(chunk):
            start, size = left[0]
            yield chunk[max(0, start - at) : start + size - at]
            if start + size > at + len(chunk):
                break
            left.popleft()
        at += len(chunk)
    if left and any(size for _, size in left):
        raise Corrupt(digest=digest)


def _checked(pieces: Iterator[bytes], digest: str) -> Iterator[bytes]:
    """The pieces, followed by Corrupt unless together they have the digest."""
    running = hashlib.sha256()
    for piece in pieces:
        running.update(piece)
        yield piece
    if running.hexdigest() != digest:
        raise Corrupt(digest=digest)
