"""One native frame to its compressed form, always without loss. Runs in the child only.

Every frame made is decoded again and compared before it leaves: an encoder that rounds, drops high
bits or mistakes a sign gives an error, never other pixels. What colour transform an encoder used is
told as the Photometric Interpretation of its frames (PS3.5 8.2).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import gdcm
import numpy as np
from imagecodecs import htj2k_encode, jpeg2k_encode
from numpy.typing import NDArray
from pydicom.pixels.encoders.base import get_encoder

from pacs.decode import codecs
from pacs.decode.image import ImagePixel
from pacs.decode.syntaxes import ENCODERS
from pacs.errors import BadObject

_BY_PYDICOM: Final = frozenset(u for u, name in ENCODERS.items() if name.startswith("py"))


def load() -> None:
    """Import every encoder now, so that the sandbox need not open a file later."""
    for transfer_syntax_uid in _BY_PYDICOM:
        assert get_encoder(transfer_syntax_uid).is_available, transfer_syntax_uid
    for encode_one in (htj2k_encode, jpeg2k_encode):
        encode_one(np.zeros((8, 8), np.uint8), reversible=True)


def encode(image: ImagePixel, transfer_syntax_uid: str, native: bytes) -> bytes:
    """One frame, which lies as `image` tells, little endian, in its compressed form.

    `image.encoded_as` then tells what its data set must say. Raises BadObject.
    """
    made = image.encoded_as(transfer_syntax_uid)
    native_as_made = native if made.planar_configuration else _by_pixel(image, native)
    try:
        encoded = _ENCODE[ENCODERS[transfer_syntax_uid]](made, transfer_syntax_uid, native_as_made)
    except codecs.CODEC_ERRORS as error:
        raise BadObject("a frame of this kind has no form in that transfer syntax") from error
    decoded, _ = codecs.decode(made, transfer_syntax_uid, encoded)
    if decoded != native_as_made:
        raise BadObject("a frame would not keep its pixels in that transfer syntax")
    return encoded


def _by_pixel(image: ImagePixel, native: bytes) -> bytes:
    if not image.planar_configuration or image.samples_per_pixel == 1:
        return native
    planes = np.frombuffer(native, _kind(image)).reshape(image.samples_per_pixel, -1)
    return planes.T.tobytes()


def _kind(image: ImagePixel) -> str:
    return f"<{'ui'[image.pixel_representation]}{image.bits_allocated // 8}"


def _deflated(_image: ImagePixel, _uid: str, native: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(native) + deflater.flush()


def _by_pydicom(image: ImagePixel, transfer_syntax_uid: str, native: bytes) -> bytes:
    options: dict[str, Any] = {
        "number_of_frames": 1,
        "rows": image.rows,
        "columns": image.columns,
        "samples_per_pixel": image.samples_per_pixel,
        "bits_allocated": image.bits_allocated,
        "bits_stored": image.bits_stored,
        "pixel_representation": image.pixel_representation,
        "photometric_interpretation": image.photometric_interpretation,
        "planar_configuration": image.planar_configuration,
    }
    plugin = ENCODERS[transfer_syntax_uid]
    return get_encoder(transfer_syntax_uid).encode(native, encoding_plugin=plugin, **options)


def _samples(image: ImagePixel, native: bytes) -> NDArray[Any]:
    """A frame of 8 or 16 bits as an array, rows × columns or rows × columns × samples."""
    if image.bits_allocated not in (8, 16):
        raise BadObject("JPEG 2000 frames are made here of 8 or 16 bits alone")
    shape = (image.rows, image.columns, image.samples_per_pixel)[
        : 2 + (image.samples_per_pixel > 1)
    ]
    return np.frombuffer(native, _kind(image)).reshape(shape)


def _jpeg_2000(image: ImagePixel, _uid: str, native: bytes) -> bytes:
    encoded = jpeg2k_encode(
        _samples(image, native),
        level=0,
        codecformat="j2k",
        reversible=True,
        mct=image.photometric_interpretation == "YBR_RCT",
        bitspersample=image.bits_stored,
        numthreads=1,
    )
    return bytes(encoded)


def _high_throughput(image: ImagePixel, _uid: str, native: bytes) -> bytes:
    is_transformed = image.photometric_interpretation == "YBR_RCT"
    return bytes(htj2k_encode(_samples(image, native), reversible=True, rgb=is_transformed))


def _jpeg_lossless(image: ImagePixel, transfer_syntax_uid: str, native: bytes) -> bytes:
    """Process 14, selection value 1, through GDCM."""
    writer = gdcm.ImageWriter()
    picture = writer.GetImage()  # one that GDCM owns; a bare gdcm.Image may not be handed on
    picture.SetNumberOfDimensions(2)
    picture.SetDimensions((image.columns, image.rows, 1))
    kinds = gdcm.PhotometricInterpretation
    picture.SetPhotometricInterpretation(kinds(kinds.GetPIType(image.photometric_interpretation)))
    high_bit = image.bits_stored - 1
    picture.SetPixelFormat(
        gdcm.PixelFormat(
            image.samples_per_pixel,
            *(image.bits_allocated, image.bits_stored, high_bit, image.pixel_representation),
        )
    )
    syntaxes = gdcm.TransferSyntax
    picture.SetTransferSyntax(syntaxes(syntaxes.ExplicitVRLittleEndian))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(native)
    picture.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(syntaxes(syntaxes.GetTSType(transfer_syntax_uid)))
    change.SetInput(picture)
    if not change.Change():
        raise BadObject("a frame of this kind has no form in JPEG Lossless")
    fragments = change.GetOutput().GetDataElement().GetSequenceOfFragments()
    # GDCM's Python binding gives a char* as text.
    return b"".join(
        fragments.GetFragment(n).GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
        for n in range(fragments.GetNumberOfFragments())
    )


_ENCODE: Final[Mapping[str, Callable[[ImagePixel, str, bytes], bytes]]] = {
    "zlib": _deflated,
    "pydicom": _by_pydicom,
    "pyjpegls": _by_pydicom,
    "gdcm": _jpeg_lossless,
    "openjpeg": _jpeg_2000,
    "openjph": _high_throughput,
}
