"""The walk over a data set: it finds every element, and nothing hostile gets past or stalls it."""

from __future__ import annotations

import random
import struct
import time
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence

from pacs.dicom import part10
from pacs.dicom.part10 import inflate, read_part10, scan
from pacs.errors import BadObject
from tests import make

FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
BROKEN = {"MR_truncated.dcm", "rtplan_truncated.dcm", "meta_missing_tsyntax.dcm", "no_meta.dcm"}
WHOLE = [
    path for path in FILES if path.read_bytes()[128:132] == b"DICM" and path.name not in BROKEN
]
SYNTAXES = [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED]


@pytest.mark.parametrize("transfer_syntax_uid", SYNTAXES)
def test_values_are_read_in_every_encoding(transfer_syntax_uid: str) -> None:
    made = make.data_set(7, OtherPatientIDsSequence=[Dataset()])
    found = scan(make.data_set_bytes(made, transfer_syntax_uid), transfer_syntax_uid)
    assert found.text("PatientName") == "Phantom^One"
    assert found.text("InstanceNumber") == "7"
    assert found.text("Rows") == "16"
    assert found.text("StudyInstanceUID") == made.StudyInstanceUID
    assert found.text("PatientComments") == ""
    assert found.value(part10.PIXEL_DATA) is not None


@pytest.mark.filterwarnings("ignore:Expected explicit VR")  # pydicom's, of a mislabelled file
@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.name)
def test_the_elements_of_a_file_are_those_that_pydicom_finds(path: Path) -> None:
    file = read_part10(path.read_bytes())
    found = scan(file.data_set, file.transfer_syntax_uid)
    read = dcmread(path)
    assert list(found.elements) == list(map(int, read.keys()))
    assert found.text("SOPInstanceUID") == str(read.get("SOPInstanceUID", ""))
    assert found.text("PatientName") == str(read.get("PatientName", "")).strip()


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_file_is_refused(name: str) -> None:
    path = get_testdata_file(name, download=False)
    with pytest.raises(BadObject):
        scan(read_part10(Path(str(path)).read_bytes()).data_set, make.EXPLICIT)


def test_a_sender_that_declares_explicit_and_writes_implicit_is_understood() -> None:
    found = scan(make.data_set_bytes(make.data_set(), make.IMPLICIT), make.EXPLICIT)
    assert found.text("PatientID") == "P-1"


def test_an_unknown_transfer_syntax_is_walked_as_explicit() -> None:
    assert scan(make.data_set_bytes(make.data_set()), "1.2.3.4").text("PatientID") == "P-1"


def test_sequences_of_undefined_and_of_known_length_are_passed_over() -> None:
    item = Dataset()
    item.CodeMeaning = "inner"
    made = make.data_set(ProcedureCodeSequence=Sequence([item, item]))
    known = scan(make.data_set_bytes(made), make.EXPLICIT)
    made["ProcedureCodeSequence"].is_undefined_length = True
    item.is_undefined_length_sequence_item = True
    undefined = scan(make.data_set_bytes(made), make.EXPLICIT)
    assert list(known.elements) == list(undefined.elements)
    tag = 0x00081032
    assert undefined.elements[tag].length > known.elements[tag].length
    assert undefined.text("PatientID") == known.text("PatientID") == "P-1"


def test_an_element_of_unknown_representation_and_length_holds_implicit_items() -> None:
    """PS3.5 6.2.2, note 2."""
    inner = struct.pack("<HHI", 0x0008, 0x0104, 4) + b"deep"
    body = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
    end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    unknown = struct.pack("<HH2sHI", 0x0009, 0x1001, b"UN", 0, 0xFFFFFFFF) + body + end
    after = make.element(0x00100020, "LO", b"P-1 ")
    found = scan(unknown + after, make.EXPLICIT)
    assert found.text("PatientID") == "P-1"
    assert found.elements[0x00091001].length == len(body + end)


def test_sixty_four_levels_are_walked_and_one_more_is_refused() -> None:
    assert scan(make.nested(part10.NESTING_MAX), make.EXPLICIT).elements
    with pytest.raises(BadObject, match="too deep"):
        scan(make.nested(part10.NESTING_MAX + 1), make.EXPLICIT)


def test_ten_thousand_levels_are_refused_in_a_moment() -> None:
    begun = time.monotonic()
    with pytest.raises(BadObject, match="too deep"):
        scan(make.nested(10_000), make.EXPLICIT)
    assert time.monotonic() - begun < 1


def test_more_elements_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "ELEMENTS_MAX", 1000)
    elements = b"".join(make.element(n << 16, "UL", b"") for n in range(9, 1100))
    with pytest.raises(BadObject, match="too many elements"):
        scan(elements, make.EXPLICIT)


def test_more_fragments_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part10, "ELEMENTS_MAX", 1000)
    made = make.encapsulated(make.data_set(), [b"ab"] * 1100)
    with pytest.raises(BadObject, match="too many fragments"):
        scan(make.data_set_bytes(made), make.EXPLICIT)


def test_an_element_that_occurs_twice_is_refused() -> None:
    twice = make.element(0x00100020, "LO", b"P-1 ") + make.element(0x00100020, "LO", b"P-2 ")
    with pytest.raises(BadObject, match="twice"):
        scan(twice, make.EXPLICIT)


def test_nothing_at_all_is_refused() -> None:
    with pytest.raises(BadObject, match="no elements"):
        scan(b"", make.EXPLICIT)


@pytest.mark.parametrize(
    ("data_set", "reason"),
    [
        (make.element(0x00100020, "LO", b"P-1 ")[:-1], "cut off inside a value"),
        (make.element(0x00100020, "LO", b"P-1 ")[:5], "cut off inside an element"),
        (make.nested(3)[:-4], "cut off inside an element"),
        (make.nested(3)[:-8], "cut off inside an element"),
        (
            struct.pack("<HH2sHI", 0x40, 0xA730, b"SQ", 0, 0xFFFFFFFF)
            + struct.pack("<HHI", 0xFFFE, 0xE000, 100),
            "cut off inside a sequence",
        ),
        (
            struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
            + struct.pack("<HHI", 0xFFFE, 0xE000, 100),
            "cut off or broken",
        ),
        (
            struct.pack("<HH2sHI", 0x40, 0xA124, b"UT", 0, 0xFFFFFFFF),
            "must have a length",
        ),
        (make.element(0x0040A730, "SQ", make.element(0x00100020, "LO", b"P-1 ")), "no item"),
        (make.element(0x00080000, "UL", b"\0" * 4) + b"\x10\0\x20\0\1\2\0\0", "representation"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_encodings_are_refused_with_their_reason(data_set: bytes, reason: str) -> None:
    with pytest.raises(BadObject, match=reason):
        scan(data_set, make.EXPLICIT)


def test_an_element_may_not_reach_out_of_its_item() -> None:
    inner = make.element(0x00100020, "LO", b"P-1 ")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner) - 2) + inner
    with pytest.raises(BadObject, match="beyond the item"):
        scan(make.element(0x0040A730, "SQ", item), make.EXPLICIT)


def test_a_data_set_may_end_in_the_padding_of_its_deflated_stream() -> None:
    squeezed = make.data_set_bytes(make.data_set(), make.DEFLATED)
    assert bytes(inflate(squeezed + b"\0\0")) == make.data_set_bytes(make.data_set())


def test_a_deflate_bomb_is_refused_before_it_is_whole() -> None:
    zeros = bytes(1 << 20)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(squeeze.compress(zeros) for _ in range(256)) + squeeze.flush()
    begun = time.monotonic()
    with pytest.raises(BadObject, match="beyond the limit"):
        scan(bomb, make.DEFLATED)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_deflated_data_set_that_is_cut_off_is_refused(cut: int) -> None:
    squeezed = make.deflated(make.data_set_bytes(make.data_set())).rstrip(b"\0")
    with pytest.raises(BadObject):
        scan(squeezed[:-cut], make.DEFLATED)


def test_what_is_not_deflated_is_refused() -> None:
    with pytest.raises(BadObject, match="cannot be inflated"):
        scan(make.data_set_bytes(make.data_set()), make.DEFLATED)


SEEDS = ["CT_small.dcm", "rtplan.dcm", "test-SR.dcm", "JPEG2000.dcm", "liver_expb.dcm"]


@pytest.fixture(scope="module")
def seeds() -> list[tuple[bytes, str]]:
    """Data sets small enough to spoil in thousands of ways, one of them deflated."""
    paths = [get_testdata_file(name, download=False) for name in SEEDS]
    files = [read_part10(Path(str(path)).read_bytes()) for path in paths if path]
    cut = [(bytes(file.data_set[:9000]), file.transfer_syntax_uid) for file in files]
    rich = make.data_set(OtherPatientIDsSequence=Sequence([Dataset(), make.data_set(2)]))
    return [*cut, *((make.data_set_bytes(rich, syntax), syntax) for syntax in SYNTAXES)]


def test_spoiled_data_sets_are_walked_or_refused_never_worse(
    seeds: list[tuple[bytes, str]],
) -> None:
    chance = random.Random(20240229)
    begun = time.monotonic()
    refused = 0
    for _ in range(4000):
        data_set, transfer_syntax_uid = chance.choice(seeds)
        spoiled = bytearray(data_set[: chance.choice([len(data_set), chance.randrange(9000)])])
        for _ in range(chance.randrange(1, 12)):
            if spoiled:
                spoiled[chance.randrange(len(spoiled))] = chance.choice([0, 1, 0x7F, 0xFE, 0xFF])
        try:
            found = scan(bytes(spoiled), transfer_syntax_uid)
            for keyword in ("PatientName", "Rows", "NumberOfFrames", "SpecificCharacterSet"):
                found.text(keyword)
        except BadObject:
            refused += 1
    assert 500 < refused < 4000
    assert time.monotonic() - begun < 10


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
def test_arbitrary_bytes_are_walked_or_refused(data: bytes, transfer_syntax_uid: str) -> None:
    try:
        found = scan(data, transfer_syntax_uid)
    except BadObject:
        return
    assert all(0 <= e.start < e.value <= len(found.data) for e in found.elements.values())


TAGS = st.sampled_from([0x00080005, 0x00080018, 0x00100010, 0x00100020, 0x0040A730, 0x7FE00010])
VRS = st.sampled_from(["LO", "PN", "CS", "UI", "SQ", "UN", "OB", "OW", "UT", "US", "ZZ"])


@settings(max_examples=300, deadline=1000)
@given(st.lists(st.tuples(TAGS, VRS, st.binary(max_size=40)), max_size=8))
def test_well_formed_nonsense_is_walked_or_refused(rows: list[tuple[int, str, bytes]]) -> None:
    data = b"".join(make.element(*row) for row in rows)
    try:
        found = scan(data, make.EXPLICIT)
    except BadObject:
        return
    assert len(found.elements) == len(rows)
    assert isinstance(found.text("SOPInstanceUID"), str)  # UIDs are not split
    for keyword in ("PatientName", "PatientID"):
        assert "\\" not in found.text(keyword)
