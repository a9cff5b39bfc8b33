"""Grayscale softcopy presentation states: what they change, and what they draw (PS3.3 A.33.1).

The grey transformations of a state take the place of the image's own (PS3.4 N.2). Its shutter and
overlays belong to the image; its graphics are drawn over the picture, after scaling, so that their
lines stay thin and their texts readable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom import Dataset

from pacs.decode.display.attributes import items, number, numbers, value, word
from pacs.decode.display.geometry import Box, Placement, Spatial
from pacs.decode.display.grey import Grey, modality_of, table_of, voi_of

Pixels = NDArray[np.uint8]  # rows × columns, or rows × columns × 3
Point = tuple[float, float]

POINTS_MAX: Final = 100_000  # of one graphic object; further ones are not drawn
COORDINATE_MAX: Final = 1e6  # pixels from the picture's corner; what lies farther is drawn there
CHARACTERS_MAX: Final = 1_000  # of one text object
FONT_HEIGHT: Final = 14  # pixels
WHITE: Final = 255

_OVERLAYS: Final = range(0x6000, 0x6020, 2)


def applying(state: Dataset, keyword: str, sop_instance_uid: str, frame: int) -> Iterator[Dataset]:
    """The items of a state's sequence that are meant for one frame of one image."""
    return (item for item in items(state, keyword) if _refers_to(item, sop_instance_uid, frame))


def _refers_to(item: Dataset, sop_instance_uid: str, frame: int) -> bool:
    references = list(items(item, "ReferencedImageSequence"))
    return not references or any(
        value(one, "ReferencedSOPInstanceUID") == sop_instance_uid
        and frame in (numbers(one, "ReferencedFrameNumber") or (frame,))
        for one in references
    )


def grey_of_state(state: Dataset, image: Grey, sop_instance_uid: str, frame: int) -> Grey:
    """A state's own way to grey levels. Raises BadObject for tables that are broken."""
    chosen = next(applying(state, "SoftcopyVOILUTSequence", sop_instance_uid, frame), None)
    shaped = next(items(state, "PresentationLUTSequence"), None)
    return Grey(
        modality=modality_of(state),
        voi=voi_of(chosen) if chosen is not None else None,
        presentation=table_of(shaped) if shaped is not None else None,
        inverse=shaped is None and word(state, "PresentationLUTShape") == "INVERSE",
        padding=image.padding,
    )


def spatial_of(state: Dataset) -> Spatial:
    """How a state turns and flips."""
    rotation = int(number(state, "ImageRotation", 0)) % 360
    rotation = rotation if rotation in (90, 180, 270) else 0
    return Spatial(rotation, word(state, "ImageHorizontalFlip") == "Y")


def area_of(state: Dataset, sop_instance_uid: str, frame: int) -> Box | None:
    """What a state displays, corners included (PS3.3 C.10.4)."""
    item = next(applying(state, "DisplayedAreaSelectionSequence", sop_instance_uid, frame), None)
    if item is None:
        return None
    one = numbers(item, "DisplayedAreaTopLeftHandCorner")
    other = numbers(item, "DisplayedAreaBottomRightHandCorner")
    if len(one) != 2 or len(other) != 2:
        return None
    (left, right), (top, bottom) = sorted((one[0], other[0])), sorted((one[1], other[1]))
    return Box(left - 1, top - 1, right, bottom)


def shutter(state: Dataset, pixels: Pixels) -> Pixels:
    """Pixels outside of a state's shutters at its shutter grey (PS3.3 C.7.6.11)."""
    shapes = value(state, "ShutterShape")
    names = [shapes] if isinstance(shapes, str) else list(shapes or ())
    kept = np.ones(pixels.shape[:2], bool)
    for name in names:
        if name in _SHUTTERS:
            kept &= _SHUTTERS[name](state, *pixels.shape[:2])
    if kept.all():
        return pixels
    grey = round(min(max(number(state, "ShutterPresentationValue", 0), 0), 65535) / 257)
    shown = pixels.copy()
    shown[~kept] = grey
    return shown


def _rectangle(state: Dataset, rows: int, columns: int) -> NDArray[np.bool_]:
    row, column = np.ogrid[1 : rows + 1, 1 : columns + 1]
    return np.asarray(
        (column >= number(state, "ShutterLeftVerticalEdge", 1))
        & (column <= number(state, "ShutterRightVerticalEdge", columns))
        & (row >= number(state, "ShutterUpperHorizontalEdge", 1))
        & (row <= number(state, "ShutterLowerHorizontalEdge", rows))
    )


def _circle(state: Dataset, rows: int, columns: int) -> NDArray[np.bool_]:
    center = numbers(state, "CenterOfCircularShutter")
    if len(center) != 2:
        return np.ones((rows, columns), bool)
    row, column = np.ogrid[1 : rows + 1, 1 : columns + 1]
    radius = number(state, "RadiusOfCircularShutter", rows + columns)
    return np.asarray((row - center[0]) ** 2 + (column - center[1]) ** 2 <= radius**2)


def _polygon(state: Dataset, rows: int, columns: int) -> NDArray[np.bool_]:
    flat = numbers(state, "VerticesOfThePolygonalShutter")[: 2 * POINTS_MAX]
    corners = list(zip(flat[1::2], flat[::2], strict=False))  # rows come first (C.7.6.11)
    if len(corners) < 3:
        return np.ones((rows, columns), bool)
    mask = Image.new("L", (columns, rows))
    ImageDraw.Draw(mask).polygon([(x - 1, y - 1) for x, y in corners], fill=1)
    return np.asarray(mask, bool)


_SHUTTERS: Final[dict[str, Callable[[Dataset, int, int], NDArray[np.bool_]]]] = {
    "RECTANGULAR": _rectangle,
    "CIRCULAR": _circle,
    "POLYGONAL": _polygon,
}


def overlays(data_set: Dataset, pixels: Pixels, state: Dataset | None = None) -> Pixels:
    """Pixels with the overlay planes of a data set drawn in white (PS3.3 C.9.2).

    With a state, those alone that it activates. A plane that lies outside or is cut off is not drawn.
    """
    for group in _OVERLAYS:
        if state is None or word(state, group << 16 | 0x1001):
            plane = _plane(data_set, group, *pixels.shape[:2])
            if plane is not None:
                pixels = pixels.copy()
                pixels[plane] = WHITE
    return pixels


def _plane(data_set: Dataset, group: int, rows: int, columns: int) -> NDArray[np.bool_] | None:
    """The bits of one overlay on the raster of the image."""
    base = group << 16
    height = int(number(data_set, base | 0x0010, 0))
    width = int(number(data_set, base | 0x0011, 0))
    origin = numbers(data_set, base | 0x0050) or (1, 1)
    raw = value(data_set, base | 0x3000)
    if not isinstance(raw, bytes) or min(height, width) < 1 or len(origin) != 2:
        return None
    if len(raw) * 8 < height * width:
        return None
    flat = np.unpackbits(np.frombuffer(raw, np.uint8), count=height * width, bitorder="little")
    bits = flat.reshape(height, width).astype(bool)
    top, left = int(origin[0]) - 1, int(origin[1]) - 1
    if top >= rows or left >= columns or top + height <= 0 or left + width <= 0:
        return None
    plane = np.zeros((rows, columns), bool)
    shown = bits[max(0, -top) : rows - top, max(0, -left) : columns - left]
    plane[max(0, top) :, max(0, left) :][: shown.shape[0], : shown.shape[1]] = shown
    return plane


class Graphics:
    """A state's annotations, drawn over one picture (PS3.3 C.10.5)."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, placement: Placement, font: ImageFont.FreeTypeFont
    ) -> None:
        self._draw = draw
        self._placement = placement
        self._font = font

    def annotate(self, state: Dataset, sop_instance_uid: str, frame: int) -> None:
        """Draw what is meant for one frame; objects that cannot be read are left out."""
        for annotation in applying(state, "GraphicAnnotationSequence", sop_instance_uid, frame):
            for graphic in items(annotation, "GraphicObjectSequence"):
                self._graphic(graphic)
            for text in items(annotation, "TextObjectSequence"):
                self._text(text)

    def _points(self, item: Dataset, keyword: str, units: str) -> list[Point]:
        flat = numbers(item, keyword)[: 2 * POINTS_MAX]
        pairs = zip(flat[::2], flat[1::2], strict=False)
        in_display = word(item, units) == "DISPLAY"
        width, height = self._placement.size
        placed = (
            (x * width, y * height) if in_display else self._placement.point(x, y) for x, y in pairs
        )
        return [(_within_reach(x), _within_reach(y)) for x, y in placed]

    def _graphic(self, item: Dataset) -> None:
        points = self._points(item, "GraphicData", "GraphicAnnotationUnits")
        kind = word(item, "GraphicType")
        outline = _OUTLINES.get(kind, list)(points)
        if kind == "POINT" and points:
            x, y = points[0]
            self._draw.ellipse((x - 1, y - 1, x + 1, y + 1), fill=WHITE)
        elif len(outline) > 1:
            if word(item, "GraphicFilled") == "Y" and len(outline) > 2:
                self._draw.polygon(outline, fill=WHITE)
            self._draw.line(outline, fill=WHITE)

    def _text(self, item: Dataset) -> None:
        text = value(item, "UnformattedTextValue")
        box = self._points(item, "BoundingBoxTopLeftHandCorner", "BoundingBoxAnnotationUnits")
        anchor = self._points(item, "AnchorPoint", "AnchorPointAnnotationUnits")
        if isinstance(text, str) and (box or anchor):
            lines = text[:CHARACTERS_MAX].replace("\r\n", "\n").replace("\r", "\n")
            self._draw.multiline_text((box or anchor)[0], lines, fill=WHITE, font=self._font)
        if box and anchor and word(item, "AnchorPointVisibility") == "Y":
            self._draw.line([box[0], anchor[0]], fill=WHITE)


def _within_reach(coordinate: float) -> float:
    return max(-COORDINATE_MAX, min(coordinate, COORDINATE_MAX))


def _round(center: Point, along: Point, across: Point) -> list[Point]:
    """The outline of an ellipse with two half axes, as a polygon."""
    turns = [2 * math.pi * n / 64 for n in range(65)]
    return [
        (
            center[0] + along[0] * math.cos(turn) + across[0] * math.sin(turn),
            center[1] + along[1] * math.cos(turn) + across[1] * math.sin(turn),
        )
        for turn in turns
    ]


def _circle_outline(points: Sequence[Point]) -> list[Point]:
    if len(points) < 2:
        return []
    (x, y), (rim_x, rim_y) = points[:2]
    radius = math.hypot(rim_x - x, rim_y - y)
    return _round((x, y), (radius, 0), (0, radius))


def _ellipse_outline(points: Sequence[Point]) -> list[Point]:
    """From the ends of the major axis and of the minor axis."""
    if len(points) < 4:
        return []
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = points[:4]
    center = ((ax + bx) / 2, (ay + by) / 2)
    return _round(center, ((bx - ax) / 2, (by - ay) / 2), ((dx - cx) / 2, (dy - cy) / 2))


_OUTLINES: Final[dict[str, Callable[[Any], list[Point]]]] = {
    "CIRCLE": _circle_outline,
    "ELLIPSE": _ellipse_outline,
}
