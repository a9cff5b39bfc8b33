"""What a densitometry of the chest phantom must find, from the geometry alone.

No voxel is counted here. Volumes are those of ellipsoids; the parenchyma's HU rises linearly
with y, so its mean over a shape is its value at the shape's centre, and its distribution is that
of an ellipsoid's slices (a cubic).
"""

from __future__ import annotations

from dataclasses import dataclass

from sample_dicom.chest import BULLA_HU, BULLAE, GRADIENT_HU_PER_MM, LUNGS, PARENCHYMA_HU
from sample_dicom.shapes import Ellipsoid


@dataclass(frozen=True, slots=True)
class ChestCtTruth:
    """Densitometry of a pair of lungs, parenchyma and bullae together."""

    lung_volume_ml: float
    laa950_percent: float
    perc15_hu: float
    mean_lung_density_hu: float


def _parenchyma_hu(y_mm: float) -> float:
    return PARENCHYMA_HU + GRADIENT_HU_PER_MM * y_mm


def _sum_in_front_ml(shapes: tuple[Ellipsoid, ...], y_mm: float) -> float:
    return sum(shape.volume_ml * shape.fraction_in_front_of(y_mm) for shape in shapes)


def _percentile_hu(percent: float, lungs_ml: float, bullae_ml: float) -> float:
    """The HU that percent of the lungs do not exceed; percent lies above the share of bullae.

    All bullae are lighter than all parenchyma, which grows denser towards the back: so look, by
    bisection, for the coronal plane in front of which the parenchyma makes up what is missing.
    """
    wanted_ml = lungs_ml * percent / 100 - bullae_ml
    assert wanted_ml > 0, "the percentile lies among the bullae"
    front = min(lung.centre_mm[1] - lung.semi_axes_mm[1] for lung in LUNGS)
    back = max(lung.centre_mm[1] + lung.semi_axes_mm[1] for lung in LUNGS)
    while back - front > 1e-9:
        middle = (front + back) / 2
        if _sum_in_front_ml(LUNGS, middle) - _sum_in_front_ml(BULLAE, middle) < wanted_ml:
            front = middle
        else:
            back = middle
    return _parenchyma_hu(front)


def chest_ct_truth() -> ChestCtTruth:
    """The truth, in closed form but for the bisection of one cubic."""
    lungs_ml = sum(lung.volume_ml for lung in LUNGS)
    bullae_ml = sum(bulla.volume_ml for bulla in BULLAE)
    parenchyma = sum(lung.volume_ml * _parenchyma_hu(lung.centre_mm[1]) for lung in LUNGS)
    replaced = sum(b.volume_ml * (BULLA_HU - _parenchyma_hu(b.centre_mm[1])) for b in BULLAE)
    return ChestCtTruth(
        lung_volume_ml=lungs_ml,
        laa950_percent=100 * bullae_ml / lungs_ml,
        perc15_hu=_percentile_hu(15, lungs_ml, bullae_ml),
        mean_lung_density_hu=(parenchyma + replaced) / lungs_ml,
    )


CHEST_CT_TRUTH = chest_ct_truth()
