"""An archive that speaks DICOM by hand, so that it can also answer wrongly."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from pacs.dimse.identifiers import write_identifier
from pacs.dimse.scu import Peer
from tests.unit.dimse.scanner import command_set, item, padded, read_command_set

FIND_RSP, GET_RSP, MOVE_RSP = 0x8020, 0x8010, 0x8021
PENDING: Final = 0xFF00
SOP_INSTANCE_UID: Final = 0x00080018


class Archive:
    """One association of a hostile archive, after it has read a question."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.classes: dict[int, str] = {}  # context -> SOP class
        self.syntaxes: dict[int, str] = {}  # and the transfer syntax that was accepted
        self.asked: dict[int, bytes] = {}

    @property
    def context_id(self) -> int:
        return 1

    @property
    def message_id(self) -> int:
        return int.from_bytes(self.asked[0x0110], "little")

    def accept(self) -> None:
        """Accept every context with its first syntax, and every role that is asked for."""
        kind, body = self.read()
        assert kind == 1, kind
        made = body[:68] + item(0x10, b"1.2.840.10008.3.1.1.1")
        roles, at = b"", 68
        while at < len(body):
            kind, length = struct.unpack_from(">BxH", body, at)
            value = body[at + 4 : at + 4 + length]
            if kind == 0x20:
                made += self._accepted(value)
            elif kind == 0x50:
                roles = b"".join(item(0x54, role) for role in _items(value, 0x54))
            at += 4 + length
        user = item(0x51, struct.pack(">I", 131_072)) + item(0x52, b"1.2.3") + roles
        self.pdu(2, made + item(0x50, user))

    def _accepted(self, proposed: bytes) -> bytes:
        number = proposed[0]
        self.classes[number] = _items(proposed[4:], 0x30)[0].decode()
        self.syntaxes[number] = _items(proposed[4:], 0x40)[0].decode()
        return item(0x21, bytes((number, 0, 0, 0)) + item(0x40, self.syntaxes[number].encode()))

    def hear(self) -> bool:
        """Read a whole question; False where the other side says goodbye instead."""
        while True:
            kind, body = self.read()
            if kind == 5:
                self.pdu(6, bytes(4))
            if kind != 4:
                return False
            if body[5] & 1:
                self.asked = read_command_set(body[6:])
            elif body[5] & 2:
                return True

    def read(self) -> tuple[int, bytes]:
        kind, length = struct.unpack(">BxI", self._exactly(6))
        return kind, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            piece = self.socket.recv(size - len(got))
            if not piece:
                raise ConnectionError
            got += piece
        return got

    def pdu(self, kind: int, body: bytes) -> None:
        self.socket.sendall(struct.pack(">BxI", kind, len(body)) + body)

    def value(self, context_id: int, control: int, fragment: bytes) -> None:
        for start in range(0, max(1, len(fragment)), 100_000):
            piece = fragment[start : start + 100_000]
            last = control if start + 100_000 >= len(fragment) else control & ~2
            self.pdu(4, struct.pack(">IBB", len(piece) + 2, context_id, last) + piece)

    def reply(
        self,
        field: int,
        status: int | None,
        identifier: bytes = b"",
        *,
        message_id: int | None = None,
        counts: tuple[int, int, int, int] | None = None,
    ) -> None:
        """Answer the question that was heard."""
        number = self.message_id if message_id is None else message_id
        elements = [
            (0x0002, padded(self.classes[self.context_id])),
            (0x0100, struct.pack("<H", field)),
            (0x0120, struct.pack("<H", number)),
            (0x0800, b"\1\0" if identifier else b"\1\1"),
        ]
        if status is not None:
            elements.append((0x0900, struct.pack("<H", status)))
        for element, count in zip((0x1020, 0x1021, 0x1022, 0x1023), counts or (), strict=False):
            elements.append((element, struct.pack("<H", count)))
        self.value(self.context_id, 3, command_set(elements))
        if identifier:
            self.value(self.context_id, 2, identifier)

    def match(self, uid: str = "1.2.3", *, message_id: int | None = None) -> None:
        """Answer with one row."""
        identifier = write_identifier([(SOP_INSTANCE_UID, "UI", uid)], self.syntaxes[1])
        self.reply(FIND_RSP, PENDING, identifier, message_id=message_id)

    def store(self, data_set: bytes, uid: str, sop_class_uid: str, context_id: int = 0) -> int:
        """Send an instance; the status of the answer."""
        number = context_id or next(n for n, c in self.classes.items() if c == sop_class_uid)
        self.value(
            number,
            3,
            command_set(
                [
                    (0x0002, padded(sop_class_uid)),
                    (0x0100, b"\1\0"),
                    (0x0110, b"\7\0"),
                    (0x0700, b"\0\0"),
                    (0x0800, b"\1\0"),
                    (0x1000, padded(uid)),
                ]
            ),
        )
        self.value(number, 2, data_set)
        kind, body = self.read()
        if kind != 4:
            raise ConnectionError
        return int.from_bytes(read_command_set(body[6:])[0x0900], "little")


def _items(body: bytes, wanted: int) -> list[bytes]:
    found, at = [], 0
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        if kind == wanted:
            found.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return found


Script = Callable[[Archive], None]


@contextmanager
def archive(*scripts: Script) -> Iterator[Peer]:
    """A peer that plays a script for each question; beyond the last one it plays that again."""
    heard = iter(range(1_000))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError, OSError):
            made = Archive(connection)
            made.accept()
            while made.hear():
                scripts[min(next(heard), len(scripts) - 1)](made)

    def listen() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.settimeout(20)
                thread = threading.Thread(target=serve, args=(connection,))
                threads.append(thread)
                thread.start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = threading.Thread(target=listen)
        listener.start()
        try:
            yield Peer("127.0.0.1", int(server.getsockname()[1]))
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            listener.join()
            for thread in threads:
                thread.join()
