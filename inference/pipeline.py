"""The `infer` job: fetch a study, run a model on it, write what it found, keep it.

This is where the archive meets the models. What a run says of itself is one record, the same for a
success, a study that does not fit and a model that broke its word; `Archive.keep_result` keeps it
together with the SEG and SR in the transaction that ends the job, under its fencing token.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from pydicom import Dataset

from inference.findings import Classification, Code, Measurement, Result
from inference.objects import Identity, write_objects
from inference.registry import Model, Registry
from inference.run import LoadedModel, infer, load
from inference.runner import Device
from inference.selection import Selection, select
from inference.words import UNIT_WORDS
from pacs.access import Actor
from pacs.archive import Archive, Incoming, Instance, Scope
from pacs.decode import Decoder
from pacs.decode.syntaxes import NATIVE
from pacs.dicom.data_sets import read_data_set, read_header, written
from pacs.dicom.part10 import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    read_part10,
)
from pacs.errors import Broken
from pacs.index.jobs import Job

COMPREHENSIVE_3D_SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
# How the objects of a result are called in the interface.
KINDS: Final = {COMPREHENSIVE_3D_SR: "SR", "1.2.840.10008.5.1.4.1.1.66.4": "SEG"}

NODE: Final = Actor("node", "inference")


class Pipeline:
    """The handler of `infer` jobs. Models stay loaded between jobs."""

    def __init__(
        self,
        archive: Archive,
        registry: Registry,
        decoder: Decoder,
        *,
        device: Device = "auto",
        threads_max: int = 2,
    ) -> None:
        self._archive = archive
        self._registry = registry
        self._decoder = decoder
        self._device = device
        self._threads_max = threads_max
        self._loaded: dict[str, LoadedModel] = {}

    def handle(self, job: Job) -> None:
        """Run one model on one study and keep the result. Raises NodeError."""
        loaded = self._load(job)
        manifest = loaded.model.manifest
        began = time.perf_counter()
        received = self._received(job)
        headers = [
            read_header(self._archive.header(one), one.transfer_syntax_uid) for one in received
        ]
        fetched_ms = _ms_since(began)
        selection = select(manifest.selection, headers)
        result = infer(loaded, selection, self._data_sets(received, selection))
        began = time.perf_counter()
        objects = self._objects(job, loaded.model, result, selection, headers)
        outputs = [
            Incoming(written(one, EXPLICIT_VR_LITTLE_ENDIAN), EXPLICIT_VR_LITTLE_ENDIAN)
            for one in objects
        ]
        timings = _timings(job, result, fetched_ms, _ms_since(began))
        self._archive.keep_result(
            NODE,
            job,
            outputs,
            model=loaded.model.id,
            state=result.state,
            record=_record(job, loaded.model, result, objects, timings),
        )

    def _load(self, job: Job) -> LoadedModel:
        model = self._registry.get(job.payload["model"])
        if model.sha256 != job.payload["model_sha256"]:
            raise Broken("the model's files changed after this run was planned", model=model.id)
        if model.sha256 not in self._loaded:
            self._loaded[model.sha256] = load(
                model, device=self._device, threads_max=self._threads_max
            )
        return self._loaded[model.sha256]

    def _received(self, job: Job) -> list[Instance]:
        """What was received of the study; what this node made of it is no evidence."""
        found = self._archive.retrieve(NODE, Scope(job.study_instance_uid))
        return [instance for instance in found if not instance.made_by]

    def _data_sets(self, received: Sequence[Instance], selection: Selection) -> Iterator[Dataset]:
        wanted = selection.sop_instance_uids
        return (self._native(one) for one in received if one.sop_instance_uid in wanted)

    def _native(self, instance: Instance) -> Dataset:
        """A data set whose pixels need no codec: compressed ones are decoded in the sandbox."""
        syntax = instance.transfer_syntax_uid
        if syntax in NATIVE or syntax == DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN:
            return read_data_set(self._archive.data_set(instance), syntax)
        native = self._decoder.explicit_little_endian(self._archive.read(instance))
        return read_data_set(read_part10(native).data_set, EXPLICIT_VR_LITTLE_ENDIAN)

    def _objects(
        self,
        job: Job,
        model: Model,
        result: Result,
        selection: Selection,
        headers: Sequence[Dataset],
    ) -> Sequence[Dataset]:
        if result.state != "succeeded":
            return ()
        assert selection.grid is not None, "a success had a grid"
        used = selection.sop_instance_uids
        return write_objects(
            model,
            result,
            selection.grid,
            [header for header in headers if str(header.SOPInstanceUID) in used],
            # A retry of the job writes the same bytes: nothing here depends on the moment.
            Identity(job.key, datetime.fromtimestamp(job.created_at, UTC)),
            predecessor=self._predecessor(job, model),
        )

    def _predecessor(self, job: Job, model: Model) -> Dataset | None:
        """The SR of the newest earlier generation, which this run's SR will name."""
        for run in self._archive.runs(NODE, job.study_instance_uid):
            if run.model == model.id and run.generation < job.generation:
                for named in run.record.get("objects", []):
                    if named["sop_class_uid"] == COMPREHENSIVE_3D_SR:
                        return self._header(job.study_instance_uid, named)
        return None

    def _header(self, study_instance_uid: str, named: Mapping[str, str]) -> Dataset:
        scope = Scope(study_instance_uid, named["series_instance_uid"], named["sop_instance_uid"])
        (instance,) = self._archive.retrieve(NODE, scope)
        return read_header(self._archive.header(instance), instance.transfer_syntax_uid)


def _ms_since(began: float) -> float:
    return round((time.perf_counter() - began) * 1000, 1)


def _timings(job: Job, result: Result, fetched_ms: float, written_ms: float) -> dict[str, float]:
    queued_s = (job.started_at or job.created_at) - job.created_at
    stages = {name: round(took, 1) for name, took in result.timings_ms.items()}
    return {
        "queued": round(queued_s * 1000, 1),
        "fetched": fetched_ms,
        **stages,
        "written": written_ms,
    }


def _record(
    job: Job,
    model: Model,
    result: Result,
    objects: Sequence[Dataset],
    timings_ms: Mapping[str, float],
) -> dict[str, Any]:
    """What a run says of itself: the fields of interface.md, and the details behind them."""
    identity = Identity(job.key, datetime.fromtimestamp(job.created_at, UTC))
    metadata = model.manifest.metadata
    return {
        "model": result.model_id,
        "model_version": result.model_version,
        "model_sha256": result.model_sha256,
        "planned_at": job.created_at,  # what the study received later is not in this
        "reason": asdict(result.reason) if result.reason else None,
        "findings": _findings(result, identity),
        "objects": [_named(one) for one in objects],
        "timings_ms": dict(timings_ms),
        "provider": result.provider or "",
        "details": {
            "title": metadata.title,
            "intended_use": metadata.intended_use,
            "regulatory_status": metadata.regulatory.status,
            "series_instance_uid": result.series_instance_uid,
            "warnings": [asdict(warning) for warning in result.warnings],
            "series": [asdict(verdict) for verdict in result.verdicts],
            "steps": [
                {"op": s.op, "parameters": dict(s.parameters), "took_ms": round(s.took_ms, 1)}
                for s in result.steps
            ],
            "unverified": True,
        },
    }


def _named(written_object: Dataset) -> dict[str, str]:
    study, series, instance = (
        str(written_object[keyword].value)
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    )
    return {
        "kind": KINDS[str(written_object.SOPClassUID)],
        "sop_class_uid": str(written_object.SOPClassUID),
        "series_instance_uid": series,
        "sop_instance_uid": instance,
        "url": f"/dicom-web/studies/{study}/series/{series}/instances/{instance}",
    }


def _findings(result: Result, identity: Identity) -> list[dict[str, Any]]:
    sites = {segmentation.id: segmentation.type for segmentation in result.segmentations}
    return [_measured(one, sites[one.of], identity) for one in result.measurements] + [
        _classified(one, identity) for one in result.classifications
    ]


def _code(code: Code | None) -> dict[str, str] | None:
    return asdict(code) if code else None


def _measured(measurement: Measurement, site: Code, identity: Identity) -> dict[str, Any]:
    unit = UNIT_WORDS.get(measurement.unit.value, measurement.unit.value)
    return {
        "id": measurement.id,
        "title": measurement.title,
        "code": _code(measurement.concept),
        "value": measurement.value,
        "unit": _code(measurement.unit),
        "probability": None,
        "present": None,
        "site": _code(site),
        "tracking_uid": identity.uid("tracking", measurement.of),
        "words": f"{measurement.title} {measurement.value:.4g} {unit}".strip(),
    }


def _classified(classification: Classification, identity: Identity) -> dict[str, Any]:
    presence = {True: "present", False: "absent", None: "undetermined"}[classification.present]
    return {
        "id": classification.id,
        "title": classification.finding.meaning,
        "code": _code(classification.finding),
        "value": None,
        "unit": None,
        "probability": classification.probability,
        "present": classification.present,
        "site": _code(classification.site),
        "tracking_uid": identity.uid("tracking", classification.id),
        "words": f"{classification.finding.meaning}: {presence}",
    }
