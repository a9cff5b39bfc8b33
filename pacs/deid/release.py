"""May this object be released at all? Decided before anything is cleaned.

The profile cleans attributes, not pixels. So an object whose pixels could carry text or a face is
withheld, and so is every type of object that holds its content in free text or drawings. The
burden of proof is on the object: it passes if it says what it is, that it came straight from the
detector, and that it shows a part of the body that is not the head.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from pacs.deid import codes
from pacs.deid.elements import (
    DEFAULT_CODECS,
    LAX_CODECS,
    Codecs,
    codecs_of,
    element_of,
    items,
    length_of,
    strings,
    tags_of,
)
from pacs.deid.policy import Policy
from pacs.deid.reasons import Withheld
from pacs.deid.standard import registered_name

# What is wrong with the types of object that no policy may release yet, by SOP class.
_TYPES_WITHHELD: Final = (
    ("1.2.840.10008.5.1.4.1.1.88.", "structured_report"),
    ("1.2.840.10008.5.1.4.1.1.104.", "encapsulated_document"),
    ("1.2.840.10008.5.1.4.1.1.11.", "presentation_state"),
    ("1.2.840.10008.5.1.4.1.1.66", "object_type_not_cleaned"),  # raw data, segmentations
    ("1.2.840.10008.5.1.4.1.1.481.", "object_type_not_cleaned"),  # radiotherapy
)

_REQUIRED: Final = (0x00080016, 0x00080018, 0x0020000D, 0x0020000E)

_IMAGE_TYPE, _SOP_CLASS_UID = 0x00080008, 0x00080016
_BURNED_IN_ANNOTATION, _RECOGNIZABLE_VISUAL_FEATURES = 0x00280301, 0x00280302
_BODY_PART_EXAMINED, _ANATOMIC_REGION, _CODE_MEANING = 0x00180015, 0x00082218, 0x00080104
_STUDY_DESCRIPTION, _SERIES_DESCRIPTION, _PROTOCOL_NAME = 0x00081030, 0x0008103E, 0x00181030
_SHARED_GROUPS, _PER_FRAME_GROUPS, _FRAME_ANATOMY = 0x52009229, 0x52009230, 0x00209071
_PIXEL_DATA, _NUMBER_OF_FRAMES, _PHOTOMETRIC = 0x7FE00010, 0x00280008, 0x00280004

# Words of (0008,0008) Image Type on pictures of a screen, a page or a dose sheet.
_NOT_FROM_THE_DETECTOR: Final = re.compile(r"SECONDARY|SCREEN|CAPTURE|DOSE|REPORT|PROTOCOL|MIXED")

# Words that mean a face, found anywhere in the text; short ones only as a word of their own, or
# CARDIAC would hold an IAC. A neck shows the chin, and a whole body its head.
_HEAD: Final = re.compile(
    r"HEAD|BRAIN|SKULL|FACE|FACIAL|NECK|ORBIT|SINUS|CRANI|CRANE|CEREB|JAW|MANDIB|MAXILL|DENTAL"
    r"|TEMPORAL|CERVICAL|C ?SPINE|WHOLE ?BODY|NASAL|NOSE|TONGUE|PHARYN|LARYN|THYROID"
    r"|CAROTID|PITUIT|STROKE|NEURO|CEPHAL|SCH[AÄ]DEL|KOPF|GESICHT|HIRN|CABEZA|CUELLO|T[EÊ]TE|TESTA"
    r"|[头頭脑脳腦颅顱面顔颈頸頚]"
    r"|\b(?:EYES?|EARS?|IAC|TMJ|HALS|HWS|COU|WB|PNS|COW)\b"
)

# Words that mean a part of the body that is not the head. Most must begin a word: a computer has no
# uterus, and no German treatment (BEHANDLUNG) a lung or a hand.
_NOT_THE_HEAD: Final = re.compile(
    r"CHEST|THORA|TORAX|PULMON|CARDIA|CORONAR|ABDOM|PELVI|HEPAT|RENAL|LUMBAR"
    r"|\b(?:LUNG|HEART|BREAST|MAMM|AORTA|ABD|LIVER|KIDNEY|PANCREA|SPLEEN|BLADDER|PROSTAT|UTER|OVAR"
    r"|COLON|BOWEL|STOMACH|RECTUM|[LT] ?SPINE|SACR|COCCYX|SHOULDER|CLAVIC|SCAPULA|HUMER|ELBOW"
    r"|FOREARM|WRIST|FINGER|FEMUR|THIGH|KNEE|TIBIA|FIBULA|ANKLE|EXTREMIT)"
    r"|\b(?:ARM|LEG|HIP|HAND|FOOT|TOE|CALF|TAP|KUB|LWS|BWS)S?\b"
)
_BETWEEN_WORDS: Final = re.compile(r"[\W\d_]+")


def require_releasable(data_set: Dataset, policy: Policy) -> None:
    """Raise Withheld unless policy may release this object."""
    codecs = codecs_of(data_set, DEFAULT_CODECS)
    if not all(_texts(data_set, tag, codecs) for tag in _REQUIRED):
        raise Withheld("required_attribute_missing")
    _require_known_type(_texts(data_set, _SOP_CLASS_UID, codecs)[0], policy)
    _require_pixels_without_text(data_set, codecs)
    _require_body_without_face(data_set, codecs)


def _require_known_type(sop_class_uid: str, policy: Policy) -> None:
    if sop_class_uid in policy.releasable:
        return
    for prefix, code in _TYPES_WITHHELD:
        if sop_class_uid.startswith(prefix):
            raise Withheld(code)
    name = registered_name(sop_class_uid)
    if name is None:
        is_private = not sop_class_uid.startswith("1.2.840.10008.")
        raise Withheld("private_sop_class" if is_private else "unknown_sop_class")
    raise Withheld("burned_in_text_possible" if "Image" in name else "object_type_not_cleaned")


def _require_pixels_without_text(data_set: Dataset, codecs: Codecs) -> None:
    image_type = _texts(data_set, _IMAGE_TYPE, codecs)
    if (
        image_type[:1] != ("ORIGINAL",)
        or any(_NOT_FROM_THE_DETECTOR.search(value) for value in image_type)
        or _texts(data_set, _BURNED_IN_ANNOTATION, codecs) not in ((), ("NO",))
        or _texts(data_set, _PHOTOMETRIC, codecs) not in (("MONOCHROME1",), ("MONOCHROME2",))
    ):
        raise Withheld("burned_in_text_possible")
    overlays = {tag >> 16 for tag in tags_of(data_set) if tag >> 24 == 0x60}
    if any(_overlay_is_embedded(data_set, group) for group in overlays):
        raise Withheld("overlay_in_pixel_data")
    _require_pixel_length(data_set, codecs)


def _overlay_is_embedded(data_set: Dataset, group: int) -> bool:
    """An overlay without data of its own, or at another bit than 0, is in the pixels (C.9.2)."""
    rows, position, data = (element_of(data_set, group << 16 | e) for e in (0x10, 0x102, 0x3000))
    if position is not None and position.value not in (0, b"\0\0", b"", None):
        return True
    return rows is not None and data is None


def _require_pixel_length(data_set: Dataset, codecs: Codecs) -> None:
    """Bytes behind the last frame are no pixels: nobody sees them, and they could say anything.

    Encapsulated pixel data is left as it is: its fragments have no length that attributes tell.
    """
    pixel_data = element_of(data_set, _PIXEL_DATA)
    length = None if pixel_data is None else length_of(pixel_data)
    if length is None:
        return
    samples, rows, columns, bits = (
        _number(data_set, tag) for tag in (0x00280002, 0x00280010, 0x00280011, 0x00280100)
    )
    frames = (_texts(data_set, _NUMBER_OF_FRAMES, codecs) or ("1",))[0]
    if not frames.isdecimal():
        raise Withheld("undecodable")
    expected = (samples * rows * columns * bits * int(frames) + 7) // 8
    if length not in (expected, expected + expected % 2):
        raise Withheld("pixel_data_length", length=length, expected=expected)


def _require_body_without_face(data_set: Dataset, codecs: Codecs) -> None:
    """What is said of the region counts most; the study's description only if nothing else is.

    Series and protocol may contradict the region, which many scanners fill in by default: a word
    for the head in any of them is enough to withhold.
    """
    if "YES" in _texts(data_set, _RECOGNIZABLE_VISUAL_FEATURES, codecs):
        raise Withheld("face_possible")
    region = _words(_regions(data_set, codecs))
    series = _words(
        text
        for tag in (_SERIES_DESCRIPTION, _PROTOCOL_NAME)
        for text in _texts(data_set, tag, codecs)
    )
    study = "" if region else _words(_texts(data_set, _STUDY_DESCRIPTION, codecs))
    if any(_HEAD.search(text) for text in (region, series, study)):
        raise Withheld("face_possible")
    if not _NOT_THE_HEAD.search(region or f"{series} {study}"):
        raise Withheld("body_part_unknown")


def _regions(data_set: Dataset, codecs: Codecs) -> Iterator[str]:
    """Body part and anatomic regions, of the object and of the frames of an enhanced one."""
    yield from _texts(data_set, _BODY_PART_EXAMINED, codecs)
    frames = _items(_items([data_set], _SHARED_GROUPS, _PER_FRAME_GROUPS), _FRAME_ANATOMY)
    for region in _items([data_set, *frames], _ANATOMIC_REGION):
        own_codecs = codecs_of(region, codecs)
        yield codes.known_meaning(region, own_codecs)
        yield from _texts(region, _CODE_MEANING, own_codecs)


def _items(data_sets: Iterable[Dataset], *tags: int) -> list[Dataset]:
    elements = (element_of(data_set, tag) for data_set in data_sets for tag in tags)
    return [item for element in elements if element is not None for item in items(element)]


def _words(texts: Iterable[str]) -> str:
    """The texts in capitals, with one blank for whatever stands between their words."""
    return _BETWEEN_WORDS.sub(" ", " ".join(texts)).upper().strip()


def _texts(data_set: Dataset, tag: int, codecs: Codecs) -> tuple[str, ...]:
    """The values of an attribute, none where it is absent or empty.

    Bytes that the declared character sets do not explain are read one by one: a word for the head
    among them is still a word for the head.
    """
    element = element_of(data_set, tag)
    if element is None:
        return ()
    values = strings(element, codecs)
    return (strings(element, LAX_CODECS) or ()) if values is None else values


def _number(data_set: Dataset, tag: int) -> int:
    """The value of a US attribute. Raises Withheld where it is absent or no number."""
    element = element_of(data_set, tag)
    value = None if element is None else element.value
    if isinstance(element, RawDataElement) and len(value or b"") == 2:
        return int.from_bytes(value or b"", "little" if element.is_little_endian else "big")
    if isinstance(value, int):
        return value
    raise Withheld("required_attribute_missing")
