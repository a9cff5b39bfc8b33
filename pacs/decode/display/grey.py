"""Stored values to grey levels: Modality LUT, VOI LUT, Presentation LUT (PS3.3 C.11, PS3.4 N.2).

All of it is one function of a stored value. For up to 16 bits it is computed once for every value
there can be, and a frame is looked up in that table; tables are remembered, since the slices of a
series share theirs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from pacs.decode.display.attributes import items, macro, number, numbers, value, word
from pacs.errors import BadObject

TABLE_BITS_MAX: Final = 16  # stored values of more bits are computed one by one
TABLES_MAX: Final = 64  # tables remembered; a further one takes the place of the oldest
FUNCTIONS: Final = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

Stored = NDArray[Any]
Floats = NDArray[np.float64]
Levels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window (PS3.3 C.11.2.1.2), in units of the Modality LUT's output."""

    center: float
    width: float
    function: str = "LINEAR"

    @classmethod
    def over(cls, lowest: float, highest: float) -> Window:
        """The window that shows lowest as black and highest as white."""
        return cls(lowest / 2 + highest / 2, highest - lowest, "LINEAR_EXACT")

    def shown(self, values: Floats) -> Floats:
        """Values from 0 (black) to 1 (white); beyond them where the window clips."""
        center, width = self.center, self.width
        if self.function == "SIGMOID" and width > 0:
            return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
        if self.function == "LINEAR":
            # A width of 1 is a step at the centre.
            center, width = center - 0.5, width - 1
        if width <= 0:
            return np.asarray(values > center, np.float64)
        return np.asarray((values - center) / width + 0.5)


@dataclass(frozen=True, slots=True)
class Table:
    """A lookup table (PS3.3 C.11.1.1): `words` holds 16-bit entries, the first one for `first`."""

    first: int
    bits: int
    words: bytes

    @property
    def entries(self) -> NDArray[np.uint16]:
        """The entries as numbers."""
        return np.frombuffer(self.words, "<u2")

    def output(self, values: Floats) -> Floats:
        """The entries for values; those outside get the first or the last entry."""
        places = np.clip(np.nan_to_num(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[places.astype(np.intp)].astype(np.float64)

    def shown(self, values: Floats) -> Floats:
        """The same from 0 to 1."""
        return np.asarray(self.output(values) / ((1 << self.bits) - 1))


@dataclass(frozen=True, slots=True)
class Rescale:
    """A linear Modality LUT (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0

    def output(self, values: Floats) -> Floats:
        """Values in output units."""
        return values * self.slope + self.intercept


@dataclass(frozen=True, slots=True)
class Grey:
    """One image's way from stored values to grey levels.

    `voi` None stands for the window over the values that the frame holds. `padding` is the range of
    stored values that are no image (PS3.3 C.7.5.1.1.2); they are black, whatever the rest does.
    """

    modality: Rescale | Table = Rescale()
    voi: Window | Table | None = None
    presentation: Table | None = None
    inverse: bool = False
    padding: tuple[int, int] | None = None

    def levels(self, stored: Floats) -> Levels:
        """Grey levels from 0 to 255 of stored values. `voi` must be known."""
        assert self.voi is not None
        with np.errstate(all="ignore"):
            shown = np.clip(self.voi.shown(self.modality.output(stored)), 0, 1)
            if self.presentation is not None:
                last = len(self.presentation.entries) - 1
                shown = self.presentation.shown(np.floor(np.nan_to_num(shown) * last + 0.5))
            if self.inverse:
                shown = 1 - shown
            levels = np.floor(np.nan_to_num(shown) * 255 + 0.5).astype(np.uint8)
        if self.padding is not None:
            levels[(stored >= self.padding[0]) & (stored <= self.padding[1])] = 0
        return levels

    def window_of(self, stored: Stored) -> Window:
        """The window over the values of a frame, padding and what is no number left out."""
        stored = stored[np.isfinite(stored)] if stored.dtype.kind == "f" else stored.ravel()
        if self.padding is not None:
            image = stored[(stored < self.padding[0]) | (stored > self.padding[1])]
            stored = image if image.size else stored
        if not stored.size:
            return Window(0, 1)
        ends = float(stored.min()), float(stored.max())
        if isinstance(self.modality, Table):
            ends = tuple(
                self.modality.output(np.arange(ends[0], min(ends[1], ends[0] + 65535) + 1))
            )
        else:
            ends = tuple(self.modality.output(np.array(ends)))
        lowest, highest = min(ends), max(ends)
        return Window.over(lowest, highest)


def grey_levels(grey: Grey, words: Stored, bits_stored: int, *, is_signed: bool) -> Levels:
    """Grey levels of a frame of unsigned words whose low bits_stored bits are the stored values."""
    if bits_stored > TABLE_BITS_MAX or words.dtype.kind == "f":
        stored = words if words.dtype.kind == "f" else _values(words, bits_stored, is_signed)
        if grey.voi is None:
            grey = replace(grey, voi=grey.window_of(stored))
        return grey.levels(stored.astype(np.float64))
    if bits_stored < 8 * words.itemsize:
        words = words & words.dtype.type((1 << bits_stored) - 1)
    if grey.voi is None:
        grey = replace(grey, voi=grey.window_of(_values(words, bits_stored, is_signed)))
    return _table(grey, bits_stored, is_signed)[words]


@lru_cache(maxsize=TABLES_MAX)
def _table(grey: Grey, bits_stored: int, is_signed: bool) -> Levels:
    """The grey level of every stored value, in the order of their bit patterns."""
    patterns = np.arange(1 << bits_stored, dtype=np.uint32)
    return grey.levels(_values(patterns, bits_stored, is_signed).astype(np.float64))


def _values(words: Stored, bits_stored: int, is_signed: bool) -> Stored:
    """The numbers that bit patterns stand for; higher bits do not count."""
    unused = 8 * words.itemsize - bits_stored
    kind = f"{'ui'[is_signed]}{words.itemsize}"
    return np.asarray((words << unused).view(kind) >> unused)


def grey_of(
    data_set: Dataset, frame: int, *, is_monochrome_1: bool, window: Window | None = None
) -> Grey:
    """What an image says of its own display (PS3.3 C.7.6.16.2, C.11); `window` goes before it."""
    transformation = macro(data_set, frame, "PixelValueTransformationSequence")
    return Grey(
        modality=modality_of(transformation),
        voi=window or voi_of(macro(data_set, frame, "FrameVOILUTSequence")),
        inverse=is_monochrome_1 or word(data_set, "PresentationLUTShape") == "INVERSE",
        padding=_padding(data_set),
    )


def modality_of(data_set: Dataset) -> Rescale | Table:
    """The Modality LUT of a data set; the identity if it has none (PS3.3 C.11.1)."""
    item = next(items(data_set, "ModalityLUTSequence"), None)
    if item is not None:
        return table_of(item)
    return Rescale(number(data_set, "RescaleSlope", 1), number(data_set, "RescaleIntercept", 0))


def voi_of(data_set: Dataset) -> Window | Table | None:
    """The first VOI LUT or window of a data set (PS3.3 C.11.2)."""
    item = next(items(data_set, "VOILUTSequence"), None)
    if item is not None:
        return table_of(item)
    centers, widths = numbers(data_set, "WindowCenter"), numbers(data_set, "WindowWidth")
    if not centers or not widths or widths[0] <= 0:
        return None
    function = word(data_set, "VOILUTFunction")
    return Window(centers[0], widths[0], function if function in FUNCTIONS else "LINEAR")


def table_of(item: Dataset, kind: str = "LUT") -> Table:
    """A lookup table of an item (PS3.3 C.11.1.1). Raises BadObject."""
    return table(numbers_or_words(item, f"{kind}Descriptor"), value(item, f"{kind}Data"))


def numbers_or_words(data_set: Dataset, keyword: str) -> tuple[float, ...]:
    """The numbers of an element whose VR an implicit data set may have left open."""
    found = value(data_set, keyword)
    if isinstance(found, bytes):
        return tuple(np.frombuffer(found[: len(found) // 2 * 2], "<u2").astype(float))
    return numbers(data_set, keyword)


def table(descriptor: tuple[float, ...], data: object) -> Table:
    """A table from its descriptor (entries, first value, bits) and its data. Raises BadObject."""
    if len(descriptor) != 3 or not 1 <= descriptor[2] <= 16:
        raise BadObject("a lookup table has no descriptor that can be believed")
    count = int(descriptor[0]) % 65536 or 65536
    words = words_of(data, count)
    if len(words) < count:
        raise BadObject("a lookup table is cut off")
    return Table(int(descriptor[1]), int(descriptor[2]), words[:count].astype("<u2").tobytes())


def words_of(data: object, count: int) -> NDArray[np.uint16]:
    """The entries of a table, which may be words, or bytes of which two share a word."""
    if isinstance(data, bytes):
        if len(data) < 2 * count:
            return np.frombuffer(data, np.uint8).astype(np.uint16)
        return np.frombuffer(data[: 2 * count], "<u2").astype(np.uint16)
    try:
        return np.atleast_1d(np.array(data, np.int64)).astype(np.uint16)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadObject("a lookup table holds something else than numbers") from error


def _padding(data_set: Dataset) -> tuple[int, int] | None:
    first = numbers(data_set, "PixelPaddingValue")
    if not first:
        return None
    last = numbers(data_set, "PixelPaddingRangeLimit") or first
    return int(min(first[0], last[0])), int(max(first[0], last[0]))
