"""The other phantoms: radiograph, brain, echo and abdomen. They have looks, but no truth to find.

Every function gives plain arrays of stored values or HU; `instances` dresses them as DICOM.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sample_dicom.chest import AIR_HU, hounsfield
from sample_dicom.shapes import Ellipsoid, Floats, Mask, Point, axis_mm, noise, paint

RADIOGRAPH_ROWS = RADIOGRAPH_COLUMNS = 400
RADIOGRAPH_SPACING_MM = 0.9
RADIOGRAPH_STORED_MAX = 4095
_RAY_STEP_MM = 4.0

BRAIN_SLICES, BRAIN_ROWS, BRAIN_COLUMNS = 20, 96, 96
BRAIN_SPACING_MM, BRAIN_SLICE_SPACING_MM = 2.4, 6.0
BRAIN_ROW, BRAIN_COLUMN, BRAIN_NORMAL = (
    (0.96, 0.28, 0.0),
    (-0.2688, 0.9216, 0.28),
    (0.0784, -0.2688, 0.96),
)
"""Oblique about two axes. Made of 7/25 and 24/25, so the cosines are exact in decimals."""

ECHO_FRAMES, ECHO_ROWS, ECHO_COLUMNS = 10, 120, 160
ECHO_BANNER_ROWS = 16  # the text stands above the region of the scan

ABDOMEN_SLICES, ABDOMEN_ROWS, ABDOMEN_COLUMNS = 10, 64, 64
ABDOMEN_SPACING_MM, ABDOMEN_SLICE_SPACING_MM = 5.5, 8.0

_HEAD: tuple[tuple[Ellipsoid, float], ...] = (
    (Ellipsoid((0, 0, 0), (78, 98, 88)), 900),  # scalp
    (Ellipsoid((0, 0, 0), (73, 93, 83)), 60),  # skull
    (Ellipsoid((0, 0, 0), (68, 88, 78)), 180),  # cerebrospinal fluid
    (Ellipsoid((33, 0, 2), (31, 82, 72)), 520),  # grey matter, left
    (Ellipsoid((-33, 0, 2), (31, 82, 72)), 520),
    (Ellipsoid((32, 0, 4), (24, 70, 58)), 720),  # white matter, left
    (Ellipsoid((-32, 0, 4), (24, 70, 58)), 720),
    (Ellipsoid((14, -4, 8), (8, 34, 14)), 180),  # ventricles
    (Ellipsoid((-14, -4, 8), (8, 34, 14)), 180),
    (Ellipsoid((-36, -28, 18), (9, 10, 9)), 950),  # an enhancing lesion
)

_ABDOMEN: tuple[tuple[Ellipsoid, float], ...] = (
    (Ellipsoid((0, 0, 0), (160, 115, math.inf)), -100),
    (Ellipsoid((0, 0, 0), (140, 97, math.inf)), 30),
    (Ellipsoid((-65, -15, 15), (68, 66, 60)), 110),  # liver
    (Ellipsoid((85, 25, 20), (32, 40, 45)), 120),  # spleen
    (Ellipsoid((-62, 52, -25), (24, 22, 45)), 180),  # kidneys
    (Ellipsoid((62, 52, -20), (24, 22, 45)), 180),
    (Ellipsoid((55, -45, 10), (38, 30, 40)), -850),  # gas in the stomach
    (Ellipsoid((8, 30, 0), (11, 11, math.inf)), 220),  # aorta
    (Ellipsoid((0, 62, 0), (22, 19, math.inf)), 500),  # spine
)


def lettering(text: str, *, scale: int = 1) -> Mask:
    """Text as a mask. The bitmap font inside Pillow is used, for it never changes."""
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = font.getbbox(text)
    page = Image.new("1", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(page).text((0, 0), text, font=font, fill=1)
    mask: Mask = np.kron(np.asarray(page), np.ones((scale, scale), dtype=np.bool_))
    return mask


def stamp(image: NDArray[np.generic], text: str, row: int, column: int, *, scale: int = 1) -> None:
    """Burn white (the highest value of 8 bits, 0 of MONOCHROME1) text into an image, in place."""
    mask = lettering(text, scale=scale)
    height, width = mask.shape
    white = 255 if image.dtype == np.uint8 else 0
    image[row : row + height, column : column + width][mask] = white


def radiograph() -> NDArray[np.uint16]:
    """The chest phantom in parallel rays from front to back: (rows, columns), 12 bits.

    MONOCHROME1: what was hit by more rays is stored higher and shown darker.
    """
    x = axis_mm(RADIOGRAPH_COLUMNS, RADIOGRAPH_SPACING_MM)[None, :]
    y = np.arange(-122.0, 98.0, _RAY_STEP_MM)[:, None]  # the table lies behind
    heights = axis_mm(RADIOGRAPH_ROWS, RADIOGRAPH_SPACING_MM)[::-1]
    in_water_mm = np.stack(
        [(hounsfield(x, y, z) - AIR_HU).sum(axis=0) * _RAY_STEP_MM / 1000 for z in heights]
    )
    grain = noise(in_water_mm.shape, 8, seed=11)
    stored = np.clip(3900 - 13 * in_water_mm + grain, 1, RADIOGRAPH_STORED_MAX)
    image = np.rint(stored).astype(np.uint16)
    stamp(image, "PHANTOM^RADIOGRAPH", 6, 6, scale=2)
    stamp(image, "ISO-0002  1950-01-02", 30, 6)
    stamp(image, "L", 60, 380, scale=2)
    return image


def brain_position_mm(index: int) -> Point:
    """The patient's coordinates of the first voxel of a slice, counted along the normal."""
    across = -(BRAIN_COLUMNS - 1) / 2 * BRAIN_SPACING_MM
    down = -(BRAIN_ROWS - 1) / 2 * BRAIN_SPACING_MM
    along = float(axis_mm(BRAIN_SLICES, BRAIN_SLICE_SPACING_MM)[index])
    axes = zip(BRAIN_ROW, BRAIN_COLUMN, BRAIN_NORMAL, strict=True)
    x, y, z = (across * row + down * column + along * normal for row, column, normal in axes)
    return (x, y, z)


def brain(index: int) -> NDArray[np.uint16]:
    """One oblique slice, T1-weighted: (BRAIN_ROWS, BRAIN_COLUMNS), 12 bits."""
    across = np.arange(BRAIN_COLUMNS)[None, :] * BRAIN_SPACING_MM
    down = np.arange(BRAIN_ROWS)[:, None] * BRAIN_SPACING_MM
    x, y, z = (
        first + across * row + down * column
        for first, row, column in zip(
            brain_position_mm(index), BRAIN_ROW, BRAIN_COLUMN, strict=True
        )
    )
    signal = paint(_HEAD, x, y, z, background=0)
    grain = noise(signal.shape, 14, seed=200 + index)
    return np.rint(abs(signal + grain)).astype(np.uint16)


def echo(frame: int) -> NDArray[np.uint8]:
    """One frame of a beating chamber beneath a banner: (ECHO_ROWS, ECHO_COLUMNS, 3), RGB."""
    across = (np.arange(ECHO_COLUMNS) - (ECHO_COLUMNS - 1) / 2)[None, :]
    depth = (np.arange(ECHO_ROWS) - ECHO_BANNER_ROWS - 2.0)[:, None]
    fan = (depth > 0) & (abs(across) < 0.8 * depth) & (across**2 + depth**2 < 96**2)
    beat = 1 - 0.08 * min(frame, ECHO_FRAMES - frame)  # smallest halfway through the cycle
    chamber = (across / (24 * beat)) ** 2 + ((depth - 55) / (30 * beat)) ** 2
    grey = np.select([chamber < 0.85, chamber < 1.35], [18.0, 170.0], 85.0)
    grey = grey * (1 + noise(grey.shape, 0.35, seed=300 + frame))
    image = np.repeat(np.where(fan, grey, 0)[:, :, None], 3, axis=2)
    jet = fan & ((across / 5) ** 2 + ((depth - 42 - frame) / 12) ** 2 < 1)
    image[jet] = (230, 60 + 10 * frame, 20)  # flow towards the probe
    frame_rgb: NDArray[np.uint8] = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    stamp(frame_rgb, "PHANTOM^ECHO ISO-0004", 2, 4)
    return frame_rgb


def abdomen(index: int) -> Floats:
    """One axial slice, counted from the feet: (ABDOMEN_ROWS, ABDOMEN_COLUMNS), HU."""
    x = axis_mm(ABDOMEN_COLUMNS, ABDOMEN_SPACING_MM)[None, :]
    y = axis_mm(ABDOMEN_ROWS, ABDOMEN_SPACING_MM)[:, None]
    z = axis_mm(ABDOMEN_SLICES, ABDOMEN_SLICE_SPACING_MM)[index]
    hu = paint(_ABDOMEN, x, y, z, background=AIR_HU)
    return np.rint(hu + noise(hu.shape, 6, seed=400 + index))
