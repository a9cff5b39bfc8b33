"""What C-FIND and C-MOVE need of the index, with the same answers on every database."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from sqlalchemy import text

from pacs.archive import Archive
from pacs.dicom.attributes import INDEXED, Level
from pacs.dicom.matching import Query, parse_key
from pacs.errors import Exhausted
from pacs.index import Index, queries
from pacs.store import open_store
from tests import make
from tests.contracts.rows import enter

STUDY, OTHER = make.uid("study"), make.uid("other")
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


def never() -> bool:
    return False


def query(level: Level, **keys: str) -> Query:
    parsed = {INDEXED[key]: parse_key(INDEXED[key], value) for key, value in keys.items()}
    return Query(level, parsed, relational=True)


@pytest.fixture
def archive(index: Index, tmp_path: Path) -> Archive:
    """An archive whose index knows two studies: of CT in two series, and of MR."""
    mr = make.study(2, study_instance_uid=OTHER, patient_id="P-2", modality="MR")
    enter(index, *make.study(3, series=2), *mr)
    return Archive("main", open_store(f"file://{tmp_path}", "main"), index)


def test_the_rows_of_ids_come_in_their_order(archive: Archive) -> None:
    with archive.index.read() as connection:
        ids = queries.found_ids(connection, archive.id, query(Level.INSTANCE))
        rows = queries.answers(connection, Level.INSTANCE, ids[::-1])
        found, _ = queries.search(connection, archive.id, query(Level.INSTANCE))
        gone = queries.answers(connection, Level.INSTANCE, [*ids[:1], 4_711])
    assert len(ids) == 8
    assert rows == found[::-1]
    assert gone == found[:1]


@pytest.mark.parametrize(("rows", "pages"), [(1, [1] * 8), (3, [3, 3, 2]), (8, [8]), (9, [8])])
def test_pages_hold_every_row_once_and_in_order(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, rows: int, pages: list[int]
) -> None:
    monkeypatch.setattr("pacs.archive.PAGE_ROWS", rows)
    found = list(archive.pages(make.READER, query(Level.INSTANCE)))
    assert [len(page) for page in found if page] == pages
    assert [row for page in found for row in page] == archive.search(
        make.READER, query(Level.INSTANCE)
    ).rows


def test_a_key_below_the_level_asks_what_lies_below(archive: Archive) -> None:
    def studies(**keys: str) -> list[object]:
        (page,) = archive.pages(make.READER, query(Level.STUDY, **keys))
        return [row["StudyInstanceUID"] for row in page]

    assert studies(Modality="MR") == [OTHER]
    assert studies(Modality="CT", SeriesNumber="2") == [STUDY]
    assert studies(Modality="MR", SeriesNumber="2") == []
    assert studies(SeriesNumber="2", InstanceNumber="3") == [STUDY]
    assert studies(SOPInstanceUID=make.uid(make.uid(OTHER, "series", 1), 2)) == [OTHER]
    assert len(studies(InstanceNumber="1")) == 2


def test_what_is_held_is_found_by_the_keys_of_every_level(archive: Archive) -> None:
    def held(**keys: str) -> list[str]:
        found = archive.select(make.READER, query(Level.INSTANCE, **keys))
        return [one.sop_instance_uid for one in found]

    second = make.uid(STUDY, "series", 2)
    assert held(SeriesInstanceUID=second) == [make.uid(second, number) for number in (1, 2, 3)]
    assert len(held(PatientID="P-2")) == 2
    assert len(held(StudyInstanceUID=f"{STUDY}\\{OTHER}")) == 8
    assert held(StudyInstanceUID="1.2.3") == []


def test_a_statement_that_takes_too_long_is_interrupted(index: Index) -> None:
    before = time.monotonic()
    with pytest.raises(Exhausted), index.read_within(0.2, never) as connection:
        connection.execute(text(ENDLESS)).all()
    assert time.monotonic() - before < 5


def test_a_statement_that_nobody_waits_for_is_interrupted(index: Index) -> None:
    until = time.monotonic() + 0.2
    with (
        pytest.raises(Exhausted),
        index.read_within(60, lambda: time.monotonic() > until) as connection,
    ):
        connection.execute(text(ENDLESS)).all()
    assert time.monotonic() - until < 5


def test_a_statement_in_time_is_left_alone_and_so_is_the_next(index: Index) -> None:
    for _ in range(20):
        with index.read_within(0.15, never) as connection:
            assert connection.execute(text("SELECT 1")).scalar() == 1
    time.sleep(0.3)
    index.check()
