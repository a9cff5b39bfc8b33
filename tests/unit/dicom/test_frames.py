"""Frame tables: every frame lies where pydicom's own reader finds it."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels.utils import pixel_array

from pacs.dicom.frames import FrameTable, frame_table
from pacs.dicom.part10 import read_part10, scan
from pacs.errors import Missing
from tests import make

J2K = "1.2.840.10008.1.2.4.90"
FOLDER = Path(pydicom.__file__).parent / "data" / "test_files"
# Files whose pixel data pydicom decodes with what is installed, each kind of layout among them.
PICTURES = [
    *("CT_small.dcm", "MR_small.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm"),
    *("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"),
    *("JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm"),
    *("SC_rgb_rle_2frame.dcm", "SC_rgb_rle_16bit_2frame.dcm", "SC_rgb_rle_32bit_2frame.dcm"),
    *("SC_rgb_small_odd.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_small_odd_jpeg.dcm"),
    *("liver_1frame.dcm", "liver_expb_1frame.dcm", "rtdose.dcm", "rtdose_expb.dcm"),
    *("rtdose_rle.dcm", "image_dfl.dcm", "examples_palette.dcm", "examples_ybr_color.dcm"),
    *("693_J2KI.dcm", "JPEGLSNearLossless_16.dcm"),
]


def table_of(made: Dataset, transfer_syntax_uid: str = make.EXPLICIT) -> tuple[FrameTable, bytes]:
    data = make.data_set_bytes(made, transfer_syntax_uid)
    walked = scan(data, transfer_syntax_uid)
    return frame_table(walked), bytes(walked.data)


def frame(table: FrameTable, data: bytes, number: int) -> bytes:
    raw = b"".join(data[start : start + size] for start, size in table.spans(number))
    return table.native_frame(number, raw) if table.frame_bits else raw


@pytest.mark.parametrize("name", PICTURES)
def test_every_frame_decodes_to_what_pydicom_decodes(name: str) -> None:
    file = read_part10((FOLDER / name).read_bytes())
    walked = scan(file.data_set, file.transfer_syntax_uid)
    table = frame_table(walked)
    whole = dcmread(FOLDER / name)
    assert table.count == int(whole.get("NumberOfFrames") or 1)
    for number in range(1, table.count + 1):
        alone = copy.deepcopy(whole)
        alone.NumberOfFrames = 1
        _give(alone, table, frame(table, bytes(walked.data), number))
        expected = pixel_array(whole, index=number - 1)
        assert np.array_equal(pixel_array(alone, index=0), expected)


def _give(alone: Dataset, table: FrameTable, content: bytes) -> None:
    element = alone[table.pixel_tag]
    if table.frame_bits:
        element.value = content + b"\0" * (len(content) % 2)
    else:
        element.value = encapsulate([content])
    alone._pixel_array = None


def test_native_frames_that_straddle_bytes_start_anew() -> None:
    """Three frames of 3 × 3 pixels of one bit: 27 bits in a row (PS3.5 8.1.1)."""
    bits = np.random.default_rng(1).integers(0, 2, 27, np.uint8)
    made = make.data_set(Rows=3, Columns=3, BitsAllocated=1, NumberOfFrames=3)
    made.PixelData = np.packbits(bits, bitorder="little").tobytes()
    table, data = table_of(made)
    assert table.count == 3
    for number in range(1, 4):
        packed = np.frombuffer(frame(table, data, number), np.uint8)
        assert len(packed) == 2
        unpacked = np.unpackbits(packed, bitorder="little")
        assert np.array_equal(unpacked[:9], bits[9 * (number - 1) : 9 * number])
        assert not unpacked[9:].any()


@given(
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([1, 8, 16]),
    st.randoms(use_true_random=False),
)
def test_frames_of_any_size_are_cut_out_exactly(
    pixels: int, frames: int, bits: int, chance: Random
) -> None:
    content = bytes(chance.randrange(256) for _ in range(-(-pixels * bits * frames // 8)))
    made = make.data_set(Rows=1, Columns=pixels, BitsAllocated=bits, NumberOfFrames=frames)
    made.PixelData = content + b"\0" * (len(content) % 2)
    table, data = table_of(made)
    assert table.count == frames
    all_bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    for number in range(1, frames + 1):
        found = np.frombuffer(frame(table, data, number), np.uint8)
        size = pixels * bits
        wanted = all_bits[(number - 1) * size : number * size]
        assert np.array_equal(np.unpackbits(found, bitorder="little")[:size], wanted)
        assert len(found) == -(-size // 8)


FRAMES = [b"one1", b"two two2", b"three three3"]


def test_one_fragment_per_frame_needs_no_offset_table() -> None:
    table, data = table_of(make.encapsulated(make.data_set(), FRAMES, has_bot=False))
    assert [frame(table, data, n) for n in (1, 2, 3)] == FRAMES


def test_a_single_frame_is_all_its_fragments() -> None:
    made = make.encapsulated(make.data_set(), FRAMES, has_bot=False)
    made.NumberOfFrames = 1
    table, data = table_of(made)
    assert table.count == 1
    assert frame(table, data, 1) == b"".join(FRAMES)


def test_frames_of_several_fragments_follow_the_basic_offset_table() -> None:
    made = make.encapsulated(make.data_set(), FRAMES)
    made.PixelData = encapsulate(FRAMES, fragments_per_frame=2)
    table, data = table_of(made)
    expected = list(generate_frames(made.PixelData, number_of_frames=3))
    assert [frame(table, data, n) for n in (1, 2, 3)] == expected == FRAMES
    assert len(table.spans(2)) == 2


def test_frames_of_several_fragments_follow_the_extended_offset_table() -> None:
    made = make.encapsulated(make.data_set(), FRAMES)
    fragments = encapsulate(FRAMES, fragments_per_frame=2, has_bot=False)
    made.PixelData = fragments
    made.ExtendedOffsetTable = struct.pack("<3Q", 0, 20, 44)
    made.ExtendedOffsetTableLengths = struct.pack("<3Q", 4, 8, 12)
    table, data = table_of(made)
    assert [frame(table, data, n) for n in (1, 2, 3)] == FRAMES


def test_an_extended_offset_table_as_pydicom_writes_it_is_followed() -> None:
    made = make.encapsulated(make.data_set(), FRAMES)
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = (
        encapsulate_extended(FRAMES)
    )
    table, data = table_of(made)
    assert [frame(table, data, n) for n in (1, 2, 3)] == FRAMES


@pytest.mark.parametrize("offsets", [(0, 1, 2), (8, 20, 44), (0, 44, 20), (0, 0, 0), (0, 20, 999)])
def test_an_offset_table_that_points_beside_the_fragments_is_not_believed(
    offsets: tuple[int, ...],
) -> None:
    made = make.encapsulated(make.data_set(), FRAMES)
    made.PixelData = encapsulate(FRAMES, fragments_per_frame=2, has_bot=False)
    made.ExtendedOffsetTable = struct.pack("<3Q", *offsets)
    table, _ = table_of(made)
    assert table.count == 0


def test_fragments_that_no_rule_tells_apart_are_no_frames() -> None:
    made = make.encapsulated(make.data_set(), FRAMES, has_bot=False)
    made.NumberOfFrames = 2
    table, _ = table_of(made)
    assert table.count == 0
    with pytest.raises(Missing):
        table.spans(1)


@pytest.mark.parametrize("number", [-1, 0, 2, 10**9])
def test_a_frame_that_is_not_there_is_missing(number: int) -> None:
    table, _ = table_of(make.data_set())
    with pytest.raises(Missing):
        table.spans(number)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 2**31 - 1},
        {"Rows": 0},
        {"BitsAllocated": 0},
        {"SamplesPerPixel": 65535},
        {"PixelData": b""},
    ],
    ids=str,
)
def test_pixels_that_are_not_there_are_no_frames(attributes: dict[str, object]) -> None:
    table, data = table_of(make.data_set(**attributes))  # type: ignore[arg-type] # any attribute
    assert table.count == 0
    assert table.pixel_tag == 0x7FE00010
    assert table.header_bytes < len(data)


def test_what_is_no_image_is_all_header() -> None:
    made = make.data_set()
    del made.PixelData
    table, data = table_of(made)
    assert (table.count, table.pixel_tag, table.header_bytes) == (0, 0, len(data))


@pytest.mark.parametrize("syntax", [make.EXPLICIT, make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED])
def test_the_pixel_element_has_one_value_representation(syntax: str) -> None:
    """Implicit files leave OB and OW open; the metadata may not (PS3.5 A.1)."""
    table, data = table_of(make.data_set(), syntax)
    assert table.pixel_vr == "OW"
    assert frame(table, data, 1)[:4] == struct.pack(
        ">2h" if syntax == make.BIG_ENDIAN else "<2h", 1, 2
    )


@pytest.mark.parametrize(
    "made",
    [
        make.data_set(),
        make.encapsulated(make.data_set(), FRAMES),
        make.data_set(NumberOfFrames=5, Rows=3, Columns=3, BitsAllocated=1),
    ],
)
def test_a_packed_table_comes_back_as_it_was(made: Dataset) -> None:
    table, _ = table_of(made)
    assert FrameTable.unpack(table.pack()) == table


def test_a_table_knows_what_comes_after_the_pixel_data() -> None:
    made = make.data_set()
    made.add_new(0x7FE10010, "LO", "ACME")
    trailer = make.element(0x7FE10010, "LO", b"ACME")
    assert table_of(made)[0].trailer_bytes == len(trailer)
    assert table_of(make.encapsulated(made, [b"ab"]), J2K)[0].trailer_bytes == len(trailer)
    del made.PixelData
    assert table_of(made)[0].trailer_bytes == 0


def test_a_table_of_an_earlier_release_can_be_read() -> None:
    table, _ = table_of(make.data_set())
    *fields, trailer_bytes = json.loads(zlib.decompress(table.pack()))
    assert trailer_bytes == 0
    assert FrameTable.unpack(zlib.compress(json.dumps(fields).encode())) == table
