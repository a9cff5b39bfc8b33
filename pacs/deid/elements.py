"""Reading elements without touching the data set they stand in.

pydicom decodes a value when it is first looked at and remembers it in the data set. The engine
promises not to change its input, and it wants most values as the bytes they are, so values are
read through these functions only. Text is decoded strictly: what does not decode in the character
sets that its own item declares has no reading at all (PS3.5 6.1.2).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, python_encoding
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.values import convert_SQ

from pacs.deid.reasons import Withheld

Element = DataElement | RawDataElement
Codecs = tuple[str, ...] | None  # Python's names; None for a character set nobody knows

DEFAULT_CODECS: Final[Codecs] = ("ascii",)  # PS3.5 6.1.2.1, where (0008,0005) is absent
LAX_CODECS: Final[Codecs] = ("latin_1",)  # for UIDs, and for bytes that nothing else explains

# What pydicom raises on bytes that are no data set, or on values that cannot be encoded.
UNREADABLE: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
)

_CHARACTER_SET: Final = 0x00080005
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_JAPANESE: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})  # these codecs read escapes themselves
_ESCAPE: Final = re.compile(rb"(?=\x1b)")


def tags_of(data_set: Dataset) -> list[BaseTag]:
    """The tags in ascending order. Iterating the data set itself would decode every element."""
    return sorted(data_set.keys())


def element_of(data_set: Dataset, tag: int) -> Element | None:
    """The element as it stands in the data set, decoded or not; None where there is none."""
    element: Element | None = data_set.get_item(BaseTag(tag))
    return element


def codecs_of(data_set: Dataset, inherited: Codecs) -> Codecs:
    """The codecs of a data set's text, from its own (0008,0005) or else its parent's."""
    element = element_of(data_set, _CHARACTER_SET)
    terms = None if element is None else strings(element, DEFAULT_CODECS)
    if terms is None:
        return inherited if element is None else None
    if not terms:
        return DEFAULT_CODECS
    codecs = tuple(_codec(term) for term in terms)
    return None if "" in codecs else codecs


def strings(element: Element, codecs: Codecs) -> tuple[str, ...] | None:
    """The values of a text or UID element without padding; None if they cannot be decoded."""
    value = element.value
    if isinstance(value, bytes):
        text = decoded(value, codecs)
        return None if text is None else _values(text.split("\\"))
    if value is None:
        return ()
    return _values(str(v) for v in value) if _is_multiple(value) else _values([str(value)])


def decoded(value: bytes, codecs: Codecs) -> str | None:
    """The text of encoded bytes; None where a byte has no meaning in the character sets."""
    if codecs is None:
        return None
    try:
        return "".join(_fragment(piece, codecs[0]) for piece in _ESCAPE.split(value))
    except (UnicodeError, LookupError):
        return None


def items(element: Element) -> list[Dataset]:
    """The items of a sequence. Raises Withheld if they cannot be read."""
    try:
        if isinstance(element, DataElement):
            return list(Sequence(element.value))
        if element.VR not in (None, "SQ", "UN"):
            raise Withheld("undecodable", tag=str(element.tag))
        return list(
            convert_SQ(element.value or b"", element.is_implicit_VR, element.is_little_endian)
        )
    except UNREADABLE as error:
        raise Withheld("undecodable", tag=str(element.tag)) from error


def length_of(element: Element) -> int | None:
    """The bytes of a binary value; None for an encapsulated one or one not held in memory."""
    value = element.value
    if isinstance(element, DataElement):
        undefined = element.is_undefined_length
    else:
        undefined = element.length == _UNDEFINED_LENGTH
    return len(value) if isinstance(value, bytes) and not undefined else None


def copied(element: Element, vr: str) -> Element:
    """The element for another data set: a raw one is a value already, a decoded one is renewed.

    The value itself is shared, so that pixel data is not copied; nobody changes it in place. A raw
    element without a VR is given the dictionary's, for files that change to implicit VR midway.
    """
    if isinstance(element, RawDataElement):
        return element._replace(VR=vr) if element.VR is None and len(vr) == 2 else element
    return DataElement(
        element.tag,
        element.VR,
        element.value,
        is_undefined_length=element.is_undefined_length,
        already_converted=True,
    )


def _codec(term: str) -> str:
    if term in ("", "ISO_IR 6", "ISO 2022 IR 6"):
        return "ascii"
    return python_encoding.get(term, "")


def _fragment(piece: bytes, codec: str) -> str:
    """Decode up to the next escape sequence, which PS3.5 6.1.2.5.3 lets switch the codec."""
    if not piece.startswith(b"\x1b"):
        return piece.decode(codec)
    size = 4 if piece[1:3] in (b"$(", b"$)") else 3
    switched = CODES_TO_ENCODINGS[piece[:size]]
    return piece.decode(switched) if switched in _JAPANESE else piece[size:].decode(switched)


def _values(texts: Iterable[str]) -> tuple[str, ...]:
    values = tuple(text.strip(" \0") for text in texts)
    return values if any(values) else ()


def _is_multiple(value: object) -> bool:
    return isinstance(value, MultiValue | list | tuple)
