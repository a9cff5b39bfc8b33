"""Forwarding rules: what goes to which peer, when, and of what kind.

A rule names a peer, a trigger and conditions, in the keywords and the matching of queries. What it
chooses is entered for delivery in the transaction of the cause: of a study's completion, or of
reading on in the audit trail, which is the feed of what was received and of what AI made. So a crash
loses nothing and doubles nothing. Nothing goes back to the peer it came from, to ourselves, or to
the same peer twice. How it gets there is in `pacs/delivery.py`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from sqlalchemy import Connection

from pacs.access import Action, Actor, permits
from pacs.archive import Archive
from pacs.dicom.attributes import INDEXED
from pacs.dicom.matching import Match, Universal, parse_key
from pacs.errors import BadQuery, Exhausted, Forbidden, Missing
from pacs.index import Index, audit, forwards, jobs, parties
from pacs.index.audit import Event
from pacs.index.forwards import (
    FORWARD,
    SENDER,
    Chosen,
    Conditions,
    Delivery,
    Matching,
    Rule,
    Traffic,
    Trigger,
)
from pacs.index.parties import Peer, Right

__all__ = ["FORWARD", "Delivery", "Forwarding", "Matching", "Rule", "Traffic", "Trigger"]

RULES_MAX: Final = 200  # a further one is refused, since each is asked about every instance
CONDITIONS_MAX: Final = 32  # keywords of one rule; one with more is refused
VALUES_MAX: Final = 100  # of one keyword; a condition with more is refused
FEED_ROWS_MAX: Final = 200  # rows of the feed that one transaction takes
FEED_STEPS_MAX: Final = 50  # such transactions of one sweep; the next sweep goes on
TESTED_STUDIES_MAX: Final = 200  # studies that a dry run names, the newest
DAY_S: Final = 86_400.0
PAGE_MAX: Final = 1_000  # deliveries of one page

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ATTRIBUTES: Final = {
    keyword: attribute
    for keyword, attribute in (INDEXED | {SENDER.keyword: SENDER}).items()
    if attribute.matchable
}
_CANCELLED: Final = "An operator cancelled it."

# How a delivery stands, by the state of its job.
STANDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "waiting": (jobs.QUEUED,),
    "sending": (jobs.RUNNING,),
    "delivered": (jobs.SUCCEEDED,),
    "failed": (jobs.FAILED,),
    "cancelled": (jobs.SKIPPED, jobs.SUPERSEDED),
}


def standing(delivery: Delivery) -> str:
    """How a delivery stands, in a word."""
    return next(word for word, states in STANDINGS.items() if delivery.job.state in states)


class CompletedStudy(Protocol):
    """A study that has just become complete, as the workflow tells it."""

    @property
    def archive_id(self) -> int:
        """The archive it lies in."""

    @property
    def study_instance_uid(self) -> str:
        """Its UID."""


@dataclass
class _Arrivals:
    """What the feed tells of one archive: instances by study, and jobs that made results."""

    received: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    results: list[tuple[int, str, str]] = field(default_factory=list)


class Forwarding:
    """The rules of a node, what they lead to, and how its deliveries stand."""

    def __init__(
        self,
        index: Index,
        identified: Archive,
        projects: Mapping[str, Archive],
        *,
        is_us: Callable[[Peer], bool],
    ) -> None:
        self._index = index
        self._identified = identified
        self._projects = projects
        self._is_us = is_us

    # rules

    def rules(self) -> list[Rule]:
        """Every rule, by name."""
        with self._index.read() as connection:
            return forwards.listed(connection)

    def get(self, name: str) -> Rule:
        """The rule of a name. Raises Missing."""
        with self._index.read() as connection:
            rule = forwards.find(connection, name)
        if rule is None:
            raise Missing("there is no rule of this name")
        return rule

    def put(self, actor: Actor, rule: Rule) -> bool:
        """Enter a rule, or replace what it says; True if it is new. Audited.

        It holds for what happens from now on. Raises BadQuery with what must change, Missing for a
        peer that is not listed, and Exhausted beyond 200 rules.
        """
        self.check(rule)
        subject = {
            "rule": rule.name,
            "peer": rule.peer,
            "trigger": rule.trigger.value,
            "project": rule.project,
            "conditions": ",".join(sorted(rule.conditions)),
            "enabled": rule.enabled,
        }
        with self._index.write() as connection:
            seq = audit.append(
                connection, actor, "put rule", archive="", outcome="done", subject=subject
            )
            is_new = forwards.put(connection, rule, seq)
            if is_new and forwards.count(connection) > RULES_MAX:
                raise Exhausted("this node has as many rules as it can", rules_max=RULES_MAX)
        return is_new

    def remove(self, actor: Actor, name: str) -> None:
        """Remove a rule; what it has sent on its way goes on. Audited. Raises Missing."""
        with self._index.write() as connection:
            if not forwards.remove(connection, name):
                raise Missing("there is no rule of this name")
            audit.append(
                connection, actor, "remove rule", archive="", outcome="done", subject={"rule": name}
            )

    def check(self, rule: Rule) -> None:
        """Return if this can be a rule. Raises BadQuery with what must change, Missing."""
        if not _NAME.fullmatch(rule.name):
            raise BadQuery("a rule's name is 1 to 64 letters, digits, hyphens and underscores")
        if rule.project and rule.project not in self._projects:
            known = ", ".join(sorted(self._projects)) or "none"
            raise BadQuery(f"there is no such project; there are: {known}")
        if rule.project and rule.trigger is not Trigger.RECEIVED:
            raise BadQuery("a project's copies are forwarded as they come: its trigger is received")
        meanings(rule.conditions)
        self._check_peer(rule.peer)

    def _check_peer(self, ae_title: str) -> None:
        with self._index.read() as connection:
            peer = parties.find(connection, ae_title)
        if peer is None:
            raise Missing("no peer has this AE title; add it first")
        if Right.RECEIVE not in peer.rights:
            raise BadQuery("this peer may not receive; give it the right `receive`")
        if self._is_us(peer):
            raise BadQuery("this peer is this very node; it would forward to itself")

    def test(self, actor: Actor, rule: Rule, days: float) -> list[Matching]:
        """A dry run: the studies of the last days of which a rule would forward something.

        The newest 200; nothing is sent. Audited as a search. Raises what `check` raises, Forbidden.
        """
        if not permits(actor, Action.SEARCH):
            raise Forbidden(f"this actor may not {Action.SEARCH.value}")
        self.check(rule)
        archive = self._archive_of(rule)
        assert archive is not None, "a rule is checked first"
        chosen = Chosen(
            archive.id, meanings(rule.conditions), is_result=rule.trigger is Trigger.RESULT
        )
        keys = ",".join(sorted(rule.conditions))
        with self._index.write() as connection:
            audit.append(
                connection,
                actor,
                Action.SEARCH,
                archive=archive.name,
                outcome="done",
                subject={"level": "STUDY", "keys": keys},
            )
        with self._index.read() as connection:
            return forwards.matching(connection, rule, chosen, days * DAY_S, TESTED_STUDIES_MAX)

    def _archive_of(self, rule: Rule) -> Archive | None:
        """The archive a rule chooses from; None for a project that is no more."""
        return self._projects.get(rule.project) if rule.project else self._identified

    # what they lead to

    def on_complete(self, connection: Connection, completed: CompletedStudy) -> None:
        """Enter what a study's completion leads to, in its transaction."""
        # A generation may come again, after a rebuild; what the trail said last never does.
        cause = f"complete-after-{audit.newest(connection)}"
        for rule in forwards.enabled(connection, Trigger.COMPLETE):
            chosen = Chosen(
                completed.archive_id, meanings(rule.conditions), completed.study_instance_uid
            )
            forwards.enter(connection, rule, chosen, cause)

    def sweep(self) -> int:
        """Read on in the feed and enter what follows; how many rows were read.

        Any number of processes may do so at once.
        """
        read = 0
        for _ in range(FEED_STEPS_MAX):
            step = self._step()
            read += step
            if step < FEED_ROWS_MAX:
                break
        return read

    def _step(self) -> int:
        """One transaction's worth. Without rules to ask, the feed is not even read."""
        with self._index.read() as connection:
            rules = forwards.enabled(connection, Trigger.RECEIVED, Trigger.RESULT)
            if not rules:
                return 0
            seen = forwards.position(connection)
            oldest = min(rule.since for rule in rules)
            events = audit.after(connection, max(seen, oldest), FEED_ROWS_MAX)
        if not events:
            return 0
        with self._index.write() as connection:
            if forwards.move(connection, seen, events[-1].seq):
                self._enter(connection, rules, events)
        return len(events)

    def _enter(
        self, connection: Connection, rules: Sequence[Rule], events: Sequence[Event]
    ) -> None:
        by_archive: dict[str, _Arrivals] = defaultdict(_Arrivals)
        for event in events:
            _sort(event, by_archive)
        cause = f"read-to-{events[-1].seq}"
        for rule in rules:
            archive = self._archive_of(rule)
            if archive is None or archive.name not in by_archive:
                continue
            arrived = by_archive[archive.name]
            for chosen in _choices(rule, archive.id, arrived):
                forwards.enter(connection, rule, chosen, cause)

    # how deliveries stand

    def traffic(self) -> list[Traffic]:
        """How many instances stand where on their way to each peer, by AE title."""
        with self._index.read() as connection:
            return forwards.traffic(connection)

    def deliveries(
        self, *, peer: str = "", state: str = "", limit: int = 100, cursor: int = 0
    ) -> list[Delivery]:
        """Deliveries by study and peer, newest first, with ids below cursor. Raises BadQuery."""
        if state and state not in STANDINGS:
            raise BadQuery(f"the state of a delivery is one of {', '.join(STANDINGS)}")
        with self._index.read() as connection:
            return forwards.delivery_page(
                connection,
                peer=peer,
                states=STANDINGS.get(state, ()),
                limit=min(limit, PAGE_MAX),
                cursor=cursor,
            )

    def retry(self, actor: Actor, *, delivery: int = 0, peer: str = "") -> int:
        """Try a delivery again at once, or all that wait for a peer or failed; how many. Audited.

        What was delivered is not sent again. Raises Missing where there is no such delivery.
        """
        return self._order(actor, "retry delivery", forwards.retry, delivery, peer, _AGAIN)

    def cancel(self, actor: Actor, *, delivery: int = 0, peer: str = "") -> int:
        """Send no more of a delivery, or of any to a peer; how many. Audited. Raises Missing."""

        def cancel(connection: Connection, ids: Sequence[int]) -> int:
            return forwards.cancel(connection, ids, _CANCELLED)

        return self._order(actor, "cancel delivery", cancel, delivery, peer, _OPEN)

    def _order(
        self,
        actor: Actor,
        order: str,
        carry_out: Callable[[Connection, Sequence[int]], int],
        delivery: int,
        peer: str,
        states: Sequence[str],
    ) -> int:
        """Carry out an operator's order on one delivery, or on those to a peer in some states."""
        with self._index.write() as connection:
            ids = forwards.jobs_to(connection, peer=peer, states=states, delivery=delivery)
            if not ids and delivery:
                raise Missing("there is no such delivery, or it has ended")
            number = carry_out(connection, ids)
            subject = {"delivery": delivery, "peer": peer, "deliveries": number}
            audit.append(connection, actor, order, archive="", outcome="done", subject=subject)
        return number


_OPEN: Final = (jobs.QUEUED, jobs.RUNNING)
_AGAIN: Final = (jobs.QUEUED, jobs.FAILED, jobs.SKIPPED)


def meanings(conditions: Mapping[str, Sequence[str]]) -> Conditions:
    """What conditions mean: by attribute the values of which one must match.

    Raises BadQuery with what is allowed.
    """
    if len(conditions) > CONDITIONS_MAX:
        raise BadQuery(f"a rule has at most {CONDITIONS_MAX} conditions")
    return [
        (_ATTRIBUTES[keyword], _values(keyword, texts))
        for keyword, texts in conditions.items()
        if _is_known(keyword)
    ]


def _is_known(keyword: str) -> bool:
    if keyword not in _ATTRIBUTES:
        raise BadQuery(f"a condition is on one of {', '.join(_ATTRIBUTES)}")
    return True


def _values(keyword: str, texts: Sequence[str]) -> Sequence[Match]:
    """Each value by the rules of queries; a backslash separates values as it does in DICOM."""
    every = [value for text in texts for value in text.split("\\")]
    if not 1 <= len(every) <= VALUES_MAX:
        raise BadQuery(f"{keyword} needs 1 to {VALUES_MAX} values")
    matches = [parse_key(_ATTRIBUTES[keyword], value) for value in every]
    if Universal() in matches:
        raise BadQuery(f"{keyword} would match everything; give a value, or leave it out")
    return matches


def _sort(event: Event, by_archive: Mapping[str, _Arrivals]) -> None:
    """Put one row of the feed where rules find it.

    Of what is stored, what was here already, and what is kept as a version beside it, is no news.
    """
    told, subject = (event.action, event.outcome), event.subject
    if told in (("store", "new"), ("store", "replaced")):
        arrived = by_archive[event.archive].received[str(subject["study"])]
        arrived.append((event.seq, str(subject["instance"])))
    elif told == ("infer", "succeeded"):
        made = (event.seq, str(subject["study"]), str(subject["job"]))
        by_archive[event.archive].results.append(made)


def _choices(rule: Rule, archive_id: int, arrived: _Arrivals) -> Iterator[Chosen]:
    """What a rule is to choose among, study by study; nothing from before it was made."""
    conditions = meanings(rule.conditions)
    if rule.trigger is Trigger.RESULT:
        for seq, study, job in arrived.results:
            if seq > rule.since:
                yield Chosen(archive_id, conditions, study, is_result=True, made_by=job)
        return
    for study, instances in arrived.received.items():
        fresh = [uid for seq, uid in instances if seq > rule.since]
        for uids in _chunks(fresh, forwards.UIDS_ASKED_MAX):
            yield Chosen(archive_id, conditions, study, uids)


def _chunks(uids: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (uids[start : start + size] for start in range(0, len(uids), size))
