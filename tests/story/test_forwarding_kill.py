"""A worker killed in mid-delivery: everything arrives in the end, and nothing more than twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, cast

import pytest
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.dimse_primitives import C_STORE

from tests import make
from tests.story.running import StartedNode, free_ports, started_node, wait_for

INSTANCES: Final = 120
ANSWER_S: Final = 0.02  # what the destination takes for one, so that it is met at work
CT: Final = "1.2.840.10008.5.1.4.1.1.2"


class Slow:
    """A destination that takes its time, and remembers what it was sent."""

    def __init__(self) -> None:
        self.sent: Counter[str] = Counter()

    def on_store(self, event: evt.Event) -> int:
        time.sleep(ANSWER_S)
        self.sent[str(cast(C_STORE, event.request).AffectedSOPInstanceUID)] += 1
        return 0


@contextmanager
def listening(slow: Slow, port: int) -> Iterator[None]:
    entity = ApplicationEntity("DEST")
    entity.add_supported_context(CT)
    server = entity.start_server(
        ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, slow.on_store)]
    )
    assert server is not None
    try:
        yield
    finally:
        server.shutdown()


def order(node: StartedNode, method: str, path: str, body: object) -> None:
    answer = node.client.request(method, path, json=body)
    assert answer.is_success, answer.text


def forwarding_to(node: StartedNode, port: int) -> None:
    peer = {"host": "127.0.0.1", "port": port, "rights": ["receive"]}
    order(node, "PUT", "/api/peers/DEST", peer)
    order(node, "PUT", "/api/rules/all", {"peer": "DEST", "trigger": "received"})


def send_study(node: StartedNode, folder: Path) -> set[str]:
    folder.mkdir()
    uids = set()
    for made in make.study(INSTANCES, study_instance_uid=make.uid(str(folder))):
        (folder / f"{made.InstanceNumber:04}.dcm").write_bytes(make.part10_bytes(made))
        uids.add(str(made.SOPInstanceUID))
    assert all(outcome.status == 0 for outcome in node.send([folder]))
    return uids


def all_delivered(node: StartedNode) -> bool:
    told = node.json("/api/deliveries")
    return bool(told["deliveries"]) and all(
        one["state"] == "delivered" for one in told["deliveries"]
    )


def end_leases(node: StartedNode) -> None:
    """Let the time pass that a lost worker's lease still had."""
    with closing(sqlite3.connect(node.data / "index.db", timeout=10)) as index, index:
        index.execute("UPDATE jobs SET lease_until = 0 WHERE state = 'running'")


@pytest.mark.timeout(180)
def test_a_worker_killed_in_mid_delivery_loses_nothing(tmp_path: Path) -> None:
    slow, (port,) = Slow(), free_ports(1)
    with started_node(tmp_path) as node, listening(slow, port):
        forwarding_to(node, port)
        uids = send_study(node, tmp_path / "sent")
        wait_for("the delivery to be under way", lambda: len(slow.sent) > INSTANCES // 4)
        os.kill(node.roles()["worker"], signal.SIGKILL)
        end_leases(node)
        wait_for("everything to arrive", lambda: set(slow.sent) == uids)
        wait_for("the end to be told", lambda: all_delivered(node))
        assert max(slow.sent.values()) <= 2
        assert slow.sent.total() < 2 * INSTANCES, "what was noted is not sent again"
        node.stop()
        assert node.command("fsck").returncode == 0


@pytest.mark.timeout(180)
def test_a_peer_that_was_away_gets_everything_once(tmp_path: Path) -> None:
    slow, (port,) = Slow(), free_ports(1)
    with started_node(tmp_path) as node:
        forwarding_to(node, port)
        uids = send_study(node, tmp_path / "sent")

        def is_told() -> bool:
            (peer,) = node.json("/api/deliveries")["peers"] or [{}]
            return bool(peer.get("last_error") == "nobody listens at that port")

        wait_for("the peer to be missed", is_told)
        with listening(slow, port):
            order(node, "POST", "/api/deliveries/retry?peer=DEST", None)
            wait_for("everything to arrive", lambda: set(slow.sent) == uids)
            wait_for("the end to be told", lambda: all_delivered(node))
        assert max(slow.sent.values()) == 1
