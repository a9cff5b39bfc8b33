"""Parts of a body by byte range (RFC 9110 14; PS3.18 8.5 lets any resource have them).

Every single-part body of this door has its length and can be read from anywhere, so a viewer can
seek in a film and a broken download goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from web.dicomweb import multipart
from web.dicomweb.answers import streamed

RANGES_MAX: Final = 10  # of one request; of more, all are ignored and the whole body is sent

_RANGE = re.compile(r"(\d{0,18})-(\d{0,18})", re.ASCII)

Range = tuple[int, int]  # from this byte on, up to but without that one


@dataclass(frozen=True, slots=True)
class Body:
    """A body that can be read in parts; `read` takes the first byte and the one after the last."""

    size_bytes: int
    read: Callable[[int, int], Iterator[bytes]]

    @classmethod
    def of(cls, content: bytes) -> Body:
        """A body that is in memory."""
        return cls(len(content), lambda start, stop: iter((content[start:stop],)))


def ranges_of(header: str, size_bytes: int) -> list[Range]:
    """The ranges that a Range header asks of a body; none if the whole body is to be sent.

    So it is where the header is no list of byte ranges, or asks for more than the body has. Raises
    HTTPException 416 where no range of it can be had.
    """
    unit, _, text = header.partition("=")
    if unit.strip().lower() != "bytes" or text.count(",") >= RANGES_MAX:
        return []
    asked = [_RANGE.fullmatch(piece.strip()) for piece in text.split(",")]
    if not all(asked):
        return []
    found = [_resolved(match[1], match[2], size_bytes) for match in asked if match]
    if None in found:
        return []
    ranges = [one for one in found if one and one[0] < one[1]]
    if not ranges:
        raise HTTPException(
            416, "no byte of the range is there", {"Content-Range": f"bytes */{size_bytes}"}
        )
    is_more_than_all = sum(stop - start for start, stop in ranges) > size_bytes
    return [] if is_more_than_all else ranges


def _resolved(first: str, last: str, size_bytes: int) -> Range | None:
    """One range cut to the body, empty if it lies beyond it; None for what is no range."""
    if not first:
        return (max(0, size_bytes - int(last)), size_bytes) if last else None
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size_bytes) if last else size_bytes


def ranged(
    request: Request, body: Body, content_type: str, etag: str, headers: Mapping[str, str]
) -> Response:
    """The body, or what the request asks of it: 206 for one range, or several in a multipart."""
    headers = {**headers, "Accept-Ranges": "bytes"}
    asked = _asked(request, body, etag)
    if len(asked) > 1:
        parts = _parts(body, asked, content_type)
        kind = f"multipart/byteranges; boundary={etag}"
        return streamed(request, multipart.written(etag, parts), kind, headers, status=206)
    start, stop = asked[0] if asked else (0, body.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if asked:
        headers["Content-Range"] = _content_range(start, stop, body)
    status = 206 if asked else 200
    return streamed(request, body.read(start, stop), content_type, headers, status=status)


def _asked(request: Request, body: Body, etag: str) -> list[Range]:
    """The ranges of a GET, unless they are of a representation that is no longer ours (13.1.5)."""
    condition = request.headers.get("if-range", f'"{etag}"')
    if request.scope.get("asked_method") == "HEAD" or condition != f'"{etag}"':
        return []
    return ranges_of(request.headers.get("range", ""), body.size_bytes)


def _parts(
    body: Body, asked: list[Range], content_type: str
) -> Iterator[tuple[dict[str, str], Iterator[bytes]]]:
    for start, stop in asked:
        headers = {"Content-Type": content_type, "Content-Range": _content_range(start, stop, body)}
        yield headers, body.read(start, stop)


def _content_range(start: int, stop: int, body: Body) -> str:
    return f"bytes {start}-{stop - 1}/{body.size_bytes}"
