"""A port that is listened on, and the ledger of who came in by it.

Both can be handed to several receivers, each a process of its own: they answer behind one port and
keep its caps together. A caller is not turned away while a receiver is started anew.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from pacs.dimse.ledger import Ledger
from pacs.errors import Broken

WAITING_MAX: Final = 128  # connections that the kernel holds while we accept; further ones wait


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket, and its ledger."""

    socket: socket.socket
    ledger: Ledger

    @classmethod
    def opened(cls, address: str, port: int, associations_max: int) -> Door:
        """A door for one receiver. Raises Broken where the port is not to be had."""
        return cls(listening(address, port), Ledger.alone(associations_max))


def listening(address: str, port: int) -> socket.socket:
    """A socket that listens here. Raises Broken if another process does, or the address is not ours."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        made = socket.create_server((address, port), family=family, backlog=WAITING_MAX)
    except OSError as error:
        raise Broken("the port cannot be bound", port=port) from error
    made.setblocking(False)  # several receivers see one caller, and one of them gets it
    return made
