"""A node that forwards, without processes of its own: a test moves its worker step by step."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import update

from pacs.archive import Archive
from pacs.config import Config, Dimse
from pacs.decode import Decoder
from pacs.delivery import Confirm, Deliverer
from pacs.dimse.scp import Receiver
from pacs.dimse.upper_layer import DimseLimits
from pacs.forwarding import FORWARD, Delivery, Forwarding, Rule, Trigger
from pacs.index.schema import jobs as jobs_table
from pacs.node import Node, compose
from pacs.peers import Peer, Right
from pacs.worker import Worker
from tests.unit.dimse.scanner import NO_CREDENTIALS, OPERATOR


@dataclass
class Forwarder:
    """One node and its worker."""

    node: Node
    port: int
    worker: Worker
    stop: threading.Event
    confirmed: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)

    @property
    def archive(self) -> Archive:
        return self.node.identified

    @property
    def forwarding(self) -> Forwarding:
        return self.node.forwarding

    def peer(self, ae_title: str, port: int) -> None:
        """List a peer that may receive, and store."""
        rights = frozenset({Right.RECEIVE, Right.STORE})
        self.node.peers.put(OPERATOR, Peer(ae_title, "127.0.0.1", port, rights=rights))

    def rule(
        self,
        peer: str,
        trigger: Trigger = Trigger.RECEIVED,
        conditions: Mapping[str, Sequence[str]] | None = None,
        *,
        name: str = "",
        project: str = "",
        commitment: bool = False,
    ) -> None:
        """Have a rule."""
        rule = Rule(
            name or f"to-{peer}",
            peer,
            trigger,
            conditions or {},
            project=project,
            commitment=commitment,
        )
        self.forwarding.put(OPERATOR, rule)

    def work(self) -> int:
        """Read the feed, complete what is quiet, and do every job that is due now; how many."""
        self.node.workflow.complete_quiet_studies()
        self.forwarding.sweep()
        done = 0
        while not self.stop.is_set() and self.worker.step():
            done += 1
        return done

    def make_due(self) -> None:
        """Let the pauses of all jobs be over."""
        with self.node.index.write() as connection:
            connection.execute(update(jobs_table).values(not_before=0.0))

    def deliveries(self, *, peer: str = "", state: str = "") -> list[Delivery]:
        """Its deliveries, newest first."""
        return self.forwarding.deliveries(peer=peer, state=state)

    def only(self) -> Delivery:
        """Its one delivery."""
        (one,) = self.deliveries()
        return one

    def last_error(self, ae_title: str) -> str:
        """What the list of peers says of one."""
        return self.node.peers.get(ae_title).last_error


@contextmanager
def forwarder(
    folder: Path,
    *,
    ae_title: str = "ISOCENTER",
    index: str = "",
    confirm: Callable[[Forwarder], Confirm] | None = None,
) -> Iterator[Forwarder]:
    """A node with an open DIMSE door; its studies are complete at once when asked."""
    config = Config(
        data=folder,
        index=index,
        dimse=Dimse(aet=ae_title, port=0),
        study={"quiet_s": 1e-9},
        projects=("demo",),
    )
    with ExitStack() as stack:
        node = compose(config)
        stack.callback(node.close)
        receiver = Receiver(
            node.identified,
            node.peers,
            ae_title=ae_title,
            port=0,
            credentials=NO_CREDENTIALS,
            limits=DimseLimits(),
        )
        receiver.start()
        stack.callback(receiver.stop)
        stop = threading.Event()
        made = Forwarder(node, receiver.port, Worker(node.index, {}), stop)
        deliverer = Deliverer(
            node.index,
            node.archive,
            node.sender(stack.enter_context(Decoder())),
            is_us=lambda peer: peer.port == receiver.port,
            tell=node.peers.note,
            stop=stop,
            confirm=confirm(made) if confirm else None,
        )
        made.worker = Worker(node.index, {FORWARD: deliverer.handle})
        yield made
