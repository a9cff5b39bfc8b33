"""The life of an examination on a started node: ordered, asked for, begun, stored, ended, worked on.

The study is never quiet for long enough, so only the modality's own word completes it. RIS, scanner
and neighbour are other people's code: HTTP, DCMTK's findscu and storescu, pynetdicom.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.presentation import build_context

from pacs.dimse.procedure_steps import PROCEDURE_STEP_CLASS
from tests import make
from tests.scheduled import completion, creation, entry
from tests.story.running import StartedNode, started_node, wait_for
from tests.wire.test_query_retrieve import tool

pytestmark = pytest.mark.timeout(180)

NEVER_QUIET_S: Final = 3_600.0
STEP_UID: Final = make.uid("step")


@contextmanager
def neighbour(heard: list[str]) -> Iterator[int]:
    """A system that wants to hear of every procedure step; its port."""
    lock = threading.Lock()

    def on_any(event: evt.Event) -> tuple[int, None]:
        with lock:
            heard.append(event.event.name)
        return 0, None

    entity = ApplicationEntity("NEIGHBOUR")
    entity.add_supported_context(PROCEDURE_STEP_CLASS)
    handlers: list[evt.EventHandlerType] = [
        (evt.EVT_N_CREATE, on_any),
        (evt.EVT_N_SET, on_any),
    ]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()


def ask(node: StartedNode) -> str:
    """What DCMTK's findscu says of today's list of CT1."""
    step = "ScheduledProcedureStepSequence[0]"
    wanted = ("PatientName", "StudyInstanceUID", f"{step}.ScheduledStationAETitle=CT1")
    keys = [part for key in wanted for part in ("-k", key)]
    address = ["127.0.0.1", str(node.dimse_port)]
    done = subprocess.run(
        [tool("findscu"), "-v", "-W", "-aet", "CT1", "-aec", "ISOCENTER", *keys, *address],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout + done.stderr


def store(node: StartedNode, folder: Path, images: list[Dataset]) -> None:
    """Send images with DCMTK's storescu."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number}.dcm").write_bytes(make.part10_bytes(image))
    address = ["127.0.0.1", str(node.dimse_port)]
    called = ["-aet", "CT1", "-aec", "ISOCENTER", "+sd"]
    subprocess.run(
        [tool("storescu"), *called, *address, folder], check=True, timeout=60, capture_output=True
    )


def say(node: StartedNode, made: Dataset, *, is_creation: bool = False) -> int:
    """Tell the node of the step; the status of its answer."""
    entity = ApplicationEntity("CT1")
    contexts = [build_context(PROCEDURE_STEP_CLASS)]
    association = entity.associate("127.0.0.1", node.dimse_port, contexts, ae_title="ISOCENTER")
    assert association.is_established
    send = association.send_n_create if is_creation else association.send_n_set
    status, _ = send(made, PROCEDURE_STEP_CLASS, STEP_UID)
    association.release()
    return int(status.Status)


def state(node: StartedNode, study: str) -> str:
    """Whether the node still waits for more of a study."""
    return str(node.json("/api/worklist-status")["studies"][study]["state"])


def kill_every_role(node: StartedNode) -> None:
    """End all roles at once, and wait until their supervisor has brought up others."""
    before = node.roles()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    wait_for("other roles", lambda: not set(node.roles().values()) & set(before.values()))
    wait_for("all of them", lambda: len(node.roles()) == len(before))
    node.wait_until_ready()


def test_an_examination_from_order_to_work(tmp_path: Path) -> None:
    heard: list[str] = []
    with started_node(tmp_path, quiet_s=NEVER_QUIET_S) as node, neighbour(heard) as port:
        rights = ["store", "worklist", "mpps"]
        node.client.put("/api/peers/CT1", json={"host": "127.0.0.1", "port": 104, "rights": rights})
        told = {"host": "127.0.0.1", "port": port, "rights": ["receive-mpps"]}
        node.client.put("/api/peers/NEIGHBOUR", json=told)

        ordered = node.client.put("/api/worklist", json=entry())
        assert ordered.status_code == 201
        study = str(ordered.json()["study_instance_uid"])
        said = ask(node)
        assert said.count("(Pending)") == 1
        assert study in said

        assert say(node, creation(study), is_creation=True) == 0
        assert "(Pending)" not in ask(node)
        first, *rest = make.study(4, study_instance_uid=study)
        store(node, tmp_path / "first", [first])
        wait_for("the neighbour to hear of the beginning", lambda: heard)
        kill_every_role(node)  # nothing that was answered for is lost

        assert say(node, completion([first, *rest])) == 0
        (step,) = node.json(f"/api/studies/{study}/procedure-steps")["procedure_steps"]
        assert (step["state"], step["instances_missing"]) == ("COMPLETED", 3)
        assert state(node, study) == "receiving"
        store(node, tmp_path / "rest", rest)
        wait_for("completion", lambda: state(node, study) == "complete")
        assert {job["kind"] for job in node.jobs(study)} == {"infer", "release"}
        (step,) = node.json(f"/api/studies/{study}/procedure-steps")["procedure_steps"]
        assert (step["instances_listed"], step["instances_missing"]) == (4, 0)
        assert node.json("/api/worklist")["entries"][0]["status"] == "COMPLETED"
        wait_for("the neighbour to hear all", lambda: len(heard) >= 2)
        assert heard == ["EVT_N_CREATE", "EVT_N_SET"]
