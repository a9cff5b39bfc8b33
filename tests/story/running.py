"""A whole node as its users start it: `isocenter serve` in processes of its own.

A test sends, kills, stops and starts it again on the same data, and looks at it only through its
doors, its commands and its output. `log` holds everything that every role ever wrote to its
standard output and error.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from pacs.dicom.part10 import read_part10
from pacs.dimse import scu
from pacs.dimse.scu import Peer, SendOutcome, Source

ISOCENTER: Final = Path(sys.executable).parent / "isocenter"
READY_S_MAX: Final = 60.0
STOP_S_MAX: Final = 30.0
RESULTS_S_MAX: Final = 120.0
POLL_S: Final = 0.05
LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(15_000, 32_000)
AS_STORED: Final = {"Accept": "application/dicom; transfer-syntax=*"}
ENDED: Final = frozenset({"succeeded", "failed", "skipped", "superseded"})

Value = TypeVar("Value")


def wait_for(what: str, look: Callable[[], Value], *, seconds: float = RESULTS_S_MAX) -> Value:
    """What `look` gives once it gives something; fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(POLL_S)
    return found


def free_ports(number: int) -> list[int]:
    """Ports that nobody uses now, all different.

    They lie below those that the kernel lends to callers: a caller that ended would keep such a
    one for a minute, and the node could not bind it.
    """
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError):
            socket.create_server((LOOPBACK, port)).close()
            found.append(port)
        if len(found) == number:
            break
    assert len(found) == number, "this machine has no free ports"
    return found


class StartedNode:
    """One node's data, ports and settings; its processes come and go."""

    def __init__(
        self, folder: Path, *, store: str = "", index: str = "", quiet_s: float = 0.5
    ) -> None:
        self.data = folder / "data"
        self.log = folder / "log"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        self.dimse_port, self.http_port = free_ports(2)
        self.client = httpx.Client(base_url=f"http://{LOOPBACK}:{self.http_port}", timeout=30)
        self._folder = folder
        self._settings = {
            "TMPDIR": str(self.temporary),
            "ISOCENTER_DATA": str(self.data),
            "ISOCENTER_STORE": store,
            "ISOCENTER_INDEX": index,
            "ISOCENTER_STUDY__QUIET_S": str(quiet_s),
            "ISOCENTER_DIMSE__PORT": str(self.dimse_port),
            "ISOCENTER_HTTP__PORT": str(self.http_port),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    # processes

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """Run `serve` and return; `wait_until_ready` waits for its doors."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [ISOCENTER, "serve", *options],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def wait_until_ready(self) -> None:
        """Return once both doors answer."""
        wait_for("the node", self._is_ready, seconds=READY_S_MAX)

    def _is_ready(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.dimse_port), timeout=1).close()
            return self.client.get("/readyz").is_success
        except (OSError, httpx.TransportError):
            assert self.processes[-1].poll() is None, self.said()
            return False

    def roles(self, supervisor: subprocess.Popen[bytes] | None = None) -> dict[str, int]:
        """The process id of each role that lives, as the kernel tells it."""
        parent = (supervisor or self.processes[0]).pid
        return {role: pid for pid, role in _roles_below(parent)}

    def stop(self) -> None:
        """End it as an operator does, which must succeed within the promised time."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            assert process.wait(STOP_S_MAX) == 0, self.said()
        self.processes.clear()

    def kill(self) -> None:
        """End the supervisors at once; their roles notice and follow."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes.clear()

    def restart(self) -> None:
        """Stop in good order, start, wait."""
        self.stop()
        self.start()
        self.wait_until_ready()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one command of this node to its end."""
        return subprocess.run(
            [ISOCENTER, *arguments],
            cwd=self._folder,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=STOP_S_MAX * 4,
            check=False,
        )

    def _environment(self) -> dict[str, str]:
        others = {k: v for k, v in os.environ.items() if not k.startswith("ISOCENTER_")}
        return others | self._settings

    def said(self) -> str:
        """Everything that every role wrote so far."""
        return self.log.read_text(errors="replace")

    # doors

    def send(self, paths: Iterable[Path]) -> list[SendOutcome]:
        """Files and folders to it by C-STORE on one association."""
        peer = Peer(LOOPBACK, self.dimse_port, "ISOCENTER", "SCANNER")
        return list(scu.send([Source(path) for path in _files(paths)], peer))

    def dicom_web(self, project: str = "") -> str:
        """The address of a DICOMweb service."""
        prefix = f"/research/{project}" if project else ""
        return f"{self.client.base_url}{prefix}/dicom-web".replace("//dicom", "/dicom")

    def json(self, path: str, **parameters: str) -> Any:  # noqa: ANN401 - JSON of any shape
        """What a path answers; an empty list for 204."""
        answer = self.client.get(path, params=parameters)
        assert answer.is_success, (path, answer.status_code, answer.text)
        return [] if answer.status_code == 204 else answer.json()

    def data_set(self, url: str) -> bytes:
        """The data set of an instance by WADO-RS, byte for byte."""
        answer = self.client.get(url, headers=AS_STORED)
        assert answer.is_success, (url, answer.status_code)
        return bytes(read_part10(answer.content).data_set)

    def jobs(self, study: str) -> list[dict[str, Any]]:
        """The jobs of a study, newest first."""
        return list(self.json("/api/jobs", study=study, limit="1000")["jobs"])

    def runs(self, study: str) -> list[dict[str, Any]]:
        """The AI runs of a study, newest generation first."""
        return list(self.json(f"/api/studies/{study}/results")["results"])

    def visible_runs(self, study: str) -> list[dict[str, Any]]:
        """The runs of a study that nothing has superseded."""
        return [run for run in self.runs(study) if run["state"] != "superseded"]

    def wait_for_results(self, study: str, *, generation: int = 1) -> list[dict[str, Any]]:
        """The visible runs once a study is complete, at this generation or later, and jobs ended."""

        def ended() -> bool:
            status = self.json("/api/worklist-status")["studies"][study]
            jobs = self.jobs(study)  # after the status, whose generation they must show
            return (
                status["state"] == "complete"
                and status["generation"] >= generation
                and status["generation"] in {job["generation"] for job in jobs}
                and all(job["state"] in ENDED for job in jobs)
            )

        wait_for(f"the results of generation {generation}", ended)
        return self.visible_runs(study)


@contextmanager
def started_node(folder: Path, **settings: Any) -> Iterator[StartedNode]:  # noqa: ANN401 - of StartedNode
    """A node that serves; whatever became of it, nothing of it is left afterwards."""
    node = StartedNode(folder, **settings)
    node.start()
    try:
        node.wait_until_ready()
        yield node
    finally:
        node.client.close()
        node.kill()


def by_tag(rows: Iterable[Mapping[str, Any]], tag: str) -> list[Any]:
    """The first value of an attribute in each row of a QIDO-RS answer."""
    return [row[tag]["Value"][0] for row in rows]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(path.glob("*.dcm")) if path.is_dir() else (path,)


def _roles_below(parent: int) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = entry.joinpath("stat").read_text().rpartition(")")[2].split()
            words = entry.joinpath("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended while we looked
        if int(status[1]) == parent and b"pacs.node.roles" in words:
            yield int(entry.name), words[words.index(b"pacs.node.roles") + 1].decode()
