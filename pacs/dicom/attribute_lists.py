"""Attribute lists: what the N-services and UPS-RS carry, as DICOM JSON that may be believed.

Both doors bring attributes of an object that is no instance: DIMSE as an encoded data set (PS3.7
10.1), HTTP as DICOM JSON (PS3.18 F). Here either becomes the same JSON model, in which every value
has been checked against its VR, so that whatever is kept can leave by either door again.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

import pydicom
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from pacs.dicom import uids
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.json_model import JsonModel, json_model
from pacs.dicom.matching import PN_GROUPS
from pacs.dicom.part10 import Buffer, scan
from pacs.errors import BadObject, Exhausted

LIST_BYTES_MAX: Final = 1 << 20  # of one list as it comes; a longer one is refused
DEPTH_MAX: Final = 16  # sequences inside sequences; deeper ones are refused
ELEMENTS_MAX: Final = 10_000  # elements at all depths; more are refused
SHORT_VALUE_BYTES_MAX: Final = (
    0xFFFE  # of a VR with a length of 16 bits (PS3.5 7.1.2); more: refused
)
UTF_8: Final = "ISO_IR 192"  # the character set of JSON (PS3.18 F.2), and so of every list

SPECIFIC_CHARACTER_SET: Final = "00080005"

_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")
_TIME_OF_DAY: Final = r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"
_PLAIN: Final = re.compile(r"[ -\[\]-~]{0,64}")
_SHAPES: Final = {
    "AE": re.compile(r"[ -\[\]-~]{0,16}"),
    "AS": re.compile(r"\d{3}[DWMY]"),
    "AT": _TAG,
    "CS": re.compile(r"[ -\[\]-~]{0,16}"),
    "DA": re.compile(r"\d{8}"),
    "DT": re.compile(rf"\d{{4}}(\d{{2}}(\d{{2}}({_TIME_OF_DAY})?)?)?([+-]\d{{4}})?"),
    "TM": re.compile(_TIME_OF_DAY),
}
_TEXTS: Final = frozenset(["LO", "LT", "SH", "ST", "UC", "UR", "UT"])
_UNSPLIT: Final = frozenset(
    ["LT", "ST", "UR", "UT"]
)  # one value, in which a backslash is a character
_BINARY: Final = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "UN"])
_LONG_FORM: Final = _BINARY | {"SQ", "SV", "UC", "UR", "UT", "UV"}
_WHOLE: Final = {
    "IS": (-(1 << 31), (1 << 31) - 1),
    "SL": (-(1 << 31), (1 << 31) - 1),
    "SS": (-(1 << 15), (1 << 15) - 1),
    "SV": (-(1 << 63), (1 << 63) - 1),
    "UL": (0, (1 << 32) - 1),
    "US": (0, (1 << 16) - 1),
    "UV": (0, (1 << 64) - 1),
}
_REAL: Final = frozenset(["DS", "FD", "FL"])
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]")


def parse(body: bytes) -> JsonModel:
    """The one attribute list of a JSON body, itself or in an array (PS3.18 F.2.1).

    Raises Exhausted for a body that is too long, BadObject for what is no such list.
    """
    _check_length(len(body))
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BadObject("the body is no JSON") from error
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    return checked(found)


def _no_number(_: str) -> NoReturn:
    raise ValueError


def read(encoded: Buffer, transfer_syntax_uid: str) -> JsonModel:
    """The attribute list that a DIMSE message carries; empty where it carries none.

    Raises Exhausted for one that is too long, BadObject for one that cannot be read whole.
    """
    length = len(memoryview(encoded))
    _check_length(length)
    if not length:
        return {}
    walked = scan(encoded, transfer_syntax_uid)
    model = json_model(read_data_set(encoded, transfer_syntax_uid), lambda _: "")
    missing = [t for t in walked.elements if t & 0xFFFF and f"{t:08X}" not in model]
    if missing:
        raise BadObject(
            "an attribute has a value that does not fit its VR", tag=f"{missing[0]:08X}"
        )
    return checked(model)


def _check_length(length: int) -> None:
    if length > LIST_BYTES_MAX:
        raise Exhausted("the attribute list is too long", bytes_max=LIST_BYTES_MAX)


def checked(model: object) -> JsonModel:
    """The same list, its tags in order and in upper case, every value fit for its VR.

    An attribute that PS3.6 knows has the VR of PS3.6, whatever is said. Raises BadObject.
    """
    found: JsonModel = {}
    waiting: list[tuple[object, JsonModel, int]] = [(model, found, 0)]
    elements = 0
    while waiting:
        source, target, depth = waiting.pop()
        if not isinstance(source, Mapping):
            raise BadObject("an attribute list, or an item, is not an object")
        elements += len(source)
        if depth > DEPTH_MAX or elements > ELEMENTS_MAX:
            raise BadObject("the attribute list has too many attributes, or nests too deep")
        for name in sorted(source, key=lambda name: str(name).upper()):
            tag = _tag(name)
            vr = _vr(tag, source[name])
            if vr == "SQ":
                items = _values(tag, source[name])
                inner: list[JsonModel] = [{} for _ in items]
                target[tag] = {"vr": "SQ", "Value": inner} if inner else {"vr": "SQ"}
                waiting += (
                    (item or {}, made, depth + 1) for item, made in zip(items, inner, strict=True)
                )
            else:
                target[tag] = _element(tag, vr, source[name])
    found.pop(SPECIFIC_CHARACTER_SET, None)
    return found


def _tag(name: object) -> str:
    if not isinstance(name, str) or not _TAG.fullmatch(name):
        raise BadObject("an attribute's name is not a tag of eight hexadecimal digits")
    tag = name.upper()
    if int(tag[:4], 16) < 0x0008 or tag[4:] == "0000":
        raise BadObject("an attribute does not belong into a data set", tag=tag)
    return tag


def _vr(tag: str, element: object) -> str:
    if not isinstance(element, Mapping):
        raise BadObject("an attribute is not an object", tag=tag)
    given = str(element.get("vr", ""))
    try:
        known = dictionary_VR(int(tag, 16)).split(" or ")
    except KeyError:
        known = [given]
    vr = given if given in known else known[0]
    if vr not in _KNOWN:
        raise BadObject("an attribute has no VR of PS3.5", tag=tag)
    return vr


def _values(tag: str, element: Mapping[str, Any]) -> list[Any]:
    values = element.get("Value", [])
    if not isinstance(values, list) or "BulkDataURI" in element:
        raise BadObject("an attribute's values are not in an array", tag=tag)
    return values


def _element(tag: str, vr: str, element: Mapping[str, Any]) -> JsonModel:
    if vr in _BINARY:
        return _binary(tag, vr, element)
    values = _values(tag, element)
    if len(values) > 1 and vr in _UNSPLIT:
        raise BadObject("an attribute has more values than its VR allows", tag=tag)
    kept = [None if _is_empty(vr, value) else _value(tag, vr, value) for value in values]
    written = len(json.dumps(kept, ensure_ascii=False).encode(errors="replace"))
    if vr not in _LONG_FORM and written > SHORT_VALUE_BYTES_MAX:
        raise BadObject("an attribute's value is too long for its VR", tag=tag)
    return {"vr": vr, "Value": kept} if any(v is not None for v in kept) else {"vr": vr}


def _is_empty(vr: str, value: object) -> bool:
    """Whether there is nothing in a value; spaces around a code or a date mean nothing."""
    if isinstance(value, str) and vr in _SHAPES:
        return not value.strip()
    return value in (None, "", {})


def _binary(tag: str, vr: str, element: Mapping[str, Any]) -> JsonModel:
    text = element.get("InlineBinary", "")
    if "BulkDataURI" in element or element.get("Value") or not isinstance(text, str):
        raise BadObject("an attribute's bytes are not inline", tag=tag)
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadObject("an attribute's bytes are not base64", tag=tag) from error
    return {"vr": vr, "InlineBinary": text} if text else {"vr": vr}


def _value(tag: str, vr: str, value: object) -> object:
    kept = _CHECKS[vr](vr, value)
    if kept is None:
        raise BadObject("an attribute has a value that does not fit its VR", tag=tag)
    return kept


def _shaped(vr: str, value: object) -> str | None:
    text = value.strip() if isinstance(value, str) else None
    return text if text and _SHAPES[vr].fullmatch(text) else None


def _uid(_: str, value: object) -> str | None:
    text = value.strip(" \0") if isinstance(value, str) else ""
    return text if uids.is_valid(text) else None


def _text(vr: str, value: object) -> str | None:
    if not isinstance(value, str) or _CONTROL.search(value) or not _is_encodable(value):
        return None
    return None if "\\" in value and vr not in _UNSPLIT else value


def _is_encodable(text: str) -> bool:
    """Whether there are no halves of characters in a text, as JSON may escape them."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _name(_: str, value: object) -> dict[str, str] | None:
    if isinstance(value, str):
        value = dict(zip(_GROUPS, value.split("="), strict=False))
    if not isinstance(value, Mapping) or not value.keys() <= set(_GROUPS):
        return None
    groups = {group: _text("PN", value.get(group) or "") for group in _GROUPS}
    if any(text is None or "=" in text for text in groups.values()):
        return None
    return {group: text for group, text in groups.items() if text}


def _whole(vr: str, value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,20}\s*", value, re.ASCII):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    least, most = _WHOLE[vr]
    return value if least <= value <= most else None


def _real(vr: str, value: object) -> float | None:
    if isinstance(value, str) and re.fullmatch(
        r"\s*[+-]?[\d.]+([eE][+-]?\d+)?\s*", value, re.ASCII
    ):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < (3.4e38 if vr == "FL" else 1e300) else None


_GROUPS: Final = tuple(group.capitalize() for group in PN_GROUPS)
_CHECKS: Final[Mapping[str, Callable[[str, object], object]]] = {
    **dict.fromkeys(_SHAPES, _shaped),
    **dict.fromkeys(_TEXTS, _text),
    **dict.fromkeys(_WHOLE, _whole),
    **dict.fromkeys(_REAL, _real),
    "PN": _name,
    "UI": _uid,
}
_KNOWN: Final = _CHECKS.keys() | _BINARY | {"SQ"}


def data_set(model: JsonModel) -> Dataset:
    """A checked list as pydicom's data set, in UTF-8."""
    made = _data_set(model)
    made.SpecificCharacterSet = UTF_8
    return made


def _data_set(model: JsonModel) -> Dataset:
    made = Dataset()
    for name, element in model.items():
        vr, tag = element["vr"], Tag(int(name, 16))
        made[tag] = DataElement(
            tag, vr, _pydicom_value(element), validation_mode=pydicom.config.IGNORE
        )
    return made


def _pydicom_value(element: JsonModel) -> object:
    vr, values = element["vr"], element.get("Value", [])
    if vr == "SQ":
        return [_data_set(item) for item in values]
    if vr in _BINARY:
        raw = base64.b64decode(element.get("InlineBinary", ""))
        return raw + b"\0" * (len(raw) % 2)
    written: Callable[[Any], object] = _PYDICOM.get(vr, _same)
    made = [written(value) for value in values if value is not None]
    return made[0] if len(made) == 1 else made or None


def _same(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    return value


def _decimal(value: float) -> str:
    text = repr(value)
    return text if len(text) <= 16 else f"{value:.9g}"  # DS has at most 16 characters (PS3.5 6.2)


_PYDICOM: Final[Mapping[str, Callable[[Any], object]]] = {
    "PN": lambda name: "=".join(name.get(group, "") for group in _GROUPS).rstrip("="),
    "DS": _decimal,
    "AT": lambda text: int(text, 16),
}


def tag_of(keyword: str) -> str:
    """The name of an attribute in the JSON model."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, f"{keyword} is no keyword of PS3.6"
    return f"{tag:08X}"


def element(keyword: str, *values: object) -> JsonModel:
    """One attribute by its tag, with values in the form of the JSON model; empty without any."""
    vr = dictionary_VR(int(tag_of(keyword), 16))
    return {tag_of(keyword): {"vr": vr, "Value": list(values)} if values else {"vr": vr}}


def values(model: JsonModel, keyword: str) -> list[Any]:
    """The values of an attribute, none where it is absent or empty."""
    found = model.get(tag_of(keyword), {}).get("Value", [])
    return [value for value in found if value is not None]


def first(model: JsonModel, keyword: str) -> str:
    """The first value of an attribute as text, empty without one."""
    found = values(model, keyword)
    return str(found[0]) if found else ""


def only(model: JsonModel, keywords: Iterable[str]) -> JsonModel:
    """Those attributes of a list that are there."""
    wanted = {tag_of(keyword) for keyword in keywords}
    return {tag: element for tag, element in model.items() if tag in wanted}
