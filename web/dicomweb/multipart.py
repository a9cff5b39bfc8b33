"""multipart/related, both ways, in a stream (RFC 2046 5.1, RFC 2387; PS3.18 8.6.1.2).

Reading is split in two. `Splitter` is fed chunks, cut wherever the network cut them, and says
where parts begin and end; it does no input or output and keeps no more than one line and one
block of part headers. `read_parts` spools each part, in memory while it is short and in a file
without a name after that, so that a part of any length costs a bounded amount of memory and a
broken connection leaves nothing behind.
"""

from __future__ import annotations

import mmap
import re
import tempfile
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from anyio import to_thread

from pacs.dicom.part10 import Buffer
from pacs.errors import Exhausted, Refused
from web.bodies import paced
from web.errors import TooLong
from web.limits import Limits

BOUNDARY_CHARACTERS_MAX: Final = 70  # RFC 2046 5.1.1; a longer boundary is refused

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_FOLD = re.compile(rb"\r\n[ \t]+")
_LINE_END_BEGUN = re.compile(rb"-?|[ \t]*\r?")


class BadMultipart(Refused):
    """The body is not the multipart message its Content-Type announces."""


@dataclass(frozen=True, slots=True)
class PartBegins:
    """The headers of a part were read; names are in lower case."""

    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PartData:
    """Some more bytes of the open part."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PartEnds:
    """The delimiter after the open part was read: the part is whole."""


Event = PartBegins | PartData | PartEnds


def checked_boundary(boundary: str) -> bytes:
    """A boundary parameter as bytes. Raises BadMultipart if RFC 2046 5.1.1 forbids it."""
    if not _BOUNDARY.fullmatch(boundary):
        raise BadMultipart("the multipart boundary is missing or malformed")
    return boundary.encode("ascii")


class Splitter:
    """Finds the parts in a multipart body that arrives in arbitrary chunks.

    A delimiter is CRLF, two hyphens and the boundary; then come two more hyphens (the end), or
    optional white space and CRLF. Anything else there is ambiguous and refused rather than
    guessed at. Text before the first and after the last delimiter is dropped.
    """

    def __init__(self, boundary: bytes, limits: Limits) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._limits = limits
        # The first delimiter may stand at the very start, without the CRLF that all others have.
        self._held = bytearray(b"\r\n")
        self._state: Callable[[], Iterator[Event]] = self._preamble
        self._padding_bytes = 0
        self._parts = 0
        self._part_open = False
        self._borrowed_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """What chunk completes. Raises BadMultipart or TooLong."""
        self._held += chunk
        before = None
        while before != self._state:
            before = self._state
            yield from before()

    def close(self) -> None:
        """The body has ended. Raises BadMultipart unless its closing delimiter was seen."""
        if self._state != self._epilogue:
            raise BadMultipart("the body ends before its closing boundary")

    def _preamble(self) -> Iterator[Event]:
        self._drop(len(self._up_to_delimiter()))
        yield from ()

    def _body(self) -> Iterator[Event]:
        data = self._up_to_delimiter()
        returned = min(self._borrowed_bytes, len(data))
        self._borrowed_bytes -= returned
        if len(data) > returned:
            yield PartData(data[returned:])

    def _up_to_delimiter(self) -> bytes:
        """All held bytes that are certainly not of a delimiter; moves on if one was found."""
        end = self._held.find(self._delimiter)
        if end < 0:
            return self._take(max(0, len(self._held) - len(self._delimiter) + 1))
        data = self._take(end)
        self._take(len(self._delimiter))
        self._state = self._line_end
        return data

    def _line_end(self) -> Iterator[Event]:
        """What follows a boundary on its line says whether another part comes."""
        end = self._held.find(b"\r\n", 0, self._limits.part_header_bytes_max)
        line = self._held[: self._limits.part_header_bytes_max if end < 0 else end]
        if line.startswith(b"--"):
            self._state = self._epilogue
        elif end >= 0 and not line.strip(b" \t"):
            # The CRLF stays: with it, the headers end in a blank line even where there are none.
            self._take(end)
            self._state = self._headers
        elif end < 0 and _LINE_END_BEGUN.fullmatch(line) and not self._is_too_long(self._held):
            return
        else:
            raise BadMultipart("a line begins with the boundary and goes on")
        if self._part_open:
            self._part_open = False
            yield PartEnds()

    def _headers(self) -> Iterator[Event]:
        end = self._held.find(b"\r\n\r\n")
        # Without its end the block may hold three of the four bytes that end it.
        if self._is_too_long(self._held[: end if end >= 0 else -3]):
            raise BadMultipart(
                "the headers of a part are too long",
                part_header_bytes_max=self._limits.part_header_bytes_max,
            )
        if end >= 0:
            headers = _part_headers(self._take(end))
            self._begin_part()
            yield PartBegins(headers)

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts_max:
            raise TooLong("the body has too many parts", parts_max=self._limits.parts_max)
        # An empty part may have its delimiter right after its headers (RFC 2046 5.1.1: the CRLF
        # before a body is the body's). So the second CRLF stays, and is not given out as data.
        self._take(2)
        self._borrowed_bytes = 2
        self._part_open = True
        self._state = self._body

    def _epilogue(self) -> Iterator[Event]:
        self._drop(len(self._take(len(self._held))))
        yield from ()

    def _take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def _drop(self, count: int) -> None:
        self._padding_bytes += count
        if self._padding_bytes > self._limits.padding_bytes_max:
            raise BadMultipart("there is too much around the parts of the body")

    def _is_too_long(self, text: bytearray) -> bool:
        return len(text) > self._limits.part_header_bytes_max


def _part_headers(block: bytes) -> dict[str, str]:
    """Header lines as a mapping. Raises BadMultipart on a line that is none, or a repeated name."""
    headers: dict[str, str] = {}
    for line in _FOLD.sub(b" ", block).split(b"\r\n"):
        if not line:
            continue
        found = _HEADER.fullmatch(line)
        if found is None:
            raise BadMultipart("a header of a part cannot be read")
        name, value = (text.decode("latin-1") for text in found.groups())
        if name.lower() in headers:
            raise BadMultipart("a part has the same header twice")
        headers[name.lower()] = value
    return headers


class Part:
    """One part that was received: its headers, and its bytes in memory or in a nameless file."""

    def __init__(self, headers: Mapping[str, str], spool: Path, limits: Limits) -> None:
        self.headers = headers
        self.size_bytes = 0
        self._spool = spool
        self._limits = limits
        self._memory = bytearray()
        self._file: IO[bytes] | None = None

    @property
    def too_long(self) -> bool:
        """Whether more came than a part may hold; such a part keeps no bytes."""
        return self.size_bytes > self._limits.part_bytes_max

    async def write(self, data: bytes) -> None:
        """Append data. Raises Exhausted if the spool folder takes no more."""
        self.size_bytes += len(data)
        if self.too_long:
            self.close()
            return
        self._memory += data
        if len(self._memory) > self._limits.memory_bytes_max:
            await to_thread.run_sync(self._spill)

    def buffer(self) -> Buffer:
        """All bytes of the part; those of a long part are mapped from the file, not read."""
        assert not self.too_long, "the bytes of a part that is too long are gone"
        if self._file is None:
            return self._memory
        self._spill()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        """Give the bytes back. A buffer still in use stays readable."""
        self._memory = bytearray()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._spool)  # noqa: SIM115 it lives as long as the part
            self._file.write(self._memory)
            self._file.flush()
        except OSError as error:
            raise Exhausted("the spool folder takes no more") from error
        self._memory = bytearray()


async def bounded(chunks: AsyncIterable[bytes], limits: Limits) -> AsyncIterator[bytes]:
    """The same chunks, until the body is longer than it may be. Raises TooLong."""
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > limits.body_bytes_max:
            raise TooLong("the body is too long", body_bytes_max=limits.body_bytes_max)
        yield chunk


async def read_parts(
    chunks: AsyncIterable[bytes], boundary: str, spool: Path, limits: Limits
) -> AsyncGenerator[Part, None]:
    """Each part as soon as its closing delimiter was read; it is closed when the next is asked for.

    Raises BadMultipart, TooLong, TooSlow, Exhausted. Iterate inside `contextlib.aclosing`, so that the
    open part's file goes when the sender does.
    """
    splitter = Splitter(checked_boundary(boundary), limits)
    part = Part({}, spool, limits)
    try:
        async for chunk in bounded(paced(chunks, limits), limits):
            for event in splitter.feed(chunk):
                match event:
                    case PartBegins(headers):
                        part = Part(headers, spool, limits)
                    case PartData(data):
                        await part.write(data)
                    case PartEnds():
                        yield part
                        part.close()
        splitter.close()
    finally:
        part.close()


def content_type(root_type: str, boundary: str) -> str:
    """The Content-Type of a multipart message whose parts are of root_type (RFC 2387 3.1)."""
    return f'multipart/related; type="{root_type}"; boundary={boundary}'


def written(
    boundary: str, parts: Iterable[tuple[Mapping[str, str], Iterable[bytes]]]
) -> Iterator[bytes]:
    """A multipart message in chunks, from (headers, body chunks) of each part.

    The closing boundary comes only if every part came whole: where a body raises, the message
    stays visibly broken. A part's first chunk is there before its headers are given, so that what
    fails at once fails before the first byte is sent.
    """
    opening = f"--{boundary}"
    for headers, body in parts:
        lines = [opening, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        chunks = iter(body)
        first = next(chunks, b"")
        yield "\r\n".join(lines).encode("latin-1")
        yield first
        yield from chunks
        opening = f"\r\n--{boundary}"
    yield f"{opening}--\r\n".encode("latin-1")
