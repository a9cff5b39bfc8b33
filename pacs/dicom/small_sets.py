"""Small data sets whole, as DICOM JSON: what worklists and procedure steps are told in.

Pixel data are never in them, so every value may stand in memory, as text without a character set.
They are read from bytes that `part10.scan` walks first, item by item; nothing of pydicom's reader
is used, so a hostile one costs what its bytes do. The form is that of PS3.18 annex F, where numbers
of IS and DS stay texts as they came (F.2.3), and an empty element has no `Value`.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import PN_GROUPS
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    Buffer,
    Scan,
    decoded,
    scan,
)
from pacs.errors import BadObject

LEVELS_MAX: Final = 8  # sequences inside sequences of a small data set; deeper ones are refused

SPECIFIC_CHARACTER_SET: Final = 0x00080005
FIRST_GROUP: Final = 0x0008  # what lies below is no data set's (PS3.7 6.3, PS3.10 7.1)

OWN_CHARACTER_SET: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
UNSPLIT: Final = frozenset(("LT", "ST", "UR", "UT"))  # a backslash is a character of these
TEXTS: Final = (
    OWN_CHARACTER_SET | UNSPLIT | frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"))
)
# How the numbers of a VR are packed, one value (PS3.5 6.2).
NUMBERS: Final = {
    "FD": "d",
    "FL": "f",
    "SL": "i",
    "SS": "h",
    "SV": "q",
    "UL": "I",
    "US": "H",
    "UV": "Q",
}


def read_model(encoded: Buffer, transfer_syntax_uid: str) -> JsonModel:
    """An encoded data set as DICOM JSON, without its character set. Raises BadObject."""
    if not len(memoryview(encoded)):
        return {}
    walked = scan(encoded, transfer_syntax_uid)
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        transfer_syntax_uid = EXPLICIT_VR_LITTLE_ENDIAN  # so is what the whole inflates to
    return _model(walked, transfer_syntax_uid, None, 0)


def _model(
    walked: Scan, transfer_syntax_uid: str, inherited: list[str] | None, level: int
) -> JsonModel:
    own = SPECIFIC_CHARACTER_SET in walked.elements
    encodings = walked.encodings if own or inherited is None else inherited
    model: JsonModel = {}
    for tag in sorted(walked.elements):
        if tag >> 16 < FIRST_GROUP or not tag & 0xFFFF or tag == SPECIFIC_CHARACTER_SET:
            continue
        vr = vr_of(tag, walked.elements[tag].vr)
        if vr == "SQ":
            values = list(_items(walked, tag, transfer_syntax_uid, encodings, level + 1))
            model[f"{tag:08X}"] = described(vr, values)
        else:
            raw = walked.value(tag) or b""
            model[f"{tag:08X}"] = _element(vr, raw, encodings, walked.little_endian)
    return model


def vr_of(tag: int, otherwise: str = "UN") -> str:
    """The VR of PS3.6, the first one where several are allowed."""
    try:
        return dictionary_VR(tag).partition(" or ")[0]
    except KeyError:
        return otherwise


def _items(
    walked: Scan, tag: int, transfer_syntax_uid: str, encodings: list[str], level: int
) -> Iterator[JsonModel]:
    if level > LEVELS_MAX:
        raise BadObject("sequences are nested too deep", levels_max=LEVELS_MAX)
    for item in walked.items(tag):
        nested = scan(item, transfer_syntax_uid) if len(item) else None
        yield {} if nested is None else _model(nested, transfer_syntax_uid, encodings, level)


def described(vr: str, values: Sequence[Any]) -> JsonModel:
    """An element of DICOM JSON with these values."""
    return {"vr": vr, "Value": list(values)} if values else {"vr": vr}


def _element(vr: str, raw: bytes, encodings: list[str], little_endian: bool) -> JsonModel:
    if vr in NUMBERS:
        return described(vr, _numbers(vr, raw, little_endian))
    if vr not in TEXTS:
        inline = base64.b64encode(raw).decode()
        return {"vr": vr, "InlineBinary": inline} if inline else {"vr": vr}
    text = decoded(raw, encodings) if vr in OWN_CHARACTER_SET else raw.decode("ascii", "replace")
    return described(vr, values_of(vr, text.replace("\0", "")))


def _numbers(vr: str, raw: bytes, little_endian: bool) -> list[int | float]:
    one = struct.calcsize("=" + NUMBERS[vr])
    if len(raw) % one:
        raise BadObject("a number has not the length of its VR")
    return list(
        struct.unpack(f"{'<' if little_endian else '>'}{len(raw) // one}{NUMBERS[vr]}", raw)
    )


def values_of(vr: str, text: str) -> list[Any]:
    """The values of an element's text; none of an empty one. A name becomes its groups."""
    text = text.strip(" \0")
    if not text:
        return []
    values = [text] if vr in UNSPLIT else [value.strip(" \0") for value in text.split("\\")]
    return [name_groups(value) for value in values] if vr == "PN" else values


def name_groups(name: str) -> dict[str, str]:
    """A person's name as DICOM JSON has it (F.2.2): its groups, the empty ones left out."""
    groups = zip(PN_GROUPS, name.split("="), strict=False)
    return {group.capitalize(): text.strip() for group, text in groups if text.strip()}


def name_of(groups: Mapping[str, str]) -> str:
    """The same as one text, its groups parted by `=`."""
    return "=".join(groups.get(group.capitalize(), "") for group in PN_GROUPS).rstrip("=")


def key_of(keyword: str) -> str:
    """The key of an attribute in DICOM JSON: its tag as eight digits."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, f"{keyword} is no keyword of PS3.6"
    return f"{tag:08X}"


def element_of(keyword: str, *values: Any) -> JsonModel:  # noqa: ANN401 - of any VR
    """A model of one element, to be merged into others."""
    key = key_of(keyword)
    return {key: described(vr_of(int(key, 16)), values)}


def text_of(model: Mapping[str, Any], keyword: str) -> str:
    """The values of an attribute as one text, as an element holds them; empty where it has none."""
    return element_text(model.get(key_of(keyword), {}))


def element_text(element: Mapping[str, Any]) -> str:
    """The values of an element as one text; None among them is an empty one."""
    spelt: Callable[[Any], str] = name_of if element.get("vr") == "PN" else str
    return "\\".join(spelt(v) if v not in (None, "") else "" for v in element.get("Value", ()))


def items_of(model: Mapping[str, Any], keyword: str) -> list[JsonModel]:
    """The items of a sequence, none where it is absent or empty."""
    return list(model.get(key_of(keyword), {}).get("Value", ()))
