"""Answers: JSON that is compressed, streams that are never wrong in silence, and ETags.

Bytes that turn out corrupt must not look like an answer. A stream keeps its last megabyte back
until its source has ended well: a short one then fails with a status, before the first byte, and
a long one is cut off without its end.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from anyio import fail_after
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

GZIP_BYTES_MIN: Final = 1024  # a shorter JSON body is not worth compressing
GZIP_LEVEL: Final = 1  # metadata is so repetitive that more effort buys little
WITHHELD_BYTES: Final = 1 << 20  # of a stream, until its source has been read to its end
BLOCK_BYTES: Final = 1 << 20  # of a stream, sent at once
STALLED_S_MAX: Final = 60.0  # a client that takes no chunk for so long is given up

log = logging.getLogger(__name__)


def json_answer(
    request: Request,
    content: Any,  # noqa: ANN401 - whatever JSON can hold
    media_type: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A JSON body, compressed if the client takes that."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    all_headers = {**(headers or {}), "Vary": "Accept, Accept-Encoding"}
    if len(body) >= GZIP_BYTES_MIN and takes_gzip(request):
        body = gzip.compress(body, GZIP_LEVEL, mtime=0)
        all_headers["Content-Encoding"] = "gzip"
    return Response(body, status, all_headers, media_type)


def takes_gzip(request: Request) -> bool:
    """Whether the client names gzip among the encodings it can read."""
    encodings = request.headers.get("accept-encoding", "").lower().replace(" ", "").split(",")
    return "gzip" in encodings or "gzip;q=1.0" in encodings


def fingerprint(*facts: str) -> str:
    """32 hex digits that follow from facts alone; the same facts give the same bytes to send.

    It serves as ETag and as multipart boundary. A body cannot hold its own boundary by accident or
    malice, since the digest of everything sent is among the facts.
    """
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]


def caching(etag: str) -> dict[str, str]:
    """Headers that let a client ask again whether what it has is still current."""
    return {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache", "Vary": "Accept"}


def is_current(request: Request, etag: str) -> bool:
    """Whether the client has this representation already (RFC 9110 13.1.2)."""
    header = request.headers.get("if-none-match", "")
    held = {one.strip().removeprefix("W/").strip('"') for one in header.split(",")}
    return header.strip() == "*" or etag in held


def not_modified(etag: str) -> Response:
    """The answer to a client that has it already."""
    return Response(status_code=304, headers=caching(etag))


def withheld(chunks: Iterable[bytes], size_bytes: int = WITHHELD_BYTES) -> Iterator[bytes]:
    """The same chunks, always at least size_bytes behind, until the source has ended well."""
    waiting: deque[bytes] = deque()
    waiting_bytes = 0
    for chunk in chunks:
        waiting.append(chunk)
        waiting_bytes += len(chunk)
        while waiting_bytes - len(waiting[0]) >= size_bytes:
            waiting_bytes -= len(waiting[0])
            yield waiting.popleft()
    yield from waiting


def streamed(
    request: Request,
    chunks: Iterator[bytes],
    media_type: str,
    headers: Mapping[str, str],
    *,
    status: int = 200,
) -> Response:
    """A body in chunks. What its source raises before the first block becomes a proper status.

    A body of one block is sent in one piece, with its length.
    """
    if request.scope.get("asked_method") == "HEAD":
        return BoundedStream(iter(()), status, headers=headers, media_type=media_type)
    blocks = gathered(chunks)
    first, second = next(blocks, b""), next(blocks, None)
    if second is None:
        return BoundedBody(first, status, headers=dict(headers), media_type=media_type)
    body = chain((first, second), blocks)
    return BoundedStream(body, status, headers=headers, media_type=media_type)


def gathered(chunks: Iterable[bytes], size_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The same bytes in blocks of at least size_bytes but for the last.

    Each block of a stream crosses from a thread to the event loop, which costs more than to join
    the boundary, the headers and the body of a part.
    """
    waiting: list[bytes] = []
    waiting_bytes = 0
    for chunk in chunks:
        waiting.append(chunk)
        waiting_bytes += len(chunk)
        if waiting_bytes >= size_bytes:
            yield b"".join(waiting)
            waiting, waiting_bytes = [], 0
    if waiting:
        yield b"".join(waiting)


def _in_time(send: Send) -> Send:
    """The same, given up for a client that takes nothing for STALLED_S_MAX: it holds a connection."""

    async def in_time(message: Message) -> None:
        with fail_after(STALLED_S_MAX):
            await send(message)

    return in_time


class BoundedBody(Response):
    """A body in one piece that waits for its reader, but not for ever."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send status, headers and body (ASGI)."""
        try:
            with fail_after(STALLED_S_MAX):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            log.info("a client has stopped to read; its answer is cut off")


class BoundedStream(StreamingResponse):
    """A stream that waits for its reader, but not for ever."""

    async def stream_response(self, send: Send) -> None:
        """Send status, headers and blocks (ASGI)."""
        try:
            await super().stream_response(_in_time(send))
        except TimeoutError:
            log.info("a client has stopped to read; its answer is cut off")
