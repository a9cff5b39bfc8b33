"""Instances to one ordered, spaced, checked volume.

Where a slice lies is read from Image Position and Image Orientation (Patient) alone: never from
Instance Number, a file name, Slice Location or Slice Thickness (PS3.3 C.7.6.2.1.1). A series with
a gap, a doubled slice, a tilt or an uneven step is refused with the reason, since a voxel of the
wrong size gives a wrong number that looks right. `grid_of` needs headers only, so that a series
can be judged before anything is decoded; `read_volume` then fetches the voxels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, PositiveFloat
from pydicom import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue

from pacs.errors import Fact, Refused

Axis = tuple[float, float, float]
Pixels = NDArray[np.number]
Decode = Callable[[Dataset], Pixels]

# Beyond this a series is refused as `limit`: 2^30 voxels are 2 GiB as 16-bit integers.
VOXELS_MAX: Final = 1024 * 1024 * 1024
# Direction cosines that differ by more are two orientations.
COSINE_TOLERANCE: Final = 1e-3
# Slices nearer than this along the normal share one position.
SAME_POSITION_MM: Final = 0.01
# A gap of at least this many usual steps is a missing slice, less is an uneven step.
MISSING_STEPS: Final = 1.5
# The step may lean this far from the normal before the stack counts as tilted (sheared).
TILT_MAX_DEGREES: Final = 0.1
# A normal this near to a patient axis still belongs to that axis' plane.
PLANE_MAX_DEGREES: Final = 30.0
# Sentences name this many positions at most.
POSITIONS_NAMED_MAX: Final = 8
# Pixel spacings that differ by more, in mm, are two spacings: headers round to few digits.
SPACING_TOLERANCE_MM: Final = 1e-4

# What pydicom raises for values and pixels that are absent, cut short or in a form it cannot read.
UNREADABLE: Final = (
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

NORMAL_OF_PLANE: Final[Mapping[str, Axis]] = {
    "axial": (0, 0, 1),
    "coronal": (0, 1, 0),
    "sagittal": (1, 0, 0),
}


class Unfit(Refused):
    """The study does not fit the model."""

    def __init__(self, code: str, sentence: str, **facts: Fact) -> None:
        super().__init__(sentence, **facts)
        self.code = code


class Geometry(BaseModel, frozen=True, extra="forbid"):
    """What a model demands of the stack it reads, as its manifest writes it.

    `max_thickness_mm` bounds the step between slices, since Slice Thickness says nothing of gaps.
    """

    kind: Literal["volume"] = "volume"
    plane: Literal["axial", "coronal", "sagittal", "any"] = "any"
    uniform_mm: PositiveFloat = 0.1
    max_thickness_mm: PositiveFloat = math.inf
    min_slices: Annotated[int, Field(ge=2)] = 2
    max_gap: Literal[0] = 0
    tilt: Literal["reject"] = "reject"


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice as its header describes it. `number` counts frames from 1 (PS3.3 C.7.6.6)."""

    sop_instance_uid: str
    number: int
    position_mm: Axis
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, float]  # between rows, between columns
    rows: int
    columns: int
    frame_of_reference_uid: str
    slope: float
    intercept: float


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Where the voxels of a stack lie, slice by slice along the normal.

    `affine` (4 × 4) takes (slice, row, column, 1) to millimetres in the patient's LPS space.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.frames), self.frames[0].rows, self.frames[0].columns

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """The length of one step along slices, rows and columns."""
        across, down, along = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(across), float(down), float(along)

    @property
    def voxel_volume_mm3(self) -> float:
        """The determinant, which stays right where the step is not parallel to the normal."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def head_is_last(self) -> bool:
        """Whether slices run from the feet to the head (+z in LPS)."""
        return bool(self.affine[2, 0] > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Voxels in Hounsfield units, shaped (slice, row, column), and where they lie.

    int16 where every rescaled value is a whole number that fits, else float32.
    """

    grid: Grid
    voxels: NDArray[np.int16] | NDArray[np.float32]


def grid_of(headers: Iterable[Dataset], geometry: Geometry) -> Grid:
    """The checked grid of one series from headers without pixels. Raises Unfit with the reason."""
    frames = [frame for header in headers for frame in frames_of(header)]
    _refuse_extent(frames, geometry)
    _refuse_several_multi_frames(frames)
    _refuse_differences(frames)
    normal = _normal(frames[0])
    ordered = sorted(frames, key=lambda frame: float(normal @ frame.position_mm))
    along_mm = np.array([float(normal @ frame.position_mm) for frame in ordered])
    step_mm = _step(along_mm, geometry.uniform_mm)
    if step_mm > geometry.max_thickness_mm:
        raise Unfit(
            "thickness",
            f"the slices lie {step_mm:.2f} mm apart and this model takes at most "
            f"{geometry.max_thickness_mm:g} mm",
        )
    _refuse_plane(normal, geometry.plane)
    return Grid(tuple(ordered), _affine(ordered, normal, geometry.uniform_mm))


def read_volume(grid: Grid, data_sets: Mapping[str, Dataset], decode: Decode) -> Volume:
    """The voxels of grid in Hounsfield units, each frame by its own rescale (PS3.3 C.11.1).

    data_sets holds the grid's instances by SOP Instance UID. Raises Unfit where pixels cannot be
    read or have another shape than their header says.
    """
    whole = all(_fits_int16(frame, data_sets[frame.sop_instance_uid]) for frame in grid.frames)
    voxels = np.empty(grid.shape, np.int16 if whole else np.float32)
    decoded: tuple[str, Pixels] | None = None
    for index, frame in enumerate(grid.frames):
        if decoded is None or decoded[0] != frame.sop_instance_uid:
            decoded = frame.sop_instance_uid, _decoded(data_sets[frame.sop_instance_uid], decode)
        stored = _frame_pixels(decoded[1], frame)
        voxels[index] = stored.astype(np.float32) * frame.slope + frame.intercept
    return Volume(grid, voxels)


def decode_here(data_set: Dataset) -> Pixels:
    """Decode in this process: (row, column) or (frame, row, column), stored values.

    Codecs read hostile bytes in native code; a caller that has a sandboxed decoder passes that.
    """
    array: Pixels = data_set.pixel_array
    return array


def value_of(header: Dataset, keyword: str) -> object:
    """A header's value, or None; Unfit where its bytes cannot be read as what they should be."""
    try:
        return header.get(keyword)
    except UNREADABLE as error:
        raise Unfit("unreadable_header", f"{keyword} cannot be read") from error


def frames_of(header: Dataset) -> list[Frame]:
    """The frames one instance describes: one, or those of an enhanced multi-frame object."""
    groups = header.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        return [_frame(header, 1, lambda _, keyword: value_of(header, keyword))]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return [
        _frame(header, number, _in_groups(own, shared))
        for number, own in enumerate(groups, start=1)
    ]


Lookup = Callable[[str, str], object]


def _in_groups(own: Dataset, shared: Dataset) -> Lookup:
    """Look an attribute up in its functional group: the frame's own first, then the shared one."""

    def lookup(group: str, keyword: str) -> object:
        items = own.get(group) or shared.get(group) or [Dataset()]
        return value_of(items[0], keyword)

    return lookup


def _frame(header: Dataset, number: int, lookup: Lookup) -> Frame:
    rescale = "PixelValueTransformationSequence"
    if lookup(rescale, "RescaleType") not in (None, "", "HU", "US"):
        raise Unfit("not_hu", "the rescaled values are not Hounsfield units (Rescale Type)")
    row_mm, column_mm = _numbers(
        lookup("PixelMeasuresSequence", "PixelSpacing"), 2, "Pixel Spacing"
    )
    x_mm, y_mm, z_mm = _numbers(
        lookup("PlanePositionSequence", "ImagePositionPatient"), 3, "Image Position (Patient)"
    )
    return Frame(
        sop_instance_uid=str(header.get("SOPInstanceUID", "")),
        number=number,
        position_mm=(x_mm, y_mm, z_mm),
        orientation=_numbers(
            lookup("PlaneOrientationSequence", "ImageOrientationPatient"),
            6,
            "Image Orientation (Patient)",
        ),
        spacing_mm=(row_mm, column_mm),
        rows=int(_numbers(value_of(header, "Rows"), 1, "Rows")[0]),
        columns=int(_numbers(value_of(header, "Columns"), 1, "Columns")[0]),
        frame_of_reference_uid=str(header.get("FrameOfReferenceUID", "")),
        slope=_numbers(lookup(rescale, "RescaleSlope"), 1, "Rescale Slope")[0],
        intercept=_numbers(lookup(rescale, "RescaleIntercept"), 1, "Rescale Intercept")[0],
    )


def _numbers(value: object, count: int, name: str) -> tuple[float, ...]:
    """Count finite numbers, or Unfit: a header may lack them, or hold text where they belong."""
    items = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    try:
        numbers = tuple(float(item) for item in items)  # type: ignore[arg-type]  # refused below
    except (TypeError, ValueError) as error:
        raise Unfit("no_geometry", f"{name} is missing or holds no number") from error
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise Unfit("no_geometry", f"{name} does not hold {count} finite numbers")
    return numbers


def _refuse_extent(frames: Sequence[Frame], geometry: Geometry) -> None:
    if len(frames) < geometry.min_slices:
        raise Unfit(
            "too_few_slices",
            f"there are {len(frames)} slices and this model needs {geometry.min_slices}",
        )
    voxels = len(frames) * frames[0].rows * frames[0].columns
    if not 0 < voxels <= VOXELS_MAX:
        raise Unfit("limit", f"the series has {voxels} voxels and at most {VOXELS_MAX} are read")


def _refuse_several_multi_frames(frames: Sequence[Frame]) -> None:
    """A stack is one multi-frame instance or many single frames, so that a SEG can refer to it."""
    instances = len({frame.sop_instance_uid for frame in frames})
    if instances > 1 and any(frame.number > 1 for frame in frames):
        raise Unfit(
            "several_multi_frame", f"the series is spread over {instances} multi-frame instances"
        )


def _refuse_differences(frames: Sequence[Frame]) -> None:
    """One stack has one size, spacing, orientation and frame of reference."""
    first = frames[0]
    same: tuple[tuple[str, str, Callable[[Frame], bool]], ...] = (
        ("size", "Rows or Columns", lambda f: (f.rows, f.columns) == (first.rows, first.columns)),
        (
            "frame_of_reference",
            "Frame of Reference UID",
            lambda f: f.frame_of_reference_uid == first.frame_of_reference_uid,
        ),
        (
            "spacing",
            "Pixel Spacing",
            lambda f: _near(f.spacing_mm, first.spacing_mm, SPACING_TOLERANCE_MM),
        ),
        (
            "orientation",
            "Image Orientation (Patient)",
            lambda f: _near(f.orientation, first.orientation, COSINE_TOLERANCE),
        ),
    )
    for code, name, holds in same:
        others = sum(not holds(frame) for frame in frames)
        if others:
            raise Unfit(f"differing_{code}", f"{others} of {len(frames)} slices differ in {name}")
    if not first.frame_of_reference_uid or min(first.spacing_mm) <= 0:
        raise Unfit("no_geometry", "Frame of Reference UID or a positive Pixel Spacing is missing")


def _near(these: Sequence[float], those: Sequence[float], tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(these, those, strict=True))


def _normal(frame: Frame) -> NDArray[np.float64]:
    """X × Y, where X runs along the columns' axis and Y along the rows' (PS3.3 C.7.6.2.1.1)."""
    along, down = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.array([np.linalg.norm(along), np.linalg.norm(down)])
    if np.abs(lengths - 1).max() > COSINE_TOLERANCE or abs(along @ down) > COSINE_TOLERANCE:
        raise Unfit(
            "no_geometry", "Image Orientation (Patient) is not two perpendicular directions"
        )
    normal: NDArray[np.float64] = np.cross(along / lengths[0], down / lengths[1])
    return normal


def _step(along_mm: NDArray[np.float64], uniform_mm: float) -> float:
    """The usual step between slices; Unfit where a step is nothing, double or uneven."""
    steps_mm = np.diff(along_mm)
    doubled = along_mm[1:][steps_mm < SAME_POSITION_MM]
    if doubled.size:
        raise Unfit("duplicate_positions", f"more than one slice lies at {_positions(doubled)}")
    usual_mm = float(np.median(steps_mm))
    gaps = np.flatnonzero(steps_mm >= MISSING_STEPS * usual_mm)
    if gaps.size:
        missing = np.concatenate(
            [_between(along_mm[gap], along_mm[gap + 1], usual_mm) for gap in gaps]
        )
        raise Unfit(
            "missing_slices",
            f"{missing.size} of {along_mm.size + missing.size} slices are missing, "
            f"at {_positions(missing)}",
            missing=int(missing.size),
        )
    worst_mm = float(np.abs(steps_mm - usual_mm).max())
    if worst_mm > uniform_mm:
        raise Unfit(
            "uneven_spacing",
            f"steps between slices differ by {worst_mm:.2f} mm from the usual {usual_mm:.2f} mm",
        )
    return usual_mm


def _between(low_mm: float, high_mm: float, usual_mm: float) -> NDArray[np.float64]:
    """Where the slices between two neighbours should have been."""
    count = max(round((high_mm - low_mm) / usual_mm), 2)
    return np.linspace(low_mm, high_mm, count + 1)[1:-1]


def _positions(along_mm: NDArray[np.float64]) -> str:
    named = ", ".join(f"{position:.1f}" for position in along_mm[:POSITIONS_NAMED_MAX])
    more = along_mm.size - POSITIONS_NAMED_MAX
    return f"{named} mm along the normal" + (f" and {more} more" if more > 0 else "")


def _refuse_plane(normal: NDArray[np.float64], plane: str) -> None:
    if plane == "any":
        return
    lean = _degrees(abs(float(normal @ NORMAL_OF_PLANE[plane])))
    if lean > PLANE_MAX_DEGREES:
        raise Unfit("plane", f"the slices are not {plane}: they lean by {lean:.0f} degrees")


def _affine(
    ordered: Sequence[Frame], normal: NDArray[np.float64], uniform_mm: float
) -> NDArray[np.float64]:
    """The grid's affine from the first and the last position; Unfit where the stack is sheared."""
    positions = np.array([frame.position_mm for frame in ordered])
    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    tilt = _degrees(float(step @ normal) / float(np.linalg.norm(step)))
    if tilt > TILT_MAX_DEGREES:
        raise Unfit("tilt", f"the gantry was tilted: slices are shifted by {tilt:.1f} degrees")
    expected = positions[0] + np.arange(len(ordered))[:, None] * step
    astray_mm = float(np.linalg.norm(positions - expected, axis=1).max())
    if astray_mm > max(uniform_mm, SAME_POSITION_MM):
        raise Unfit("uneven_spacing", f"slices lie up to {astray_mm:.2f} mm off a straight line")
    first = ordered[0]
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing_mm[0]
    affine[:3, 2] = np.array(first.orientation[:3]) * first.spacing_mm[1]
    affine[:3, 3] = positions[0]
    return affine


def _degrees(cosine: float) -> float:
    return math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _decoded(data_set: Dataset, decode: Decode) -> Pixels:
    try:
        return decode(data_set)
    except UNREADABLE as error:
        raise Unfit(
            "unreadable_pixels",
            "the pixels of an instance cannot be decoded",
            sop_instance_uid=str(data_set.get("SOPInstanceUID", "")),
        ) from error


def _frame_pixels(stored: Pixels, frame: Frame) -> Pixels:
    if stored.ndim == 3 and frame.number > len(stored):
        raise Unfit("unreadable_pixels", f"there are pixels for {len(stored)} frames only")
    pixels = stored[frame.number - 1] if stored.ndim == 3 else stored
    if pixels.shape != (frame.rows, frame.columns):
        raise Unfit("unreadable_pixels", f"the pixels of a slice have the shape {pixels.shape}")
    return pixels


def _fits_int16(frame: Frame, header: Dataset) -> bool:
    """Whether every value this frame can hold is a whole number of Hounsfield units in int16."""
    if not (frame.slope.is_integer() and frame.intercept.is_integer()):
        return False
    bits = int(header.get("BitsStored") or 16)
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1)
        if header.get("PixelRepresentation")
        else (
            0,
            (1 << bits) - 1,
        )
    )
    ends = (low * frame.slope + frame.intercept, high * frame.slope + frame.intercept)
    return min(ends) >= -(1 << 15) and max(ends) < 1 << 15
