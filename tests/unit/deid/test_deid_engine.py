"""What `deidentify` promises of every object that it releases."""

from __future__ import annotations

import subprocess
import sys
import uuid
from copy import deepcopy
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from pacs.deid import BASIC, Action, Withheld, deidentify
from tests.unit.deid.objects import KEY, TRANSFER_SYNTAXES, chest_ct, part10, read_back, set_bytes

FOREIGN_SOP_CLASS = "1.3.12.2.1107.5.9.1"


def cleaned(data_set: Dataset, key: bytes = KEY) -> Dataset:
    return deidentify(data_set, BASIC, key).data_set


def test_the_required_attributes_are_set() -> None:
    result = cleaned(chest_ct())
    assert result.PatientIdentityRemoved == "YES"
    assert result.LongitudinalTemporalInformationModified == "REMOVED"
    assert result.DeidentificationMethod == BASIC.statement
    (method,) = result.DeidentificationMethodCodeSequence
    assert (method.CodeValue, method.CodingSchemeDesignator) == ("113100", "DCM")
    assert result.SpecificCharacterSet == "ISO_IR 192"


def test_nothing_is_claimed_of_the_pixels() -> None:
    result = cleaned(chest_ct())
    assert "BurnedInAnnotation" not in result
    assert "RecognizableVisualFeatures" not in result


def test_an_earlier_deidentification_is_kept_beside_ours() -> None:
    ct = chest_ct()
    ct.DeidentificationMethod = "Somebody else's method"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "113109", "DCM", "said so"
    ct.DeidentificationMethodCodeSequence = [code]
    result = cleaned(ct)
    assert result.DeidentificationMethod == ["Somebody else's method", BASIC.statement]
    codes = result.DeidentificationMethodCodeSequence
    assert [item.CodeValue for item in codes] == ["113109", "113100"]
    assert codes[0].CodeMeaning == "Retain Device Identity Option"


def test_cleaning_twice_says_so_once() -> None:
    result = cleaned(cleaned(chest_ct()))
    assert result.DeidentificationMethod == BASIC.statement
    assert len(result.DeidentificationMethodCodeSequence) == 1


@pytest.mark.parametrize("transfer_syntax_uid", [*TRANSFER_SYNTAXES, ExplicitVRBigEndian])
def test_the_input_is_not_changed(transfer_syntax_uid: str) -> None:
    received = read_back(_with_references(chest_ct()), transfer_syntax_uid)
    untouched = [received.get_item(tag) for tag in sorted(received.keys())]
    deidentify(received, BASIC, KEY)
    assert [received.get_item(tag) for tag in sorted(received.keys())] == untouched
    assert all(
        now is then
        for now, then in zip(
            map(received.get_item, sorted(received.keys())), untouched, strict=True
        )
    )


def test_an_input_in_memory_is_not_changed() -> None:
    ct = _with_references(chest_ct())
    before = deepcopy(ct)
    part10(cleaned(ct))
    assert ct == before


def test_pixel_data_is_handed_on_untouched() -> None:
    received = read_back(chest_ct())
    result = cleaned(received)
    assert result.get_item("PixelData").value is received.get_item("PixelData").value


def test_the_technical_attributes_stay() -> None:
    ct = chest_ct()
    result = cleaned(read_back(ct))
    kept = (
        "ImageType SOPClassUID Modality Manufacturer ManufacturerModelName BodyPartExamined"
        " SliceThickness KVP SoftwareVersions ConvolutionKernel PatientPosition InstanceNumber"
        " ImagePositionPatient ImageOrientationPatient PixelSpacing Rows RescaleIntercept"
    )
    assert {k: result[k].value for k in kept.split()} == {k: ct[k].value for k in kept.split()}


@pytest.mark.parametrize("transfer_syntax_uid", TRANSFER_SYNTAXES)
def test_the_same_input_and_key_give_the_same_bytes(transfer_syntax_uid: str) -> None:
    first, second = (
        part10(cleaned(read_back(chest_ct(), transfer_syntax_uid)), transfer_syntax_uid)
        for _ in range(2)
    )
    assert first == second


def test_another_process_gives_the_same_identities() -> None:
    script = (
        "from tests.unit.deid.objects import KEY, chest_ct\n"
        "from pacs.deid import BASIC, deidentify\n"
        "ct = deidentify(chest_ct(), BASIC, KEY).data_set\n"
        "print(ct.SOPInstanceUID, ct.PatientID, ct.StudyID)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    here = cleaned(chest_ct())
    assert answer.stdout.split() == [here.SOPInstanceUID, here.PatientID, here.StudyID]


def test_another_key_shares_nothing() -> None:
    here, there = cleaned(chest_ct()), cleaned(chest_ct(), key=b"another project's secret key")
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert here[keyword].value != there[keyword].value


def test_a_uid_becomes_a_uuid_of_version_8() -> None:
    uid = cleaned(chest_ct()).SOPInstanceUID
    assert uid.startswith("2.25.")
    number = uuid.UUID(int=int(uid.removeprefix("2.25.")))
    assert (number.version, number.variant) == (8, uuid.RFC_4122)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_references_between_instances_hold_in_any_order(order: tuple[int, int]) -> None:
    pair = [_with_references(chest_ct(f"1.2.826.0.1.11111.4.{n}"), 3 - n) for n in (1, 2)]
    results = dict(zip(order, (cleaned(read_back(pair[n])) for n in order), strict=True))
    for here, there in ((results[0], results[1]), (results[1], results[0])):
        assert here.ReferencedImageSequence[0].ReferencedSOPInstanceUID == there.SOPInstanceUID
        assert here.StudyInstanceUID == there.StudyInstanceUID
        assert here.FrameOfReferenceUID == there.FrameOfReferenceUID
    assert results[0].SOPInstanceUID != results[1].SOPInstanceUID


def test_classes_and_registered_uids_are_kept() -> None:
    ct = _with_references(chest_ct())
    ct.ReferencedImageSequence[0].ReferencedSOPClassUID = FOREIGN_SOP_CLASS
    ct.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # the Talairach brain atlas frame
    result = cleaned(ct)
    assert result.ReferencedImageSequence[0].ReferencedSOPClassUID == FOREIGN_SOP_CLASS
    assert result.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"


def test_text_in_the_place_of_a_uid_is_replaced() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "FrameOfReferenceUID", b"Doe^John")
    assert cleaned(ct).FrameOfReferenceUID.startswith("2.25.")


def test_pseudonyms_follow_patient_id_and_issuer() -> None:
    first, again, other = (
        cleaned(chest_ct(patient_id=i)) for i in ("MRN0077", "MRN0077 ", "MRN0078")
    )
    elsewhere = chest_ct()
    elsewhere.IssuerOfPatientID = "Another hospital"
    assert first.PatientID == again.PatientID == first.PatientName
    assert first.PatientID.startswith("ISO-")
    assert len({first.PatientID, other.PatientID, cleaned(elsewhere).PatientID}) == 3


def test_strangers_without_an_id_are_not_merged() -> None:
    first, second = chest_ct(patient_id=""), chest_ct(patient_id="")
    second.StudyInstanceUID = "1.2.826.0.1.11111.22"
    assert cleaned(first).PatientID != cleaned(second).PatientID
    del first.PatientID
    assert cleaned(first).PatientID == cleaned(chest_ct(patient_id="")).PatientID


def test_a_given_pseudonym_is_used() -> None:
    result = deidentify(chest_ct(), BASIC, KEY, pseudonym="PROJ-0001").data_set
    assert result.PatientID == result.PatientName == "PROJ-0001"


def test_the_same_patient_id_in_another_character_set_is_the_same_patient() -> None:
    first, second = chest_ct(patient_id="ÄÖ-1234"), chest_ct(patient_id="ÄÖ-1234")
    second.SpecificCharacterSet = "ISO_IR 192"
    assert cleaned(read_back(first)).PatientID == cleaned(read_back(second)).PatientID


def test_required_dates_become_dummies() -> None:
    pet = chest_ct()
    pet.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    result = cleaned(pet)
    assert result.SeriesDate == "19600101"
    assert result.AcquisitionDate in ("", None)
    assert result.StudyDate in ("", None)


def test_a_public_code_is_kept_with_the_meaning_of_the_standard() -> None:
    region = _region(chest_ct(), "51185008", "SCT", "Chest of Mrs. Vandermolen")
    assert region.CodeValue == "51185008"
    assert region.CodeMeaning == "Thoracic structure (body structure)"


def test_a_public_code_without_a_known_meaning_means_itself() -> None:
    region = _region(chest_ct(), "T-D3000", "SRT", "Vandermolen")
    assert (region.CodeValue, region.CodeMeaning) == ("T-D3000", "T-D3000")


def test_a_long_public_code_keeps_its_attribute() -> None:
    code = Dataset()
    code.LongCodeValue, code.CodingSchemeDesignator = "900000000000207008", "SCT"
    code.CodeMeaning = "Vandermolen"
    ct = chest_ct()
    ct.ViewCodeSequence = [code]
    (view,) = cleaned(read_back(ct)).ViewCodeSequence
    assert (view.LongCodeValue, view.CodeMeaning) == ("900000000000207008", "900000000000207008")
    assert "CodeValue" not in view


@pytest.mark.parametrize(
    ("value", "scheme"),
    [("VANDERMOLEN", "99LOCAL"), ("VANDERMOLEN", "SCT"), ("{Vandermolen}", "UCUM"), ("", "SCT")],
)
def test_any_other_code_becomes_a_dummy(value: str, scheme: str) -> None:
    region = _region(chest_ct(), value, scheme, "Vandermolen")
    assert (region.CodeValue, region.CodingSchemeDesignator) == ("REMOVED", "99ISOCENTER")
    assert region.CodeMeaning == "Removed"


def test_a_required_sequence_becomes_one_item_of_constants() -> None:
    ct = chest_ct()
    graphic, text = Dataset(), Dataset()
    text.UnformattedTextValue = "Vandermolen, 73 years"
    text.AnchorPoint = [195102.03, 4]
    graphic.GraphicLayer = "VANDERMOLEN"
    graphic.TextObjectSequence = [text]
    graphic.ReferencedImageSequence = _with_references(chest_ct()).ReferencedImageSequence
    ct.GraphicAnnotationSequence = [graphic, graphic]
    result = cleaned(read_back(ct))
    (item,) = result.GraphicAnnotationSequence
    assert item.GraphicLayer == "REMOVED"
    assert item.TextObjectSequence[0].UnformattedTextValue == "REMOVED"
    assert item.TextObjectSequence[0].AnchorPoint == 0.0
    assert item.ReferencedImageSequence[0].ReferencedSOPInstanceUID.startswith("2.25.")


def test_numbers_that_are_text_are_emptied() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "SliceThickness", b"Vandermolen ")
    set_bytes(ct, "Exposure", b"12 mAs, Aleida")
    set_bytes(ct, "BodyPartExamined", b"CHEST\\MRN 1234567")
    result = cleaned(ct)
    assert result.SliceThickness is None
    assert result.Exposure is None
    assert result.BodyPartExamined == ["CHEST", "REMOVED"]


@pytest.mark.parametrize("transfer_syntax_uid", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("outer", "inner", "name"),
    [
        ("GB18030", "ISO_IR 192", "王^小东"),
        ("ISO_IR 100", ["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 192", "GB18030", "王^小东"),
        ("ISO_IR 144", "ISO_IR 166", "นามสกุล^ชื่อ"),
        ("ISO_IR 100", ["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    ],
)
def test_names_in_other_character_sets_are_found(
    outer: str, inner: str | list[str], name: str, transfer_syntax_uid: str
) -> None:
    ct, request = chest_ct(), Dataset()
    ct.SpecificCharacterSet = outer
    request.SpecificCharacterSet = inner
    request.PatientName = name
    request.RequestedProcedureDescription = name.replace("^", " ").replace("=", " ")
    request.Manufacturer = "シーメンス" if "87" in str(inner) else "Siemens"
    ct.RequestAttributesSequence = [request]
    before = part10(ct, transfer_syntax_uid)
    after = part10(cleaned(read_back(ct, transfer_syntax_uid)), transfer_syntax_uid)
    codecs = ("gb18030", "utf8", "iso2022_jp", "euc_kr", "iso8859_11", "euc_jp")
    for word in name.replace("=", "^").split("^"):
        spellings = [word.encode(c, errors="ignore") for c in codecs]
        found = [s for s in spellings if len(s.strip(b"\x1b$B(")) > 3]
        assert any(spelling in before for spelling in found) or not word.isascii()
        assert not any(spelling in after for spelling in found)


def test_technical_text_changes_to_the_character_set_of_the_result() -> None:
    ct = chest_ct()
    ct.Manufacturer = "Röntgenwerk"
    result = cleaned(read_back(ct))
    assert result.Manufacturer == "Röntgenwerk"
    assert "Röntgenwerk".encode() in part10(result)


def test_text_that_cannot_be_decoded_is_removed() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "SpecificCharacterSet", b"ISO_IR 192")
    set_bytes(ct, "Manufacturer", b"R\xf6ntgenwerk")
    set_bytes(ct, "ConvolutionKernel", b"B40\xf6")
    result = cleaned(ct)
    assert result.Manufacturer in ("", None)  # Type 2
    assert "ConvolutionKernel" not in result


def test_text_in_a_character_set_that_nobody_knows_is_removed() -> None:
    ct = read_back(chest_ct())
    set_bytes(ct, "SpecificCharacterSet", b"KLINGON ")
    result = cleaned(ct)
    assert result.Manufacturer in ("", None)
    assert result.Modality == "CT"


def test_an_item_nested_too_deep_is_withheld() -> None:
    ct = chest_ct()
    item = ct
    for _ in range(70):
        inner = Dataset()
        item.add_new("CTExposureSequence", "SQ", Sequence([inner]))
        item = inner
    item.KVP = "120"
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == "nested_too_deep"


def test_a_sequence_that_cannot_be_read_is_withheld() -> None:
    ct = read_back(_with_references(chest_ct()))
    set_bytes(ct, "ReferencedImageSequence", b"\xfe\xff\x00\xe0\xff\xff")
    with pytest.raises(Withheld) as withheld:
        deidentify(ct, BASIC, KEY)
    assert withheld.value.code == "undecodable"


def test_an_empty_sequence_or_item_stays_and_an_emptied_one_goes() -> None:
    ct, only_text = chest_ct(), Dataset()
    ct.CTTableDynamicsSequence = [Dataset()]
    only_text.ContributionDescription = "seen by Dr. Quartermain"
    ct.ViewCodeSequence = []
    ct.ContributingEquipmentSequence = [only_text]
    result = cleaned(ct)
    assert len(result.ViewCodeSequence) == 0
    assert len(result.CTTableDynamicsSequence) == 1
    assert "ContributingEquipmentSequence" not in result


def test_the_report_counts_actions() -> None:
    report = deidentify(chest_ct(), BASIC, KEY).report
    assert (report.profile, report.version, report.edition) == ("basic", 1, "2026c")
    actions = dict(report.actions)
    assert actions[Action.REPLACE_UID] == 4
    assert sum(actions.values()) == len(chest_ct())


def _with_references(ct: Dataset, number: int = 2) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = ct.SOPClassUID
    reference.ReferencedSOPInstanceUID = f"1.2.826.0.1.11111.4.{number}"
    ct.ReferencedImageSequence = [reference]
    return ct


def _region(ct: Dataset, value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    ct.AnatomicRegionSequence = [code]
    region: Dataset = cleaned(read_back(ct)).AnatomicRegionSequence[0]
    return region
