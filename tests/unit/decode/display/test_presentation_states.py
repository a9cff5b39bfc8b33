"""A presentation state changes grey levels and places, and draws where it says (PS3.3 A.33.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence

from pacs.decode import Decoder
from tests import make
from tests.unit.decode.drawing import picture

VALUES = np.arange(256, dtype=np.uint8).reshape(16, 16)
DARK = np.zeros((40, 60), np.uint8)


def state(**attributes: object) -> Dataset:
    made = Dataset()
    made.SOPInstanceUID = make.uid("state")
    made.PresentationLUTShape = "IDENTITY"
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def item(**attributes: object) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def image(**attributes: Any) -> Dataset:  # noqa: ANN401 - attributes by keyword
    made = make.data_set(pixels=VALUES, **attributes)
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = "127.5", "255", "LINEAR_EXACT"
    return made


def window(center: float, width: float, **attributes: object) -> Dataset:
    return item(WindowCenter=center, WindowWidth=width, VOILUTFunction="LINEAR_EXACT", **attributes)


def shown(center: float, width: float) -> NDArray[np.uint8]:
    fraction = np.clip((VALUES.astype(float) - center) / width + 0.5, 0, 1)
    return np.asarray(np.floor(fraction * 255 + 0.5), np.uint8)


def test_the_window_of_a_state_goes_before_that_of_the_image(drawer: Decoder) -> None:
    found = picture(drawer, image(), state=state(SoftcopyVOILUTSequence=[window(60, 50)]))
    assert np.array_equal(found, shown(60, 50))


def test_only_what_is_meant_for_this_image_and_frame_counts(drawer: Decoder) -> None:
    made = image()
    other = item(ReferencedSOPInstanceUID=make.uid("other"), ReferencedSOPClassUID="1.2")
    frame = item(ReferencedSOPInstanceUID=made.SOPInstanceUID, ReferencedFrameNumber=7)
    this = item(ReferencedSOPInstanceUID=made.SOPInstanceUID, ReferencedFrameNumber=[7, 1])
    windows = [
        window(10, 20, ReferencedImageSequence=[other]),
        window(20, 30, ReferencedImageSequence=[frame]),
        window(90, 100, ReferencedImageSequence=[this]),
    ]
    found = picture(drawer, made, state=state(SoftcopyVOILUTSequence=windows))
    assert np.array_equal(found, shown(90, 100))


def test_a_state_may_invert(drawer: Decoder) -> None:
    of_image = state(SoftcopyVOILUTSequence=[window(127.5, 255)], PresentationLUTShape="INVERSE")
    assert np.array_equal(picture(drawer, image(), state=of_image), 255 - VALUES)


def test_the_state_says_alone_whether_a_monochrome_1_image_is_inverted(drawer: Decoder) -> None:
    made = image(PhotometricInterpretation="MONOCHROME1")
    found = picture(drawer, made, state=state(SoftcopyVOILUTSequence=[window(127.5, 255)]))
    assert np.array_equal(found, VALUES)


def test_a_presentation_lut_comes_last(drawer: Decoder) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [256, 0, 8])
    table.add_new("LUTData", "OW", np.arange(255, -1, -1).astype("<u2").tobytes())
    of_image = state(SoftcopyVOILUTSequence=[window(127.5, 255)])
    of_image.PresentationLUTSequence = Sequence([table])
    assert np.array_equal(picture(drawer, image(), state=of_image), 255 - VALUES)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["Y", "N"])
def test_images_turn_clockwise_and_are_flipped_then(
    drawer: Decoder, rotation: int, flip: str
) -> None:
    of_image = state(SoftcopyVOILUTSequence=[window(127.5, 255)])
    of_image.ImageRotation, of_image.ImageHorizontalFlip = rotation, flip
    expected = np.rot90(VALUES, -rotation // 90)
    expected = expected[:, ::-1] if flip == "Y" else expected
    assert np.array_equal(picture(drawer, image(), state=of_image), expected)


def test_the_displayed_area_is_cut_out(drawer: Decoder) -> None:
    of_image = state(SoftcopyVOILUTSequence=[window(127.5, 255)])
    of_image.DisplayedAreaSelectionSequence = [
        item(DisplayedAreaTopLeftHandCorner=[3, 2], DisplayedAreaBottomRightHandCorner=[6, 9])
    ]
    assert np.array_equal(picture(drawer, image(), state=of_image), VALUES[1:9, 2:6])


def test_shutters_cover_what_lies_outside_of_all_of_them(drawer: Decoder) -> None:
    bright = make.data_set(pixels=np.full((20, 20), 200, np.uint8))
    bright.WindowCenter, bright.WindowWidth, bright.VOILUTFunction = "127.5", "255", "LINEAR_EXACT"
    of_image = state(
        SoftcopyVOILUTSequence=[window(127.5, 255)],
        ShutterShape=["RECTANGULAR", "CIRCULAR"],
        ShutterLeftVerticalEdge=3,
        ShutterRightVerticalEdge=18,
        ShutterUpperHorizontalEdge=5,
        ShutterLowerHorizontalEdge=20,
        CenterOfCircularShutter=[10, 10],
        RadiusOfCircularShutter=8,
        ShutterPresentationValue=257 * 40,
    )
    row, column = np.mgrid[1:21, 1:21]
    kept = (column >= 3) & (column <= 18) & (row >= 5)
    kept &= (row - 10) ** 2 + (column - 10) ** 2 <= 64
    assert np.array_equal(picture(drawer, bright, state=of_image), np.where(kept, 200, 40))


def test_a_polygonal_shutter_keeps_its_inside(drawer: Decoder) -> None:
    of_image = state(
        ShutterShape="POLYGONAL",
        VerticesOfThePolygonalShutter=[5, 5, 5, 15, 15, 15, 15, 5],
        ShutterPresentationValue=65535,
    )
    found = picture(drawer, make.data_set(pixels=DARK), state=of_image)
    assert (found[4:15, 4:15] == 0).all()
    assert (found[:4] == 255).all()
    assert (found[16:] == 255).all()


def annotated(graphics: list[Dataset], texts: list[Dataset] | None = None) -> Dataset:
    annotation = item(GraphicLayer="ONE", GraphicObjectSequence=graphics)
    annotation.TextObjectSequence = texts or []
    return state(GraphicAnnotationSequence=[annotation])


def graphic(kind: str, *points: float, filled: str = "N", units: str = "PIXEL") -> Dataset:
    return item(
        GraphicAnnotationUnits=units,
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(points) // 2,
        GraphicData=list(points),
        GraphicType=kind,
        GraphicFilled=filled,
    )


def test_lines_are_drawn_from_point_to_point(drawer: Decoder) -> None:
    found = picture(
        drawer, make.data_set(pixels=DARK), state=annotated([graphic("POLYLINE", 5, 10, 50, 10)])
    )
    assert (found[10, 5:51] == 255).all()
    assert not found[:9].any()
    assert not found[12:].any()


def test_a_filled_circle_has_its_area(drawer: Decoder) -> None:
    circle = graphic("CIRCLE", 30, 20, 42, 20, filled="Y")
    found = picture(drawer, make.data_set(pixels=DARK), state=annotated([circle]))
    assert found[20, 30] == 255
    assert np.count_nonzero(found) == pytest.approx(np.pi * 144, rel=0.1)


def test_graphics_follow_the_image_when_it_is_scaled_and_turned(drawer: Decoder) -> None:
    of_image = annotated([graphic("POINT", 50, 10)])
    of_image.ImageRotation = 90
    found = picture(drawer, make.data_set(pixels=DARK), state=of_image, viewport=(80, 120))
    row, column = np.argwhere(found).mean(axis=0)
    assert (column, row) == pytest.approx((60, 100), abs=1.5)


def test_display_units_count_from_the_corners_of_the_picture(drawer: Decoder) -> None:
    line = graphic("POLYLINE", 0.0, 0.5, 1.0, 0.5, units="DISPLAY")
    found = picture(drawer, make.data_set(pixels=DARK), state=annotated([line]))
    assert np.argwhere(found)[:, 0].tolist() == [20] * 60


def test_texts_are_written(drawer: Decoder) -> None:
    text = item(
        UnformattedTextValue="A",
        BoundingBoxAnnotationUnits="PIXEL",
        BoundingBoxTopLeftHandCorner=[30.0, 10.0],
        BoundingBoxBottomRightHandCorner=[50.0, 30.0],
    )
    found = np.argwhere(picture(drawer, make.data_set(pixels=DARK), state=annotated([], [text])))
    assert len(found) > 10
    assert (found.min(axis=0) >= (10, 30)).all()


def overlaid() -> Dataset:
    made = make.data_set(pixels=DARK)
    plane = np.zeros((10, 10), np.uint8)
    plane[3, 4] = 1
    made.add_new(0x60000010, "US", 10)
    made.add_new(0x60000011, "US", 10)
    made.add_new(0x60000040, "CS", "G")
    made.add_new(0x60000050, "SS", [6, 11])
    made.add_new(0x60000100, "US", 1)
    packed = np.packbits(plane, bitorder="little").tobytes()
    made.add_new(0x60003000, "OB", packed + b"\0" * (len(packed) % 2))
    return made


def test_overlays_are_drawn_where_they_are_asked_for(drawer: Decoder) -> None:
    assert not picture(drawer, overlaid()).any()
    assert np.argwhere(picture(drawer, overlaid(), overlays=True)).tolist() == [[8, 14]]


def test_a_state_draws_the_overlays_that_it_activates(drawer: Decoder) -> None:
    of_image = state()
    assert not picture(drawer, overlaid(), state=of_image).any()
    of_image.add_new(0x60001001, "CS", "LAYER")
    assert np.argwhere(picture(drawer, overlaid(), state=of_image)).tolist() == [[8, 14]]


@pytest.mark.parametrize("rows", [0, 65535])
def test_an_overlay_that_is_cut_off_is_left_out(drawer: Decoder, rows: int) -> None:
    made = overlaid()
    made[0x60000010].value = rows
    assert not picture(drawer, made, overlays=True).any()
