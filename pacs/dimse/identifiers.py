"""Identifiers: the data sets in which C-FIND, C-GET and C-MOVE ask and are answered.

A request's identifier is a peer's word, so it is walked under limits before anything is made of it,
and every element becomes plain text. Answers are written by hand: a thousand of them a second, each
a dozen short elements, leave no time for pydicom's data sets.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydicom import charset
from pydicom.datadict import dictionary_VR

from pacs.decode.explicit import element, implicit_element
from pacs.dicom.data_sets import UNFIT, read_data_set
from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN, Buffer, Scan, decoded, scan
from pacs.errors import BadObject, BadQuery, Exhausted, Mismatch

IDENTIFIER_BYTES_MAX: Final = 16 << 20  # of a request; a longer one is refused (A700)
KEYS_MAX: Final = 1_024  # elements of a request, since answers repeat them; more: C000

SPECIFIC_CHARACTER_SET: Final = 0x00080005
FIRST_GROUP: Final = 0x0008  # what lies below is no data set's (PS3.7 6.3, PS3.10 7.1)

UTF_8: Final = ("ISO_IR 192",)
LATIN_1: Final = ("ISO_IR 100",)  # what ASCII is called for those who asked without a set

Value = str | int | tuple[str, ...] | None
Element = tuple[int, str, Value]  # tag, VR, value

_TEXT: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))  # in the set's own characters
_TO_ASCII: Final = b"\x1b(B"  # the escape sequence that ends what another began (PS3.3 C.12.1.1.2)
_DELIMITERS: Final = re.compile(r"([\\^=])")


class Key(NamedTuple):
    """One element of a request: its VR, and its value as text, empty for a sequence."""

    vr: str
    text: str


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
    _check_sequences(walked, encoded, transfer_syntax_uid)
    return Identifier(
        {tag: _key(walked, tag) for tag in walked.elements if _is_key(tag)}, _character_set(walked)
    )


def _is_key(tag: int) -> bool:
    is_group_length = not tag & 0xFFFF
    return tag >> 16 >= FIRST_GROUP and not is_group_length and tag != SPECIFIC_CHARACTER_SET


def _check_sequences(walked: Scan, encoded: Buffer, transfer_syntax_uid: str) -> None:
    filled = [tag for tag, one in walked.elements.items() if one.vr == "SQ" and one.length]
    if not filled:
        return
    data_set = read_data_set(encoded, transfer_syntax_uid)
    try:
        items = [len(data_set[tag].value) for tag in filled]
    except (*UNFIT, UserWarning) as error:
        raise BadObject("a sequence cannot be read") from error
    if max(items) > 1:
        raise Mismatch("a sequence has more than one item")


def _key(walked: Scan, tag: int) -> Key:
    try:
        vr = dictionary_VR(tag).partition(" or ")[0]
    except KeyError:
        vr = walked.elements[tag].vr
    if vr == "SQ" or walked.elements[tag].vr == "SQ":
        return Key("SQ", "")
    raw = walked.value(tag) or b""
    if vr == "US":
        return Key(vr, _number(raw))
    text = decoded(raw, walked.encodings) if vr in _TEXT else raw.decode("ascii", "replace")
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
    elements = list(elements)
    try:
        encoded = _encoded(elements, character_set)
        names = tuple(character_set) or LATIN_1
    except UnicodeError:
        encoded = _encoded(elements, UTF_8)
        names = UTF_8
    encoded.append((SPECIFIC_CHARACTER_SET, "CS", "\\".join(names).encode("ascii", "replace")))
    write = implicit_element if transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN else element
    return b"".join(write(tag, vr, raw) for tag, vr, raw in sorted(encoded))


def _encoded(
    elements: Iterable[Element], character_set: Sequence[str]
) -> list[tuple[int, str, bytes]]:
    codecs = _codecs(character_set)
    return [(tag, vr, _raw(vr, value, codecs)) for tag, vr, value in elements]


def _codecs(character_set: Sequence[str]) -> list[str]:
    """Python's codecs for a set; of a set without a name, and of one we do not know, ASCII."""
    known = {**charset.python_encoding, "": "ascii"}
    return [known.get(name, "ascii") for name in character_set] or ["ascii"]


def _raw(vr: str, value: Value, codecs: list[str]) -> bytes:
    if value is None or value == "" or vr == "SQ":
        return b""
    if isinstance(value, int):
        return struct.pack("<H", value & 0xFFFF) if vr == "US" else str(value).encode()
    text = "\\".join(value) if isinstance(value, tuple) else value
    if text.isascii():
        return text.encode()
    if vr not in _TEXT:
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
