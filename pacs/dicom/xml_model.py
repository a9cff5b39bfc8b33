"""A data set as XML, the Native DICOM Model, to and from DICOM JSON (PS3.19 A.1, PS3.18 F.1).

Both models say the same, so the JSON one is what the rest of the node works with, and this module
translates at the door. The reader trusts nothing: a document with a DTD is refused before any
entity of it could be expanded, elements stand only where PS3.19 has them, and depth and number are
bounded. Nothing here recurses into what a stranger wrote deeper than NESTING_MAX.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import dictionary_VR, keyword_for_tag

from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import ELEMENTS_MAX, NESTING_MAX
from pacs.errors import BadObject

NAMESPACE: Final = "http://dicom.nema.org/PS3.19/models/NativeDICOM"
XML_ELEMENTS_MAX: Final = 2 * ELEMENTS_MAX  # tags and values of one document; more are refused

_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_WHOLE_NUMBERS: Final = frozenset(["IS", "SL", "SS", "SV", "UL", "US", "UV"])
_FLOATS: Final = frozenset(["FD", "FL"])
# What JSON cannot say as a number, as PS3.18 F.2.3 and XML Schema spell it.
_XML_OF_FLOAT: Final = {"inf": "INF", "-inf": "-INF"}
_JSON_OF_FLOAT: Final = {"INF": "inf", "+INF": "inf", "-INF": "-inf", "NaN": "NaN"}

# XML 1.0 has no way to write these, not even escaped.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
_VR = re.compile(r"[A-Z]{2}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def xml_model(model: JsonModel) -> bytes:
    """The document of a data set that is given as DICOM JSON, encoded in UTF-8.

    A character that XML cannot hold, such as a form feed, becomes U+FFFD.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">',
        *_attributes(model),
        "</NativeDicomModel>",
    ]
    return "\n".join(lines).encode()


def _attributes(model: JsonModel) -> Iterator[str]:
    creators = _Creators(model)
    for tag, element in model.items():
        yield f"<DicomAttribute {_names(tag, element['vr'], creators)}>"
        yield from _content(element)
        yield "</DicomAttribute>"


def _names(tag: str, vr: str, creators: _Creators) -> str:
    """The attributes that name an element; a private one has no block of its own (A.1.5)."""
    creator = creators.of(tag)
    if creator:
        shown = creators.shown(tag)
        return f'tag="{shown}" vr="{vr}" privateCreator={quoteattr(_writable(creator))}'
    keyword = keyword_for_tag(int(tag, 16))
    known = f' keyword="{keyword}"' if keyword else ""
    return f'tag="{tag}" vr="{vr}"{known}'


class _Creators:
    """Who reserved which private block of one data set (PS3.5 7.8.1)."""

    def __init__(self, model: JsonModel) -> None:
        self._creators: dict[str, str] = {}
        self._first: dict[tuple[str, str], str] = {}
        for tag, element in model.items():
            if _is_creator(tag):
                values = element.get("Value") or [None]
                block, creator = tag[:4] + tag[6:], str(values[0] or "")
                self._creators[block] = creator
                self._first.setdefault((tag[:4], creator), block)

    def of(self, tag: str) -> str:
        """The creator of a private element, or nothing."""
        return self._creators.get(tag[:6], "") if _is_private(tag) else ""

    def shown(self, tag: str) -> str:
        """The tag without its block, unless its creator has reserved several."""
        is_first = self._first[tag[:4], self.of(tag)] == tag[:6]
        return f"{tag[:4]}00{tag[6:]}" if is_first else tag


def _is_odd(tag: str) -> bool:
    return bool(int(tag[3], 16) % 2)


def _is_private(tag: str) -> bool:
    return _is_odd(tag) and int(tag[4:], 16) >= 0x1000


def _is_creator(tag: str) -> bool:
    return _is_odd(tag) and 0x10 <= int(tag[4:], 16) <= 0xFF


def _content(element: Mapping[str, Any]) -> Iterator[str]:
    if "BulkDataURI" in element:
        yield f"<BulkData uri={quoteattr(_writable(element['BulkDataURI']))}/>"
    elif "InlineBinary" in element:
        yield f"<InlineBinary>{element['InlineBinary']}</InlineBinary>"
    for number, value in enumerate(element.get("Value") or (), start=1):
        yield from _value(element["vr"], number, value)


def _value(vr: str, number: int, value: Any) -> Iterator[str]:  # noqa: ANN401 - whatever JSON holds
    """One value; an empty one is told by the gap that its number leaves."""
    if vr == "SQ":
        yield f'<Item number="{number}">'
        yield from _attributes(value or {})
        yield "</Item>"
    elif value in (None, "", {}):
        return
    elif vr == "PN":
        groups = "".join(_name_group(group, value[group]) for group in _GROUPS if value.get(group))
        yield f'<PersonName number="{number}">{groups}</PersonName>'
    else:
        yield f'<Value number="{number}">{_text(vr, value)}</Value>'


def _text(vr: str, value: object) -> str:
    text = str(value)
    return _XML_OF_FLOAT.get(text, text) if vr in _FLOATS else _escaped(text)


def _name_group(group: str, text: str) -> str:
    components = zip(_COMPONENTS, text.split("^", len(_COMPONENTS) - 1), strict=False)
    inner = "".join(f"<{name}>{_escaped(part)}</{name}>" for name, part in components if part)
    return f"<{group}>{inner}</{group}>"


def _escaped(text: str) -> str:
    # A bare carriage return would be read as a line feed (XML 1.0, 2.11).
    return escape(_writable(text), {"\r": "&#13;"})


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", text)


def read_xml_model(document: bytes) -> JsonModel:
    """A document as DICOM JSON, its elements in the order of their tags. Raises BadObject.

    IS and the binary numbers become numbers, DS stays the text that it is (PS3.18 F.2.3). A private
    element that leaves its block open gets the one that its creator has reserved, or a free one.
    """
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_dtd
    parser.StartElementHandler = reader.begin
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(document, True)
    except (expat.ExpatError, LookupError, UnicodeError, ValueError) as error:
        raise BadObject("the document is not well-formed XML") from error
    assert reader.model is not None, "a well-formed document has a root"
    return reader.model


def _refuse_dtd(*_: object) -> None:
    raise BadObject("a document with a DTD is not read")


@dataclass(slots=True)
class _Open:
    """An XML element that the reader is inside of, and what its children came to."""

    name: str
    attributes: Mapping[str, str]
    children: list[tuple[str, Any]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class _Named(NamedTuple):
    """A read DicomAttribute."""

    tag: str
    creator: str
    element: JsonModel


# What may stand in what (PS3.19 A.1.6). The document itself goes by no name.
_INSIDE: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(["NativeDicomModel"]),
    **dict.fromkeys(["NativeDicomModel", "Item"], frozenset(["DicomAttribute"])),
    "DicomAttribute": frozenset(["Value", "PersonName", "Item", "BulkData", "InlineBinary"]),
    "PersonName": frozenset(_GROUPS),
    **dict.fromkeys(_GROUPS, frozenset(_COMPONENTS)),
}


class _Reader:
    """Takes a parser's events; each element becomes what it means when it ends."""

    def __init__(self) -> None:
        self.model: JsonModel | None = None
        self._open = [_Open("", {})]
        self._elements = 0
        self._depth = 0

    def begin(self, name: str, attributes: dict[str, str]) -> None:
        namespace, _, local = name.rpartition(" ")
        if local not in _INSIDE.get(self._open[-1].name, ()) or namespace not in ("", NAMESPACE):
            raise BadObject("an XML element stands where the Native DICOM Model has none such")
        self._depth += local == "Item"
        if self._depth > NESTING_MAX:
            raise BadObject("sequences are nested too deep", nesting_max=NESTING_MAX)
        self._count(1)
        self._open.append(_Open(local, attributes))

    def _count(self, more: int) -> None:
        self._elements += more
        if self._elements > XML_ELEMENTS_MAX:
            raise BadObject("the document has too many elements", elements_max=XML_ELEMENTS_MAX)

    def text(self, text: str) -> None:
        self._open[-1].text.append(text)

    def end(self, _name: str) -> None:
        ended = self._open.pop()
        self._depth -= ended.name == "Item"
        if ended.name in _NUMBERED:
            self._count_gap(ended)
        meaning = _MEANING.get(ended.name, _text_of)(ended)
        if ended.name == "NativeDicomModel":
            self.model = meaning
        else:
            self._open[-1].children.append((ended.name, meaning))

    def _count_gap(self, ended: _Open) -> None:
        """Numbers that are left out are values as well, so few bytes could ask for many."""
        self._count(max(0, _number(ended) - 1 - len(self._open[-1].children)))


def _data_set(opened: _Open) -> JsonModel:
    """The attributes of a document or an item, private ones in their blocks."""
    found: list[_Named] = [named for _, named in opened.children]
    model: JsonModel = {}
    for named in found:
        if not _is_open_block(named):
            _add(model, named.tag, named.element)
    for named in found:
        if _is_open_block(named):
            _add(model, named.tag[:4] + _block(model, named) + named.tag[6:], named.element)
    return dict(sorted(model.items()))


def _add(model: JsonModel, tag: str, element: JsonModel) -> None:
    if tag in model:
        raise BadObject("an element occurs twice")
    model[tag] = element


def _is_open_block(named: _Named) -> bool:
    return bool(named.creator) and _is_odd(named.tag) and named.tag[4:6] == "00"


def _block(model: JsonModel, named: _Named) -> str:
    """The two digits of the block that a creator has in a group; a free one is reserved."""
    group = named.tag[:4]
    for block in (f"{n:02X}" for n in range(0x10, 0x100)):
        reserved = model.setdefault(f"{group}00{block}", {"vr": "LO", "Value": [named.creator]})
        if reserved.get("Value") == [named.creator]:
            return block
    raise BadObject("a private group has no free block")


def _attribute(opened: _Open) -> _Named:
    tag = opened.attributes.get("tag", "").upper()
    if not _TAG.fullmatch(tag):
        raise BadObject("an attribute has no tag")
    vr = _vr(opened, tag)
    kinds = {name for name, _ in opened.children}
    element: JsonModel = {"vr": vr}
    if kinds == {_VALUE_NAME.get(vr, "Value")}:
        element["Value"] = _values(vr, [value for _, value in opened.children])
    elif kinds:
        element |= _binary(opened)
    return _Named(tag, opened.attributes.get("privateCreator", ""), element)


def _vr(opened: _Open, tag: str) -> str:
    """The VR as said, or as PS3.6 has it where nothing is said. Raises BadObject."""
    vr = opened.attributes.get("vr")
    if vr is None:
        try:
            vr = dictionary_VR(int(tag, 16))
        except KeyError:
            vr = "UN"
    if not _VR.fullmatch(vr):
        raise BadObject("an attribute has no value representation")
    return vr


def _binary(opened: _Open) -> JsonModel:
    """The one value of an element that is bytes, inline or by reference. Raises BadObject."""
    (name, value), *more = opened.children
    if more or name not in ("BulkData", "InlineBinary"):
        raise BadObject("an attribute has values that do not fit its VR or each other")
    return {"BulkDataURI" if name == "BulkData" else name: value}


def _values(vr: str, numbered: list[tuple[int, Any]]) -> list[Any]:
    """The values by their numbers; what no number names is empty. Raises BadObject."""
    found = dict(numbered)
    if len(found) < len(numbered):
        raise BadObject("two values have one number")
    convert = _CONVERT.get(vr, _as_it_is)
    try:
        return [convert(found.get(number)) for number in range(1, max(found) + 1)]
    except ValueError as error:
        raise BadObject("a value is no number") from error


def _as_it_is(value: Any) -> Any:  # noqa: ANN401 - text, a name, or nothing
    return value or None


def _item(value: JsonModel | None) -> JsonModel:
    return value or {}


def _whole_number(text: str | None) -> int | None:
    return int(text) if text and text.strip() else None


def _float(text: str | None) -> float | str | None:
    """A number, or the name of what is none, as `json_model` has it."""
    text = (text or "").strip()
    if not text or text in _JSON_OF_FLOAT:
        return _JSON_OF_FLOAT.get(text)
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_VALUE_NAME: Final = {"SQ": "Item", "PN": "PersonName"}
_CONVERT: Final[Mapping[str, Callable[[Any], Any]]] = {
    "SQ": _item,
    "PN": _item,
    **dict.fromkeys(_WHOLE_NUMBERS, _whole_number),
    **dict.fromkeys(_FLOATS, _float),
}


def _number(opened: _Open) -> int:
    """Which of several values this is, from 1. Raises BadObject."""
    number = opened.attributes.get("number", "1")
    if not _NUMBER.fullmatch(number):
        raise BadObject("a value's number is none")
    return int(number)


def _text_of(opened: _Open) -> str:
    return "".join(opened.text)


def _numbered(meaning: Callable[[_Open], Any]) -> Callable[[_Open], tuple[int, Any]]:
    """The meaning of one of several values, with its number."""
    return lambda opened: (_number(opened), meaning(opened))


def _person_name(opened: _Open) -> dict[str, str]:
    return {name: text for name, text in opened.children if text}


def _group(opened: _Open) -> str:
    """`Family^Given^Middle^Prefix^Suffix` as far as it is filled."""
    parts: dict[str, str] = dict(opened.children)
    return "^".join(parts.get(name, "") for name in _COMPONENTS).rstrip("^")


def _uri(opened: _Open) -> str:
    """Bulk data are found by URI; a UUID of theirs would mean nothing here. Raises BadObject."""
    uri = opened.attributes.get("uri", "")
    if not uri:
        raise BadObject("bulk data have no URI")
    return uri


def _base64(opened: _Open) -> str:
    text = "".join(_text_of(opened).split())
    if not _BASE64.fullmatch(text) or len(text) % 4:
        raise BadObject("inline binary is not base64")
    return text


_NUMBERED: Final = frozenset(["Value", "PersonName", "Item"])
# What the elements of a document come to; those that are not here come to their text.
_MEANING: Final[Mapping[str, Callable[[_Open], Any]]] = {
    "NativeDicomModel": _data_set,
    "Item": _numbered(_data_set),
    "DicomAttribute": _attribute,
    "Value": _numbered(_text_of),
    "PersonName": _numbered(_person_name),
    **dict.fromkeys(_GROUPS, _group),
    "BulkData": _uri,
    "InlineBinary": _base64,
}
