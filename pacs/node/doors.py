"""The ports of a node, bound once by the supervisor and inherited by its roles.

So nobody else can take a port between two lives of a role, a caller waits while a role is started
anew instead of being refused, and several receivers can answer behind one port. A role gets its
sockets as descriptors, which it is told on its standard input.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pacs.config import Config
from pacs.dimse import ledger
from pacs.dimse.doors import Door, listening
from pacs.dimse.ledger import Ledger
from pacs.errors import Broken

# How long a busy port is waited for: the roles of a supervisor that was killed are gone by then.
PORT_S_MAX: Final = 5.0
POLL_S: Final = 0.1

DIMSE, TLS, HTTP = "dimse", "dimse_tls", "http"
# Where the settings of each door stand.
SETTING: Final = {DIMSE: ("dimse", "port"), TLS: ("dimse", "tls_port"), HTTP: ("http", "port")}
DOORS_OF: Final = {"dimse": (DIMSE, TLS), "web": (HTTP,), "worker": ()}


@dataclass(frozen=True, slots=True)
class Doors:
    """Listening sockets by door, and for those of DIMSE the descriptors of their ledgers."""

    sockets: Mapping[str, socket.socket]
    ledgers: Mapping[str, int]
    slots_max: int

    def descriptors(self, role: str) -> tuple[int, ...]:
        """What a role inherits."""
        names = DOORS_OF[role]
        found = [self.sockets[name].fileno() for name in names if name in self.sockets]
        return (*found, *(self.ledgers[name] for name in names if name in self.ledgers))

    def told(self, role: str, number: int) -> str:
        """What the role is told of them, as a line of JSON; `number` counts processes of a role."""
        names = [name for name in DOORS_OF[role] if name in self.sockets]
        return json.dumps(
            {
                "number": number,
                "slots_max": self.slots_max,
                "sockets": {name: self.sockets[name].fileno() for name in names},
                "ledgers": {name: self.ledgers[name] for name in names if name in self.ledgers},
            }
        )

    def forget(self, role: str, number: int) -> None:
        """Free what a dead receiver held in the ledgers."""
        for name in DOORS_OF[role]:
            if name in self.ledgers:
                descriptor = self.ledgers[name]
                Ledger(descriptor, slots_max=self.slots_max, receiver=number).clear()

    def close(self) -> None:
        """Listen no more. Roles that still run have sockets of their own."""
        for one in self.sockets.values():
            one.close()


@dataclass(frozen=True, slots=True)
class Inherited:
    """The doors of one role's process."""

    http: socket.socket | None = None
    dimse: Sequence[Door] = ()  # the plain one first, then TLS

    @classmethod
    def of(cls, line: str) -> Inherited:
        """What `Doors.told` said, with the descriptors opened."""
        told = json.loads(line)
        sockets = {name: socket.socket(fileno=fd) for name, fd in told["sockets"].items()}
        doors = [
            Door(
                sockets[name],
                Ledger(told["ledgers"][name], slots_max=told["slots_max"], receiver=told["number"]),
            )
            for name in (DIMSE, TLS)
            if name in sockets
        ]
        return cls(sockets.get(HTTP), doors)


def open_doors(
    config: Config, roles: Sequence[str], *, or_any: bool = False
) -> tuple[Config, Doors]:
    """Bind every port that the roles need; the settings as they came true, ports 0 replaced.

    With `or_any`, a port that another program has is replaced too. Raises Broken otherwise.
    """
    sockets: dict[str, socket.socket] = {}
    for name in (name for role in roles for name in DOORS_OF[role]):
        section, key = SETTING[name]
        wanted = getattr(getattr(config, section), key)
        if wanted is None:
            continue
        try:
            sockets[name] = _claimed(config.bind, wanted, f"{section}.{key}", or_any=or_any)
        except Broken:
            for one in sockets.values():
                one.close()
            raise
        config = _with(config, section, key, sockets[name].getsockname()[1])
    ledgers = {name: _ledger(config) for name in sockets if name != HTTP}
    return config, Doors(sockets, ledgers, config.limits.associations_max)


def _claimed(bind: str, wanted: int, setting: str, *, or_any: bool) -> socket.socket:
    """A socket on the wanted port. Raises Broken where another program keeps it."""
    deadline = time.monotonic() + PORT_S_MAX
    while True:
        try:
            return listening(bind, wanted)
        except Broken:
            if or_any:
                return listening(bind, 0)
            if time.monotonic() > deadline:
                sentence = f"{bind}:{wanted} is in use; stop who has it, or set {setting}"
                raise Broken(sentence) from None
        time.sleep(POLL_S)


def _with(config: Config, section: str, key: str, value: int) -> Config:
    changed = getattr(config, section).model_copy(update={key: value})
    return config.model_copy(update={section: changed})


def _ledger(config: Config) -> int:
    with tempfile.TemporaryFile() as file:
        return ledger.make(
            file.fileno(),
            receivers=config.dimse.receivers,
            slots_max=config.limits.associations_max,
        )
