"""Extended query tags: attributes that somebody makes searchable while the node runs.

A tag is a path: one element, standard or private, or one inside sequences. It is read from an
instance as values that compare as keys do (PS3.4 C.2.2.2), so that the index can hold them in rows
of their own. Values are read from the raw bytes: what does not fit its VR is no value, and no error.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import isfinite
from typing import Final, NamedTuple

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import RawDataElement

from pacs.dicom.attributes import Level
from pacs.dicom.data_sets import UNFIT, read_header
from pacs.dicom.folding import canonical_time, folded, moments
from pacs.dicom.part10 import Scan, decoded
from pacs.errors import BadObject, BadQuery

TAG_VALUES_MAX: Final = 256  # values of one tag in one instance; further ones are not indexed
STEPS_MAX: Final = 8  # elements of a path, all but the last of them sequences; more are refused
CREATOR_CHARACTERS_MAX: Final = 64  # of a private creator (VR LO); a longer one is refused

# The codes of Python's struct for the VRs that hold binary numbers.
_BINARY: Final = dict(
    zip(("FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), "dfihqIHQ", strict=True)
)
NUMBERS: Final = frozenset((*_BINARY, "DS", "IS"))

_TAG = re.compile(r"[0-9A-Fa-f]{8}")


@dataclass(frozen=True, slots=True)
class QueryTag:
    """One extended query tag. `creator` names the owner of its last element, if that is private.

    `id` is that of its row, 0 before there is one.
    """

    path: tuple[int, ...]
    vr: str
    level: Level
    creator: str = ""
    id: int = 0

    @property
    def text(self) -> str:
        """The path as it is written and kept: eight hex digits a step, with dots between."""
        return ".".join(f"{tag:08X}" for tag in self.path)

    @property
    def keyword(self) -> str:
        """The path in keywords, where PS3.6 has them."""
        return ".".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in self.path)

    @property
    def matchable(self) -> bool:
        """Whether a query may name it with a value: always."""
        return True

    @property
    def is_number(self) -> bool:
        """Whether its values are compared as numbers."""
        return self.vr in NUMBERS


class TagValue(NamedTuple):
    """One value of a tag: a text or a number, and in which items of which sequences it stands."""

    items: str
    text: str | None
    number: float | None = None


def read_path(text: str) -> tuple[int, ...]:
    """The path that keywords or tags with dots between them name. Raises BadQuery."""
    steps = tuple(map(_step, text.split(".")))
    if not all(steps) or len(steps) > STEPS_MAX:
        raise BadQuery("a tag is 8 hex digits or a keyword of PS3.6, or a path of them")
    return tuple(step for step in steps if step is not None)


def _step(name: str) -> int | None:
    if _TAG.fullmatch(name):
        return int(name, 16)
    return tag_for_keyword(name) if name.isascii() and name.isalnum() else None


def checked_tag(path: str, vr: str, level: Level, creator: str) -> QueryTag:
    """A tag as somebody wants it; the VR may be left out where PS3.6 knows it. Raises BadQuery."""
    steps = read_path(path)
    is_private = bool(steps[-1] >> 16 & 1)
    if any(step >> 16 < 8 or not step & 0xFFFF for step in steps):
        raise BadQuery("a tag of this group is no attribute of a data set")
    if is_private != bool(creator) or len(creator) > CREATOR_CHARACTERS_MAX:
        raise BadQuery("a private tag, and no other, has a private creator of 1 to 64 characters")
    known = "" if is_private else _known_vr(steps[-1])
    if known and vr and vr not in known.split(" or "):
        raise BadQuery("this is not the VR that PS3.6 gives the attribute")
    vr = vr or known.partition(" or ")[0]
    if vr not in READERS:
        raise BadQuery(f"values are compared for the VRs {', '.join(sorted(READERS))}")
    for step in steps[:-1]:
        if step >> 16 & 1 or _known_vr(step) != "SQ":
            raise BadQuery("all but the last step of a path must be sequences of PS3.6")
    return QueryTag(steps, vr, level, creator.strip())


def _known_vr(tag: int) -> str:
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""


def tag_values(scan: Scan, transfer_syntax_uid: str, tag: QueryTag) -> list[TagValue]:
    """The values of a tag in an instance, in their order, each once, up to TAG_VALUES_MAX."""
    every = (
        TagValue(items, value) if isinstance(value, str) else TagValue(items, None, value)
        for items, raw in _found(scan, transfer_syntax_uid, tag)
        for value in READERS[tag.vr](Raw(raw, scan.little_endian, scan.encodings))
    )
    return list(islice(dict.fromkeys(every), TAG_VALUES_MAX))


def _found(scan: Scan, transfer_syntax_uid: str, tag: QueryTag) -> Iterator[tuple[str, bytes]]:
    """The raw value of each element that a path leads to, with the numbers of its items."""
    if len(tag.path) == 1:
        raw = _last(tag, scan.value)
        if raw:
            yield "", raw
    elif tag.path[0] in scan.elements:
        yield from _inside(_alone(scan, transfer_syntax_uid, tag.path[0]), tag, 0, "")


def _alone(scan: Scan, transfer_syntax_uid: str, sequence: int) -> Dataset:
    """A data set of that one sequence: no other element is looked at."""
    element = scan.elements[sequence]
    encoded = scan.data[element.start : element.value + element.length]
    try:
        return read_header(bytes(encoded), transfer_syntax_uid)
    except BadObject:
        return Dataset()


def _inside(
    data_set: Dataset, tag: QueryTag, depth: int, items: str
) -> Iterator[tuple[str, bytes]]:
    if depth == len(tag.path) - 1:
        raw = _last(tag, lambda one: _bytes_of(data_set, one))
        if raw:
            yield items, raw
        return
    for number, item in enumerate(_items_of(data_set, tag.path[depth]), start=1):
        yield from _inside(item, tag, depth + 1, f"{items}{number}.")


def _items_of(data_set: Dataset, sequence: int) -> Iterable[Dataset]:
    try:
        found: object = data_set[sequence].value if sequence in data_set else ()
    except UNFIT:
        return ()
    return found if isinstance(found, Sequence) else ()


def _bytes_of(data_set: Dataset, tag: int) -> bytes | None:
    """The bytes of an element that nobody has read yet, as they came."""
    element: object = data_set.get_item(tag)
    return element.value if isinstance(element, RawDataElement) else None


def _last(tag: QueryTag, value: Callable[[int], bytes | None]) -> bytes | None:
    """The last element's bytes; a private one stands in its creator's block (PS3.5 7.8.1)."""
    if not tag.creator:
        return value(tag.path[-1])
    group, element = tag.path[-1] & 0xFFFF0000, tag.path[-1] & 0xFF
    for block in range(0x10, 0x100):
        creator = value(group | block) or b""
        if creator.decode("latin-1").strip(" \0") == tag.creator:
            return value(group | block << 8 | element)
    return None


class Raw(NamedTuple):
    """The bytes of a value, and what they must be read by."""

    data: bytes
    little_endian: bool
    encodings: list[str]

    def texts(self) -> list[str]:
        """The values of a VR that has ASCII alone."""
        return [one.strip(" \0") for one in self.data.decode("ascii", "replace").split("\\")]

    def text(self) -> str:
        """The whole value in its own characters."""
        return decoded(self.data, self.encodings).replace("\0", "").strip()


def _texts(raw: Raw) -> Iterable[str]:
    return filter(None, (one.strip() for one in raw.text().split("\\")))


def _whole_text(raw: Raw) -> Iterable[str]:
    return filter(None, (raw.text(),))


def _codes(raw: Raw) -> Iterable[str]:
    return filter(None, raw.texts())


def _names(raw: Raw) -> Iterable[str]:
    groups = (group for name in raw.text().split("\\") for group in name.split("=")[:3])
    return filter(None, map(folded, groups))


def _dates(raw: Raw) -> Iterable[str]:
    return filter(_DATE.fullmatch, (one.replace(".", "") for one in raw.texts()))


def _times(raw: Raw) -> Iterable[str]:
    return filter(None, map(canonical_time, raw.texts()))


def _moments(raw: Raw) -> Iterable[str]:
    return (span[0] for span in map(moments, raw.texts()) if span)


def _tags(raw: Raw) -> Iterable[str]:
    halves = map(int, _binary("H")(raw))
    return (f"{group:04X}{element:04X}" for group, element in zip(halves, halves, strict=False))


def _decimals(raw: Raw) -> Iterable[float]:
    return (float(one) for one in raw.texts() if _DECIMAL.fullmatch(one) and isfinite(float(one)))


def _binary(code: str) -> Callable[[Raw], Iterable[float]]:
    size = struct.calcsize(f"<{code}")

    def read(raw: Raw) -> Iterable[float]:
        whole = raw.data[: len(raw.data) // size * size]
        order = "<" if raw.little_endian else ">"
        values = struct.unpack(f"{order}{len(whole) // size}{code}", whole)
        return (float(value) for value in values if isfinite(value))

    return read


_DATE = re.compile(r"\d{8}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(\d{1,16}(\.\d{0,16})?|\.\d{1,16})([eE][+-]?\d{1,3})?", re.ASCII)

READERS: Final[Mapping[str, Callable[[Raw], Iterable[str | float]]]] = {
    **dict.fromkeys(("AE", "AS", "CS", "UI"), _codes),
    **dict.fromkeys(("LO", "SH", "UC"), _texts),
    **dict.fromkeys(("LT", "ST", "UR", "UT"), _whole_text),
    **dict.fromkeys(("DS", "IS"), _decimals),
    **{vr: _binary(code) for vr, code in _BINARY.items()},
    "AT": _tags,
    "DA": _dates,
    "DT": _moments,
    "PN": _names,
    "TM": _times,
}
