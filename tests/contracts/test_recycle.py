"""What deleting promises: gone at once, kept for a while, given back whole, never back by itself."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs.access import EVERY_ACTION, Action, Actor
from pacs.archive import Archive, Duplicates, Outcome, Scope, recycle, upkeep
from pacs.archive.recycle import Restored
from pacs.dicom.attributes import Level
from pacs.dicom.matching import Query
from pacs.errors import Conflict, Forbidden, Gone, Missing, Unreachable
from pacs.index import audit, catalog, open_index, recycled
from pacs.index.changes import Change, State
from pacs.index.recycled import Deletion
from pacs.store import Blob, open_store
from pacs.store.files import FileStore
from tests import make

STUDY = make.uid("study")
DAY_S = 86_400.0
BASES = [("files", "sqlite"), ("files", "postgresql"), ("s3", "sqlite")]


@pytest.fixture(params=BASES, ids="-".join)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An empty archive that keeps for a day what is deleted, on each base."""
    store, index = request.param
    url = f"file://{tmp_path}" if store == "files" else request.getfixturevalue("s3_url")
    opened = open_index(request.getfixturevalue(f"{index}_url"))
    yield Archive("main", open_store(url, "objects"), opened, recycle_s=DAY_S)
    opened.close()


@pytest.fixture
def simple(tmp_path: Path, sqlite_url: str) -> Iterator[Archive]:
    """The same where any base will do."""
    opened = open_index(sqlite_url)
    yield Archive("main", FileStore(tmp_path / "objects"), opened, recycle_s=DAY_S)
    opened.close()


def store(archive: Archive, *sent: Dataset) -> list[Outcome]:
    return [archive.store(make.SCANNER, make.incoming(made)).outcome for made in sent]


def other_bytes(made: Dataset) -> Dataset:
    further = copy.deepcopy(made)
    further.StudyDescription = "other bytes"
    return further


def scope_of(made: Dataset) -> Scope:
    return Scope(made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID)


def held(archive: Archive) -> dict[str, bytes]:
    """The data sets of the study by SOP Instance UID; none where it is not there."""
    try:
        found = archive.retrieve(make.READER, Scope(STUDY))
    except Missing:
        return {}
    return {one.sop_instance_uid: archive.data_set(one) for one in found}


def deletions(archive: Archive) -> list[Deletion]:
    return recycle.listed(archive, make.READER, 100)


def the_deletion(archive: Archive) -> int:
    (found,) = deletions(archive)
    return found.id


def told(archive: Archive) -> list[tuple[Change, State, str]]:
    found = archive.changes(make.READER, 0, 1000)
    assert [one.seq for one in found] == list(range(1, len(found) + 1))
    return [(one.change, one.state, one.told.sop_instance_uid) for one in found]


def assert_sound(archive: Archive) -> None:
    assert upkeep.fsck(archive) == []
    assert upkeep.scrub(archive) == []


# Deleting


def test_what_is_deleted_is_out_of_every_search_and_retrieval_at_once(archive: Archive) -> None:
    sent = make.study(2, series=2)
    store(archive, *sent)
    assert archive.delete(make.READER, Scope(STUDY)) == 4
    for scope in (Scope(STUDY), scope_of(sent[0]), Scope(STUDY, sent[0].SeriesInstanceUID)):
        with pytest.raises(Gone):
            archive.retrieve(make.READER, scope)
    with pytest.raises(Missing) as unknown:
        archive.retrieve(make.READER, Scope(STUDY, "1.2.3"))
    assert not isinstance(unknown.value, Gone)
    for level in Level:
        assert archive.search(make.READER, Query(level, {})).rows == []
    with pytest.raises(Missing):
        archive.delete(make.READER, Scope(STUDY))
    assert len(list(archive.objects.digests())) == 5, "four instances and their tombstone"
    assert_sound(archive)


def test_a_deletion_comes_back_bit_for_bit_with_its_further_versions(archive: Archive) -> None:
    sent = make.study(2, series=2)
    store(archive, *sent, other_bytes(sent[0]))
    before = held(archive)
    archive.delete(make.READER, Scope(STUDY))
    (listed,) = deletions(archive)
    assert (listed.scope, listed.instances) == (Scope(STUDY), 4)
    assert recycle.restore(archive, make.READER, listed.id) == Restored(4, 0)
    assert held(archive) == before
    assert store(archive, other_bytes(sent[0])) == [Outcome.IDENTICAL]
    assert deletions(archive) == []
    assert len(list(archive.objects.digests())) == 5
    assert_sound(archive)
    with pytest.raises(Missing):
        recycle.restore(archive, make.READER, listed.id)


@pytest.mark.parametrize("level", [Level.SERIES, Level.INSTANCE])
def test_a_part_of_a_study_is_deleted_and_comes_back(archive: Archive, level: Level) -> None:
    sent = make.study(2, series=2)
    store(archive, *sent)
    before = held(archive)
    scope = scope_of(sent[0])
    part = Scope(STUDY, scope.series_instance_uid) if level is Level.SERIES else scope
    number = archive.delete(make.READER, part)
    assert len(held(archive)) == 4 - number
    with pytest.raises(Gone):
        archive.retrieve(make.READER, part)
    assert recycle.restore(archive, make.READER, the_deletion(archive)) == Restored(number, 0)
    assert held(archive) == before
    assert_sound(archive)


def test_what_was_stored_again_is_not_clobbered(archive: Archive) -> None:
    sent = make.study(2)
    store(archive, *sent)
    archive.delete(make.READER, Scope(STUDY))
    again = other_bytes(sent[0])
    assert store(archive, again) == [Outcome.NEW]
    assert recycle.restore(archive, make.READER, the_deletion(archive)) == Restored(1, 1)
    assert held(archive) == {
        sent[0].SOPInstanceUID: make.data_set_bytes(again),
        sent[1].SOPInstanceUID: make.data_set_bytes(sent[1]),
    }
    assert_sound(archive)
    archive.delete(make.READER, scope_of(again))
    latest, first = deletions(archive)
    assert recycle.restore(archive, make.READER, first.id) == Restored(1, 0)
    assert held(archive)[sent[0].SOPInstanceUID] == make.data_set_bytes(sent[0])
    assert recycle.restore(archive, make.READER, latest.id) == Restored(0, 1)
    assert_sound(archive)


def test_what_is_over_its_time_is_removed_for_good(archive: Archive) -> None:
    store(archive, *make.study(2))
    archive.delete(make.READER, Scope(STUDY))
    assert recycle.purge_due(archive) == 0
    archive.recycle_s = 0.0
    assert recycle.purge_due(archive) == 1
    assert deletions(archive) == []
    assert list(archive.objects.digests()) == []
    with pytest.raises(Missing) as unknown:
        archive.retrieve(make.READER, Scope(STUDY))
    assert not isinstance(unknown.value, Gone), "nothing of it is kept any more"


def test_purging_leaves_alone_what_was_stored_again(archive: Archive) -> None:
    sent = make.study(2)
    store(archive, *sent)
    archive.delete(make.READER, Scope(STUDY))
    store(archive, *sent)
    recycle.purge(archive, make.READER, the_deletion(archive))
    assert len(held(archive)) == 2
    assert_sound(archive)
    with pytest.raises(Missing):
        recycle.purge(archive, make.READER, 1)


def test_without_a_recycle_time_nothing_is_kept(simple: Archive) -> None:
    simple.recycle_s = 0.0
    store(simple, *make.study(2))
    simple.delete(make.READER, Scope(STUDY))
    assert deletions(simple) == []
    assert list(simple.objects.digests()) == []


def test_a_damaged_object_stays_where_it_is(simple: Archive, tmp_path: Path) -> None:
    sent = make.study(2)
    store(simple, *sent)
    broken = simple.retrieve(make.READER, scope_of(sent[0]))[0].digest
    simple.delete(make.READER, Scope(STUDY))
    (path,) = (tmp_path / "objects").rglob(f"*{broken[4:]}*")
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert recycle.restore(simple, make.READER, the_deletion(simple)) == Restored(1, 1)
    assert [*held(simple)] == [sent[1].SOPInstanceUID]


def test_who_may_not_delete_may_not_take_back(simple: Archive) -> None:
    store(simple, make.data_set())
    simple.delete(make.READER, Scope(STUDY))
    guest = Actor("user", "guest", actions=EVERY_ACTION - {Action.DELETE})
    deletion = the_deletion(simple)
    for ask in (
        lambda: recycle.listed(simple, guest, 10),
        lambda: recycle.restore(simple, guest, deletion),
        lambda: recycle.purge(simple, guest, deletion),
    ):
        with pytest.raises(Forbidden):
            ask()
    assert the_deletion(simple) == deletion


def test_each_deed_is_in_the_trail(simple: Archive) -> None:
    store(simple, make.data_set())
    simple.delete(make.READER, Scope(STUDY))
    recycle.restore(simple, make.READER, the_deletion(simple))
    simple.delete(make.READER, Scope(STUDY))
    recycle.purge(simple, make.READER, the_deletion(simple))
    with simple.index.read() as connection:
        deeds = [event.action for event in audit.after(connection, 0, 100)]
        assert audit.verify(connection) == ()
    assert deeds == ["store", "delete", "restore", "delete", "purge"]


def test_a_complete_study_stands_where_it_stood(simple: Archive) -> None:
    store(simple, *make.study(2))
    with simple.index.write() as connection:
        row = catalog.study_row(connection, simple.id, STUDY)
        assert row is not None
        catalog.complete_study(connection, row.id, 3)
    simple.delete(make.READER, Scope(STUDY))
    recycle.restore(simple, make.READER, the_deletion(simple))
    with simple.index.read() as connection:
        row = catalog.study_row(connection, simple.id, STUDY)
    assert row is not None
    assert (row.state, row.generation) == (catalog.COMPLETE, 3)


def test_pages_of_deletions_are_newest_first(simple: Archive) -> None:
    sent = make.study(5)
    store(simple, *sent)
    for made in sent:
        simple.delete(make.READER, scope_of(made))
    ids = [one.id for one in deletions(simple)]
    assert ids == sorted(ids, reverse=True)
    first = recycle.listed(simple, make.READER, 2)
    rest = recycle.listed(simple, make.READER, 10, first[-1].id)
    assert [one.id for one in (*first, *rest)] == ids


# Crashes and races


class Failing(FileStore):
    """A store that fails as if the process were killed there."""

    fails_at: str = ""

    def put(self, pieces: object) -> Blob:
        if self.fails_at == "put":
            raise Unreachable
        return super().put(pieces)  # type: ignore[arg-type]  # what the store takes

    def delete(self, digest: str) -> None:
        if self.fails_at == "delete":
            raise Unreachable
        super().delete(digest)


@pytest.fixture
def failing(tmp_path: Path, sqlite_url: str) -> Iterator[Archive]:
    opened = open_index(sqlite_url)
    yield Archive("main", Failing(tmp_path / "objects"), opened)
    opened.close()


def test_a_deletion_killed_between_rows_and_bytes_stays_a_deletion(failing: Archive) -> None:
    assert isinstance(failing.objects, Failing)
    store(failing, *make.study(2))
    failing.objects.fails_at = "delete"
    with pytest.raises(Unreachable):
        failing.delete(make.READER, Scope(STUDY))
    failing.objects.fails_at = ""
    assert held(failing) == {}
    assert_sound(failing)
    assert upkeep.rebuild(failing, make.READER) == []
    assert held(failing) == {}, "a rebuild lets nothing rise again"
    assert recycle.purge_due(failing) == 1
    assert list(failing.objects.digests()) == []


def test_a_store_that_is_away_deletes_nothing(failing: Archive) -> None:
    assert isinstance(failing.objects, Failing)
    store(failing, *make.study(2))
    failing.objects.fails_at = "put"
    with pytest.raises(Unreachable):
        failing.delete(make.READER, Scope(STUDY))
    assert len(held(failing)) == 2


def test_a_sweep_removes_tombstones_after_what_they_name(
    failing: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(failing.objects, Failing)
    store(failing, *make.study(3))
    failing.objects.fails_at = "delete"
    with pytest.raises(Unreachable):
        failing.delete(make.READER, Scope(STUDY))
    failing.objects.fails_at = ""
    monkeypatch.setattr(upkeep, "ORPHAN_AGE_S", -1.0)
    removed: list[bytes] = []
    delete = failing.objects.delete

    def noted(digest: str) -> None:
        removed.append(next(failing.objects.read(digest)))
        delete(digest)

    monkeypatch.setattr(failing.objects, "delete", noted)
    assert upkeep.sweep(failing) == 4
    is_tombstone = [one.startswith(recycled.TOMBSTONE_PREFIX) for one in removed]
    assert is_tombstone == [False, False, False, True]


@pytest.mark.parametrize("duplicates", [Duplicates.KEEP, Duplicates.REPLACE])
def test_a_rebuild_of_a_lost_index_knows_what_was_deleted(
    simple: Archive, tmp_path: Path, duplicates: Duplicates
) -> None:
    archive = Archive("main", simple.objects, simple.index, duplicates=duplicates, recycle_s=DAY_S)
    sent = make.study(3)
    store(archive, *sent, other_bytes(sent[0]))
    archive.delete(make.READER, scope_of(sent[0]))
    archive.delete(make.READER, scope_of(sent[1]))
    recycle.restore(archive, make.READER, deletions(archive)[0].id)
    store(archive, sent[0])
    before = held(archive)
    anew = open_index(f"sqlite:///{tmp_path}/anew.db")
    try:
        risen = Archive("main", archive.objects, anew, duplicates=duplicates, recycle_s=DAY_S)
        assert upkeep.rebuild(risen, make.READER) == []
        assert held(risen) == before
        assert_sound(risen)
        (kept,) = deletions(risen)
        assert (kept.scope, kept.instances) == (scope_of(sent[0]), 1)
        assert told(risen) == [
            (Change.CREATE, State.CURRENT, made.SOPInstanceUID)
            for made in (sent[1], sent[2], sent[0])
        ]
        risen.delete(make.READER, scope_of(sent[0]))
        assert recycle.restore(risen, make.READER, kept.id) == Restored(1, 0)
        expected = other_bytes(sent[0]) if duplicates is Duplicates.REPLACE else sent[0]
        assert held(risen)[sent[0].SOPInstanceUID] == make.data_set_bytes(expected)
    finally:
        anew.close()


def test_storing_while_deleting_loses_nothing(archive: Archive) -> None:
    """Whatever order they come in, each instance is held, or kept by a deletion."""
    sent = make.study(24)
    done = threading.Event()

    def delete_again_and_again() -> None:
        while not done.is_set():
            try:
                archive.delete(make.READER, Scope(STUDY))
            except (Missing, Conflict, Unreachable):
                continue  # not there yet, or PostgreSQL refused to remove what just got a child

    with ThreadPoolExecutor(6) as threads:
        deleting = [threads.submit(delete_again_and_again) for _ in range(2)]
        storing = [threads.submit(store, archive, *sent[start::4]) for start in range(4)]
        assert all(one.result() for one in storing)
        done.set()
        for one in deleting:
            one.result()
    with archive.index.read() as connection:
        kept = [m for one in deletions(archive) for m in recycled.kept(connection, one.id)]
    uids = [*held(archive), *(one.sop_instance_uid for one in kept)]
    assert sorted(uids) == sorted(made.SOPInstanceUID for made in sent)
    for deletion in deletions(archive):
        recycle.restore(archive, make.READER, deletion.id)
    assert held(archive) == {made.SOPInstanceUID: make.data_set_bytes(made) for made in sent}
    assert len(list(archive.objects.digests())) == len(sent), "no tombstone is left"
    assert_sound(archive)


def test_of_restoring_and_purging_at_once_one_wins(archive: Archive) -> None:
    for attempt in range(4):
        sent = make.study(4)
        store(archive, *sent)
        archive.delete(make.READER, Scope(STUDY))
        deletion = the_deletion(archive)

        def attempted(ask: object, number: int = deletion) -> None:
            with suppress(Missing):
                ask(archive, make.READER, number)  # type: ignore[operator]  # both take these

        with ThreadPoolExecutor(2) as threads:
            list(threads.map(attempted, [recycle.restore, recycle.purge]))
        assert deletions(archive) == [], attempt
        assert_sound(archive)
        if held(archive):
            archive.delete(make.READER, Scope(STUDY))
            recycle.purge(archive, make.READER, the_deletion(archive))


# The feed


def test_every_change_is_told_in_order_with_the_state_of_today(archive: Archive) -> None:
    one, two = make.study(2)
    store(archive, one, two, two, other_bytes(two))
    archive.delete(make.READER, Scope(STUDY))
    uids = [made.SOPInstanceUID for made in (one, two)]
    gone = State.DELETED
    assert told(archive)[:3] == [
        (Change.CREATE, gone, uids[0]),
        (Change.CREATE, gone, uids[1]),
        (Change.UPDATE, gone, uids[1]),
    ]
    assert sorted(told(archive)[3:]) == sorted((Change.DELETE, gone, uid) for uid in uids)
    recycle.restore(archive, make.READER, the_deletion(archive))
    states = {(change, uid): state for change, state, uid in told(archive)}
    assert states == {
        (Change.CREATE, uids[0]): State.CURRENT,
        (Change.CREATE, uids[1]): State.CURRENT,
        (Change.UPDATE, uids[1]): State.REPLACED,
        (Change.DELETE, uids[0]): State.REPLACED,
        (Change.DELETE, uids[1]): State.REPLACED,
    }
    latest = archive.latest_change(make.READER)
    assert latest is not None
    assert latest.seq == 7


def test_the_feed_is_read_from_any_place_and_between_times(archive: Archive) -> None:
    assert archive.latest_change(make.READER) is None
    store(archive, *make.study(5))
    every = archive.changes(make.READER, 0, 100)
    assert [one.seq for one in archive.changes(make.READER, 2, 2)] == [3, 4]
    assert archive.changes(make.READER, 5, 100) == []
    times = (every[1].at, every[3].at)
    within = archive.changes(make.READER, 0, 100, times)
    assert [one.seq for one in within] == [
        one.seq for one in every if times[0] <= one.at < times[1]
    ]
    assert archive.changes(make.READER, 1, 100, times) == within[1:]


def test_numbers_have_no_gaps_though_writers_race_and_fail(archive: Archive) -> None:
    refusing = Archive(archive.name, archive.objects, archive.index, duplicates=Duplicates.REFUSE)
    sent = make.study(12)

    def attempted(made: Dataset) -> None:
        with suppress(Conflict):
            store(refusing, made)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(attempted, [one for made in sent for one in (made, other_bytes(made))]))
    assert len(told(archive)) == 12


def test_archives_have_feeds_of_their_own(simple: Archive) -> None:
    other = Archive("research", simple.objects, simple.index)
    store(simple, *make.study(2))
    store(other, make.data_set())
    assert [one.seq for one in simple.changes(make.READER, 0, 10)] == [1, 2]
    assert [one.seq for one in other.changes(make.READER, 0, 10)] == [1]
