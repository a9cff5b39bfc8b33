"""One request for pictures, from the header and the frames of an image to JPEG, PNG or GIF.

Everything that reads hostile bytes is together here, behind the sandbox: the header, the codec, the
lookup tables, the presentation state. The request itself was checked before it was sent; see
`pacs.decode.rendering` for what it holds.
"""

from __future__ import annotations

import codecs as python_codecs
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageFont
from pydicom import Dataset, charset

from pacs.decode import codecs
from pacs.decode.display import presentation
from pacs.decode.display.attributes import header_of, number, value
from pacs.decode.display.colour import from_palette, rgb, spread_422
from pacs.decode.display.geometry import Box, Placement, Viewport, aspect_of, placement
from pacs.decode.display.grey import Grey, Window, grey_levels, grey_of
from pacs.decode.explicit import swapped
from pacs.decode.image import ImagePixel
from pacs.decode.rendering import GIF, JPEG, PNG, Rendering
from pacs.decode.syntaxes import NATIVE
from pacs.dicom.data_sets import read_data_set
from pacs.dicom.part10 import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, Scan, scan
from pacs.errors import BadObject

FRAME_MS: Final = 100.0  # how long a frame of a film is shown that does not say so itself
FRAME_MS_MIN, FRAME_MS_MAX = 20.0, 10_000.0  # what GIF viewers can follow
LINE_CHARACTERS_MAX: Final = 80  # of a burned-in annotation; the rest of a line is left out
MARGIN: Final = 4  # pixels around burned-in annotations

_FLOATS: Final = {0x7FE00008: "<f4", 0x7FE00009: "<f8"}
_PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_TECHNIQUE: Final = (
    *("Modality", "BodyPartExamined", "SliceThickness", "SliceLocation", "KVP"),
    *("XRayTubeCurrent", "Exposure", "RepetitionTime", "EchoTime", "MagneticFieldStrength"),
)
# What Pillow and its libraries raise for a picture that cannot be made.
_PICTURE_ERRORS: Final = (OSError, ValueError, OverflowError, TypeError, ImageCms.PyCMSError)


def load() -> None:
    """Import and open now whatever drawing needs, so that the sandbox need not open it later."""
    Image.init()
    _font()
    for names in charset.python_encoding.values():
        python_codecs.lookup(names)
    picture = Image.new("RGB", (1, 1))
    for media_type in _WRITERS:
        _WRITERS[media_type]([picture], Rendering(media_type=media_type), Dataset())


def rendered(request: Mapping[str, Any], parts: Sequence[bytes]) -> list[bytes]:
    """The pictures of the frames of one image. Raises BadObject.

    The parts are the header, a presentation state if there is one, and the frames.
    """
    asked = Rendering.of(request)
    header, *frames = parts
    source = _Source(asked, header, frames.pop(0) if asked.has_state else None)
    numbered = zip(asked.frame_numbers, frames, strict=True)
    pictures = [source.picture(number, frame) for number, frame in numbered]
    try:
        return _WRITERS[asked.media_type](pictures, asked, source.data_set)
    except _PICTURE_ERRORS as error:
        raise BadObject("the picture cannot be written in this form") from error


class _Samples(NamedTuple):
    """One frame: rows × columns, or rows × columns × samples, of unsigned words or of floats."""

    pixels: NDArray[Any]
    photometric_interpretation: str
    bits_stored: int
    is_signed: bool


class _Source:
    """One image, and what is to be shown of it."""

    def __init__(self, asked: Rendering, header: bytes, state: bytes | None) -> None:
        self._asked = asked
        self._walked, self.data_set = header_of(header, asked.transfer_syntax_uid)
        self._state = _state_of(state) if state is not None else None
        self._uid = str(value(self.data_set, "SOPInstanceUID") or "")

    def picture(self, frame: int, raw: bytes) -> Image.Image:
        """The picture of one frame, from 1."""
        samples = self._samples(raw)
        pixels = self._displayed(samples, frame)
        if self._asked.overlays or self._state is not None:
            activated = None if self._asked.overlays else self._state
            pixels = presentation.overlays(self.data_set, pixels, activated)
        if self._state is not None:
            pixels = presentation.shutter(self._state, pixels)
        return self._drawn(pixels, frame)

    def _samples(self, raw: bytes) -> _Samples:
        if self._asked.pixel_tag in _FLOATS:
            return _float_samples(self._walked, raw, _FLOATS[self._asked.pixel_tag])
        image = replace(ImagePixel.of(self._walked), vr=self._asked.pixel_vr)
        syntax = self._asked.transfer_syntax_uid
        if syntax in NATIVE:
            return _native_samples(image, self.data_set, syntax, raw)
        decoded, interpretation = codecs.decode(image, syntax, raw)
        image = replace(image, photometric_interpretation=interpretation)
        return _Samples(
            _arranged(image, decoded),
            image.photometric_interpretation,
            image.bits_stored,
            bool(image.pixel_representation),
        )

    def _displayed(self, samples: _Samples, frame: int) -> NDArray[np.uint8]:
        """Grey levels or RGB, of 8 bits."""
        interpretation = samples.photometric_interpretation
        if interpretation == "PALETTE COLOR":
            return from_palette(self.data_set, samples.pixels)
        if samples.pixels.ndim == 3:
            return rgb(samples.pixels, interpretation, samples.bits_stored)
        grey = self._grey(frame, is_monochrome_1=interpretation == "MONOCHROME1")
        return grey_levels(grey, samples.pixels, samples.bits_stored, is_signed=samples.is_signed)

    def _grey(self, frame: int, *, is_monochrome_1: bool) -> Grey:
        window = Window(*self._asked.window) if self._asked.window else None
        grey = grey_of(self.data_set, frame, is_monochrome_1=is_monochrome_1, window=window)
        if self._state is not None:
            grey = presentation.grey_of_state(self._state, grey, self._uid, frame)
        return replace(grey, voi=window) if window else grey

    def _drawn(self, pixels: NDArray[np.uint8], frame: int) -> Image.Image:
        """Pixels in their place, with whatever is drawn over them."""
        rows, columns = pixels.shape[:2]
        where = self._placement(columns, rows, frame)
        picture = where.placed(Image.fromarray(pixels))
        lines = _annotation(self._walked, self._asked.annotation)
        if lines or self._state is not None:
            draw = ImageDraw.Draw(picture)
            if self._state is not None:
                graphics = presentation.Graphics(draw, where, _font())
                graphics.annotate(self._state, self._uid, frame)
            if lines:
                draw.multiline_text(
                    (MARGIN, MARGIN),
                    "\n".join(lines),
                    fill=presentation.WHITE if picture.mode == "L" else (255, 255, 255),
                    font=_font(),
                    stroke_width=1,
                    stroke_fill=0 if picture.mode == "L" else (0, 0, 0),
                )
        return picture

    def _placement(self, columns: int, rows: int, frame: int) -> Placement:
        aspect = aspect_of(self.data_set, frame)
        viewport = _viewport(self._asked, columns, rows)
        if self._state is None:
            return placement(columns, rows, aspect, viewport)
        area = presentation.area_of(self._state, self._uid, frame)
        spatial = presentation.spatial_of(self._state)
        return placement(columns, rows, aspect, viewport, area=area, spatial=spatial)


def _viewport(asked: Rendering, columns: int, rows: int) -> Viewport | None:
    box = None
    if asked.box is not None:
        left, top, right, bottom = asked.box
        box = Box(
            left, top, columns if right is None else right, rows if bottom is None else bottom
        )
    elif asked.viewport is None:
        return None
    return Viewport(
        asked.viewport,
        box,
        flips_horizontally=asked.flips_horizontally,
        flips_vertically=asked.flips_vertically,
        enlarges=asked.enlarges,
    )


def _state_of(data_set: bytes) -> Dataset:
    scan(data_set, EXPLICIT_VR_LITTLE_ENDIAN)
    return read_data_set(data_set, EXPLICIT_VR_LITTLE_ENDIAN)


def _float_samples(walked: Scan, raw: bytes, kind: str) -> _Samples:
    """Float Pixel Data, little endian (PS3.3 C.7.6.24)."""
    sides = [walked.text(keyword) for keyword in ("Rows", "Columns")]
    rows, columns = (int(side) if side.isascii() and side.isdigit() else 0 for side in sides)
    count = rows * columns
    if not count or len(raw) < count * np.dtype(kind).itemsize:
        raise BadObject("a frame has another size than its data set says")
    pixels = np.frombuffer(raw, kind, count).reshape(rows, columns)
    return _Samples(pixels, "MONOCHROME2", 8 * pixels.itemsize, is_signed=True)


def _native_samples(
    image: ImagePixel, data_set: Dataset, transfer_syntax_uid: str, raw: bytes
) -> _Samples:
    interpretation, bits_stored = image.photometric_interpretation, image.bits_stored
    is_signed = bool(image.pixel_representation)
    if interpretation == "YBR_FULL_422" and image.samples_per_pixel == 3:
        spread = spread_422(raw, image.rows, image.columns)
        return _Samples(spread, "YBR_FULL", bits_stored, is_signed)
    if len(raw) < image.frame_bytes:
        raise BadObject("a frame has another size than its data set says")
    if transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN:
        turns_bytes = image.bits_allocated == 8 and image.vr == "OW"
        raw = swapped(raw, 2 if turns_bytes else max(1, image.bits_allocated // 8))
    pixels = _arranged(image, raw)
    high_bit = int(number(data_set, "HighBit", bits_stored - 1))
    if bits_stored <= high_bit < image.bits_allocated:
        pixels = pixels >> (high_bit + 1 - bits_stored)
    return _Samples(pixels, interpretation, bits_stored, is_signed)


def _arranged(image: ImagePixel, raw: bytes) -> NDArray[Any]:
    """A whole native frame, little endian, as an array; samples by pixel."""
    rows, columns, samples = image.rows, image.columns, image.samples_per_pixel
    count = rows * columns * samples
    if image.bits_allocated == 1:
        bits = np.frombuffer(raw, np.uint8)
        flat = np.unpackbits(bits, bitorder="little", count=count)
    else:
        flat = np.frombuffer(raw, f"<u{image.bits_allocated // 8}", count)
    if samples == 1:
        return flat.reshape(rows, columns)
    if image.planar_configuration:
        return flat.reshape(samples, rows, columns).transpose(1, 2, 0)
    return flat.reshape(rows, columns, samples)


def _annotation(walked: Scan, kinds: Sequence[str]) -> list[str]:
    """The lines that a request wants burned in (PS3.18 8.3.5.1.1)."""
    lines = [walked.text(keyword) for keyword in _PATIENT] if "patient" in kinds else []
    if "technique" in kinds:
        technique = ((keyword, walked.text(keyword)) for keyword in _TECHNIQUE)
        lines += [f"{keyword} {text}" for keyword, text in technique if text]
    return [line[:LINE_CHARACTERS_MAX] for line in lines if line]


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Pillow's own font, read once."""
    font = ImageFont.load_default(presentation.FONT_HEIGHT)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow lacks FreeType"
    return font


def _profile(picture: Image.Image, asked: Rendering, data_set: Dataset) -> dict[str, bytes]:
    """The ICC profile to put into a colour picture, if one is wanted and there (PS3.18 8.3.5.1.4)."""
    found = value(data_set, "ICCProfile")
    if picture.mode != "RGB" or asked.icc_profile == "no":
        return {}
    if asked.icc_profile == "yes":
        return {"icc_profile": found} if isinstance(found, bytes) and found else {}
    standard = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    if isinstance(found, bytes) and found:
        own = ImageCms.ImageCmsProfile(io.BytesIO(found))
        ImageCms.profileToProfile(picture, own, standard, inPlace=True)
    return {"icc_profile": standard.tobytes()}


def _jpegs(pictures: Sequence[Image.Image], asked: Rendering, data_set: Dataset) -> list[bytes]:
    return [
        _saved(one, "JPEG", quality=asked.quality, **_profile(one, asked, data_set))
        for one in pictures
    ]


def _pngs(pictures: Sequence[Image.Image], asked: Rendering, data_set: Dataset) -> list[bytes]:
    return [
        _saved(one, "PNG", compress_level=3, **_profile(one, asked, data_set)) for one in pictures
    ]


def _gif(pictures: Sequence[Image.Image], _asked: Rendering, data_set: Dataset) -> list[bytes]:
    """One GIF, which moves if there are several frames."""
    first, *others = pictures
    film = {"save_all": True, "append_images": others, "loop": 0, "duration": _frame_ms(data_set)}
    return [_saved(first, "GIF", **(film if others else {}))]


def _frame_ms(data_set: Dataset) -> int:
    """How long each frame is shown, in milliseconds (PS3.3 C.7.6.5)."""
    rate = number(data_set, "RecommendedDisplayFrameRate", 0) or number(data_set, "CineRate", 0)
    found = number(data_set, "FrameTime", 0) or (1000 / rate if rate > 0 else FRAME_MS)
    return round(min(max(found, FRAME_MS_MIN), FRAME_MS_MAX))


def _saved(picture: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own options
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


_Writer = Callable[[Sequence[Image.Image], Rendering, Dataset], list[bytes]]
_WRITERS: Final[Mapping[str, _Writer]] = {JPEG: _jpegs, PNG: _pngs, GIF: _gif}
