"""A node in this process with three studies: analysed, skipped and still arriving."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from starlette.testclient import TestClient

from inference.pipeline import Pipeline
from inference.registry import Registry
from pacs.archive import Archive, Incoming
from pacs.decode import Decoder
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN
from pacs.index import open_index
from pacs.store.files import FileStore
from pacs.worker import Worker
from pacs.workflow import INFER, ModelRef, Plan, Workflow
from tests import make
from tests.unit.inference.stacks import chest_phantom
from web.app import create_app
from web.parts import Parts

CANARY = "<img src=x onerror=alert(1)>"
TEMPLATE_CANARY = "{{7*7}}"


@dataclass(frozen=True)
class Analysed:
    """The node, a client for it, and its studies."""

    parts: Parts
    client: TestClient
    chest: str  # a CT that the built-in model has measured
    hostile: str  # a radiograph whose every text is an attack; the model does not fit it
    receiving: str  # one image so far


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Analysed]:
    folder = tmp_path_factory.mktemp("node")
    index = open_index(f"sqlite:///{folder}/index.db")
    archive = Archive("identified", FileStore(folder / "identified"), index)
    registry = Registry()
    plan = Plan([ModelRef(model.id, model.version, model.sha256) for model in registry.list()])
    quick = Workflow(index, archive, plan, quiet_s=0)
    with Decoder() as decoder:
        chest, hostile = _store_chest(archive), _store_hostile(archive)
        quick.complete_quiet_studies()
        worker = Worker(index, {INFER: Pipeline(archive, registry, decoder).handle})
        while worker.step():
            pass
        receiving = _store_one(archive)
        parts = Parts(archive, {}, quick, registry, decoder, folder, "0.0.test")
        with TestClient(create_app(parts), raise_server_exceptions=False) as client:
            yield Analysed(parts, client, chest, hostile, receiving)
    index.close()
