"""What travels inside a protocol data unit: PDVs, command sets, and how long each may be.

Everything a peer sends before we believe it passes through here. The functions are pure, take bytes
and raise `Refused` with the rule that was broken; the upper layer turns that into an A-ABORT. A
command set is Implicit VR Little Endian with a handful of short elements (PS3.7 6.3), so it is read
and written here without building a pydicom data set: that alone costs more than all else that is
done for one instance.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pacs.errors import Refused
from pacs.store.spool import Spool

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

SHORT_PDU_BYTES_MAX: Final = 64  # rejections, releases and aborts have 4 bytes; longer: A-ABORT
ASSOCIATE_ITEMS_MAX: Final = 4096  # items and sub-items of an A-ASSOCIATE; more: A-ABORT
COMMAND_BYTES_MAX: Final = 1 << 16  # a longer command set: A-ABORT
ANSWER_BYTES_MAX: Final = 1 << 20  # of the identifier of a response to us; a longer one: A-ABORT
OTHER_BYTES_MAX: Final = 32 << 20  # of a data set that is not to be stored; a longer one: A-ABORT
CONTEXTS_MAX: Final = 128  # odd numbers from 1 to 255 (PS3.8 9.3.2.2)

COMMAND, LAST = 1, 2  # bits of the message control header (PS3.8 E.2)
PDV_HEADER_BYTES: Final = 6  # of each value, and counted in the maximum length (PS3.8 D.1)
NO_DATA_SET: Final = 0x0101  # (0000,0800) of a message without a data set
WITH_DATA_SET: Final = 0x0001  # and of one with it: anything else
MEDIUM: Final = 0x0000  # (0000,0700)

# Elements of group 0000 (PS3.7 E.1).
GROUP_LENGTH, AFFECTED_CLASS, COMMAND_FIELD = 0x0000, 0x0002, 0x0100
MESSAGE_ID, RESPONDED_TO, PRIORITY, DATA_SET_TYPE = 0x0110, 0x0120, 0x0700, 0x0800
STATUS, ERROR_COMMENT, AFFECTED_INSTANCE, EVENT_TYPE = 0x0900, 0x0902, 0x1000, 0x1002
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
MOVE_ORIGINATOR, MOVE_ORIGINATOR_MESSAGE_ID = 0x1030, 0x1031
MOVE_DESTINATION: Final = 0x0600

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
C_FIND_RQ, C_GET_RQ, C_MOVE_RQ = 0x0020, 0x0010, 0x0021
N_EVENT_REPORT_RQ = 0x0100
C_FIND_RSP, C_GET_RSP, C_MOVE_RSP = 0x8020, 0x8010, 0x8021
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000  # what a response's Command Field adds to that of its request

COUNT_MAX: Final = 0xFFFF  # sub-operations are counted in 16 bits (PS3.7 9.3.4); more: this number

_ITEM: Final = struct.Struct(">BxH")  # an item of A-ASSOCIATE (PS3.8 9.3.2)
_NESTED: Final = {0x20: 4, 0x21: 4, 0x50: 0}  # items with sub-items -> bytes before the first one
_PDV: Final = struct.Struct(">IBB")  # length, context, message control header (PS3.8 9.3.5.1, E.2)
_DATA_PDU: Final = struct.Struct(">BxIIBB")  # type and length of a PDU, and its value's header
_ELEMENT: Final = struct.Struct("<HHI")


def length_max(kind: int, *, associate_bytes_max: int, data_bytes_max: int) -> int:
    """The longest PDU of a kind that is read. Raises Refused for a kind PS3.8 does not know."""
    if kind in (ASSOCIATE_RQ, ASSOCIATE_AC):
        return associate_bytes_max
    if kind == P_DATA:
        return data_bytes_max
    if ASSOCIATE_RJ <= kind <= ABORT:
        return SHORT_PDU_BYTES_MAX
    raise Refused("unknown PDU type", kind=kind)


def check_associate(body: memoryview) -> None:
    """Refuse an A-ASSOCIATE with more items than any honest one has, before they are built.

    A mebibyte of empty items would otherwise become a quarter of a million objects.
    """
    items = 0
    for kind, value in _items(body[68:]):
        items += 1
        if kind in _NESTED:
            items += sum(1 for _ in _items(value[_NESTED[kind] :]))
        if items > ASSOCIATE_ITEMS_MAX:
            raise Refused("too many items in an A-ASSOCIATE", items_max=ASSOCIATE_ITEMS_MAX)


def _items(body: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    while at + _ITEM.size <= len(body):
        kind, length = _ITEM.unpack_from(body, at)
        at += _ITEM.size + length
        yield kind, body[at - length : at]


class Pdv(NamedTuple):
    """One presentation data value: a fragment of a command set or of a data set (PS3.8 E.1)."""

    context_id: int
    control: int
    fragment: memoryview

    @property
    def is_command(self) -> bool:
        return bool(self.control & COMMAND)

    @property
    def is_last(self) -> bool:
        return bool(self.control & LAST)


def pdvs(body: memoryview) -> list[Pdv]:
    """The presentation data values of a P-DATA-TF, as views of its body. Raises Refused."""
    found, at = [], 0
    while at < len(body):
        if at + _PDV.size > len(body):
            raise Refused("a presentation data value is cut off")
        length, context_id, control = _PDV.unpack_from(body, at)
        end = at + 4 + length
        if length < 2 or end > len(body):
            raise Refused("a presentation data value has a wrong length", length=length)
        found.append(Pdv(context_id, control, body[at + _PDV.size : end]))
        at = end
    return found


def data_pdus(
    context_id: int, kind: int, view: memoryview, fragment_bytes: int, *, is_last: bool
) -> bytes:
    """Part of a command set (COMMAND) or a data set (0) as P-DATA-TF PDUs of one value each."""
    pieces: list[bytes | memoryview] = []
    for start in range(0, max(1, len(view)), fragment_bytes):
        fragment = view[start : start + fragment_bytes]
        is_end = is_last and start + fragment_bytes >= len(view)
        control = kind | LAST if is_end else kind
        size = len(fragment) + PDV_HEADER_BYTES
        pieces.append(_DATA_PDU.pack(P_DATA, size, size - 4, context_id, control))
        pieces.append(fragment)
    return b"".join(pieces)


def read_command(encoded: bytes) -> dict[int, bytes]:
    """Element -> value of a command set (PS3.7 6.3.1). Raises Refused.

    The two elements that decide how to go on, Command Field and Command Data Set Type, are there
    with their right length; the others are as they came.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(encoded):
        if at + _ELEMENT.size > len(encoded):
            raise Refused("a command set is cut off")
        group, element, length = _ELEMENT.unpack_from(encoded, at)
        at += _ELEMENT.size + length
        if group != 0 or at > len(encoded):
            raise Refused("a command set is malformed", element=element)
        elements[element] = encoded[at - length : at]
    for element in (COMMAND_FIELD, DATA_SET_TYPE):
        if len(elements.get(element, b"")) != 2:
            raise Refused("a command set lacks a mandatory element", element=element)
    return elements


def number(command: Mapping[int, bytes], element: int) -> int | None:
    """The value of a US element, None where it is absent or has a wrong length."""
    value = command.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def uid(command: Mapping[int, bytes], element: int) -> str:
    """The value of a UI element after one trailing NUL or space. Any bytes come back as they were,
    since a response repeats them, valid or not."""
    value = command.get(element, b"")
    return value[: -1 if value[-1:] in (b"\0", b" ") else None].decode("latin-1")


def write_command(elements: Iterable[tuple[int, int | str]]) -> bytes:
    """An encoded command set with its group length; numbers as US, text padded to even length.

    Elements come in ascending order. UIDs are padded with NUL, other text with a space.
    A number that does not fit its 16 bits stays at their end.
    """
    body = b"".join(_element(element, value) for element, value in elements)
    return _ELEMENT.pack(0, GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def _element(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        return _ELEMENT.pack(0, element, 2) + struct.pack("<H", min(value, COUNT_MAX))
    raw = value.encode("latin-1")
    if len(raw) % 2:
        raw += b" " if element in (ERROR_COMMENT, MOVE_ORIGINATOR, MOVE_DESTINATION) else b"\0"
    return _ELEMENT.pack(0, element, len(raw)) + raw


class Counts(NamedTuple):
    """Sub-operations of a retrieval (PS3.4 C.4.2.1.6); `remaining` is None in a final response."""

    remaining: int | None
    completed: int
    failed: int
    warning: int


class Answer(NamedTuple):
    """One response to a C-FIND, C-GET or C-MOVE (PS3.7 9.1.2.1, 9.1.3.1, 9.1.4.1).

    `identifier` is encoded in the transfer syntax of the request's context.
    """

    status: int
    identifier: bytes = b""
    comment: str = ""
    counts: Counts | None = None

    def command(self, field: int, sop_class_uid: str, message_id: int) -> bytes:
        """The command set that answers a message."""
        elements: list[tuple[int, int | str | None]] = [
            (AFFECTED_CLASS, sop_class_uid),
            (COMMAND_FIELD, field),
            (RESPONDED_TO, message_id),
            (DATA_SET_TYPE, WITH_DATA_SET if self.identifier else NO_DATA_SET),
            (STATUS, self.status),
            (ERROR_COMMENT, self.comment or None),
        ]
        if self.counts is not None:
            elements += zip((REMAINING, COMPLETED, FAILED, WARNING), self.counts, strict=True)
        return write_command((tag, value) for tag, value in elements if value is not None)


class Question(NamedTuple):
    """A C-FIND, C-GET or C-MOVE request of ours (PS3.7 9.1.2.1, 9.1.3.1, 9.1.4.1).

    `field` is its Command Field; `identifier` is encoded in the transfer syntax of its context.
    """

    field: int
    sop_class_uid: str
    identifier: bytes
    move_destination: str = ""

    def command(self, message_id: int) -> bytes:
        """The command set that asks it."""
        elements: list[tuple[int, int | str]] = [
            (AFFECTED_CLASS, self.sop_class_uid),
            (COMMAND_FIELD, self.field),
            (MESSAGE_ID, message_id),
            (PRIORITY, MEDIUM),
            (DATA_SET_TYPE, WITH_DATA_SET),
        ]
        if self.move_destination:
            elements.insert(3, (MOVE_DESTINATION, self.move_destination))
        return write_command(elements)


class Reply(NamedTuple):
    """A response to a question of ours, with what it says of its sub-operations."""

    status: int
    comment: str
    counts: Counts
    identifier: bytes


def cancellation(message_id: int) -> bytes:
    """The command set of a C-CANCEL (PS3.7 9.3.2.3)."""
    return write_command(
        [
            (COMMAND_FIELD, C_CANCEL_RQ),
            (RESPONDED_TO, message_id),
            (DATA_SET_TYPE, NO_DATA_SET),
        ]
    )


class Message(NamedTuple):
    """A whole DIMSE message: its command set, raw and read, and its data set if it has one."""

    context_id: int
    encoded: bytes
    command: Mapping[int, bytes]
    data_set: Spool | None


def read_reply(message: Message) -> Reply:
    """A response of a peer. Raises Refused for one without a status or with too long an identifier."""
    status = number(message.command, STATUS)
    if status is None:
        raise Refused("a response has no status")
    identifier = b""
    if message.data_set is not None:
        if message.data_set.size_bytes > ANSWER_BYTES_MAX:
            raise Refused("the identifier of a response is too long", bytes_max=ANSWER_BYTES_MAX)
        identifier = bytes(message.data_set.buffer())
    completed, failed, warning = (
        number(message.command, element) or 0 for element in (COMPLETED, FAILED, WARNING)
    )
    counts = Counts(number(message.command, REMAINING), completed, failed, warning)
    comment = message.command.get(ERROR_COMMENT, b"").decode("ascii", "replace")
    return Reply(status, comment, counts, identifier)


class Assembler:
    """Joins presentation data values to messages (PS3.7 6.3.1, PS3.8 annex E).

    A message is one command set and perhaps one data set, each in fragments that follow one another
    on one presentation context. Anything else is refused: fragments of two messages mixed, a data
    set nobody announced, a command in the middle of a data set.
    """

    def __init__(self, data_set_bytes_max: int, spool: Path | None = None) -> None:
        self._data_set_bytes_max = data_set_bytes_max
        self._spool = spool
        self._data_set: Spool | None = None
        self._forget()

    def _forget(self) -> None:
        self._context_id = 0  # no context has this number: nothing has arrived yet
        self._encoded = bytearray()
        self._command: Mapping[int, bytes] | None = None
        self._data_set = None

    def close(self) -> None:
        """Drop a message that never became whole."""
        if self._data_set is not None:
            self._data_set.close()
        self._forget()

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._context_id != 0

    def add(self, pdv: Pdv) -> Message | None:
        """Take one value; the message it completes, or None. Raises Refused."""
        if self._context_id not in (0, pdv.context_id):
            raise Refused("fragments of two presentation contexts are mixed")
        self._context_id = pdv.context_id
        if pdv.is_command != (self._command is None):
            raise Refused("a command or a data set fragment is out of order")
        return self._add_command(pdv) if pdv.is_command else self._add_data(pdv)

    def _add_command(self, pdv: Pdv) -> Message | None:
        if len(self._encoded) + len(pdv.fragment) > COMMAND_BYTES_MAX:
            raise Refused("a command set is too long", bytes_max=COMMAND_BYTES_MAX)
        self._encoded += pdv.fragment
        if not pdv.is_last:
            return None
        self._command = read_command(bytes(self._encoded))
        if number(self._command, DATA_SET_TYPE) == NO_DATA_SET:
            return self._complete()
        self._data_set = (
            Spool(self._data_set_bytes_max, self._spool)
            if number(self._command, COMMAND_FIELD) == C_STORE_RQ
            else Spool(OTHER_BYTES_MAX, memory_bytes_max=OTHER_BYTES_MAX)
        )
        return None

    def _add_data(self, pdv: Pdv) -> Message | None:
        assert self._data_set is not None, "a command that announces no data set completes at once"
        assert self._command is not None, "a data set follows its command"
        self._data_set.add(pdv.fragment)
        is_long = self._data_set.size_bytes > OTHER_BYTES_MAX
        if is_long and number(self._command, COMMAND_FIELD) != C_STORE_RQ:
            raise Refused("a data set is too long", bytes_max=OTHER_BYTES_MAX)
        return self._complete() if pdv.is_last else None

    def _complete(self) -> Message:
        assert self._command is not None
        message = Message(self._context_id, bytes(self._encoded), self._command, self._data_set)
        self._forget()
        return message
