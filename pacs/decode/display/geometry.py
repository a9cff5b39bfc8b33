"""Where the pixels of an image come to lie in a picture (PS3.18 8.3.5.1.3, PS3.3 C.10.4, C.10.6).

A rectangle of the image is scaled to the viewport, as large as it fits and with its true
proportions: pixels that are no squares become as high and wide as they were in the patient. Then it
is turned and flipped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

from PIL import Image
from pydicom import Dataset

from pacs.decode.display.attributes import macro, numbers
from pacs.errors import BadObject

PICTURE_PIXELS_MAX: Final = 1 << 25  # a larger picture is scaled down to this ...
PICTURE_SIDE_MAX: Final = 1 << 15  # ... and one with a longer side to this, in pixels
AREA_FACTOR_MAX: Final = (
    4  # a displayed area that is longer or wider than so many images is not used
)
ASPECT_MAX: Final = 20.0  # a pixel that is longer or wider than this many times is not believed
SQUARE_TOLERANCE: Final = 0.005  # spacings that differ by less are rounded, not meant

_SPACINGS: Final = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


class Box(NamedTuple):
    """A rectangle in image pixels, from the upper left corner of the image; it may reach out of it."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Its width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Its height in pixels."""
        return self.bottom - self.top

    def moved(self, right: float, down: float) -> Box:
        """The same rectangle elsewhere."""
        return Box(self.left + right, self.top + down, self.right + right, self.bottom + down)


@dataclass(frozen=True, slots=True)
class Viewport:
    """What a request wants to see, and how large. Without a box it is the whole image.

    `sides` are width and height in pixels; without them the image keeps its size. `enlarges` false
    leaves an image that is smaller than the viewport as it is.
    """

    sides: tuple[int, int] | None = None
    box: Box | None = None
    flips_horizontally: bool = False
    flips_vertically: bool = False
    enlarges: bool = True


@dataclass(frozen=True, slots=True)
class Spatial:
    """The Spatial Transformation module (PS3.3 C.10.6): degrees clockwise, then the flip."""

    rotation: int = 0
    flips_horizontally: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """A box of the image scaled to width × height, turned by rotation, then flipped."""

    box: Box
    width: int
    height: int
    spatial: Spatial = Spatial()
    flips_vertically: bool = False

    def placed(self, picture: Image.Image) -> Image.Image:
        """The picture of a whole image as it is placed. What lies outside of the image is black."""
        turned = self._scaled(picture)
        if self.spatial.rotation:
            turned = turned.transpose(_TURNS[self.spatial.rotation])
        if self.spatial.flips_horizontally:
            turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.flips_vertically:
            turned = turned.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        return turned

    def point(self, column: float, row: float) -> tuple[float, float]:
        """Where a point of the image, in pixels from its corner, lies in the picture."""
        x = (column - self.box.left) / self.box.width
        y = (row - self.box.top) / self.box.height
        for _ in range(self.spatial.rotation // 90):
            x, y = 1 - y, x
        x = 1 - x if self.spatial.flips_horizontally else x
        y = 1 - y if self.flips_vertically else y
        width, height = self.size
        return x * width, y * height

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        sides = (self.width, self.height)
        return sides[::-1] if self.spatial.rotation % 180 else sides

    def _scaled(self, picture: Image.Image) -> Image.Image:
        sides = (self.width, self.height)
        whole = Box(0, 0, *picture.size)
        if self.box == whole and sides == picture.size:
            return picture
        inside = _intersection(self.box, whole)
        left, top = self._place(inside.left, inside.top)
        right, bottom = self._place(inside.right, inside.bottom)
        # Cut out first: what lies beside the box must not shine into its edges.
        corner = math.floor(inside.left), math.floor(inside.top)
        cut = picture.crop((*corner, math.ceil(inside.right), math.ceil(inside.bottom)))
        shown = cut.resize(
            (max(1, right - left), max(1, bottom - top)),
            Image.Resampling.BILINEAR,
            inside.moved(-corner[0], -corner[1]),
        )
        if shown.size == sides:
            return shown
        canvas = Image.new(picture.mode, sides)
        canvas.paste(shown, (left, top))
        return canvas

    def _place(self, column: float, row: float) -> tuple[int, int]:
        x = (column - self.box.left) / self.box.width * self.width
        y = (row - self.box.top) / self.box.height * self.height
        return round(x), round(y)


_TURNS: Final = {
    90: Image.Transpose.ROTATE_270,  # Pillow turns counter-clockwise
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}


def _intersection(one: Box, other: Box) -> Box:
    found = Box(
        max(one.left, other.left),
        max(one.top, other.top),
        min(one.right, other.right),
        min(one.bottom, other.bottom),
    )
    if found.width <= 0 or found.height <= 0:
        raise BadObject("the region that is to be shown lies outside of the image")
    return found


def placement(
    columns: int,
    rows: int,
    aspect: float,
    viewport: Viewport | None = None,
    *,
    area: Box | None = None,
    spatial: Spatial = Spatial(),
) -> Placement:
    """Where an image of columns × rows goes. `aspect` is a pixel's height divided by its width.

    `area` is what a presentation state displays; the viewport's own box goes before it.
    Raises BadObject for a box that shows nothing of the image.
    """
    if area and (area.width > AREA_FACTOR_MAX * columns or area.height > AREA_FACTOR_MAX * rows):
        area = None
    box = (viewport and viewport.box) or area or Box(0, 0, columns, rows)
    _intersection(box, Box(0, 0, columns, rows))
    width, height = box.width * max(1.0, 1 / aspect), box.height * max(1.0, aspect)
    scale = _scale(width, height, viewport, is_turned=spatial.rotation % 180 == 90)
    if viewport is not None and viewport.flips_horizontally:
        spatial = Spatial(spatial.rotation, not spatial.flips_horizontally)
    return Placement(
        box=box,
        width=max(1, round(width * scale)),
        height=max(1, round(height * scale)),
        spatial=spatial,
        flips_vertically=viewport is not None and viewport.flips_vertically,
    )


def _scale(width: float, height: float, viewport: Viewport | None, *, is_turned: bool) -> float:
    scale = 1.0
    if viewport is not None and viewport.sides is not None:
        sides = viewport.sides[::-1] if is_turned else viewport.sides
        scale = min(sides[0] / width, sides[1] / height)
        scale = scale if viewport.enlarges else min(1.0, scale)
    pixels_scale = math.sqrt(PICTURE_PIXELS_MAX / (width * height))
    return min(scale, pixels_scale, PICTURE_SIDE_MAX / max(width, height))


def aspect_of(data_set: Dataset, frame: int = 1) -> float:
    """Height of a pixel divided by its width: from its spacing, else its ratio (PS3.3 C.7.6.3.1.7)."""
    measures = macro(data_set, frame, "PixelMeasuresSequence")
    sources = [(measures, "PixelSpacing"), *((data_set, keyword) for keyword in _SPACINGS)]
    found = [numbers(*source) for source in (*sources, (data_set, "PixelAspectRatio"))]
    pair = next((values for values in found if len(values) == 2 and min(values) > 0), (1.0, 1.0))
    aspect = pair[0] / pair[1]
    if abs(aspect - 1) < SQUARE_TOLERANCE or not 1 / ASPECT_MAX <= aspect <= ASPECT_MAX:
        return 1.0
    return aspect
