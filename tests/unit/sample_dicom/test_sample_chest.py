"""The voxels of the chest CT keep what the geometry promises."""

from __future__ import annotations

import itertools
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from scipy import ndimage

import sample_dicom
from sample_dicom.chest import (
    BULLAE,
    COLUMNS,
    LEFT_LUNG,
    LUNGS,
    PIXEL_SPACING_MM,
    RIGHT_LUNG,
    ROWS,
    SLICE_SPACING_MM,
    SLICES,
    lung_mask,
)
from sample_dicom.shapes import Ellipsoid, axis_mm, noise
from sample_dicom.studies import CT_CHEST
from sample_dicom.truth import CHEST_CT_TRUTH

VOXEL_ML = PIXEL_SPACING_MM**2 * SLICE_SPACING_MM / 1000


@cache
def images() -> list[Dataset]:
    """The instances as they lie on disk, in the order of their names."""
    folder = Path(sample_dicom.__file__).parent / CT_CHEST.folder
    return [dcmread(path) for path in sorted(folder.iterdir())]


@cache
def volume_hu() -> NDArray[np.float64]:
    """The committed study, from feet to head."""
    ordered = sorted(images(), key=lambda image: float(image.ImagePositionPatient[2]))
    return np.stack(
        [
            image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)
            for image in ordered
        ]
    )


@cache
def lungs_hu() -> NDArray[np.float64]:
    z = axis_mm(SLICES, SLICE_SPACING_MM)[:, None, None]
    y = axis_mm(ROWS, PIXEL_SPACING_MM)[None, :, None]
    x = axis_mm(COLUMNS, PIXEL_SPACING_MM)[None, None, :]
    lungs: NDArray[np.float64] = volume_hu()[lung_mask(x, y, z)]
    return lungs


def test_the_voxels_have_the_true_volume() -> None:
    truth_ml = CHEST_CT_TRUTH.lung_volume_ml
    assert lungs_hu().size * VOXEL_ML == pytest.approx(truth_ml, rel=0.005)


def test_the_voxels_have_the_true_share_of_emphysema() -> None:
    laa950_percent = 100 * float((lungs_hu() <= -950).mean())
    assert laa950_percent == pytest.approx(CHEST_CT_TRUTH.laa950_percent, abs=0.3)


def test_the_voxels_have_the_true_density() -> None:
    assert lungs_hu().mean() == pytest.approx(CHEST_CT_TRUTH.mean_lung_density_hu, abs=0.5)
    assert np.percentile(lungs_hu(), 15) == pytest.approx(CHEST_CT_TRUTH.perc15_hu, abs=1)


def test_no_voxel_of_a_lung_lies_near_a_threshold() -> None:
    parenchyma = lungs_hu()[lungs_hu() != -980]
    assert parenchyma.min() > -910
    assert parenchyma.max() < -800


def test_a_threshold_finds_two_lungs_apart_from_air_and_trachea() -> None:
    labels, _ = ndimage.label(volume_hu() < -500)
    outside = {int(labels[z, 0, 0]) for z in range(SLICES)}
    sizes = np.bincount(labels.ravel())
    sizes[[0, *outside]] = 0
    trachea, left, right = np.sort(sizes)[-3:] * VOXEL_ML
    assert right == pytest.approx(RIGHT_LUNG.volume_ml, rel=0.005)
    assert left == pytest.approx(LEFT_LUNG.volume_ml, rel=0.005)
    assert trachea < 50


def test_every_bulla_lies_wholly_inside_a_lung() -> None:
    """Its surface is sampled; the proof stands where the bullae are placed."""
    steps = np.linspace(-1, 1, 41)
    z, angle = np.meshgrid(steps, steps * math.pi)
    ring = np.sqrt(1 - z**2)
    for bulla in BULLAE:
        (cx, cy, cz), radius = bulla.centre_mm, bulla.semi_axes_mm[0]
        x = cx + radius * ring * np.cos(angle)
        y = cy + radius * ring * np.sin(angle)
        assert any(lung.contains(x, y, cz + radius * z).all() for lung in LUNGS)


def test_no_two_bullae_touch() -> None:
    for one, other in itertools.combinations(BULLAE, 2):
        distance_mm = math.dist(one.centre_mm, other.centre_mm)
        assert distance_mm > one.semi_axes_mm[0] + other.semi_axes_mm[0]


def test_neither_names_nor_numbers_tell_the_order() -> None:
    by_name = [float(image.ImagePositionPatient[2]) for image in images()]
    by_number = [
        float(image.ImagePositionPatient[2])
        for image in sorted(images(), key=lambda image: int(image.InstanceNumber))
    ]
    assert len(set(by_name)) == SLICES
    for positions in (by_name, by_number):
        assert positions not in (sorted(positions), sorted(positions, reverse=True))


@pytest.mark.parametrize(("y_mm", "share"), [(-9, 0), (-2, 0), (5, 0.5), (12, 1), (99, 1)])
def test_a_plane_cuts_an_ellipsoid_where_it_should(y_mm: float, share: float) -> None:
    assert Ellipsoid((1, 5, 2), (3, 7, 4)).fraction_in_front_of(y_mm) == pytest.approx(share)


def test_noise_has_the_asked_mean_and_spread_and_never_changes() -> None:
    samples = noise((100, 100), 5, seed=1)
    assert samples.mean() == pytest.approx(0, abs=0.2)
    assert samples.std() == pytest.approx(5, rel=0.03)
    assert np.rint(samples[0, :6] * 100).tolist() == [447, 445, 311, 1179, 69, -457]
