"""The index is a cache: without it the store alone gives the same answers.

A node that has seen duplicates, versions and late slices is stopped, its index thrown away and
made anew. Every row, every metadata answer and every result must be as before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pydicom import Dataset, dcmread

import sample_dicom
from pacs.dicom.part10 import read_part10
from sample_dicom.studies import CT_CHEST, STUDIES
from tests import make
from tests.story.running import StartedNode, started_node

pytestmark = pytest.mark.timeout(180)

SAMPLES: Final = Path(sample_dicom.__file__).parent
LATE: Final = make.uid("rebuild", "late")
VERSIONS: Final = make.uid("rebuild", "versions")
SENT: Final = STUDIES[:7]
ROOTS: Final = ("/dicom-web", "/research/demo/dicom-web")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartedNode]:
    """A node with a history: several studies, versions, a superseded generation."""
    folder = tmp_path_factory.mktemp("node")
    with started_node(folder) as node:
        node.send([SAMPLES / study.folder for study in SENT])
        files = _written(folder / "made")
        node.send(files["versions"])
        assert [one.status for one in node.send(files["other bytes"])] == [0xB007]
        assert [one.status for one in node.send(files["versions"])] == [0, 0, 0]
        node.send(files["late"][:-1])
        for study in (*(study.study_instance_uid for study in SENT), VERSIONS, LATE):
            node.wait_for_results(study)
        node.send(files["late"][-1:])
        node.wait_for_results(LATE, generation=2)
        yield node


def _written(folder: Path) -> dict[str, list[Path]]:
    folder.mkdir()
    upwards = sorted(
        map(dcmread, (SAMPLES / CT_CHEST.folder).glob("*.dcm")),
        key=lambda one: float(one.ImagePositionPatient[2]),
    )
    versions = make.study(3, study_instance_uid=VERSIONS)
    other = make.study(3, study_instance_uid=VERSIONS, StudyDescription="Other bytes")[1]
    sets = {
        "late": [_moved(one) for one in upwards],
        "versions": versions,
        "other bytes": [other],
    }
    return {name: _saved(folder / name, data_sets) for name, data_sets in sets.items()}


def _moved(made: Dataset) -> Dataset:
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        setattr(made, keyword, make.uid("rebuild", made[keyword].value))
    made.StudyInstanceUID = LATE
    return made


def _saved(folder: Path, data_sets: list[Dataset]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:03}.dcm" for number in range(len(data_sets))]
    for path, made in zip(paths, data_sets, strict=True):
        path.write_bytes(make.part10_bytes(made))
    return paths


def _answers(node: StartedNode) -> dict[str, Any]:
    """Everything that can be asked, by its address."""
    found: dict[str, Any] = {}
    for root in ROOTS:
        found[root] = node.json(f"{root}/studies", includefield="all")
        for row in found[root]:
            study = f"{root}/studies/{row['0020000D']['Value'][0]}"
            for path in ("/series", "/instances", "/metadata"):
                found[study + path] = node.json(study + path, includefield="all")
    for row in found["/dicom-web"]:
        study = row["0020000D"]["Value"][0]
        found[f"{study} runs"] = node.runs(study)
    return found


def test_a_rebuilt_index_gives_the_same_answers(node: StartedNode) -> None:
    before = _answers(node)
    states = {run["state"] for key, runs in before.items() if "runs" in key for run in runs}
    assert states == {"succeeded", "skipped", "superseded"}
    assert len(before["/dicom-web"]) == len(SENT) + 2
    assert len(before["/research/demo/dicom-web"]) >= 3
    status = node.json("/api/worklist-status")
    node.stop()
    for file in node.data.glob("index.db*"):
        file.unlink()
    rebuilt = node.command("rebuild", "--json")
    assert (rebuilt.returncode, json.loads(rebuilt.stdout)["clean"]) == (0, True), rebuilt.stderr
    assert node.command("fsck").returncode == 0
    node.start()
    node.wait_until_ready()
    after = _answers(node)
    assert after.keys() == before.keys()
    assert [key for key in before if after[key] != before[key]] == []
    assert node.json("/api/worklist-status") == status
    time.sleep(2)  # a quiet time and a sweep later
    assert node.json("/api/worklist-status") == status, "nothing is done once more"
    _check_versions_are_known(node)


def _check_versions_are_known(node: StartedNode) -> None:
    """Both bytes of the doubtful instance are held, the first are current, neither is news."""
    folder = node.data.parent / "made"
    assert [one.status for one in node.send([folder / "other bytes" / "000.dcm"])] == [0]
    assert [one.status for one in node.send([folder / "versions"])] == [0, 0, 0]
    (row,) = node.json(f"/dicom-web/studies/{VERSIONS}/instances", InstanceNumber="2")
    place = [row[tag]["Value"][0] for tag in ("0020000E", "00080018")]
    held = node.data_set(f"/dicom-web/studies/{VERSIONS}/series/{place[0]}/instances/{place[1]}")
    assert held == read_part10((folder / "versions" / "001.dcm").read_bytes()).data_set
