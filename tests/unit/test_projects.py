"""Releases to research projects: repeatable, counted, and under a key that is never half made."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pacs.archive import Archive, Scope
from pacs.dicom.attributes import Level
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.matching import Query
from pacs.errors import Broken, Missing
from pacs.index import Index, jobs
from pacs.index.jobs import Job
from pacs.projects import KEY_BYTES, NODE, Project, Releases, project_key
from pacs.store.files import FileStore
from pacs.worker import End
from pacs.workflow import RELEASE
from tests import make

STUDY = make.uid("study")


@pytest.fixture
def project(tmp_path: Path, sqlite_index: Index) -> Project:
    copies = Archive("project-demo", FileStore(tmp_path / "copies"), sqlite_index)
    return Project("demo", copies, b"k" * KEY_BYTES)


def _store(archive: Archive, number: int = 1, **attributes: object) -> None:
    """A slice of a chest, which may be released unless an attribute speaks against it."""
    chest = {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "BodyPartExamined": "CHEST"}
    made = make.data_set(number)
    for keyword, value in {**chest, **attributes}.items():
        setattr(made, keyword, value)
    archive.store(make.SCANNER, make.incoming(made))


def _released(archive: Archive, project: Project) -> End:
    with archive.index.write() as connection:
        jobs.enqueue(
            connection,
            key=f"release/{len(jobs.listed(connection, limit=9, cursor=0))}",
            kind=RELEASE,
            archive_id=archive.id,
            study_instance_uid=STUDY,
            generation=1,
            payload={"project": project.name},
        )
        job: Job | None = jobs.claim(connection, [RELEASE])
    assert job is not None
    return Releases(archive, {project.name: project}).handle(job)


def _studies(archive: Archive) -> list[str]:
    rows = archive.search(NODE, Query(Level.STUDY)).rows
    return [str(row["StudyInstanceUID"]) for row in rows]


def test_a_study_is_released_as_copies_that_name_nobody(archive: Archive, project: Project) -> None:
    for number in (1, 2, 3):
        _store(archive, number)
    end = _released(archive, project)
    assert (end.state, end.reason) == ("succeeded", "3 of 3 instances released.")
    (study,) = _studies(project.archive)
    assert study != STUDY
    for copy in project.archive.retrieve(NODE, Scope(study)):
        read = read_data_set(project.archive.data_set(copy), copy.transfer_syntax_uid)
        assert "Phantom" not in str(read.PatientName)
        assert read.PatientID != "P-1"


def test_released_again_nothing_changes(archive: Archive, project: Project) -> None:
    for number in (1, 2):
        _store(archive, number)
    _released(archive, project)
    before = sorted(project.archive.objects.digests())
    _released(archive, project)
    assert sorted(project.archive.objects.digests()) == before


def test_another_key_gives_other_pseudonyms(
    archive: Archive, project: Project, tmp_path: Path
) -> None:
    _store(archive)
    _released(archive, project)
    other = Archive("project-other", FileStore(tmp_path / "other"), archive.index)
    _released(archive, Project("demo", other, b"x" * KEY_BYTES))
    assert _studies(project.archive) != _studies(other)


def test_what_may_not_leave_is_withheld_and_counted(archive: Archive, project: Project) -> None:
    _store(archive, 1)
    _store(archive, 2, BurnedInAnnotation="YES")
    end = _released(archive, project)
    assert end.state == "succeeded"
    assert end.reason.startswith("1 of 2 instances released. 1 withheld: ")
    assert end.reason_code


def test_a_study_withheld_whole_is_skipped(archive: Archive, project: Project) -> None:
    _store(archive, BurnedInAnnotation="YES")
    end = _released(archive, project)
    assert (end.state, end.reason[:32]) == ("skipped", "0 of 1 instances released. 1 wit")
    assert _studies(project.archive) == []


def test_what_this_node_made_is_not_released(archive: Archive, project: Project) -> None:
    _store(archive)
    with archive.index.write() as connection:
        connection.exec_driver_sql("UPDATE instances SET made_by = 'infer/lung'")
    assert _released(archive, project).reason == "0 of 0 instances released."


def test_a_study_that_was_deleted_meanwhile_is_missing(archive: Archive, project: Project) -> None:
    with pytest.raises(Missing):
        _released(archive, project)


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    key = project_key(tmp_path / "keys", "demo")
    assert len(key) == KEY_BYTES
    assert project_key(tmp_path / "keys", "demo") == key
    assert project_key(tmp_path / "keys", "other") != key
    assert (tmp_path / "keys" / "demo.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.name for path in tmp_path.rglob("*.*")} == {"demo.key", "other.key"}


def test_processes_that_make_a_key_at_once_have_the_same(tmp_path: Path) -> None:
    found: set[bytes] = set()
    start = threading.Barrier(8)

    def make_one() -> None:
        start.wait()
        found.add(project_key(tmp_path, "demo"))

    threads = [threading.Thread(target=make_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1


def test_a_process_killed_while_it_makes_a_key_leaves_no_half_of_one(tmp_path: Path) -> None:
    killed = (
        "import os, pacs.projects as p, pathlib\n"
        "os.fsync = lambda _: os._exit(9)\n"
        f"p.project_key(pathlib.Path({str(tmp_path)!r}), 'demo')"
    )
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    assert len(project_key(tmp_path, "demo")) == KEY_BYTES


def test_a_damaged_key_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "demo.key").write_bytes(b"short")
    with pytest.raises(Broken, match="restore it from a backup"):
        project_key(tmp_path, "demo")
