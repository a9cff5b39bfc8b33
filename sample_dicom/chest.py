"""The chest phantom: lungs of known volume with a known share of emphysema.

Two ellipsoids are the lungs. Their parenchyma grows denser towards the back, linearly, as in
somebody lying supine. Spherical bullae, wholly inside and apart from each other, are as light as
emphysema. All else (fat, ribs, heart, spine, trachea, table) is painted before the lungs and can
therefore not change the truth, which `truth` computes from the same shapes.
"""

from __future__ import annotations

import math
import random

import numpy as np

from sample_dicom.shapes import Ellipsoid, Floats, Mask, Point, axis_mm, noise, paint

SLICES, ROWS, COLUMNS = 64, 192, 192
SLICE_SPACING_MM, PIXEL_SPACING_MM = 5.0, 1.875

AIR_HU, TABLE_HU, RIB_HU, BULLA_HU = -1000.0, 120.0, 450.0, -980.0
PARENCHYMA_HU, GRADIENT_HU_PER_MM = -860.0, 0.5
NOISE_HU = 5.0

RIGHT_LUNG = Ellipsoid((-78, -6, 0), (56, 78, 118))
LEFT_LUNG = Ellipsoid((77, -6, 2), (50, 76, 112))
LUNGS = (RIGHT_LUNG, LEFT_LUNG)

BODY = Ellipsoid((0, -4, 0), (170, 116, math.inf))
RIB_CAGE = (0.87**2, 0.92**2)  # the inner and outer level of BODY between which ribs lie

TISSUES: tuple[tuple[Ellipsoid, float], ...] = (
    (BODY, -90),  # subcutaneous fat
    (Ellipsoid((0, -4, 0), (161, 108, math.inf)), 40),  # muscle and all that has no name here
    (Ellipsoid((-70, 0, -150), (85, 85, 60)), 60),  # liver
    (Ellipsoid((20, -28, -35), (48, 42, 58)), 45),  # heart
    (Ellipsoid((14, 46, 0), (12, 12, math.inf)), 42),  # descending aorta
    (Ellipsoid((0, 68, 0), (20, 17, math.inf)), 700),  # vertebrae
    (Ellipsoid((0, 88, 0), (6, 12, math.inf)), 700),  # spinous processes
    (Ellipsoid((0, 84, 0), (7, 6, math.inf)), 30),  # spinal canal
    (Ellipsoid((0, -98, 20), (16, 6, 90)), 400),  # sternum
    (Ellipsoid((0, 8, 165), (9, 9, 130)), AIR_HU),  # trachea: open at the top, ends at the carina
)
"""Shapes and their HU, each painted over those before it."""

EMPHYSEMA_SHARE = 0.12
BULLAE_PER_LUNG = 48
BULLA_GAP_MM = 1.5


def place_bullae(lung: Ellipsoid, seed: int) -> tuple[Ellipsoid, ...]:
    """Balls of three sizes that fill EMPHYSEMA_SHARE of a lung exactly.

    A ball lies inside an ellipsoid if its centre does after all axes shrink by the ratio of the
    ball's radius to the shortest axis: the triangle inequality of the ellipsoid's own norm.
    """
    ratios = sorted((1.0, 0.8, 0.6) * (BULLAE_PER_LUNG // 3), reverse=True)
    ball_ml = lung.volume_ml * EMPHYSEMA_SHARE / sum(ratio**3 for ratio in ratios)
    radius_mm = (ball_ml * 1000 * 3 / (4 * math.pi)) ** (1 / 3)
    dice = random.Random(seed)
    balls: list[Ellipsoid] = []
    for ratio in ratios:
        radius = ratio * radius_mm
        room = 1 - (radius + BULLA_GAP_MM) / min(lung.semi_axes_mm)
        centre = _point_in(lung, room, dice)
        while any(_gap_mm(ball, centre, radius) < BULLA_GAP_MM for ball in balls):
            centre = _point_in(lung, room, dice)
        balls.append(Ellipsoid(centre, (radius, radius, radius)))
    return tuple(balls)


def _point_in(lung: Ellipsoid, room: float, dice: random.Random) -> Point:
    """A random point of the lung, shrunk about its centre to the share `room` of its axes."""
    while True:
        x, y, z = (dice.uniform(-1, 1) for _ in range(3))
        if x * x + y * y + z * z < 1:
            (cx, cy, cz), (a, b, c) = lung.centre_mm, lung.semi_axes_mm
            return (cx + x * room * a, cy + y * room * b, cz + z * room * c)


def _gap_mm(ball: Ellipsoid, centre_mm: Point, radius_mm: float) -> float:
    return math.dist(ball.centre_mm, centre_mm) - ball.semi_axes_mm[0] - radius_mm


BULLAE = (*place_bullae(RIGHT_LUNG, seed=1), *place_bullae(LEFT_LUNG, seed=2))


def lung_mask(x: Floats, y: Floats, z: Floats) -> Mask:
    mask: Mask = RIGHT_LUNG.contains(x, y, z) | LEFT_LUNG.contains(x, y, z)
    return mask


def hounsfield(x: Floats, y: Floats, z: Floats, *, noise_seed: int | None = None) -> Floats:
    """The phantom at points in mm (any shapes that broadcast), in HU, as whole numbers.

    Noise stays out of the lungs, whose distribution of HU must have a closed form.
    """
    hu = paint(TISSUES, x, y, z, background=AIR_HU)
    hu[_ribs(x, y, z)] = RIB_HU
    hu[_table(x, y, z)] = TABLE_HU
    if noise_seed is not None:
        hu += noise(hu.shape, NOISE_HU, noise_seed)
    hu = np.where(lung_mask(x, y, z), PARENCHYMA_HU + GRADIENT_HU_PER_MM * y, hu)
    for bulla in BULLAE:
        hu[bulla.contains(x, y, z)] = BULLA_HU
    return np.rint(hu)


def _ribs(x: Floats, y: Floats, z: Floats) -> Mask:
    """Bands round the chest wall, higher at the back than in front, open at the sternum."""
    inner, outer = RIB_CAGE
    level = BODY.level(x, y, z)
    band = np.mod(z - 0.5 * y, 27.0) < 9
    ribs: Mask = (level > inner) & (level < outer) & band & ((abs(x) > 25) | (y > 0))
    return ribs


def _table(x: Floats, y: Floats, z: Floats) -> Mask:
    """A thin shell, hollow towards the patient, with air between."""
    depth = np.hypot(x, y + 400)
    table: Mask = (depth > 528) & (depth < 535) & (abs(x) < 160) & (y > 0) & np.isfinite(z)
    return table


def chest_ct() -> Floats:
    """The whole chest in HU: (SLICES, ROWS, COLUMNS), slices from feet to head."""
    x, y = axis_mm(COLUMNS, PIXEL_SPACING_MM)[None, :], axis_mm(ROWS, PIXEL_SPACING_MM)[:, None]
    heights = axis_mm(SLICES, SLICE_SPACING_MM)
    return np.stack([hounsfield(x, y, z, noise_seed=i) for i, z in enumerate(heights)])
