"""Every compressed file among pydicom's own comes out as the pixels that it holds."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian

from pacs.decode import DECODABLE, DECODERS, Decoder, ImagePixel
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, read_part10, scan
from pacs.errors import BadObject, Refused

FILES = Path(str(pydicom.__file__)).parent / "data" / "test_files"

# Pairs of a compressed or differently encoded file and the native one it was made from,
# all without loss.
COUNTERPARTS = {
    "MR_small_RLE.dcm": "MR_small.dcm",
    "MR_small_jp2klossless.dcm": "MR_small.dcm",
    "MR_small_jpeg_ls_lossless.dcm": "MR_small.dcm",
    "MR_small_bigendian.dcm": "MR_small.dcm",
    "MR_small_implicit.dcm": "MR_small.dcm",
    "rtdose_expb.dcm": "rtdose.dcm",
    "rtdose_rle.dcm": "rtdose.dcm",
    "liver_expb_1frame.dcm": "liver_1frame.dcm",
    "SC_rgb_small_odd_big_endian.dcm": "SC_rgb_small_odd.dcm",
}

# Files that pydicom can decode and we decode alike, one or more for each compressed syntax.
SAME_AS_PYDICOM = (
    *("693_J2KI.dcm", "GDCMJ2K_TextGBR.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm"),
    *("JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_jp2klossless.dcm"),
    *("MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "SC_jpeg_no_color_transform.dcm"),
    *("SC_rgb_dcmtk_+eb+cr.dcm", "SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_dcmtk_+eb+cy+s4.dcm"),
    *("SC_rgb_gdcm_KY.dcm", "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm"),
    *("SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle_16bit_2frame.dcm"),
    *("SC_rgb_rle_32bit.dcm", "SC_rgb_jpeg_app14_dcmd.dcm", "examples_jpeg2k.dcm"),
    *("examples_ybr_color.dcm", "image_dfl.dcm", "rtdose_rle.dcm"),
)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(children_max=1) as decoder:
        yield decoder


def transcoded(decoder: Decoder, name: str) -> bytes:
    return decoder.explicit_little_endian((FILES / name).read_bytes())


def pixels(file: bytes | Path) -> NDArray[Any]:
    """The samples as pydicom reads them, no colour converted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set = pydicom.dcmread(io.BytesIO(file) if isinstance(file, bytes) else file)
        return pixel_array(data_set, raw=True)


@pytest.mark.parametrize("name", SAME_AS_PYDICOM)
def test_the_samples_are_those_that_pydicom_reads(decoder: Decoder, name: str) -> None:
    expected = pixels(FILES / name)
    assert np.array_equal(pixels(transcoded(decoder, name)), expected)


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_the_samples_are_those_of_the_native_counterpart(decoder: Decoder, name: str) -> None:
    found, expected = pixels(transcoded(decoder, name)), pixels(FILES / COUNTERPARTS[name])
    assert np.array_equal(found, expected)


def test_twelve_bit_jpeg_extended_has_the_values_that_dcmtk_finds(decoder: Decoder) -> None:
    """Minimum, maximum and sum were computed once with DCMTK's dcmdjpeg."""
    for name in ("JPGExtended.dcm", "JPEG-lossy.dcm"):
        found = pixels(transcoded(decoder, name))
        assert (found.min(), found.max(), int(found.sum())) == (0, 264, 3767007)


@pytest.mark.parametrize("name", SAME_AS_PYDICOM)
def test_a_transcoded_file_keeps_every_other_value(decoder: Decoder, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = pydicom.dcmread(FILES / name, stop_before_pixels=True)
        after = pydicom.dcmread(io.BytesIO(transcoded(decoder, name)), stop_before_pixels=True)
        assert after.file_meta.TransferSyntaxUID == EXPLICIT_VR_LITTLE_ENDIAN
        changed = {e.keyword for e in before if e != after.get(e.tag) and e.tag.element != 0}
    assert changed <= {"PhotometricInterpretation"}
    assert {e.tag for e in after} <= {e.tag for e in before}


def test_photometric_interpretation_follows_what_the_codec_did(decoder: Decoder) -> None:
    changes = {
        "GDCMJ2K_TextGBR.dcm": "RGB",  # the reversible transform is undone by the codec
        "SC_rgb_dcmtk_+eb+cy+np.dcm": "YBR_FULL",  # subsampled chrominance is spread out
        "SC_rgb_jpeg_gdcm.dcm": "RGB",
    }
    for name, interpretation in changes.items():
        after = pydicom.dcmread(io.BytesIO(transcoded(decoder, name)), stop_before_pixels=True)
        assert after.PhotometricInterpretation == interpretation


def test_frames_keep_the_declared_planar_configuration(decoder: Decoder) -> None:
    """A client has read the instance's metadata; frames must lie as it says."""
    walked = scan(read_part10((FILES / "SC_rgb_rle.dcm").read_bytes()).data_set, "")
    element = walked.elements[0x7FE00010]
    assert element.fragments is not None
    at, size = element.fragments[1]
    encoded = bytes(walked.data[at : at + size])
    image = ImagePixel(100, 100, 3, 8, 8, 0, "RGB", planar_configuration=0)
    planes = ImagePixel(100, 100, 3, 8, 8, 0, "RGB", planar_configuration=1)
    by_pixel = decoder.frames(image, "1.2.840.10008.1.2.5", [encoded]).frames[0]
    by_plane = decoder.frames(planes, "1.2.840.10008.1.2.5", [encoded]).frames[0]
    assert by_plane == by_pixel[0::3] + by_pixel[1::3] + by_pixel[2::3]


def test_every_decoder_of_the_table_is_installed() -> None:
    """HTJ2K and Deflated Image Frame have no file among pydicom's; the table must still be true."""
    tried = {read_part10((FILES / n).read_bytes()).transfer_syntax_uid for n in SAME_AS_PYDICOM}
    assert tried <= DECODABLE
    for transfer_syntax_uid, plugin in DECODERS.items():
        if plugin != "zlib":
            assert plugin in get_decoder(transfer_syntax_uid).available_plugins


def test_a_syntax_without_decoder_is_refused_by_name(decoder: Decoder) -> None:
    image = ImagePixel(4, 4, 1, 8, 8, 0, "MONOCHROME2")
    with pytest.raises(Refused, match="no decoder") as refused:
        decoder.frames(image, "1.2.840.10008.1.2.4.102", [b"\0\0"])
    assert refused.value.facts == {"transfer_syntax_uid": "1.2.840.10008.1.2.4.102"}


def test_native_pixel_data_under_a_compressed_syntax_are_refused(decoder: Decoder) -> None:
    data_set = pydicom.dcmread(FILES / "CT_small.dcm")
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    data_set.save_as(buffer)
    renamed = buffer.getvalue().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    with pytest.raises(BadObject, match="not encapsulated"):
        decoder.explicit_little_endian(renamed)
