"""Bodies of requests: how fast they must come, and the short ones that are read whole.

JSON is parsed whole, so a body of it stands in memory before anybody can judge it. None is longer
than its reader says, and none is waited for longer than its sender goes on.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from anyio import fail_after
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.errors import TooLong, TooSlow, problem, status_of
from web.limits import Limits

BODY_BYTES_MAX: Final = 1 << 20  # of JSON that is parsed whole; a longer body: 413


async def paced(chunks: AsyncIterable[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """The same chunks, until the sender is too slow. Raises TooSlow.

    Only the time counts that is spent waiting for the sender.
    """
    source = aiter(chunks)
    waited_s, size_bytes = 0.0, 0
    while True:
        began = time.monotonic()
        try:
            with fail_after(limits.chunk_wait_s_max):
                chunk = await anext(source, None)
        except TimeoutError as error:
            raise TooSlow(chunk_wait_s_max=limits.chunk_wait_s_max) from error
        if chunk is None:
            return
        waited_s += time.monotonic() - began
        size_bytes += len(chunk)
        if waited_s > limits.rate_free_s and size_bytes < waited_s * limits.rate_bytes_s_min:
            raise TooSlow(rate_bytes_s_min=limits.rate_bytes_s_min)
        yield chunk


async def whole(
    chunks: AsyncIterable[bytes], limits: Limits, bytes_max: int = BODY_BYTES_MAX
) -> bytes:
    """A short body. Raises TooLong and TooSlow."""
    body = bytearray()
    async for chunk in paced(chunks, limits):
        body += chunk
        if len(body) > bytes_max:
            raise TooLong("the body is too long", bytes_max=bytes_max)
    return bytes(body)


class ShortBodies:
    """Every body below a path is short, before the framework reads it whole for a handler."""

    def __init__(self, app: ASGIApp, path: str, limits: Limits) -> None:
        self._app = app
        self._path = path
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http" or not scope["path"].startswith(self._path):
            await self._app(scope, receive, send)
            return
        try:
            body = await whole(Request(scope, receive).stream(), self._limits)
        except ClientDisconnect:
            return  # there is nobody to answer
        except (TooLong, TooSlow) as error:
            headers = {"Connection": "close"}
            told = problem(status_of(error), error.message, headers, **error.facts)
            await told(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)


def _again(body: bytes, receive: Receive) -> Receive:
    """What was received, to be received once more, and then whatever comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received
