"""The Native DICOM Model: what JSON says, XML says, and no document can harm its reader."""

from __future__ import annotations

import base64
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset

from pacs.dicom.json_model import JsonModel
from pacs.dicom.part10 import NESTING_MAX
from pacs.dicom.xml_model import NAMESPACE, read_xml_model, xml_model
from pacs.errors import BadObject

N = f"{{{NAMESPACE}}}"

TEXT = st.text("aé王 <>&'\"\r\n\t]\\", min_size=1, max_size=6)
COMPONENTS = st.lists(TEXT | st.just(""), min_size=1, max_size=5).map(
    lambda parts: "^".join(parts).rstrip("^")
)
NAMES = st.dictionaries(
    st.sampled_from(["Alphabetic", "Ideographic", "Phonetic"]), COMPONENTS.filter(bool), max_size=3
)
PLAIN = st.one_of(
    st.tuples(st.sampled_from(["LO", "UT", "CS"]), st.lists(st.none() | TEXT, max_size=4)),
    st.tuples(st.sampled_from(["US", "IS", "SV"]), st.lists(st.none() | st.integers(), max_size=4)),
    st.tuples(
        st.just("FD"),
        st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.just("inf"), max_size=4),
    ),
    st.tuples(st.just("PN"), st.lists(NAMES, max_size=3)),
)


def parsed(document: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314 - what is parsed here is our own


def filled(vr: str, values: list[Any]) -> JsonModel:
    """The element as it comes back: empty values at its end leave no trace."""
    kept = list(values)
    while kept and kept[-1] in (None, {}):
        kept.pop()
    return {"vr": vr, "Value": kept} if kept else {"vr": vr}


ELEMENTS = PLAIN.map(lambda plain: filled(*plain)) | st.binary(min_size=1, max_size=9).map(
    lambda raw: {"vr": "OB", "InlineBinary": base64.b64encode(raw).decode()}
)
TAGS = st.sampled_from([f"0008{n:04X}" for n in range(0x10, 0x40)])
DATA_SETS: st.SearchStrategy[JsonModel] = st.recursive(
    st.dictionaries(TAGS, ELEMENTS, max_size=4),
    lambda inner: st.dictionaries(
        TAGS,
        st.lists(inner, min_size=1, max_size=3).map(lambda items: {"vr": "SQ", "Value": items}),
        max_size=3,
    ),
    max_leaves=4,
).map(lambda model: dict(sorted(model.items())))


@given(DATA_SETS)
def test_what_is_written_is_read_back(model: JsonModel) -> None:
    assert read_xml_model(xml_model(model)) == model


@given(st.text() | st.binary())
def test_any_document_is_read_or_refused(content: str | bytes) -> None:
    document = content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    with pytest.raises(BadObject):
        read_xml_model(document)


@given(st.text(max_size=30))
def test_any_text_at_all_can_be_written(text: str) -> None:
    written = xml_model({"00081030": {"vr": "LO", "Value": [text]}, "00091001": {"vr": "UN"}})
    parsed(written)


def test_a_document_has_the_form_of_the_standard() -> None:
    root = parsed(
        xml_model(
            {
                "00080020": {"vr": "DA", "Value": ["20240229"]},
                "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B^^Dr", "Phonetic": "C"}]},
                "7FE00010": {"vr": "OW", "BulkDataURI": "instances/1.2/bulkdata/7FE00010"},
            }
        )
    )
    date, name, pixels = root.findall(f"{N}DicomAttribute")
    assert root.tag == f"{N}NativeDicomModel"
    assert date.attrib == {"tag": "00080020", "vr": "DA", "keyword": "StudyDate"}
    assert [(v.get("number"), v.text) for v in date.findall(f"{N}Value")] == [("1", "20240229")]
    alphabetic = name.find(f"{N}PersonName/{N}Alphabetic")
    assert alphabetic is not None
    parts = [(part.tag.removeprefix(N), part.text) for part in alphabetic]
    assert parts == [("FamilyName", "A"), ("GivenName", "B"), ("NamePrefix", "Dr")]
    bulk = pixels.find(f"{N}BulkData")
    assert bulk is not None
    assert bulk.attrib == {"uri": "instances/1.2/bulkdata/7FE00010"}


def test_an_empty_value_is_a_gap_between_numbers() -> None:
    model: JsonModel = {"00080008": {"vr": "CS", "Value": ["ORIGINAL", None, "AXIAL"]}}
    root = parsed(xml_model(model))
    assert [value.get("number") for value in root.iter(f"{N}Value")] == ["1", "3"]
    assert read_xml_model(xml_model(model)) == model


def test_private_elements_leave_their_block_to_their_creator() -> None:
    model: JsonModel = {
        "00090010": {"vr": "LO", "Value": ["ACME"]},
        "00090011": {"vr": "LO", "Value": ["ACME"]},
        "00091001": {"vr": "LO", "Value": ["first"]},
        "00091101": {"vr": "LO", "Value": ["second block"]},
        "00111001": {"vr": "LO", "Value": ["of nobody"]},
    }
    root = parsed(xml_model(model))
    private = [(one.get("tag"), one.get("privateCreator")) for one in root]
    assert private[2:] == [("00090001", "ACME"), ("00091101", "ACME"), ("00111001", None)]
    assert read_xml_model(xml_model(model)) == model


def test_a_private_element_without_a_block_gets_a_free_one() -> None:
    document = of(
        '<DicomAttribute tag="00090010" vr="LO"><Value number="1">OTHER</Value></DicomAttribute>'
        '<DicomAttribute tag="00090002" vr="LO" privateCreator="ACME"><Value>x</Value>'
        "</DicomAttribute>"
    )
    assert read_xml_model(document) == {
        "00090010": {"vr": "LO", "Value": ["OTHER"]},
        "00090011": {"vr": "LO", "Value": ["ACME"]},
        "00091102": {"vr": "LO", "Value": ["x"]},
    }


def test_pydicom_reads_what_the_reader_gives() -> None:
    made = Dataset()
    made.PatientName = "Doe^John=王^小東"
    made.WindowCenter = ["40.5", "80"]
    made.Rows = 512
    made.DoubleFloatPixelPaddingValue = 0.1
    read = Dataset.from_json(read_xml_model(xml_model(made.to_json_dict())))
    assert read == made


def of(attributes: str) -> bytes:
    return f'<NativeDicomModel xmlns="{NAMESPACE}">{attributes}</NativeDicomModel>'.encode()


def attribute(inner: str, vr: str = "LO") -> bytes:
    return of(f'<DicomAttribute tag="00081030" vr="{vr}">{inner}</DicomAttribute>')


@pytest.mark.parametrize(
    "document",
    [
        b'<!DOCTYPE x [<!ENTITY a "aaaa">]><NativeDicomModel>&a;</NativeDicomModel>',
        b'<!DOCTYPE NativeDicomModel SYSTEM "file:///etc/passwd"><NativeDicomModel/>',
        attribute("<Value>&undefined;</Value>"),
        b"<html/>",
        b'<NativeDicomModel xmlns="urn:else"/>',
        of("<Value>1</Value>"),
        of('<DicomAttribute tag="0008103" vr="LO"/>'),
        of('<DicomAttribute tag="00081030" vr="longer"/>'),
        of('<DicomAttribute tag="00081030" vr="LO"/>' * 2),
        attribute('<Value number="0">x</Value>'),
        attribute('<Value number="2">x</Value><Value number="2">y</Value>'),
        attribute('<Value number="999999999">x</Value>'),
        attribute("<Item/>"),
        attribute("<Value>1</Value><InlineBinary>AAAA</InlineBinary>"),
        attribute("<InlineBinary>AAA</InlineBinary>", "OB"),
        attribute('<BulkData uuid="1"/>', "OB"),
        attribute("<Value>one</Value>", "US"),
        attribute(f"<Value>{'9' * 5000}</Value>", "IS"),
        attribute("<Value>1e999</Value>", "FD"),
        attribute("<Value>nan</Value>", "FD"),
    ],
)
def test_what_is_no_native_dicom_model_is_refused(document: bytes) -> None:
    with pytest.raises(BadObject):
        read_xml_model(document)


def test_items_nested_too_deep_are_refused() -> None:
    def nested(levels: int) -> bytes:
        opening = '<DicomAttribute tag="0040A730" vr="SQ"><Item number="1">'
        return of(opening * levels + "</Item></DicomAttribute>" * levels)

    read_xml_model(nested(NESTING_MAX))
    with pytest.raises(BadObject):
        read_xml_model(nested(NESTING_MAX + 1))


def test_many_wide_gaps_cost_no_memory() -> None:
    gap = '<DicomAttribute tag="{:08X}" vr="LO"><Value number="99999">x</Value></DicomAttribute>'
    with pytest.raises(BadObject):
        read_xml_model(of("".join(gap.format(0x00080000 + n) for n in range(10_000))))
