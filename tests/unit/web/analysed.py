"""A node in this process with three studies: analysed, skipped and still arriving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from inference.pipeline import Pipeline
from pacs.archive import Archive, Incoming
from pacs.dicom.part10 import read_part10
from pacs.worker import Worker
from pacs.workflow import INFER, ModelRef, Plan, Workflow
from tests import make
from tests.unit.web.node import serving
from web.parts import Parts

CHEST = Path(__file__).parents[3] / "sample_dicom" / "ct_chest"
CANARY = "<img src=x onerror=alert(1)>"
TEMPLATE_CANARY = "{{7*7}}"


@dataclass(frozen=True)
class Analysed:
    """The node's client, and its studies."""

    client: httpx.Client
    chest: str  # a CT that the built-in model has measured
    hostile: str  # a radiograph whose every text is an attack; the model does not fit it
    receiving: str  # one image so far


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analysed]:
    with serving(tmp_path_factory.mktemp("node")) as served:
        archive = served.archive
        chest, hostile = _store_chest(archive), _store_hostile(archive)
        _analyse(served.parts)
        yield Analysed(served.client, chest, hostile, _store_one(archive))


def _analyse(parts: Parts) -> None:
    """What the worker would do once the studies are quiet."""
    archive, registry = parts.identified, parts.models
    plan = Plan([ModelRef(model.id, model.version, model.sha256) for model in registry.list()])
    Workflow(archive.index, archive, plan, quiet_s=0).complete_quiet_studies()
    pipeline = Pipeline(archive, registry, parts.decoder)
    worker = Worker(archive.index, {INFER: pipeline.handle})
    while worker.step():
        pass


def _store_chest(archive: Archive) -> str:
    for path in sorted(CHEST.glob("*.dcm")):
        taken = read_part10(path.read_bytes())
        incoming = Incoming(bytes(taken.data_set), taken.transfer_syntax_uid)
        stored = archive.store(make.SCANNER, incoming)
    return stored.study_instance_uid


def _store_hostile(archive: Archive) -> str:
    study = make.uid("hostile")
    data_set = make.data_set(
        study_instance_uid=study,
        modality="CR",
        patient_name=f"<script>alert(2)</script>^{TEMPLATE_CANARY}",
        patient_id=f'"><script>{TEMPLATE_CANARY}',
        StudyDescription=CANARY,
        AccessionNumber="'\"<b>",
        SeriesDescription=f"</td>{CANARY}",
        StudyDate="20240101",
    )
    archive.store(make.SCANNER, make.incoming(data_set))
    return study


def _store_one(archive: Archive) -> str:
    study = make.uid("receiving")
    data_set = make.data_set(
        study_instance_uid=study, patient_id="P-9", patient_name="Late^Lou", modality="MR"
    )
    archive.store(make.SCANNER, make.incoming(data_set))
    return study
