"""The few PDUs that the load generator and the bare receiver exchange (PS3.8 9.3)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Final, Protocol

from pacs.dimse.messages import ASSOCIATE_AC, ASSOCIATE_RQ, P_DATA, PDV_HEADER_BYTES
from pacs.errors import Unreachable

PDU_HEADER: Final = struct.Struct(">BxI")  # type, length
PDV_HEADER: Final = struct.Struct(">IBB")  # length, context, message control header
PDU_BYTES_MAX: Final = 131_072  # offered by both sides; longer PDUs are not sent

APPLICATION_CONTEXT_ITEM, REQUESTED_ITEM, ACCEPTED_ITEM = 0x10, 0x20, 0x21
ABSTRACT_ITEM, TRANSFER_ITEM, USER_ITEM, LENGTH_ITEM, CLASS_ITEM = 0x30, 0x40, 0x50, 0x51, 0x52
FIXED_BYTES: Final = 68  # of an A-ASSOCIATE before its items, both AE titles among them

APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"  # PS3.7 A.2.1
IMPLEMENTATION_CLASS_UID: Final = b"2.25.239748511829402118305613408263910412439"

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None)  # Linux alone has it


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to size bytes; fewer only where the connection ends."""


def acknowledge_at_once(connection: socket.socket) -> None:
    """Acknowledge what has come without the usual delay. The kernel forgets this after a while."""
    if _QUICKACK is not None:
        connection.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def read_pdu(stream: Stream) -> tuple[int, bytes]:
    """The next PDU: its type and its body. Raises Unreachable where the peer is gone."""
    kind, length = PDU_HEADER.unpack(read_exactly(stream, PDU_HEADER.size))
    return kind, read_exactly(stream, length)


def read_exactly(stream: Stream, size: int) -> bytes:
    """So many bytes. Raises Unreachable where the peer is gone."""
    found = stream.read(size)
    if len(found) < size:
        raise Unreachable("the peer closed the connection")
    return found


def pdu(kind: int, body: bytes) -> bytes:
    """A PDU of any type."""
    return PDU_HEADER.pack(kind, len(body)) + body


def p_data(context_id: int, control: int, fragment: bytes | memoryview) -> bytes:
    """A P-DATA-TF with one presentation data value."""
    head = PDV_HEADER.pack(len(fragment) + 2, context_id, control)
    return PDU_HEADER.pack(P_DATA, len(head) + len(fragment)) + head + fragment


def fragments(data_set: bytes) -> Iterator[tuple[memoryview, bool]]:
    """A data set cut to the length of a PDU; whether each is the last."""
    step, view = PDU_BYTES_MAX - PDV_HEADER_BYTES, memoryview(data_set)
    for start in range(0, len(view), step):
        yield view[start : start + step], start + step >= len(view)


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def _items(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of every item."""
    at = 0
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        at += 4 + length
        yield kind, body[at - length : at]


def _user_information() -> bytes:
    length = _item(LENGTH_ITEM, struct.pack(">I", PDU_BYTES_MAX))
    return _item(USER_ITEM, length + _item(CLASS_ITEM, IMPLEMENTATION_CLASS_UID))


def associate_request(called: str, calling: str, sop_class: str, transfer_syntax: str) -> bytes:
    """An A-ASSOCIATE-RQ that proposes one presentation context, number 1."""
    titles = called.encode().ljust(16) + calling.encode().ljust(16)
    syntaxes = _item(ABSTRACT_ITEM, sop_class.encode())
    syntaxes += _item(TRANSFER_ITEM, transfer_syntax.encode())
    body = struct.pack(">Hxx", 1) + titles + bytes(32)
    body += _item(APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT)
    body += _item(REQUESTED_ITEM, struct.pack(">Bxxx", 1) + syntaxes) + _user_information()
    return pdu(ASSOCIATE_RQ, body)


def associate_accept(request: bytes) -> bytes:
    """The A-ASSOCIATE-AC for a request's body: every context, with its first transfer syntax."""
    body = request[:FIXED_BYTES] + _item(APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT)
    for kind, value in _items(request[FIXED_BYTES:]):
        if kind == REQUESTED_ITEM:
            first = next(inner for kind, inner in _items(value[4:]) if kind == TRANSFER_ITEM)
            body += _item(ACCEPTED_ITEM, value[:1] + bytes(3) + _item(TRANSFER_ITEM, first))
    return pdu(ASSOCIATE_AC, body + _user_information())


def accepts(body: bytes) -> bool:
    """Whether an A-ASSOCIATE-AC accepts every presentation context (PS3.8 9.3.3.2)."""
    return not any(v[2] for kind, v in _items(body[FIXED_BYTES:]) if kind == ACCEPTED_ITEM)
