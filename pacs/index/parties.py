"""The rows of the peers: DICOM applications that we know by their AE title.

What a row allows is judged in `pacs/peers.py`. A row is replaced whole, except that what was last
heard of the peer stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Any

from sqlalchemy import Connection, Row, delete, func, select, update

from pacs.index.schema import insert_new, now, peers


@unique
class Right(Enum):
    """What a peer may ask of us, and whether we may send to it."""

    STORE = "store"
    QUERY = "query"
    RETRIEVE = "retrieve"
    COMMIT = "commit"  # it may ask for storage commitment
    WORKLIST = "worklist"  # it may ask for its worklist
    MPPS = "mpps"  # it may tell of procedure steps that it performs
    RECEIVE_MPPS = "receive-mpps"  # it is told of those that others perform
    RECEIVE = "receive"  # it may be the destination of a C-MOVE or of forwarding
    WORKITEMS = "workitems"  # it may create, find, change and watch workitems
    NOTIFY = "notify"  # it is told when a study is complete


@dataclass(frozen=True, slots=True)
class Peer:
    """One DICOM application that we know.

    `host` is a name or an address; empty or `*` for a peer that may call from anywhere and cannot
    be called. `port` is 1 to 65,535, or 0 where it cannot be called. `tls` says that we call it by
    TLS. Times are seconds since 1970; the error is in plain words, without a patient's data.
    """

    ae_title: str
    host: str
    port: int
    tls: bool = False
    rights: frozenset[Right] = frozenset()
    last_association_at: float | None = None
    last_error: str = ""
    last_error_at: float | None = None

    @property
    def is_callable(self) -> bool:
        """Whether we know where it is."""
        return self.host not in ("", "*")


def listed(connection: Connection) -> list[Peer]:
    """Every peer, by AE title."""
    return [_peer(row) for row in connection.execute(select(peers).order_by(peers.c.ae_title))]


def find(connection: Connection, ae_title: str) -> Peer | None:
    """The peer of an AE title, None where it is not listed."""
    row = connection.execute(select(peers).where(peers.c.ae_title == ae_title)).one_or_none()
    return None if row is None else _peer(row)


def _peer(row: Row[Any]) -> Peer:
    columns = {name: getattr(row, name) for name in Peer.__dataclass_fields__}
    return Peer(**columns | {"rights": frozenset(Right(word) for word in row.rights.split())})


def put(connection: Connection, peer: Peer) -> bool:
    """Enter a peer or replace what is said of it; True if its AE title is new here."""
    values = {
        "ae_title": peer.ae_title,
        "host": peer.host,
        "port": peer.port,
        "tls": peer.tls,
        "rights": " ".join(sorted(right.value for right in peer.rights)),
    }
    _, is_new = insert_new(connection, peers, ["ae_title"], values)
    if not is_new:
        connection.execute(update(peers).where(peers.c.ae_title == peer.ae_title).values(**values))
    return is_new


def remove(connection: Connection, ae_title: str) -> bool:
    """Remove a peer; whether it was there."""
    gone = connection.execute(
        delete(peers).where(peers.c.ae_title == ae_title).returning(peers.c.id)
    )
    return gone.one_or_none() is not None


def count(connection: Connection) -> int:
    """How many peers are listed."""
    return connection.execute(select(func.count()).select_from(peers)).scalar_one()


def note(connection: Connection, ae_title: str, error: str) -> None:
    """Note an association with a peer, or where there is one, what went wrong with it just now."""
    news = (
        {"last_error": error, "last_error_at": now()} if error else {"last_association_at": now()}
    )
    connection.execute(update(peers).where(peers.c.ae_title == ae_title).values(**news))
