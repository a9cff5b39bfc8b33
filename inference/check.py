"""Whether a model folder may be used on this host: `isocenter models check`.

A manifest that reads well is not enough: another processor, runtime or execution provider may
round otherwise. So the test vectors, made where the model was made, must give their answers here.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.errors import InvalidDicomError

from inference.manifest import TestVector
from inference.registry import open_model
from inference.run import LoadedModel, infer, load
from inference.runner import Device
from inference.selection import select
from pacs.errors import BadModel


@dataclass(frozen=True, slots=True)
class Check:
    """One rule of `models check`: what was looked at, whether it holds, and what to know."""

    rule: str
    holds: bool
    sentence: str


def check(folder: Path, *, device: Device = "auto", threads_max: int = 2) -> tuple[Check, ...]:
    """Whether a model folder may be used on this host: manifest, graphs, test vectors."""
    try:
        model = open_model(folder)
        loaded = load(model, device=device, threads_max=threads_max)
    except BadModel as error:
        return (Check("files", False, str(error)),)
    files = Check("files", True, f"manifest and graphs agree; they run on {loaded.provider}")
    return (files, *(_reproduced(loaded, vector) for vector in model.manifest.tests))


def _reproduced(loaded: LoadedModel, vector: TestVector) -> Check:
    """Whether one test vector gives its answers here."""
    try:
        content = loaded.model.vector_bytes(vector)
        data_sets = [pydicom.dcmread(io.BytesIO(content))]
    except (BadModel, InvalidDicomError) as error:
        return Check(vector.input, False, str(error))
    result = infer(loaded, select(loaded.model.manifest.selection, data_sets), data_sets)
    if result.reason:
        return Check(vector.input, False, result.reason.sentence)
    found = {measurement.id: measurement.value for measurement in result.measurements}
    astray = [
        f"{name} is {found[name]:g} and should be {value:g}"
        for name, value in vector.expect.items()
        if abs(found[name] - value) > vector.atol
    ]
    return Check(vector.input, not astray, "; ".join(astray) or "reproduced")
