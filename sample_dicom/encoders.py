"""One small study for each compressed or unusual transfer syntax that the encoders at hand write.

Most encode a few slices of the abdomen; JPEG Baseline knows only 8 bits and gets the echo in
colour. Another version of an encoder may write other bytes for the same image, so these files
alone are compared by what they decode to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000 as JPEG2000_LOSSY
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from sample_dicom import jpeg_lossless, phantoms
from sample_dicom.instances import File, abdomen_slice, instance, part10, pixels_of
from sample_dicom.studies import COMPRESSED, Study

SECONDARY_CAPTURE_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.7"

INSTANCES_PER_STUDY = 2
JPEG_QUALITY = 90
JPEG_LS_ERROR_MAX = 2  # no stored value is off by more
JPEG_2000_RATIO = 8


def colour(study: Study, number: int) -> Dataset:
    """A frame of the echo as a secondary capture, 8 bits RGB (PS3.3 A.8.1)."""
    dataset = instance(study, SECONDARY_CAPTURE_IMAGE_STORAGE, "OT", number)
    dataset.update(pixels_of(phantoms.echo(number), bits_stored=8))
    dataset.ConversionType = "SYN"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PatientOrientation = ""
    dataset.BodyPartExamined = "HEART"
    dataset.BurnedInAnnotation = "YES"
    return dataset


def plain(study: Study, number: int, *, syntax: UID) -> bytes:
    """A syntax that changes how the data set is written, not its pixels."""
    dataset = abdomen_slice(study, number)
    if not syntax.is_little_endian:
        pixels = np.frombuffer(dataset.PixelData, dtype="<u2")
        dataset.PixelData = pixels.astype(">u2").tobytes()
    return part10(dataset, syntax)


def by_pydicom(
    study: Study,
    number: int,
    *,
    syntax: UID,
    jls_error: int | None = None,
    j2k_cr: list[float] | None = None,
) -> bytes:
    """What pydicom's encoders write; the last two arguments are theirs and say what may be lost."""
    dataset = abdomen_slice(study, number)
    raw_bytes = len(dataset.PixelData)
    dataset.file_meta = FileMetaDataset()  # pydicom wants to know from what to compress
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(
        syntax,
        encoding_plugin=_PLUGINS[syntax],
        generate_instance_uid=False,
        jls_error=jls_error,
        j2k_cr=j2k_cr,
    )
    if syntax in _LOSSY_METHODS:
        _admit_loss(dataset, _LOSSY_METHODS[syntax], raw_bytes)
    return part10(dataset, syntax)


_PLUGINS = {
    RLELossless: "pydicom",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000_LOSSY: "pylibjpeg",
}
_LOSSY_METHODS = {
    JPEGBaseline8Bit: "ISO_10918_1",
    JPEGLSNearLossless: "ISO_14495_1",
    JPEG2000_LOSSY: "ISO_15444_1",
}
"""Defined terms of Lossy Image Compression Method (PS3.3 C.7.6.1.1.5.1)."""


def jpeg_baseline(study: Study, number: int) -> bytes:
    """JPEG by Pillow, its chrominance halved along the rows."""
    dataset = colour(study, number)
    raw_bytes = len(dataset.PixelData)
    code_stream = BytesIO()
    Image.fromarray(phantoms.echo(number)).save(
        code_stream, "JPEG", quality=JPEG_QUALITY, subsampling="4:2:2"
    )
    _encapsulate(dataset, code_stream.getvalue())
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    _admit_loss(dataset, _LOSSY_METHODS[JPEGBaseline8Bit], raw_bytes)
    return part10(dataset, JPEGBaseline8Bit)


def jpeg_lossless_sv1(study: Study, number: int) -> bytes:
    """JPEG Lossless by our own encoder: GDCM's, from Python, was seen to corrupt its memory."""
    dataset = abdomen_slice(study, number)
    pixels = np.frombuffer(dataset.PixelData, dtype="<u2").reshape(dataset.Rows, dataset.Columns)
    _encapsulate(dataset, jpeg_lossless.encode(pixels, bits_stored=dataset.BitsStored))
    return part10(dataset, JPEGLosslessSV1)


def _encapsulate(dataset: Dataset, code_stream: bytes) -> None:
    """One frame in one fragment (PS3.5 A.4)."""
    dataset.PixelData = encapsulate([code_stream])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def _admit_loss(dataset: Dataset, method: str, raw_bytes: int) -> None:
    """Say that the pixels are no longer the original's (PS3.3 C.7.6.1.1.5)."""
    dataset.ImageType = ["DERIVED", *dataset.ImageType[1:]]
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = method
    dataset.LossyImageCompressionRatio = round(raw_bytes / len(dataset.PixelData), 2)


ENCODERS: dict[str, Callable[[Study, int], bytes]] = {
    "rle": partial(by_pydicom, syntax=RLELossless),
    "jpeg_baseline": jpeg_baseline,
    "jpeg_lossless": jpeg_lossless_sv1,
    "jpeg_ls": partial(by_pydicom, syntax=JPEGLSLossless),
    "jpeg_ls_near": partial(by_pydicom, syntax=JPEGLSNearLossless, jls_error=JPEG_LS_ERROR_MAX),
    "jpeg_2000": partial(by_pydicom, syntax=JPEG2000Lossless),
    "jpeg_2000_lossy": partial(by_pydicom, syntax=JPEG2000_LOSSY, j2k_cr=[JPEG_2000_RATIO]),
    "deflated": partial(plain, syntax=DeflatedExplicitVRLittleEndian),
    "big_endian": partial(plain, syntax=ExplicitVRBigEndian),
}


def compressed_files() -> Iterator[File]:
    """INSTANCES_PER_STUDY files for every study of COMPRESSED."""
    for name, study in COMPRESSED.items():
        for number in range(1, INSTANCES_PER_STUDY + 1):
            yield f"{study.folder}/{number}.dcm", ENCODERS[name](study, number)
