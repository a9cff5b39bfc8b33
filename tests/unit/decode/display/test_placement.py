"""What lies where: viewports, regions, flips, turns, and pixels that are no squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import Dataset

from pacs.decode import Decoder
from pacs.decode.display.geometry import (
    PICTURE_PIXELS_MAX,
    Box,
    Spatial,
    Viewport,
    aspect_of,
    placement,
)
from pacs.errors import BadObject
from tests import make
from tests.unit.decode.drawing import picture

# Four quarters of 20 × 40 pixels, each of one grey level.
QUARTERS = np.kron(np.array([[10, 60], [120, 250]], np.uint8), np.ones((20, 40), np.uint8))


def quarters(**attributes: Any) -> Dataset:  # noqa: ANN401 - attributes by keyword
    made = make.data_set(pixels=QUARTERS, **attributes)
    made.WindowCenter, made.WindowWidth, made.VOILUTFunction = "127.5", "255", "LINEAR_EXACT"
    return made


def corners(found: NDArray[Any]) -> list[int]:
    """The grey levels in the corners: upper left and right, lower left and right."""
    return [int(found[row, column]) for row in (0, -1) for column in (0, -1)]


@pytest.mark.parametrize(
    ("viewport", "shape"),
    [((40, 40), (20, 40)), ((800, 100), (100, 200)), ((1, 1), (1, 1)), ((160, 80), (80, 160))],
)
def test_an_image_fits_its_viewport_and_keeps_its_proportions(
    drawer: Decoder, viewport: tuple[int, int], shape: tuple[int, int]
) -> None:
    assert picture(drawer, quarters(), viewport=viewport).shape == shape


def test_a_thumbnail_is_never_larger_than_its_image(drawer: Decoder) -> None:
    assert picture(drawer, quarters(), viewport=(128, 128), enlarges=False).shape == (40, 80)
    assert picture(drawer, quarters(), viewport=(40, 40), enlarges=False).shape == (20, 40)


def test_a_region_is_cut_out_before_it_is_scaled(drawer: Decoder) -> None:
    found = picture(drawer, quarters(), viewport=(40, 40), box=(0, 20, 20, 40))
    assert found.shape == (40, 40)
    assert (found == 120).all()


def test_a_region_may_be_flipped(drawer: Decoder) -> None:
    whole: dict[str, Any] = {"viewport": (80, 40), "box": (0, 0, None, None)}
    across = picture(drawer, quarters(), **whole, flips_horizontally=True)
    down = picture(drawer, quarters(), **whole, flips_vertically=True)
    assert corners(across) == [60, 10, 250, 120]
    assert corners(down) == [120, 250, 10, 60]


def test_what_lies_outside_of_the_image_is_black(drawer: Decoder) -> None:
    found = picture(drawer, quarters(), viewport=(160, 80), box=(-80, -40, 80, 40))
    assert found.shape == (80, 160)
    assert not found[:40].any()
    assert not found[:, :80].any()
    assert corners(found[40:, 80:]) == [10, 60, 120, 250]


def test_a_region_that_shows_nothing_is_refused(drawer: Decoder) -> None:
    with pytest.raises(BadObject, match="outside"):
        picture(drawer, quarters(), viewport=(10, 10), box=(80, 0, 90, 10))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [
        ({"PixelSpacing": [1.0, 0.5]}, (80, 80)),
        ({"PixelSpacing": [0.5, 1.0]}, (40, 160)),
        ({"PixelAspectRatio": [2, 1]}, (80, 80)),
        ({"PixelSpacing": [0.5, 0.5], "PixelAspectRatio": [2, 1]}, (40, 80)),
        ({"PixelSpacing": [1e-9, 1.0]}, (40, 80)),
        ({"PixelAspectRatio": [0, 1]}, (40, 80)),
        ({"ImagerPixelSpacing": [0.2, 0.1]}, (80, 80)),
    ],
)
def test_pixels_that_are_no_squares_are_as_high_and_wide_as_in_the_patient(
    drawer: Decoder, attributes: dict[str, Any], shape: tuple[int, int]
) -> None:
    assert picture(drawer, quarters(**attributes)).shape == shape


def test_a_viewport_corrects_the_proportions_too(drawer: Decoder) -> None:
    made = quarters(PixelSpacing=[1.0, 0.5])
    assert picture(drawer, made, viewport=(100, 300)).shape == (100, 100)


def test_the_proportions_are_those_of_a_circle_in_the_patient() -> None:
    made = Dataset()
    made.PixelSpacing = [0.9, 0.3]
    assert aspect_of(made) == pytest.approx(3)


SIDES = st.integers(1, 5000)
REGIONS = st.floats(-1e4, 1e4, allow_nan=False)


@settings(max_examples=200, deadline=None)
@given(
    columns=SIDES,
    rows=SIDES,
    aspect=st.floats(0.05, 20),
    sides=st.tuples(SIDES, SIDES),
    rotation=st.sampled_from([0, 90, 180, 270]),
    left=REGIONS,
    top=REGIONS,
    width=st.floats(0.01, 1e4),
    height=st.floats(0.01, 1e4),
)
def test_no_picture_is_larger_than_its_viewport_or_the_limit(
    columns: int,
    rows: int,
    aspect: float,
    sides: tuple[int, int],
    rotation: int,
    left: float,
    top: float,
    width: float,
    height: float,
) -> None:
    box = Box(left, top, left + width, top + height)
    try:
        where = placement(columns, rows, aspect, Viewport(sides, box), spatial=Spatial(rotation))
    except BadObject:
        return
    assert where.size[0] <= sides[0]
    assert where.size[1] <= sides[1]
    bare = placement(columns, rows, aspect)
    assert bare.width * bare.height <= PICTURE_PIXELS_MAX + bare.width + bare.height
