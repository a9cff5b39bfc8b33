"""Which objects are withheld, and with which reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from pacs.deid import BASIC, REASONS, Withheld, deidentify
from pacs.errors import Refused
from tests.unit.deid.objects import KEY, chest_ct, read_back, set_bytes

Change = Callable[[Dataset], None]


def setting(**values: object) -> Change:
    def change(ct: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ct, keyword, value)

    return change


def without(*keywords: str) -> Change:
    def change(ct: Dataset) -> None:
        for keyword in keywords:
            delattr(ct, keyword)

    return change


def region(meaning: str) -> Dataset:
    item = Dataset()
    item.CodeMeaning = meaning
    return item


def head_called_chest(ct: Dataset) -> None:
    item = region("Chest")
    item.CodeValue, item.CodingSchemeDesignator = "69536005", "SCT"
    ct.BodyPartExamined, ct.AnatomicRegionSequence = "", [item]


def in_frames(ct: Dataset) -> None:
    anatomy, group = Dataset(), Dataset()
    anatomy.AnatomicRegionSequence = [region("Brain")]
    group.FrameAnatomySequence = [anatomy]
    ct.PerFrameFunctionalGroupsSequence = [group]


def overlay_bit(ct: Dataset) -> None:
    ct.add_new(0x60020102, "US", 12)


def overlay_without_data(ct: Dataset) -> None:
    ct.add_new(0x60000010, "US", 4)


def longer_pixel_data(ct: Dataset) -> None:
    ct.PixelData = ct.PixelData + b"Doe^John"


def shorter_pixel_data(ct: Dataset) -> None:
    ct.PixelData = ct.PixelData[:-2]


def sop_class(uid: str) -> Change:
    return setting(SOPClassUID=uid)


def described(part: str = "", study: str = "", series: str = "", protocol: str = "") -> Change:
    return setting(
        BodyPartExamined=part,
        StudyDescription=study,
        SeriesDescription=series,
        ProtocolName=protocol,
    )


IMAGES = "1.2.840.10008.5.1.4.1.1"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (sop_class(f"{IMAGES}.88.33"), "structured_report"),
        (sop_class(f"{IMAGES}.88.59"), "structured_report"),
        (sop_class(f"{IMAGES}.104.1"), "encapsulated_document"),
        (sop_class(f"{IMAGES}.11.1"), "presentation_state"),
        (sop_class(f"{IMAGES}.66"), "object_type_not_cleaned"),
        (sop_class(f"{IMAGES}.66.4"), "object_type_not_cleaned"),
        (sop_class(f"{IMAGES}.481.3"), "object_type_not_cleaned"),
        (sop_class(f"{IMAGES}.9.1.1"), "object_type_not_cleaned"),
        (sop_class(f"{IMAGES}.7"), "burned_in_text_possible"),
        (sop_class(f"{IMAGES}.6.1"), "burned_in_text_possible"),
        (sop_class(f"{IMAGES}.1"), "burned_in_text_possible"),
        (sop_class(f"{IMAGES}.999"), "unknown_sop_class"),
        (sop_class("1.3.12.2.1107.5.9.1"), "private_sop_class"),
        (without("SOPClassUID"), "required_attribute_missing"),
        (without("SOPInstanceUID"), "required_attribute_missing"),
        (setting(StudyInstanceUID=""), "required_attribute_missing"),
        (without("SeriesInstanceUID"), "required_attribute_missing"),
        (without("Rows"), "required_attribute_missing"),
        (without("ImageType"), "burned_in_text_possible"),
        (setting(ImageType=["DERIVED", "PRIMARY"]), "burned_in_text_possible"),
        (setting(ImageType=["ORIGINAL", "SECONDARY"]), "burned_in_text_possible"),
        (setting(ImageType=["ORIGINAL", "PRIMARY", "SCREEN SAVE"]), "burned_in_text_possible"),
        (setting(BurnedInAnnotation="YES"), "burned_in_text_possible"),
        (setting(PhotometricInterpretation="RGB"), "burned_in_text_possible"),
        (without("PhotometricInterpretation"), "burned_in_text_possible"),
        (overlay_bit, "overlay_in_pixel_data"),
        (overlay_without_data, "overlay_in_pixel_data"),
        (longer_pixel_data, "pixel_data_length"),
        (shorter_pixel_data, "pixel_data_length"),
        (setting(RecognizableVisualFeatures="YES"), "face_possible"),
        (described("HEAD"), "face_possible"),
        (described("HEADNECK"), "face_possible"),
        (described("WHOLEBODY"), "face_possible"),
        (described("CHEST", series="Head 5 mm"), "face_possible"),
        (described("CHEST", protocol="Kopf/Thorax"), "face_possible"),
        (described(study="CT Schädel nativ"), "face_possible"),
        (described(study="头颅平扫"), "face_possible"),
        (described(study="IAC"), "face_possible"),
        (setting(BodyPartExamined="", AnatomicRegionSequence=[region("Face")]), "face_possible"),
        (in_frames, "face_possible"),
        (head_called_chest, "face_possible"),
        (described(), "body_part_unknown"),
        (described("SPINE"), "body_part_unknown"),
        (described(study="Computertomographie"), "body_part_unknown"),
        (described(study="Nachbehandlung"), "body_part_unknown"),
        (described(series="CT feet first"), "body_part_unknown"),
        (described("CHEST", series="CT_IAC_1mm"), "face_possible"),
        (described(series="5 mm", protocol="Routine"), "body_part_unknown"),
    ],
)
def test_an_object_is_withheld_with_its_reason(change: Change, code: str) -> None:
    ct = chest_ct()
    ct.SpecificCharacterSet = "ISO_IR 192"
    change(ct)
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == code
    assert withheld.value.message == REASONS[code]


@pytest.mark.parametrize(
    "change",
    [
        described("CHEST"),
        described("CHEST", study="CT head and chest"),  # the region speaks for this series
        described(study="CT CHEST"),
        described(protocol="AThoraxRoutine"),
        described(series="Cardiac 0.6"),
        described("LIVER"),
        described(series="CT_LUNG_1.5"),
        described("LSPINE"),
        setting(BodyPartExamined="", AnatomicRegionSequence=[region("Iliac artery, pelvis")]),
        setting(BurnedInAnnotation="NO"),
    ],
)
def test_an_object_is_released_that_says_enough(change: Change) -> None:
    ct = chest_ct()
    change(ct)
    assert deidentify(ct, BASIC, KEY).data_set.PatientIdentityRemoved == "YES"


def test_a_word_for_the_head_is_seen_in_text_that_cannot_be_decoded() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "SpecificCharacterSet", b"ISO_IR 192")
    set_bytes(ct, "SeriesDescription", b"Sch\xe4del")
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == "face_possible"


def test_a_number_of_frames_that_is_no_number_is_withheld() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "NumberOfFrames", b"many")
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == "undecodable"


def test_withholding_is_a_refusal_that_names_no_value() -> None:
    ct = chest_ct()
    ct.BodyPartExamined = "HEAD"
    with pytest.raises(Refused) as refused:
        deidentify(ct, BASIC, KEY)
    told = f"{refused.value} {refused.value.facts}"
    for value in ("Vandermolen", "MRN0077", "ACC4711", ct.StudyInstanceUID):
        assert value not in told


def test_the_documentation_lists_every_reason() -> None:
    documentation = Path(__file__).parents[3].joinpath("docs/deidentification.md").read_text()
    for code, sentence in REASONS.items():
        assert f"| `{code}` | {sentence} |" in documentation
