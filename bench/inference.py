"""How long the built-in model takes, stage by stage, beside one pass of NumPy over the voxels.

The jobs are real ones: stored studies that became complete, taken from the queue and handled by
the pipeline, whose own record says how long each stage took.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

import sample_dicom
from bench.figures import Figure, Tell
from inference.pipeline import Pipeline
from pacs.access import Actor
from pacs.archive import Incoming
from pacs.config import Config, Study
from pacs.decode import Decoder
from pacs.dicom.data_sets import written
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.errors import Broken
from pacs.index.jobs import SUCCEEDED
from pacs.node import Node, compose
from pacs.worker import Worker
from pacs.workflow import INFER

LARGE_COLUMNS: Final = 512
QUIET_S: Final = 0.01  # the studies are complete as soon as they are stored
EMPHYSEMA_HU: Final = -950
STAGES: Final = ("fetched", "prepared", "inferred", "written")

SENDER: Final = Actor("peer", "BENCH")


@dataclass(frozen=True, slots=True)
class Inference:
    """So many runs of each volume, after one that warms up."""

    rounds: int

    def measure(self, folder: Path, tell: Tell) -> Iterator[Figure]:
        """The median time of each stage for a small and for a large chest CT."""
        small = sample_slices()
        config = Config(data=folder / "node", projects=(), study=Study(quiet_s=QUIET_S))
        node = compose(config)
        try:
            with Decoder() as decoder:
                pipeline = Pipeline(node.identified, node.models, decoder)
                worker = Worker(node.index, {INFER: pipeline.handle})
                for slices in (small, enlarged(small, LARGE_COLUMNS)):
                    yield from self._of(slices, node, worker, tell)
        finally:
            node.close()

    def _of(
        self, slices: Sequence[Dataset], node: Node, worker: Worker, tell: Tell
    ) -> Iterator[Figure]:
        voxels = np.stack([one.pixel_array for one in slices])
        name = " × ".join(map(str, voxels.shape))
        timings = []
        for turn in range(self.rounds + 1):
            tell(f"inference: {name}, run {turn} of {self.rounds}")
            timings.append(_run(slices, node, worker))
        bare_ms = _bare_pass_ms(voxels)
        for stage in STAGES:
            took_ms = median(one[stage] for one in timings[1:])
            yield Figure("inference", f"{name}, {stage}", took_ms, "ms", bare_ms)
        whole_ms = median(sum(one[stage] for stage in STAGES) for one in timings[1:])
        yield Figure("inference", f"{name}, all stages", whole_ms, "ms", bare_ms)


def sample_slices() -> list[Dataset]:
    """The chest phantom of sample_dicom, slice by slice."""
    folder = Path(sample_dicom.__file__).parent / "ct_chest"
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def enlarged(slices: Sequence[Dataset], columns: int) -> list[Dataset]:
    """The same chest on more and smaller pixels: square slices, so many columns wide."""
    return [_enlarged(one, columns) for one in slices]


def _enlarged(one: Dataset, columns: int) -> Dataset:
    nearest = np.arange(columns) * one.Columns // columns
    made = copy.deepcopy(one)
    made.PixelData = one.pixel_array[np.ix_(nearest, nearest)].tobytes()
    made["PixelData"].VR = "OW"
    made.PixelSpacing = [float(mm) * one.Columns / columns for mm in one.PixelSpacing]
    made.Rows = made.Columns = columns
    return made


def _run(slices: Sequence[Dataset], node: Node, worker: Worker) -> Mapping[str, float]:
    """Store the slices as a new study and let the model run on it; each stage's time in ms."""
    study_instance_uid, series_instance_uid = generate_uid(), generate_uid()
    for one in slices:
        one.StudyInstanceUID, one.SeriesInstanceUID = study_instance_uid, series_instance_uid
        one.SOPInstanceUID = generate_uid()
        content = written(one, EXPLICIT_VR_LITTLE_ENDIAN)
        node.identified.store(SENDER, Incoming(content, EXPLICIT_VR_LITTLE_ENDIAN))
    time.sleep(2 * QUIET_S)
    node.workflow.complete_quiet_studies()
    while worker.step():
        pass
    runs = node.identified.runs(SENDER, study_instance_uid)
    if [run.state for run in runs] != [SUCCEEDED]:
        raise Broken("the model gave no result", state=runs[0].state if runs else "none")
    timings_ms: Mapping[str, float] = runs[0].record["timings_ms"]
    return timings_ms


def _bare_pass_ms(voxels: NDArray[np.uint16]) -> float:
    """The median time to compare and count every voxel once: the least that densitometry does."""
    took_ms = []
    for _ in range(5):
        began = time.perf_counter()
        np.count_nonzero(voxels < EMPHYSEMA_HU + 1024)
        took_ms.append((time.perf_counter() - began) * 1000)
    return median(took_ms)
