"""What a model says about a study: typed statements, with no DICOM object in sight.

A `Segmentation` says where, a `Measurement` how much, a `Classification` whether. Each carries its
codes as triples, so that `objects.py` can write them without knowing the model, and a page or FHIR
can show them without reading DICOM. A `Result` is one run over one study: the statements, or the
reason in words why there are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

PRIVATE_SCHEME: Final = "99ISOCENTER"  # PS3.3 8.2: a scheme of our own begins with 99

State = Literal["succeeded", "skipped", "failed"]


@dataclass(frozen=True, slots=True)
class Code:
    """A coded concept: code value, coding scheme designator and code meaning (PS3.3 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """Where something is: a mask on the grid of the source series.

    `mask` is boolean and shaped (slice, row, column); slice k lies on source frame k of the volume
    it was found in. `color_rgb` is a recommendation for viewers, 0 to 255 each.
    """

    id: str
    label: str
    category: Code
    type: Code
    color_rgb: tuple[int, int, int]
    site: Code
    laterality: Code | None
    mask: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Measurement:
    """How much: one number with its concept and unit, measured within a segmentation."""

    id: str
    title: str
    of: str  # the id of the segmentation it was measured in
    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None


@dataclass(frozen=True, slots=True)
class Classification:
    """Whether: a finding that is present, absent or undetermined (None), with its probability."""

    id: str
    finding: Code
    present: bool | None
    probability: float | None = None  # 0 to 1
    site: Code | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a run has no findings: a code for programs and a sentence for people."""

    code: str
    sentence: str


@dataclass(frozen=True, slots=True)
class SeriesVerdict:
    """What selection made of one series. A series that was taken has the code `selected`."""

    series_instance_uid: str
    code: str
    sentence: str

    @property
    def taken(self) -> bool:
        return self.code == "selected"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation as it ran: its name, the parameters really used, and how long it took."""

    op: str
    parameters: Mapping[str, object]
    took_ms: float


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one model over one study.

    `succeeded` has findings; `skipped` means that the study does not fit the model; `failed` means
    that the model broke its word. The last two have a reason and never a finding: "ran, nothing
    found" must differ from "did not run". `timings_ms` has the stages `prepared` and `inferred`.
    """

    model_id: str
    model_version: str
    model_sha256: str
    state: State
    reason: Reason | None = None
    segmentations: tuple[Segmentation, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    classifications: tuple[Classification, ...] = ()
    warnings: tuple[Reason, ...] = ()
    verdicts: tuple[SeriesVerdict, ...] = ()
    series_instance_uid: str | None = None  # the series that was read
    provider: str | None = None  # the execution provider that really ran
    steps: tuple[Step, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert (self.state == "succeeded") == (self.reason is None), "only a success has no reason"
        found = self.segmentations or self.measurements or self.classifications
        assert self.state == "succeeded" or not found, "a run that did not succeed found something"
