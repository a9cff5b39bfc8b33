"""Colour images as RGB of 8 bits: palettes, luminance with chrominance, deeper samples.

The colour spaces are those of PS3.3 C.7.6.3.1.2. What JPEG 2000 calls YBR_RCT or YBR_ICT its codec
has made RGB already.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from pacs.decode.display.attributes import value
from pacs.decode.display.grey import Table, numbers_or_words, table
from pacs.errors import BadObject

_RGB: Final = frozenset(("RGB", "YBR_RCT", "YBR_ICT"))
_YBR: Final = frozenset(("YBR_FULL", "YBR_FULL_422"))
_PRIMARIES: Final = ("Red", "Green", "Blue")

SEGMENTS_MAX: Final = 1 << 16  # of a segmented palette; what further ones say is not drawn

Rgb = NDArray[np.uint8]  # rows × columns × 3


def rgb(samples: NDArray[Any], photometric_interpretation: str, bits_stored: int) -> Rgb:
    """Samples by pixel, rows × columns × 3, as RGB. Raises BadObject for other colour spaces."""
    samples = eight_bits(samples, bits_stored)
    if photometric_interpretation in _YBR:
        whole = np.ascontiguousarray(samples)
        return np.asarray(Image.fromarray(whole, "YCbCr").convert("RGB"))
    if photometric_interpretation not in _RGB or samples.shape[-1] != 3:
        raise BadObject("this node draws no images of this colour space")
    return samples


def eight_bits(samples: NDArray[Any], bits_stored: int) -> NDArray[np.uint8]:
    """The upper eight of bits_stored bits; fewer bits are spread over the range."""
    if bits_stored < 8:
        return (samples.astype(np.uint16) * 255 // ((1 << bits_stored) - 1)).astype(np.uint8)
    return (samples >> (bits_stored - 8)).astype(np.uint8, copy=False)


def spread_422(raw: bytes, rows: int, columns: int) -> NDArray[np.uint8]:
    """Native YBR_FULL_422: of two pixels Y Y Cb Cr (PS3.3 C.7.6.3.1.2), as samples by pixel."""
    if columns % 2 or len(raw) < 2 * rows * columns:
        raise BadObject("a frame of shared chrominance has another size than its data set says")
    pairs = np.frombuffer(raw, np.uint8, 2 * rows * columns).reshape(rows, columns // 2, 4)
    spread = np.empty((rows, columns, 3), np.uint8)
    spread[:, 0::2, 0], spread[:, 1::2, 0] = pairs[..., 0], pairs[..., 1]
    spread[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=1)
    return spread


def from_palette(data_set: Dataset, indices: NDArray[Any]) -> Rgb:
    """Indices looked up in the Palette Color LUTs (PS3.3 C.7.9). Raises BadObject."""
    tables = [_palette(data_set, primary) for primary in _PRIMARIES]
    shown = []
    for one in tables:
        entries = one.entries
        # Some writers fill 16-bit entries with 8-bit values.
        shift = 8 if one.bits > 8 and entries.max(initial=0) > 255 else 0
        places = np.clip(indices.astype(np.int64) - one.first, 0, len(entries) - 1)
        shown.append((entries >> shift).astype(np.uint8)[places])
    return np.stack(shown, axis=-1)


def _palette(data_set: Dataset, primary: str) -> Table:
    descriptor = numbers_or_words(data_set, f"{primary}PaletteColorLookupTableDescriptor")
    data = value(data_set, f"{primary}PaletteColorLookupTableData")
    segments = value(data_set, f"Segmented{primary}PaletteColorLookupTableData")
    if data is None and isinstance(segments, bytes) and len(descriptor) == 3:
        count = int(descriptor[0]) % 65536 or 65536
        kind = "<u2" if descriptor[2] > 8 else "u1"
        whole = len(segments) // np.dtype(kind).itemsize * np.dtype(kind).itemsize
        data = _expanded(np.frombuffer(segments[:whole], kind).tolist(), count)
    return table(descriptor, data)


def _expanded(words: list[int], count: int) -> list[int]:
    """Segments written out (PS3.3 C.7.9.2), never beyond count entries. Raises BadObject."""
    entries: list[int] = []
    try:
        for kind, start, length in islice(_segments(words, 0, len(words)), SEGMENTS_MAX):
            if len(entries) >= count:
                break
            if kind == 0:
                entries += words[start : start + length]
            else:
                first, last = entries[-1], words[start]
                entries += [first + (last - first) * n // length for n in range(1, length + 1)]
    except (IndexError, ZeroDivisionError) as error:
        raise BadObject("the segments of a palette are broken") from error
    return entries[:count]


def _segments(
    words: list[int], at: int, end: int, segments_max: int = SEGMENTS_MAX, *, nested: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Discrete (0) and linear (1) segments as kind, place of the values, length; others followed."""
    while at < end and segments_max > 0:
        kind, length = words[at], words[at + 1]
        if kind == 2 and not nested:
            place = words[at + 2] | words[at + 3] << 16
            yield from _segments(words, place, end, length, nested=True)
            at += 4
        elif kind in (0, 1):
            yield kind, at + 2, length
            at += 2 + (length if kind == 0 else 1)
        else:
            raise IndexError
        segments_max -= 1
