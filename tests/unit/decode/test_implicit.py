"""Implicit VR Little Endian, for peers that take nothing else."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from pacs.decode import Decoder
from pacs.decode.explicit import implicit_element
from pacs.dicom.part10 import read_part10
from tests import make


def nested() -> Dataset:
    """A data set with sequences in sequences, private elements and text of every kind."""
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-1", "Chest"
    outer = Dataset()
    outer.ScheduledProcedureStepID = "1"
    outer.ScheduledProtocolCodeSequence = Sequence([inner, inner])
    made = make.data_set(RequestAttributesSequence=Sequence([outer]), ImageComments="odd")
    made.ReferencedImageSequence = Sequence([])
    made.private_block(0x0009, "ISOCENTER TEST", create=True).add_new(1, "LO", "private")
    return made


@pytest.mark.parametrize("stored", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
@pytest.mark.parametrize("undefined", [False, True])
def test_every_native_syntax_becomes_implicit_and_says_the_same(
    stored: str, undefined: bool
) -> None:
    made = nested()
    for sequence in (made["RequestAttributesSequence"], made["ReferencedImageSequence"]):
        sequence.is_undefined_length = undefined
    with Decoder() as decoder:
        file = decoder.implicit_little_endian(make.part10_bytes(made, stored))
    found = dcmread(io.BytesIO(file))
    assert found.file_meta.TransferSyntaxUID == make.IMPLICIT
    for element in made:
        if not element.tag.is_private:
            assert found[element.tag].value == element.value, element.keyword
    assert (found.pixel_array == make.slice_of(1)).all()


def test_what_is_implicit_already_keeps_its_bytes_but_for_undefined_lengths() -> None:
    made = make.data_set()
    with Decoder() as decoder:
        file = decoder.implicit_little_endian(make.part10_bytes(made, make.IMPLICIT))
    assert read_part10(file).data_set == make.data_set_bytes(made, make.IMPLICIT)


@given(st.sampled_from(["LO", "UI", "OB", "UT"]), st.binary(max_size=9))
def test_values_are_padded_to_even_length(vr: str, value: bytes) -> None:
    encoded = implicit_element(0x00100010, vr, value)
    assert len(encoded) == 8 + len(value) + len(value) % 2
    assert encoded[8:].startswith(value)
    assert encoded[8 + len(value) :] in (b"", b"\0", b" ")
