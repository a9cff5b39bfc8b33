"""Why an association did not come about, or ended, in plain words for whoever must mend it.

The words complete a sentence that names the peer, so they speak of it as "it". They hold nothing
of what was sent, and so no patient's data.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

UNKNOWN_HOST: Final = "its host name is not known"
NO_ANSWER: Final = "it did not answer the association request in time"
BROKEN: Final = "the line broke"
BROKEN_IN_NEGOTIATION: Final = "the line broke during negotiation"
ABORTED: Final = "it aborted the association"
NOTHING_IN_COMMON: Final = "it accepts none of these SOP classes and transfer syntaxes"

_CONNECTING: Final[Mapping[int, str]] = {
    errno.ECONNREFUSED: "nobody listens at that port",
    errno.ETIMEDOUT: "its host does not answer",
    errno.EHOSTUNREACH: "its host cannot be reached from here",
    errno.ENETUNREACH: "its network cannot be reached from here",
    errno.ECONNRESET: BROKEN_IN_NEGOTIATION,
    errno.EPIPE: BROKEN_IN_NEGOTIATION,
}
# Source and diagnostic of an A-ASSOCIATE-RJ (PS3.8 9.3.4).
_REFUSALS: Final[Mapping[tuple[int, int], str]] = {
    (1, 1): "it gives no reason",
    (1, 2): "it does not know the application context",
    (1, 3): "it does not know our AE title",
    (1, 7): "it is not called by this AE title",
    (2, 1): "it gives no reason",
    (2, 2): "it does not know this version of the protocol",
    (3, 1): "it is busy",
    (3, 2): "it has as many associations as it takes",
}


def of_connection(error: OSError) -> str:
    """Why a connection could not be made."""
    if isinstance(error, TimeoutError):
        return _CONNECTING[errno.ETIMEDOUT]
    return _CONNECTING.get(error.errno or 0, "the connection failed")


def of_rejection(source: int, diagnostic: int) -> str:
    """Why an A-ASSOCIATE-RJ says that there is no association (PS3.8 9.3.4)."""
    return f"refused: {_REFUSALS.get((source, diagnostic), 'it gives a reason of its own')}"
