"""`isocenter rules …` and `isocenter deliveries …` as an operator types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs import cli

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter …` on a node of its own, which lists PACS; exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["isocenter", *words, "--data", str(tmp_path / "data")])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    command("peers", "add", "PACS", "192.0.2.9:104", "--may", "receive")
    return command


def test_a_rule_is_added_listed_tried_and_removed(run: Run) -> None:
    words = ("--to", "PACS", "--on", "complete", "--if", "Modality=CT", "--if", "Modality=MR")
    assert run("rules", "add", "ct", *words, "--commit") == (0, "ct added\n")
    assert run("rules", "add", "ct", *words) == (0, "ct changed\n")
    code, said = run("rules", "list")
    assert (code, "Modality=CT, MR" in said) == (0, True)
    (rule,) = json.loads(run("rules", "list", "--json")[1])["rules"]
    assert (rule["trigger"], rule["conditions"]) == ("complete", {"Modality": ["CT", "MR"]})
    assert (rule["commitment"], rule["enabled"]) == (False, True)
    assert json.loads(run("rules", "test", "ct", "--json")[1]) == {"studies": []}
    assert run("rules", "test", "ct", "--days", "30")[0] == 0
    assert run("rules", "remove", "ct") == (0, "ct removed\n")
    assert run("rules", "remove", "ct")[0] == 1


@pytest.mark.parametrize(
    "words",
    [
        ("rules", "add", "ct", "--to", "PACS", "--on", "always"),
        ("rules", "add", "ct", "--to", "PACS", "--on", "complete", "--if", "Modality"),
        ("rules", "add", "ct", "--to", "PACS", "--on", "complete", "--if", "Colour=red"),
        ("rules", "add", "two words", "--to", "PACS", "--on", "complete"),
        ("deliveries", "retry"),
        ("deliveries", "cancel", "1", "--peer", "PACS"),
        ("deliveries", "list", "--state", "lost"),
    ],
)
def test_wrong_words_are_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    assert run(*words)[0] == 2


def test_deliveries_are_listed_and_ordered(run: Run) -> None:
    assert json.loads(run("deliveries", "list", "--json")[1]) == {"peers": [], "deliveries": []}
    assert run("deliveries", "list")[0] == 0
    assert run("deliveries", "retry", "--peer", "PACS") == (0, "0 to be tried again\n")
    assert run("deliveries", "cancel", "--peer", "PACS") == (0, "0 cancelled\n")
    assert run("deliveries", "retry", "7")[0] == 1
