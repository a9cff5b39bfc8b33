"""`isocenter peers …` as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pacs import cli
from tests.unit.dimse.scanner import node

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `isocenter peers` on a node of its own; exit code and what was said."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: str) -> tuple[int, str]:
        arguments = ["isocenter", "peers", *words, "--data", str(tmp_path / "data")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return command


def test_a_peer_is_added_listed_and_removed(run: Run) -> None:
    assert run("add", "CT1", "ct-1.example.org:104", "--may", "store, query", "--tls") == (
        0,
        "CT1 added\n",
    )
    assert run("add", "ANY", "*") == (0, "ANY added\n")
    code, said = run("list")
    assert code == 0
    assert "echo only" in said
    assert "query, store" in said
    (_, ct) = json.loads(run("list", "--json")[1])["peers"]
    assert (ct["host"], ct["port"], ct["tls"]) == ("ct-1.example.org", 104, True)
    assert run("remove", "CT1") == (0, "CT1 removed\n")
    assert "CT1" not in run("list")[1]


def test_an_address_of_ipv6_stands_in_brackets(run: Run) -> None:
    run("add", "CT1", "[::1]:104")
    (peer,) = json.loads(run("list", "--json")[1])["peers"]
    assert (peer["host"], peer["port"]) == ("::1", 104)


@pytest.mark.parametrize(
    "words",
    [
        ("add", "CT1", "host"),
        ("add", "CT1", "host:many"),
        ("add", "CT1", "host:104", "--may", "delete"),
        ("add", "SEVENTEEN LETTERS", "host:104"),
    ],
)
def test_wrong_words_are_wrong_usage(run: Run, words: tuple[str, ...]) -> None:
    code, said = run(*words)
    assert code == 2
    assert said.startswith("isocenter: ")


def test_what_is_not_there_cannot_be_removed(run: Run) -> None:
    assert run("remove", "CT1")[0] == 1


def test_an_echo_is_answered_or_says_why_not(run: Run, tmp_path: Path) -> None:
    with node(tmp_path) as other:
        run("add", "ISOCENTER", f"127.0.0.1:{other.port}")
        code, said = run("echo", "ISOCENTER")
        assert (code, "answers, after" in said) == (0, True)
        run("add", "OTHER", f"127.0.0.1:{other.port}")
        code, said = run("echo", "OTHER")
        assert (code, said) == (
            1,
            "OTHER does not answer: refused: it is not called by this AE title\n",
        )
    code, said = run("echo", "ISOCENTER", "--json")
    told = json.loads(said)
    assert (code, told["answered"]) == (1, False)
    assert told["reason"] == "nobody listens at that port"
