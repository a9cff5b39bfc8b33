"""Bytes and what they say: Part 10 files, and a walk over a data set that trusts nothing.

`scan` visits every element of a data set once, without recursion and without reading values, so
that a hostile file costs a bounded amount of time and no memory: nesting, element count and
inflation have limits, and every length is checked against what is there. It gives the places of
the top-level elements; values are decoded only when asked for. pydicom is not used here, since
its reader recurses and inflates without a bound (PS3.5 chapter 7, PS3.10 chapter 7).
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Final, NamedTuple

from pydicom import charset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.dicom import uids
from pacs.dicom.mapped import WINDOW_BYTES, forget
from pacs.errors import BadObject, Exhausted

Buffer = bytes | bytearray | memoryview | mmap

NESTING_MAX: Final = 64  # sequences inside sequences; deeper ones are refused
ELEMENTS_MAX: Final = 1_000_000  # elements of one data set at all depths; more are refused
INFLATED_BYTES_MAX: Final = 1 << 30  # a deflated data set that grows beyond this is refused
INFLATION_RATIO_MAX: Final = 200  # and so is one that grows by more than this factor ...
INFLATION_FREE_BYTES: Final = 32 << 20  # ... beyond this size, which any data set may reach
INFLATION_STEP_BYTES: Final = 256 << 10  # inflated at a time
META_BYTES_MAX: Final = 1 << 20  # a longer file meta group is refused
TEXT_BYTES_MAX: Final = 64 << 10  # of a value that is read as text; what is beyond is not read

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"

PIXEL_DATA: Final = 0x7FE00010
PIXEL_KEYWORDS: Final = {0x7FE00010: "OW", 0x7FE00008: "OF", 0x7FE00009: "OD"}

_LONG_FORM: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_FORM: Final = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
)
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class Element(NamedTuple):
    """Where one top-level element lies: `start` is the offset of its header, `value` of its value.

    `length` counts the bytes of the value; of an element of undefined length, all bytes up to and
    with its delimiter. `fragments` holds (start, length) of each fragment of encapsulated pixel
    data, the basic offset table first (PS3.5 A.4); `items` those of a sequence's items, without
    their headers and delimiters.
    """

    vr: str
    start: int
    value: int
    length: int
    fragments: tuple[tuple[int, int], ...] | None = None
    items: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Scan:
    """What a walk found. Offsets count from the start of `data`, which a deflated set inflates to."""

    data: memoryview
    little_endian: bool
    elements: Mapping[int, Element]

    def value(self, tag: int) -> bytes | None:
        """The raw value of a top-level element, None if it is absent."""
        element = self.elements.get(tag)
        return None if element is None else self._value(element)

    def _value(self, element: Element, bytes_max: int | None = None) -> bytes:
        length = element.length if bytes_max is None else min(element.length, bytes_max)
        return bytes(self.data[element.value : element.value + length])

    def items(self, tag: int) -> list[memoryview]:
        """The encoded items of a top-level sequence; none of an element that is absent or empty.

        Raises BadObject for one that was not walked as a sequence.
        """
        element = self.elements.get(tag)
        if element is None or not element.length:
            return []
        if element.vr not in ("SQ", "UN") or (element.vr == "UN" and not element.items):
            raise BadObject("a sequence has another value representation")
        return [self.data[start : start + length] for start, length in element.items]

    def text(self, keyword: str) -> str:
        """The first value of an element as text, empty if it is absent or empty.

        UIDs are not split: where one belongs and several are, none of them is meant.
        """
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        element = self.elements.get(tag)
        raw = b"" if element is None else self._value(element, TEXT_BYTES_MAX)
        if not raw:
            return ""
        vr = dictionary_VR(tag)
        if vr in ("US", "UL"):
            return self._unsigned(raw)
        return self._decoded(raw, vr)

    def _unsigned(self, raw: bytes) -> str:
        size = 2 if len(raw) < 4 else 4 if len(raw) == 4 else 2
        return str(int.from_bytes(raw[:size], "little" if self.little_endian else "big"))

    def _decoded(self, raw: bytes, vr: str) -> str:
        if vr in _OWN_CHARACTER_SET:
            text = decoded(raw, self.encodings)
        else:
            text = raw.decode("ascii", "replace")
        first = text if vr in _UNSPLIT else text.split("\\", 1)[0]
        return first.strip(" \0")

    @cached_property
    def encodings(self) -> list[str]:
        """Python codecs for (0008,0005); an unknown or absent set is read as ISO 8859-1."""
        element = self.elements.get(0x00080005)
        raw = b"" if element is None else self._value(element, TEXT_BYTES_MAX)
        names = [name.strip() for name in raw.decode("ascii", "replace").strip(" \0").split("\\")]
        return [charset.python_encoding.get(name, "iso8859") for name in names] or ["iso8859"]


_UNSPLIT: Final = frozenset(["LT", "ST", "UI", "UT"])
_OWN_CHARACTER_SET: Final = frozenset(["LO", "LT", "PN", "SH", "ST", "UC", "UT"])


def decoded(raw: bytes, encodings: list[str]) -> str:
    """Text of a value in its character sets (PS3.5 6.1); what cannot be read becomes U+FFFD."""
    if len(encodings) == 1 or b"\x1b" not in raw:
        return raw.decode(encodings[0], "replace")
    try:
        return charset.decode_bytes(raw, encodings, set(b"\\^=\r\n\t\f"))
    except (UnicodeError, LookupError, UserWarning):
        return raw.decode(encodings[0], "replace")


def inflate(data: Buffer) -> memoryview:
    """A deflated data set inflated (PS3.5 A.5), never beyond the limits. Raises BadObject.

    It grows into a mapping of its own, page by page, so that its memory goes back to the system
    with it; the allocator would keep much of what a bomb made it take.
    """
    source = memoryview(data)
    allowed = min(INFLATED_BYTES_MAX, max(INFLATION_FREE_BYTES, INFLATION_RATIO_MAX * len(source)))
    room = mmap(-1, allowed, flags=MAP_PRIVATE | MAP_ANONYMOUS)
    size = 0
    try:
        for piece in _inflated(source):
            if size + len(piece) > allowed:
                raise BadObject("the data set inflates beyond the limit", bytes_max=allowed)
            room[size : size + len(piece)] = piece
            size += len(piece)
    except BadObject:
        room.close()
        raise
    return memoryview(room)[:size]


def _inflated(source: memoryview) -> Iterator[bytes]:
    """The inflated data set in pieces. Raises BadObject."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for start in range(0, len(source), INFLATION_STEP_BYTES):
            rest: Buffer = source[start : start + INFLATION_STEP_BYTES]
            while rest and not inflater.eof:
                yield inflater.decompress(rest, INFLATION_STEP_BYTES)
                rest = inflater.unconsumed_tail
        while not inflater.eof and (piece := inflater.decompress(b"", INFLATION_STEP_BYTES)):
            yield piece
    except zlib.error as error:
        raise BadObject("the deflated data set cannot be inflated") from error
    if not inflater.eof:
        raise BadObject("the deflated data set is cut off")


def scan(data_set: Buffer, transfer_syntax_uid: str) -> Scan:
    """Walk a data set encoded in a transfer syntax. Raises BadObject.

    A transfer syntax that PS3.5 does not know is walked as Explicit VR Little Endian, which every
    encapsulated syntax uses (A.4); if that does not fit, the data set is refused.
    """
    data = memoryview(data_set)
    if transfer_syntax_uid == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
        data = inflate(data)
    little = transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN
    # Some senders declare an explicit syntax and write implicit elements; the first one tells.
    explicit = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN and bytes(data[4:6]).isalpha()
    try:
        elements = _Walk(data, little).run(explicit)
    except struct.error as error:
        raise BadObject("the data set is cut off inside an element") from error
    if not elements:
        raise BadObject("the data set has no elements")
    return Scan(data, little, elements)


class _Open(NamedTuple):
    """A data set, item or sequence that the walk is inside of. `end` is None if undefined."""

    is_sequence: bool
    end: int | None
    explicit: bool


class _Walk:
    """The walk's state: a position and a stack, instead of recursion."""

    def __init__(self, data: memoryview, little: bool) -> None:
        order = "<" if little else ">"
        self._tag = struct.Struct(order + "HH").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._long = struct.Struct(order + "I").unpack_from
        self._data = data
        self._size = len(data)
        self._at = 0
        self._forgotten_at = WINDOW_BYTES
        self._open: list[_Open] = []
        self._found: dict[int, Element] = {}
        self._items: list[tuple[int, int]] = []  # of the top-level sequence that is walked

    def run(self, explicit: bool) -> dict[int, Element]:
        visited = 0
        self._open = [_Open(is_sequence=False, end=self._size, explicit=explicit)]
        while self._open:
            inside = self._open[-1]
            if inside.end is not None and self._at >= inside.end:
                if self._at > inside.end:
                    raise BadObject("an element reaches beyond the item that holds it")
                self._close()
            elif inside.is_sequence:
                self._item(inside)
            else:
                self._element(inside)
            visited += 1
            if visited > ELEMENTS_MAX:
                raise BadObject("the data set has too many elements", elements_max=ELEMENTS_MAX)
            if self._at > self._forgotten_at:
                self._forget()
        return self._found

    def _forget(self) -> None:
        """Keep no page of a mapped file that the walk has left behind."""
        forget(self._data)
        self._forgotten_at = self._at + WINDOW_BYTES

    def _close(self) -> None:
        self._open.pop()
        if len(self._open) == 1:
            self._finish_top_level()

    def _finish_top_level(self) -> None:
        """A top-level sequence has been walked: now its length is known."""
        tag, element = next(reversed(self._found.items()))
        length, items = self._at - element.value, tuple(self._items)
        self._found[tag] = element._replace(length=length, items=items)
        self._items.clear()

    def _item(self, inside: _Open) -> None:
        tag = self._tag_at(self._at)
        (length,) = self._long(self._data, self._at + 4)
        self._at += 8
        if tag == _SEQUENCE_END and inside.end is None:
            self._close()
        elif tag == _ITEM:
            if len(self._open) == 2:
                self._items.append((self._at, length))
            self._enter(False, length, inside.explicit)
        else:
            raise BadObject("a sequence holds something that is no item")

    def _tag_at(self, at: int) -> int:
        group, element = self._tag(self._data, at)
        return int(group) << 16 | int(element)

    def _element(self, inside: _Open) -> None:
        start = self._at
        tag = self._tag_at(start)
        if tag == _ITEM_END and inside.end is None and len(self._open) > 1:
            self._at += 8
            self._open.pop()
            if len(self._open) == 2:  # the length of an item of undefined length is known now
                first = self._items[-1][0]
                self._items[-1] = (first, start - first)
            return
        vr, length, self._at = self._header(tag, start, inside.explicit)
        if len(self._open) == 1:
            if tag in self._found:
                raise BadObject("an element occurs twice")
            self._found[tag] = Element(vr, start, self._at, length)
        self._skip_or_enter(tag, vr, length, inside.explicit)

    def _header(self, tag: int, start: int, explicit: bool) -> tuple[str, int, int]:
        """VR, length and the offset of the value of the element at start (PS3.5 7.1.2, 7.1.3)."""
        if not explicit:
            return self._implicit_vr(tag), self._long(self._data, start + 4)[0], start + 8
        code = bytes(self._data[start + 4 : start + 6])
        if code in _SHORT_FORM:
            return code.decode(), self._short(self._data, start + 6)[0], start + 8
        if code in _LONG_FORM or (code.isalpha() and code.isupper()):
            # A VR that PS3.5 does not know yet has the long form (6.2.2, note 1 of table 7.1-1).
            return code.decode(), self._long(self._data, start + 8)[0], start + 12
        raise BadObject("an element has no value representation")

    @staticmethod
    def _implicit_vr(tag: int) -> str:
        try:
            return dictionary_VR(tag)
        except KeyError:
            return "UN"

    def _skip_or_enter(self, tag: int, vr: str, length: int, explicit: bool) -> None:
        if length != _UNDEFINED:
            if self._at + length > self._size:
                raise BadObject("the data set is cut off inside a value")
            if vr == "SQ":
                self._enter(True, length, explicit)
            else:
                self._at += length
        elif tag in PIXEL_KEYWORDS and len(self._open) == 1:
            self._fragments(tag)
        elif vr in ("SQ", "UN"):
            # The items of an unknown element of undefined length are implicit (PS3.5 6.2.2, note 2).
            self._enter(True, length, explicit and vr == "SQ")
        elif vr in ("OB", "OW"):
            self._fragments(tag)
        else:
            raise BadObject("an element that must have a length has none")

    def _enter(self, is_sequence: bool, length: int, explicit: bool) -> None:
        end = None if length == _UNDEFINED else self._at + length
        if end is not None and end > self._size:
            raise BadObject("the data set is cut off inside a sequence")
        if len(self._open) > 2 * NESTING_MAX:
            raise BadObject("sequences are nested too deep", nesting_max=NESTING_MAX)
        self._open.append(_Open(is_sequence, end, explicit))

    def _fragments(self, tag: int) -> None:
        """Encapsulated pixel data: fragments up to the sequence delimiter (PS3.5 A.4)."""
        fragments: list[tuple[int, int]] = []
        while True:
            found = self._tag_at(self._at)
            (length,) = self._long(self._data, self._at + 4)
            self._at += 8
            if found == _SEQUENCE_END:
                break
            if found != _ITEM or length == _UNDEFINED or self._at + length > self._size:
                raise BadObject("encapsulated pixel data is cut off or broken")
            fragments.append((self._at, length))
            self._at += length
            if self._at > self._forgotten_at:
                self._forget()
            if len(fragments) > ELEMENTS_MAX:
                raise BadObject("too many fragments of pixel data", fragments_max=ELEMENTS_MAX)
        if len(self._open) == 1:
            element = self._found[tag]
            self._found[tag] = element._replace(
                length=self._at - element.value, fragments=tuple(fragments)
            )


@dataclass(frozen=True, slots=True)
class Part10:
    """A Part 10 file taken apart: what its meta group says, and the data set after it."""

    data_set: memoryview
    data_set_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    private: Mapping[str, object] = field(default_factory=dict)


def read_part10(buffer: Buffer) -> Part10:
    """Take a Part 10 file apart (PS3.10 7.1). Raises BadObject."""
    view = memoryview(buffer)
    if len(view) < 132 or bytes(view[128:132]) != b"DICM":
        raise BadObject("this is not a DICOM Part 10 file: the prefix DICM is missing")
    elements, end = _meta_elements(view)
    transfer_syntax_uid = _uid_of(elements, 0x00020010)
    if not uids.is_valid(transfer_syntax_uid):
        raise BadObject("the file meta information names no transfer syntax")
    return Part10(
        data_set=view[end:],
        data_set_offset=end,
        transfer_syntax_uid=transfer_syntax_uid,
        sop_class_uid=_uid_of(elements, 0x00020002),
        sop_instance_uid=_uid_of(elements, 0x00020003),
        private=_private_of(elements),
    )


def _meta_elements(view: memoryview) -> tuple[dict[int, bytes], int]:
    """The elements of group 2, Explicit VR Little Endian, and where the data set begins."""
    elements: dict[int, bytes] = {}
    at = 132
    limit = min(len(view), 132 + META_BYTES_MAX)
    try:
        while at + 8 <= limit and struct.unpack_from("<H", view, at)[0] == 2:
            group, element, code = struct.unpack_from("<HH2s", view, at)
            if code in _LONG_FORM:
                length, value = struct.unpack_from("<I", view, at + 8)[0], at + 12
            else:
                length, value = struct.unpack_from("<H", view, at + 6)[0], at + 8
            at = value + length
            if at > limit:
                raise BadObject("the file meta information is cut off or too long")
            elements[group << 16 | element] = bytes(view[value:at])
    except struct.error as error:
        raise BadObject("the file meta information is cut off") from error
    return elements, at


def _uid_of(elements: Mapping[int, bytes], tag: int) -> str:
    return elements.get(tag, b"").decode("ascii", "replace").strip(" \0")


def _private_of(elements: Mapping[int, bytes]) -> Mapping[str, object]:
    if _uid_of(elements, 0x00020100) != uids.PRIVATE_INFORMATION_CREATOR_UID:
        return {}
    try:
        found = json.loads(elements.get(0x00020102, b"").rstrip(b" \0"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def preamble_and_meta(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str = "",
    private: Mapping[str, object] | None = None,
) -> bytes:
    """The first bytes of a Part 10 file of ours: zero preamble, DICM, file meta (PS3.10 7.1).

    The preamble is never a sender's: it may hold a programme. `private` becomes JSON in
    (0002,0102); it lets `rebuild` know when and from whom an instance came.
    """
    body = b"".join(
        (
            _meta_element(0x0001, b"OB", b"\0\1"),
            _meta_element(0x0002, b"UI", sop_class_uid.encode("ascii")),
            _meta_element(0x0003, b"UI", sop_instance_uid.encode("ascii")),
            _meta_element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
            _meta_element(0x0012, b"UI", uids.IMPLEMENTATION_CLASS_UID.encode()),
            _meta_element(0x0013, b"SH", uids.IMPLEMENTATION_VERSION_NAME.encode()),
            _meta_element(0x0016, b"AE", source_ae_title.encode("ascii", "replace")[:16]),
            *_private_elements(private),
        )
    )
    if len(body) > META_BYTES_MAX:
        raise Exhausted("the private information does not fit the file meta information")
    return bytes(128) + b"DICM" + _meta_element(0x0000, b"UL", struct.pack("<I", len(body))) + body


def _private_elements(private: Mapping[str, object] | None) -> tuple[bytes, ...]:
    if private is None:
        return ()
    text = json.dumps(private, sort_keys=True, separators=(",", ":")).encode()
    creator = uids.PRIVATE_INFORMATION_CREATOR_UID.encode()
    return (_meta_element(0x0100, b"UI", creator), _meta_element(0x0102, b"OB", text))


def _meta_element(element: int, vr: bytes, value: bytes) -> bytes:
    if not value:
        return b""
    if len(value) % 2:
        value += b" " if vr in (b"SH", b"AE") else b"\0"
    if vr in _LONG_FORM:
        return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
