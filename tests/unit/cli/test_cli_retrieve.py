"""`isocenter find`, `get` and `export` as an operator types them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from pacs import cli
from pacs.cli.shared import OPERATOR, opened
from pacs.dicom.part10 import read_part10
from tests import make
from tests.unit.dimse.hostile_archive import FIND_RSP, Archive, archive
from tests.unit.dimse.scanner import Node, node

Run = Callable[..., tuple[int, str]]
STUDY = make.uid("study")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter` on a node of its own; exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("ISOCENTER_DIMSE__AET", "SCANNER")

    def command(*words: object) -> tuple[int, str]:
        arguments = ["isocenter", *map(str, words), "--data", str(tmp_path / "data")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Node]:
    """A node that holds one study of three instances."""
    folder = tmp_path / "peer"
    folder.mkdir()
    with node(folder) as started:
        for number in (1, 2, 3):
            started.archive.store(make.SCANNER, make.incoming(make.data_set(number)))
        yield started


@pytest.fixture
def holding(run: Run, tmp_path: Path) -> Run:
    """`run` on a node that holds the study itself."""
    source = tmp_path / "source"
    source.mkdir()
    for number in (1, 2, 3):
        (source / f"{number}.dcm").write_bytes(make.part10_bytes(make.data_set(number)))
    assert run("import", source)[0] == 0
    return run


def said_json(said: str) -> dict[str, object]:
    found = json.loads(said[said.index("{") : said.rindex("}") + 1])
    assert isinstance(found, dict)
    return found


def test_studies_of_a_peer_are_shown_as_a_table_or_as_json(run: Run, peer: Node) -> None:
    address = f"127.0.0.1:{peer.port}"
    code, said = run("find", "PatientName=Phantom*", "AccessionNumber", "--from", address)
    assert code == 0
    assert "Phantom^One" in said
    assert "A-1" in said
    assert "1 found" in said
    code, said = run("find", "--level", "study", "--from", address, "--json")
    (row,) = json.loads(said)["matches"]
    assert (code, row["StudyInstanceUID"]) == (0, STUDY)
    assert run("find", "PatientName=Nobody", "--from", address)[1].endswith("0 found\n")


def test_a_listed_peer_is_asked_by_its_title_and_noted(run: Run, peer: Node) -> None:
    run("peers", "add", "ISOCENTER", f"127.0.0.1:{peer.port}")
    keys = ("find", f"StudyInstanceUID={STUDY}", "--level", "series")
    code, said = run(*keys, "--from", "ISOCENTER")
    assert (code, "1 found" in said) == (0, True)
    assert '"last_association_at": null' not in run("peers", "list", "--json")[1]
    assert run(*keys, "--from", "NOBODY")[0] == 1


def test_the_nodes_own_archive_is_asked_without_a_peer(holding: Run) -> None:
    code, said = holding("find", "--level", "instance", "InstanceNumber=2", "--json")
    found = json.loads(said)
    assert (code, len(found["matches"]), found["more"]) == (0, 1, False)
    code, said = holding("find", "--level", "instance", "--limit", "2")
    assert (code, "2 found, more exist" in said) == (0, True)


@pytest.mark.parametrize(
    "words",
    [
        ("find", "=x"),
        ("find", "PatientID=1", "PatientID=2"),
        ("find", "Rows=1"),
        ("find", "StudyDate=yesterday"),
        ("find", "NoSuchThing", "--from", "127.0.0.1:1"),
        ("find", "--level", "frame"),
        ("get", "../../x", "--from", "127.0.0.1:1"),
        ("get", "1.2", "--from", "127.0.0.1:1", "--instance", "1.2.3"),
        ("get", "1.2", "--from", "127.0.0.1:1", "--to", "x", "--move-to", "DEST"),
        ("export", "--to", "x"),
        ("export", "1.2", "--to", "x", "--all"),
        ("export", "1.2", "--to", "x", "--deidentified", "nobody"),
    ],
)
def test_wrong_words_are_wrong_usage(
    run: Run, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*words)[0] == 2


def test_a_peers_text_is_no_command_to_the_terminal(run: Run) -> None:
    def sly(archive: Archive) -> None:
        archive.match("\x1b[2J[bold]1.2[/bold]\r\n")
        archive.reply(FIND_RSP, 0)

    with archive(sly) as there:
        code, said = run("find", "--level", "instance", "--from", f"{there.host}:{there.port}")
    assert code == 0
    assert "\x1b" not in said
    assert "[bold]" in said


def test_a_study_is_fetched_into_the_archive(run: Run, peer: Node) -> None:
    code, said = run("get", STUDY, "--from", f"127.0.0.1:{peer.port}")
    assert (code, "3 kept, 0 refused here, 0 failed there" in said) == (0, True)
    found = said_json(run("find", "--level", "instance", "--json")[1])
    assert len(found["matches"]) == 3  # type: ignore[arg-type]  # it is a list
    assert run("fsck")[0] == 0


def test_a_study_is_fetched_into_a_folder(run: Run, peer: Node, tmp_path: Path) -> None:
    address = f"127.0.0.1:{peer.port}"
    code, said = run("get", STUDY, "--from", address, "--to", tmp_path / "out", "--json")
    assert (code, said_json(said)["kept"]) == (0, 3)
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.dcm"))
    assert names == [f"ST000001/SE000001/IM{n:06}.dcm" for n in (1, 2, 3)]
    assert run("get", STUDY, "--from", address, "--to", tmp_path / "out")[0] == 2, "it is not empty"


def test_what_is_not_whole_is_a_failure(run: Run, peer: Node) -> None:
    address = f"127.0.0.1:{peer.port}"
    assert run("get", STUDY, "--from", "127.0.0.1:1")[0] == 1
    code, said = run("get", STUDY, "--from", address, "--move-to", "NOBODY")
    assert (code, "does not know the destination" in said) == (1, True)


def test_a_study_is_exported_bit_for_bit_and_without_our_own_notes(
    holding: Run, tmp_path: Path
) -> None:
    code, said = holding("export", STUDY, "--to", tmp_path / "out")
    assert (code, "3 written, 0 failed" in said) == (0, True)
    files = sorted((tmp_path / "out").rglob("*.dcm"))
    sources = {
        bytes(read_part10(path.read_bytes()).data_set) for path in (tmp_path / "source").iterdir()
    }
    assert {bytes(read_part10(path.read_bytes()).data_set) for path in files} == sources
    for path in files:
        assert read_part10(path.read_bytes()).private == {}
        assert pydicom.dcmread(path).pixel_array.shape == (16, 16)
        assert not path.stat().st_mode & 0o077


def test_what_is_not_there_is_said_and_the_rest_exported(holding: Run, tmp_path: Path) -> None:
    code, said = holding("export", "1.2.3", STUDY, "--to", tmp_path / "out")
    assert (code, "3 written" in said, "1.2.3: not here" in said) == (1, True, True)
    assert holding("export", "--all", "--to", tmp_path / "all", "--json")[0] == 0
    assert len(list((tmp_path / "all").rglob("*.dcm"))) == 3


def test_a_damaged_object_leaves_no_file(holding: Run, tmp_path: Path) -> None:
    (first, *_) = sorted((tmp_path / "data" / "objects" / "identified").glob("[0-9a-f][0-9a-f]/*"))
    damaged = bytearray(first.read_bytes())
    damaged[-1] ^= 1
    first.write_bytes(damaged)
    code, said = holding("export", STUDY, "--to", tmp_path / "out")
    assert (code, "2 written, 1 failed" in said) == (1, True)
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 2


def test_a_projects_copies_are_exported_and_not_the_originals(holding: Run, tmp_path: Path) -> None:
    copy = make.data_set(study_instance_uid=make.uid("copy"), patient_name="Pseudonym")
    with opened(tmp_path / "data", None) as own:
        own.projects["demo"].archive.store(OPERATOR, make.incoming(copy))
    code, said = holding("export", "--all", "--deidentified", "demo", "--to", tmp_path / "out")
    assert (code, "1 written" in said) == (0, True)
    (path,) = (tmp_path / "out").rglob("*.dcm")
    assert pydicom.dcmread(path).PatientName == "Pseudonym"
