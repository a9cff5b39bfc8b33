"""The promises of the index on every database: schema, transactions, and rows born once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import ColumnElement, func, inspect, select, text

from pacs.dicom.part10 import scan
from pacs.errors import BadQuery, Exhausted, NodeError, Unavailable, Unreachable
from pacs.index import Index, catalog, open_index
from pacs.index.catalog import INDEXED_BYTES_MAX, Scope
from pacs.index.schema import archives, insert_new, instances, metadata, patients, series, studies
from tests import make, parts
from tests.contracts.rows import enter, kept, search

AT_ONCE = 16
HIERARCHY = (patients, studies, series, instances)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(
    request: pytest.FixtureRequest, tmp_path: Path, postgresql_server: parts.PostgresqlServer
) -> Iterator[str]:
    """A database of each kind without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/new/index.db"
        return
    url = postgresql_server.new_database(migrated=False)
    yield url
    postgresql_server.drop(url)


def row_counts(index: Index) -> list[int]:
    with index.read() as connection:
        return [
            int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in HIERARCHY
        ]


# The schema


def test_the_migrations_make_exactly_the_schema_of_the_code(index: Index) -> None:
    with index.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_schema_of_a_fresh_table_and_of_a_migrated_one_are_the_same(
    index: Index, empty_url: str
) -> None:
    """What Alembic does not compare: collations, unique keys, the kinds of the columns."""
    other = open_index(empty_url)
    if other.dialect != index.dialect:
        other.close()
        return
    with other.engine.begin() as connection:
        metadata.drop_all(connection)
        metadata.create_all(connection)
    for table in metadata.sorted_tables:
        for look in ("get_columns", "get_indexes", "get_unique_constraints", "get_foreign_keys"):
            migrated, made = (
                sorted(map(str, getattr(inspect(i.engine), look)(table.name)))
                for i in (index, other)
            )
            assert migrated == made, (table.name, look)
    other.close()


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    first = open_index(empty_url)
    enter(first, make.data_set())
    first.migrate()
    first.close()
    again = open_index(empty_url)
    assert row_counts(again) == [1, 1, 1, 1]
    again.close()


def test_processes_that_start_at_once_make_one_schema(empty_url: str) -> None:
    programme = (
        "import sys; from pacs.index import open_index; print(flush=True); sys.stdin.readline();"
        "open_index(sys.argv[1]).check()"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", programme, empty_url],
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(4)
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()  # it has imported everything and waits for the others
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, said
    index = open_index(empty_url)
    enter(index, make.data_set())
    index.close()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://host/base", "nobase://x", "sqlite://", "sqlite:///:memory:"]
)
def test_a_url_that_names_no_index_is_refused(url: str) -> None:
    with pytest.raises(BadQuery):
        open_index(url)


def test_a_database_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    for url in (
        f"postgresql+psycopg://postgres@/none?host={tmp_path}",
        "postgresql+psycopg://postgres:sesame@127.0.0.1:1/none",
    ):
        with pytest.raises(Unreachable) as caught:
            open_index(url)
        assert "sesame" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "index.db").write_bytes(b"no database" * 1000)
    with pytest.raises(NodeError):
        open_index(f"sqlite:///{tmp_path}/index.db")


# Transactions


def test_a_transaction_that_fails_leaves_nothing(index: Index) -> None:
    def fail() -> None:
        with index.write() as connection:
            catalog.archive_id(connection, "lost")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with index.read() as connection:
        assert connection.execute(select(archives)).all() == []


def test_a_commit_is_seen_by_the_next_reader_and_by_none_before(index: Index) -> None:
    with index.write() as writing:
        catalog.archive_id(writing, "main")
        with index.read() as reading:
            assert reading.execute(select(archives)).all() == []
    with index.read() as reading:
        assert len(reading.execute(select(archives)).all()) == 1


def test_a_reader_sees_one_moment(index: Index) -> None:
    enter(index)
    with index.read() as reading:
        before = reading.scalars(select(archives.c.name)).all()
        enter(index, make.data_set(), archive="later")
        assert reading.scalars(select(archives.c.name)).all() == before == ["main"]
        assert reading.scalars(select(studies.c.id)).all() == []
    assert row_counts(index) == [1, 1, 1, 1]


def test_an_error_of_the_database_is_one_of_ours_and_repeats_no_value(index: Index) -> None:
    with pytest.raises(Unavailable) as caught, index.write() as connection:
        connection.execute(text("SELECT * FROM nowhere WHERE name = 'Canary'"))
    assert "Canary" not in str(caught.value)
    index.check()


def test_a_committed_row_survives_a_power_cut(sqlite_index: Index) -> None:
    """PRAGMA synchronous = FULL is 2; WAL alone may lose the newest commits."""
    with sqlite_index.write() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    index = open_index(f"sqlite:///{disk}/index.db")
    try:
        enter(index, make.data_set(1))
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
        with pytest.raises(Exhausted):
            enter(index, *(make.data_set(n) for n in range(2, 400)))
        assert row_counts(index) == [1, 1, 1, 1]
    finally:
        index.close()
        subprocess.run(["umount", str(disk)], check=True)  # noqa: S607 - wherever it is installed


# Rows are born once


def test_racing_doors_make_one_row_and_one_of_them_made_it(index: Index) -> None:
    def insert(_: int) -> tuple[int, bool]:
        with index.write() as connection:
            return insert_new(connection, archives, ["name"], {"name": "main"})

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(insert, range(AT_ONCE * 3)))
    assert len({row_id for row_id, _ in answers}) == 1
    assert sum(is_new for _, is_new in answers) == 1


def test_first_instances_of_a_study_on_many_associations_make_one_study(index: Index) -> None:
    enter(index)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda n: enter(index, make.data_set(n)), range(AT_ONCE)))
    assert row_counts(index) == [1, 1, 1, AT_ONCE]


def test_doors_that_store_and_delete_the_same_study_get_errors_of_ours_at_most(
    index: Index,
) -> None:
    """No row may survive without what holds it, and no bug may come to light."""
    archive_id = enter(index)

    def deed(n: int) -> str:
        try:
            if n % 3:
                enter(index, make.data_set(n % 7))
                return "stored"
            with index.write() as connection:
                catalog.remove(connection, archive_id, Scope(make.uid("study")))
        except Unavailable as error:
            return error.message
        return "removed"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(deed, range(240)))
    assert {"stored", "removed"} <= set(answers)
    enter(index, make.data_set(1))
    assert row_counts(index)[:3] == [1, 1, 1]


def test_the_same_uids_in_two_archives_are_two_of_each(index: Index) -> None:
    enter(index, make.data_set(), archive="clinical")
    enter(index, make.data_set(), archive="research")
    assert row_counts(index) == [2, 2, 2, 2]
    assert len(search(index, archive="clinical")) == 1


def test_patients_differ_by_their_issuer(index: Index) -> None:
    for issuer in ("", "A", "B", "A"):
        uid = make.uid("study", issuer)
        enter(index, make.data_set(study_instance_uid=uid, IssuerOfPatientID=issuer))
    assert row_counts(index)[:2] == [3, 3]


def test_strangers_without_a_patient_id_are_not_one_patient(index: Index) -> None:
    for study in ("one", "two"):
        for number in (1, 2):
            uid = make.uid(study)
            enter(index, make.data_set(number, study_instance_uid=uid, patient_id=""))
    assert row_counts(index) == [2, 2, 2, 4]


LONG = "".join(chr(0x4E00 + n * 37 % 20_000) for n in range(3000))


def test_values_far_too_long_are_cut_in_the_index_and_still_found(index: Index) -> None:
    """A database's own index takes some 2,700 bytes; beyond that PostgreSQL refuses the row."""
    made = make.data_set(
        SpecificCharacterSet="ISO_IR 192",
        patient_id=LONG,
        patient_name=f"{LONG}^{LONG}={LONG}",
        IssuerOfPatientID=LONG[7:],
        AccessionNumber=LONG,
        StudyDescription=LONG,
    )
    enter(index, made)
    enter(index, make.data_set(2, patient_name="\ufdfa" * 2000, SpecificCharacterSet="ISO_IR 192"))
    (row,) = search(index, PatientID=f"{LONG[:300]}*")
    assert len(row["PatientID"].encode()) <= INDEXED_BYTES_MAX
    assert LONG.startswith(row["PatientID"])


@pytest.mark.parametrize("text_", ["a\0b", "\x1b[31m", "'; DROP TABLE studies; --", "\ufffd", "%"])
def test_odd_characters_are_kept_or_left_out_never_an_error(index: Index, text_: str) -> None:
    enter(index, make.data_set(SpecificCharacterSet="ISO_IR 192", StudyDescription=text_))
    (row,) = search(index)
    assert row["StudyDescription"] == text_.replace("\0", "")


@pytest.mark.parametrize(
    ("text_", "number"),
    [("7", 7), ("-7", -7), ("+7", 7), ("", None), ("9" * 18, int("9" * 18)), ("9" * 19, None)],
)
def test_numbers_are_kept_as_numbers(index: Index, text_: str, number: int | None) -> None:
    made = make.data_set()
    del made.InstanceNumber
    raw = make.data_set_bytes(made) + make.element(0x0020_0013, "IS", text_.encode())
    with index.write() as connection:
        archive_id = catalog.archive_id(connection, "main")
        values = catalog.described(scan(raw, make.EXPLICIT))
        catalog.add_instance(connection, archive_id, values, kept(1))
    with index.read() as connection:
        row = catalog.find_instance(connection, archive_id, make.data_set().SOPInstanceUID)
        assert row is not None
        assert row.InstanceNumber == number


# Rows are removed whole


def test_removing_the_last_instance_removes_what_held_it(index: Index) -> None:
    archive_id = enter(index, *make.study(2, series=2))
    study = make.uid("study")
    first, *_ = make.study(2, series=2)
    with index.write() as connection:
        number, digests = catalog.remove(
            connection, archive_id, Scope(study, sop_instance_uid=first.SOPInstanceUID)
        )
        assert (number, digests) == (1, [kept(first.SOPInstanceUID).digest])
    assert row_counts(index) == [1, 1, 2, 3]
    with index.write() as connection:
        catalog.remove(connection, archive_id, Scope(study, first.SeriesInstanceUID))
    assert row_counts(index) == [1, 1, 1, 2]
    with index.write() as connection:
        number, _ = catalog.remove(connection, archive_id, Scope(study))
    assert number == 2
    assert row_counts(index) == [0, 0, 0, 0]


def test_an_object_that_another_archive_names_is_not_given_away(index: Index) -> None:
    one = enter(index, make.data_set(), archive="clinical")
    enter(index, make.data_set(), archive="research")
    with index.write() as connection:
        number, digests = catalog.remove(connection, one, Scope(make.uid("study")))
    assert (number, digests) == (1, [])


def test_a_study_larger_than_a_statement_has_places_for_is_removed(index: Index) -> None:
    """SQLite takes 32,766 values in one statement, PostgreSQL 65,535."""
    archive_id = enter(index, make.data_set())
    doublings = 16 if index.dialect == "postgresql" else 15
    with index.write() as connection:
        for doubling in range(doublings):
            columns: dict[str, ColumnElement[Any]] = dict(instances.c.items())
            for name in ("SOPInstanceUID", "digest"):
                columns[name] = instances.c[name] + f".{doubling}"
            columns["id"] = instances.c.id + 2**doubling
            twice = select(*columns.values())
            connection.execute(instances.insert().from_select(list(columns), twice))
    with index.write() as connection:
        number, digests = catalog.remove(connection, archive_id, Scope(make.uid("study")))
    assert number == len(digests) == 2**doublings
    assert row_counts(index) == [0, 0, 0, 0]
