"""Identifiers: the data sets in which C-FIND, C-GET and C-MOVE ask and are answered.

A request's identifier is a peer's word, so it is walked under limits before anything is made of it,
and every element becomes plain text. Answers are written by hand: a thousand of them a second, each
a dozen short elements, leave no time for pydicom's data sets.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydicom import charset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.decode.explicit import element, implicit_element
from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN, Buffer, Scan, decoded, scan
from pacs.dicom.small_sets import FIRST_GROUP, NUMBERS, OWN_CHARACTER_SET, element_text
from pacs.errors import BadQuery, Exhausted, Mismatch

IDENTIFIER_BYTES_MAX: Final = 16 << 20  # of a request; a longer one is refused (A700)
KEYS_MAX: Final = 1_024  # elements of a request, since answers repeat them; more: C000
KEY_LEVELS_MAX: Final = 4  # of keys inside items; what lies deeper is no key

SPECIFIC_CHARACTER_SET: Final = 0x00080005
UTF_8: Final = ("ISO_IR 192",)
LATIN_1: Final = ("ISO_IR 100",)  # what ASCII is called for those who asked without a set

Item = Sequence["Element"]
Value = str | int | bytes | tuple[str, ...] | list[Item] | None  # bytes are as they are written
Element = tuple[int, str, Value]  # tag, VR, value; the value of a sequence is a list of items
Write = Callable[[int, str, bytes], bytes]

_TO_ASCII: Final = b"\x1b(B"  # the escape sequence that ends what another began (PS3.3 C.12.1.1.2)
_DELIMITERS: Final = re.compile(r"([\\^=])")


class Key(NamedTuple):
    """One element of a request: its VR, and its value as text, empty for a sequence, which has the
    keys of its item."""

    vr: str
    text: str
    item: Mapping[int, Key] = {}


@dataclass(frozen=True, slots=True)
class Identifier:
    """What a request holds: its elements by tag, and its Specific Character Set."""

    keys: Mapping[int, Key]
    character_set: tuple[str, ...] = ()


def read_identifier(encoded: Buffer, transfer_syntax_uid: str) -> Identifier:
    """The identifier of a request.

    Raises Mismatch for none and for a sequence of more than one item (PS3.4 C.2.2.2.6), BadObject
    or BadQuery for one that cannot be read, Exhausted for one that is too long.
    """
    if not len(memoryview(encoded)):
        raise Mismatch("there is no identifier")
    if len(memoryview(encoded)) > IDENTIFIER_BYTES_MAX:
        raise Exhausted("the identifier is too long", bytes_max=IDENTIFIER_BYTES_MAX)
    walked = scan(encoded, transfer_syntax_uid)
    if len(walked.elements) > KEYS_MAX:
        raise BadQuery("the identifier has too many keys", keys_max=KEYS_MAX)
    return Identifier(_keys(walked, walked.encodings, transfer_syntax_uid), _character_set(walked))


def _keys(
    walked: Scan, encodings: list[str], transfer_syntax_uid: str, level: int = 0
) -> dict[int, Key]:
    keys = {tag: _key(walked, tag, encodings) for tag in walked.elements if _is_key(tag)}
    for tag, key in keys.items():
        if key.vr == "SQ":
            items = walked.items(tag)
            inner = _item_keys(items, encodings, transfer_syntax_uid, level + 1)
            keys[tag] = key._replace(item=inner)
    return keys


def _item_keys(
    items: Sequence[memoryview], encodings: list[str], transfer_syntax_uid: str, level: int
) -> dict[int, Key]:
    """The keys inside a sequence. Raises Mismatch for more than one item (PS3.4 C.2.2.2.6)."""
    if len(items) > 1:
        raise Mismatch("a sequence has more than one item")
    if not items or not len(items[0]) or level > KEY_LEVELS_MAX:
        return {}
    walked = scan(items[0], transfer_syntax_uid)
    if len(walked.elements) > KEYS_MAX:
        raise BadQuery("the identifier has too many keys", keys_max=KEYS_MAX)
    if SPECIFIC_CHARACTER_SET in walked.elements:
        encodings = walked.encodings
    return _keys(walked, encodings, transfer_syntax_uid, level)


def _is_key(tag: int) -> bool:
    is_group_length = not tag & 0xFFFF
    return tag >> 16 >= FIRST_GROUP and not is_group_length and tag != SPECIFIC_CHARACTER_SET


def _key(walked: Scan, tag: int, encodings: list[str]) -> Key:
    try:
        vr = dictionary_VR(tag).partition(" or ")[0]
    except KeyError:
        vr = walked.elements[tag].vr
    if vr == "SQ" or walked.elements[tag].vr == "SQ":
        return Key("SQ", "")
    raw = walked.value(tag) or b""
    if vr == "US":
        return Key(vr, _number(raw))
    text = decoded(raw, encodings) if vr in OWN_CHARACTER_SET else raw.decode("ascii", "replace")
    return Key(vr, text.strip(" \0"))


def _number(raw: bytes) -> str:
    if len(raw) not in (0, 2):
        raise BadQuery("a number has not the length of its VR")
    return str(int.from_bytes(raw, "little")) if raw else ""


def _character_set(walked: Scan) -> tuple[str, ...]:
    raw = walked.value(SPECIFIC_CHARACTER_SET) or b""
    names = tuple(name.strip() for name in raw.decode("ascii", "replace").strip(" \0").split("\\"))
    return names if any(names) else ()


def write_identifier(
    elements: Iterable[Element], transfer_syntax_uid: str, character_set: Sequence[str] = ()
) -> bytes:
    """Elements, in the order of their tags, as an identifier that names its character set.

    That is `character_set` if every value fits it, else ISO_IR 192 (PS3.4 C.4.1.1.3.2). Without a
    set, ASCII fits.
    """
    write = implicit_element if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN else element
    elements = list(elements)
    try:
        encoded = _encoded(elements, _codecs(character_set), write)
        names = tuple(character_set) or LATIN_1
    except UnicodeError:
        encoded = _encoded(elements, _codecs(UTF_8), write)
        names = UTF_8
    encoded.append((SPECIFIC_CHARACTER_SET, "CS", "\\".join(names).encode("ascii", "replace")))
    return b"".join(write(tag, vr, raw) for tag, vr, raw in sorted(encoded))


def _encoded(
    elements: Iterable[Element], codecs: list[str], write: Write
) -> list[tuple[int, str, bytes]]:
    return [
        (tag, vr, _items(value, codecs, write) if vr == "SQ" else _raw(vr, value, codecs))
        for tag, vr, value in elements
    ]


def _items(value: Value, codecs: list[str], write: Write) -> bytes:
    """The items of a sequence, each with its length (PS3.5 7.5)."""
    encoded = b""
    for item in value if isinstance(value, list) else ():
        content = b"".join(write(*inner) for inner in sorted(_encoded(item, codecs, write)))
        encoded += struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
    return encoded


def _codecs(character_set: Sequence[str]) -> list[str]:
    """Python's codecs for a set; of a set without a name, and of one we do not know, ASCII."""
    known = {**charset.python_encoding, "": "ascii"}
    return [known.get(name, "ascii") for name in character_set] or ["ascii"]


def _raw(vr: str, value: Value, codecs: list[str]) -> bytes:
    if not value and value != 0:
        return b""
    if isinstance(value, bytes):
        return value
    assert not isinstance(value, list), "a sequence is not written here"
    if isinstance(value, int):
        return struct.pack("<H", value & 0xFFFF) if vr == "US" else str(value).encode()
    text = "\\".join(value) if isinstance(value, tuple) else value or ""
    if text.isascii():
        return text.encode()
    if vr not in OWN_CHARACTER_SET:
        return text.encode("ascii", "replace")
    return text.encode(codecs[0]) if len(codecs) == 1 else _with_escapes(text, codecs)


def _with_escapes(text: str, codecs: list[str]) -> bytes:
    """Text in several sets, each begun by its escape sequence; delimiters end it (PS3.5 6.1.2.5).

    Raises UnicodeError for text that fits none of them.
    """
    try:
        raw = b"".join(_escaped(part, codecs) for part in _DELIMITERS.split(text))
        readable = decoded(raw, ["iso8859" if codec == "ascii" else codec for codec in codecs])
    except (LookupError, UserWarning) as error:
        raise UnicodeError from error
    if readable != text:
        raise UnicodeError
    return raw


def _escaped(part: str, codecs: list[str]) -> bytes:
    raw = charset.encode_string(part, codecs)
    return raw + _TO_ASCII if codecs[0] == "ascii" and b"\x1b" in raw else raw


def elements_of(model: Mapping[str, Any]) -> list[Element]:
    """DICOM JSON as elements to be written."""
    return [_element_of(int(key, 16), described) for key, described in model.items()]


def _element_of(tag: int, described: Mapping[str, Any]) -> Element:
    vr, values = str(described["vr"]), described.get("Value", [])
    if vr == "SQ":
        return tag, vr, [elements_of(item) for item in values]
    if vr in NUMBERS:
        return tag, vr, struct.pack(f"<{len(values)}{NUMBERS[vr]}", *values)
    if "InlineBinary" in described:
        return tag, vr, base64.b64decode(described["InlineBinary"])
    return tag, vr, element_text(described)


def answered(keys: Mapping[int, Key], model: Mapping[str, Any]) -> Iterator[Element]:
    """The elements of DICOM JSON that keys ask for; what it lacks is empty (PS3.4 C.4.1.1.3.2).

    A sequence that is asked for without keys in it comes whole.
    """
    for tag, key in keys.items():
        described = model.get(f"{tag:08X}")
        if described is None:
            yield tag, key.vr, None
        elif key.item and described["vr"] == "SQ":
            items = described.get("Value", ())
            yield tag, "SQ", [list(answered(key.item, item)) for item in items]
        else:
            yield _element_of(tag, described)


def tag_of(keyword: str) -> int:
    """The tag of a keyword of PS3.6."""
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return tag
