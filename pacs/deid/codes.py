"""Coded entries: what a code means is written anew, from the standard's own words.

A code meaning is free text in disguise, and so is a code of a local scheme. So value and scheme
are kept only for public schemes, where the value has the scheme's own form or pydicom's
dictionary knows it; the meaning comes from that dictionary or repeats the value. Any other code
becomes one and the same dummy (PS3.3 8.8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from pacs.deid.elements import Codecs, element_of, strings

CODE_VALUE: Final = 0x00080100
SCHEME: Final = 0x00080102
SCHEME_VERSION: Final = 0x00080103
MEANING: Final = 0x00080104
LONG_CODE_VALUE: Final = 0x00080119
URN_CODE_VALUE: Final = 0x00080120

# The attributes of a coded entry that are decided together.
CODE_TAGS: Final = frozenset(
    {CODE_VALUE, SCHEME, SCHEME_VERSION, MEANING, LONG_CODE_VALUE, URN_CODE_VALUE}
)

# Public schemes whose codes have a form that leaves no room for a name. Codes of other schemes,
# such as UCUM with its free annotations, are kept only where pydicom's dictionary lists them.
_FORMS: Final[Mapping[str, re.Pattern[str]]] = {
    scheme: re.compile(form)
    for scheme, form in {
        "DCM": r"\d{6}",
        "FMA": r"\d{3,6}",
        "LN": r"\d{1,7}-\d",
        "NCIt": r"C\d{3,7}",
        "RADLEX": r"RID\d{1,7}",
        "SCT": r"\d{6,18}",
        "SRT": r"[A-Z]\d?-[0-9A-F]{4,6}",
        "UMLS": r"C\d{7}",
    }.items()
}
_VERSION: Final = re.compile(r"[0-9A-Z.]{1,16}")


class Code(NamedTuple):
    """A coded entry as it is written: in (0008,0119) if the value does not fit into an SH."""

    value: str
    scheme: str
    version: str
    meaning: str


DUMMY: Final = Code("REMOVED", "99ISOCENTER", "", "Removed")


def is_coded_entry(item: Dataset) -> bool:
    """Whether the item says anything as a code."""
    return any(tag in item for tag in CODE_TAGS)


def cleaned_code(item: Dataset, codecs: Codecs) -> Code:
    """The public code of an item with the standard's own meaning, or `DUMMY`."""
    scheme, value = _scheme_and_value(item, codecs)
    meaning = known_meaning(item, codecs)
    if not meaning and not (scheme in _FORMS and _FORMS[scheme].fullmatch(value)):
        return DUMMY
    version = _one(item, SCHEME_VERSION, codecs)
    return Code(value, scheme, version if _VERSION.fullmatch(version) else "", meaning or value)


def known_meaning(item: Dataset, codecs: Codecs) -> str:
    """What the dictionary says the code of an item means, whatever the item says; "" if nothing."""
    return meanings().get(_scheme_and_value(item, codecs), "")


def coded_entry(code: Code) -> list[DataElement]:
    """The elements of a coded entry (PS3.3 Table 8.8-1a)."""
    tag, vr = (CODE_VALUE, "SH") if len(code.value) <= 16 else (LONG_CODE_VALUE, "UC")
    version = [DataElement(SCHEME_VERSION, "SH", code.version)] if code.version else []
    return [
        DataElement(tag, vr, code.value),
        DataElement(SCHEME, "SH", code.scheme),
        *version,
        DataElement(MEANING, "LO", code.meaning[:64]),
    ]


@cache
def meanings() -> Mapping[tuple[str, str], str]:
    """The meaning of every code in pydicom's dictionary, by scheme and value."""
    return {
        (code.scheme_designator, code.value): code.meaning
        for scheme in codes.schemes()
        for code in getattr(codes, scheme).concepts.values()
    }


def _scheme_and_value(item: Dataset, codecs: Codecs) -> tuple[str, str]:
    value = _one(item, CODE_VALUE, codecs) or _one(item, LONG_CODE_VALUE, codecs)
    return _one(item, SCHEME, codecs), value


def _one(item: Dataset, tag: int, codecs: Codecs) -> str:
    element = element_of(item, tag)
    values = None if element is None else strings(element, codecs)
    return values[0] if values and len(values) == 1 else ""
