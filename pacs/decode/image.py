"""What a frame looks like: the attributes of the Image Pixel module that decoding needs.

They come from a hostile data set, so they are checked against limits before anything is decoded,
and again against what the compressed frame says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pacs.decode.syntaxes import KEEPS_PLANES, TRANSFORMS_RGB
from pacs.dicom.part10 import PIXEL_DATA, Scan
from pacs.errors import BadObject

FRAME_BYTES_MAX: Final = 1 << 28  # a frame that would be larger when decoded is refused undecoded
SAMPLES_MAX: Final = 4
BITS_ALLOCATED: Final = frozenset((1, 8, 16, 32, 64))

_NUMBERS: Final = {
    "rows": ("Rows", ""),
    "columns": ("Columns", ""),
    "samples_per_pixel": ("SamplesPerPixel", "1"),
    "bits_allocated": ("BitsAllocated", ""),
    "bits_stored": ("BitsStored", ""),
    "pixel_representation": ("PixelRepresentation", "0"),
    "planar_configuration": ("PlanarConfiguration", "0"),
}


@dataclass(frozen=True, slots=True)
class ImagePixel:
    """The Image Pixel module in short (PS3.3 C.7.6.3). Raises BadObject if it cannot be believed.

    `vr` is that of the pixel data element; in big endian it tells how bytes are swapped
    (PS3.5 8.1.2).
    """

    rows: int
    columns: int
    samples_per_pixel: int
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    photometric_interpretation: str
    planar_configuration: int = 0
    vr: str = "OW"

    def __post_init__(self) -> None:
        """Refuse what no image is, before a decoder sees it."""
        sound = (
            0 < self.rows < 1 << 16
            and 0 < self.columns < 1 << 16
            and 0 < self.samples_per_pixel <= SAMPLES_MAX
            and self.bits_allocated in BITS_ALLOCATED
            and 0 < self.bits_stored <= self.bits_allocated
            and self.pixel_representation in (0, 1)
            and self.planar_configuration in (0, 1)
        )
        if not sound:
            raise BadObject("the image pixel attributes describe no image")
        if self.frame_bytes > FRAME_BYTES_MAX:
            raise BadObject(
                "a decoded frame would be larger than this node decodes",
                frame_bytes=self.frame_bytes,
                frame_bytes_max=FRAME_BYTES_MAX,
            )

    @classmethod
    def of(cls, scan: Scan) -> ImagePixel:
        """Read a walked data set, or the part of one that comes before its pixel data."""
        numbers = {name: _number(scan, *source) for name, source in _NUMBERS.items()}
        pixel_data = scan.elements.get(PIXEL_DATA)
        return cls(
            **numbers,
            photometric_interpretation=scan.text("PhotometricInterpretation"),
            vr=pixel_data.vr if pixel_data and pixel_data.vr == "OB" else "OW",
        )

    def encoded_as(self, transfer_syntax_uid: str) -> ImagePixel:
        """The image as its data set must describe it once frames are encoded (PS3.5 8.2)."""
        is_transformed = (
            self.photometric_interpretation == "RGB" and transfer_syntax_uid in TRANSFORMS_RGB
        )
        keeps_planes = transfer_syntax_uid in KEEPS_PLANES
        return replace(
            self,
            planar_configuration=self.planar_configuration if keeps_planes else 0,
            photometric_interpretation=(
                "YBR_RCT" if is_transformed else self.photometric_interpretation
            ),
        )

    @property
    def frame_bits(self) -> int:
        """The bits of one frame, every sample in full (PS3.5 8.1.1)."""
        return self.rows * self.columns * self.samples_per_pixel * self.bits_allocated

    @property
    def frame_bytes(self) -> int:
        """The bytes of one decoded frame."""
        return -(-self.frame_bits // 8)


def _number(scan: Scan, keyword: str, default: str) -> int:
    text = scan.text(keyword) or default
    if not (text.isascii() and text.isdigit()):
        raise BadObject("an image pixel attribute is missing or no number", keyword=keyword)
    return int(text)
