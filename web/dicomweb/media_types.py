"""Media types with parameters, as Content-Type and Accept carry them (RFC 9110 8.3.1, 12.5.1).

Reading is lenient, since viewers are: types in any case, `type=` quoted or bare, unknown
parameters kept and not judged. A media range that cannot be read is skipped, the rest counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Final

DICOM: Final = "application/dicom"
DICOM_JSON: Final = "application/dicom+json"
DICOM_XML: Final = "application/dicom+xml"
JSON: Final = "application/json"
OCTET_STREAM: Final = "application/octet-stream"
MULTIPART: Final = "multipart/related"

MEDIA_RANGES_MAX: Final = 200  # of one Accept header; further ones are not looked at

_NAME = re.compile(r"[\w!#$&^.+*-]{1,127}/[\w!#$&^.+*-]{1,127}", re.ASCII)
_QUALITY = re.compile(r"0(\.\d{0,9})?|1(\.0{0,9})?", re.ASCII)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PIECE: Final = {
    separator: re.compile(rf'(?:{_QUOTED}|[^"{separator}])+', re.DOTALL) for separator in ",;"
}


@dataclass(frozen=True, slots=True)
class MediaType:
    """A type such as `multipart/related`, in lower case, and its parameters by lower-case name."""

    name: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One line of an Accept header: what is wanted, and how much (0 is: not at all)."""

    wanted: MediaType
    quality: float


ANYTHING: Final = MediaRange(MediaType("*/*", {}), 1.0)


def media_type(text: str) -> MediaType | None:
    """The media type that text spells, or None if it spells none."""
    pieces = [piece.strip() for piece in _pieces(text, ";")]
    if not pieces or not _NAME.fullmatch(pieces[0]):
        return None
    return MediaType(pieces[0].lower(), dict(_parameters(pieces[1:])))


def media_ranges(accept: str) -> tuple[MediaRange, ...]:
    """The media ranges of an Accept header, in its order; an absent or empty one takes anything."""
    if not accept.strip():
        return (ANYTHING,)
    found = (one for piece in _pieces(accept, ",") for one in _range(piece))
    return tuple(islice(found, MEDIA_RANGES_MAX))


def _range(text: str) -> Iterator[MediaRange]:
    wanted = media_type(text)
    if wanted is None:
        return
    quality = wanted.parameters.get("q", "1")
    if _QUALITY.fullmatch(quality):
        yield MediaRange(wanted, float(quality))


def _pieces(text: str, separator: str) -> list[str]:
    """The pieces between separators that stand outside quoted strings."""
    return _PIECE[separator].findall(text)


def _parameters(pieces: list[str]) -> Iterator[tuple[str, str]]:
    for piece in pieces:
        name, equals, value = piece.partition("=")
        if equals:
            yield name.strip().lower(), _unquoted(value.strip())


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1], flags=re.DOTALL)
    return value
