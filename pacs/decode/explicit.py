"""A data set of any native encoding, element by element, as Explicit or Implicit VR Little Endian.

Values are moved and their bytes swapped, never parsed: a text value that breaks its VR leaves as
it came. Runs in the caller's process, on data sets that `pacs.dicom.part10.scan` has walked, so
nesting, element count and inflation are bounded already (PS3.5 chapter 7, annex A).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from pydicom.datadict import dictionary_VR

from pacs.dicom.part10 import IMPLICIT_VR_LITTLE_ENDIAN, PIXEL_DATA, Scan
from pacs.errors import BadObject

PIXEL_REPRESENTATION: Final = 0x00280103
SHORT_FORM_BYTES_MAX: Final = 0xFFFE  # a longer value of a short-form VR becomes UN (PS3.5 6.2.2)

# A VR that is not among these has the long form, known or not (PS3.5 7.1.2).
_SHORT_FORM: Final = frozenset(
    (
        *("AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO"),
        *("LT", "PN", "SH", "SL", "SS", "ST", "TM", "UI", "UL", "US"),
    )
)
_PADDED_WITH_SPACE: Final = frozenset(
    (
        *("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT"),
        *("PN", "SH", "ST", "TM", "UC", "UR", "UT"),
    )
)
_WORD_BYTES: Final = {
    **dict.fromkeys(("AT", "OW", "SS", "US"), 2),
    **dict.fromkeys(("FL", "OF", "OL", "SL", "UL"), 4),
    **dict.fromkeys(("FD", "OD", "OV", "SV", "UV"), 8),
}
_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_ITEM_HEADER: Final = struct.Struct("<HHI")
# Offset tables that no longer fit once frames are native or compressed anew (PS3.3 C.7.6.3.1.8).
_STALE: Final = frozenset((0x7FE00001, 0x7FE00002))


class _Header(NamedTuple):
    tag: int
    vr: str
    length: int
    value: int  # where the value starts


class Transcoder:
    """One walked data set on its way to Explicit VR Little Endian, or to what `write` writes."""

    def __init__(
        self,
        scan: Scan,
        transfer_syntax_uid: str,
        write: Callable[[int, str, bytes], bytes] | None = None,
    ) -> None:
        self._write = write or element
        self._scan = scan
        self._data = scan.data
        self._order = "<" if scan.little_endian else ">"
        # Some senders declare an explicit syntax and write implicit elements; `scan` walks both.
        declared = transfer_syntax_uid != IMPLICIT_VR_LITTLE_ENDIAN
        self._explicit = declared and bytes(scan.data[4:6]).isalpha()
        self._as_it_is = write is None and self._explicit and scan.little_endian
        raw = scan.value(PIXEL_REPRESENTATION)
        self._signed = bool(raw and int.from_bytes(raw, "little" if scan.little_endian else "big"))

    def elements(self) -> Iterator[tuple[int, bytes]]:
        """Tag and encoded element, of every top-level element but the pixel data, in order."""
        for tag, element in self._scan.elements.items():
            if tag == PIXEL_DATA or tag & 0xFFFF == 0 or tag in _STALE:
                continue  # group lengths are retired, and would no longer be right (PS3.5 7.2)
            if self._as_it_is:
                yield tag, bytes(self._data[element.start : element.value + element.length])
            else:
                yield tag, self._anew(element.start)

    def _anew(self, at: int) -> bytes:
        try:
            encoded, _ = self._element(at, self._explicit)
        except struct.error as error:
            raise BadObject("an element is cut off") from error
        return encoded

    def _element(self, at: int, explicit: bool) -> tuple[bytes, int]:
        """The element at an offset, encoded anew, and the offset after it."""
        header = self._header(at, explicit)
        if header.length == _UNDEFINED and header.vr not in ("SQ", "UN"):
            raise BadObject("fragments inside a data set that is not compressed")
        if header.vr == "SQ" or header.length == _UNDEFINED:
            # Items of an unknown element of undefined length are implicit (PS3.5 6.2.2, note 2).
            content, end = self._items(header, explicit and header.vr == "SQ")
            return self._write(header.tag, "SQ", content), end
        end = header.value + header.length
        raw = bytes(self._data[header.value : end])
        return self._write(header.tag, header.vr, self._little_endian(raw, header.vr)), end

    def _header(self, at: int, explicit: bool) -> _Header:
        group, number = struct.unpack_from(self._order + "HH", self._data, at)
        tag = group << 16 | number
        if not explicit:
            (length,) = struct.unpack_from(self._order + "I", self._data, at + 4)
            return _Header(tag, self._looked_up(tag), length, at + 8)
        vr = bytes(self._data[at + 4 : at + 6]).decode("ascii")
        if vr not in _SHORT_FORM:
            (length,) = struct.unpack_from(self._order + "I", self._data, at + 8)
            return _Header(tag, vr, length, at + 12)
        (length,) = struct.unpack_from(self._order + "H", self._data, at + 6)
        return _Header(tag, vr, length, at + 8)

    def _looked_up(self, tag: int) -> str:
        """The VR of an implicit element; of several, the one this data set must mean (PS3.5 A.1)."""
        if tag & 0x10000:
            return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
        try:
            vr = dictionary_VR(tag)
        except KeyError:
            return "UN"
        if vr == "US or SS":
            return "SS" if self._signed else "US"
        return "OW" if " or " in vr else vr

    def _items(self, header: _Header, explicit: bool) -> tuple[bytes, int]:
        """The items of a sequence, each with its length, and the offset after the sequence."""
        at, items = header.value, []
        end = None if header.length == _UNDEFINED else at + header.length
        while end is None or at < end:
            tag, length = self._item_header(at)
            at += 8
            if tag == _SEQUENCE_END:
                break
            content, at = self._item(at, length, explicit)
            items.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
        return b"".join(items), at

    def _item(self, at: int, length: int, explicit: bool) -> tuple[bytes, int]:
        end = None if length == _UNDEFINED else at + length
        content = []
        while end is None or at < end:
            if end is None and self._item_header(at)[0] == _ITEM_END:
                at += 8
                break
            encoded, at = self._element(at, explicit)
            content.append(encoded)
        return b"".join(content), at

    def _item_header(self, at: int) -> tuple[int, int]:
        group, number, length = struct.unpack_from(self._order + "HHI", self._data, at)
        return group << 16 | number, length

    def _little_endian(self, raw: bytes, vr: str) -> bytes:
        return raw if self._order == "<" else swapped(raw, _WORD_BYTES.get(vr, 1))


def swapped(raw: bytes, word_bytes: int) -> bytes:
    """The bytes of each word in the other order; a last word cut short stays as it is."""
    if word_bytes == 1:
        return raw
    whole = len(raw) - len(raw) % word_bytes
    words = np.frombuffer(raw[:whole], f"u{word_bytes}")
    return words.byteswap().tobytes() + raw[whole:]


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element in Explicit VR Little Endian (PS3.5 7.1.2), padded to even length."""
    if len(value) % 2:
        value += b" " if vr in _PADDED_WITH_SPACE else b"\0"
    if len(value) >= _UNDEFINED:
        raise BadObject("an element is too long for Explicit VR Little Endian")
    group, number = tag >> 16, tag & 0xFFFF
    if vr in _SHORT_FORM and len(value) <= SHORT_FORM_BYTES_MAX:
        return struct.pack("<HH2sH", group, number, vr.encode(), len(value)) + value
    long_form_vr = "UN" if vr in _SHORT_FORM else vr
    return struct.pack("<HH2sHI", group, number, long_form_vr.encode(), 0, len(value)) + value


def implicit_element(tag: int, vr: str, value: bytes) -> bytes:
    """The same in Implicit VR Little Endian (PS3.5 7.1.3)."""
    if len(value) % 2:
        value += b" " if vr in _PADDED_WITH_SPACE else b"\0"
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def encapsulated(frames: Sequence[bytes]) -> bytes:
    """The pixel data element of compressed frames: a basic offset table, then one fragment each.

    Frames together are shorter than 4 GiB, so that the offsets fit (PS3.5 A.4).
    """
    padded = [frame + b"\0" * (len(frame) % 2) for frame in frames]
    offsets, at = [], 0
    for frame in padded:
        offsets.append(at)
        at += 8 + len(frame)
    if at >= _UNDEFINED:
        raise BadObject("the compressed frames are too long for a basic offset table")
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    items = b"".join(
        _ITEM_HEADER.pack(0xFFFE, 0xE000, len(item)) + item for item in (table, *padded)
    )
    header = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, _UNDEFINED)
    return header + items + _ITEM_HEADER.pack(0xFFFE, 0xE0DD, 0)
