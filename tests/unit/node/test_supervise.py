"""The supervisor: what dies is started again, and nothing outlives the end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pacs.config import Config
from pacs.node import compose
from pacs.node.supervise import Supervisor
from tests.story.running import wait_for


@contextmanager
def _supervised(data: Path, *roles: str) -> Iterator[Supervisor]:
    config = Config(data=data)
    compose(config).close()
    supervisor, stop = Supervisor(config, roles), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    try:
        yield supervisor
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
    with _supervised(tmp_path, "worker") as supervisor:
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
