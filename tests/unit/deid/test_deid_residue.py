"""The search for what the engine left: what it finds, and what it must not take for a find."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from pacs.deid import BASIC, Withheld, deidentify
from pacs.deid.residue import residue
from tests.unit.deid.objects import KEY, chest_ct, read_back


def test_a_clean_result_has_no_residue() -> None:
    original = chest_ct()
    assert residue(deidentify(original, BASIC, KEY).data_set, original) == []


@pytest.mark.parametrize(
    ("keyword", "text", "kind"),
    [
        ("SoftwareVersions", "VA10A of Vandermolen", "PersonName"),
        ("SoftwareVersions", "va10a/VANDERMOLEN", "PersonName"),
        ("SoftwareVersions", "Quartermain", "PersonName"),
        ("ConvolutionKernel", "MRN0077", "PatientID"),
        ("ConvolutionKernel", "acc4711", "AccessionNumber"),
        ("SoftwareVersions", "19510203", "PatientBirthDate"),
        ("SoftwareVersions", "Saint Nowhere Hospital", "InstitutionName"),
        ("SoftwareVersions", "1.2.826.0.1.11111.2", "UID"),
    ],
)
def test_an_identifier_in_an_attribute_that_stays_is_withheld(
    keyword: str, text: str, kind: str
) -> None:
    ct = chest_ct()
    setattr(ct, keyword, text)
    with pytest.raises(Withheld) as withheld:
        deidentify(read_back(ct), BASIC, KEY)
    assert withheld.value.code == "residue"
    assert withheld.value.facts["kinds"] == kind


def test_an_identifier_of_a_nested_item_is_looked_for_too() -> None:
    ct, request = chest_ct(), Dataset()
    request.PatientName = "Winterbottom^Ida"
    ct.RequestAttributesSequence = [request]
    ct.SoftwareVersions = "for Winterbottom"
    with pytest.raises(Withheld):
        deidentify(ct, BASIC, KEY)


def test_a_comment_in_compressed_pixels_is_withheld() -> None:
    ct = chest_ct()
    code_stream = b"\xff\xd8\xff\xfe\x00\x15 Vandermolen^Aleida \xff\xd9"
    fragment = b"\xfe\xff\x00\xe0" + len(code_stream).to_bytes(4, "little") + code_stream
    ct["PixelData"].value = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + fragment
    ct["PixelData"].is_undefined_length = True
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == "residue"


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Chest^Phantom"),  # "CHEST" stays as Body Part Examined
        ("PatientName", "Siemens^Test"),  # and so does the maker
        ("PatientName", "Li^Na"),  # too short to mean anything in a text
        ("PatientID", "512"),
        ("PatientID", "10241"),
        ("PatientBirthDate", "19600101"),  # the dummy date
        ("AccessionNumber", "CHEST"),
        ("InstitutionName", "Siemens Medical"),
    ],
)
def test_common_and_short_words_are_no_residue(keyword: str, value: str) -> None:
    ct = chest_ct()
    ct.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"  # a PET needs a Series Date
    ct.SoftwareVersions = "Siemens Medical 512"
    setattr(ct, keyword, value)
    assert deidentify(read_back(ct), BASIC, KEY).data_set.BodyPartExamined == "CHEST"


def test_a_part_of_a_longer_word_is_no_residue() -> None:
    ct = chest_ct(patient_id="Sens")
    assert deidentify(ct, BASIC, KEY).data_set.ManufacturerModelName == "Sensation 10"
