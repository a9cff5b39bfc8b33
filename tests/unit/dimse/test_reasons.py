"""Why a peer could not be reached, as its operator reads it."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pacs.dimse import reasons, scu
from pacs.errors import Unreachable


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, ""), "nobody listens at that port"),
        (TimeoutError(), "its host does not answer"),
        (OSError(errno.ETIMEDOUT, ""), "its host does not answer"),
        (OSError(errno.EHOSTUNREACH, ""), "its host cannot be reached from here"),
        (ConnectionResetError(errno.ECONNRESET, ""), "the line broke during negotiation"),
        (OSError(), "the connection failed"),
    ],
)
def test_a_connection_that_fails_is_told_in_words(error: OSError, words: str) -> None:
    assert reasons.of_connection(error) == words


@pytest.mark.parametrize(
    ("source", "diagnostic", "words"),
    [
        (1, 3, "refused: it does not know our AE title"),
        (1, 7, "refused: it is not called by this AE title"),
        (3, 2, "refused: it has as many associations as it takes"),
        (9, 9, "refused: it gives a reason of its own"),
    ],
)
def test_a_rejection_is_told_in_words(source: int, diagnostic: int, words: str) -> None:
    assert reasons.of_rejection(source, diagnostic) == words


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """A port that gives one caller an answer, after it has read its request, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(65_536)
                answer(caller)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "the line broke during negotiation"),
        (b"\7\0\0\0\0\4\0\0\0\0", "it aborted the association"),
        (b"\3\0\0\0\0\4\0\1\1\3", "refused: it does not know our AE title"),
        (b"\3\0\0\0\0\4\0\2\3\1", "refused: it is busy"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it broke the protocol: unknown PDU type"),
        (struct.pack(">BxI", 2, 1 << 30), "it broke the protocol: a PDU is too long"),
    ],
)
def test_whatever_answers_instead_of_a_peer_is_told_in_words(answer: bytes, words: str) -> None:
    with (
        listening(lambda caller: caller.sendall(answer)) as port,
        pytest.raises(Unreachable, match=words),
    ):
        scu.echo(scu.Peer("127.0.0.1", port))
