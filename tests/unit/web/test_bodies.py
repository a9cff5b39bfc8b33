"""Bodies that never end, at the routes whose JSON is parsed whole."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.unit.web.node import Served, serving
from web.bodies import BODY_BYTES_MAX
from web.limits import Limits

ROUTES = [
    ("PUT", "/api/peers/PACS"),
    ("PUT", "/api/rules/all"),
    ("POST", "/api/rules/all/test"),
    ("PUT", "/api/worklist"),
    ("PATCH", "/api/worklist/1"),
    ("POST", "/dicom-web/extendedquerytags"),
    ("POST", "/dicom-web/workitems"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = Limits(chunk_wait_s_max=0.1)
    with serving(tmp_path_factory.mktemp("node"), limits=limits) as started:
        yield started


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_long_body_is_refused(served: Served, method: str, path: str) -> None:
    answer = served.client.request(
        method,
        path,
        content=b" " * (BODY_BYTES_MAX + 1),
        headers={"Content-Type": "application/dicom+json"},
    )

    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_body_that_does_not_come_is_given_up(served: Served, method: str, path: str) -> None:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{{"
    address = (served.client.base_url.host, served.client.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as caller:
        caller.sendall(head.encode())
        assert caller.recv(12) == b"HTTP/1.1 408"


def test_who_breaks_off_harms_nobody(served: Served) -> None:
    address = (served.client.base_url.host, served.client.base_url.port or 80)
    with socket.create_connection(address, timeout=10) as caller:
        caller.sendall(
            b"PUT /api/rules/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
        )

    assert served.client.get("/api/rules").json() == {"rules": []}
