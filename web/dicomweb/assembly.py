"""An instance made of metadata and bulk data (PS3.18 10.5.2): DICOM JSON in, an encoded data set out.

The data set is written element by element, and a bulk value is copied from where it lies into where
it goes, so that an instance of any size costs as little memory as its metadata. Native pixel data
become Explicit VR Little Endian; what came compressed is encapsulated, one fragment a frame (PS3.5
A.4), in the transfer syntax that its media type and its own first bytes say.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final

from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from pacs.decode import codestream
from pacs.dicom.data_sets import UNFIT, written
from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, NESTING_MAX, PIXEL_DATA, Buffer
from pacs.errors import BadObject, Refused

NESTED_BULK_BYTES_MAX: Final = 64 << 20  # bulk data inside sequences, which stay in memory; refused
COPY_BYTES: Final = 1 << 20
HEAD_BYTES: Final = 1 << 20  # of a compressed frame, in which it says what it is
ELEMENT_BYTES_MAX: Final = (
    0xFFFFFFFE  # of one value or fragment (PS3.5 7.1.2); a longer one: refused
)

OCTET_STREAM: Final = "application/octet-stream"
# The transfer syntax of a media type that names none (PS3.18 table 8.7.3-5); JPEG tells by itself.
SYNTAX_OF_MEDIA: Final[Mapping[str, str]] = {
    OCTET_STREAM: EXPLICIT_VR_LITTLE_ENDIAN,
    "image/jpeg": "1.2.840.10008.1.2.4.50",
    "image/jls": "1.2.840.10008.1.2.4.80",
    "image/jp2": "1.2.840.10008.1.2.4.90",
    "image/jpx": "1.2.840.10008.1.2.4.92",
    "image/jphc": "1.2.840.10008.1.2.4.201",
    "image/jxl": "1.2.840.10008.1.2.4.110",
    "image/dicom-rle": "1.2.840.10008.1.2.5",
    "image/x-dicom-rle": "1.2.840.10008.1.2.5",
    "video/mpeg": "1.2.840.10008.1.2.4.100",
    "video/mpeg2": "1.2.840.10008.1.2.4.100",
    "video/mp4": "1.2.840.10008.1.2.4.102",
    "video/h265": "1.2.840.10008.1.2.4.107",
}
_NATIVE: Final = frozenset((EXPLICIT_VR_LITTLE_ENDIAN, "1.2.840.10008.1.2"))
# JPEG's process by its start of frame marker (ISO/IEC 10918-1 table B.1), as a transfer syntax.
_JPEG_SYNTAX: Final = {
    0xC0: "1.2.840.10008.1.2.4.50",
    0xC1: "1.2.840.10008.1.2.4.51",
    0xC3: "1.2.840.10008.1.2.4.70",
}
_READERS: Final = {
    **dict.fromkeys((*_JPEG_SYNTAX.values(), "1.2.840.10008.1.2.4.57"), codestream.jpeg),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), codestream.jpeg),
    **dict.fromkeys(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"), codestream.jpeg_2000),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (201, 202, 203)), codestream.jpeg_2000),
}
# How coloured pixels are coded where the metadata do not say (PS3.5 8.2.1, 8.2.4).
_COLOUR: Final = {
    "1.2.840.10008.1.2.4.50": "YBR_FULL_422",
    "1.2.840.10008.1.2.4.51": "YBR_FULL_422",
    "1.2.840.10008.1.2.4.90": "YBR_RCT",
    "1.2.840.10008.1.2.4.91": "YBR_ICT",
    "1.2.840.10008.1.2.4.201": "YBR_RCT",
    "1.2.840.10008.1.2.4.202": "YBR_RCT",
    "1.2.840.10008.1.2.4.203": "YBR_ICT",
}
_BULK_VR: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UC", "UN", "UR", "UT"))


_CHARACTER_SET: Final[JsonModel] = {"00080005": {"vr": "CS", "Value": ["ISO_IR 192"]}}
_ENCODED_CHARACTER_SET: Final = written(
    Dataset.from_json(_CHARACTER_SET), EXPLICIT_VR_LITTLE_ENDIAN
)


class MissingBulk(Refused):
    """Bulk data that the metadata refer to did not come."""


class UnusableMedia(Refused):
    """Bulk data of this media type or transfer syntax cannot be what refers to it."""


@dataclass(frozen=True, slots=True)
class Bulk:
    """The bulk data behind one URI: a whole value, or the frames of compressed pixel data."""

    frames: Sequence[Buffer]
    media_type: str = OCTET_STREAM
    transfer_syntax_uid: str = ""


def references(model: JsonModel) -> Iterator[str]:
    """The URI of all bulk data that a model refers to. Raises BadObject for what is no model."""
    waiting: list[tuple[object, int]] = [(model, 0)]
    while waiting:
        held, depth = waiting.pop()
        if depth > NESTING_MAX:
            raise BadObject("sequences are nested too deep", nesting_max=NESTING_MAX)
        for tag, element in _elements(held):
            uri = element.get("BulkDataURI")
            if isinstance(uri, str):
                yield uri
            elif element.get("vr") == "SQ":
                items = element.get("Value") or []
                waiting += [(item or {}, depth + 1) for item in _list(items, tag)]


def _elements(model: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(model, dict):
        raise BadObject("the metadata of an instance are no DICOM JSON object")
    for tag, element in model.items():
        is_tag = isinstance(tag, str) and len(tag) == 8 and tag.isascii() and tag.isalnum()
        if not is_tag or not isinstance(element, dict) or not isinstance(element.get("vr"), str):
            raise BadObject("the metadata of an instance hold what is no DICOM JSON element")
        yield tag, element


def _list(value: object, tag: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadObject("the values of an element are no list", tag=tag)
    return value


def frames_of(model: JsonModel) -> int:
    """How many frames the metadata announce; 1 where they say nothing that can be read."""
    values = model.get("00280008", {}).get("Value") or [1]
    try:
        return max(1, int(values[0]))
    except (TypeError, ValueError, OverflowError, IndexError):
        return 1


def pixel_uri(model: JsonModel) -> str:
    """What the pixel data refer to; empty if there are none, or they stand in the metadata."""
    uri = model.get("7FE00010", {}).get("BulkDataURI")
    return uri if isinstance(uri, str) else ""


def assemble(model: JsonModel, bulk: Mapping[str, Bulk], write: Callable[[Buffer], object]) -> str:
    """Write the data set of a model; its transfer syntax.

    Raises MissingBulk, UnusableMedia, and BadObject.
    """
    pixels = bulk.get(pixel_uri(model))
    syntax = EXPLICIT_VR_LITTLE_ENDIAN if pixels is None else _syntax_of(pixels)
    complete = model | _CHARACTER_SET
    if pixels is not None and syntax not in _NATIVE:
        complete = _described(syntax, pixels.frames[0]) | complete
    for tag in sorted(complete, key=str.upper):
        if tag[:4] > "0007" and tag[4:] != "0000":
            _write_element(tag.upper(), complete[tag], bulk, syntax, write)
    return EXPLICIT_VR_LITTLE_ENDIAN if syntax in _NATIVE else syntax


def _write_element(
    tag: str,
    element: Mapping[str, Any],
    bulk: Mapping[str, Bulk],
    syntax: str,
    write: Callable[[Buffer], object],
) -> None:
    uri = element.get("BulkDataURI")
    if not isinstance(uri, str):
        write(_inline(tag, element, bulk))
    elif uri not in bulk:
        raise MissingBulk
    elif int(tag, 16) == PIXEL_DATA and syntax not in _NATIVE:
        _write_fragments(bulk[uri].frames, write)
    elif len(bulk[uri].frames) != 1:
        raise UnusableMedia
    else:
        _write_long(tag, element["vr"], bulk[uri].frames[0], write)


def _inline(tag: str, element: Mapping[str, Any], bulk: Mapping[str, Bulk]) -> bytes:
    """An element whose value stands in the metadata, encoded."""
    budget = [NESTED_BULK_BYTES_MAX]

    def nested(uri: str) -> bytes:
        if uri not in bulk:
            raise MissingBulk
        budget[0] -= sum(len(memoryview(frame)) for frame in bulk[uri].frames)
        if budget[0] < 0:
            raise BadObject("there is too much bulk data inside sequences")
        return b"".join(bytes(frame) for frame in bulk[uri].frames)

    try:
        # The character set is there for the encoding of texts, and is written by itself.
        model = _CHARACTER_SET | {tag: _with_decimals(element)}
        encoded = written(Dataset.from_json(model, nested), EXPLICIT_VR_LITTLE_ENDIAN)
    except UNFIT as error:
        raise BadObject("the metadata hold a value that does not fit its VR") from error
    if tag in _CHARACTER_SET:
        return encoded
    set_bytes = len(_ENCODED_CHARACTER_SET)
    return encoded[set_bytes:] if tag > min(_CHARACTER_SET) else encoded[:-set_bytes]


def _with_decimals(element: Mapping[str, Any]) -> Mapping[str, Any]:
    """Decimal strings that JSON gives as numbers, in the 16 characters that one may have."""
    if element["vr"] == "SQ":
        items = [
            {tag: _with_decimals(inner) for tag, inner in (item or {}).items()}
            for item in element.get("Value") or []
        ]
        return {**element, "Value": items}
    if element["vr"] != "DS" or "Value" not in element:
        return element
    return {**element, "Value": [_decimal(value) for value in element["Value"]]}


def _decimal(value: object) -> object:
    if isinstance(value, float) and isfinite(value):
        return format_number_as_ds(value)
    return value


def _write_long(tag: str, vr: str, value: Buffer, write: Callable[[Buffer], object]) -> None:
    """One element of the long form, its value copied piece by piece (PS3.5 7.1.2)."""
    if vr not in _BULK_VR:
        raise UnusableMedia
    length = len(memoryview(value))
    if length > ELEMENT_BYTES_MAX:
        raise BadObject("a value is longer than an element can be")
    group, element = int(tag[:4], 16), int(tag[4:], 16)
    head = struct.pack("<HH2sHI", group, element, vr.encode(), 0, length + length % 2)
    write(head)
    copy(value, write)
    write((b" " if vr in ("UC", "UR", "UT") else b"\0") * (length % 2))


def _write_fragments(frames: Sequence[Buffer], write: Callable[[Buffer], object]) -> None:
    """Compressed frames, a fragment each, behind their basic offset table (PS3.5 A.4)."""
    lengths = [len(memoryview(frame)) for frame in frames]
    if max(lengths) > ELEMENT_BYTES_MAX:
        raise BadObject("a frame is longer than a fragment can be")
    offsets, at = [], 0
    for length in lengths:
        offsets.append(at)
        at += 8 + length + length % 2
    table = struct.pack(f"<{len(offsets)}I", *offsets) if offsets[-1] <= ELEMENT_BYTES_MAX else b""
    write(struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF))
    write(struct.pack("<HHI", 0xFFFE, 0xE000, len(table)) + table)
    for frame, length in zip(frames, lengths, strict=True):
        write(struct.pack("<HHI", 0xFFFE, 0xE000, length + length % 2))
        copy(frame, write)
        write(b"\0" * (length % 2))
    write(struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))


def copy(value: Buffer, write: Callable[[Buffer], object]) -> None:
    """Write a value piece by piece."""
    view = memoryview(value)
    for start in range(0, len(view), COPY_BYTES):
        write(view[start : start + COPY_BYTES])


def _syntax_of(bulk: Bulk) -> str:
    """The transfer syntax of bulk data. Raises UnusableMedia."""
    default = SYNTAX_OF_MEDIA.get(bulk.media_type)
    if default is None:
        raise UnusableMedia
    named = bulk.transfer_syntax_uid
    if (named or default) in _NATIVE or bulk.media_type == OCTET_STREAM:
        if (named or default) not in _NATIVE or default not in _NATIVE:
            raise UnusableMedia
        return EXPLICIT_VR_LITTLE_ENDIAN
    return named or _sniffed(bulk) or default


def _sniffed(bulk: Bulk) -> str:
    """The process that a JPEG image says it was made by; nothing for other media."""
    if bulk.media_type != "image/jpeg":
        return ""
    head = bytes(memoryview(bulk.frames[0])[: 1 << 16])
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker, length = head[at + 1], int.from_bytes(head[at + 2 : at + 4], "big")
        if marker in _JPEG_SYNTAX:
            return _JPEG_SYNTAX[marker]
        at += 1 if marker == 0xFF else 2 + length
    return ""


def _described(syntax: str, frame: Buffer) -> JsonModel:
    """The Image Pixel attributes that a compressed frame says of itself (PS3.18 10.5.2)."""
    read = _READERS.get(syntax)
    if read is None:
        return {}
    try:
        found = read(bytes(memoryview(frame)[:HEAD_BYTES]))
    except BadObject as error:
        raise UnusableMedia from error
    allocated = 8 if found.precision <= 8 else 16
    numbers = {
        "00280002": found.components,
        "00280010": found.rows,
        "00280011": found.columns,
        "00280100": allocated,
        "00280101": found.precision,
        "00280102": found.precision - 1,
        "00280103": 0,
    }
    model: JsonModel = {tag: {"vr": "US", "Value": [value]} for tag, value in numbers.items()}
    colour = "MONOCHROME2" if found.components == 1 else _COLOUR.get(syntax, "RGB")
    model["00280004"] = {"vr": "CS", "Value": [colour]}
    if found.components > 1:
        model["00280006"] = {"vr": "US", "Value": [0]}
    return model
