"""Geometry: a wrong voxel size or a flip must show, and a stack that does not fit says why."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataelem import RawDataElement

from inference.models.ct_lung_densitometry.build import vector_instance, vector_voxels
from inference.volume import (
    Geometry,
    Unfit,
    Volume,
    decode_here,
    grid_of,
    read_volume,
)
from tests.unit.inference.stacks import ct_stack

ANY = Geometry()
MARKER = (3, 1, 4)


def marked() -> NDArray[np.int16]:
    """Eight slices with one marked voxel, off the centre of every axis."""
    hu = np.full((8, 6, 7), -1000, np.int16)
    hu[MARKER] = 500
    return hu


def volume_of(data_sets: list[Dataset], geometry: Geometry = ANY) -> Volume:
    grid = grid_of(data_sets, geometry)
    return read_volume(grid, {str(d.SOPInstanceUID): d for d in data_sets}, decode_here)


def marker_mm(volume: Volume) -> NDArray[np.float64]:
    """Where the marked voxel lies in the patient."""
    index = np.argwhere(volume.voxels == 500)
    assert len(index) == 1
    place: NDArray[np.float64] = (volume.grid.affine @ [*index[0], 1])[:3]
    return place


def rotation(degrees: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Row and column directions of an oblique plane."""
    angle = math.radians(degrees)
    along = np.array([math.cos(angle), math.sin(angle), 0])
    down = np.array([-math.sin(angle) * math.cos(angle), math.cos(angle) ** 2, math.sin(angle)])
    return along, down


@pytest.mark.parametrize("degrees", [0, 12, -25])
@pytest.mark.parametrize("direction", [1, -1])
def test_a_marker_keeps_its_place_in_the_patient(degrees: float, direction: int) -> None:
    along, down = rotation(degrees)
    step = np.cross(along, down) * 2.5 * direction
    origin = np.array([-40.0, 17.0, 123.0])
    stack = ct_stack(
        marked(),
        step_mm=step,
        origin_mm=origin,
        orientation=(*along, *down),
        spacing_mm=(0.7, 1.3),
    )
    np.random.default_rng(1).shuffle(stack)

    volume = volume_of(stack)

    truth = origin + MARKER[0] * step + MARKER[1] * 0.7 * down + MARKER[2] * 1.3 * along
    assert marker_mm(volume) == pytest.approx(truth, abs=1e-4)
    assert volume.grid.spacing_mm == pytest.approx((2.5, 0.7, 1.3))
    assert volume.grid.voxel_volume_mm3 == pytest.approx(2.5 * 0.7 * 1.3)


def test_slices_are_ordered_by_position_whatever_their_number_says() -> None:
    stack = ct_stack(marked())
    for number, data_set in enumerate(reversed(stack)):
        data_set.InstanceNumber, data_set.SliceLocation = number, number
    grid = grid_of(stack, ANY)
    assert [frame.sop_instance_uid for frame in grid.frames] == [d.SOPInstanceUID for d in stack]
    assert grid.head_is_last


def test_slice_thickness_is_not_believed() -> None:
    stack = ct_stack(marked(), step_mm=(0, 0, 4))
    for data_set in stack:
        data_set.SliceThickness, data_set.SpacingBetweenSlices = 1, 1
    assert grid_of(stack, ANY).spacing_mm[0] == pytest.approx(4)


def test_each_slice_is_rescaled_by_its_own_slope() -> None:
    stack = ct_stack(marked())
    for data_set in stack[::2]:
        data_set.RescaleSlope, data_set.RescaleIntercept = 2, -2048
    voxels = volume_of(stack).voxels
    assert voxels.dtype == np.int16
    assert voxels[0, 0, 0] == 24 * 2 - 2048
    assert voxels[1, 0, 0] == -1000


def test_fractions_of_hounsfield_units_are_kept() -> None:
    stack = ct_stack(marked())
    stack[0].RescaleIntercept = -1024.5
    voxels = volume_of(stack).voxels
    assert voxels.dtype == np.float32
    assert voxels[0, 0, 0] == -1000.5


def test_an_enhanced_multi_frame_instance_is_a_volume() -> None:
    instance = vector_instance()
    groups = instance.PerFrameFunctionalGroupsSequence
    volume = volume_of([instance])
    assert np.array_equal(volume.voxels, vector_voxels())
    assert [frame.number for frame in volume.grid.frames] == list(range(1, len(groups) + 1))


def test_frames_of_an_enhanced_instance_are_ordered_by_position() -> None:
    instance = vector_instance()
    groups = instance.PerFrameFunctionalGroupsSequence
    instance.PerFrameFunctionalGroupsSequence = list(reversed(groups))
    volume = volume_of([instance])
    assert np.array_equal(volume.voxels, vector_voxels()[::-1])


def test_a_series_of_several_multi_frame_instances_is_refused() -> None:
    first, second = vector_instance(), vector_instance()
    second.SOPInstanceUID = "1.2.3"
    with pytest.raises(Unfit) as caught:
        grid_of([first, second], ANY)
    assert caught.value.code == "several_multi_frame"


Breakage = Callable[[list[Dataset]], object]


def set_on_third(keyword: str, value: object) -> Breakage:
    return lambda stack: setattr(stack[3], keyword, value)


def moved_mm(amount: float, axis: int = 2) -> Breakage:
    def move(stack: list[Dataset]) -> None:
        position = [float(x) for x in stack[3].ImagePositionPatient]
        position[axis] += amount
        stack[3].ImagePositionPatient = position

    return move


@pytest.mark.parametrize(
    ("breakage", "code", "words"),
    [
        (lambda s: s.pop(3), "missing_slices", "1 of 8 slices are missing, at 15.0 mm"),
        (lambda s: (s.pop(3), s.pop(3)), "missing_slices", "at 15.0, 20.0 mm"),
        (lambda s: s.append(s[3]), "duplicate_positions", "at 15.0 mm"),
        (moved_mm(1), "uneven_spacing", "1.00 mm"),
        (moved_mm(3, axis=0), "uneven_spacing", "off a straight line"),
        (set_on_third("ImageOrientationPatient", [0, 1, 0, 0, 0, 1]), "differing_orientation", "1"),
        (set_on_third("FrameOfReferenceUID", "1.2.3"), "differing_frame_of_reference", "1 of 8"),
        (set_on_third("Rows", 5), "differing_size", "Rows or Columns"),
        (set_on_third("PixelSpacing", [2, 2.1]), "differing_spacing", "Pixel Spacing"),
        (set_on_third("ImagePositionPatient", None), "no_geometry", "Image Position"),
        (set_on_third("RescaleSlope", None), "no_geometry", "Rescale Slope"),
        (set_on_third("RescaleType", "OD"), "not_hu", "Rescale Type"),
        (lambda s: [s.pop() for _ in range(7)], "too_few_slices", "1 slices"),
    ],
)
def test_a_stack_that_does_not_fit_says_why(breakage: Breakage, code: str, words: str) -> None:
    stack = ct_stack(marked())
    breakage(stack)
    with pytest.raises(Unfit) as caught:
        grid_of(stack, ANY)
    assert caught.value.code == code
    assert words in caught.value.message


def test_a_tilted_gantry_is_refused() -> None:
    lean = 5 * math.tan(math.radians(15))
    with pytest.raises(Unfit, match=r"15\.0 degrees") as caught:
        grid_of(ct_stack(marked(), step_mm=(0, lean, 5)), ANY)
    assert caught.value.code == "tilt"


def test_slices_too_far_apart_are_refused() -> None:
    with pytest.raises(Unfit, match=r"5\.00 mm apart"):
        grid_of(ct_stack(marked()), Geometry(max_thickness_mm=3))


def test_another_plane_than_the_models_is_refused() -> None:
    stack = ct_stack(marked(), step_mm=(0, 5, 0), orientation=(1, 0, 0, 0, 0, -1))
    assert grid_of(stack, Geometry(plane="coronal")).spacing_mm[0] == pytest.approx(5)
    with pytest.raises(Unfit, match="not axial"):
        grid_of(stack, Geometry(plane="axial"))


def test_a_series_of_absurd_size_is_refused_before_anything_is_decoded() -> None:
    stack = ct_stack(marked())
    for data_set in stack:
        data_set.Rows = data_set.Columns = 65535
    with pytest.raises(Unfit) as caught:
        grid_of(stack, ANY)
    assert caught.value.code == "limit"


@pytest.mark.parametrize("pixels", [b"", b"\0\0"])
def test_pixels_that_are_cut_short_are_refused(pixels: bytes) -> None:
    stack = ct_stack(marked())
    stack[2].PixelData = pixels
    with pytest.raises(Unfit) as caught:
        volume_of(stack)
    assert caught.value.code == "unreadable_pixels"


def test_pixels_of_another_shape_are_refused() -> None:
    stack = ct_stack(marked())
    grid = grid_of(stack, ANY)
    with pytest.raises(Unfit, match="shape"):
        read_volume(
            grid, {str(d.SOPInstanceUID): d for d in stack}, lambda _: np.zeros((2, 2), np.uint16)
        )


def test_a_header_that_cannot_be_read_is_refused() -> None:
    stack = ct_stack(marked())
    raw = RawDataElement(stack[2]["Rows"].tag, "US", 3, b"abc", 0, False, True)
    stack[2][raw.tag] = raw
    with pytest.raises(Unfit, match="Rows cannot be read") as caught:
        grid_of(stack, ANY)
    assert caught.value.code == "unreadable_header"
