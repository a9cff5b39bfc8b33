"""The supervisor: one process per role, watched, restarted, and drained together.

Roles share nothing but store and index, so one of them may die at any moment without harm; it is
started again, after growing pauses if it keeps dying. Each role holds the reading end of a pipe of
ours, so none outlives us. Of a door there may be several processes behind its port.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from pacs.config import Config
from pacs.node.doors import Doors

WATCH_S: Final = 0.2  # how often the roles are looked at
PAUSE_S_MAX: Final = 30.0  # the longest pause before a role that keeps dying is started again
STEADY_S: Final = 30.0  # a role that ran this long starts again with the shortest pause
KILL_S: Final = 3.0  # what SIGTERM is given beyond the drain before SIGKILL follows

log = logging.getLogger(__name__)


@dataclass
class _Role:
    """One role's process, and how it has been doing."""

    name: str
    number: int  # among the processes of this role, from 0
    process: subprocess.Popen[bytes]
    started_at: float = field(default_factory=time.monotonic)
    failures: int = 0
    not_before: float = 0.0


class Supervisor:
    """Runs the roles of one machine."""

    def __init__(self, config: Config, roles: Sequence[str], doors: Doors) -> None:
        self._config = config
        self._doors = doors
        copies = {"dimse": config.dimse.receivers, "web": config.http.workers}
        self._roles = [
            _Role(name, number, self._spawn(name, number))
            for name in roles
            for number in range(copies.get(name, 1))
        ]

    @property
    def pids(self) -> dict[str, int]:
        """The first process of each role."""
        return {role.name: role.process.pid for role in self._roles if not role.number}

    @property
    def processes(self) -> dict[str, list[int]]:
        """Every process of each role."""
        found: dict[str, list[int]] = {}
        for role in self._roles:
            found.setdefault(role.name, []).append(role.process.pid)
        return found

    def _spawn(self, name: str, number: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pacs.node.roles", name],
            stdin=subprocess.PIPE,
            pass_fds=self._doors.descriptors(name),
        )
        assert process.stdin is not None
        # The settings may hold secrets: they go through the pipe, not the command line.
        lines = f"{self._config.model_dump_json()}\n{self._doors.told(name, number)}\n"
        process.stdin.write(lines.encode())
        process.stdin.flush()
        return process

    def run(self, stop: threading.Event) -> None:
        """Watch the roles until stop is set, then drain them."""
        try:
            while not stop.wait(WATCH_S):
                for role in self._roles:
                    self._watch(role)
        finally:
            self.stop()

    def _watch(self, role: _Role) -> None:
        code = role.process.poll()
        at = time.monotonic()
        if code is None:
            return
        if not role.not_before:
            role.failures = 1 if at - role.started_at > STEADY_S else role.failures + 1
            role.not_before = at + min(PAUSE_S_MAX, 0.1 * 2**role.failures)
            log.warning("the %s role ended with %d and will be started again", role.name, code)
            self._doors.forget(role.name, role.number)
        elif at >= role.not_before:
            _close_pipe(role.process)
            role.process = self._spawn(role.name, role.number)
            role.started_at, role.not_before = at, 0.0

    def stop(self) -> None:
        """Drain every role; what does not end in time is killed."""
        self._doors.close()  # or callers would wait in line for a receiver that has gone
        for role in self._roles:
            role.process.terminate()
        deadline = time.monotonic() + self._config.limits.drain_s + KILL_S
        for role in self._roles:
            try:
                role.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.warning("the %s role did not end in time and was killed", role.name)
                role.process.kill()
                role.process.wait()
            _close_pipe(role.process)


def _close_pipe(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
