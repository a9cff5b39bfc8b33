"""Every odd file has the trouble it is said to have, and no other that would hide it."""

from __future__ import annotations

import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError

import sample_dicom
from sample_dicom.trouble import BOMB_INFLATED_BYTES, NESTED_LEVELS, TROUBLES

FOLDER = Path(sample_dicom.__file__).parent / "odd"


def content(file: str) -> bytes:
    return (FOLDER / file).read_bytes()


def raw(dataset: Dataset, keyword: str) -> bytes:
    """A value as it stands in the file: what is wrong with it is not for pydicom to judge."""
    value = dataset.get_item(keyword).value
    assert isinstance(value, bytes)
    return value


def test_the_table_names_every_odd_file_once() -> None:
    assert sorted(t.file for t in TROUBLES) == sorted(path.name for path in FOLDER.iterdir())


def test_statuses_are_those_of_c_store() -> None:
    assert {t.status for t in TROUBLES if t.expected == "stored"} == {0x0000}
    assert {t.status for t in TROUBLES if t.expected != "stored"} == {0xA900, 0xC000}


@pytest.mark.parametrize(
    "file", [t.file for t in TROUBLES if t.expected == "stored" and t.file != "bad_vr_value.dcm"]
)
def test_what_shall_be_stored_can_be_read(file: str) -> None:
    dataset = dcmread(FOLDER / file)
    dataset.decode()
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID


def test_truncated_ends_in_its_pixel_data() -> None:
    dataset = dcmread(FOLDER / "truncated.dcm")
    assert 0 < len(raw(dataset, "PixelData")) < dataset.Rows * dataset.Columns * 2


def test_not_dicom_is_text() -> None:
    assert content("not_dicom.dcm").isascii()
    with pytest.raises(InvalidDicomError):
        dcmread(FOLDER / "not_dicom.dcm")


def test_nested_300_opens_and_closes_300_sequences() -> None:
    file = content("nested_300.dcm")
    opened = file.count(b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff")
    closed = file.count(b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0")
    assert opened == closed == NESTED_LEVELS == 300


def test_absurd_rows_columns_has_almost_no_pixels() -> None:
    dataset = dcmread(FOLDER / "absurd_rows_columns.dcm")
    assert (dataset.Rows, dataset.Columns, len(dataset.PixelData)) == (65535, 65535, 16)


def test_wrong_affected_uid_names_two_instances() -> None:
    dataset = dcmread(FOLDER / "wrong_affected_uid.dcm")
    assert dataset.SOPInstanceUID != dataset.file_meta.MediaStorageSOPInstanceUID


def test_empty_patient_id_is_empty() -> None:
    assert dcmread(FOLDER / "empty_patient_id.dcm")["PatientID"].is_empty


def test_names_decode_to_their_three_groups() -> None:
    chinese = dcmread(FOLDER / "gb18030_name.dcm").PatientName
    assert (chinese.alphabetic, chinese.ideographic) == ("Moti^Xiongbu", "模体^胸部")
    japanese = dcmread(FOLDER / "iso2022_name.dcm").PatientName
    assert japanese.components == ("Mokei^Kyoubu", "模型^胸部", "もけい^きょうぶ")
    assert b"\x1b$B" in content("iso2022_name.dcm")


def test_bad_vr_value_holds_words_for_numbers() -> None:
    dataset = dcmread(FOLDER / "bad_vr_value.dcm")
    assert raw(dataset, "StudyDate") == b"20251345"
    assert raw(dataset, "SeriesNumber") == b"seven "
    assert raw(dataset, "PatientWeight") == b"heavy "


def test_the_bomb_inflates_at_least_six_hundredfold() -> None:
    file = content("deflate_bomb.dcm")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    pending, inflated_bytes = file[144 + int.from_bytes(file[140:144], "little") :], 0
    while not inflater.eof:
        inflated_bytes += len(inflater.decompress(pending, 1 << 24))
        pending = inflater.unconsumed_tail
    assert inflated_bytes > BOMB_INFLATED_BYTES > 600 * len(file)


@pytest.mark.parametrize(
    ("file", "value"),
    [("uid_path.dcm", b"../../x\0"), ("uid_65.dcm", b"2.25." + b"1" * 60 + b"\0")],
)
def test_bad_uids_stand_in_data_set_and_file_meta(file: str, value: bytes) -> None:
    with config.disable_value_validation():
        dataset = dcmread(BytesIO(content(file)))
    assert raw(dataset, "SOPInstanceUID") == value
    assert content(file).count(value) == 2


def test_the_rest_is_what_its_name_says() -> None:
    script = dcmread(FOLDER / "html_name.dcm")
    assert script.PatientName == "<script>alert(1)</script>"
    assert dcmread(FOLDER / "private_sop_class.dcm").SOPClassUID.is_private
    assert dcmread(FOLDER / "unknown_transfer_syntax.dcm").file_meta.TransferSyntaxUID.is_private
    assert "PixelData" not in dcmread(FOLDER / "no_pixel_data_sr.dcm")
