"""What the display pipeline reads of a data set, and how it reads hostile values.

pydicom gets the few top-level elements that matter, cut out of a header that `part10.scan` has
walked; so a header costs little, however long it is. A value that cannot be read, or is no finite
number, counts as absent: a picture with a default window is better than none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from pacs.dicom.data_sets import UNFIT, read_header
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    Scan,
    scan,
)

_KEYWORDS: Final = (
    *("SpecificCharacterSet", "SOPInstanceUID", "PixelRepresentation", "HighBit", "BitsStored"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue"),
    *("PixelPaddingRangeLimit", "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("PresentationLUTShape", "PixelSpacing", "PixelAspectRatio", "ImagerPixelSpacing"),
    *("NominalScannedPixelSpacing", "FrameTime", "RecommendedDisplayFrameRate", "CineRate"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ICCProfile"),
    *(f"{c}PaletteColorLookupTableDescriptor" for c in ("Red", "Green", "Blue")),
    *(f"{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
    *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
)
_TAGS: Final = frozenset(tag_for_keyword(keyword) for keyword in _KEYWORDS)
_OVERLAYS: Final = range(0x6000, 0x6020, 2)


class Header(NamedTuple):
    """A header as it was walked, and as pydicom reads what matters of it."""

    walked: Scan
    data_set: Dataset


@lru_cache(maxsize=4)
def header_of(header: bytes, transfer_syntax_uid: str) -> Header:
    """Read a header that ends before the pixel data, inflated already. Raises BadObject."""
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN
    walked = scan(header, transfer_syntax_uid)
    wanted = b"".join(
        walked.data[element.start : element.value + element.length]
        for tag, element in walked.elements.items()
        if tag in _TAGS or tag >> 16 in _OVERLAYS
    )
    return Header(walked, read_header(wanted, transfer_syntax_uid) if wanted else Dataset())


def value(data_set: Dataset, keyword: str | int) -> Any:  # noqa: ANN401 - whatever pydicom makes of it
    """One value as pydicom reads it, None if it is absent or cannot be read."""
    tag = keyword if isinstance(keyword, int) else tag_for_keyword(keyword)
    if tag is None or tag not in data_set:
        return None
    try:
        return data_set[tag].value
    except UNFIT:
        return None


def numbers(data_set: Dataset, keyword: str | int) -> tuple[float, ...]:
    """The finite numbers of an element; none of them if one cannot be read."""
    found = value(data_set, keyword)
    values = found if isinstance(found, MultiValue | list | tuple) else (found,)
    try:
        floats = tuple(float(one) for one in values)
    except (TypeError, ValueError, OverflowError):
        return ()
    return floats if all(map(math.isfinite, floats)) else ()


def number(data_set: Dataset, keyword: str | int, default: float) -> float:
    """The first number of an element."""
    return next(iter(numbers(data_set, keyword)), default)


def word(data_set: Dataset, keyword: str | int) -> str:
    """An element as one text, upper case, empty if it is absent."""
    found = value(data_set, keyword)
    return str(found).strip().upper() if isinstance(found, str) else ""


def items(data_set: Dataset, keyword: str) -> Iterator[Dataset]:
    """The items of a sequence."""
    found = value(data_set, keyword)
    return iter(found if isinstance(found, Sequence) else ())


def macro(data_set: Dataset, number_of_frame: int, keyword: str) -> Dataset:
    """A functional group macro of one frame, from 1, else that of all frames (PS3.3 C.7.6.16).

    Where there is none, the data set itself, whose top level then tells the same attributes.
    """
    groups = value(data_set, "PerFrameFunctionalGroupsSequence")
    own = groups[number_of_frame - 1 : number_of_frame] if isinstance(groups, Sequence) else []
    for group in (*own, *items(data_set, "SharedFunctionalGroupsSequence")):
        found = next(items(group, keyword), None)
        if found is not None:
            return found
    return data_set
