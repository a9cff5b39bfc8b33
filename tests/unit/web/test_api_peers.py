"""`/api/peers`: peers are entered, changed, asked and removed."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.unit.web.node import Served, serving

BODY = {"host": "127.0.0.1", "port": 104, "tls": True, "rights": ["store", "query"]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        yield started


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    yield served.client
    for peer in served.client.get("/api/peers").json()["peers"]:
        served.client.delete(f"/api/peers/{peer['ae_title']}")


def test_a_peer_is_made_then_changed_then_removed(client: httpx.Client) -> None:
    made = client.put("/api/peers/CT1", json=BODY)
    assert made.status_code == 201
    assert made.json() == {
        "ae_title": "CT1",
        **BODY,
        "rights": ["query", "store"],
        "last_association_at": None,
        "last_error": "",
        "last_error_at": None,
    }
    changed = client.put("/api/peers/CT1", json={"host": "*"})
    assert (changed.status_code, changed.json()["rights"]) == (200, [])
    assert client.get("/api/peers/CT1").json() == changed.json()
    assert client.get("/api/peers").json() == {"peers": [changed.json()]}
    assert client.delete("/api/peers/CT1").status_code == 204
    assert client.get("/api/peers").json() == {"peers": []}


@pytest.mark.parametrize("ae_title", ["A B", "A/B", "echo", "A/echo"])
def test_any_ae_title_is_a_path(client: httpx.Client, ae_title: str) -> None:
    assert client.put(f"/api/peers/{ae_title}", json=BODY).status_code == 201
    assert client.get(f"/api/peers/{ae_title}").json()["ae_title"] == ae_title
    assert client.post(f"/api/peers/{ae_title}/echo").status_code == 200
    assert client.delete(f"/api/peers/{ae_title}").status_code == 204


@pytest.mark.parametrize(
    "answer",
    [
        ("GET", "/api/peers/OTHER"),
        ("DELETE", "/api/peers/OTHER"),
        ("POST", "/api/peers/OTHER/echo"),
    ],
)
def test_a_peer_that_is_not_there_is_not_found(
    client: httpx.Client, answer: tuple[str, str]
) -> None:
    refused = client.request(*answer)
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "change",
    [
        {"host": "two words"},
        {"port": 0},
        {"port": "many"},
        {"rights": ["delete"]},
        {"host": "*", "rights": ["receive"]},
        {"host": None},
    ],
)
def test_what_cannot_be_a_peer_is_a_bad_request(
    client: httpx.Client, change: dict[str, object]
) -> None:
    refused = client.put("/api/peers/CT1", json={**BODY, **change})
    assert refused.status_code == 400
    assert client.get("/api/peers").json() == {"peers": []}


def test_an_echo_that_is_not_answered_says_why(client: httpx.Client) -> None:
    client.put("/api/peers/CT1", json=BODY)
    told = client.post("/api/peers/CT1/echo").json()
    assert told["answered"] is False
    assert told["reason"] == "nobody listens at that port"
    assert told["elapsed_ms"] >= 0
    assert client.get("/api/peers/CT1").json()["last_error"] == told["reason"]


def test_a_peer_without_a_host_cannot_be_asked(client: httpx.Client) -> None:
    client.put("/api/peers/CT1", json={"host": "*"})
    assert client.post("/api/peers/CT1/echo").status_code == 400
