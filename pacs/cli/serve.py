"""`isocenter serve`: run the node until Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import socket
import threading
import time
from types import FrameType
from typing import Annotated, Final

import httpx
import typer

from pacs.cli.shared import ConfigOption, DataOption, configured, say
from pacs.config import Config
from pacs.errors import BadQuery, Unreachable
from pacs.node import ROLES, compose
from pacs.node.doors import open_doors
from pacs.node.supervise import Supervisor

READY_S_MAX: Final = 60.0  # a node that does not answer by then is said to be stuck
POLL_S: Final = 0.1
# An A-ABORT (PS3.8 9.3.8): who answers closes the connection, and nothing else comes of it.
ABORT_PDU: Final = bytes.fromhex("07 00 00000004 00000000")


def serve(
    data: DataOption = None,
    config: ConfigOption = None,
    roles: Annotated[str, typer.Option(help="Which roles run here.")] = ",".join(ROLES),
    bind: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
) -> None:
    """Run the node; without options everything, on loopback, embedded."""
    settings = configured(data, config, bind=bind)
    wanted = list(dict.fromkeys(role.strip() for role in roles.split(",") if role.strip()))
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        raise BadQuery(f"--roles takes some of {', '.join(ROLES)}")
    stop = stop_on_signals()
    settings, doors = open_doors(settings, wanted)
    # Migrations and folders are made once, before the roles race for them.
    compose(settings).close()
    supervisor = Supervisor(settings, wanted, doors)
    threading.Thread(target=_announce, args=(settings, wanted, stop), daemon=True).start()
    supervisor.run(stop)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()

    def on_signal(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stop


def _announce(config: Config, roles: list[str], stop: threading.Event) -> None:
    try:
        wait_until_ready(config, roles, stop)
    except Unreachable as error:
        say(f"isocenter: {error.message}")
        return
    if not stop.is_set():
        say("Isocenter is ready, in local mode: loopback only, no log-in.")
        for line in addresses(config, roles):
            say(f"  {line}")
        say("Ctrl-C stops it.")


def addresses(config: Config, roles: list[str]) -> list[str]:
    """Where the doors are, for people."""
    web = f"http://{config.bind}:{config.http.port}"
    lines = {
        "dimse": f"DIMSE     {config.dimse.aet} at {config.bind}:{config.dimse.port}",
        "web": f"Worklist  {web}/\n  DICOMweb  {web}/dicom-web",
        "worker": "Worker    inference, de-identification, upkeep",
    }
    return [lines[role] for role in roles]


def wait_until_ready(config: Config, roles: list[str], stop: threading.Event) -> None:
    """Return when every door of roles answers. Raises Unreachable."""
    deadline = time.monotonic() + READY_S_MAX
    probes = {"dimse": _dimse_answers, "web": _web_answers}
    waiting = [role for role in roles if role in probes]
    while waiting and not stop.wait(POLL_S):
        waiting = [role for role in waiting if not probes[role](config)]
        if time.monotonic() > deadline:
            raise Unreachable(f"the {waiting[0]} role does not answer; see the log above")


def _dimse_answers(config: Config) -> bool:
    """Whether a receiver answers; a connection alone would only say that the port is bound."""
    try:
        with socket.create_connection((config.bind, config.dimse.port), timeout=1) as caller:
            caller.sendall(ABORT_PDU)
            return caller.recv(1) == b""
    except OSError:
        return False


def _web_answers(config: Config) -> bool:
    url = f"http://{config.bind}:{config.http.port}/readyz"
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.TransportError:
        return False


def free_port(wanted: int, bind: str) -> int:
    """The wanted port if it is free, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((bind, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Unreachable(f"no port of {bind} can be bound")


def with_free_ports(config: Config) -> Config:
    """The settings with ports that nobody else uses."""
    dimse = config.dimse.model_copy(update={"port": free_port(config.dimse.port, config.bind)})
    http = config.http.model_copy(update={"port": free_port(config.http.port, config.bind)})
    return config.model_copy(update={"dimse": dimse, "http": http})
