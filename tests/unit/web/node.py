"""The HTTP door of a whole node in this process: real archives, and uvicorn on a free port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import uvicorn

from inference.registry import Registry
from pacs.access import Actor
from pacs.archive import Archive
from pacs.commitment import Commitments
from pacs.decode import Decoder
from pacs.errors import Unreachable
from pacs.forwarding import Forwarding
from pacs.index import open_index
from pacs.index.performed import Message
from pacs.peers import Peer, Peers
from pacs.procedure_steps import ProcedureSteps
from pacs.store import open_store
from pacs.workflow import Plan, Workflow
from pacs.workitems import Workitems
from pacs.worklist import Worklist
from web.app import create_app
from web.http1 import BoundedHead
from web.limits import Limits
from web.parts import Parts

TESTER = Actor("node", "test")


@dataclass(frozen=True)
class Served:
    """A running door: its parts, its address, and a client for paths below it."""

    parts: Parts
    url: str
    client: httpx.Client
    objects: Path  # where the identified archive keeps its files

    @property
    def archive(self) -> Archive:
        """The identified archive."""
        return self.parts.identified

    @property
    def dicom_web(self) -> str:
        """The address of its DICOMweb service."""
        return f"{self.url}/dicom-web"


@contextmanager
def serving(folder: Path, *, limits: Limits | None = None, store_url: str = "") -> Iterator[Served]:
    """A node with two archives, `identified` and the project `demo`, kept in folder.

    Objects may lie in another store, and everything else then in the folder.
    """
    with parts_in(folder, store_url or f"file://{folder}") as parts:
        parts = replace(parts, limits=limits or Limits())
        with _uvicorn(parts) as url, httpx.Client(base_url=url, timeout=30) as client:
            yield Served(parts, url, client, folder / "identified")


@contextmanager
def parts_in(folder: Path, store_url: str) -> Iterator[Parts]:
    """The parts of such a node, without its door."""
    index = open_index(f"sqlite:///{folder}/index.db")
    spool = folder / "spool"
    spool.mkdir()
    identified = Archive("identified", open_store(store_url, "identified"), index)
    demo = Archive("demo", open_store(store_url, "demo"), index)
    peers = Peers(index)
    workflow = Workflow(index, identified, Plan(), quiet_s=1)
    try:
        with Decoder() as decoder:
            yield Parts(
                identified=identified,
                projects={"demo": demo},
                workflow=workflow,
                worklist=Worklist(index),
                procedure_steps=ProcedureSteps(
                    index, identified.id, complete=workflow.complete, send=_nobody_is_told
                ),
                models=Registry(),
                peers=peers,
                workitems=Workitems(index, identified.id, identified.name),
                forwarding=Forwarding(
                    index, identified, {"demo": demo}, is_us=lambda peer: peer.port == 11112
                ),
                commitments=Commitments(identified),
                echo=lambda ae_title: peers.echo(ae_title, _nobody_answers),
                decoder=decoder,
                spool=spool,
                version="0.0.test",
            )
    finally:
        index.close()


def _nobody_answers(_peer: Peer) -> None:
    raise Unreachable("nobody listens at that port")


def _nobody_is_told(_peer: Peer, _uid: str, _message: Message, _is_repeat: bool) -> None:
    raise Unreachable("nobody listens at that port")


@contextmanager
def _uvicorn(parts: Parts) -> Iterator[str]:
    config = uvicorn.Config(
        create_app(parts),
        host="127.0.0.1",
        port=0,
        http=BoundedHead,
        log_level="critical",
        access_log=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "uvicorn has not started"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
