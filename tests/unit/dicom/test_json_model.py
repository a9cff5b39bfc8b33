"""The DICOM JSON model: what pydicom says of a file, and never an error for a value that is bad."""

from __future__ import annotations

import base64
import json
import random
import struct
import warnings
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from pacs.dicom.data_sets import read_header
from pacs.dicom.frames import frame_table
from pacs.dicom.json_model import INLINE_BYTES_MAX, JsonModel, json_model
from pacs.dicom.part10 import read_part10, scan
from pacs.errors import BadObject
from tests import make

FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
BROKEN = {"MR_truncated.dcm", "rtplan_truncated.dcm", "meta_missing_tsyntax.dcm", "no_meta.dcm"}
UNFIT = {"badVR.dcm"}  # pydicom cannot say what is in it
WHOLE = [
    path
    for path in sorted(FOLDER.glob("*.dcm"))
    if path.read_bytes()[128:132] == b"DICM" and path.name not in BROKEN | UNFIT
]


def model_of(data_set: bytes, transfer_syntax_uid: str = make.EXPLICIT) -> JsonModel:
    walked = scan(data_set, transfer_syntax_uid)
    header = bytes(walked.data[: frame_table(walked).header_bytes])
    return json_model(read_header(header, transfer_syntax_uid), lambda path: f"bulkdata/{path}")


def as_json(model: JsonModel) -> str:
    return json.dumps(model, allow_nan=False)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's own, about its own odd files
@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_the_model_of_a_file_is_the_one_pydicom_gives(path: Path) -> None:
    file = read_part10(path.read_bytes())
    found = model_of(bytes(file.data_set), file.transfer_syntax_uid)
    as_json(found)
    read = dcmread(path)
    pixels = frame_table(scan(file.data_set, file.transfer_syntax_uid)).pixel_tag or 1 << 32
    expected = {
        f"{int(tag):08X}": read[tag].to_json_dict(None, 0)
        for tag in sorted(read.keys())
        if tag.element and int(tag) < pixels
    }
    assert found == {tag: plain(element, tag) for tag, element in expected.items()}


def plain(element: Any, path: str) -> Any:  # noqa: ANN401 - JSON is what it is
    """pydicom's element, with an address in place of a value that is too large to be inline."""
    if len(base64.b64decode(element.get("InlineBinary", ""))) > INLINE_BYTES_MAX:
        return {"vr": element["vr"], "BulkDataURI": f"bulkdata/{path}"}
    if element["vr"] == "SQ" and "Value" in element:
        items = [
            {tag: plain(inner, f"{path}/{number}/{tag}") for tag, inner in item.items()}
            for number, item in enumerate(element["Value"], start=1)
        ]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    return element


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_the_model_is_the_same_in_every_encoding(syntax: str) -> None:
    made = make.data_set(OtherPatientIDsSequence=Sequence([make.data_set(2)]))
    del made.OtherPatientIDsSequence[0].PixelData
    model = model_of(make.data_set_bytes(made, syntax), syntax)
    assert model == model_of(make.data_set_bytes(made))
    assert model["00100010"] == {"vr": "PN", "Value": [{"Alphabetic": "Phantom^One"}]}
    assert model["00101002"]["Value"][0]["00200013"] == {"vr": "IS", "Value": [2]}
    assert "7FE00010" not in model


def test_names_keep_their_three_groups() -> None:
    made = make.data_set(SpecificCharacterSet="ISO_IR 192", patient_name="Wang^XiaoDong=王^小東=")
    names = {"Alphabetic": "Wang^XiaoDong", "Ideographic": "王^小東"}
    assert model_of(make.data_set_bytes(made))["00100010"] == {"vr": "PN", "Value": [names]}


def test_group_lengths_and_file_meta_stay_out() -> None:
    data = make.element(0x00080000, "UL", b"\4\0\0\0") + make.data_set_bytes(make.data_set())
    assert all(tag[4:] != "0000" and tag[:4] != "0002" for tag in model_of(data))


def test_large_binary_values_are_given_by_reference_small_ones_inline() -> None:
    small, large = bytes(INLINE_BYTES_MAX), bytes(INLINE_BYTES_MAX + 2)
    item = Dataset()
    item.add_new(0x00420011, "OB", large)
    made = make.data_set(EncapsulatedDocument=large, OtherPatientIDsSequence=Sequence([item]))
    made.add_new(0x00091001, "OB", small)
    model = model_of(make.data_set_bytes(made))
    assert base64.b64decode(model["00091001"]["InlineBinary"]) == small
    assert model["00420011"] == {"vr": "OB", "BulkDataURI": "bulkdata/00420011"}
    nested = model["00101002"]["Value"][0]["00420011"]
    assert nested["BulkDataURI"] == "bulkdata/00101002/1/00420011"


def test_a_value_that_does_not_fit_costs_its_own_element_only() -> None:
    data = b"".join(
        (
            make.element(0x00080018, "UI", b"1.2.3\0"),
            make.element(0x00100030, "DA", b"not a date"),
            make.element(0x00200013, "IS", b"one "),
            make.element(0x00280010, "US", b"\1\2\3"),
            make.element(0x00281050, "DS", b"1,5 "),
        )
    )
    model = model_of(data)
    as_json(model)
    assert model["00080018"] == {"vr": "UI", "Value": ["1.2.3"]}
    assert "00280010" not in model


@pytest.mark.parametrize("text", ["NaN", "inf", "-inf"])
@pytest.mark.parametrize(("vr", "code"), [("FD", "<d"), ("FL", "<f")])
def test_numbers_that_json_cannot_say_are_given_as_text(text: str, vr: str, code: str) -> None:
    """PS3.18 table F.2.3-1."""
    number = float(text)
    model = model_of(make.element(0x00189087, vr, struct.pack(code, number)))
    assert model["00189087"] == {"vr": vr, "Value": [text]}
    as_json(model)
    as_json(model_of(make.element(0x00281050, "DS", f"{text} ".encode()[:4])))


def test_an_unknown_element_that_hides_deep_sequences_costs_itself_only() -> None:
    """pydicom takes such bytes for a sequence, and its reader recurses."""
    for levels in (65, 100, 240, 300, 900, 1700, 10_000):
        hidden = make.element(0x0040A730, "UN", make.nested(levels)[12:])
        model = model_of(make.element(0x00100020, "LO", b"P-1 ") + hidden)
        as_json(model)
        assert model["00100020"]["Value"] == ["P-1"]


def test_sixty_four_levels_become_a_model() -> None:
    model = model_of(make.nested(64))
    for _ in range(63):
        model = model["0040A730"]["Value"][0]
    as_json(model)


def test_spoiled_data_sets_become_valid_json_or_are_refused() -> None:
    chance = random.Random(7)
    rich = make.data_set(
        SpecificCharacterSet="ISO_IR 192",
        patient_name="Wang^XiaoDong=王^小東=",
        OtherPatientIDsSequence=Sequence([make.data_set(2)]),
        SliceThickness="1.25",
        DiffusionBValue=0.5,
        FrameIncrementPointer=0x00181063,
    )
    seeds = [(make.data_set_bytes(rich, s), s) for s in (make.EXPLICIT, make.IMPLICIT)]
    for name in ("rtplan.dcm", "test-SR.dcm", "waveform_ecg.dcm", "CT_small.dcm"):
        file = read_part10((FOLDER / name).read_bytes())
        seeds.append((bytes(file.data_set[:6000]), file.transfer_syntax_uid))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answers = sum(becomes_json(chance, *chance.choice(seeds)) for _ in range(1500))
    assert answers > 300
    assert not any("Wang" in str(warning.message) for warning in said)


def becomes_json(chance: random.Random, data_set: bytes, transfer_syntax_uid: str) -> bool:
    spoiled = bytearray(data_set)
    for _ in range(chance.randrange(1, 8)):
        spoiled[chance.randrange(len(spoiled))] = chance.choice([0, 0x20, 0x41, 0x5C, 0xFF])
    try:
        return bool(as_json(model_of(bytes(spoiled), transfer_syntax_uid)))
    except BadObject:
        return False
