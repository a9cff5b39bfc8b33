"""`/api/commitments` and `isocenter commitments`: what was promised to whom, and by whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs import cli
from pacs.access import Actor
from pacs.commitment import Commitments, Reference
from tests import make
from tests.unit.web.node import Served, serving

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        some = [Reference(CT, make.uid(n)) for n in range(2)]
        for uid in ("1.2.1", "1.2.2"):
            started.parts.commitments.request(Actor("peer", "CT1"), uid, some)
        started.parts.commitments.request_commitment("PACS", some, cause="forward/1")
        yield started


def test_requests_are_listed_newest_first_and_in_pages(served: Served) -> None:
    first = served.client.get("/api/commitments", params={"limit": 2}).json()
    assert [one["ae_title"] for one in first["commitments"]] == ["PACS", "CT1"]
    rest = served.client.get("/api/commitments", params={"cursor": first["cursor"]}).json()
    (last,) = rest["commitments"]
    assert rest["cursor"] is None
    assert last["requested_at"] > 0
    del last["id"], last["requested_at"]
    assert last == {
        "role": "scp",
        "ae_title": "CT1",
        "transaction_uid": "1.2.1",
        "state": "checking",
        "instances": 2,
        "failed": 0,
        "ended_at": None,
        "reason": "",
    }


def test_requests_are_found_by_role_and_state(served: Served) -> None:
    for wanted in ({"role": "scu"}, {"state": "asked"}):
        (one,) = served.client.get("/api/commitments", params=wanted).json()["commitments"]
        assert (one["ae_title"], one["state"]) == ("PACS", "asked")


@pytest.mark.parametrize("wrong", [{"role": "x"}, {"state": "x"}, {"limit": "0"}, {"cursor": "-1"}])
def test_what_cannot_be_asked_is_a_bad_request(served: Served, wrong: dict[str, str]) -> None:
    assert served.client.get("/api/commitments", params=wrong).status_code == 400


def test_the_command_line_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        monkeypatch.setenv("COLUMNS", "200")
        arguments = ["isocenter", "commitments", *words, "--data", str(tmp_path / "data")]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    with cli.shared.opened(tmp_path / "data", None) as node:
        some = [Reference(CT, make.uid(n)) for n in range(7)]
        node.commitments.request_commitment("PACS", some, cause="forward/1")
        Commitments(node.identified, patience_s=-1.0).expire()
    assert "The peer has sent no report." in said()
    (one,) = json.loads(said("--json", "--state", "unconfirmed"))["commitments"]
    assert (one["ae_title"], one["instances"]) == ("PACS", 7)
    assert json.loads(said("--json", "--state", "confirmed"))["commitments"] == []
