"""DCMTK's own tools against a running node: peers that we did not write."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import generate_uid

from tests import make
from tests.unit.dimse.scanner import Node, instance, node

# pynetdicom installs scripts of the same names into a virtual environment, which must not be taken.
FOLDERS = (Path("/usr/bin"), Path("/usr/local/bin"), Path("/opt/homebrew/bin"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("node")) as started:
        yield started


def run(
    tool: str, running: Node, *options: str, called: str = "ISOCENTER", path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's tools against the node; without DCMTK, the test is skipped."""
    found = [folder / tool for folder in FOLDERS if (folder / tool).exists()]
    if not found:
        pytest.skip(f"DCMTK's {tool} is not installed: apt-get install dcmtk")
    peer = ["-aec", called, "127.0.0.1", str(running.port)]
    what = [] if path is None else [str(path)]
    return subprocess.run(
        [found[0], *options, *peer, *what],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def written(folder: Path, transfer_syntax_uid: str, count: int) -> str:
    """Write the files of a study; its UID."""
    study = generate_uid()
    for number in range(1, count + 1):
        data_set = make.data_set(number, study_instance_uid=study)
        (folder / f"{number}.dcm").write_bytes(make.part10_bytes(data_set, transfer_syntax_uid))
    return study


def test_echoscu_is_answered(running: Node) -> None:
    done = run("echoscu", running)
    assert done.returncode == 0, done.stderr


def test_echoscu_is_refused_under_another_title(running: Node) -> None:
    done = run("echoscu", running, called="OTHER")
    assert done.returncode != 0
    assert "Called AE Title Not Recognized" in done.stderr


def test_storescu_sends_a_study_with_its_folder(running: Node, tmp_path: Path) -> None:
    study = written(tmp_path, make.EXPLICIT, 20)
    done = run("storescu", running, "+sd", "+r", path=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = running.instances(study)
    assert len(kept) == 20
    assert [one.instance_number for one in kept] == list(range(1, 21))


@pytest.mark.parametrize(
    ("option", "syntax"),
    [("-xi", make.IMPLICIT), ("-xb", make.BIG_ENDIAN), ("-xd", make.DEFLATED)],
)
def test_storescu_sends_other_syntaxes_as_they_are(
    running: Node, tmp_path: Path, option: str, syntax: str
) -> None:
    study = written(tmp_path, syntax, 1)
    done = run("storescu", running, option, "+sd", path=tmp_path)
    assert done.returncode == 0, done.stderr
    (kept,) = running.instances(study)
    assert kept.transfer_syntax_uid == syntax


def test_storescu_hears_why_an_instance_is_refused(running: Node, tmp_path: Path) -> None:
    data_set = instance(StudyInstanceUID="")
    (tmp_path / "1.dcm").write_bytes(make.part10_bytes(data_set))
    done = run("storescu", running, "-v", "+sd", path=tmp_path)
    assert "DataSetDoesNotMatchSOPClass" in done.stdout + done.stderr
