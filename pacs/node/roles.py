"""What each role process builds and runs: DIMSE, HTTP, or the worker.

A role reads its settings and the doors it inherits, a line of JSON each, from standard input and
runs until SIGTERM, or until that input ends, which means that its supervisor is gone. Then it drains: work under way may
finish, new work is turned away.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final
from urllib.parse import urlsplit

import uvicorn

from inference.pipeline import Pipeline
from pacs import worker
from pacs.archive import recycle, series_metadata, upkeep
from pacs.archive.tagging import QueryTags
from pacs.availability import NOTIFY
from pacs.commitment import ASK, CHECK, REPORT
from pacs.config import Config
from pacs.decode import Decoder
from pacs.delivery import Deliverer
from pacs.dimse.availability import Notifications
from pacs.dimse.calls import Caller
from pacs.dimse.commitment import Delivery
from pacs.dimse.scp import Modalities, Receiver
from pacs.dimse.tls import TlsPort
from pacs.dimse.upper_layer import DimseLimits
from pacs.dimse.workitems import EventReports
from pacs.errors import NodeError
from pacs.forwarding import FORWARD
from pacs.node import Node, compose, is_us, version
from pacs.node.doors import Inherited
from pacs.procedure_steps import FORWARD as FORWARD_STEPS
from pacs.projects import Releases
from pacs.worker import Handler, Sweep, Worker
from pacs.workflow import INFER, RELEASE
from pacs.workitems import UPS_EVENT
from web.app import create_app
from web.dicomweb import IDENTIFIED
from web.dicomweb.origin import networks
from web.http1 import BoundedHead
from web.parts import Parts

UPKEEP_S: Final = 3_600.0  # how often orphans and half-written files are looked for
PURGE_S: Final = 60.0  # how often deletions are looked for whose recycle time is over
ORPHAN_S_MAX: Final = 2.0  # a role whose supervisor is gone ends within this, drained or not
DELIVERERS: Final = 4  # workers that call peers; further deliveries wait
EXPIRY_S: Final = 30.0  # how often commitments are looked at that wait for too long
STATISTICS_S: Final = 60.0  # how often the index looks at what it holds
SOCKET_MESSAGE_BYTES_MAX: Final = (
    4_096  # said to us at a WebSocket, where nothing is asked; longer: closed
)
CONNECTIONS_MAX: Final = 256  # open HTTP connections; further ones wait to be accepted

log = logging.getLogger(__name__)


def run_dimse(node: Node, doors: Inherited, stop: threading.Event) -> None:
    """Receive until stop is set. Raises Broken where a port or the TLS files are of no use."""
    limits, dimse = node.config.limits, node.config.dimse
    tls = None
    if dimse.tls_port is not None:
        tls = TlsPort(dimse.tls_port, node.credentials.accepting(dimse.tls_client_certificate))
    receiver = Receiver(
        node.identified,
        node.peers,
        ae_title=dimse.aet,
        tls=tls,
        doors=doors.dimse,
        credentials=node.credentials,
        workitems=node.workitems,
        modalities=Modalities(node.worklist, node.procedure_steps),
        limits=DimseLimits(
            associations_max=limits.associations_max,
            idle_s=limits.association_idle_s,
            spool=node.spool,
        ),
    )
    receiver.start()
    log.info("DIMSE on %s:%d", node.config.bind, receiver.port)
    if receiver.tls_port is not None:
        log.info("DICOM TLS on %s:%d", node.config.bind, receiver.tls_port)
    stop.wait()
    receiver.drain(limits.drain_s)
    receiver.stop()


def run_web(node: Node, doors: Inherited, stop: threading.Event) -> None:
    """Serve HTTP until stop is set."""
    config = node.config
    with Decoder() as decoder:
        app = create_app(
            Parts(
                identified=node.identified,
                projects={name: project.archive for name, project in node.projects.items()},
                workflow=node.workflow,
                worklist=node.worklist,
                procedure_steps=node.procedure_steps,
                models=node.models,
                peers=node.peers,
                forwarding=node.forwarding,
                workitems=node.workitems,
                echo=node.echo,
                commitments=node.commitments,
                decoder=decoder,
                spool=node.spool,
                version=version(),
                trusted_proxies=networks(config.http.trusted_proxies),
                hosts=frozenset((urlsplit(config.http.public_url).hostname or config.bind,)),
            )
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=config.bind,
                port=config.http.port,
                http=BoundedHead,
                log_config=None,
                # An access log would hold query strings, and those hold patients' names.
                access_log=False,
                server_header=False,
                # It would believe X-Forwarded-For of anybody on this machine.
                proxy_headers=False,
                limit_concurrency=CONNECTIONS_MAX,
                ws="websockets-sansio",
                ws_max_size=SOCKET_MESSAGE_BYTES_MAX,
                timeout_graceful_shutdown=int(config.limits.drain_s),
            )
        )
        threading.Thread(target=_end_with, args=(server, stop), daemon=True).start()
        log.info("HTTP on %s:%d", config.bind, config.http.port)
        # What has been built by now stays, so the collector need not walk through it at each turn.
        gc.collect()
        gc.freeze()
        server.run([doors.http] if doors.http else None)


def _end_with(server: uvicorn.Server, stop: threading.Event) -> None:
    stop.wait()
    server.should_exit = True


def run_worker(node: Node, _doors: Inherited, stop: threading.Event) -> None:
    """Take jobs until stop is set."""
    inference = node.config.inference
    with Decoder() as decoder:
        pipeline = Pipeline(
            node.identified,
            node.models,
            decoder,
            device=inference.device,
            threads_max=inference.threads,
        )
        releases = Releases(node.identified, dict(node.projects))
        computing = {INFER: pipeline.handle, RELEASE: releases.handle}
        deliverer = Deliverer(
            node.index,
            node.archive,
            node.sender(decoder),
            is_us=partial(is_us, node.config.dimse),
            tell=node.peers.note,
            stop=stop,
            confirm=lambda peer, pairs: node.commitments.ask_all(peer.ae_title, pairs),
        )
        # A peer that hangs must not hold up inference.
        delivering = {FORWARD: deliverer.handle, **_calls(node)}
        node.workitems.announce_restart()
        worker.run(
            [Worker(node.index, computing)]
            + [Worker(node.index, delivering) for _ in range(DELIVERERS)],
            [
                node.procedure_steps.settle_completed,
                node.workflow.complete_quiet_studies,
                node.workflow.fail_silent_jobs,
                node.forwarding.sweep,
                lambda: sum(series_metadata.make_due(archive) for archive in node.archives),
                lambda: sum(QueryTags(archive).fill() for archive in node.archives),
                _every(EXPIRY_S, node.commitments.expire),
                _every(STATISTICS_S, node.index.maintain),
                _every(STATISTICS_S, node.workitems.forget),
                _every(UPKEEP_S, node.worklist.remove_old),
                _every(
                    PURGE_S, lambda: sum(recycle.purge_due(archive) for archive in node.archives)
                ),
                _every(UPKEEP_S, lambda: sum(upkeep.sweep(archive) for archive in node.archives)),
            ],
            stop,
        )


def _calls(node: Node) -> dict[str, Handler]:
    """The handlers of jobs that call peers, or read for them what may take long."""
    caller = Caller(node.peers, node.config.dimse.aet, node.credentials)
    delivery = Delivery(node.commitments, caller)
    reports = EventReports(node.workitems, caller)
    public_url = node.config.http.public_url.rstrip("/")
    notifications = Notifications(
        node.identified, caller, dicom_web_url=f"{public_url}{IDENTIFIED}" if public_url else ""
    )
    return {
        CHECK: node.commitments.check,
        REPORT: delivery.report,
        ASK: delivery.ask,
        NOTIFY: notifications.handle,
        UPS_EVENT: reports.handle,
        FORWARD_STEPS: node.procedure_steps.forward,
    }


def _every(seconds: float, sweep: Sweep) -> Sweep:
    """A sweep that does its work at most so often, the first time after one such interval."""
    last = [time.monotonic()]

    def when_due() -> int:
        if time.monotonic() - last[0] < seconds:
            return 0
        last[0] = time.monotonic()
        return sweep()

    return when_due


RUN: Final[Mapping[str, Callable[[Node, Inherited, threading.Event], None]]] = {
    "dimse": run_dimse,
    "web": run_web,
    "worker": run_worker,
}


class Discreet(logging.Formatter):
    """One line a record; of an exception its type and places, since its text may quote a patient."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one printable line."""
        line = super().format(record)
        return "".join(c if c.isprintable() else " " for c in line)

    def formatException(  # noqa: N802 - the name that logging calls
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        """Type and places only."""
        kind = ei[0].__name__ if ei[0] else "no exception"
        places = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(ei[2])]
        return f"{kind} at {' > '.join(places)}"


def prepare_logging(role: str, level: str) -> None:
    """Log to standard error. Libraries that quote what they read are kept silent."""
    handler = logging.StreamHandler()
    handler.setFormatter(Discreet(f"%(asctime)s {role} %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in ("pynetdicom", "pydicom", "highdicom", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a bug's trace, made discreet
    # Warnings of pydicom and highdicom repeat the value they doubt.
    warnings.simplefilter("ignore")
    # What ends a thread or the role would be printed with its message, which may quote a patient.
    sys.excepthook = lambda _kind, bug, _trace: log.critical("a bug ended us", exc_info=bug)
    threading.excepthook = lambda ended: log.critical(
        "a bug ended a thread", exc_info=ended.exc_value
    )


def main(role: str) -> None:
    """Run one role with the settings and the doors on standard input."""
    config = Config.model_validate_json(sys.stdin.readline())
    doors = Inherited.of(sys.stdin.readline())
    prepare_logging(role, config.log_level)
    stop = threading.Event()

    def on_sigterm(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_sigterm)
    # Ctrl-C reaches the whole group; the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_supervisor, args=(stop,), daemon=True).start()
    try:
        node = compose(config)
    except NodeError as error:
        log.error("cannot start: %s", error)
        raise SystemExit(1) from None
    try:
        RUN[role](node, doors, stop)
    except NodeError as error:
        log.error("cannot serve: %s", error)
        raise SystemExit(1) from None
    finally:
        node.close()


def _watch_supervisor(stop: threading.Event) -> None:
    """Standard input ends when the supervisor does, however it died.

    A new supervisor may be waiting for our port, so there is no long drain: whoever was not
    answered sends again, and a job's lease runs out.
    """
    while os.read(sys.stdin.fileno(), 1):
        pass
    stop.set()
    time.sleep(ORPHAN_S_MAX)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
