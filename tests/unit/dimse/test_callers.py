"""What the receiver lets each caller do, and what it notes of the peers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pacs.dimse import scu
from pacs.dimse.scp import Receiver
from pacs.errors import Unreachable
from pacs.peers import Peer, Peers, Right
from tests import make
from tests.unit.dimse.scanner import OPERATOR, Node, Scanner, instance, node

REJECTED, ABORT = 3, 7


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as started:
        yield started


def stored(port: int, calling: str) -> int:
    """The status that a caller gets for an instance."""
    data_set = instance()
    with Scanner(port) as scanner:
        scanner.associate(calling=calling)
        reply = scanner.store(make.data_set_bytes(data_set), data_set.SOPInstanceUID)
        scanner.release()
    return reply.status


def test_an_unknown_caller_may_store_by_default(running: Node) -> None:
    assert stored(running.port, "STRANGER") == 0x0000


def test_a_peer_without_the_right_to_store_is_told_so(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("VIEWER", "127.0.0.1", 104, rights=frozenset({Right.QUERY})))
    assert stored(running.port, "VIEWER") == 0x0124


def test_a_listed_title_from_another_host_is_rejected(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("CT", "192.0.2.1", 104, rights=frozenset(Right)))
    with Scanner(running.port) as scanner:
        kind, body = scanner.associate(calling="CT")
    assert (kind, tuple(body[1:])) == (REJECTED, (1, 1, 3))


def test_unknown_callers_are_rejected_where_the_setting_says_so(running: Node) -> None:
    strict = Peers(running.archive.index, unknown_callers="refuse")
    receiver = Receiver(running.archive, strict, port=0)
    receiver.start()
    try:
        with Scanner(receiver.port) as scanner:
            kind, body = scanner.associate(calling="STRANGER")
        assert (kind, tuple(body[1:])) == (REJECTED, (1, 1, 3))
        assert stored(receiver.port, "SCANNER") == 0x0000
    finally:
        receiver.stop()


def test_a_caller_that_cannot_be_recognised_now_is_asked_to_come_back(
    running: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unreachable("the index does not answer")

    monkeypatch.setattr(running.peers, "_find", away)
    with Scanner(running.port) as scanner:
        kind, body = scanner.associate()
    assert (kind, tuple(body[1:])) == (REJECTED, (2, 3, 1))


def test_an_association_is_noted_at_the_peer(running: Node) -> None:
    assert running.peers.get("SCANNER").last_association_at is None
    assert stored(running.port, "SCANNER") == 0x0000
    heard = running.peers.get("SCANNER")
    assert heard.last_association_at is not None
    assert heard.last_error == ""


def test_what_ended_an_association_is_noted_in_plain_words(running: Node) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
        scanner.pdu(9, b"")
        assert scanner.answer()[0] == ABORT
    assert error_of(running, "SCANNER") == "it broke the protocol: unknown PDU type"


def test_a_line_that_breaks_is_noted(running: Node) -> None:
    with Scanner(running.port) as scanner:
        scanner.associate()
    # It may still be called a negotiation when the caller is gone at once.
    assert error_of(running, "SCANNER").startswith("the line broke")


def error_of(running: Node, ae_title: str) -> str:
    """The error noted at a peer, within a moment: an association ends in a thread of its own."""
    until = time.monotonic() + 5
    while not (error := running.peers.get(ae_title).last_error) and time.monotonic() < until:
        time.sleep(0.01)
    return error


def echoed(port: int, *, called: str = "ISOCENTER", calling: str = "SCANNER") -> str:
    """Why a C-ECHO is not answered; empty if it is."""
    try:
        scu.echo(scu.Peer("127.0.0.1", port, called, calling))
    except Unreachable as error:
        return error.message
    return ""


def test_an_echo_is_answered(running: Node) -> None:
    assert echoed(running.port) == ""
    assert echoed(running.port, calling="STRANGER") == ""


def test_an_echo_says_in_plain_words_why_it_is_not_answered(running: Node) -> None:
    running.peers.put(OPERATOR, Peer("CT", "192.0.2.1", 104))
    assert echoed(running.port, called="OTHER") == "refused: it is not called by this AE title"
    assert echoed(running.port, calling="CT") == "refused: it does not know our AE title"
