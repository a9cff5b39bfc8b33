"""Where each frame lies in a data set, found once at ingest so that reading one is a range read.

Native frames follow from Rows, Columns, Samples and Bits (PS3.5 8.1.1); encapsulated ones from the
fragments and the basic or extended offset table (PS3.5 A.4, PS3.3 C.7.6.3.1.8).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from pacs.dicom.part10 import PIXEL_KEYWORDS, Scan
from pacs.errors import Missing

Span = tuple[int, int]  # offset from the start of the (inflated) data set, length; both in bytes

PACKED_BYTES_MAX: Final = 256 << 20  # an unpacked table beyond this is not believed


@dataclass(frozen=True, slots=True)
class FrameTable:
    """The frames of one instance.

    `header_bytes` is how much of the data set comes before the pixel data element, and `pixel_tag`
    that element's tag, 0 if there is none; `trailer_bytes` is how much comes after it. `frame_bits`
    is 0 where the pixel data are encapsulated; `places` then lists the fragments of each frame, and
    is empty if they cannot be told apart.
    """

    header_bytes: int
    pixel_tag: int = 0
    pixel_vr: str = ""
    count: int = 0
    start: int = 0
    frame_bits: int = 0
    places: tuple[tuple[Span, ...], ...] = ()
    trailer_bytes: int = 0

    def spans(self, number: int) -> tuple[Span, ...]:
        """The bytes of frame number, from 1. Raises Missing.

        A frame whose bits do not fill whole bytes begins or ends inside one (PS3.5 8.1.1): see
        `native_frame`.
        """
        if not 1 <= number <= self.count:
            raise Missing("there is no such frame", frames=self.count)
        if not self.frame_bits:
            return self.places[number - 1]
        first_bit = (number - 1) * self.frame_bits
        begin, end = first_bit // 8, -(-(first_bit + self.frame_bits) // 8)
        return ((self.start + begin, end - begin),)

    def native_frame(self, number: int, raw: bytes) -> bytes:
        """Frame number cut out of the bytes that hold it: bit-packed frames start anew (8.1.1)."""
        shift = (number - 1) * self.frame_bits % 8
        if not shift and not self.frame_bits % 8:
            return raw
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")
        return np.packbits(bits[shift : shift + self.frame_bits], bitorder="little").tobytes()

    def pack(self) -> bytes:
        """As bytes for one column of the index."""
        body = [getattr(self, name) for name in self.__dataclass_fields__]
        return zlib.compress(json.dumps(body, separators=(",", ":")).encode(), 1)

    @classmethod
    def unpack(cls, packed: bytes) -> FrameTable:
        """What `pack` gave."""
        text = zlib.decompressobj().decompress(packed, PACKED_BYTES_MAX)
        # A table that an earlier release packed has fewer fields.
        fields = dict(zip(cls.__dataclass_fields__, json.loads(text), strict=False))
        fields["places"] = tuple(
            tuple((start, size) for start, size in frame) for frame in fields["places"]
        )
        return cls(**fields)


def frame_table(scan: Scan) -> FrameTable:
    """The table of a walked data set. One that cannot be addressed by frame has count 0."""
    tag = next((tag for tag in PIXEL_KEYWORDS if tag in scan.elements), None)
    if tag is None:
        return FrameTable(header_bytes=len(scan.data))
    element = scan.elements[tag]
    # Implicit data sets leave the VR to the dictionary, and that leaves the choice (PS3.5 A.1).
    vr = PIXEL_KEYWORDS[tag] if " or " in element.vr else element.vr
    trailer = len(scan.data) - element.value - element.length
    table = FrameTable(element.start, tag, vr, trailer_bytes=trailer)
    count = _positive(scan.text("NumberOfFrames") or "1")
    if element.fragments is not None:
        places = _encapsulated(scan, element.fragments, count)
        return replace(table, count=len(places), places=places)
    bits = _frame_bits(scan)
    if not bits or -(-bits * count // 8) > element.length:
        return table
    return replace(table, count=count, start=element.value, frame_bits=bits)


def _positive(text: str) -> int:
    """A count from hostile text; 0 if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _frame_bits(scan: Scan) -> int:
    rows, columns, samples, allocated = (
        _positive(scan.text(keyword) or default)
        for keyword, default in (
            ("Rows", "0"),
            ("Columns", "0"),
            ("SamplesPerPixel", "1"),
            ("BitsAllocated", "0"),
        )
    )
    if scan.text("PhotometricInterpretation") == "YBR_FULL_422":
        samples = 2  # two pixels share their chrominance (PS3.3 C.7.6.3.1.2)
    return rows * columns * samples * allocated


def _encapsulated(
    scan: Scan, fragments: tuple[Span, ...], count: int
) -> tuple[tuple[Span, ...], ...]:
    """Fragments grouped by frame; empty where no rule tells them apart."""
    table, *data = fragments or ((0, 0),)
    if not count or not data:
        return ()
    if count == 1:
        return (tuple(data),)
    if len(data) == count:
        return tuple((fragment,) for fragment in data)
    offsets = _offsets(scan, table)
    if len(offsets) != count:
        return ()
    origin = data[0][0] - 8
    number_at = {start - 8 - origin: number for number, (start, _) in enumerate(data)}
    if offsets[0] != 0 or not number_at.keys() >= set(offsets):
        return ()
    cuts = [number_at[offset] for offset in offsets] + [len(data)]
    frames = tuple(tuple(data[a:b]) for a, b in pairwise(cuts))
    return frames if all(frames) else ()


def _offsets(scan: Scan, table: Span) -> list[int]:
    """The extended offset table if there is one, else the basic one (PS3.5 A.4)."""
    order = "<" if scan.little_endian else ">"
    extended = scan.value(0x7FE00001)
    raw = extended if extended is not None else bytes(scan.data[table[0] : table[0] + table[1]])
    kind = np.dtype(order + ("u8" if extended is not None else "u4"))
    return [int(n) for n in np.frombuffer(raw[: len(raw) // kind.itemsize * kind.itemsize], kind)]
