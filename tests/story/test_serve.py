"""`isocenter serve` in bad company: busy ports, dead supervisors, senders that hold on, full disks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import pytest
from pynetdicom.ae import ApplicationEntity

from pacs.archive import Scope, upkeep
from pacs.config import Config
from pacs.node import compose
from tests import make
from tests.story.running import LOOPBACK, StartedNode, started_node, wait_for

pytestmark = pytest.mark.timeout(120)

SENT_AWAY: Final = (
    (None, "refused: it is busy"),
    (0xA700, "the store's disk is nearly full"),
    (0xA700, "the store's disk is full"),
)
DISK_BYTES: Final = 320 << 20  # the store wants 256 MiB to stay free
VERIFICATION: Final = "1.2.840.10008.1.1"
MOUNT, UMOUNT = shutil.which("mount"), shutil.which("umount")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StartedNode]:
    """A node that nobody has started yet."""
    node = StartedNode(tmp_path)
    yield node
    node.client.close()
    node.kill()


def _echo(node: StartedNode) -> int:
    ae = ApplicationEntity("SCANNER")
    ae.add_requested_context(VERIFICATION)
    association = ae.associate(LOOPBACK, node.dimse_port, ae_title="ISOCENTER")
    assert association.is_established
    status = association.send_c_echo()
    association.release()
    return int(status.Status)


def test_a_busy_port_is_named_and_serve_ends(node: StartedNode) -> None:
    with socket.create_server((LOOPBACK, node.http_port)):
        ended = node.command("serve")
    assert ended.returncode == 1
    assert ended.stderr == (
        f"isocenter: {LOOPBACK}:{node.http_port} is in use; stop who has it, or set http.port\n"
    )


def test_a_node_is_not_opened_to_the_network(node: StartedNode) -> None:
    ended = node.command("serve", "--bind", "0.0.0.0")
    assert ended.returncode == 2
    assert "no users are configured" in ended.stderr
    assert not node.data.exists()


def test_a_node_whose_supervisor_was_killed_leaves_nothing_and_starts_again(
    node: StartedNode,
) -> None:
    node.start()
    node.wait_until_ready()
    orphans = list(node.roles().values())
    assert len(orphans) == 3
    holding = socket.create_connection((LOOPBACK, node.dimse_port))
    node.kill()
    node.start()
    wait_for("the orphans' end", lambda: not any(map(_is_alive, orphans)), seconds=10)
    node.wait_until_ready()
    holding.close()
    assert _echo(node) == 0
    node.stop()


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_under_load_ends_in_time_and_loses_nothing(
    node: StartedNode, tmp_path: Path
) -> None:
    node.start()
    node.wait_until_ready()
    sent = tmp_path / "sent"
    sent.mkdir()
    for number, made in enumerate(make.study(400)):
        (sent / f"{number:03}.dcm").write_bytes(make.part10_bytes(made))
    kept: list[str] = []

    def send() -> None:
        kept.extend(outcome.label for outcome in node.send([sent]) if outcome.is_stored)

    sender = threading.Thread(target=send)
    idle = socket.create_connection((LOOPBACK, node.dimse_port))
    sender.start()
    wait_for("the first slices", lambda: node.json("/dicom-web/instances", limit="1"))
    began = time.monotonic()
    node.stop()  # which looks at exit code and time
    assert time.monotonic() - began < 30
    sender.join()
    idle.close()
    with closing(compose(Config(data=node.data))) as stopped:
        held = stopped.identified.retrieve(make.READER, Scope(make.uid("study")))
        assert upkeep.fsck(stopped.identified) == []
    assert len(kept) <= len(held) <= len(kept) + 1  # an answer may be lost, an instance not


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A disk of its own, mounted there; only root may, and not everywhere."""
    folder.mkdir()
    assert MOUNT is not None
    assert UMOUNT is not None
    options = f"size={DISK_BYTES}"
    mounted = subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run([UMOUNT, "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or MOUNT is None, reason="only root may mount a small disk")
def test_a_full_disk_refuses_with_a700_and_recovers(tmp_path: Path) -> None:
    paths = []
    for number in (1, 2, 3):
        paths.append(tmp_path / f"{number}.dcm")
        paths[-1].write_bytes(make.part10_bytes(make.data_set(number)))
    with _small_disk(tmp_path / "data"), started_node(tmp_path) as node:
        roles = node.roles()
        filler = node.data / "filler"
        assert [one.status for one in node.send(paths[:1])] == [0]
        node.wait_for_results(make.uid("study"))

        _fill(filler, DISK_BYTES // 2)
        (nearly,) = node.send(paths[1:2])
        # An association that proposes nothing but storage is told to come back (PS3.8 9.3.4), unless
        # it comes in the moment before the receiver has noticed.
        assert (nearly.status, nearly.comment) in SENT_AWAY, nearly
        assert node.client.get("/readyz").status_code == 503
        assert len(node.json("/dicom-web/instances", limit="10")) == 1

        _fill(filler, DISK_BYTES)
        (full,) = node.send(paths[2:3])
        assert (full.status, full.comment) in SENT_AWAY, full
        assert _echo(node) == 0
        assert node.client.get("/dicom-web/studies?PatientID=other").status_code in (200, 204, 503)
        assert node.client.get("/livez").status_code == 200

        filler.unlink()
        assert [one.status for one in node.send(paths)] == [0, 0, 0]
        node.wait_for_results(make.uid("study"), generation=2)
        assert node.roles() == roles, "nobody had to be started again"
        node.stop()
        assert node.command("fsck").returncode == 0
        assert node.command("scrub").returncode == 0


def _fill(filler: Path, size_bytes: int) -> None:
    """Write until the file has this size or the disk is full."""
    block = bytes(1 << 16)
    with filler.open("wb", buffering=0) as file:
        try:
            while file.tell() < size_bytes:
                file.write(block)
        except OSError:
            os.sync()


def test_roles_can_run_apart(node: StartedNode) -> None:
    """Store and index are all that roles share, so each may be started by itself."""
    for roles in ("dimse,dimse", "web"):
        node.start("--roles", roles)
    node.wait_until_ready()
    found = [sorted(node.roles(process)) for process in node.processes]
    assert found == [["dimse"], ["web"]]
    assert _echo(node) == 0
    os.kill(node.processes[0].pid, signal.SIGINT)  # Ctrl-C ends it in order, too
    assert node.processes[0].wait(30) == 0
