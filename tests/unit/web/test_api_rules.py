"""`/api/rules` and `/api/deliveries`: what is forwarded is entered, tried, watched and ordered."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from pacs.forwarding import Rule, Trigger
from pacs.peers import Peer, Right
from tests import make
from tests.unit.web.node import TESTER, Served, serving

BODY = {"peer": "PACS", "trigger": "complete", "conditions": {"Modality": ["CT"]}}
VIEW = {"project": "", "commitment": False, "enabled": True}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        rights = frozenset({Right.RECEIVE})
        started.parts.peers.put(TESTER, Peer("PACS", "192.0.2.9", 104, rights=rights))
        yield started


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    yield served.client
    for rule in served.client.get("/api/rules").json()["rules"]:
        served.client.delete(f"/api/rules/{rule['name']}")


def test_a_rule_is_made_then_changed_then_removed(client: httpx.Client) -> None:
    made = client.put("/api/rules/ct", json=BODY)
    assert made.status_code == 201
    times = {name: made.json()[name] for name in ("created_at", "changed_at")}
    assert made.json() == {"name": "ct", **BODY, **VIEW, **times}
    changed = client.put("/api/rules/ct", json={**BODY, "enabled": False, "commitment": True})
    assert (changed.status_code, changed.json()["commitment"]) == (200, True)
    assert client.get("/api/rules/ct").json() == changed.json()
    assert client.get("/api/rules").json() == {"rules": [changed.json()]}
    assert client.delete("/api/rules/ct").status_code == 204
    assert client.get("/api/rules").json() == {"rules": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trigger": "always"}, "received, complete, result"),
        ({"conditions": {"Colour": ["red"]}}, "Modality"),
        ({"conditions": {"StudyDate": ["today"]}}, "StudyDate"),
        ({"conditions": {"Modality": "CT"}}, ""),
        ({"project": "none"}, "demo"),
        ({"peer": ""}, "peer"),
    ],
)
def test_what_cannot_be_a_rule_is_refused_with_what_is_allowed(
    client: httpx.Client, change: dict[str, object], said: str
) -> None:
    refused = client.put("/api/rules/ct", json={**BODY, **change})
    assert refused.status_code in (400, 404)
    assert said in refused.json()["detail"]
    assert client.get("/api/rules").json() == {"rules": []}


@pytest.mark.parametrize(
    "asked",
    [
        ("GET", "/api/rules/none"),
        ("DELETE", "/api/rules/none"),
        ("POST", "/api/rules/none/test"),
        ("POST", "/api/deliveries/999/retry"),
        ("POST", "/api/deliveries/999/cancel"),
    ],
)
def test_what_is_not_there_is_not_found(client: httpx.Client, asked: tuple[str, str]) -> None:
    refused = client.request(*asked)
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_dry_run_tells_what_a_rule_would_forward(served: Served, client: httpx.Client) -> None:
    study = make.uid("dry")
    for made in make.study(2, study_instance_uid=study):
        served.archive.store(make.SCANNER, make.incoming(made))
    tried = client.post("/api/rules/ct/test", json=BODY, params={"days": 1}).json()
    assert [(one["study_instance_uid"], one["instances"]) for one in tried["studies"]] == [
        (study, 2)
    ]
    client.put("/api/rules/mr", json={**BODY, "conditions": {"Modality": ["MR"]}})
    assert client.post("/api/rules/mr/test").json() == {"studies": []}
    assert client.post("/api/rules/mr/test", params={"days": 0}).status_code == 400


def test_deliveries_are_told_in_numbers_and_words_and_can_be_ordered(
    served: Served, client: httpx.Client
) -> None:
    served.parts.forwarding.put(TESTER, Rule("all", "PACS", Trigger.RECEIVED))
    study = make.uid("delivered")
    for made in make.study(3, study_instance_uid=study):
        served.archive.store(make.SCANNER, make.incoming(made))
    served.parts.forwarding.sweep()
    served.parts.peers.note("PACS", "nobody listens at that port")
    told = client.get("/api/deliveries", params={"peer": "PACS", "state": "waiting"}).json()
    (one,) = told["deliveries"]
    assert (one["peer"], one["study_instance_uid"], one["waiting"]) == ("PACS", study, 3)
    assert (one["state"], told["cursor"]) == ("waiting", None)
    (peer,) = told["peers"]
    assert (peer["waiting"], peer["delivered"], peer["failed"]) == (3, 0, 0)
    assert peer["last_error"] == "nobody listens at that port"
    cancelled = client.post(f"/api/deliveries/{one['id']}/cancel")
    assert cancelled.json() == {"deliveries": 1}
    assert client.get("/api/deliveries").json()["deliveries"][0]["state"] == "cancelled"
    assert client.post("/api/deliveries/retry", params={"peer": "PACS"}).json() == {"deliveries": 1}
    (again,) = client.get("/api/deliveries").json()["deliveries"]
    assert (again["state"], again["waiting"]) == ("waiting", 3)
    assert client.post("/api/deliveries/cancel", params={"peer": "PACS"}).json()["deliveries"] == 1
    assert client.get("/api/deliveries", params={"state": "lost"}).status_code == 400
    assert client.post("/api/deliveries/retry").status_code == 400
