"""`isocenter recycled …` as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs import cli
from pacs.archive import Scope
from pacs.config import load
from pacs.node import compose
from tests import make

Run = Callable[..., tuple[int, str]]
STUDY = make.uid("study")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter recycled` on a node with one deleted study; exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "300")
    node = compose(load(overrides={"data": tmp_path / "data"})[0])
    for made in make.study(2):
        node.identified.store(make.SCANNER, make.incoming(made))
    node.identified.delete(make.READER, Scope(STUDY))
    node.close()

    def command(*words: str) -> tuple[int, str]:
        arguments = ["isocenter", "recycled", *words, "--data", str(tmp_path / "data")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


def test_a_deletion_is_listed_and_restored_once(run: Run) -> None:
    code, said = run("list")
    assert (code, STUDY in said) == (0, True)
    (told,) = json.loads(run("list", "--json")[1])["deletions"]
    assert (told["instances"], told["scope"]["study_instance_uid"]) == (2, STUDY)
    assert run("restore", str(told["id"])) == (0, "2 instances restored, 0 left\n")
    code, said = run("restore", str(told["id"]))
    assert (code, "there is no such deletion here" in said) == (1, True)
    assert json.loads(run("list", "--json")[1]) == {"deletions": []}


def test_a_deletion_is_removed_for_good(run: Run) -> None:
    assert run("purge", "1") == (0, "deletion 1 removed for good\n")
    assert run("restore", "1")[0] == 1


def test_projects_have_deletions_of_their_own(run: Run) -> None:
    assert json.loads(run("list", "--project", "demo", "--json")[1]) == {"deletions": []}
    assert run("restore", "1", "--project", "demo")[0] == 1
    assert run("list", "--project", "none")[0] == 1
