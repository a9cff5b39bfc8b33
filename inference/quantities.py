"""From counts to the numbers that are reported.

The statistics graph sees the voxels, some slices at a time, and gives whole counts: voxels, their
sum and a histogram of 1 HU. Counts add up exactly, so neither the batch size nor the number of
threads can move a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.manifest import (
    MeanOf,
    Measure,
    PercentAtOrBelow,
    Percentile,
    Quantification,
    VolumeOf,
)
from inference.transforms import ML_PER_MM3
from pacs.errors import BadModel


@dataclass
class Statistics:
    """What the statistics graph counted, added up over the batches."""

    wanted: Quantification
    voxel_volume_mm3: float
    voxels: int = 0
    sum_hu: float = 0.0
    histogram: NDArray[np.signedinteger] = field(default_factory=lambda: np.zeros(0, np.int64))

    def add(self, counted: Mapping[str, NDArray[Any]]) -> None:
        histogram = counted["histogram"]
        if histogram.sum() != counted["voxels"]:
            raise BadModel("the histogram does not add up", file=self.wanted.file)
        self.voxels += int(counted["voxels"])
        self.sum_hu += float(counted["sum_hu"])
        self.histogram = histogram + (self.histogram if self.histogram.size else 0)

    def value_of(self, measure: Measure) -> float:
        """One number, from the counts. The mask is not empty: the model saw to that."""
        if not self.voxels:
            raise BadModel("there is no voxel to measure", file=self.wanted.file)
        match measure:
            case VolumeOf():
                return self.voxels * self.voxel_volume_mm3 * ML_PER_MM3
            case MeanOf():
                return self.sum_hu / self.voxels
            case PercentAtOrBelow(hu=hu):
                last = hu - self.wanted.histogram_from_hu
                return 100 * int(self.histogram[: last + 1].sum()) / self.voxels
            case Percentile(percent=percent):
                counts = self.histogram.cumsum()
                return int(np.searchsorted(counts, percent / 100 * self.voxels)) + float(
                    self.wanted.histogram_from_hu
                )
