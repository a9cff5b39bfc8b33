"""Storage commitment by a whole node: what was answered with 0000 is reported on, once, after kills."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import UID, generate_uid
from pynetdicom.ae import ApplicationEntity

from pacs.dimse.commitment import PUSH_MODEL, PUSH_MODEL_INSTANCE
from tests import make
from tests.story.running import StartedNode, free_ports, started_node, wait_for
from tests.wire.commitment_peers import REQUESTER, Pair, information, reporting

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[StartedNode]:
    with started_node(tmp_path) as started:
        yield started


def _kill(node: StartedNode, role: str) -> None:
    os.kill(node.roles()[role], signal.SIGKILL)


def _asked(node: StartedNode, pairs: list[Pair]) -> str:
    """A Transaction UID that the node has answered with 0000."""
    entity = ApplicationEntity(REQUESTER)
    entity.add_requested_context(PUSH_MODEL)
    association = entity.associate("127.0.0.1", node.dimse_port, ae_title="ISOCENTER")
    assert association.is_established
    uid = str(generate_uid())
    status, _ = association.send_n_action(
        information(uid, pairs), 1, UID(PUSH_MODEL), UID(PUSH_MODEL_INSTANCE)
    )
    assert status.Status == 0
    for role in ("dimse", "worker"):  # at once: nothing but rows can know of it now
        _kill(node, role)
    return uid


def test_a_request_outlives_kill_9_and_is_reported_on_once(
    running: StartedNode, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    added = running.command("peers", "add", REQUESTER, f"127.0.0.1:{port}", "--may", "commit")
    assert added.returncode == 0, added.stderr
    made = make.data_set(1)
    path = tmp_path / "1.dcm"
    path.write_bytes(make.part10_bytes(made))
    assert [outcome.status for outcome in running.send([path])] == [0]
    pair = (str(made.SOPClassUID), str(made.SOPInstanceUID))

    uid = _asked(running, [pair])
    running.kill()  # and the supervisor with what is left
    running.start()
    with reporting(port) as peer:
        running.wait_until_ready()
        wait_for("the report", lambda: peer.reports)
        (told,) = running.json("/api/commitments")["commitments"]
        assert told["transaction_uid"] == uid
        wait_for("the note of it", lambda: _state(running) == "reported")
        _kill(running, "worker")
        running.restart()
        assert [(one.transaction_uid, one.committed) for one in peer.reports] == [(uid, [pair])]
    said = running.command("commitments")
    assert "reported" in said.stdout, said.stderr


def _state(node: StartedNode) -> str:
    (told,) = node.json("/api/commitments")["commitments"]
    return str(told["state"])
