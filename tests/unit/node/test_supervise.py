"""The supervisor: what dies is started again, and nothing outlives the end."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from pacs.config import Config, Dimse, Http, Limits
from pacs.dimse import scu
from pacs.dimse.entity import VERIFICATION
from pacs.dimse.scu import Peer
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import Unreachable
from pacs.node import compose
from pacs.node.doors import open_doors
from pacs.node.supervise import Supervisor
from tests.story.running import wait_for


@contextmanager
def _supervised(
    data: Path, *roles: str, receivers: int = 1, workers: int = 1, associations_max: int = 64
) -> Iterator[tuple[Supervisor, Config]]:
    given = Config(
        data=data,
        dimse=Dimse(port=0, receivers=receivers),
        http=Http(port=0, workers=workers),
        limits=Limits(associations_max=associations_max),
    )
    config, doors = open_doors(given, roles)
    compose(config).close()
    supervisor, stop = Supervisor(config, roles, doors), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield supervisor, config
    finally:
        stop.set()
        thread.join()


def _is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_a_role_that_dies_is_started_again_with_growing_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _supervised(tmp_path, "worker") as (supervisor, _):
        (tmp_path / "keys" / "demo.key").write_bytes(b"short")  # so that it cannot start again
        first = supervisor.pids["worker"]
        os.kill(first, signal.SIGKILL)
        seen = {first}

        def is_third() -> bool:
            seen.add(supervisor.pids["worker"])
            return len(seen) == 3

        wait_for("the second start", is_third, seconds=30)
    assert not any(_is_alive(pid) for pid in seen)
    endings = [record.getMessage() for record in caplog.records]
    assert endings[:2] == [
        f"the worker role ended with {code} and will be started again" for code in (-9, 1)
    ]


def _is_answered(config: Config) -> bool:
    with suppress(Unreachable):
        scu.echo(_node(config))
        return True
    return False


def _node(config: Config) -> Peer:
    return Peer(config.bind, config.dimse.port, config.dimse.aet, "SCANNER")


def _associated(config: Config) -> PeerAssociation:
    return scu.associated(_node(config), [(VERIFICATION, ImplicitVRLittleEndian)])


def test_several_receivers_share_a_port_its_callers_and_its_cap(tmp_path: Path) -> None:
    with _supervised(tmp_path, "dimse", receivers=2, associations_max=4) as (supervisor, config):
        wait_for("an answer", lambda: _is_answered(config), seconds=60)
        pids = set(supervisor.processes["dimse"])
        # Until both have started, one of them answers every caller.
        wait_for("both receivers", lambda: _sharing(config, pids), seconds=60)
        callers = [_associated(config) for _ in range(4)]
        with pytest.raises(Unreachable, match="as many associations as it takes"):
            _associated(config)
        for caller in callers:
            caller.release()


def _sharing(config: Config, pids: set[int]) -> bool:
    """Whether four callers at once are two of each receiver's."""
    callers = [_associated(config) for _ in range(4)]
    try:
        return [_connections(pid, config.dimse.port) for pid in pids] == [2, 2]
    finally:
        for caller in callers:
            caller.release()


def _connections(pid: int, port: int) -> int:
    """How many established connections a process has on its own port, as Linux tells it."""
    ours = f":{port:04X}"
    held = {
        fields[9]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[1].endswith(ours) and fields[3] == "01"
    }
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            sockets.add(link.readlink().name.removeprefix("socket:[").removesuffix("]"))
    return len(held & sockets)


def test_pages_are_answered_while_one_of_two_processes_is_started_anew(tmp_path: Path) -> None:
    with _supervised(tmp_path, "web", workers=2) as (supervisor, config):
        url = f"http://{config.bind}:{config.http.port}/livez"
        wait_for("an answer", lambda: _is_live(url), seconds=60)
        one, other = supervisor.processes["web"]
        os.kill(one, signal.SIGKILL)
        assert all(_is_live(url) for _ in range(10))
        assert _is_alive(other)


def _is_live(url: str) -> bool:
    return httpx.get(url, timeout=30).is_success


def test_a_caller_waits_while_the_receiver_is_started_anew(tmp_path: Path) -> None:
    with _supervised(tmp_path, "dimse") as (supervisor, config):
        wait_for("an answer", lambda: _is_answered(config), seconds=60)
        standing = [_associated(config) for _ in range(3)]
        os.kill(supervisor.pids["dimse"], signal.SIGKILL)
        assert _is_answered(config), "it was refused, though the port is held"
        for one in standing:
            one.abort()


def test_no_caller_waits_for_a_node_that_is_stopping(tmp_path: Path) -> None:
    with _supervised(tmp_path, "dimse") as (_, config):
        wait_for("an answer", lambda: _is_answered(config), seconds=60)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((config.bind, config.dimse.port), timeout=5)
