"""What a DIMSE peer is told: one table from our errors to the statuses of PS3.4 and PS3.7.

An error is looked up along its class's ancestry, so a new subclass is answered like its parent
until it has a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pacs.errors import (
    BadObject,
    BadQuery,
    Conflict,
    Exhausted,
    Forbidden,
    Mismatch,
    Missing,
    NodeError,
    Unavailable,
)
from pacs.procedure_steps import AlreadyFinal, InvalidValue, MissingAttribute, MissingValue

SUCCESS: Final = 0x0000
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
STORED_WITH_WARNING: Final = 0xB007
PENDING: Final = 0xFF00
PENDING_WITH_UNSUPPORTED_KEYS: Final = 0xFF01
CANCELLED: Final = 0xFE00
SOME_FAILED: Final = 0xB000
ALL_FAILED: Final = 0xA702
DESTINATION_UNKNOWN: Final = 0xA801
NO_SUCH_INSTANCE: Final = 0x0112
NO_SUCH_EVENT: Final = 0x0113
NO_SUCH_SOP_CLASS: Final = 0x0118
NO_SUCH_ACTION: Final = 0x0123
UNRECOGNISED_OPERATION: Final = 0x0211

StatusTable = Mapping[type[NodeError], int]

# PS3.4 B.2.3 and PS3.7 C; C111 is our own code in the range of "cannot understand", as in STOW-RS.
STORE: Final[StatusTable] = {
    Mismatch: 0xA900,
    BadObject: 0xC000,
    Conflict: 0xC111,
    Forbidden: 0x0124,
    Unavailable: 0xA700,
    NodeError: 0x0110,
}

# PS3.4 C.4.1.1.4.
FIND: Final[StatusTable] = {
    Mismatch: 0xA900,
    BadObject: 0xC000,
    BadQuery: 0xC000,
    Forbidden: 0x0124,
    Unavailable: 0xA700,
    NodeError: 0x0110,
}

# PS3.4 C.4.2.1.5 and C.4.3.1.4: before the first sub-operation, whose own end has other statuses.
RETRIEVE: Final[StatusTable] = {**FIND, Unavailable: 0xA701}

# PS3.7 C, for what PS3.4 annex CC has no status of its own; the rest is in pacs/workitems/states.py.
WORKITEMS: Final[StatusTable] = {
    BadObject: 0x0106,
    BadQuery: 0x0115,
    Forbidden: 0x0124,
    Unavailable: 0x0213,
    NodeError: 0x0110,
}
# PS3.4 F.7.2 and PS3.7 C: N-CREATE, N-SET and N-GET of performed procedure steps.
PROCEDURE_STEP: Final[StatusTable] = {
    BadObject: 0x0110,
    InvalidValue: 0x0106,
    MissingAttribute: 0x0120,
    MissingValue: 0x0121,
    BadQuery: 0x0117,
    AlreadyFinal: 0x0110,
    Conflict: 0x0111,
    Missing: 0x0112,
    Forbidden: 0x0124,
    Exhausted: 0x0213,
    NodeError: 0x0110,
}
MAY_NO_LONGER_BE_UPDATED: Final = 0xA710  # the Error ID that goes with 0110 (PS3.4 F.7.2.2.4)

# PS3.7 C.5; of N-ACTION and N-EVENT-REPORT of storage commitment.
COMMIT: Final[StatusTable] = {
    BadObject: 0x0115,
    BadQuery: 0x0115,
    Forbidden: 0x0124,
    Missing: 0x0110,
    Exhausted: 0x0213,
    NodeError: 0x0110,
}

COMMENT_CHARACTERS_MAX: Final = 64  # (0000,0902) is LO; what is longer is cut off


def status_of(error: NodeError, table: StatusTable) -> int:
    """The status for an error: that of its nearest ancestor in the table."""
    return next(table[ancestor] for ancestor in type(error).__mro__ if ancestor in table)


def is_pending(status: int) -> bool:
    """Whether a response of C-FIND, C-GET or C-MOVE is to be followed by another."""
    return status in (PENDING, PENDING_WITH_UNSUPPORTED_KEYS)


def comment_of(sentence: str) -> str:
    """A sentence as Error Comment: printable ASCII without backslash, at most 64 characters."""
    readable = "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in sentence)
    return readable[:COMMENT_CHARACTERS_MAX].rstrip()
