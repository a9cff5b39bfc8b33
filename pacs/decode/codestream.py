"""What a compressed frame says of itself: read before a decoder believes it.

Two short readers, one for the JPEG family (ISO/IEC 10918-1 B.2.2, 14495-1 C.2.2) and one for JPEG
2000 (ISO/IEC 15444-1 A.5.1). A frame whose own size differs from its data set's is refused: a
decoder would fill memory for it, or return rows and columns exchanged.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pacs.errors import BadObject

_START_OF_FRAME: Final = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
_STANDALONE: Final = frozenset((0x01, *range(0xD0, 0xD9)))
_START_OF_SCAN: Final = 0xDA
_JPEG_2000_START: Final = b"\xff\x4f\xff\x51"


class Codestream(NamedTuple):
    """Size, components and bits per sample, as the codestream's header has them."""

    rows: int
    columns: int
    components: int
    precision: int


def jpeg(frame: bytes) -> Codestream:
    """The frame header of a JPEG or JPEG-LS image. Raises BadObject."""
    at = 2
    try:
        while True:
            fill, marker, length = struct.unpack_from(">BBH", frame, at)
            if fill != 0xFF or marker == _START_OF_SCAN:
                break
            if marker in _START_OF_FRAME:
                precision, rows, columns, components = struct.unpack_from(">BHHB", frame, at + 4)
                return Codestream(rows, columns, components, precision)
            # 0xFF may be repeated as fill before a marker; a stand-alone marker has no length.
            at += 1 if marker == 0xFF else 2 if marker in _STANDALONE else 2 + length
    except struct.error as error:
        raise BadObject("a compressed frame is cut off in its header") from error
    raise BadObject("a compressed frame has no frame header")


def jpeg_2000(frame: bytes) -> Codestream:
    """The image and tile size of a JPEG 2000 codestream, bare or inside a JP2 file. Raises BadObject."""
    start = frame.find(_JPEG_2000_START)
    if start < 0:
        raise BadObject("a compressed frame is no JPEG 2000 codestream")
    try:
        # SOC, SIZ, Lsiz and Rsiz come first; then sizes and offsets, and Csiz and the first Ssiz.
        right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
        components, depth = struct.unpack_from(">HB", frame, start + 40)
    except struct.error as error:
        raise BadObject("a compressed frame is cut off in its header") from error
    return Codestream(bottom - top, right - left, components, (depth & 0x7F) + 1)
