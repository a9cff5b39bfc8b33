"""Each operation a manifest may name does what its docstring says, in millimetres."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from inference.transforms import (
    CheckCoverage,
    Close,
    FillHoles,
    Hu,
    Intersect,
    KeepComponents,
    Mask,
    MaskOperation,
    Open,
    RequireVolume,
    Scene,
    Subtract,
    TraceAirways,
)
from inference.volume import Geometry, Grid, Unfit, grid_of
from tests.unit.inference.stacks import ct_stack


def grid_for(
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float] = (1.0, 1.0),
    step_mm: tuple[float, float, float] = (0, 0, 5),
) -> Grid:
    zeros: NDArray[np.int16] = np.zeros(shape, np.int16)
    return grid_of(ct_stack(zeros, spacing_mm=spacing_mm, step_mm=step_mm), Geometry())


def done(operation: MaskOperation, mask: Mask, grid: Grid | None = None, **others: Mask) -> Mask:
    scene = Scene(grid or grid_for(mask.shape), {"m": mask, **others})
    return operation.apply(scene)["m"]


def empty(*shape: int) -> Mask:
    return np.zeros(shape, np.bool_)


def test_hu_clips() -> None:
    clipped = Hu(op="hu", clip=(-1024, 100)).apply(np.array([-3000, 0, 3000], np.int16))
    assert clipped.tolist() == [-1024, 0, 100]
    assert clipped.dtype == np.float32


def test_the_largest_parts_are_kept() -> None:
    mask = empty(2, 5, 12)
    mask[:, :, 0:3] = mask[:, :, 5:7] = True
    mask[0, 0, 11] = True
    kept = done(KeepComponents(op="keep_components", mask="m", largest=2), mask)
    assert kept.sum() == 30 + 20
    assert not kept[0, 0, 11]


def test_a_part_too_small_beside_the_largest_is_dropped() -> None:
    mask = empty(2, 5, 12)
    mask[:, :, 0:5] = mask[:, :, 6:7] = True
    operation = KeepComponents(op="keep_components", mask="m", largest=2, fraction_min=0.25)
    assert done(operation, mask).sum() == 50


def test_parts_that_touch_by_a_corner_are_two() -> None:
    mask = empty(2, 4, 4)
    mask[:, :2, :2] = mask[:, 2:, 2:] = True
    assert done(KeepComponents(op="keep_components", mask="m", largest=1), mask).sum() == 8


def test_an_empty_mask_stays_empty() -> None:
    mask = empty(2, 6, 6)
    for operation in (
        KeepComponents(op="keep_components", mask="m", largest=1),
        FillHoles(op="fill_holes", mask="m"),
        Open(op="open", mask="m", radius_mm=2),
        Close(op="close", mask="m", radius_mm=2),
    ):
        assert not done(operation, mask).any()


def test_holes_are_filled_slice_by_slice_and_up_to_an_area() -> None:
    mask = empty(2, 12, 12)
    mask[0] = True
    mask[0, 2:4, 2:4] = mask[0, 6:10, 6:10] = False  # 4 and 16 pixels
    mask[0, 0, 0] = False  # no hole: it reaches the border
    assert done(FillHoles(op="fill_holes", mask="m"), mask).sum() == 143
    small = FillHoles(op="fill_holes", mask="m", area_mm2_max=10)
    assert done(small, mask).sum() == 143 - 16
    wide = grid_for(mask.shape, spacing_mm=(2.0, 2.0))
    assert done(small, mask, wide).sum() == 143 - 20, "4 pixels of 4 mm² are more than 10 mm²"


def test_a_hole_beside_a_border_stays_a_hole() -> None:
    mask = np.ones((2, 5, 5), np.bool_)
    mask[:, 1, 1] = False
    assert done(FillHoles(op="fill_holes", mask="m"), mask).all()


def test_closing_is_in_millimetres() -> None:
    mask = empty(2, 20, 30)
    mask[:, 4:16, 4:12] = mask[:, 4:16, 15:24] = True  # a gap of three pixels
    assert done(Close(op="close", mask="m", radius_mm=2), mask)[0, 10, 13]
    fine = grid_for(mask.shape, spacing_mm=(0.2, 0.2))
    assert done(Close(op="close", mask="m", radius_mm=2), mask, fine)[0, 10, 13]
    coarse = grid_for(mask.shape, spacing_mm=(3.0, 3.0))
    assert not done(Close(op="close", mask="m", radius_mm=2), mask, coarse)[0, 10, 13]


def test_closing_at_the_border_of_the_image_takes_nothing_away() -> None:
    mask = empty(2, 10, 10)
    mask[:, :, :4] = True
    assert np.array_equal(done(Close(op="close", mask="m", radius_mm=3), mask), mask)


def test_opening_drops_what_is_thin() -> None:
    mask = empty(2, 30, 30)
    mask[:, 5:20, 5:20] = True
    mask[:, 24:26, :] = True  # a board of two pixels
    opened = done(Open(op="open", mask="m", radius_mm=2), mask)
    assert not opened[:, 22:].any()
    assert opened[:, 6:19, 6:19].all()


masks = arrays.arrays(np.bool_, (2, 9, 9))


@settings(max_examples=40, deadline=None)
@given(mask=masks, radius_mm=st.sampled_from([1.0, 1.5, 3.0]))
def test_opening_only_takes_and_closing_only_adds(mask: Mask, radius_mm: float) -> None:
    opened = done(Open(op="open", mask="m", radius_mm=radius_mm), mask)
    closed = done(Close(op="close", mask="m", radius_mm=radius_mm), mask)
    assert not (opened & ~mask).any()
    assert not (mask & ~closed).any()


@settings(max_examples=40, deadline=None)
@given(mask=masks, other=masks)
def test_intersect_and_subtract_share_the_mask_out(mask: Mask, other: Mask) -> None:
    within = done(Intersect(op="intersect", mask="m", other="o"), mask, o=other)
    without = done(Subtract(op="subtract", mask="m", other="o"), mask, o=other)
    assert np.array_equal(within | without, mask)
    assert not (within & without).any()


AIRWAYS = TraceAirways(
    op="trace_airways", mask="m", into="a", within="w", area_mm2=(40, 1000), length_mm_min=30
)


def windpipe() -> Mask:
    """A round tube, twelve slices of 5 mm from the head, that opens into a large cavity."""
    y, x = np.ogrid[-40:40, -60:60]
    mask = empty(20, 80, 120)
    mask[8:] = np.hypot(y, x) <= 8
    mask[:8] = np.hypot(y, x) <= 35
    return mask


def test_an_airway_is_traced_to_where_it_opens() -> None:
    mask = windpipe()
    within = np.ones_like(mask)
    scene = AIRWAYS.apply(Scene(grid_for(mask.shape), {"m": mask, "w": within}))
    assert np.array_equal(scene["a"][8:], mask[8:])
    assert not scene["a"][:8].any()
    assert not scene.remarks


def test_an_airway_is_traced_from_the_head_whichever_slice_comes_first() -> None:
    mask = windpipe()[::-1]
    grid = grid_for(mask.shape, step_mm=(0, 0, 5))
    flipped = Grid(grid.frames, grid.affine @ np.diag([-1, 1, 1, 1]))
    scene = AIRWAYS.apply(Scene(flipped, {"m": mask, "w": np.ones_like(mask)}))
    assert np.array_equal(scene["a"][:12], mask[:12])
    assert not scene["a"][12:].any()


@pytest.mark.parametrize("shift", [35, -35])
def test_a_tube_off_the_midline_is_no_trachea(shift: int) -> None:
    mask = np.roll(windpipe(), shift, axis=2)
    scene = AIRWAYS.apply(Scene(grid_for(mask.shape), {"m": mask, "w": np.ones_like(mask)}))
    assert not scene["a"].any()
    assert [remark.code for remark in scene.remarks] == ["no_airways"]


def test_a_volume_out_of_range_does_not_fit() -> None:
    operation = RequireVolume(
        op="require_volume", mask="m", ml=(1, 2), code="none", sentence="nothing here"
    )
    mask = empty(3, 20, 20)
    with pytest.raises(Unfit, match="nothing here \\(found 0 ml\\)") as caught:
        done(operation, mask)
    assert caught.value.code == "none"
    mask[1] = True  # 400 voxels of 5 mm³ are 2 ml
    assert done(operation, mask).any()


@pytest.mark.parametrize(("index", "remarks"), [(0, 1), (1, 0), (2, 1)])
def test_a_mask_that_reaches_the_last_slice_is_remarked(index: int, remarks: int) -> None:
    mask = empty(3, 4, 4)
    mask[index, 2, 2] = True
    operation = CheckCoverage(op="check_coverage", mask="m", code="cut", sentence="cut off")
    assert len(operation.apply(Scene(grid_for(mask.shape), {"m": mask})).remarks) == remarks
