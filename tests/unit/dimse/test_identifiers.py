"""Identifiers as they are read and written."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items

from pacs.dicom.part10 import preamble_and_meta
from pacs.dimse.identifiers import (
    IDENTIFIER_BYTES_MAX,
    KEYS_MAX,
    Element,
    Key,
    read_identifier,
    write_identifier,
)
from pacs.errors import BadObject, BadQuery, Exhausted, Mismatch, NodeError
from tests import make

NAME, MODALITY, ROWS = 0x00100010, 0x00080060, 0x00280010
REQUEST = 0x00400275


def read_back(encoded: bytes, transfer_syntax_uid: str) -> Dataset:
    """What pydicom makes of it."""
    file = preamble_and_meta(
        sop_class_uid="1.2", sop_instance_uid="1.3", transfer_syntax_uid=transfer_syntax_uid
    )
    return dcmread(io.BytesIO(file + encoded))


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_pydicom_reads_what_is_written(syntax: str) -> None:
    elements: list[Element] = [
        (NAME, "PN", "Phantom^One"),
        (MODALITY, "CS", ("CT", "SEG")),
        (ROWS, "US", 512),
        (0x00201208, "IS", 7),
        (REQUEST, "SQ", None),
    ]
    found = read_back(write_identifier(elements, syntax), syntax)
    assert found.PatientName == "Phantom^One"
    assert list(found.Modality) == ["CT", "SEG"]
    assert (found.Rows, found.NumberOfStudyRelatedInstances) == (512, 7)
    assert len(found.RequestAttributesSequence) == 0
    assert [element.tag for element in found] == sorted(element.tag for element in found)


@pytest.mark.parametrize(
    ("name", "asked", "answered"),
    [
        ("Phantom^One", (), ["ISO_IR 100"]),
        ("Phantom^One", ("ISO_IR 144",), ["ISO_IR 144"]),
        ("Müller^Eva", ("ISO_IR 100",), ["ISO_IR 100"]),
        ("Müller^Eva", (), ["ISO_IR 192"]),
        ("Müller^Eva", ("ISO_IR 144",), ["ISO_IR 192"]),
        ("Müller^Eva", ("NONSENSE",), ["ISO_IR 192"]),
        ("Wang^XiaoDong=王^小东", ("GB18030",), ["GB18030"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ("", "ISO 2022 IR 87"), ["", "ISO 2022 IR 87"]),
        ("Hong^Gildong=洪^吉洞=홍^길동", ("", "ISO 2022 IR 149"), ["", "ISO 2022 IR 149"]),
        ("Müller^Eva", ("", "ISO 2022 IR 87"), ["ISO_IR 192"]),
        ("Yamada=山田", ("ISO_IR 100",), ["ISO_IR 192"]),
    ],
)
def test_the_set_of_the_query_is_used_where_every_value_fits_it(
    name: str, asked: Sequence[str], answered: list[str]
) -> None:
    encoded = write_identifier([(NAME, "PN", name)], make.EXPLICIT, asked)
    found = read_back(encoded, make.EXPLICIT)
    used = found.SpecificCharacterSet
    assert ([used] if isinstance(used, str) else list(used)) == answered
    assert found.PatientName == name
    assert read_identifier(encoded, make.EXPLICIT).keys[NAME].text == name


def identifier(**keys: object) -> Dataset:
    made = Dataset()
    for keyword, value in keys.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT])
def test_keys_are_read_as_text(syntax: str) -> None:
    asked = identifier(
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Mül*",
        StudyInstanceUID="1.2\\1.3",
        Rows=512,
        StudyDate="",
        RequestAttributesSequence=Items([identifier(ScheduledProcedureStepID="1")]),
    )
    read = read_identifier(make.data_set_bytes(asked, syntax), syntax)
    assert read.character_set == ("ISO_IR 100",)
    assert read.keys == {
        NAME: Key("PN", "Mül*"),
        0x0020000D: Key("UI", "1.2\\1.3"),
        ROWS: Key("US", "512"),
        0x00080020: Key("DA", ""),
        REQUEST: Key("SQ", "", {0x00400009: Key("SH", "1")}),
    }


def many_keys() -> bytes:
    return b"".join(make.element(0x00090001 + number, "LO", b"") for number in range(KEYS_MAX + 1))


@pytest.mark.parametrize(
    ("encoded", "error"),
    [
        (b"", Mismatch),
        (b"\x08\0\x52", BadObject),
        (b"garbage that is no data set", BadObject),
        (make.nested(300), BadObject),
        (bytes(IDENTIFIER_BYTES_MAX + 1), Exhausted),
        (many_keys(), BadQuery),
        (make.element(ROWS, "US", b"512 "), BadQuery),
        (
            make.data_set_bytes(
                identifier(RequestAttributesSequence=Items([Dataset(), Dataset()]))
            ),
            Mismatch,
        ),
    ],
    ids=["nothing", "cut", "garbage", "deep", "long", "many", "number", "items"],
)
def test_what_is_no_identifier_is_refused(encoded: bytes, error: type[NodeError]) -> None:
    with pytest.raises(error):
        read_identifier(encoded, make.EXPLICIT)


def test_an_empty_sequence_and_an_empty_item_are_keys_without_a_value() -> None:
    for items in ([], [Dataset()]):
        asked = identifier(RequestAttributesSequence=Items(items))
        read = read_identifier(make.data_set_bytes(asked), make.EXPLICIT)
        assert read.keys == {REQUEST: Key("SQ", "")}


@given(st.binary(max_size=200), st.sampled_from([make.EXPLICIT, make.IMPLICIT]))
def test_any_bytes_are_read_or_refused(raw: bytes, syntax: str) -> None:
    try:
        read = read_identifier(raw, syntax)
    except NodeError:
        return
    write_identifier(((tag, key.vr, "") for tag, key in read.keys.items()), syntax)


@given(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40),
    st.sampled_from([(), ("ISO_IR 100",), ("ISO_IR 192",), ("", "ISO 2022 IR 87"), ("GB18030",)]),
)
def test_any_text_comes_back_as_it_was(text: str, asked: Sequence[str]) -> None:
    encoded = write_identifier([(NAME, "PN", text)], make.IMPLICIT, asked)
    assert read_identifier(encoded, make.IMPLICIT).keys[NAME].text == text.strip(" ")
