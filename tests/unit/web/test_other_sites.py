"""A page of another site, open in the browser of somebody who may do everything here."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from starlette.requests import HTTPConnection

from pacs.peers import Peer, Right
from tests.unit.web.node import TESTER, Served, serving
from web.dicomweb.origin import names_us, networks

ORDER = "/api/deliveries/cancel?peer=PACS"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("node")) as started:
        rights = frozenset({Right.RECEIVE})
        started.parts.peers.put(TESTER, Peer("PACS", "192.0.2.9", 104, rights=rights))
        yield started


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ORDER, b""),
        ("/dicom-web/extendedquerytags", b'[{"Path": "00181030", "Level": "Series"}]'),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    served: Served, headers: dict[str, str], path: str, body: bytes
) -> None:
    given = {"Content-Type": "text/plain", **headers}  # which browsers send without asking first

    answer = served.client.post(path, content=body, headers=given)

    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert served.client.get("/dicom-web/extendedquerytags").json() == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}], ids=str
)
def test_our_own_pages_and_programs_may(served: Served, headers: dict[str, str]) -> None:
    assert served.client.post(ORDER, headers=headers).status_code == 200


def test_our_own_page_is_known_by_its_origin(served: Served) -> None:
    assert served.client.post(ORDER, headers={"Origin": served.url}).status_code == 200


def test_a_link_on_another_site_may_lead_here(served: Served) -> None:
    answer = served.client.get("/dicom-web/studies", headers={"Sec-Fetch-Site": "cross-site"})

    assert answer.status_code == 204


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "["]
)
@pytest.mark.parametrize("path", ["/", "/dicom-web/studies", "/api/peers", "/nowhere"])
def test_a_name_that_is_not_ours_is_not_answered(served: Served, name: str, path: str) -> None:
    answer = served.client.get(path, headers={"Host": name})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "name", ["localhost", "LOCALHOST:8080", "pacs.localhost", "127.0.0.1", "[::1]:80", "192.0.2.7"]
)
def test_addresses_and_this_machine_are_answered(served: Served, name: str) -> None:
    assert served.client.get("/livez", headers={"Host": name}).is_success


def test_the_names_of_the_settings_and_of_trusted_proxies_are_answered() -> None:
    hosts = frozenset({"pacs.example"})

    def asked(name: str, client: str = "192.0.2.1") -> HTTPConnection:
        headers = [(b"host", name.encode())] if name else []
        return HTTPConnection({"type": "http", "headers": headers, "client": (client, 1)})

    assert names_us(asked("PACS.example:443"), hosts, ())
    assert names_us(asked("pacs.example."), hosts, ())
    assert names_us(asked(""), hosts, ())
    assert not names_us(asked("other.example"), hosts, ())
    assert names_us(asked("other.example", "10.0.0.7"), hosts, networks("10.0.0.7"))


def test_a_socket_for_another_name_is_not_opened(served: Served) -> None:
    asked = (
        "GET /dicom-web/ws/subscribers/X HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: c2l4dGVlbiBieXRlcyE9PQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n"
    )
    where = served.client.base_url
    for name, answer in (("evil.example", b"HTTP/1.1 403 "), ("localhost", b"HTTP/1.1 101 ")):
        with socket.create_connection((where.host, where.port or 80), timeout=20) as caller:
            caller.sendall(asked.format(name).encode())
            assert caller.recv(13) == answer
