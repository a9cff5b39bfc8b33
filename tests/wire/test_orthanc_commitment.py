"""Storage commitment between the node and Orthanc, which promises it in both directions."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from pacs.commitment import Commitments, Reference
from pacs.peers import Peer, Right
from tests import make
from tests.story.running import free_ports, wait_for
from tests.unit.dimse.scanner import CT, OPERATOR, Node, node
from tests.wire.commitment_peers import make_due, work, worker

ORTHANC = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
START_S = 30.0

pytestmark = pytest.mark.skipif(
    ORTHANC is None, reason="Orthanc is not installed: apt-get install orthanc"
)


class Both(NamedTuple):
    """A node and an Orthanc that know each other."""

    ours: Node
    orthanc: httpx.Client


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("orthanc")
    with node(folder) as ours, orthanc(folder / "peer", ours) as client:
        yield Both(ours, client)


@contextmanager
def orthanc(folder: Path, ours: Node) -> Iterator[httpx.Client]:
    """Orthanc, started on an empty folder, with both lists of peers filled in."""
    assert ORTHANC is not None
    folder.mkdir()
    http_port, dimse_port = free_ports(2)
    settings: dict[str, Any] = {
        "StorageDirectory": str(folder),
        "HttpPort": http_port,
        "AuthenticationEnabled": False,
        "DicomAet": "ORTHANC",
        "DicomPort": dimse_port,
        "DicomModalities": {"isocenter": ["ISOCENTER", "127.0.0.1", ours.port]},
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings))
    may = frozenset({Right.STORE, Right.COMMIT, Right.RECEIVE})
    ours.peers.put(OPERATOR, Peer("ORTHANC", "127.0.0.1", dimse_port, rights=may))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([ORTHANC, file], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{http_port}", timeout=30) as client:
            wait_for("Orthanc", lambda: _answers(client), seconds=START_S)
            yield client
    finally:
        process.terminate()
        process.wait(START_S)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/system").is_success
    except httpx.TransportError:
        return False


def _uploaded(client: httpx.Client, number: int) -> tuple[str, Reference]:
    """An instance in Orthanc alone: its name there, and ours."""
    made = make.data_set(number, study_instance_uid=make.uid("orthanc"))
    told = client.post("/instances", content=make.part10_bytes(made)).raise_for_status().json()
    return str(told["ID"]), Reference(str(made.SOPClassUID), str(made.SOPInstanceUID))


def _asked(both: Both, name: str) -> dict[str, Any]:
    """What Orthanc knows once it has asked us about an instance and we have reported."""
    path = "/modalities/isocenter/storage-commitment"
    asked = both.orthanc.post(path, json={"Resources": [name]}).raise_for_status().json()
    assert work(worker(both.ours)) == 2

    def told() -> dict[str, Any]:
        report: dict[str, Any] = both.orthanc.get(asked["Path"]).json()
        return {} if report["Status"] == "Pending" else report

    return wait_for("Orthanc to have the report", told, seconds=START_S)


def test_orthanc_is_told_that_what_it_sent_is_kept(both: Both) -> None:
    name, _ = _uploaded(both.orthanc, 1)
    both.orthanc.post("/modalities/isocenter/store", content=name).raise_for_status()
    report = _asked(both, name)
    assert (report["Status"], len(report["Success"])) == ("Success", 1)


def test_orthanc_is_told_that_what_it_did_not_send_is_not_kept(both: Both) -> None:
    name, reference = _uploaded(both.orthanc, 2)
    report = _asked(both, name)
    assert report["Status"] == "Failure"
    (failure,) = report["Failures"]
    assert failure["SOPInstanceUID"] == reference.sop_instance_uid
    assert failure["FailureReason"] == 0x0112


@pytest.mark.parametrize("is_held", [True, False])
def test_orthanc_reports_on_what_we_ask(both: Both, is_held: bool) -> None:
    _, reference = _uploaded(both.orthanc, 3)
    other = Reference(CT, make.uid("not in Orthanc"))
    promises = Commitments(both.ours.archive)
    promises.request_commitment(
        "ORTHANC", [reference, *([] if is_held else [other])], cause=f"forward/{is_held}"
    )
    work(worker(both.ours))
    make_due(both.ours)

    def ended() -> str:
        newest = promises.outstanding(role="scu")[0]
        return newest.state if newest.ended_at is not None else ""

    state = wait_for("Orthanc's report", ended, seconds=START_S)
    assert state == ("confirmed" if is_held else "failed")
