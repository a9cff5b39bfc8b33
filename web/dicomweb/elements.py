"""Attributes as elements of the DICOM JSON model (PS3.18 F.2), from values of ours.

Tag and VR come from PS3.6, so a service writes `element("RetrieveURL", url)` and no number.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.dicom.matching import PN_GROUPS

JsonElement = dict[str, Any]

_WHOLE_NUMBERS: Final = frozenset(["IS", "SL", "SS", "SV", "UL", "US", "UV"])


def element(keyword: str, *values: object) -> dict[str, JsonElement]:
    """One element by its tag; without values it is present and empty."""
    tag, vr = _tag_and_vr(keyword)
    found = [_value(vr, value) for value in values if value not in (None, "")]
    return {tag: {"vr": vr, "Value": found} if found else {"vr": vr}}


@cache
def _tag_and_vr(keyword: str) -> tuple[str, str]:
    tag = tag_for_keyword(keyword)
    assert tag is not None, f"{keyword} is no keyword of PS3.6"
    return f"{tag:08X}", dictionary_VR(tag)


def _value(vr: str, value: object) -> object:
    if vr == "PN":
        return person_name(str(value))
    if vr in _WHOLE_NUMBERS:
        return int(str(value))
    return value


def person_name(text: str) -> dict[str, str]:
    """`Alphabetic=Ideographic=Phonetic` as the object of F.2.2."""
    groups = zip(PN_GROUPS, text.split("="), strict=False)
    return {name.capitalize(): group for name, group in groups if group}
