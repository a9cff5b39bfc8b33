"""One model over one study: select, assemble, run, measure. Pure, but for the time it takes.

No archive, no job and no DICOM object is known here: data sets go in, a `Result` comes out. A study
that does not fit ends as `skipped`, a model that breaks its word (a wrong shape, a value that is no
number) as `failed`; both say why, and neither ever looks like a normal finding.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from inference.findings import Measurement, Reason, Result, Segmentation, Step
from inference.manifest import (
    Label,
)
from inference.quantities import Statistics
from inference.registry import Model
from inference.runner import Device, OnnxRunner, Runner
from inference.selection import Selection
from inference.transforms import Mask, Scene
from inference.volume import Decode, Unfit, Volume, decode_here, read_volume
from pacs.errors import BadModel, BadObject

BAD_OUTPUT: Final = "bad_output"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its graphs in memory. Safe to keep and to use for many studies in turn."""

    model: Model
    runners: Mapping[str, Runner]  # by file

    @property
    def provider(self) -> str:
        return self.runners[self.model.manifest.inference.file].provider


def load(model: Model, *, device: Device = "auto", threads_max: int = 2) -> LoadedModel:
    """Check and open every graph of a model. Raises BadModel, or Broken where CUDA is missing."""
    return LoadedModel(
        model,
        {
            file.path: OnnxRunner(
                model.graph_bytes(file), file, device=device, threads_max=threads_max
            )
            for file in model.manifest.graph.files
        },
    )


def infer(
    loaded: LoadedModel,
    selection: Selection,
    data_sets: Iterable[Dataset],
    *,
    decode: Decode = decode_here,
) -> Result:
    """Run a model over the selected series.

    data_sets must hold the instances that `selection.sop_instance_uids` names; others are ignored.
    It may be lazy, and decode as it goes: a BadObject that it raises skips the study.
    Raises Unavailable (memory, a sandbox that is busy): then trying again is right.
    """
    run = _Run(loaded)
    blank = _result(loaded, selection)
    if selection.grid is None:
        return replace(blank, state="skipped", reason=selection.reason)
    try:
        with run.timed("prepared"):
            volume = read_volume(selection.grid, _by_uid(data_sets, selection), decode)
        with run.timed("inferred"):
            scene = run.masks(volume)
            measurements = run.measurements(volume, scene)
    except Unfit as unfit:
        return replace(
            blank, state="skipped", reason=Reason(unfit.code, unfit.message), **run.record()
        )
    except BadObject as error:
        # Bringing the pixels is the caller's part, and a sandboxed decoder may refuse them.
        reason = Reason("unreadable_pixels", error.message)
        return replace(blank, state="skipped", reason=reason, **run.record())
    except BadModel as error:
        reason = Reason(BAD_OUTPUT, str(error))
        return replace(blank, state="failed", reason=reason, **run.record())
    return replace(
        blank,
        state="succeeded",
        reason=None,
        segmentations=tuple(_segmentation(label, scene) for label in run.manifest.labels),
        measurements=measurements,
        warnings=scene.remarks,
        **run.record(),
    )


def _result(loaded: LoadedModel, selection: Selection) -> Result:
    """A result of which only the state is still open."""
    return Result(
        model_id=loaded.model.id,
        model_version=loaded.model.version,
        model_sha256=loaded.model.sha256,
        state="failed",
        reason=Reason("not_run", "the model did not run"),
        verdicts=selection.verdicts,
        series_instance_uid=selection.series_instance_uid,
        provider=loaded.provider,
    )


def _by_uid(data_sets: Iterable[Dataset], selection: Selection) -> dict[str, Dataset]:
    wanted = selection.sop_instance_uids
    found = {str(one.SOPInstanceUID): one for one in data_sets if one.SOPInstanceUID in wanted}
    assert wanted == found.keys(), "the caller brings every instance that was selected"
    return found


def _segmentation(label: Label, scene: Scene) -> Segmentation:
    return Segmentation(
        id=label.id,
        label=label.label,
        category=label.category,
        type=label.type,
        color_rgb=label.color_rgb,
        site=label.site,
        laterality=label.laterality,
        mask=scene[label.mask],
    )


class _Run:
    """The stages of one run, and the record of what they did."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.manifest = loaded.model.manifest
        self._runners = loaded.runners
        self._steps: list[Step] = []
        self._timings_ms: dict[str, float] = {}

    def record(self) -> dict[str, Any]:
        return {"steps": tuple(self._steps), "timings_ms": dict(self._timings_ms)}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._timings_ms[stage] = _ms_since(began)

    @contextmanager
    def step(self, op: str, parameters: Mapping[str, object]) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._steps.append(Step(op, parameters, _ms_since(began)))

    def masks(self, volume: Volume) -> Scene:
        """Run the graph over the slices, then the mask operations in the manifest's order."""
        with self.step(self.manifest.inference.mode, self.manifest.inference.model_dump()):
            masks = self._per_slice(volume)
        scene = Scene(volume.grid, masks)
        for operation in self.manifest.postprocess:
            with self.step(operation.op, operation.model_dump(exclude={"op"})):
                scene = operation.apply(scene)
        return scene

    def _per_slice(self, volume: Volume) -> dict[str, Mask]:
        file = self.manifest.graph.file(self.manifest.inference.file)
        runner = self._runners[file.path]
        masks: dict[str, Mask] = {
            name: np.empty(volume.grid.shape, np.bool_) for name in file.outputs
        }
        for part in self._batches(volume):
            inputs = {name: self._tensor(name, volume, part) for name in file.inputs}
            for name, array in runner.run(inputs).items():
                slices = (part.stop - part.start, 1, *volume.grid.shape[1:])
                if array.shape != slices:
                    raise BadModel(f"{name} has the shape {list(array.shape)}", file=file.path)
                masks[name][part] = array[:, 0] > 0
        return masks

    def _batches(self, volume: Volume) -> Iterator[slice]:
        size, count = self.manifest.inference.batch_slices, volume.grid.shape[0]
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def _tensor(self, name: str, volume: Volume, part: slice) -> NDArray[np.float32]:
        """Slices as the graph takes them: (slice, channel, row, column) after preprocessing."""
        voxels = volume.voxels[part].astype(np.float32)
        for operation in self.manifest.preprocess[name]:
            voxels = operation.apply(voxels)
        return voxels[:, None]

    def measurements(self, volume: Volume, scene: Scene) -> tuple[Measurement, ...]:
        wanted = self.manifest.quantification
        label = next(label for label in self.manifest.labels if label.id == wanted.of)
        with self.step("statistics", {"file": wanted.file, "of": wanted.of}):
            statistics = self._statistics(volume, scene[label.mask])
        return tuple(
            Measurement(
                id=quantity.id,
                title=quantity.title,
                of=wanted.of,
                concept=quantity.concept,
                value=round(statistics.value_of(quantity.measure), quantity.decimals),
                unit=quantity.unit,
                derivation=quantity.derivation,
                method=quantity.method,
            )
            for quantity in wanted.quantities
        )

    def _statistics(self, volume: Volume, mask: Mask) -> Statistics:
        wanted = self.manifest.quantification
        total = Statistics(wanted, volume.grid.voxel_volume_mm3)
        name = next(name for name in self.manifest.preprocess)
        for part in self._batches(volume):
            if mask[part].any():
                inputs = {name: self._tensor(name, volume, part), "mask": mask[part][:, None]}
                total.add(self._runners[wanted.file].run(inputs))
        return total


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)
