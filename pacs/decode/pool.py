"""One decoding process as its pool sees it: started, asked, and killed when it must be.

What a child does is bounded from outside as well as from inside: the time of an answer, its length,
and how many requests it serves before it is replaced.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pacs.decode import wire
from pacs.errors import BadObject, Exhausted

REQUESTS_MAX: Final = 2_000  # after so many a child is replaced, so that a codec's leak stays small
SOCKET_BUFFER_BYTES: Final = 1 << 20  # so that most frames are sent without waiting for the child

# What a child gets of our environment: enough to load libraries, none of our secrets.
_ENVIRONMENT: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Overtaxed(Exhausted):
    """One request would take more time or memory than it may have."""


class Child:
    """One decoding process and the socket to it."""

    def __init__(self, request_s_max: float, memory_bytes_max: int) -> None:
        self._socket, theirs = socket.socketpair()
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        with theirs:
            self._process = _started(theirs)
        self._reader = wire.Reader(self._socket)
        self._request_s_max = request_s_max
        self._requests = 0
        self._answered = True
        limits = {"memory_bytes_max": memory_bytes_max, "cpu_s_max": int(request_s_max) + 1}
        wire.send(self._socket, limits)

    @property
    def sound(self) -> bool:
        """Whether this child may have another request."""
        return self._answered and self._requests < REQUESTS_MAX

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def ask(
        self, request: Mapping[str, object], parts: Sequence[bytes], answer_bytes_max: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The head and the parts of the answer to one request.

        Raises BadObject for a request that the child refuses, and for one that ends the child or
        makes it talk nonsense; Exhausted where time or memory runs out. After a refusal the child
        is sound.
        """
        self._requests += 1
        self._answered = False
        answer, answered = self._exchanged(request, parts, answer_bytes_max)
        if answer.get("failed") == wire.MEMORY:
            raise Overtaxed("decoding needs more memory than a decoder may have")
        self._answered = True
        if "failed" in answer:
            raise BadObject(str(answer.get("sentence", "")))
        return answer, answered

    def distrust(self) -> None:
        """Let nobody ask this child again: its answer was wrong."""
        self._answered = False

    def _exchanged(
        self, request: Mapping[str, object], parts: Sequence[bytes], answer_bytes_max: int
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send and receive. A child that dies, hangs or talks nonsense is not asked again."""
        deadline = time.monotonic() + self._request_s_max
        self._socket.settimeout(self._request_s_max)
        try:
            wire.send(self._socket, request, parts)
            answer = wire.receive(self._reader, parts_bytes_max=answer_bytes_max, deadline=deadline)
        except TimeoutError as error:
            raise Overtaxed("decoding takes too long", request_s_max=self._request_s_max) from error
        except (OSError, EOFError, wire.Garbled) as error:
            raise BadObject("a compressed frame ended the process that decodes it") from error
        if self._reader.has_more:
            raise BadObject("the process that decodes frames said more than it was asked")
        return answer


def _started(connection: socket.socket) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "pacs.decode.child"],
            stdin=connection.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=_environment(),
        )
    except OSError as error:
        raise Exhausted("a decoding process cannot be started") from error


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(str(entry) for entry in sys.path if entry)
    return {**kept, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"}
