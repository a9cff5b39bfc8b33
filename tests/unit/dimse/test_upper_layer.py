"""The contract with pynetdicom: the private members we override are the ones we have read.

If a test here fails after an update, read the changed members, compare them with
`pacs/dimse/upper_layer.py`, run `tests/wire`, and only then write the new digests.
"""

from __future__ import annotations

import hashlib
import inspect
import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynetdicom
import pytest
from pynetdicom import (
    _config,
    acse,
    ae,
    association,
    dimse,
    dimse_messages,
    dul,
    events,
    fsm,
    presentation,
    service_class,
    transport,
)
from pynetdicom.ae import ApplicationEntity

from pacs.dimse import upper_layer

# Member -> the first half-dozen bytes of the SHA-256 of its source.
SOURCES: dict[Callable[..., Any], str] = {
    dul.DULServiceProvider.__init__: "c82dafa9438d",
    dul.DULServiceProvider.run_reactor: "e3a10eb3a093",
    dul.DULServiceProvider.send_pdu: "7cbce5da8594",
    dul.DULServiceProvider.receive_pdu: "fa67339834ca",
    dul.DULServiceProvider.stop_dul: "28a7e0be126e",
    dul.DULServiceProvider._process_recv_primitive: "4c0ebbb3e646",
    dul.DULServiceProvider._read_pdu_data: "19f2d4e38c13",
    dul.DULServiceProvider._send: "a850a7919e68",
    transport.AssociationSocket.__init__: "1f0325fdef2c",
    transport.AssociationSocket.close: "c726c8db5381",
    transport.AssociationSocket.connect: "aeeeae413bd3",
    transport.AssociationSocket.send: "1ea8158c0b51",
    transport.AssociationSocket._shutdown_socket: "e2b2628faa81",
    transport.AssociationServer.__init__: "edacb98bdfb7",
    transport.AssociationServer.shutdown: "e8e2c3a41009",
    transport.RequestHandler.handle: "034823fb4df3",
    transport.RequestHandler._create_association: "05c8d12b7986",
    association.Association.__init__: "eb07516b8009",
    association.Association.abort: "de1cee39dfe3",
    association.Association._abort_blocking: "10b43ef8c63c",
    association.Association.kill: "8f9713666a7f",
    association.Association.release: "c7d713502b77",
    association.Association.request: "928cd0e3013c",
    association.Association.run_reactor: "ed8bbbe3b3d6",
    association.Association._run_reactor: "f28838c5559e",
    association.Association._serve_request: "2f24c1759cdf",
    association.Association._check_received_status: "364c3ae215b5",
    association.Association.send_c_store: "fa5a8127f349",
    ae.ApplicationEntity.associate: "dbc8cf470903",
    dimse.DIMSEServiceProvider.__init__: "bbecd186810e",
    dimse.DIMSEServiceProvider.get_msg: "890e3e04283f",
    dimse.DIMSEServiceProvider.receive_primitive: "5f99c86b14a1",
    dimse.DIMSEServiceProvider.send_msg: "a839cf2fb469",
    dimse_messages.DIMSEMessage.decode_msg: "f51c777e841a",
    dimse_messages.DIMSEMessage.message_to_primitive: "f8f43d34e434",
    service_class.StorageServiceClass.SCP: "63afca7fc6c6",
    service_class.attempt.__exit__: "fd73ef3737fd",
    acse.ACSE._check_sop_class_extended: "159f1a819108",
    presentation.negotiate_as_acceptor: "d5413f08f0ac",
    events.trigger: "b97f8a75e8af",
    acse.ACSE._negotiate_as_acceptor: "fffd360957c4",
    acse.ACSE._negotiate_as_requestor: "507959152c58",
    acse.ACSE.negotiate_release: "e66977c72923",
    acse.ACSE.is_aborted: "ad2eb3f545a9",
    acse.ACSE.is_release_requested: "894b33d21a8d",
    acse.ACSE.send_reject: "700998293bbc",
    fsm.StateMachine.do_action: "9a883f44c7f3",
    fsm.DT_1: "82e5c5d41145",
    fsm.DT_2: "9ec543394e0b",
    fsm.AE_1: "4ba54b0d47fc",
    fsm.AE_2: "80aa98b2cf0c",
    fsm.AE_6: "385d595ed494",
    fsm.AA_1: "8495a4665f7a",
    fsm.AA_2: "a58069d82991",
    fsm.AA_4: "de72d40c80b0",
    fsm.AA_8: "06c83317f088",
    fsm.AR_5: "dc32d2343f42",
}


def digest(member: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(member).encode()).hexdigest()[:12]


def test_the_version_is_the_one_whose_members_are_overridden() -> None:
    assert pynetdicom.__version__ == upper_layer.PYNETDICOM


@pytest.mark.parametrize(
    ("member", "expected"), SOURCES.items(), ids=lambda x: getattr(x, "__qualname__", "")
)
def test_a_private_member_is_as_we_read_it(member: Callable[..., Any], expected: str) -> None:
    assert digest(member) == expected


def test_the_settings_of_the_process_keep_data_sets_out_of_logs() -> None:
    assert _config.LOG_HANDLER_LEVEL == "none"
    assert not _config.LOG_REQUEST_IDENTIFIERS
    assert not _config.LOG_RESPONSE_IDENTIFIERS
    assert not _config.UNRESTRICTED_STORAGE_SERVICE
    assert not _config.STORE_RECV_CHUNKED_DATASET


def test_the_attributes_we_replace_are_there_to_be_replaced() -> None:
    made = association.Association(ApplicationEntity("TEST"), "acceptor")
    assert isinstance(made.dul, dul.DULServiceProvider)
    assert isinstance(made.dimse, dimse.DIMSEServiceProvider)
    assert isinstance(made.dul.event_queue, queue.Queue)
    assert isinstance(made.dul.to_user_queue, queue.Queue)
    assert isinstance(made._reactor_checkpoint, threading.Event)
    assert made._is_paused is False
    assert made._kill is False
    assert made._accepted_cx == {}
    assert made.dimse.cancel_req == {}


@contextmanager
def connected() -> Iterator[tuple[upper_layer.Wire, socket.socket]]:
    """A wire of an acceptor, and the socket at its other end."""
    owner = upper_layer.PeerAssociation(
        ApplicationEntity("TEST"), "acceptor", upper_layer.DimseLimits()
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as far,
    ):
        wire = upper_layer.Wire(owner, client_socket=server.accept()[0])
        assert wire.event_queue.get(False) == "Evt5"
        yield wire, far
        wire.close()


def test_a_pdu_is_read_whole_in_whatever_pieces_it_comes() -> None:
    pdu = b"\4\0\0\0\0\x0a" + bytes(range(10))

    def trickle(far: socket.socket) -> None:
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(pdu)):
            far.send(pdu[at : at + 1])
            time.sleep(0.002)

    with connected() as (wire, far):
        thread = threading.Thread(target=trickle, args=(far,))
        thread.start()
        assert wire.read_pdu(upper_layer.DimseLimits()) == (4, bytearray(pdu))
        thread.join()


def test_the_end_of_a_connection_is_noticed_inside_a_pdu_and_between() -> None:
    for before_the_end in (b"", b"\4\0\0", b"\4\0\0\0\0\x0a123"):
        with connected() as (wire, far):
            far.sendall(before_the_end)
            far.shutdown(socket.SHUT_WR)
            with pytest.raises(EOFError):
                wire.read_pdu(upper_layer.DimseLimits())


def test_a_send_that_nobody_takes_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upper_layer, "SEND_DEADLINE_S", 0.2)
    with connected() as (wire, _):
        wire.send(bytes(50_000_000))
        assert wire.event_queue.get(False) == "Evt17"


def test_a_wait_ends_at_its_moment_or_when_there_is_something() -> None:
    with connected() as (wire, far):
        before = time.monotonic()
        assert not wire.wait(select.POLLIN, before + 0.1)
        assert 0.05 < time.monotonic() - before < 1
        far.shutdown(socket.SHUT_WR)
        assert wire.wait(select.POLLIN, time.monotonic() + 1)
