"""A node to measure: `isocenter serve` as users run it, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.figures import ROOT
from pacs.cli.serve import wait_until_ready, with_free_ports
from pacs.config import ENVIRONMENT_PREFIX, Config, Dimse, Http
from pacs.errors import Broken, Unreachable

STOP_S: Final = 30.0  # a node that has not stopped by then is killed


@contextmanager
def serving(data: Path, roles: str) -> Iterator[Config]:
    """Some roles of a node with default settings, on ports of its own. Raises Broken."""
    data.mkdir(exist_ok=True)
    # Never the usual ports: another node may hold them, and would be measured instead.
    config = with_free_ports(Config(data=data, dimse=Dimse(port=0), http=Http(port=0)))
    log = data / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pacs", "serve", "--data", data, "--roles", roles],
            env=_environment(config),
            cwd=data,  # so that no settings file of the caller's is read
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(config, roles, log)
        yield config
    finally:
        _stop(process)


def _wait(config: Config, roles: str, log: Path) -> None:
    try:
        wait_until_ready(config, roles.split(","), threading.Event())
    except Unreachable as error:
        raise Broken(f"the node did not start: {log.read_text()}") from error


def _environment(config: Config) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(ENVIRONMENT_PREFIX)}
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        f"{ENVIRONMENT_PREFIX}DIMSE__PORT": str(config.dimse.port),
        f"{ENVIRONMENT_PREFIX}HTTP__PORT": str(config.http.port),
    }


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
