"""Is a value what its VR promises? Where it is, no name fits into it.

Explicit VRs are claims of the sender, and a value may be text under the tag of a number. So
values that are kept are first held against the form of the dictionary's VR (PS3.5 6.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from pacs.deid.elements import Element

TEXT_CHARACTERS_MAX: Final = 64  # the longest LO; a longer technical text is taken for prose

_NUMBER_BYTES: Final[Mapping[str, int]] = {
    **dict.fromkeys(["SS", "US", "US or SS"], 2),
    **dict.fromkeys(["AT", "FL", "SL", "UL"], 4),
    **dict.fromkeys(["FD", "SV", "UV"], 8),
}
_NUMERALS: Final = b"0123456789+-.eE \\\0"

# Upper case, digits, blank and underscore; six digits in a row are no code but a number of
# somebody or a date.
_CODE_STRING: Final = re.compile(r"(?!.*\d{6})[A-Z0-9 _]{0,16}")
_UNREAL: Final = re.compile(r"[\x00-\x1f\x7f]")


def is_number(element: Element, vr: str) -> bool:
    """Whether the value is a number of the VR, or several."""
    value = element.value
    if isinstance(element, RawDataElement):
        if vr in ("DS", "IS"):
            return not (value or b"").translate(None, _NUMERALS)
        return element.VR in (None, "UN", *vr.split(" or ")) and _is_whole(value or b"", vr)
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return all(v is None or v == "" or _is_numeral(v, vr) for v in values)


def cleaned_code_string(value: str) -> str:
    """The value, or a constant in place of one that cannot be a code string."""
    return value if _CODE_STRING.fullmatch(value) else "REMOVED"


def is_clean_text(values: tuple[str, ...]) -> bool:
    """Whether every value is one short line of printable text."""
    return not any(len(v) > TEXT_CHARACTERS_MAX or _UNREAL.search(v) for v in values)


def _is_whole(value: bytes, vr: str) -> bool:
    return len(value) % _NUMBER_BYTES[vr] == 0


def _is_numeral(value: object, vr: str) -> bool:
    if vr in ("DS", "IS"):
        return not str(value).encode().translate(None, _NUMERALS)
    return isinstance(value, int | float)
