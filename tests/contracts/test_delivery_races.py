"""Doors, sweeps, completions and workers all at once, on every database: each instance goes once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import suppress

from pacs.archive import Archive, Held
from pacs.delivery import Deliverer, Outcome
from pacs.errors import Unavailable
from pacs.forwarding import FORWARD, Forwarding, Rule, Trigger
from pacs.index import Index
from pacs.peers import Peer, Peers, Right
from pacs.store.files import FileStore
from pacs.worker import Worker
from pacs.workflow import Plan, Workflow
from tests import make

STUDIES, INSTANCES = 4, 8
PEERS = ("NEAR", "FAR")
WORKERS = 3
WHOLE = len(PEERS) * STUDIES * INSTANCES


class Wire:
    """Stands for the peers: it takes everything, and says how many lanes were busy at once."""

    def __init__(self) -> None:
        self.sent: Counter[tuple[str, str]] = Counter()
        self.busy: Counter[str] = Counter()
        self.busiest = 0
        self.lock = threading.Lock()

    def send(
        self, _archive: Archive, peer: Peer, held: Sequence[Held], _halt: threading.Event
    ) -> Generator[Outcome | None, None, None]:
        with self.lock:
            self.busy[peer.ae_title] += 1
            self.busiest = max(self.busiest, self.busy[peer.ae_title])
        for one in held:
            with self.lock:
                self.sent[peer.ae_title, one.sop_instance_uid] += 1
            yield Outcome(one.sop_instance_uid, 0)
        with self.lock:
            self.busy[peer.ae_title] -= 1


class Machine:
    """One archive whose every part runs in threads of its own."""

    def __init__(self, store: FileStore, index: Index, wire: Wire) -> None:
        self.archive = Archive("main", store, index)
        self.stop = threading.Event()
        self.forwarding = Forwarding(index, self.archive, {}, is_us=lambda _: False)
        self.workflow = Workflow(
            index,
            self.archive,
            Plan(),
            quiet_s=0.01,
            consequences=[self.forwarding.on_complete],
        )
        deliverer = Deliverer(
            index,
            lambda _: self.archive,
            wire.send,
            is_us=lambda _: False,
            tell=lambda _title, _error: None,
            stop=self.stop,
        )
        self.worker = Worker(index, {FORWARD: deliverer.handle})
        peers = Peers(index)
        for title in PEERS:
            rights = frozenset({Right.RECEIVE})
            peers.put(make.READER, Peer(title, "192.0.2.9", 104, rights=rights))
            for trigger in (Trigger.RECEIVED, Trigger.COMPLETE):
                rule = Rule(f"{title}-{trigger.value}", title, trigger)
                self.forwarding.put(make.READER, rule)

    def sweep(self) -> None:
        """Sweep until it stops; what did not finish is done by the next, as in the node."""
        while not self.stop.wait(0.01):
            with suppress(Unavailable):
                self.forwarding.sweep()
                self.workflow.complete_quiet_studies()

    def receive(self, study: int) -> None:
        """Store one study."""
        for number in range(INSTANCES):
            made = make.data_set(number, study_instance_uid=make.uid("all", study))
            self.archive.store(make.SCANNER, make.incoming(made))

    def run(self) -> None:
        """Receive and forward until everything is told as delivered, or for half a minute."""
        background = [threading.Thread(target=self.sweep) for _ in range(2)]
        background += [
            threading.Thread(target=self.worker.run, args=(self.stop,)) for _ in range(WORKERS)
        ]
        doors = [threading.Thread(target=self.receive, args=(study,)) for study in range(STUDIES)]
        for thread in background + doors:
            thread.start()
        for thread in doors:
            thread.join()
        until = time.monotonic() + 30
        while self.delivered() < WHOLE and time.monotonic() < until:
            time.sleep(0.05)
        self.stop.set()
        for thread in background:
            thread.join()

    def delivered(self) -> int:
        return sum(one.delivered for one in self.forwarding.traffic())


def test_all_at_once_each_instance_goes_once_and_each_peer_is_met_once_at_a_time(
    file_store: FileStore, index: Index
) -> None:
    wire = Wire()
    machine = Machine(file_store, index, wire)
    machine.run()
    assert machine.delivered() == len(wire.sent) == WHOLE
    assert set(wire.sent.values()) == {1}
    assert wire.busiest == 1
