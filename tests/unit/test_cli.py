"""Commands as an operator types them: what they say, and their exit codes."""

from __future__ import annotations

import json
import sqlite3
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pacs import cli
from pacs.dicom.part10 import preamble_and_meta
from pacs.store.files import FileStore
from tests import make


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote for programs and for people."""

    code: int
    out: str
    err: str = ""


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter` on a node of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ISOCENTER_DATA", str(tmp_path / "data"))

    def command(*words: str | Path) -> Ended:
        monkeypatch.setattr("sys.argv", ["isocenter", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with a study of three instances."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, made in enumerate(make.study(3)):
        (folder / f"{number}.dcm").write_bytes(make.part10_bytes(made))
    return folder


@pytest.fixture
def filled(run: Run, files: Path, tmp_path: Path) -> Path:
    """A node's folder with a study in it."""
    assert run("import", files).code == 0
    return tmp_path / "data"


def _problems(run: Run, command: str) -> list[str]:
    code, out, _ = run(command, "--json")
    found: Any = json.loads(out)
    codes = [problem["code"] for problem in found["archives"]["identified"]]
    assert (code == 0) == (codes == []) == found["clean"]
    return codes


def test_the_version_is_told(run: Run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("isocenter 0.")


@pytest.mark.parametrize(
    "words",
    [
        ("fly",),
        ("serve", "--wings"),
        ("serve", "--roles", "dimse,cook"),
        ("serve", "--roles", ""),
        ("serve", "--bind", "0.0.0.0"),
        ("import", "not-there"),
        ("config", "--config", "not-there.toml"),
        ("send", ".", "--to", "nobody"),
        ("send", ".", "--to", "host:port"),
    ],
)
def test_wrong_usage_ends_with_2(run: Run, words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err


def test_an_unknown_setting_is_one_line_with_the_nearest_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_STUDY__QUIT_S", "1")
    assert run("config") == (
        2,
        "",
        "isocenter: environment names the unknown setting study.quit_s; "
        "did you mean study.quiet_s?\n",
    )


def test_debug_shows_the_trace(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "keys").mkdir(parents=True)
    (tmp_path / "data" / "keys" / "demo.key").write_bytes(b"")
    code, _, err = run("fsck")
    assert (code, err.count("\n")) == (1, 1)
    monkeypatch.setattr("sys.argv", ["isocenter", "--debug", "fsck"])
    with pytest.raises(Exception, match="the key of a project is damaged"):
        cli.main()


def test_settings_are_shown_without_secrets(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOCENTER_STORE", "s3://KEY:s3cr3t@host/bucket")
    for words in (("config",), ("config", "--json")):
        code, out, err = run(*words)
        assert code == 0
        assert "KEY:***@host" in out
        assert "s3cr3t" not in out + err


def test_files_folders_and_zip_archives_are_imported(run: Run, files: Path) -> None:
    with zipfile.ZipFile(files / "more.zip", "w") as archive:
        archive.writestr("a/1.dcm", make.part10_bytes(make.data_set(11)))
    code, out, _ = run("import", files, "--json")
    assert (code, json.loads(out)) == (0, {"stored": 4, "refused": []})
    assert run("import", files).code == 0, "again is success too"


def test_what_cannot_be_imported_is_listed_and_the_rest_is_kept(run: Run, files: Path) -> None:
    (files / "notes.txt").write_text("not DICOM")
    (files / "empty.dcm").write_bytes(b"")
    code, out, _ = run("import", files)
    assert code == 1
    assert "3 stored, 2 refused" in out
    assert "notes.txt: " in out
    assert "empty.dcm: " in out


def test_nobody_listens_where_it_is_sent(run: Run, files: Path) -> None:
    code, out, _ = run("send", files, "--to", "127.0.0.1:1", "--json")
    told = json.loads(out)
    assert (code, told["stored"], len(told["refused"])) == (1, 0, 3)
    assert all(one["reason"] for one in told["refused"])


def test_a_whole_archive_is_clean(run: Run, filled: Path) -> None:
    assert filled.is_dir()
    assert run("fsck") == (0, "identified: clean\nproject-demo: clean\n", "")
    assert _problems(run, "scrub") == _problems(run, "rebuild") == _problems(run, "fsck") == []


def _object(filled: Path) -> Path:
    return min(path for path in (filled / "objects/identified").rglob("*") if path.is_file())


def test_a_missing_object_is_found(run: Run, filled: Path) -> None:
    _object(filled).unlink()
    assert _problems(run, "fsck") == ["missing_object"]
    assert _problems(run, "scrub") == ["unreadable"]


def test_an_object_that_no_row_names_is_found_once_it_is_old(run: Run, filled: Path) -> None:
    store = FileStore(filled / "objects" / "identified")
    for number, age_s in ((8, 0), (9, 2 * 86_400)):
        made = make.data_set(number)
        meta = preamble_and_meta(
            sop_class_uid=str(made.SOPClassUID),
            sop_instance_uid=str(made.SOPInstanceUID),
            transfer_syntax_uid=make.EXPLICIT,
            private={"received_at": time.time() - age_s},
        )
        store.put([meta, make.data_set_bytes(made)])
    assert _problems(run, "fsck") == ["orphan_object"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET event = replace(event, 'operator', 'somebody') WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 2",
        "DELETE FROM audit WHERE seq = (SELECT max(seq) FROM audit)",
        "UPDATE audit SET at = at + 1 WHERE seq = 1",
    ],
)
def test_a_trail_that_was_tampered_with_is_found(run: Run, filled: Path, statement: str) -> None:
    with closing(sqlite3.connect(filled / "index.db")) as index, index:
        assert index.execute(statement).rowcount == 1
    assert _problems(run, "fsck") == ["audit_broken"]


def test_a_flipped_byte_is_found_by_reading(run: Run, filled: Path) -> None:
    path = _object(filled)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert _problems(run, "fsck") == [], "fsck reads no content"
    assert _problems(run, "scrub") == ["corrupt"]
    assert _problems(run, "rebuild") == ["corrupt"], "it is left out, and said so"
    assert _problems(run, "scrub") == []


def test_the_models_are_listed_and_shown(run: Run) -> None:
    code, out, _ = run("models", "list", "--json")
    assert code == 0
    assert "ct-lung-densitometry" in out
    assert run("models", "show", "ct-lung-densitometry").code == 0
    assert run("models", "show", "nothing").code == 1
