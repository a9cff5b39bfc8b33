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
from starlette.types import Message, Send

GZIP_BYTES_MIN: Final = 1024  # a shorter JSON body is not worth compressing
GZIP_LEVEL: Final = 1  # metadata is so repetitive that more effort buys little
WITHHELD_BYTES: Final = 1 << 20  # of a stream, until its source has been read to its end
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
    """A body in chunks. What its source raises before the first chunk becomes a proper status."""
    body: Iterator[bytes] = iter(())
    if request.scope.get("asked_method") != "HEAD":
        first = next(chunks, b"")
        body = chain((first,), chunks)
    return BoundedStream(body, status, headers=headers, media_type=media_type)


class BoundedStream(StreamingResponse):
    """A stream that waits for its reader, but not for ever.

    Who has stopped to read holds a file or a connection to the store; after STALLED_S_MAX the
    answer is cut off.
    """

    async def stream_response(self, send: Send) -> None:
        """Send status, headers and chunks (ASGI)."""

        async def in_time(message: Message) -> None:
            with fail_after(STALLED_S_MAX):
                await send(message)

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            log.info("a client has stopped to read; its answer is cut off")
