"""The rows of the workitems, of who watches them, and of what their watchers are told.

What a row may become is judged in `pacs/workitems`. Every change writes its audit row first: the
trail's head then serialises those who change workitems until they commit, so that the ids of events
are in the order of their commits, and no subscription misses a workitem that is born beside it.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    and_,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    select,
    true,
    update,
)

from pacs.dicom import attribute_lists
from pacs.dicom.attributes import Attribute, Level
from pacs.dicom.criteria import Criteria, compared, flat
from pacs.dicom.folding import folded
from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import PN_GROUPS, Match
from pacs.index import jobs
from pacs.index.catalog import INDEXED_BYTES_MAX
from pacs.index.narrowing import condition, name_condition
from pacs.index.schema import (
    WORKITEM_KEYS,
    insert_new,
    now,
    search_columns,
    workitem_events,
    workitem_subscriptions,
    workitems,
)

GLOBAL: Final = "1.2.840.10008.5.1.4.34.5"  # the target of a subscription to all (PS3.4 CC.2.3.1)
UPS_EVENT: Final = "ups-event"  # the kind of the jobs that deliver events

Pairs = Sequence[tuple[str, str]]

_IS_KNOWN: Final = workitems.c.data_set != ""  # a forgotten one keeps nothing but its UID
_ORDER: Final = (workitems.c.ScheduledProcedureStepStartDateTime_sorted, workitems.c.id)
_COLUMNS: Final = frozenset((*WORKITEM_KEYS, Attribute("SOPInstanceUID", Level.INSTANCE)))


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who is to be told of something, and whether we call it by DIMSE."""

    ae_title: str
    is_called: bool


@dataclass(frozen=True, slots=True)
class GlobalSubscription:
    """One AE's subscription to workitems that are still to come (PS3.4 CC.2.3.1)."""

    watcher: Watcher
    deletion_lock: bool
    pairs: Pairs  # what a workitem must satisfy; empty for any


@dataclass(frozen=True, slots=True)
class Event:
    """What one watcher is told; `kind` is the Event Type ID of PS3.4 table CC.2.4-1."""

    id: int
    ae_title: str
    target: str
    kind: int
    information: JsonModel


# workitems


def columns_of(model: JsonModel) -> dict[str, Any]:
    """The columns that follow from a workitem's data set, and the data set itself."""
    columns: dict[str, Any] = {}
    for key in WORKITEM_KEYS:
        found = attribute_lists.values(model, key.keyword)
        columns |= _key_columns(key, found[0] if found else None)
    return {**columns, "data_set": json.dumps(model, ensure_ascii=False, separators=(",", ":"))}


def _key_columns(key: Attribute, value: Any) -> dict[str, str | None]:  # noqa: ANN401 - as JSON has it
    if value is None:
        return dict.fromkeys(search_columns(key))
    if key.vr == "PN":
        groups = (folded(value.get(group.capitalize(), "")) for group in PN_GROUPS)
        names = zip(search_columns(key), groups, strict=True)
        return {column: _cut(group) or None for column, group in names}
    (column,) = search_columns(key)
    return {column: _cut(str(compared(key.vr, value))) or None}


def _cut(text: str) -> str:
    return text.encode()[:INDEXED_BYTES_MAX].decode(errors="ignore")


def add(connection: Connection, archive: int, uid: str, model: JsonModel) -> bool:
    """Make the row of a workitem; False if there is or was one of this UID."""
    values = {"archive_id": archive, "SOPInstanceUID": uid, **columns_of(model)}
    unique = ["archive_id", "SOPInstanceUID"]
    return insert_new(connection, workitems, unique, values, stamped=["created_at"])[1]


def find(
    connection: Connection, archive: int, uid: str, *, for_change: bool = False
) -> Row[Any] | None:
    """The row of a workitem, or None; locked until the transaction ends if it is to be changed."""
    wanted = select(workitems).where(
        workitems.c.archive_id == archive, workitems.c.SOPInstanceUID == uid
    )
    return connection.execute(wanted.with_for_update() if for_change else wanted).one_or_none()


def model_of(row: Row[Any]) -> JsonModel:
    """The data set of a workitem's row."""
    model: JsonModel = json.loads(row.data_set)
    return model


def change(
    connection: Connection, row: Row[Any], model: JsonModel, *, is_end: bool = False, **more: str
) -> None:
    """Give a workitem another data set; `more` are its performer and transaction UID."""
    ended = {"ended_at": now()} if is_end else {}
    connection.execute(
        update(workitems)
        .where(workitems.c.id == row.id)
        .values(**columns_of(model), **more, **ended)
    )


def is_exact(criteria: Criteria) -> bool:
    """Whether every key of a question has a column, so that the database alone can answer it."""
    return all(key in _COLUMNS for key in criteria)


def ids(
    connection: Connection, archive: int, criteria: Criteria, *, offset: int = 0, limit: int | None
) -> array[int]:
    """The ids of the workitems that satisfy the keys with columns, soonest first."""
    wanted = select(workitems.c.id).where(_candidates(connection, archive, criteria))
    return array("q", connection.scalars(wanted.order_by(*_ORDER).offset(offset).limit(limit)))


def _candidates(connection: Connection, archive: int, criteria: Criteria) -> ColumnElement[bool]:
    keys = [(key, match) for key, match in flat(criteria) if key in _COLUMNS]
    conditions = [_wanted(key, match, connection.dialect.name) for key, match in keys]
    return and_(workitems.c.archive_id == archive, _IS_KNOWN, *conditions)


def _wanted(key: Attribute, match: Match, dialect: str) -> ColumnElement[bool]:
    columns = [workitems.c[name] for name in search_columns(key)]
    if key.vr == "PN":
        return name_condition(columns, match, dialect)
    return condition(columns[0], match, dialect)


def data_sets(connection: Connection, wanted: Sequence[int]) -> list[tuple[str, JsonModel]]:
    """UID and data set of the workitems with these ids, in their order; of those gone, nothing."""
    rows = connection.execute(
        select(workitems.c.id, workitems.c.SOPInstanceUID, workitems.c.data_set).where(
            workitems.c.id.in_(wanted), _IS_KNOWN
        )
    )
    found = {row.id: (row.SOPInstanceUID, json.loads(row.data_set)) for row in rows}
    return [found[one] for one in wanted if one in found]


def forget_ended(connection: Connection, archive: int, kept_s: float, rows_max: int) -> int:
    """Forget workitems that ended so long ago and that nobody has locked; how many.

    The UID stays, so that it is told as gone and never used again.
    """
    subscription = workitem_subscriptions.c
    is_locked = exists(
        select(1).where(
            subscription.archive_id == archive,
            subscription.target == workitems.c.SOPInstanceUID,
            subscription.deletion_lock,
        )
    ).correlate(workitems)
    old = workitems.c.ended_at <= now() - kept_s
    wanted = (
        select(workitems.c.id, workitems.c.SOPInstanceUID)
        .where(workitems.c.archive_id == archive, old, _IS_KNOWN, ~is_locked)
        .limit(rows_max)
        .with_for_update()
    )
    rows = connection.execute(wanted).all()
    nothing = {name: None for key in WORKITEM_KEYS for name in search_columns(key)}
    connection.execute(
        update(workitems)
        .where(workitems.c.id.in_([row.id for row in rows]))
        .values(**nothing, data_set="", transaction_uid="")
    )
    forgotten = [row.SOPInstanceUID for row in rows]
    connection.execute(
        delete(workitem_subscriptions).where(
            subscription.archive_id == archive, subscription.target.in_(forgotten)
        )
    )
    return len(forgotten)


def is_any_forgettable(connection: Connection, archive: int, kept_s: float) -> bool:
    """Whether there may be something to forget; a look that locks nothing."""
    old = workitems.c.ended_at <= now() - kept_s
    of_archive = workitems.c.archive_id == archive
    return bool(connection.execute(select(exists().where(of_archive, old, _IS_KNOWN))).scalar())


# subscriptions


def subscribe(
    connection: Connection,
    archive: int,
    target: str,
    watcher: Watcher,
    *,
    deletion_lock: bool,
    pairs: Pairs = (),
) -> None:
    """Enter a subscription, or replace its lock and its filter. Who is called stays called."""
    kept = {"deletion_lock": deletion_lock, "filter": json.dumps(pairs) if pairs else ""}
    unique = {"archive_id": archive, "target": target, "ae_title": watcher.ae_title}
    values = {**unique, **kept, "is_called": watcher.is_called}
    made, is_new = insert_new(connection, workitem_subscriptions, [*unique], values)
    if not is_new:
        called = {"is_called": True} if watcher.is_called else {}
        table = workitem_subscriptions
        connection.execute(update(table).where(table.c.id == made).values(**kept, **called))


def subscribe_to_every(
    connection: Connection,
    archive: int,
    watcher: Watcher,
    *,
    deletion_lock: bool,
    among: Sequence[str] | None = None,
) -> set[str]:
    """Subscribe to every workitem, or to those of these UIDs, that is not subscribed to yet.

    Returns the UIDs of those that are so now.
    """
    columns = ["archive_id", "ae_title", "target", "deletion_lock", "is_called", "filter"]
    held = workitem_subscriptions.c
    is_subscribed = exists(
        select(1).where(
            held.archive_id == archive,
            held.ae_title == watcher.ae_title,
            held.target == workitems.c.SOPInstanceUID,
        )
    ).correlate(workitems)
    flags = (true() if yes else false() for yes in (deletion_lock, watcher.is_called))
    wanted = select(
        workitems.c.archive_id,
        literal(watcher.ae_title),
        workitems.c.SOPInstanceUID,
        *flags,
        literal(""),
    ).where(workitems.c.archive_id == archive, _IS_KNOWN, ~is_subscribed)
    if among is not None:
        wanted = wanted.where(workitems.c.SOPInstanceUID.in_(among))
    made = insert(workitem_subscriptions).from_select(columns, wanted).returning(held.target)
    return set(connection.scalars(made))


def unsubscribe(connection: Connection, archive: int, ae_title: str, target: str = "") -> bool:
    """End one subscription of an AE, or without a target all of them; False if there is none."""
    held = workitem_subscriptions.c
    wanted = [held.archive_id == archive, held.ae_title == ae_title]
    wanted += [held.target == target] if target else []
    gone = connection.execute(delete(workitem_subscriptions).where(*wanted).returning(held.id))
    return bool(gone.all())


def watchers(connection: Connection, archive: int, target: str) -> list[Watcher]:
    """Who is subscribed to a workitem."""
    held = workitem_subscriptions.c
    rows = connection.execute(
        select(held.ae_title, held.is_called)
        .where(held.archive_id == archive, held.target == target)
        .order_by(held.ae_title)
    )
    return [Watcher(*row) for row in rows]


def every_watcher(connection: Connection, archive: int) -> list[Watcher]:
    """Who is subscribed to anything."""
    held = workitem_subscriptions.c
    called = func.max(held.is_called.cast(workitem_events.c.kind.type))
    rows = connection.execute(
        select(held.ae_title, called).where(held.archive_id == archive).group_by(held.ae_title)
    )
    return [Watcher(ae_title, bool(is_called)) for ae_title, is_called in rows]


def global_subscriptions(connection: Connection, archive: int) -> list[GlobalSubscription]:
    """Who is subscribed to what is still to come."""
    held = workitem_subscriptions.c
    rows = connection.execute(
        select(workitem_subscriptions)
        .where(held.archive_id == archive, held.target == GLOBAL)
        .order_by(held.ae_title)
    )
    return [
        GlobalSubscription(
            Watcher(row.ae_title, row.is_called),
            row.deletion_lock,
            [(path, text) for path, text in json.loads(row.filter or "[]")],
        )
        for row in rows
    ]


def locks(connection: Connection, archive: int, ae_title: str) -> int:
    """How many deletion locks an AE holds."""
    held = workitem_subscriptions.c
    return connection.execute(
        select(func.count()).where(
            held.archive_id == archive, held.ae_title == ae_title, held.deletion_lock
        )
    ).scalar_one()


def count(connection: Connection, archive: int) -> int:
    """How many workitems there are, without those forgotten."""
    return connection.execute(
        select(func.count()).where(workitems.c.archive_id == archive, _IS_KNOWN)
    ).scalar_one()


def watched(connection: Connection, archive: int, ae_title: str, rows_max: int) -> list[JsonModel]:
    """The workitems that an AE is subscribed to, newest first."""
    held = workitem_subscriptions.c
    joined = workitems.join(
        workitem_subscriptions,
        and_(held.archive_id == archive, held.target == workitems.c.SOPInstanceUID),
    )
    rows = connection.scalars(
        select(workitems.c.data_set)
        .select_from(joined)
        .where(held.ae_title == ae_title, workitems.c.archive_id == archive, _IS_KNOWN)
        .order_by(workitems.c.id.desc())
        .limit(rows_max)
    )
    return [json.loads(text) for text in rows]


# events


def tell(
    connection: Connection,
    archive: int,
    told: Iterable[Watcher],
    target: str,
    kind: int,
    information: JsonModel,
) -> None:
    """Write an event for each watcher; who is called gets it by the job of `deliver`."""
    event = {
        "archive_id": archive,
        "target": target,
        "kind": kind,
        "information": json.dumps(information, ensure_ascii=False),
    }
    rows = [{**event, "ae_title": one.ae_title, "is_due": one.is_called} for one in told]
    if rows:
        connection.execute(insert(workitem_events).values(created_at=now()), rows)


def deliver(connection: Connection, archive: int, ae_title: str) -> None:
    """Write the job that sends an AE what it has been told until now."""
    jobs.enqueue(
        connection,
        key=f"{UPS_EVENT}/{archive}/{ae_title}/{newest(connection)}",
        kind=UPS_EVENT,
        archive_id=archive,
        study_instance_uid="",
        generation=0,
        payload={"ae_title": ae_title},
        attempts_max=jobs.DELIVERY_ATTEMPTS_MAX,
    )


def due(connection: Connection, archive: int, ae_title: str, rows_max: int) -> list[Event]:
    """The events that are still to be sent to an AE, oldest first."""
    return _events(connection, archive, [ae_title], workitem_events.c.is_due, rows_max)


def settle(connection: Connection, event: Event) -> None:
    """An event has been sent."""
    table = workitem_events
    connection.execute(update(table).where(table.c.id == event.id).values(is_due=False))


def after(
    connection: Connection, archive: int, ae_titles: Collection[str], event: int, rows_max: int
) -> list[Event]:
    """What these AEs were told after an event, oldest first."""
    return _events(connection, archive, ae_titles, workitem_events.c.id > event, rows_max)


def _events(
    connection: Connection,
    archive: int,
    ae_titles: Collection[str],
    which: ColumnElement[bool],
    rows_max: int,
) -> list[Event]:
    table = workitem_events.c
    rows = connection.execute(
        select(workitem_events)
        .where(table.archive_id == archive, table.ae_title.in_(ae_titles), which)
        .order_by(table.id)
        .limit(rows_max)
    )
    return [
        Event(row.id, row.ae_title, row.target, row.kind, json.loads(row.information))
        for row in rows
    ]


def newest(connection: Connection) -> int:
    """The id of the newest event, 0 without one."""
    found = connection.execute(select(func.max(workitem_events.c.id))).scalar_one()
    return int(found or 0)


def forget_events(connection: Connection, archive: int, kept_s: float) -> int:
    """Remove events that are older, sent or not; how many."""
    table = workitem_events.c
    gone = connection.execute(
        delete(workitem_events).where(
            table.archive_id == archive, table.created_at <= now() - kept_s
        )
    )
    return gone.rowcount


def is_any_old(connection: Connection, archive: int, kept_s: float) -> bool:
    """Whether some event is older; a look that locks nothing."""
    table = workitem_events.c
    old = exists().where(table.archive_id == archive, table.created_at <= now() - kept_s)
    return bool(connection.execute(select(old)).scalar())
