"""Shapes with a volume in closed form, and noise that is the same everywhere.

All coordinates are the patient's (PS3.3 C.7.6.2.1.1): millimetres, x to the left, y to the back,
z to the head. A voxel belongs to a shape if its centre does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """An ellipsoid along the patient's axes; a cylinder where a semi-axis is infinite."""

    centre_mm: Point
    semi_axes_mm: Point

    @property
    def volume_ml(self) -> float:
        return 4 / 3 * math.pi * math.prod(self.semi_axes_mm) / 1000

    def level(self, x: Floats, y: Floats, z: Floats) -> Floats:
        """How far out a point lies: 0 at the centre, below 1 inside, 1 on the surface; squared."""
        (cx, cy, cz), (a, b, c) = self.centre_mm, self.semi_axes_mm
        level: Floats = ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + ((z - cz) / c) ** 2
        return level

    def contains(self, x: Floats, y: Floats, z: Floats) -> Mask:
        inside: Mask = self.level(x, y, z) < 1
        return inside

    def fraction_in_front_of(self, y_mm: float) -> float:
        """The share of the volume whose y is below y_mm, 0 to 1: a cap of a ball, stretched."""
        t = max(-1.0, min(1.0, (y_mm - self.centre_mm[1]) / self.semi_axes_mm[1]))
        return (2 + 3 * t - t**3) / 4


def paint(
    tissues: Iterable[tuple[Ellipsoid, float]],
    x: Floats,
    y: Floats,
    z: Floats,
    *,
    background: float,
) -> Floats:
    """Values at points in mm (any shapes that broadcast); each shape covers those before it."""
    values = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), background)
    for shape, value in tissues:
        values[shape.contains(x, y, z)] = value
    return values


def axis_mm(count: int, spacing_mm: float) -> Floats:
    """The centres of count voxels, symmetric about 0."""
    centres: Floats = (np.arange(count, dtype=np.float64) - (count - 1) / 2) * spacing_mm
    return centres


def noise(shape: tuple[int, ...], sigma: float, seed: int) -> Floats:
    """Bell-shaped noise of mean 0, the same in every version of numpy.

    The raw stream of PCG64 is fixed for ever while the samplers built upon it may change. So each
    sample is the sum of the eight bytes of one raw word: mean 1020, standard deviation 209.
    """
    words = np.random.PCG64(seed).random_raw(math.prod(shape))
    sums = words.view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.float64)
    scaled: Floats = (sums - 1020) * (sigma / 209)
    return scaled.reshape(shape)
