"""HTTP/1.1 as uvicorn reads it with llhttp, its head bounded in bytes and in time.

llhttp costs a third of what a parser in Python does, and itself bounds nothing: a head without end
would be gathered for ever. So bytes are counted, and a clock runs, from a request's first byte to
the end of its head. Bodies have bounds of their own at the routes that take them.
"""

from __future__ import annotations

from asyncio import TimerHandle
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX: Final = 64 << 10  # of request line and headers; a longer head: 400, and goodbye
HEAD_S_MAX: Final = 15.0  # from its first byte to its last; slower: closed


class BoundedHead(HttpToolsProtocol):
    """One connection."""

    _is_in_head = True
    _head_bytes = 0
    _deadline: TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the head has grown too long (asyncio.Protocol)."""
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._deadline is None:
                self._deadline = self.loop.call_later(HEAD_S_MAX, self.transport.close)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > HEAD_BYTES_MAX:
            self._end_head()
            if not self.transport.is_closing():
                self.send_400_response("The head of the request is too long.")

    def on_headers_complete(self) -> None:
        """The head has ended (llhttp)."""
        self._end_head()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request has ended, and the next one's head begins (llhttp)."""
        super().on_message_complete()
        self._is_in_head, self._head_bytes = True, 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the clock (asyncio.Protocol)."""
        self._end_head()
        super().connection_lost(exc)

    def _end_head(self) -> None:
        self._is_in_head = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
