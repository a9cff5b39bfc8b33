"""Text of the index in every character set that PS3.5 annexes H to K show."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom import Dataset, dcmread

from pacs.dicom.part10 import read_part10, scan
from tests import make

FILES = sorted((Path(pydicom.__file__).parent / "data" / "charset_files").glob("*.dcm"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's own, about its own odd files
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_names_are_read_as_pydicom_reads_them(path: Path) -> None:
    content = path.read_bytes()
    if content[128:132] != b"DICM":
        found = scan(content, make.IMPLICIT)
    else:
        file = read_part10(content)
        found = scan(file.data_set, file.transfer_syntax_uid)
    read = dcmread(path, force=True)
    assert found.text("PatientName").rstrip("=") == str(read.get("PatientName", ""))


@pytest.mark.parametrize(
    ("character_set", "codec", "name"),
    [
        ("ISO_IR 192", "utf-8", "Wang^XiaoDong=王^小東="),
        ("GB18030", "gb18030", "Wang^XiaoDong=王^小东="),
        ("GBK", "gbk", "Wang^XiaoDong=王^小东="),
        ("ISO_IR 144", "iso8859-5", "Люкceмбypг"),
        ("ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
        ("ISO_IR 100", "iso8859-1", "Buc^Jérôme"),
        ("NO SUCH SET", "iso8859-1", "Buc^Jérôme"),
        ("", "iso8859-1", "Buc^Jérôme"),
    ],
)
def test_a_name_is_read_in_its_character_set(character_set: str, codec: str, name: str) -> None:
    data = make.element(0x00080005, "CS", _even(character_set.encode()))
    data += make.element(0x00100010, "PN", _even(name.encode(codec)))
    assert scan(data, make.EXPLICIT).text("PatientName") == name


def test_a_backslash_inside_a_character_separates_nothing() -> None:
    """In GB18030 the second byte of a character may be that of a backslash."""
    name = "乗"
    assert b"\\" in name.encode("gb18030")
    data = make.element(0x00080005, "CS", b"GB18030 ")
    data += make.element(0x00100010, "PN", _even(name.encode("gb18030")))
    assert scan(data, make.EXPLICIT).text("PatientName") == name


def test_bytes_that_are_no_text_become_a_mark() -> None:
    data = make.element(0x00080005, "CS", b"ISO_IR 192") + make.element(0x00100010, "PN", b"A\xff")
    assert scan(data, make.EXPLICIT).text("PatientName") == "A\ufffd"


def test_a_code_extension_that_nobody_knows_is_no_error() -> None:
    data = make.element(0x00080005, "CS", b"\\ISO 2022 IR 87 ")
    data += make.element(0x00100010, "PN", b"A\x1b$ZZ\xff\xff")
    assert scan(data, make.EXPLICIT).text("PatientName")


@pytest.mark.parametrize("value", ["one\\two", " padded ", "", "  "])
def test_the_first_value_counts_without_its_padding(value: str) -> None:
    made = Dataset()
    made.PatientID = "x"
    data = make.data_set_bytes(made) + make.element(0x00180015, "CS", _even(value.encode()))
    assert scan(data, make.EXPLICIT).text("BodyPartExamined") == value.split("\\")[0].strip()


def _even(value: bytes) -> bytes:
    return value + b" " * (len(value) % 2)
