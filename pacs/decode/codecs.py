"""One compressed frame to samples, in the layout its data set declares. Runs in the child only.

A decoded frame has the declared Bits Allocated, Pixel Representation and Planar Configuration,
whatever its decoder prefers: whoever asks for a frame has read the instance's own metadata. Only
Photometric Interpretation can change, where the codec itself converts colours (JPEG 2000) or has
spread subsampled chrominance out; no colour is converted by us, since that would round.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import gdcm
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from pacs.decode import codestream
from pacs.decode.image import ImagePixel
from pacs.decode.syntaxes import DECODERS, DEFLATED_IMAGE_FRAME, RLE_LOSSLESS
from pacs.errors import BadObject

Samples = NDArray[Any]  # rows × columns, or rows × columns × samples; the declared type

_JPEG_EXTENDED: Final = "1.2.840.10008.1.2.4.51"
_HEADER: Final[Mapping[str, Callable[[bytes], codestream.Codestream]]] = {
    **{f"1.2.840.10008.1.2.4.{n}": codestream.jpeg for n in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{n}": codestream.jpeg_2000 for n in (90, 91, 201, 202, 203)},
}
_BY_PYDICOM: Final = DECODERS.keys() - {DEFLATED_IMAGE_FRAME}
# What pydicom's decoders and the libraries under them raise for a broken frame.
CODEC_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


def load() -> None:
    """Import every codec now, so that the sandbox need not open a file later."""
    Image.init()
    for transfer_syntax_uid in _BY_PYDICOM:
        assert get_decoder(transfer_syntax_uid).is_available, transfer_syntax_uid


def decode(image: ImagePixel, transfer_syntax_uid: str, encoded: bytes) -> tuple[bytes, str]:
    """One frame, little endian, and its photometric interpretation. Raises BadObject."""
    if transfer_syntax_uid == DEFLATED_IMAGE_FRAME:
        return _inflated(image, encoded), image.photometric_interpretation
    _check_header(image, transfer_syntax_uid, encoded)
    try:
        samples, photometric_interpretation = _samples(image, transfer_syntax_uid, encoded)
    except CODEC_ERRORS as error:
        raise BadObject("a compressed frame cannot be decoded") from error
    if image.planar_configuration and samples.ndim == 3:
        samples = samples.transpose(2, 0, 1)
    return _little_endian(samples).tobytes(), photometric_interpretation


def _little_endian(samples: Samples) -> Samples:
    return samples.astype(samples.dtype.newbyteorder("<"), copy=False)


def _check_header(image: ImagePixel, transfer_syntax_uid: str, encoded: bytes) -> None:
    """Refuse a frame whose own header contradicts its data set."""
    if (read := _HEADER.get(transfer_syntax_uid)) is None:
        return
    found = read(encoded)
    if (found.rows, found.columns) != (image.rows, image.columns):
        raise BadObject("a compressed frame has another size than its data set says")
    if found.components != image.samples_per_pixel:
        raise BadObject("a compressed frame has another number of samples than its data set says")
    if found.precision > image.bits_allocated:
        raise BadObject("a compressed frame has more bits than its data set allocates")


def _samples(image: ImagePixel, transfer_syntax_uid: str, encoded: bytes) -> tuple[Samples, str]:
    if transfer_syntax_uid == _JPEG_EXTENDED and codestream.jpeg(encoded).precision > 8:
        return _jpeg_extended_12_bit(image, encoded), image.photometric_interpretation
    return _by_pydicom(image, transfer_syntax_uid, encoded)


def _by_pydicom(image: ImagePixel, transfer_syntax_uid: str, encoded: bytes) -> tuple[Samples, str]:
    """A frame through pydicom and its plug-in, without its colour conversion.

    Unused high bits are sign-extended in signed images, as readers of native data expect; in RLE
    they may hold an overlay (PS3.5 8.1.2, retired) and stay.
    """
    options: dict[str, Any] = {
        "correct_unused_bits": image.pixel_representation == 1
        and transfer_syntax_uid != RLE_LOSSLESS,
        "number_of_frames": 1,
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples_per_pixel,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored,
        "pixel_representation": image.pixel_representation,
        "photometric_interpretation": image.photometric_interpretation,
        "planar_configuration": image.planar_configuration,
        "pixel_keyword": "PixelData",
    }
    samples, properties = get_decoder(transfer_syntax_uid).as_array(
        encapsulate([encoded], has_bot=False),
        index=0,
        raw=True,
        decoding_plugin=DECODERS[transfer_syntax_uid],
        **options,
    )
    found = str(properties["photometric_interpretation"])
    # Decoders spread the chrominance of 4:2:2 out to every pixel (PS3.3 C.7.6.3.1.2).
    return samples, "YBR_FULL" if found == "YBR_FULL_422" else found


def _jpeg_extended_12_bit(image: ImagePixel, encoded: bytes) -> Samples:
    """A 10- or 12-bit JPEG Extended frame through GDCM, which pydicom's plug-in does not ask.

    Its result was compared with that of DCMTK on pydicom's two test files and is the same.
    """
    if image.bits_allocated != 16 or image.samples_per_pixel != 1:
        raise BadObject("a 12-bit JPEG frame must be one sample of 16 bits")
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(encoded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    picture = gdcm.Image()
    picture.SetNumberOfDimensions(2)
    picture.SetDimensions((image.columns, image.rows, 1))
    picture.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    picture.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(_JPEG_EXTENDED)))
    picture.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, image.pixel_representation))
    picture.SetDataElement(element)
    # GDCM's Python binding gives a char* as text.
    raw = picture.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(raw, "<u2").reshape(image.rows, image.columns)


def _inflated(image: ImagePixel, encoded: bytes) -> bytes:
    """A frame of Deflated Image Frame Compression (PS3.5 A.4.13), never beyond its size."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        frame = inflater.decompress(encoded, image.frame_bytes + 1)
    except zlib.error as error:
        raise BadObject("a deflated frame cannot be inflated") from error
    # One byte may pad the frame to an even length.
    if len(frame) - image.frame_bytes not in (0, 1) or inflater.unconsumed_tail:
        raise BadObject("a deflated frame has another size than its data set says")
    return frame[: image.frame_bytes]
