"""A request's head is bounded in bytes and in time, and ordinary requests are none the wiser."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from tests.story.running import wait_for
from web import http1
from web.http1 import BoundedHead

LOOPBACK: Final = "127.0.0.1"


async def _echo(scope: Scope, receive: Receive, send: Send) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["method"].encode() + body})


@pytest.fixture
def port() -> Iterator[int]:
    """A server of the protocol alone."""
    config = uvicorn.Config(_echo, http=BoundedHead, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server((LOOPBACK, 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    wait_for("the server", lambda: server.started)
    yield listening.getsockname()[1]
    server.should_exit = True
    thread.join()


def _connected(port: int) -> closing[socket.socket]:
    return closing(socket.create_connection((LOOPBACK, port), timeout=20))


def _answer(caller: socket.socket) -> bytes:
    found = b""
    while piece := caller.recv(65_536):
        found += piece
    return found


def test_requests_follow_each_other_on_one_connection(port: int) -> None:
    with httpx.Client(base_url=f"http://{LOOPBACK}:{port}") as client:
        for number in range(3):
            body = bytes([65 + number]) * 200_000
            assert (
                client.post("/", content=body, headers={"X": "y" * 1000}).content == b"POST" + body
            )
            assert client.get("/").content == b"GET"


@pytest.mark.parametrize(
    "endless",
    [b"GET /" + b"a" * (1 << 20), b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20)],
    ids=["request line", "header"],
)
def test_a_head_without_end_is_refused(port: int, endless: bytes) -> None:
    with _connected(port) as caller:
        try:
            caller.sendall(endless)
            assert _answer(caller).startswith(b"HTTP/1.1 400 ")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the door was closed while we were still talking


def test_many_headers_are_one_head(port: int) -> None:
    with _connected(port) as caller:
        try:
            caller.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000)
            assert _answer(caller).startswith(b"HTTP/1.1 400 ")
        except (BrokenPipeError, ConnectionResetError):
            pass  # the door was closed while we were still talking


def test_a_head_that_never_ends_is_closed_in_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "HEAD_S_MAX", 0.2)
    with _connected(port) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        assert _answer(caller) == b""


def test_a_slow_body_is_not_a_slow_head(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1, "HEAD_S_MAX", 0.2)
    is_late = threading.Event()
    with _connected(port) as caller:
        caller.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\na"
        )
        is_late.wait(0.5)
        caller.sendall(b"b")
        assert b"POSTab" in _answer(caller)
