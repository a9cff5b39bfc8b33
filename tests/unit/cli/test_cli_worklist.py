"""`isocenter worklist …` as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset

from pacs import cli
from pacs.dicom.plain_json import model_of
from tests import make
from tests.scheduled import STEP, entry

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter worklist` on a node of its own; exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str | Path) -> tuple[int, str]:
        arguments = ["isocenter", "worklist", *map(str, words), "--data", str(tmp_path / "data")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


def entry_file(folder: Path, name: str, **given: str | list[str]) -> Path:
    """An entry as a Part 10 file, as other worklist servers keep it."""
    made = Dataset.from_json(json.dumps(model_of(entry(7))))
    for keyword, value in given.items():
        setattr(made, keyword, value)
    made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.31", make.uid(name)
    path = folder / name
    path.write_bytes(make.part10_bytes(made))
    return path


def test_plain_and_dicom_json_are_imported_and_listed(run: Run, tmp_path: Path) -> None:
    plain, dicom = tmp_path / "plain.json", tmp_path / "dicom.json"
    plain.write_text(json.dumps([entry(1), entry(2)]))
    dicom.write_text(json.dumps(model_of(entry(3))))
    assert run("import", plain, dicom) == (0, "3 entered, 0 refused\n")
    assert run("import", dicom) == (0, "1 entered, 0 refused\n")
    listed = json.loads(run("list", "--json")[1])["entries"]
    assert [one["entry"]["AccessionNumber"] for one in listed] == ["A-1", "A-2", "A-3"]
    code, said = run("list")
    assert code == 0
    assert "2026-03-04 10:00" in said
    assert said.count("SCHEDULED") == 3


def test_a_dicom_file_is_imported_in_its_character_set(run: Run, tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    path = entry_file(
        tmp_path, "one.wl", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name
    )
    assert run("import", path) == (0, "1 entered, 0 refused\n")
    (listed,) = json.loads(run("list", "--json")[1])["entries"]
    assert listed["entry"]["PatientName"] == name
    assert listed["entry"][STEP][0]["ScheduledProcedureStepStatus"] == "SCHEDULED"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "{", "this is not JSON"),
        ("a.json", "3", "neither an entry nor a list"),
        ("a.json", '{"zzzzzzzz": {"vr": "PN"}}', "this is not DICOM JSON"),
        ("a.json", '{"00100010": {"vr": "PN", "Value": ["x"]}}', "this is not DICOM JSON"),
        ("a.json", '{"PatientName": "x"}', f"{STEP} must have exactly one item"),
        ("a.wl", "DICM", "not a DICOM Part 10 file"),
    ],
)
def test_what_cannot_be_imported_is_said_with_its_file(
    run: Run, tmp_path: Path, name: str, content: str, reason: str
) -> None:
    path = tmp_path / name
    path.write_text(content)
    code, said = run("import", path)
    assert code == 1
    assert "0 entered, 1 refused" in said
    assert f"{path}: " in said
    assert reason in said
    told = json.loads(run("import", path, "--json")[1].partition("}\nisocenter")[0])
    assert reason in told["refused"][0]["reason"]
