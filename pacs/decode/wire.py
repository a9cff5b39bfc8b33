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

MEMORY: Final = "memory"  # why a request has no frames: no more memory may be had ...
REFUSED: Final = "refused"  # ... or the frames are broken, and the child is fine

_LENGTH: Final = struct.Struct(">I")


class Garbled(Exception):
    """The other side sent something that is no message, or stopped in the middle of one."""


def send(
    connection: socket.socket, head: Mapping[str, object], parts: Sequence[bytes | memoryview] = ()
) -> None:
    """Send one message. The socket's own timeout bounds each part."""
    whole = {**head, "sizes_bytes": [len(part) for part in parts]}
    text = json.dumps(whole).encode()
    connection.sendall(_LENGTH.pack(len(text)) + text)
    for part in parts:
        connection.sendall(part)


def receive(
    connection: socket.socket, *, parts_bytes_max: int, deadline: float | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Receive one message. Raises Garbled, EOFError before its first byte, TimeoutError.

    `deadline` is a moment of `time.monotonic`; None waits for ever.
    """
    (size_bytes,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size, deadline, may_end=True))
    if size_bytes > HEAD_BYTES_MAX:
        raise Garbled
    try:
        head = json.loads(_exactly(connection, size_bytes, deadline))
        sizes = [int(size) for size in head["sizes_bytes"]]
    except (ValueError, TypeError, KeyError) as error:
        raise Garbled from error
    if any(size < 0 for size in sizes) or sum(sizes) > parts_bytes_max:
        raise Garbled
    return head, [_exactly(connection, size, deadline) for size in sizes]


def _exactly(
    connection: socket.socket, size_bytes: int, deadline: float | None, *, may_end: bool = False
) -> bytes:
    received = bytearray(size_bytes)
    view = memoryview(received)
    at = 0
    while at < size_bytes:
        connection.settimeout(_left(deadline))
        count = connection.recv_into(view[at:])
        if not count:
            raise EOFError if may_end and not at else Garbled
        at += count
    view.release()
    return bytes(received)


def _left(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
