"""The audit trail: append-only, gap-free, each row holding the digest of the one before.

A row is written in the transaction of the deed, so neither exists without the other. Who edits,
removes or reorders rows breaks the chain, and `verify` names the first bad one. It lies inside the
index and may name UIDs; it never holds names, birth dates or the values of a query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, bindparam, insert, select, update

from pacs.access import Action, Actor
from pacs.index.schema import audit, audit_head, now

ORIGIN: Final = "0" * 64  # what the first row names as the one before
VERIFY_ROWS: Final = 10_000  # rows held in memory at a time while verifying


_NEXT: Final = (
    update(audit_head)
    .where(audit_head.c.id == 1)
    .values(seq=audit_head.c.seq + 1)
    .returning(audit_head.c.seq, audit_head.c.digest, now().label("at"))
)
_ROW: Final = insert(audit)
_HEAD: Final = update(audit_head).where(audit_head.c.id == 1).values(digest=bindparam("newest"))


def append(
    connection: Connection,
    actor: Actor,
    action: Action | str,
    *,
    archive: str,
    outcome: str,
    subject: Mapping[str, Any],
) -> int:
    """Write one row; its sequence number. The chain's head serialises writers until they commit."""
    head = connection.execute(_NEXT).one()
    event = json.dumps(
        {
            "actor": {
                "kind": actor.kind,
                "name": actor.name,
                "address": actor.address,
                "implementation": actor.implementation,
            },
            "action": action.value if isinstance(action, Action) else action,
            "archive": archive,
            "outcome": outcome,
            "subject": dict(subject),
        },
        sort_keys=True,
        separators=(",", ":"),
    )
    digest = _link(head.digest, head.seq, head.at, event)
    row = {"seq": head.seq, "at": head.at, "event": event, "previous": head.digest}
    connection.execute(_ROW, {**row, "digest": digest})
    connection.execute(_HEAD, {"newest": digest})
    return int(head.seq)


def _link(previous: str, seq: int, at: float, event: str) -> str:
    return hashlib.sha256(f"{previous}\n{seq}\n{at!r}\n{event}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Event:
    """One row: its number without gaps in the order of commits, its time (s since 1970), its deed."""

    seq: int
    at: float
    action: str
    archive: str
    outcome: str
    subject: Mapping[str, Any]


def after(connection: Connection, seq: int, rows_max: int) -> list[Event]:
    """What happened after row `seq`, in order. Numbers are given at commit, so none comes late."""
    rows = connection.execute(
        select(audit.c.seq, audit.c.at, audit.c.event)
        .where(audit.c.seq > seq)
        .order_by(audit.c.seq)
        .limit(rows_max)
    )
    return [_event(row.seq, row.at, json.loads(row.event)) for row in rows]


def _event(seq: int, at: float, event: Mapping[str, Any]) -> Event:
    told = (event["action"], event["archive"], event["outcome"], event["subject"])
    return Event(seq, at, *told)


def newest(connection: Connection) -> int:
    """The number of the newest row, 0 if there is none."""
    return int(connection.execute(select(audit_head.c.seq)).scalar_one())


def verify(connection: Connection) -> tuple[str, ...]:
    """What is wrong with the chain, in words; empty if it is whole.

    A trail cut short at its end shows against the head row alone; a full rewrite of both does not
    show here and needs a checkpoint kept elsewhere.
    """
    previous, expected = ORIGIN, 1
    statement = select(audit).order_by(audit.c.seq)
    with connection.execution_options(yield_per=VERIFY_ROWS).execute(statement) as rows:
        for row in rows:
            if row.seq != expected or row.previous != previous:
                return (f"the audit trail breaks before row {row.seq}",)
            if row.digest != _link(previous, row.seq, row.at, row.event):
                return (f"row {row.seq} of the audit trail was changed",)
            previous, expected = row.digest, expected + 1
    head = connection.execute(select(audit_head)).one()
    if (head.seq, head.digest) != (expected - 1, previous):
        return (f"the audit trail ends at row {expected - 1}, its head says {head.seq}",)
    return ()
