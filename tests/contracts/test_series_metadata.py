"""Metadata that were made before: never stale, never garbage, and never needed to be right."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy import func, select

from pacs.access import Actor
from pacs.archive import Archive, Duplicates, Scope, upkeep
from pacs.archive import series_metadata as made_metadata
from pacs.archive.ingest import examine
from pacs.archive.series_metadata import (
    BLOCK_INSTANCES,
    PREFIX,
    SeriesMetadata,
    make_due,
    metadata_of,
)
from pacs.errors import Exhausted, Forbidden, Missing, Unreachable
from pacs.index import Index, catalog, open_index
from pacs.index.schema import series_metadata, studies
from pacs.index.series_metadata import Outline
from pacs.store import Blob, open_store
from tests import make

STUDY = make.uid("study")
SERIES = make.uid(STUDY, "series", 1)
WHOLE = Scope(STUDY)
BASES = [("files", "sqlite"), ("files", "postgresql"), ("s3", "sqlite")]


@pytest.fixture(params=BASES, ids="-".join)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Archive]:
    """An empty archive on each base."""
    store, index = request.param
    url = f"file://{tmp_path}" if store == "files" else request.getfixturevalue("s3_url")
    opened = open_index(request.getfixturevalue(f"{index}_url"))
    yield Archive("main", open_store(url, "objects"), opened)
    opened.close()


def store(archive: Archive, *data_sets: Dataset) -> None:
    for made in data_sets:
        archive.store(make.SCANNER, make.incoming(made))


def outline(archive: Archive, scope: Scope = WHOLE) -> Outline:
    (found,) = archive.outlines(make.READER, scope)
    return found


def numbers(archive: Archive) -> list[int]:
    """The instance numbers that the metadata of the one series tell, in order."""
    return [model["00200013"]["Value"][0] for model in models(archive)]


def models(archive: Archive) -> list[Any]:
    found = metadata_of(archive, outline(archive))
    whole: list[Any] = json.loads(gzip.decompress(found.gzipped))
    assert whole == [json.loads(line) for line in found.lines()]
    return whole


def kept(archive: Archive) -> set[str]:
    """The objects of the store that hold metadata."""
    found = set()
    for digest in archive.objects.digests():
        if b"".join(archive.objects.read(digest, 0, len(PREFIX))) == PREFIX:
            found.add(digest)
    return found


def rows(archive: Archive) -> int:
    with archive.index.read() as connection:
        return int(
            connection.execute(select(func.count()).select_from(series_metadata)).scalar_one()
        )


def test_they_tell_what_the_files_tell(archive: Archive) -> None:
    store(archive, *make.study(3))
    for model, instance in zip(
        models(archive), archive.retrieve(make.READER, Scope(STUDY)), strict=True
    ):
        base = f"instances/{instance.sop_instance_uid}/"
        assert model == archive.metadata(instance, base)
        assert model["7FE00010"]["BulkDataURI"] == f"{base}bulkdata/7FE00010"


def test_they_are_made_once_and_then_one_object_is_read(archive: Archive) -> None:
    store(archive, *make.study(3))
    first = metadata_of(archive, outline(archive))
    assert outline(archive).kept in kept(archive)
    for digest in set(archive.objects.digests()) - kept(archive):
        archive.objects.delete(digest)  # whoever parses a file now fails
    assert metadata_of(archive, outline(archive)) == first


def test_an_instance_added_is_told_and_the_others_are_not_parsed_again(archive: Archive) -> None:
    store(archive, *make.study(3))
    assert numbers(archive) == [1, 2, 3]
    for instance in archive.retrieve(make.READER, Scope(STUDY)):
        archive.objects.delete(instance.digest)
    store(archive, make.data_set(4, series_instance_uid=SERIES))
    assert numbers(archive) == [1, 2, 3, 4]
    assert len(kept(archive)) == rows(archive) == 1


def test_an_instance_replaced_is_told_as_it_is_now(archive: Archive) -> None:
    archive = Archive("main", archive.objects, archive.index, duplicates=Duplicates.REPLACE)
    store(archive, *make.study(2))
    assert numbers(archive) == [1, 2]
    store(archive, make.data_set(2, series_instance_uid=SERIES, StudyDescription="Other"))
    described = [model["00081030"]["Value"] for model in models(archive)]
    assert described == [["Chest"], ["Other"]]


def test_an_instance_deleted_leaves_no_trace(archive: Archive) -> None:
    store(archive, *make.study(2), make.data_set(9, study_instance_uid=make.uid("other")))
    assert numbers(archive) == [1, 2]
    archive.delete(make.READER, Scope(STUDY, SERIES, make.uid(SERIES, 1)))
    assert not kept(archive)
    assert numbers(archive) == [2]
    archive.delete(make.READER, Scope(STUDY))
    assert not kept(archive)
    assert not rows(archive)
    with pytest.raises(Missing):
        outline(archive)


def test_one_instance_is_told_from_its_series(archive: Archive) -> None:
    count = BLOCK_INSTANCES + 2
    store(archive, *make.study(count))
    for number in (1, BLOCK_INSTANCES, BLOCK_INSTANCES + 1, count):
        one = outline(archive, Scope(STUDY, SERIES, make.uid(SERIES, number)))
        line = metadata_of(archive, one).line(one.digests[0])
        assert json.loads(line)["00200013"]["Value"] == [number]
    assert len(kept(archive)) == 1


def test_only_who_may_retrieve_learns_them(archive: Archive) -> None:
    store(archive, make.data_set())
    with pytest.raises(Forbidden):
        archive.outlines(replace(make.READER, actions=frozenset()), Scope(STUDY))


def test_many_makers_at_once_leave_one_object(archive: Archive) -> None:
    store(archive, *make.study(3))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: numbers(archive), range(16)))
    assert found == [[1, 2, 3]] * 16
    assert len(kept(archive)) == rows(archive) == 1


def test_what_arrives_while_they_are_made_is_told_by_the_next_answer(archive: Archive) -> None:
    """Nobody may ever see fewer instances than he saw stored."""
    series = make.study(12)
    store(archive, series[0])
    stop = threading.Event()
    wrong: list[tuple[int, int]] = []
    stored = [1]

    def look() -> None:
        while not stop.is_set():
            least = stored[0]
            told = len(models(archive))
            if told < least:
                wrong.append((least, told))

    with ThreadPoolExecutor(3) as pool:
        lookers = [pool.submit(look) for _ in range(3)]
        for made in series[1:]:
            store(archive, made)
            stored[0] += 1
        stop.set()
    assert [looker.result() for looker in lookers] == [None] * 3
    assert not wrong
    assert numbers(archive) == list(range(1, 13))
    assert len(kept(archive)) == rows(archive) == 1


def test_a_lost_or_broken_object_is_made_again(archive: Archive) -> None:
    store(archive, *make.study(2))
    numbers(archive)
    archive.objects.delete(outline(archive).kept)
    assert numbers(archive) == [1, 2]
    assert not [problem for problem in upkeep.fsck(archive) if problem.code == "orphan_object"]


def test_an_object_of_another_release_is_made_again(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(archive, *make.study(2))
    with monkeypatch.context() as earlier:
        earlier.setattr(made_metadata, "FORM", 0)
        numbers(archive)
    before = outline(archive).kept
    assert numbers(archive) == [1, 2]
    assert kept(archive) == {outline(archive).kept} != {before}


def test_an_archive_that_is_full_still_answers(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(archive, *make.study(2))

    def full(_pieces: object) -> Blob:
        raise Exhausted("no room")

    with monkeypatch.context() as patched:
        patched.setattr(archive.objects, "put", full)
        assert numbers(archive) == [1, 2]
    assert not kept(archive)


def test_an_index_that_falls_silent_costs_no_answer(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(archive, *make.study(2))
    asked = outline(archive)

    def silent() -> None:
        raise Unreachable

    with monkeypatch.context() as patched:
        patched.setattr(archive.index, "write", silent)
        assert metadata_of(archive, asked).digests == asked.digests
    assert upkeep.sweep(archive) == 0, "it may still be on its way into a row"


def complete(archive: Archive) -> None:
    with archive.index.write() as connection:
        for study in catalog.quiet_studies(connection, 0, 100):
            catalog.complete_study(connection, study.id, 1)


def due(archive: Archive) -> int:
    with archive.index.read() as connection:
        found = select(func.count()).where(studies.c.metadata_due_at.is_not(None))
        return int(connection.execute(found).scalar_one())


def test_a_complete_study_gets_them_before_anybody_asks(archive: Archive) -> None:
    store(archive, *make.study(2, series=3))
    assert make_due(archive) == 0
    complete(archive)
    assert make_due(archive, seconds_max=60) == 1
    assert len(kept(archive)) == rows(archive) == 3
    assert due(archive) == 0


def test_a_result_makes_its_study_due_again(archive: Archive) -> None:
    store(archive, *make.study(1))
    complete(archive)
    make_due(archive)
    values, place = described(make.data_set(7, series_instance_uid=make.uid("result")))
    with archive.index.write() as connection:
        catalog.add_instance(connection, archive.id, values, replace(place, made_by="a job"))
    assert due(archive) == 1


def described(made: Dataset) -> tuple[dict[Any, Any], catalog.Kept]:
    examined = examine(make.incoming(made), {})
    place = catalog.Kept("0" * 64, 1, "0" * 64, 0, make.EXPLICIT, b"", 0.0)
    return dict(examined.values), place


def test_a_turn_ends_when_its_time_is_over_and_goes_on_later(archive: Archive) -> None:
    store(archive, *make.study(1, series=2))
    complete(archive)
    assert make_due(archive, seconds_max=0) == 0
    assert due(archive) == 1
    assert make_due(archive, seconds_max=60) == 1


def test_a_study_that_cannot_be_read_holds_up_no_other(archive: Archive) -> None:
    store(archive, make.data_set(), make.data_set(study_instance_uid=make.uid("other")))
    for instance in archive.retrieve(make.READER, Scope(STUDY)):
        archive.objects.delete(instance.digest)
    complete(archive)
    assert make_due(archive, seconds_max=60) == 2
    assert rows(archive) == 1


def test_sweep_and_fsck_take_them_for_what_they_are(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ORPHAN_AGE_S", -1.0)
    store(archive, *make.study(2))
    numbers(archive)
    assert upkeep.sweep(archive) == 0
    assert not upkeep.fsck(archive)
    forgotten = metadata_of(archive, outline(archive)).packed()
    orphan = archive.objects.put((forgotten,)).digest
    assert [problem.subject for problem in upkeep.fsck(archive)] == [orphan]
    assert upkeep.sweep(archive) == 1
    assert numbers(archive) == [1, 2]


def test_a_young_object_without_a_row_may_still_get_it(archive: Archive) -> None:
    store(archive, *make.study(2))
    forgotten = metadata_of(archive, outline(archive)).packed()
    archive.objects.put((forgotten,))
    assert upkeep.sweep(archive) == 0
    assert not upkeep.fsck(archive)


def test_rebuild_names_them_again_and_forgets_those_that_do_not_fit(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(archive, *make.study(2))
    numbers(archive)
    held = outline(archive)
    packed = metadata_of(archive, held).packed()
    stale = SeriesMetadata.unpack(packed)
    archive.objects.put((replace(stale, digests=stale.digests[:1]).packed(),))
    archive.objects.put((packed,))  # as a racing maker leaves it when it is killed
    archive.objects.put((PREFIX + b"nonsense",))
    assert not upkeep.rebuild(archive, Actor("node", "test"))
    assert kept(archive) == {outline(archive).kept}
    assert outline(archive).digests == held.digests
    assert numbers(archive) == [1, 2]
    monkeypatch.setattr(upkeep, "ORPHAN_AGE_S", -1.0)
    assert not upkeep.fsck(archive)


def test_two_archives_keep_their_own(tmp_path: Path, index: Index) -> None:
    both = [
        Archive(name, open_store(f"file://{tmp_path}", name), index)
        for name in ("identified", "project-demo")
    ]
    for number, one in enumerate(both, start=1):
        store(one, make.data_set(number, series_instance_uid=SERIES))
        complete(one)
    assert [make_due(one, seconds_max=60) for one in both] == [1, 1]
    assert [numbers(one) for one in both] == [[1], [2]]
    both[0].delete(make.READER, Scope(STUDY))
    assert numbers(both[1]) == [2]
    assert len(kept(both[1])) == 1


def test_elements_after_the_pixel_data_are_told(archive: Archive) -> None:
    for syntax, number in ((make.EXPLICIT, 1), (make.DEFLATED, 2), (make.IMPLICIT, 3)):
        made = make.data_set(number, series_instance_uid=SERIES)
        made.add_new(0x7FE10010, "LO", "ACME")
        made.add_new(0xFFFCFFFC, "OB", b"\0\0\0\0")
        archive.store(make.SCANNER, make.incoming(made, syntax))
    trailing = make.encapsulated(make.data_set(4, series_instance_uid=SERIES), [b"ab", b"cdef"])
    trailing.add_new(0x7FE10010, "LO", "ACME")
    archive.store(make.SCANNER, make.incoming(trailing, "1.2.840.10008.1.2.4.90"))
    for model in models(archive):
        assert model["7FE10010"] == {"vr": "LO", "Value": ["ACME"]}
        assert list(model) == sorted(model)
        assert "BulkDataURI" in model["7FE00010"]


def test_deleting_while_they_are_made_leaves_nothing_behind(archive: Archive) -> None:
    """Whoever is late meets Missing, and no row or object tells of what is gone."""
    stop = threading.Event()

    def look() -> int:
        missing = 0
        while not stop.is_set():
            try:
                models(archive)
            except Missing:
                missing += 1
        return missing

    with ThreadPoolExecutor(3) as pool:
        lookers = [pool.submit(look) for _ in range(3)]
        try:
            for _ in range(8):
                store(archive, *make.study(2))
                archive.delete(make.READER, Scope(STUDY, SERIES, make.uid(SERIES, 1)))
                archive.delete(make.READER, Scope(STUDY))
        finally:
            stop.set()
    assert all(looker.result() >= 0 for looker in lookers)
    assert not rows(archive)
    assert not kept(archive)
