"""The closed set of operations a manifest may name, each with its reference implementation.

One class is one operation: its fields are the keys a manifest may write, with units in their
names, and its method does the work. There is no other operation and no way to add one from a
model folder; a manifest that names an unknown one is refused. Graphs do what can be said with
tensors; what stands here needs connected parts, which ONNX cannot express well.

Masks are boolean, shaped (slice, row, column). In-plane operations treat every slice alone, since
slices may lie several millimetres apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from scipy import ndimage

from inference.findings import Reason
from inference.volume import Grid, Unfit

Mask = NDArray[np.bool_]
Labels = NDArray[np.int32]
Box = tuple[slice, slice, slice]
Fraction = Annotated[float, Field(ge=0, le=1)]

BY_FACES: Final = ndimage.generate_binary_structure(3, 1)
# Neighbours by edges within a slice, none across slices.
IN_PLANE: Final = BY_FACES & np.array([[[False]], [[True]], [[False]]])

ML_PER_MM3: Final = 1e-3
# Slices whose parts are counted at once; it moves memory only, no result.
COUNTED_SLICES: Final = 16
# A trachea cut across: its bounding box is no more than so much longer than wide, and well filled.
ELONGATION_MAX: Final = 2.2
FILLED_MIN: Final = 0.5

NO_AIRWAYS: Final = Reason("no_airways", "no trachea was found; the lungs may include airways")


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """The masks found so far on one grid, and what a reader of the result should know of them."""

    grid: Grid
    masks: Mapping[str, Mask]
    remarks: tuple[Reason, ...] = ()

    def __getitem__(self, name: str) -> Mask:
        return self.masks[name]

    def having(self, name: str, mask: Mask) -> Scene:
        """This scene with one mask added or replaced."""
        return replace(self, masks={**self.masks, name: mask})

    def remarking(self, remark: Reason) -> Scene:
        """This scene with one remark more."""
        return replace(self, remarks=(*self.remarks, remark))


class Operation(BaseModel, frozen=True, extra="forbid"):
    """One step as a manifest writes it. Unknown keys are refused."""


class Hu(Operation):
    """Rescaled values in Hounsfield units, clipped to a range (`from`, `to`)."""

    op: Literal["hu"]
    clip: tuple[float, float] = (-1024, 3071)

    def apply(self, voxels: NDArray[np.generic]) -> NDArray[np.float32]:
        clipped: NDArray[np.float32] = np.clip(voxels, *self.clip, dtype=np.float32)
        return clipped


class MaskOperation(Operation, ABC):
    """A step that reads and replaces the mask called `mask`."""

    mask: str

    @abstractmethod
    def apply(self, scene: Scene) -> Scene:
        """The scene after this step. Raises Unfit where the study turns out not to fit."""

    def reads(self) -> set[str]:
        """The masks that must be there before this step."""
        return {self.mask}

    def makes(self) -> set[str]:
        """The masks that are there after this step."""
        return {self.mask}


class PairOperation(MaskOperation):
    """A step that combines `mask` with an `other` one."""

    other: str

    def reads(self) -> set[str]:
        return {self.mask, self.other}


class KeepComponents(MaskOperation):
    """Keep the largest parts, connected by faces, that reach a fraction of the very largest."""

    op: Literal["keep_components"]
    largest: PositiveInt
    fraction_min: Fraction = 0

    def apply(self, scene: Scene) -> Scene:
        labels, count = labelled(scene[self.mask], BY_FACES)
        voxels = sizes_of(labels, count)
        voxels[0] = 0  # the background is no part
        order = np.argsort(voxels)[::-1][: self.largest]
        keep = np.zeros(voxels.size, np.bool_)
        keep[order] = voxels[order] >= max(self.fraction_min * voxels.max(), 1)
        return scene.having(self.mask, keep[labels])


class FillHoles(MaskOperation):
    """Fill, slice by slice, what the mask encloses: every hole, or those up to an area."""

    op: Literal["fill_holes"]
    area_mm2_max: PositiveFloat | None = None

    def apply(self, scene: Scene) -> Scene:
        mask = scene[self.mask]
        labels, count = labelled(~mask, IN_PLANE)
        hole = np.ones(count + 1, np.bool_)
        for side in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
            hole[side] = False  # what reaches the border of the image is outside, no hole
        if self.area_mm2_max is not None:
            hole &= sizes_of(labels, count) * pixel_area_mm2(scene.grid) <= self.area_mm2_max
        hole[0] = True  # label 0 is the mask itself
        return scene.having(self.mask, hole[labels])


class Intersect(PairOperation):
    """Keep what lies within another mask too."""

    op: Literal["intersect"]

    def apply(self, scene: Scene) -> Scene:
        return scene.having(self.mask, scene[self.mask] & scene[self.other])


class Subtract(PairOperation):
    """Take another mask away."""

    op: Literal["subtract"]

    def apply(self, scene: Scene) -> Scene:
        return scene.having(self.mask, scene[self.mask] & ~scene[self.other])


class DiskOperation(MaskOperation):
    """A step that moves a disk over every slice; its radius is in millimetres on any pixel."""

    radius_mm: PositiveFloat

    def disk(self, grid: Grid) -> Mask:
        """The disk, shaped (1, rows, columns), on pixels that need not be square."""
        row_mm, column_mm = grid.spacing_mm[1:]
        rows, columns = int(self.radius_mm / row_mm), int(self.radius_mm / column_mm)
        y, x = np.ogrid[-rows : rows + 1, -columns : columns + 1]
        disk: Mask = (np.hypot(y * row_mm, x * column_mm) <= self.radius_mm)[None]
        return disk


class Open(DiskOperation):
    """Drop what is thinner than twice a radius, slice by slice."""

    op: Literal["open"]

    def apply(self, scene: Scene) -> Scene:
        opened = ndimage.binary_opening(scene[self.mask], self.disk(scene.grid))
        return scene.having(self.mask, opened)


class Close(DiskOperation):
    """Close gaps narrower than twice a radius, slice by slice."""

    op: Literal["close"]

    def apply(self, scene: Scene) -> Scene:
        mask, disk = scene[self.mask], self.disk(scene.grid)
        boxes = ndimage.find_objects(mask.view(np.uint8))
        if not boxes:
            return scene
        margin = [(size // 2, size // 2) for size in disk.shape]  # room to grow at the border
        inner = tuple(slice(low, -low or None) for low, _ in margin)
        grown = ndimage.binary_closing(np.pad(mask[boxes[0]], margin), disk)
        closed = mask.copy()
        closed[boxes[0]] = grown[inner]
        return scene.having(self.mask, closed)


class TraceAirways(MaskOperation):
    """Find trachea and main bronchi within an air mask and put them `into` another mask.

    Slice by slice from the head: a round part of fitting area near the midline of `within` starts
    a trace; the trace goes on to parts of the next slice that it overlaps, for as long as they
    stay small, and so ends where a bronchus opens into the lung. The longest trace that reaches a
    minimal length is the airway; without one the mask is empty.
    """

    op: Literal["trace_airways"]
    into: str
    within: str
    area_mm2: tuple[NonNegativeFloat, PositiveFloat]
    length_mm_min: PositiveFloat
    midline_fraction: Fraction = 0.15
    overlap_min: Fraction = 0.25

    def reads(self) -> set[str]:
        return {self.mask, self.within}

    def makes(self) -> set[str]:
        return {self.into}

    def apply(self, scene: Scene) -> Scene:
        labels, count = labelled(scene[self.mask], IN_PLANE)
        boxes: list[Box] = ndimage.find_objects(labels)
        voxels = sizes_of(labels, count)
        small = voxels * pixel_area_mm2(scene.grid) <= self.area_mm2[1]
        trace = longest_trace(
            self._seeds(boxes, voxels, scene[self.within], scene.grid),
            followers(labels, voxels, small, self.overlap_min, scene.grid.head_is_last),
        )
        chosen = np.zeros(count + 1, np.bool_)
        slices = {boxes[part - 1][0].start for part in trace}
        if len(slices) * scene.grid.spacing_mm[0] >= self.length_mm_min:
            chosen[list(trace)] = True
        airways = chosen[labels]
        if not chosen.any():
            scene = scene.remarking(NO_AIRWAYS)
        return scene.having(self.into, airways)

    def _seeds(
        self, boxes: Sequence[Box], voxels: NDArray[np.int64], within: Mask, grid: Grid
    ) -> list[int]:
        """The parts that may be a trachea by area, shape and place, from the head down."""
        lateral = 1 + int(np.argmax(np.abs(grid.affine[0, 1:3])))  # the axis of left and right
        midlines = _midlines(within, lateral)
        low, high = (area / pixel_area_mm2(grid) for area in self.area_mm2)
        seeds = []
        for part, box in enumerate(boxes, start=1):
            centre, width = midlines[box[0].start]
            middle = (box[lateral].start + box[lateral].stop) / 2
            central = abs(middle - centre) <= self.midline_fraction * width
            if central and low <= voxels[part] <= high and _is_round(box, int(voxels[part]), grid):
                seeds.append(part)
        return seeds[::-1] if grid.head_is_last else seeds


class RequireVolume(MaskOperation):
    """Go on only if the mask has a volume within a range; else the study does not fit."""

    op: Literal["require_volume"]
    ml: tuple[NonNegativeFloat, PositiveFloat]
    code: str
    sentence: str

    def apply(self, scene: Scene) -> Scene:
        found_ml = int(scene[self.mask].sum()) * scene.grid.voxel_volume_mm3 * ML_PER_MM3
        if not self.ml[0] <= found_ml <= self.ml[1]:
            raise Unfit(self.code, f"{self.sentence} (found {found_ml:.0f} ml)")
        return scene


class CheckCoverage(MaskOperation):
    """Remark where the mask reaches the first or last slice: some of it was not imaged."""

    op: Literal["check_coverage"]
    code: str
    sentence: str

    def apply(self, scene: Scene) -> Scene:
        mask = scene[self.mask]
        cut = mask[0].any() or mask[-1].any()
        return scene.remarking(Reason(self.code, self.sentence)) if cut else scene


PreOperation = Hu
PostOperation = Annotated[
    KeepComponents
    | FillHoles
    | Intersect
    | Subtract
    | Open
    | Close
    | TraceAirways
    | RequireVolume
    | CheckCoverage,
    Field(discriminator="op"),
]


def labelled(mask: Mask, structure: Mask) -> tuple[Labels, int]:
    """Number the connected parts of a mask from 1; 0 is the background."""
    labels = np.empty(mask.shape, np.int32)
    count: int = ndimage.label(mask, structure=structure, output=labels)
    return labels, count


def sizes_of(labels: Labels, count: int) -> NDArray[np.int64]:
    """How many voxels each part has, the background first.

    Some slices at a time: bincount works on a copy of twice the size of the labels.
    """
    sizes = np.zeros(count + 1, np.int64)
    for start in range(0, len(labels), COUNTED_SLICES):
        sizes += np.bincount(labels[start : start + COUNTED_SLICES].ravel(), minlength=count + 1)
    return sizes


def pixel_area_mm2(grid: Grid) -> float:
    return grid.spacing_mm[1] * grid.spacing_mm[2]


def followers(
    labels: Labels,
    voxels: NDArray[np.int64],
    small: Mask,
    overlap_min: float,
    head_is_last: bool,
) -> Mapping[int, list[int]]:
    """For each part the small parts of the next slice, towards the feet, that it overlaps."""
    downward = labels[::-1] if head_is_last else labels
    above, below = downward[:-1], downward[1:]
    touching = (above > 0) & (below > 0) & small[below] & small[above]
    pairs, shared = np.unique(
        np.stack([above[touching], below[touching]]), axis=1, return_counts=True
    )
    found: dict[int, list[int]] = {}
    for upper, lower, overlap in zip(*pairs.tolist(), shared.tolist(), strict=True):
        if overlap >= overlap_min * voxels[lower]:
            found.setdefault(upper, []).append(lower)
    return found


def longest_trace(seeds: Iterable[int], following: Mapping[int, list[int]]) -> set[int]:
    """The parts of the trace with most generations, each seed followed as far as it goes."""
    longest: set[int] = set()
    most, seen = 0, set[int]()
    for seed in seeds:
        if seed in seen:
            continue  # it lies on a trace that began nearer the head
        trace, generation, generations = {seed}, {seed}, 0
        while generation:
            generations += 1
            generation = {lower for upper in generation for lower in following.get(upper, ())}
            trace |= generation
        seen |= trace
        if generations > most:
            longest, most = trace, generations
    return longest


def _midlines(within: Mask, lateral: int) -> list[tuple[float, float]]:
    """Per slice the middle and the width of a mask along the lateral axis, in pixels."""
    profiles: NDArray[np.bool_] = np.any(within, axis=3 - lateral, keepdims=False)
    midlines = []
    for profile in profiles:
        filled = np.flatnonzero(profile)
        low, high = (filled[0], filled[-1] + 1) if filled.size else (0, 0)
        midlines.append(((low + high) / 2, float(high - low)))
    return midlines


def _is_round(box: Box, voxels: int, grid: Grid) -> bool:
    rows, columns = (box[axis].stop - box[axis].start for axis in (1, 2))
    sides_mm = (rows * grid.spacing_mm[1], columns * grid.spacing_mm[2])
    filled: bool = voxels >= FILLED_MIN * rows * columns
    return filled and max(sides_mm) <= ELONGATION_MAX * min(sides_mm)
