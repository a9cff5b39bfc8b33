"""Workitems: unified procedure steps, one store and one state machine for both doors.

A workitem says what is to be done and, in the end, what was done (PS3.4 annex CC, PS3.18 11). Who
claims one brings a Transaction UID that nobody else is told; with it alone the workitem is changed
and ended. What watchers are to be told is written in the transaction of the change: a job brings it
to those we call by DIMSE, and a WebSocket of whichever process reads it from the same rows.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Connection, Row

from pacs.access import Action, Actor, permits
from pacs.dicom import attribute_lists, criteria, uids
from pacs.dicom.criteria import Criteria, Pairs
from pacs.dicom.json_model import JsonModel
from pacs.errors import BadQuery, Exhausted, Forbidden
from pacs.index import Index, audit, parties
from pacs.index import workitems as rows
from pacs.index.workitems import GLOBAL, UPS_EVENT, Event, Watcher
from pacs.workitems import states
from pacs.workitems.states import PUSH, Ask, Declined, Kind, Status

__all__ = [
    "FILTERED",
    "GLOBAL",
    "PUSH",
    "UPS_EVENT",
    "Declined",
    "Event",
    "Kind",
    "Status",
    "Workitems",
]

FILTERED: Final = "1.2.840.10008.5.1.4.34.5.1"  # the target of a filtered global subscription
DELETION_LOCKS_MAX: Final = 10_000  # of one AE; a further one is not granted (B301)
GLOBAL_SUBSCRIPTIONS_MAX: Final = 256  # AEs that watch everything; a further one is refused
WATCHED_MAX: Final = 10_000  # workitems told of to one who connects; older ones are left out
SEARCH_S_MAX: Final = 2.0  # until the next match of a search; one that takes longer is given up
BLOCK: Final = 200  # data sets that are held in memory at a time
ENDED_KEPT_S: Final = 7 * 86_400.0  # an ended workitem without deletion lock is forgotten then
EVENTS_KEPT_S: Final = 7 * 86_400.0  # an event is forgotten then, though it was not delivered
FORGOTTEN_MAX: Final = 500  # workitems forgotten in one transaction; further ones wait
READ_WINDOW_S: Final = 60.0  # reads of one kind by one actor within it are one audit row
READS_REMEMBERED_MAX: Final = 10_000  # beyond this the window begins anew for everyone
AE_TITLE_CHARACTERS_MAX: Final = 16  # of Requesting AE; the rest of a longer user's name is cut

NODE: Final = Actor("node", "workitems")

_AE_TITLE: Final = re.compile(r"[ -\[\]-~]{1,16}")  # PS3.5 6.2: printable ASCII, no backslash


def _never() -> bool:
    return False


@dataclass(slots=True)
class _Change:
    """A transaction that changes workitems, and who is called because of it."""

    connection: Connection
    archive: int
    called: set[str] = field(default_factory=set)

    def tell(
        self, watchers: Collection[Watcher], target: str, kind: Kind, information: JsonModel
    ) -> None:
        """Write what watchers are told."""
        rows.tell(self.connection, self.archive, watchers, target, kind.value, information)
        self.called |= {watcher.ae_title for watcher in watchers if watcher.is_called}

    def tell_of(self, target: str, news: Iterable[tuple[Kind, JsonModel]]) -> None:
        """Write what those are told who watch a workitem."""
        watchers = rows.watchers(self.connection, self.archive, target)
        for kind, information in news:
            self.tell(watchers, target, kind, information)


class Workitems:
    """The workitems of one archive."""

    def __init__(
        self,
        index: Index,
        archive: int,
        archive_name: str,
        *,
        deletion_locks_max: int = DELETION_LOCKS_MAX,
    ) -> None:
        self._index = index
        self._archive = archive
        self._archive_name = archive_name
        self._deletion_locks_max = deletion_locks_max
        self._reads: dict[tuple[str, ...], float] = {}
        self._reads_lock = threading.Lock()

    # what may be asked of one workitem

    def create(self, actor: Actor, uid: str, given: JsonModel) -> Status:
        """Make a workitem (PS3.4 CC.2.5). Raises Declined, Forbidden."""
        model, status = states.created(given, _valid(uid), datetime.now(UTC))
        with self._changing(actor, "create workitem", workitem=uid) as change:
            if not rows.add(change.connection, self._archive, uid, model):
                raise Declined(Status.DUPLICATE)
            for subscription in rows.global_subscriptions(change.connection, self._archive):
                if criteria.satisfies(model, criteria.parse(subscription.pairs)):
                    self._enter(change, uid, subscription.watcher, subscription.deletion_lock)
            change.tell_of(uid, states.news_of_creation(model))
        return status

    def get(self, actor: Actor, uid: str) -> JsonModel:
        """The data set of a workitem, without its Transaction UID (CC.2.7). Raises Declined."""
        self.check(actor)
        with self._index.read() as connection:
            row = self._known(rows.find(connection, self._archive, uid))
        self._audit_read(actor, "retrieve workitem", {"workitem": uid})
        return _model(row)

    def update(
        self, actor: Actor, uid: str, changes: JsonModel, transaction_uid: str = ""
    ) -> Status:
        """Set attributes of a workitem (CC.2.6). Raises Declined, Forbidden."""
        given_uid = transaction_uid or attribute_lists.first(changes, "TransactionUID")
        with self._changing(actor, "update workitem", workitem=uid) as change:
            row = self._locked(change, uid)
            states.judge(Ask.UPDATE, row.ProcedureStepState, given_uid, row.transaction_uid)
            before = _model(row)
            after, status = states.updated(before, changes, uid, datetime.now(UTC))
            rows.change(change.connection, row, after)
            change.tell_of(uid, states.news_of_update(before, after))
        return status

    def change_state(self, actor: Actor, uid: str, state: str, transaction_uid: str) -> Status:
        """Claim, complete or cancel a workitem (CC.2.1). Raises Declined, Forbidden.

        Of two that claim one at once, one is told SUCCESS and the other CLAIMED.
        """
        ask = _STATE_ASKED.get(state)
        if ask is None or (transaction_uid and not uids.is_valid(transaction_uid)):
            raise Declined(Status.INVALID_VALUE)
        with self._changing(actor, "change workitem", workitem=uid, state=state) as change:
            row = self._locked(change, uid)
            status = states.judge(ask, row.ProcedureStepState, transaction_uid, row.transaction_uid)
            if status is Status.SUCCESS:
                self._become(
                    change,
                    row,
                    states.in_state(_model(row), state),
                    {
                        "transaction_uid": transaction_uid,
                        "performer": actor.kind,
                    },
                )
        return status

    def _become(
        self, change: _Change, row: Row[Any], model: JsonModel, owned: dict[str, str]
    ) -> None:
        """Write a workitem's new state and tell of it. Raises Declined for an unready end."""
        state, uid = attribute_lists.first(model, "ProcedureStepState"), row.SOPInstanceUID
        is_end = state in states.ENDS
        if is_end and (missing := states.unmet(model, state)):
            raise Declined(Status.NOT_FINISHED, attribute=missing[0])
        rows.change(change.connection, row, model, is_end=is_end, **({} if is_end else owned))
        change.tell_of(uid, [(Kind.STATE_REPORT, states.state_report(model))])

    def request_cancel(self, actor: Actor, uid: str, details: JsonModel) -> Status:
        """Ask that a workitem be canceled (CC.2.2). Raises Declined, Forbidden.

        One that nobody has claimed is canceled; else its watchers are told, its performer among
        them. Where nobody watches, nobody would learn of it: PERFORMER_OUT_OF_REACH.
        """
        with self._changing(actor, "request cancel of workitem", workitem=uid) as change:
            row = self._locked(change, uid)
            status = states.judge(Ask.REQUEST_CANCEL, row.ProcedureStepState, "", "")
            if status is not Status.SUCCESS:
                return status
            if row.ProcedureStepState == states.SCHEDULED:
                self._cancel(change, row, details)
            else:
                self._pass_on(change, row, states.cancel_request(details, _ae_title_of(actor)))
        return status

    def _cancel(self, change: _Change, row: Row[Any], details: JsonModel) -> None:
        """First IN PROGRESS, then CANCELED (CC.2.2.3); with a Transaction UID that nobody has."""
        begun = states.in_state(_model(row), states.IN_PROGRESS)
        owned = {"transaction_uid": uids.derived_uid(str(time.time_ns())), "performer": NODE.kind}
        self._become(change, row, begun, owned)
        self._become(change, row, states.canceled(begun, details, datetime.now(UTC)), {})

    def _pass_on(self, change: _Change, row: Row[Any], information: JsonModel) -> None:
        if row.performer == NODE.kind:
            raise Declined(Status.PERFORMER_REFUSES)
        watchers = rows.watchers(change.connection, self._archive, row.SOPInstanceUID)
        if not watchers:
            raise Declined(Status.PERFORMER_OUT_OF_REACH)
        change.tell(watchers, row.SOPInstanceUID, Kind.CANCEL_REQUESTED, information)

    # search

    def search(
        self,
        actor: Actor,
        pairs: Pairs,
        *,
        fuzzy: bool = False,
        offset: int = 0,
        limit: int | None = None,
        is_stopped: Callable[[], bool] = _never,
    ) -> Iterator[JsonModel]:
        """The workitems that satisfy a question, soonest first (CC.2.8).

        Raises BadQuery, Forbidden, and Exhausted where the next match takes longer than
        SEARCH_S_MAX or `is_stopped` came true. Between two blocks no transaction is open.
        """
        self.check(actor)
        asked = criteria.parse(pairs, fuzzy=fuzzy)
        self._audit_read(actor, "search workitems", {"keys": ",".join(sorted(p for p, _ in pairs))})
        return self._found(asked, offset, limit, is_stopped)

    def _found(
        self, asked: Criteria, offset: int, limit: int | None, is_stopped: Callable[[], bool]
    ) -> Iterator[JsonModel]:
        page = {"offset": offset, "limit": limit} if rows.is_exact(asked) else {"limit": None}
        skipped, left = offset - (page.get("offset") or 0), limit
        with self._index.read_within(SEARCH_S_MAX, is_stopped) as connection:
            ids = rows.ids(connection, self._archive, asked, **page)
        since = time.monotonic()
        for start in range(0, len(ids), BLOCK):
            with self._index.read_within(SEARCH_S_MAX, is_stopped) as connection:
                block = rows.data_sets(connection, ids[start : start + BLOCK])
            for _, model in block:
                if left == 0:
                    return
                if not criteria.satisfies(model, asked):
                    continue
                if skipped:
                    skipped -= 1
                    continue
                left = None if left is None else left - 1
                yield model
                since = time.monotonic()
            if time.monotonic() - since > SEARCH_S_MAX:
                raise Exhausted("the search takes too long", seconds_max=SEARCH_S_MAX)

    # subscriptions

    def subscribe(
        self,
        actor: Actor,
        target: str,
        ae_title: str,
        *,
        deletion_lock: bool = False,
        pairs: Pairs = (),
        is_called: bool = False,
    ) -> Status:
        """Let an AE be told of a workitem, or of all, or of all that satisfy a question (CC.2.3).

        `is_called` says that it is told by DIMSE; then it must be listed and have a host. Raises
        Declined, BadQuery, Forbidden, and Exhausted for one that would watch everything too many.
        """
        asked = criteria.parse(pairs)
        if (target == FILTERED) != bool(asked):
            raise Declined(Status.NOT_APPROPRIATE)
        watcher = Watcher(_checked_ae_title(ae_title), is_called)
        subject = {"workitem": target, "ae_title": watcher.ae_title}
        with self._changing(actor, "subscribe to workitems", **subject) as change:
            if is_called:
                _check_receiver(change.connection, watcher.ae_title)
            is_global = target in (GLOBAL, FILTERED)
            granted = deletion_lock and self._may_lock(change, watcher.ae_title, is_global)
            if is_global:
                self._subscribe_globally(change, watcher, granted, pairs, asked)
            else:
                model = _model(self._locked(change, target))
                self._enter(change, target, watcher, granted)
                change.tell([watcher], target, Kind.STATE_REPORT, states.state_report(model))
        return Status.SUCCESS if granted or not deletion_lock else Status.NO_DELETION_LOCK

    def _may_lock(self, change: _Change, ae_title: str, is_global: bool) -> bool:
        held = rows.locks(change.connection, self._archive, ae_title)
        wanted = rows.count(change.connection, self._archive) if is_global else 1
        return held + wanted <= self._deletion_locks_max

    def _enter(self, change: _Change, target: str, watcher: Watcher, deletion_lock: bool) -> None:
        rows.subscribe(
            change.connection, self._archive, target, watcher, deletion_lock=deletion_lock
        )

    def _subscribe_globally(
        self, change: _Change, watcher: Watcher, lock: bool, pairs: Pairs, asked: Criteria
    ) -> None:
        """Subscribe to what is there and to what comes. With a lock, tell how it all stands."""
        connection = change.connection
        rows.subscribe(connection, self._archive, GLOBAL, watcher, deletion_lock=lock, pairs=pairs)
        if len(rows.global_subscriptions(connection, self._archive)) > GLOBAL_SUBSCRIPTIONS_MAX:
            raise Exhausted("too many watch everything", subscriptions_max=GLOBAL_SUBSCRIPTIONS_MAX)
        if not asked and not lock:
            rows.subscribe_to_every(connection, self._archive, watcher, deletion_lock=False)
            return
        ids = rows.ids(connection, self._archive, asked, limit=None)
        for start in range(0, len(ids), BLOCK):
            block = ids[start : start + BLOCK]
            found = rows.data_sets(connection, block)
            wanted = [uid for uid, model in found if criteria.satisfies(model, asked)]
            new = rows.subscribe_to_every(
                connection, self._archive, watcher, deletion_lock=lock, among=wanted
            )
            for uid, model in found if lock else ():
                if uid in new:
                    change.tell([watcher], uid, Kind.STATE_REPORT, states.state_report(model))

    def unsubscribe(self, actor: Actor, target: str, ae_title: str) -> bool:
        """Tell an AE no more of a workitem, or globally, of any; False if it was not subscribed.

        Its deletion locks are gone with that. Raises Declined, Forbidden.
        """
        everything = target in (GLOBAL, FILTERED)
        subject = {"workitem": target, "ae_title": _checked_ae_title(ae_title)}
        with self._changing(actor, "unsubscribe from workitems", **subject) as change:
            if not everything:
                self._locked(change, target)
            return rows.unsubscribe(
                change.connection, self._archive, subject["ae_title"], "" if everything else target
            )

    def suspend(self, actor: Actor, target: str, ae_title: str) -> bool:
        """Subscribe an AE no more to what comes; False if it was not. Raises Declined, Forbidden."""
        if target not in (GLOBAL, FILTERED):
            raise Declined(Status.NOT_APPROPRIATE)
        subject = {"ae_title": _checked_ae_title(ae_title)}
        with self._changing(actor, "suspend subscription to workitems", **subject) as change:
            return rows.unsubscribe(change.connection, self._archive, subject["ae_title"], GLOBAL)

    # events

    def due(self, ae_title: str) -> list[Event]:
        """The next events that an AE is still to be sent by DIMSE, oldest first."""
        with self._index.read() as connection:
            return rows.due(connection, self._archive, ae_title, BLOCK)

    def settle(self, event: Event) -> None:
        """Note that an event was sent."""
        with self._index.write() as connection:
            rows.settle(connection, event)

    def events(self, ae_titles: Collection[str], after: int) -> list[Event]:
        """The next events that these AEs were told after one, oldest first."""
        with self._index.read() as connection:
            return rows.after(connection, self._archive, ae_titles, after, BLOCK)

    def present(self, actor: Actor, ae_title: str) -> tuple[list[Event], int]:
        """How every workitem stands that an AE watches, and the event after which it goes on."""
        self.check(actor)
        with self._index.read() as connection:
            newest = rows.newest(connection)
            watched = rows.watched(connection, self._archive, ae_title, WATCHED_MAX)
        reports = [
            Event(
                newest,
                ae_title,
                attribute_lists.first(model, "SOPInstanceUID"),
                Kind.STATE_REPORT.value,
                states.state_report(model),
            )
            for model in watched
        ]
        return reports, newest

    def announce_restart(self) -> None:
        """Tell everybody who watches anything that this node is there again (CC.2.4.3)."""
        with self._index.read() as connection:
            if not rows.every_watcher(connection, self._archive):
                return
        with self._changing(NODE, "announce restart") as change:
            watchers = rows.every_watcher(change.connection, self._archive)
            change.tell(watchers, GLOBAL, Kind.SCP_STATUS_CHANGE, states.status_change())

    # upkeep

    def forget(self) -> int:
        """Forget what ended long ago and nobody has locked, and old events; how many workitems."""
        with self._index.read() as connection:
            is_any = rows.is_any_forgettable(connection, self._archive, ENDED_KEPT_S)
            is_old = rows.is_any_old(connection, self._archive, EVENTS_KEPT_S)
        if is_old:
            with self._index.write() as connection:
                rows.forget_events(connection, self._archive, EVENTS_KEPT_S)
        if not is_any:
            return 0
        with self._changing(NODE, "forget workitems") as change:
            return rows.forget_ended(change.connection, self._archive, ENDED_KEPT_S, FORGOTTEN_MAX)

    # what all of them need

    def check(self, actor: Actor) -> None:
        """Return if this actor may work with workitems. Raises Forbidden.

        Every verb asks it; a door asks it before it looks at what was sent.
        """
        if not permits(actor, Action.WORKITEMS):
            raise Forbidden("this actor may not work with workitems")

    @contextmanager
    def _changing(self, actor: Actor, action: str, **subject: str) -> Iterator[_Change]:
        """A transaction that begins with its audit row (see `pacs/index/workitems.py`)."""
        self.check(actor)
        with self._index.write() as connection:
            audit.append(
                connection,
                actor,
                action,
                archive=self._archive_name,
                outcome="done",
                subject=subject,
            )
            change = _Change(connection, self._archive)
            yield change
            for ae_title in sorted(change.called):
                rows.deliver(connection, self._archive, ae_title)

    def _locked(self, change: _Change, uid: str) -> Row[Any]:
        return self._known(rows.find(change.connection, self._archive, uid, for_change=True))

    def _known(self, row: Row[Any] | None) -> Row[Any]:
        if row is None:
            raise Declined(Status.UNKNOWN)
        if not row.data_set:
            raise Declined(Status.FORGOTTEN)
        return row

    def _audit_read(self, actor: Actor, action: str, subject: dict[str, str]) -> None:
        """One row within the window: a performer that polls asks the same every few seconds."""
        deed = (actor.kind, actor.name, actor.address, action, *subject.values())
        at = time.monotonic()
        with self._reads_lock:
            if at - self._reads.get(deed, -READ_WINDOW_S) < READ_WINDOW_S:
                return
            if len(self._reads) >= READS_REMEMBERED_MAX:
                self._reads.clear()
        with self._index.write() as connection:
            audit.append(
                connection,
                actor,
                action,
                archive=self._archive_name,
                outcome="done",
                subject=subject,
            )
        with self._reads_lock:
            self._reads[deed] = at


_STATE_ASKED: Final = {ask.value: ask for ask in list(Ask)[:4]}


def _model(row: Row[Any]) -> JsonModel:
    return rows.model_of(row)


def _valid(uid: str) -> str:
    if not uids.is_valid(uid) or uid in (GLOBAL, FILTERED):
        raise Declined(Status.INVALID_VALUE, attribute="SOPInstanceUID")
    return uid


def _checked_ae_title(text: str) -> str:
    title = text.strip()
    if not _AE_TITLE.fullmatch(title):
        raise BadQuery("an AE title is 1 to 16 printable ASCII characters without backslash")
    return title


def _check_receiver(connection: Connection, ae_title: str) -> None:
    peer = parties.find(connection, ae_title)
    if peer is None:
        raise Declined(Status.UNKNOWN_RECEIVER)
    if not peer.is_callable:
        raise Declined(Status.NO_EVENT_REPORTS)


def _ae_title_of(actor: Actor) -> str:
    title = actor.name[:AE_TITLE_CHARACTERS_MAX].strip()
    return title if _AE_TITLE.fullmatch(title) else actor.kind.upper()
