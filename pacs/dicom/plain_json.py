"""Plain JSON with DICOM's keywords, as people and other programs write it, and DICOM JSON.

    {"PatientName": "Phantom^One", "ScheduledProcedureStepSequence": [{"Modality": "CT"}]}

A value is a text, a number, an object for an item, or a list of these. It is judged by its VR
(PS3.5 6.2): what a scanner could not be told is refused here, with the place where it stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any, Final

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from pacs.dicom import uids
from pacs.dicom.json_model import JsonModel
from pacs.dicom.small_sets import (
    LEVELS_MAX,
    NUMBERS,
    TEXTS,
    described,
    name_groups,
    name_of,
    vr_of,
)
from pacs.errors import BadQuery

ELEMENTS_MAX: Final = 1_024  # of one object and what it holds; more are refused
VALUES_MAX: Final = 256  # of one element; more are refused
TEXT_CHARACTERS_MAX: Final = 10_240  # of a text whose VR says nothing else; longer: refused

_CHARACTERS_MAX: Final = {"LO": 64, "SH": 16, "ST": 1024, "LT": 10_240}
_NAME_CHARACTERS_MAX: Final = 64  # of each component group (PS3.5 6.2)
_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_SHAPES: Final = {
    "AE": re.compile(r"[ -\[\]-~]{1,16}"),
    "AS": re.compile(r"[0-9]{3}[DWMY]"),
    "CS": re.compile(r"[A-Z0-9 _]{1,16}"),
    "DS": re.compile(rf"(?=.{{1,16}}\Z){_NUMBER.pattern}", re.ASCII),
    "DT": re.compile(r"\d{4}(\d{2}){0,5}(\.\d{1,6})?([+-]\d{4})?", re.ASCII),
    "IS": re.compile(r"[+-]?\d{1,11}", re.ASCII),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", re.ASCII),
}
_INTEGERS: Final = {
    "SL": (-(1 << 31), (1 << 31) - 1),
    "SS": (-(1 << 15), (1 << 15) - 1),
    "SV": (-(1 << 63), (1 << 63) - 1),
    "UL": (0, (1 << 32) - 1),
    "US": (0, (1 << 16) - 1),
    "UV": (0, (1 << 64) - 1),
}


def model_of(plain: Mapping[str, object]) -> JsonModel:
    """Plain JSON as DICOM JSON. Raises BadQuery, which names the place."""
    counted = [0]
    return _model(plain, "", counted)


def _model(plain: Mapping[str, object], where: str, counted: list[int]) -> JsonModel:
    model: JsonModel = {}
    for keyword, given in plain.items():
        place = f"{where}{_shown(keyword)}"
        counted[0] += 1
        if counted[0] > ELEMENTS_MAX:
            raise BadQuery(f"more than {ELEMENTS_MAX} attributes are given")
        tag = tag_for_keyword(keyword)
        if tag is None or not tag & 0xFFFF or tag >> 16 < 8 or keyword == "SpecificCharacterSet":
            raise BadQuery(f"{place} is no attribute that can be given here")
        model[f"{tag:08X}"] = _element(vr_of(tag), _listed(given, place), place, counted)
    return dict(sorted(model.items()))


def _shown(keyword: str) -> str:
    """A keyword for a message: what is none may be anything, a patient's name among it."""
    return keyword if tag_for_keyword(keyword) is not None else "what is no keyword of DICOM"


def _listed(given: object, place: str) -> list[object]:
    values = given if isinstance(given, list) else [] if given in (None, "") else [given]
    if len(values) > VALUES_MAX:
        raise BadQuery(f"{place} has more than {VALUES_MAX} values")
    return values


def _element(vr: str, values: list[object], place: str, counted: list[int]) -> JsonModel:
    if vr == "SQ":
        if place.count("[") >= LEVELS_MAX:
            raise BadQuery(f"{place} is nested too deep")
        items = [_item(value, f"{place}[{n}]", counted) for n, value in enumerate(values)]
        return described(vr, items)
    return described(vr, [_value(vr, value, place) for value in values])


def _item(value: object, place: str, counted: list[int]) -> JsonModel:
    if not isinstance(value, dict):
        raise BadQuery(f"{place} is no object")
    return _model(value, f"{place}.", counted)


def _value(vr: str, value: object, place: str) -> Any:  # noqa: ANN401 - as its VR has it
    if isinstance(value, bool):
        raise BadQuery(f"{place} is neither a text nor a number")
    if vr in NUMBERS:
        return _number(vr, value, place)
    if vr not in TEXTS:
        raise BadQuery(f"{place} holds bytes, which cannot be given here")
    if isinstance(value, int | float) and vr in ("DS", "IS"):
        value = str(value)
    if not isinstance(value, str):
        raise BadQuery(f"{place} is no text")
    text = value.strip(" ")
    if not fits(vr, text):
        raise BadQuery(f"{place} is not a value of {vr}")
    return name_groups(text) if vr == "PN" else text


def _number(vr: str, value: object, place: str) -> int | float:
    if vr in _INTEGERS and isinstance(value, int):
        first, last = _INTEGERS[vr]
        if first <= value <= last:
            return value
    elif vr in ("FD", "FL") and isinstance(value, int | float) and abs(value) < 1e38:  # nor NaN
        return float(value)
    raise BadQuery(f"{place} is not a number of {vr}")


def fits(vr: str, text: str) -> bool:
    """Whether one value may stand in an element of a VR whose values are texts."""
    if not _is_printable(vr, text):
        return False
    if vr in _CHECKS:
        return _CHECKS[vr](text)
    if vr in _SHAPES:
        return _SHAPES[vr].fullmatch(text) is not None
    return len(text) <= _CHARACTERS_MAX.get(vr, TEXT_CHARACTERS_MAX)


def _is_printable(vr: str, text: str) -> bool:
    """Whether a text holds no character that its VR may not: controls, and mostly backslashes."""
    if vr in ("LT", "ST", "UT"):
        return all(c.isprintable() or c in "\t\n\f\r" for c in text)
    return "\\" not in text and text.isprintable()


def _is_name(text: str) -> bool:
    groups = text.split("=")
    return len(groups) <= 3 and all(len(group) <= _NAME_CHARACTERS_MAX for group in groups)


def _is_day(text: str) -> bool:
    if not re.fullmatch(r"\d{8}", text, re.ASCII):
        return False
    try:
        date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return True


_CHECKS: Final[Mapping[str, Callable[[str], bool]]] = {
    "DA": _is_day,
    "PN": _is_name,
    "UI": uids.is_valid,
}


def plain_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """DICOM JSON as plain JSON: one value stands alone; private elements and bytes are left out."""
    return {
        keyword: _plain(element)
        for key, element in model.items()
        if (keyword := keyword_for_tag(int(key, 16))) and "InlineBinary" not in element
    }


def _plain(element: Mapping[str, Any]) -> Any:  # noqa: ANN401 - text, number, list or object
    values: Iterable[Any] = element.get("Value", ())
    if element["vr"] == "SQ":
        return [plain_of(item) for item in values]
    plain = [name_of(value) if element["vr"] == "PN" else value for value in values]
    return plain if len(plain) > 1 else plain[0] if plain else ""
