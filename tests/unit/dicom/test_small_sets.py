"""Small data sets become DICOM JSON and plain JSON, whatever their encoding, and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from pacs.dicom.part10 import scan
from pacs.dicom.plain_json import ELEMENTS_MAX, VALUES_MAX, fits, model_of, plain_of
from pacs.dicom.small_sets import read_model, text_of
from pacs.errors import BadObject, BadQuery
from tests import make

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def small() -> Dataset:
    """A data set with a value of every kind."""
    code, step, made = Dataset(), Dataset(), Dataset()
    code.CodeMeaning = "胸部"
    step.Modality = "CT"
    step.ScheduledStationAETitle = ["CT1", "CT2"]
    step.ScheduledProtocolCodeSequence = Items([code, Dataset()])
    made.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    made.PatientName = JAPANESE
    made.PatientWeight = "70.5"
    made.PregnancyStatus = 4
    made.PatientComments = "one\\two"
    made.PatientSex = ""
    made.ScheduledProcedureStepSequence = Items([step])
    made.ReferencedStudySequence = Items([])
    made.add_new(0x00091001, "OB", b"\1\2")
    return made


@pytest.mark.parametrize("syntax", [make.IMPLICIT, make.EXPLICIT, make.BIG_ENDIAN, make.DEFLATED])
@pytest.mark.parametrize("is_undefined", [False, True])
def test_every_encoding_reads_alike(syntax: str, is_undefined: bool) -> None:
    made = small()
    for sequence in (made, made.ScheduledProcedureStepSequence[0]):
        for element in sequence:
            if element.VR == "SQ":
                element.is_undefined_length = is_undefined
                for item in element.value:
                    item.is_undefined_length_sequence_item = is_undefined
    model = read_model(make.data_set_bytes(made, syntax), syntax)
    expected = json.loads(made.to_json())
    del expected["00080005"], expected["00081110"]["Value"]
    expected["00101030"]["Value"] = ["70.5"]
    if syntax == make.IMPLICIT:
        expected["00091001"]["vr"] = "UN"
    assert model == expected
    assert text_of(model, "PatientName") == JAPANESE


def test_items_lie_where_the_walk_says() -> None:
    made = make.data_set_bytes(small())
    walked = scan(made, make.EXPLICIT)
    (item,) = walked.items(0x00400100)
    assert scan(item, make.EXPLICIT).text("Modality") == "CT"
    assert walked.items(0x00081110) == walked.items(0x00100011) == []
    with pytest.raises(BadObject):
        walked.items(0x00100010)


def test_an_item_may_have_a_character_set_of_its_own() -> None:
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.PatientName = "Müller"
    other = Dataset()
    other.SpecificCharacterSet = "ISO_IR 192"
    other.CodeMeaning = "胸部"
    made.ProcedureCodeSequence = Items([other])
    model = read_model(make.data_set_bytes(made), make.EXPLICIT)
    assert text_of(model, "PatientName") == "Müller"
    assert text_of(model["00081032"]["Value"][0], "CodeMeaning") == "胸部"


@pytest.mark.parametrize(
    "encoded",
    [
        make.nested(9),
        make.nested(10_000),
        make.element(0x001021C0, "US", b"\1\2\3"),
        make.element(0x00400100, "UN", b"\xfe\xff\x00\xe0\0\0\0\0"),
        make.element(0x00400100, "LO", b"CT"),
        b"\x10",
    ],
)
def test_what_cannot_be_read_is_refused(encoded: bytes) -> None:
    with pytest.raises(BadObject):
        read_model(encoded, make.EXPLICIT)


@given(st.binary(max_size=300))
def test_noise_is_read_or_refused(noise: bytes) -> None:
    for syntax in (make.EXPLICIT, make.IMPLICIT):
        try:
            model = read_model(noise, syntax)
        except BadObject:
            continue
        json.dumps(plain_of(model))


def test_plain_json_is_what_it_was_made_of() -> None:
    plain = {
        "PatientName": JAPANESE,
        "PatientWeight": "70.5",
        "PregnancyStatus": 4,
        "ScheduledProcedureStepSequence": [
            {"ScheduledStationAETitle": ["CT1", "CT2"], "PreMedication": ""}
        ],
    }
    assert plain_of(model_of(plain)) == plain


@pytest.mark.parametrize(
    ("plain", "sentence"),
    [
        ({"PatientWeight": float("inf")}, "PatientWeight is not a value of DS"),
        ({"PregnancyStatus": 1 << 16}, "PregnancyStatus is not a number of US"),
        ({"PregnancyStatus": "4"}, "PregnancyStatus is not a number of US"),
        ({"Allergies": ["x"] * (VALUES_MAX + 1)}, "Allergies has more than"),
        ({"ProcedureCodeSequence": [{}] * 2 + [1]}, "ProcedureCodeSequence[2] is no object"),
        ({"PatientName": {"Alphabetic": "x"}}, "PatientName is no text"),
        ({"FileMetaInformationVersion": "1"}, "FileMetaInformationVersion is no attribute"),
    ],
)
def test_a_place_is_named_for_what_does_not_fit(plain: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadQuery) as refused:
        model_of(plain)
    assert refused.value.message.startswith(sentence)


def test_depth_and_number_have_limits() -> None:
    deep: dict[str, object] = {}
    for _ in range(20):
        deep = {"ProcedureCodeSequence": [deep]}
    with pytest.raises(BadQuery, match="nested too deep"):
        model_of(deep)
    wide = {"ProcedureCodeSequence": [{"CodeValue": "x", "CodeMeaning": "y"}] * 200}
    with pytest.raises(BadQuery, match=f"more than {ELEMENTS_MAX} attributes"):
        model_of({"ScheduledProcedureStepSequence": [wide] * 10})


@pytest.mark.parametrize(
    ("vr", "good", "bad"),
    [
        ("AE", "CT 1", "a\\b"),
        ("AS", "070Y", "70Y"),
        ("CS", "IN PROGRESS", "in progress"),
        ("DA", "20240229", "20250229"),
        ("DA", "20260101", "٢٠٢٦٠١٠١"),
        ("DS", "-1.5e3", "one"),
        ("DT", "20260304", "2026-03-04"),
        ("IS", "-12", "1.5"),
        ("LO", "x" * 64, "x" * 65),
        ("LT", "one\ntwo", "one\x1btwo"),
        ("PN", "A^B=C^D=E^F", "A=B=C=D"),
        ("SH", "x" * 16, "x" * 17),
        ("TM", "235959.5", "240000"),
        ("UI", "1.2.3", "1.2.x"),
    ],
)
def test_a_value_fits_its_vr_or_not(vr: str, good: str, bad: str) -> None:
    assert fits(vr, good)
    assert not fits(vr, bad)
