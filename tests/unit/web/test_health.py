"""Whether the node lives and can serve, and what its figures hold."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import make
from tests.unit.web.node import Served, serving

CANARY = "Canary^Carla"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def test_a_node_that_answers_lives(served: Served) -> None:
    answer = served.client.get("/livez")
    assert (answer.status_code, answer.text) == (200, "ok\n")


def test_ready_means_that_index_and_store_answer(served: Served) -> None:
    answer = served.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "index": "ok", "store": "ok"}


def test_a_node_without_its_store_lives_but_is_not_ready(served: Served) -> None:
    shutil.rmtree(served.objects)
    answer = served.client.get("/readyz")
    assert answer.status_code == 503
    said = answer.json()
    assert (said["ready"], said["index"]) == (False, "ok")
    assert said["store"] != "ok"
    assert served.client.get("/livez").status_code == 200


def test_metrics_count_what_is_held_and_name_nobody(served: Served) -> None:
    study = make.uid("canary")
    data_set = make.data_set(study_instance_uid=study, patient_name=CANARY, patient_id="CANARY-1")
    served.archive.store(make.SCANNER, make.incoming(data_set))
    answer = served.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    assert 'isocenter_held{level="studies"} 1.0' in lines
    assert 'isocenter_held{level="instances"} 1.0' in lines
    assert 'isocenter_jobs{state="queued"} 0.0' in lines
    assert 'isocenter_build_info{version="0.0.test"} 1.0' in lines
    assert not any(text in answer.text for text in ("Carla", "CANARY", study))
