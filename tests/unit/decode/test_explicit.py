"""A native data set as Explicit VR Little Endian: the same values, whatever the encoding was."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from pacs.decode import Decoder
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, preamble_and_meta, read_part10
from pacs.errors import BadObject
from tests import make


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    """Native data sets need no codec, so this pool never starts a child."""
    with Decoder() as decoder:
        yield decoder
        assert decoder._free.queue[-1] is None


def with_many_kinds() -> Dataset:
    """A data set with sequences, numbers of every width, private elements and ambiguous VRs."""
    data_set = make.data_set(PixelRepresentation=1)
    data_set.SmallestImagePixelValue = -5
    data_set.FrameIncrementPointer = 0x00181063
    data_set.FrameTimeVector = ["33.3", "33.4"]
    inner = Dataset()
    inner.CodeValue, inner.CodingSchemeDesignator, inner.CodeMeaning = "1", "DCM", "odd"
    outer = Dataset()
    outer.ConceptNameCodeSequence = [inner, inner]
    outer.FloatingPointValue = 3.25
    data_set.ContentSequence = [outer, Dataset()]
    data_set.private_block(0x0011, "ISOCENTER TEST", create=True).add_new(0x01, "OB", b"\1\2\3\4")
    return data_set


@pytest.mark.parametrize("encoding", [make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_every_value_survives_from_every_encoding(decoder: Decoder, encoding: str) -> None:
    before = with_many_kinds()
    after = pydicom.dcmread(
        io.BytesIO(decoder.explicit_little_endian(make.part10_bytes(before, encoding)))
    )
    assert after.file_meta.TransferSyntaxUID == EXPLICIT_VR_LITTLE_ENDIAN
    assert sorted(after.keys()) == sorted(before.keys())
    for element in before:
        found = after[element.tag]
        assert found.value == element.value, element.tag
        assert element.tag.is_private or found.VR in element.VR, element.tag
    assert after["SmallestImagePixelValue"].VR == "SS"


def test_an_explicit_file_is_left_alone(decoder: Decoder) -> None:
    file = make.part10_bytes(make.data_set())
    assert decoder.explicit_little_endian(file) == file


@pytest.mark.parametrize(("bits", "vr"), [(8, "OB"), (8, "OW"), (32, "OW"), (64, "OW")])
def test_big_endian_words_are_turned(decoder: Decoder, bits: int, vr: str) -> None:
    """16 bits are among the encodings above; `make` turns these words and no others."""
    word_bytes = 2 if (bits, vr) == (8, "OW") else bits // 8
    values = np.arange(8, dtype=f"<u{word_bytes}")
    data_set = make.data_set()
    data_set.BitsAllocated = bits
    data_set.add_new("PixelData", vr, values.byteswap().tobytes())
    out = decoder.explicit_little_endian(make.part10_bytes(data_set, make.BIG_ENDIAN))
    assert pydicom.dcmread(io.BytesIO(out)).PixelData == values.tobytes()


def test_big_endian_pixels_of_no_known_width_are_refused(decoder: Decoder) -> None:
    data_set = make.data_set()
    data_set.BitsAllocated = 24
    with pytest.raises(BadObject, match="no known word"):
        decoder.explicit_little_endian(make.part10_bytes(data_set, make.BIG_ENDIAN))


def test_a_text_that_breaks_its_vr_leaves_as_it_came(decoder: Decoder) -> None:
    data_set = make.data_set()
    encoded = make.data_set_bytes(data_set, make.IMPLICIT)
    broken = encoded.replace(b"20240229", b"29/02/24", 1)
    meta = preamble_and_meta(
        sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid=make.IMPLICIT
    )
    out = decoder.explicit_little_endian(meta + broken)
    assert b"DA\x08\x0029/02/24" in read_part10(out).data_set.tobytes()


def test_nested_fragments_in_a_native_data_set_are_refused(decoder: Decoder) -> None:
    """Icon pixels of undefined length inside an implicit data set are no sequence of data sets."""
    fragments = struct.pack("<HHI", 0xFFFE, 0xE000, 4) + b"\xff" * 4
    icon = struct.pack("<HHI", 0x7FE0, 0x0010, 0xFFFFFFFF) + fragments
    icon += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(icon)) + icon
    sequence = struct.pack("<HHI", 0x0088, 0x0200, len(item)) + item
    uid = b"1.2.3.4\0"
    encoded = struct.pack("<HHI", 0x0008, 0x0018, len(uid)) + uid + sequence
    meta = preamble_and_meta(
        sop_class_uid="1.2", sop_instance_uid="1.2.3.4", transfer_syntax_uid=make.IMPLICIT
    )
    with pytest.raises(BadObject):
        decoder.explicit_little_endian(meta + encoded)
