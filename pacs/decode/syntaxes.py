"""Which transfer syntaxes can be decoded and made here, and by what.

One table for the pool, the child and the system page. Decoders bear the names of pydicom's
plug-ins; all have permissive licences. Each syntax has one: where a strict decoder refuses a broken
frame, a lenient second one would make pixels up. JPEG Lossless (.57, .70) needs GDCM; so does 12-bit JPEG
Extended (.51), which pydicom's own plug-ins refuse. Video, JPEG 2000 part 2 and JPEG XL have no
decoder here: such objects leave as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

DEFLATED_IMAGE_FRAME: Final = "1.2.840.10008.1.2.8.1"
RLE_LOSSLESS: Final = "1.2.840.10008.1.2.5"

# The frames of these lie in the data set as they are, but for the byte order of the second.
NATIVE: Final = frozenset(
    (
        IMPLICIT_VR_LITTLE_ENDIAN,
        EXPLICIT_VR_BIG_ENDIAN,
        EXPLICIT_VR_LITTLE_ENDIAN,
        DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    )
)

DECODERS: Final[Mapping[str, str]] = {
    DEFLATED_IMAGE_FRAME: "zlib",
    RLE_LOSSLESS: "pydicom",
    "1.2.840.10008.1.2.4.50": "pillow",
    "1.2.840.10008.1.2.4.51": "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
}

DECODABLE: Final = NATIVE | DECODERS.keys()

# What is made is always without loss. Both forms of JPEG 2000 come from imagecodecs: pylibjpeg's
# OpenJPEG writes no high-throughput form, and no image of less than 32 rows or columns.
ENCODERS: Final[Mapping[str, str]] = {
    DEFLATED_IMAGE_FRAME: "zlib",
    RLE_LOSSLESS: "pydicom",
    "1.2.840.10008.1.2.4.57": "gdcm",
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "openjpeg",
    "1.2.840.10008.1.2.4.201": "openjph",
}
# These keep the planes of a colour image as they are; in the others samples lie by pixel (PS3.5 8.2).
KEEPS_PLANES: Final = frozenset((DEFLATED_IMAGE_FRAME,))
# These transform RGB reversibly, and their frames then are YBR_RCT (PS3.5 8.2.4).
TRANSFORMS_RGB: Final = frozenset(("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201"))

ENCODABLE: Final = ENCODERS.keys() | frozenset(
    (EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
)
