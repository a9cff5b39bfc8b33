"""What is compressed here decodes to the same pixels, and says what it is."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from pacs.decode import DECODABLE, ENCODABLE, ENCODERS, Decoder, ImagePixel
from pacs.dicom.frames import frame_table
from pacs.dicom.part10 import preamble_and_meta, read_part10, scan
from pacs.errors import BadObject, Refused
from tests import make

JPEG_LOSSLESS, JPEG_LS, JPEG_2000, HTJ2K = (f"1.2.840.10008.1.2.4.{n}" for n in (70, 80, 90, 201))
RLE, DEFLATED_FRAMES = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
CHANCE = np.random.default_rng(3)

IMAGES: dict[str, NDArray[Any]] = {
    "8 bits": CHANCE.integers(0, 256, (3, 48, 37)).astype(np.uint8),
    "16 bits": CHANCE.integers(0, 1 << 16, (2, 40, 50)).astype(np.uint16),
    "signed": CHANCE.integers(-(1 << 15), 1 << 15, (1, 40, 50)).astype(np.int16),
}


def part10(made: Dataset, transfer_syntax_uid: str = make.EXPLICIT) -> bytes:
    meta = preamble_and_meta(
        sop_class_uid=made.SOPClassUID,
        sop_instance_uid=made.SOPInstanceUID,
        transfer_syntax_uid=transfer_syntax_uid,
    )
    return meta + make.data_set_bytes(made, transfer_syntax_uid)


def colour(planar: int = 0) -> Dataset:
    samples = CHANCE.integers(0, 256, (40, 36, 3)).astype(np.uint8)
    made = make.data_set(pixels=samples[..., 0])
    made.SamplesPerPixel, made.PhotometricInterpretation = 3, "RGB"
    made.PlanarConfiguration = planar
    made.PixelData = (samples.transpose(2, 0, 1) if planar else samples).tobytes()
    return made


@pytest.mark.parametrize("transfer_syntax_uid", sorted(ENCODABLE))
@pytest.mark.parametrize("name", IMAGES)
def test_every_frame_keeps_its_pixels(drawer: Decoder, transfer_syntax_uid: str, name: str) -> None:
    native = part10(make.data_set(pixels=IMAGES[name]))
    made = drawer.transcoded(native, transfer_syntax_uid)
    assert read_part10(made).transfer_syntax_uid == transfer_syntax_uid
    assert drawer.explicit_little_endian(made)[400:] == native[400:]
    if transfer_syntax_uid != DEFLATED_FRAMES:
        read = pydicom.dcmread(io.BytesIO(made))
        assert np.array_equal(np.squeeze(read.pixel_array), np.squeeze(IMAGES[name]))


@pytest.mark.parametrize("transfer_syntax_uid", sorted(ENCODERS))
@pytest.mark.parametrize("planar", [0, 1])
def test_colours_stay_and_are_called_what_they_are(
    drawer: Decoder, transfer_syntax_uid: str, planar: int
) -> None:
    native = part10(colour(planar))
    made = drawer.transcoded(native, transfer_syntax_uid)
    header = pydicom.dcmread(io.BytesIO(made), stop_before_pixels=True)
    is_transformed = transfer_syntax_uid in (JPEG_2000, HTJ2K)
    assert header.PhotometricInterpretation == ("YBR_RCT" if is_transformed else "RGB")
    back = pydicom.dcmread(io.BytesIO(drawer.explicit_little_endian(made)))
    expected = pixel_array(pydicom.dcmread(io.BytesIO(native)))
    assert back.PhotometricInterpretation == "RGB"
    assert np.array_equal(pixel_array(back), expected)


@pytest.mark.parametrize("transfer_syntax_uid", sorted(ENCODERS))
@pytest.mark.parametrize("bits_stored", [10, 12])
def test_twelve_bits_in_sixteen_keep_their_sign(
    drawer: Decoder, transfer_syntax_uid: str, bits_stored: int
) -> None:
    half = 1 << (bits_stored - 1)
    pixels = CHANCE.integers(-half, half, (40, 44)).astype(np.int16)
    made = make.data_set(pixels=pixels, BitsStored=bits_stored, HighBit=bits_stored - 1)
    native = part10(made)
    encoded = drawer.transcoded(native, transfer_syntax_uid)
    assert drawer.explicit_little_endian(encoded)[400:] == native[400:]


def test_bits_that_a_form_would_drop_make_it_refuse(drawer: Decoder) -> None:
    """An overlay in the high bits (PS3.5 8.1.2, retired) is no part of 12 stored bits."""
    pixels = np.full((40, 44), 0xF123, np.uint16)
    made = part10(make.data_set(pixels=pixels, BitsStored=12, HighBit=11))
    with pytest.raises(BadObject):
        drawer.transcoded(made, JPEG_LS)
    assert drawer.explicit_little_endian(drawer.transcoded(made, RLE))[400:] == made[400:]


def test_an_image_of_any_size_has_every_form(drawer: Decoder) -> None:
    for shape in ((1, 70), (16, 16), (33, 3)):
        pixels = CHANCE.integers(0, 4096, shape).astype(np.uint16)
        native = part10(make.data_set(pixels=pixels))
        for transfer_syntax_uid in ENCODERS:
            made = drawer.transcoded(native, transfer_syntax_uid)
            assert drawer.explicit_little_endian(made)[400:] == native[400:], transfer_syntax_uid


def test_htj2k_is_read_by_another_decoder(drawer: Decoder) -> None:
    """What OpenJPH wrote is read by OpenJPEG, which pydicom asks."""
    made = drawer.transcoded(part10(make.data_set(pixels=IMAGES["signed"][0])), HTJ2K)
    assert get_decoder(HTJ2K).available_plugins == ("pylibjpeg",)
    found = pydicom.dcmread(io.BytesIO(made)).pixel_array
    assert np.array_equal(found, IMAGES["signed"][0])


def test_one_compressed_form_becomes_another(drawer: Decoder) -> None:
    native = part10(make.data_set(pixels=IMAGES["16 bits"]))
    once = drawer.transcoded(native, JPEG_LS)
    twice = drawer.transcoded(once, JPEG_LOSSLESS)
    assert drawer.explicit_little_endian(twice)[400:] == native[400:]
    assert drawer.transcoded(twice, JPEG_LOSSLESS) == twice


def test_big_endian_and_implicit_sources_are_taken(drawer: Decoder) -> None:
    made = make.data_set(pixels=IMAGES["16 bits"])
    expected = drawer.transcoded(part10(made), RLE)
    for source in (make.IMPLICIT, make.BIG_ENDIAN, make.DEFLATED):
        assert drawer.transcoded(part10(made, source), RLE) == expected


def test_an_offset_table_tells_where_each_frame_lies(drawer: Decoder) -> None:
    made = drawer.transcoded(part10(make.data_set(pixels=IMAGES["8 bits"])), JPEG_LS)
    taken = read_part10(made)
    walked = scan(taken.data_set, JPEG_LS)
    assert frame_table(walked).count == 3
    read = pydicom.dcmread(io.BytesIO(made))
    assert len(list(pydicom.encaps.generate_frames(read.PixelData, number_of_frames=3))) == 3


def test_an_extended_offset_table_does_not_outlive_its_frames(drawer: Decoder) -> None:
    native = drawer.transcoded(part10(make.data_set(pixels=IMAGES["8 bits"])), RLE)
    made = pydicom.dcmread(io.BytesIO(native))
    made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = bytes(24), bytes(24)
    buffer = io.BytesIO()
    made.save_as(buffer)
    for transfer_syntax_uid in (make.EXPLICIT, JPEG_LS):
        after = pydicom.dcmread(
            io.BytesIO(drawer.transcoded(buffer.getvalue(), transfer_syntax_uid))
        )
        assert "ExtendedOffsetTable" not in after
        assert "ExtendedOffsetTableLengths" not in after


@pytest.mark.parametrize("rows", [0, 3, 60000])
def test_rows_that_the_pixel_data_do_not_have_are_refused(drawer: Decoder, rows: int) -> None:
    made = make.data_set(pixels=IMAGES["16 bits"], Rows=rows)
    if rows == 3:
        made.PixelData = made.PixelData[:100]
    with pytest.raises(BadObject):
        drawer.transcoded(part10(made), JPEG_LS)


def test_a_syntax_without_encoder_is_refused_by_name(drawer: Decoder) -> None:
    image = ImagePixel(4, 4, 1, 8, 8, 0, "MONOCHROME2")
    with pytest.raises(Refused, match="no encoder"):
        drawer.encoded(image, "1.2.840.10008.1.2.4.50", [bytes(16)])


def test_whatever_is_made_can_be_read_again() -> None:
    assert ENCODABLE <= DECODABLE
