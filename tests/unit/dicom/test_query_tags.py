"""Extended query tags: what may be one, and what an instance holds for it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from pacs.dicom.attributes import Level
from pacs.dicom.part10 import scan
from pacs.dicom.query_tags import READERS, QueryTag, TagValue, checked_tag, tag_values
from pacs.errors import BadQuery
from tests import make

REQUEST = "RequestAttributesSequence.ScheduledProcedureStepID"


def tag(path: str, vr: str = "", creator: str = "") -> QueryTag:
    return checked_tag(path, vr, Level.SERIES, creator)


def values(made: Dataset, wanted: QueryTag, syntax: str = make.EXPLICIT) -> list[TagValue]:
    return tag_values(scan(make.data_set_bytes(made, syntax), syntax), syntax, wanted)


@pytest.mark.parametrize(
    ("path", "vr", "keyword", "known"),
    [
        ("00180087", "", "MagneticFieldStrength", "DS"),
        ("MagneticFieldStrength", "DS", "MagneticFieldStrength", "DS"),
        ("00400275.00400009", "", REQUEST, "SH"),
        (REQUEST, "", REQUEST, "SH"),
        ("00280106", "SS", "SmallestImagePixelValue", "SS"),
    ],
)
def test_a_tag_is_named_by_keywords_or_digits(path: str, vr: str, keyword: str, known: str) -> None:
    assert (tag(path, vr).keyword, tag(path, vr).vr) == (keyword, known)


@pytest.mark.parametrize(
    ("path", "vr", "creator"),
    [
        ("nonsense", "LO", ""),
        ("00400275", "", ""),
        ("7FE00010", "", ""),
        ("00180087", "LO", ""),
        ("00091001", "LO", ""),
        ("00091001", "", "ACME"),
        ("00091001", "LO", "x" * 65),
        ("00100021", "LO", "ACME"),
        ("00020010", "", ""),
        ("00080000", "UL", ""),
        ("00180087.00400009", "", ""),
        (".".join(["00400275"] * 9), "", ""),
        ("00400275.", "", ""),
        ("", "LO", ""),
    ],
)
def test_what_cannot_be_a_tag_is_refused(path: str, vr: str, creator: str) -> None:
    with pytest.raises(BadQuery):
        tag(path, vr, creator)


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN])
def test_values_are_read_as_they_are_compared(syntax: str) -> None:
    made = make.data_set(SpecificCharacterSet="ISO_IR 192")
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.PerformingPhysicianName = "MÜLLER^Eva=王^小東"
    made.ImagePositionPatient = [1.5, -2, 3]
    made.AcquisitionDateTime = "20240229101530.5+0100"
    made.AcquisitionTime = "1015"
    made.AcquisitionDate = "20240229"
    made.FrameIncrementPointer = [0x00181063, 0x00181065]
    made.RealWorldValueIntercept = 0.25
    for path, expected in {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PerformingPhysicianName": ["muller^eva", "王^小東"],
        "ImagePositionPatient": [1.5, -2.0, 3.0],
        "AcquisitionDateTime": ["20240229091530.500000"],
        "AcquisitionTime": ["101500.000000"],
        "AcquisitionDate": ["20240229"],
        "FrameIncrementPointer": ["00181063", "00181065"],
        "RealWorldValueIntercept": [0.25],
        "BitsStored": [16.0],
        "AcquisitionNumber": [],
    }.items():
        assert [one.text or one.number for one in values(made, tag(path), syntax)] == expected, path


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_the_values_of_a_sequence_know_their_items(syntax: str) -> None:
    made = make.data_set()
    made.RequestAttributesSequence = [Dataset(), Dataset()]
    for item, step in zip(made.RequestAttributesSequence, ("S1", "S2"), strict=True):
        item.ScheduledProcedureStepID = step
    assert values(made, tag(REQUEST), syntax) == [TagValue("1.", "S1"), TagValue("2.", "S2")]


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_a_private_value_stands_in_its_creators_block(syntax: str) -> None:
    made = make.data_set()
    made.private_block(0x0009, "OTHER", create=True).add_new(0x01, "LO", "theirs")
    made.private_block(0x0009, "ACME", create=True).add_new(0x01, "LO", "ours")
    assert values(made, tag("00091001", "LO", "ACME"), syntax) == [TagValue("", "ours")]
    assert values(made, tag("00091001", "LO", "NOBODY"), syntax) == []


def test_what_does_not_fit_its_vr_is_no_value() -> None:
    odd = make.element(0x00180087, "DS", b"strong") + make.element(0x00200032, "DS", b"1\\x\\nan ")
    walked = scan(make.element(0x00080018, "UI", b"1.2\0") + odd, make.EXPLICIT)
    assert tag_values(walked, make.EXPLICIT, tag("MagneticFieldStrength")) == []
    assert [v.number for v in tag_values(walked, make.EXPLICIT, tag("ImagePositionPatient"))] == [1]


@given(vr=st.sampled_from(sorted(READERS)), value=st.binary(max_size=40), nested=st.booleans())
def test_any_bytes_have_values_or_none(vr: str, value: bytes, nested: bool) -> None:
    value += b" " * (len(value) % 2)
    inner = make.element(0x00090010, "LO", b"ACME") + make.element(0x00091001, "UN", value)
    if nested:
        item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
        inner = make.element(0x00400275, "SQ", item)
    path = (0x00400275, 0x00091001) if nested else (0x00091001,)
    wanted = QueryTag(path, vr, Level.INSTANCE, "ACME")
    for found in tag_values(scan(inner, make.EXPLICIT), make.EXPLICIT, wanted):
        assert (found.number is None) != (found.text is None)
