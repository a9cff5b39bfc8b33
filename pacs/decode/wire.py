"""Messages between the pool and its children: a JSON head and some byte strings.

Nothing is ever unpickled. A message is the length of its head (4 bytes, big endian), the head,
and the byte strings one after another; the head's "sizes_bytes" tells where each ends. The pool
does not trust a child that has read hostile bytes: it says how much it is ready to receive.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

HEAD_BYTES_MAX: Final = (
    1 << 24
)  # room for the sizes of a million frames; a longer head is no message

READ_AHEAD_BYTES: Final = 1 << 16  # a longer part is read by itself
JOINED_BYTES_MAX: Final = 1 << 16  # a longer part is sent by itself, and not copied

MEMORY: Final = "memory"  # why a request has no frames: no more memory may be had ...
REFUSED: Final = "refused"  # ... or the frames are broken, and the child is fine

_LENGTH: Final = struct.Struct(">I")


class Garbled(Exception):
    """The other side sent something that is no message, or stopped in the middle of one."""


def send(
    connection: socket.socket, head: Mapping[str, object], parts: Sequence[bytes | memoryview] = ()
) -> None:
    """Send one message, short parts together. The socket's own timeout bounds each piece."""
    whole = {**head, "sizes_bytes": [len(part) for part in parts]}
    text = json.dumps(whole).encode()
    waiting: list[bytes | memoryview] = [_LENGTH.pack(len(text)), text]
    for part in parts:
        if len(part) > JOINED_BYTES_MAX:
            connection.sendall(b"".join(waiting))
            connection.sendall(part)
            waiting = []
        else:
            waiting.append(part)
    connection.sendall(b"".join(waiting))


def receive(
    reader: Reader, *, parts_bytes_max: int, deadline: float | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Receive one message. Raises Garbled, EOFError before its first byte, TimeoutError.

    `deadline` is a moment of `time.monotonic`; None waits for ever.
    """
    reader.deadline = deadline
    (size_bytes,) = _LENGTH.unpack(reader.take(_LENGTH.size, may_end=True))
    if size_bytes > HEAD_BYTES_MAX:
        raise Garbled
    try:
        head = json.loads(reader.take(size_bytes))
        sizes = [int(size) for size in head["sizes_bytes"]]
    except (ValueError, TypeError, KeyError) as error:
        raise Garbled from error
    if any(size < 0 for size in sizes) or sum(sizes) > parts_bytes_max:
        raise Garbled
    return head, [reader.take(size) for size in sizes]


class Reader:
    """The bytes that come from the other side. Short pieces are read ahead, as every read costs."""

    def __init__(self, connection: socket.socket) -> None:
        self.deadline: float | None = None
        self._connection = connection
        self._ahead = bytearray()

    def take(self, size_bytes: int, *, may_end: bool = False) -> bytes:
        """Exactly so many bytes. Raises as `receive` does."""
        if size_bytes > READ_AHEAD_BYTES:
            return self._long(size_bytes)
        while len(self._ahead) < size_bytes:
            self._connection.settimeout(_left(self.deadline))
            found = self._connection.recv(READ_AHEAD_BYTES)
            if not found:
                raise EOFError if may_end and not self._ahead else Garbled
            self._ahead += found
        taken = bytes(self._ahead[:size_bytes])
        del self._ahead[:size_bytes]
        return taken

    @property
    def has_more(self) -> bool:
        """Whether more has come than was taken."""
        return bool(self._ahead)

    def _long(self, size_bytes: int) -> bytes:
        """A long part is read to where it stays."""
        at = min(len(self._ahead), size_bytes)
        received = bytearray(size_bytes)
        received[:at] = self._ahead[:at]
        del self._ahead[:at]
        with memoryview(received) as view:
            while at < size_bytes:
                self._connection.settimeout(_left(self.deadline))
                count = self._connection.recv_into(view[at:])
                if not count:
                    raise Garbled
                at += count
        return bytes(received)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
