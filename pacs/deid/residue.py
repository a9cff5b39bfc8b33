"""A second look, by another road: are the patient's own identifiers still in the encoded bytes?

The engine decides by tag and VR; this search knows neither. It collects what identifies the
original, encodes the result as it will be written, and looks for the one in the other. It is a
net beneath the engine, not a proof: it finds whole identifiers, not what was never collected.

The rule for short and common words: whole values count, and of names each word, from four
characters on, digits alone from six on. What consists of nothing but common words does not count:
words of the DICOM dictionary, parts of the body, makers ("Chest", "Field", "Philips"), since the
output holds these for reasons of its own. A match must not be a part of a longer word or number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from pydicom.datadict import keyword_dict
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from pacs.deid import codes
from pacs.deid.dummies import DUMMIES
from pacs.deid.elements import (
    DEFAULT_CODECS,
    LAX_CODECS,
    UNREADABLE,
    Codecs,
    Element,
    codecs_of,
    element_of,
    items,
    length_of,
    strings,
    tags_of,
)
from pacs.deid.policy import BASIC, CLASS_UIDS
from pacs.deid.reasons import Withheld
from pacs.deid.standard import dictionary_vr, registered_name

WORD_CHARACTERS_MIN: Final = 4  # shorter words of a name stand in any text by chance
DIGITS_MIN: Final = 6  # shorter numbers stand among the numbers of any image
UID_CHARACTERS_MIN: Final = 8  # shorter ones look like versions of software
PIXEL_TOKEN_BYTES_MIN: Final = 8  # shorter ones stand in compressed pixel data by chance

_PIXELS: Final = (0x7FE00008, 0x7FE00009, 0x7FE00010)

# What identifies a person or place by more than its VR: searched as a whole.
_IDENTIFYING: Final = {
    0x00080050: "AccessionNumber",
    0x00080080: "InstitutionName",
    0x00080081: "InstitutionAddress",
    0x00081010: "StationName",
    0x00100020: "PatientID",
    0x00100030: "PatientBirthDate",
    0x00101000: "OtherPatientIDs",
    0x00101040: "PatientAddress",
    0x00102154: "PatientTelephoneNumbers",
    0x00181000: "DeviceSerialNumber",
}
_WORD_ENDS: Final = re.compile(r"[\^=\\\s,;]+")
_WORDS_OF_KEYWORDS: Final = re.compile(r"[A-Z][a-z]{3,}")
_MAKERS: Final = (
    "agfa canon elscint fujifilm general electric hitachi konica marconi philips picker samsung"
    " shimadzu siemens toshiba united imaging medical healthcare"
)
_SHOWN: Final = (
    "phantom phantoms abdomen ankle breast chest clavicle elbow extremity femur foot hand heart kidney knee leg"
    " liver lung pelvis prostate shoulder spine thorax wrist"
)


def residue(cleaned: Dataset, original: Dataset) -> list[str]:
    """The kinds of identifiers of original that are found in cleaned, such as "PatientName".

    Raises Withheld if the result cannot be encoded.
    """
    header = _encoded_header(cleaned).lower()
    fragments = _encapsulated(cleaned).lower()
    found = {
        kind
        for kind, token in set(_tokens(original, DEFAULT_CODECS))
        if _stands_in(header, token)
        or (len(token) >= PIXEL_TOKEN_BYTES_MIN and _stands_in(fragments, token))
    }
    return sorted(found)


def _tokens(data_set: Dataset, inherited: Codecs) -> Iterator[tuple[str, bytes]]:
    """Kind and bytes, in lower case, of everything that is looked for, at every depth."""
    codecs = codecs_of(data_set, inherited)
    for tag in tags_of(data_set):
        element = element_of(data_set, tag)
        if element is None:
            continue
        vr = dictionary_vr(tag) or element.VR
        if vr == "SQ":
            for item in items(element):
                yield from _tokens(item, codecs)
        elif vr == "PN":
            yield from (("PersonName", token) for token in _name_tokens(element, codecs))
        elif vr == "UI" and tag not in CLASS_UIDS:
            yield from (("UID", token) for token in _uid_tokens(element))
        elif tag in _IDENTIFYING:
            yield from ((_IDENTIFYING[tag], token) for token in _whole_tokens(element, codecs))


def _name_tokens(element: Element, codecs: Codecs) -> Iterator[bytes]:
    """The whole name, as written and as decoded, and those of its words that say enough."""
    yield from _whole_tokens(element, codecs)
    for value in strings(element, codecs) or ():
        words = (word.strip(".").lower() for word in _WORD_ENDS.split(value))
        yield from (token for word in words for token in _enough(word.encode()))


def _uid_tokens(element: Element) -> Iterator[bytes]:
    for uid in strings(element, LAX_CODECS) or ():
        if len(uid) >= UID_CHARACTERS_MIN and registered_name(uid) is None:
            yield uid.lower().encode()


def _whole_tokens(element: Element, codecs: Codecs) -> Iterator[bytes]:
    raw = element.value
    if isinstance(raw, bytes):
        yield from _enough(raw.strip(b" \0").lower())
    for value in strings(element, codecs) or ():
        yield from _enough(value.encode().lower())


def _enough(token: bytes) -> Iterator[bytes]:
    if len(token) >= WORD_CHARACTERS_MIN and _says_enough(token.decode("latin_1")):
        yield token


def _says_enough(text: str) -> bool:
    if text.isdigit() and len(text) < DIGITS_MIN:
        return False
    return any(word not in _common_words() for word in _WORD_ENDS.split(text) if word)


@cache
def _common_words() -> frozenset[str]:
    ours = re.findall(r"[a-z]+", f"{BASIC.statement} {codes.DUMMY.value}".lower())
    of_dicom = (w.lower() for k in keyword_dict for w in _WORDS_OF_KEYWORDS.findall(k))
    dummies = (value for value in DUMMIES.values() if isinstance(value, str))
    return frozenset([*of_dicom, *ours, *dummies, *_MAKERS.split(), *_SHOWN.split()])


def _stands_in(text: bytes, token: bytes) -> bool:
    """Whether token stands in text on its own, and not as a part of a longer word or number.

    What follows a value may be the next element's group, whose low byte can look like a digit or
    a letter; its high byte is then zero, which text never holds.
    """
    if token not in text:
        return False
    alone = rb"(?<![0-9a-z])" + re.escape(token) + rb"(?![0-9a-z][^\0])"
    return re.search(alone, text) is not None


def _encoded_header(cleaned: Dataset) -> bytes:
    """The bytes of everything but the pixels, in the encoding of the original."""
    implicit, little = cleaned.original_encoding
    header = Dataset()
    header.set_original_encoding(implicit, little, cleaned.original_character_set)
    for tag in tags_of(cleaned):
        if tag not in _PIXELS:
            header[tag] = cleaned.get_item(tag)
    output = DicomBytesIO()
    output.is_implicit_VR = implicit is not False
    output.is_little_endian = little is not False
    try:
        write_dataset(output, header)
    except UNREADABLE as error:
        raise Withheld("undecodable") from error
    return output.getvalue()


def _encapsulated(cleaned: Dataset) -> bytes:
    """Compressed pixel data, whose code streams may carry comments; nothing for native pixels."""
    pixel_data = element_of(cleaned, _PIXELS[-1])
    if pixel_data is None or length_of(pixel_data) is not None:
        return b""
    return pixel_data.value if isinstance(pixel_data.value, bytes) else b""
