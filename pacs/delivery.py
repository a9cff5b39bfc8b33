"""Delivery: what forwarding has entered for a peer gets there, however long that takes.

A job delivers what waits of one study for one peer. What was answered is noted while it goes on, so
a repeat sends only the rest. A refusal that will not change ends that instance alone; a peer that is
full or away ends the attempt, and then every job of its lane waits. The instance that breaks the
line goes last in the next attempt, so that it holds up no other.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, Final

from sqlalchemy import Connection, Row

from pacs.access import Actor
from pacs.archive import Archive, Held
from pacs.errors import Refused, Unavailable
from pacs.index import Index, audit, forwards, jobs, parties
from pacs.index.forwards import DELIVERED, GONE, REFUSED, WAITING
from pacs.index.jobs import FAILED, SUCCEEDED, Job
from pacs.index.parties import Peer, Right
from pacs.worker import End

NOTE_S: Final = 0.5  # outcomes are noted at least so often; a lost worker's later ones are repeated
NOTE_TRIES: Final = 4  # to note them while the index does not answer; after that they are repeated
TURN_S_MAX: Final = 600.0  # that one job may send; then others of the queue have their turn
REASONS_TOLD_MAX: Final = 4  # different refusals that the end of a job names; more are only counted

NODE: Final = Actor("node", "forward")

log = logging.getLogger(__name__)


@unique
class Fate(Enum):
    """How far an instance came on its way to a peer."""

    ANSWERED = "answered"  # with a status
    IMPOSSIBLE = "impossible"  # it cannot leave: damaged, or in no form that is taken
    UNREAD = "unread"  # its bytes cannot be had now
    BROKEN = "broken"  # the line broke while it was on its way
    LEFT = "left"  # the line broke before its turn
    UNSENT = "unsent"  # there was no line


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the sending of one instance ended: the peer's status, or None and our reason in words."""

    sop_instance_uid: str
    status: int | None
    reason: str = ""
    fate: Fate = Fate.ANSWERED


# Sends instances to a peer, and gives each outcome as it comes and None whenever there was none for
# a while. Once the event is set, it starts no further instance.
Send = Callable[
    [Archive, Peer, Sequence[Held], threading.Event], Generator[Outcome | None, None, None]
]
# Has a peer asked for storage commitment of instances, by SOP class and instance UID; durable when
# it returns.
Confirm = Callable[[Peer, Sequence[tuple[str, str]]], None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What follows from an outcome: the delivery's state, why, and what ends the attempt, if any."""

    state: str
    reason: str = ""
    trouble: str = ""


# What ends an attempt, as the reason code of its job.
AWAY, FULL, LINE, BUSY = "unreachable", "peer_full", "line_broke", "not_now"
TURN, LEAVING = "turn_over", "stopping"
_OF_THE_PEER: Final = (AWAY, FULL)  # what every job of its lane would meet as well
_OF_OURS: Final = (TURN, LEAVING)  # what is no fault of the peer's, and no reason to pause

# By PS3.7 C: a warning is a success, and so is an instance that the peer had already.
_SUCCESSES: Final = frozenset({0x0000, 0x0001, 0x0107, 0x0111, 0x0116})
_PASSING: Final = frozenset({0x0110})
_EXHAUSTED: Final = 0x0213
_REFUSALS: Final[Mapping[int, str]] = {
    0x0117: "it finds the SOP Instance UID invalid",
    0x0118: "it does not know the SOP class",
    0x0122: "it takes no such SOP class",
    0x0124: "it does not allow us to store",
}


def judged(status: int) -> Verdict:
    """What a status of C-STORE means for a delivery (PS3.4 B.2.3, PS3.7 C)."""
    coded = f"({status:04X})"
    if status in _SUCCESSES or status >> 12 == 0xB:
        return Verdict(DELIVERED)
    if status >> 8 == 0xA7 or status == _EXHAUSTED:
        return Verdict(WAITING, f"it is out of resources {coded}", FULL)
    if status in _PASSING or status >> 8 == 0xFE:
        return Verdict(WAITING, f"it failed to process the instance {coded}", BUSY)
    if status >> 8 == 0xA9:
        return Verdict(REFUSED, f"to it, the data set does not match its SOP class {coded}")
    if status >> 12 == 0xC:
        return Verdict(REFUSED, f"it cannot understand the instance {coded}")
    return Verdict(REFUSED, f"{_REFUSALS.get(status, 'it refuses the instance')} {coded}")


_OF_FATE: Final[Mapping[Fate, tuple[str, str]]] = {
    Fate.IMPOSSIBLE: (REFUSED, ""),
    Fate.UNREAD: (WAITING, BUSY),
    Fate.BROKEN: (WAITING, LINE),
    Fate.LEFT: (WAITING, LINE),
    Fate.UNSENT: (WAITING, AWAY),
}


def verdict_of(outcome: Outcome) -> Verdict:
    """What follows from an outcome."""
    if outcome.status is not None:
        return judged(outcome.status)
    state, trouble = _OF_FATE[outcome.fate]
    return Verdict(state, outcome.reason, trouble)


class Deliverer:
    """The handler of `forward` jobs."""

    def __init__(
        self,
        index: Index,
        archives: Callable[[str], Archive],
        send: Send,
        *,
        is_us: Callable[[Peer], bool],
        tell: Callable[[str, str], None],
        stop: threading.Event,
        confirm: Confirm | None = None,
    ) -> None:
        """`archives` gives an archive by name; `tell` notes news of a peer, an error or none.

        `confirm` asks for storage commitment; without it, nobody is asked.
        """
        self._index = index
        self._archives = archives
        self._send = send
        self._is_us = is_us
        self._tell = tell
        self._stop = stop
        self._confirm = confirm

    def handle(self, job: Job) -> End | None:
        """Deliver what waits. Raises Refused for a peer that is not to have it, Unavailable."""
        peer = self._peer(job)
        while rows := self._waiting(job):
            attempt = Attempt(self._index, job, peer, rows)
            attempt.run(
                self._send(self._archives(job.archive), peer, attempt.held, attempt.halt),
                self._stop,
            )
            job = attempt.job
            assert attempt.got_on or attempt.trouble, "an instance was lost sight of"
            if attempt.trouble and attempt.trouble.trouble not in _OF_OURS:
                self._tell(peer.ae_title, attempt.trouble.reason)
            if attempt.trouble and not (attempt.trouble.trouble == LINE and attempt.got_on):
                self._later(job, attempt.trouble)
                return None
        return self._end(job, peer)

    def _peer(self, job: Job) -> Peer:
        """Whom to send to: what was a good destination may be none by now."""
        with self._index.read() as connection:
            peer = parties.find(connection, job.lane)
        if peer is None:
            raise Refused("its peer is no longer listed")
        if Right.RECEIVE not in peer.rights:
            raise Refused("its peer may no longer receive")
        if self._is_us(peer):
            raise Refused("its peer is this very node")
        return peer

    def _waiting(self, job: Job) -> list[Row[Any]]:
        """What is to be sent. What the archive no longer holds so is noted, and left out."""
        with self._index.read() as connection:
            rows = forwards.waiting(connection, job)
        gone = [row for row in rows if row.size_bytes is None]
        if gone:
            reason = "it was deleted or replaced here before it could be sent"
            with self._index.write() as connection:
                jobs.renew(connection, job)
                forwards.note(connection, [(row.id, GONE, reason) for row in gone])
        return [row for row in rows if row.size_bytes is not None]

    def _later(self, job: Job, trouble: Verdict) -> None:
        """Try again later; what the peer would answer to every job, none of its lane asks for.

        Even where only this job is concerned its lane pauses, so that lanes that wait come first.
        """
        code = trouble.trouble
        log.warning("job %d: %s", job.id, trouble.reason)
        attempts = job.attempts if code in _OF_THE_PEER else 1
        with self._index.write() as connection:
            jobs.give_back(
                connection,
                job,
                reason_code=code,
                reason=trouble.reason,
                at_once=code in _OF_OURS,
            )
            if code != LEAVING:
                jobs.hold(connection, job.lane, jobs.pause_s(attempts))

    def _end(self, job: Job, peer: Peer) -> End:
        """How the job ends, now that nothing waits. Raises what asking for commitment raises."""
        self._ask_for_commitment(job, peer)
        with self._index.read() as connection:
            found = forwards.outcomes(connection, job)
        end = _told(found)
        self._tell(peer.ae_title, end.reason if end.state == FAILED else "")
        return end

    def _ask_for_commitment(self, job: Job, peer: Peer) -> None:
        if self._confirm is None:
            return
        with self._index.read() as connection:
            delivered = forwards.to_commit(connection, job)
        if delivered:
            self._confirm(peer, delivered)
            with self._index.write() as connection:
                forwards.note_commitment(connection, job)


class Attempt:
    """One attempt to send what waits under a job: how far it got, and what ended it."""

    def __init__(self, index: Index, job: Job, peer: Peer, rows: Sequence[Row[Any]]) -> None:
        self.job = job
        self.halt = threading.Event()  # set when nothing more is to be sent
        self.trouble: Verdict | None = None
        self.got_on = False  # whether anything ended for good
        self._index = index
        self._peer = peer
        self._rows = {str(row.sop_instance_uid): row for row in rows}
        self._noted: list[tuple[int, str, str]] = []
        self._is_audited = False

    @property
    def held(self) -> list[Held]:
        """What is to be sent, in order."""
        study = self.job.study_instance_uid
        return [
            Held(
                study,
                row.SOPClassUID or "",
                uid,
                row.transfer_syntax_uid,
                row.digest,
                row.size_bytes,
                row.data_set_offset,
            )
            for uid, row in self._rows.items()
        ]

    def run(self, outcomes: Generator[Outcome | None, None, None], stop: threading.Event) -> None:
        """Take outcomes until there are no more, and note them. Raises Conflict, Unavailable.

        Conflict says that the job is no longer ours, by an operator's order or another worker's
        claim; sending then ends as well.
        """
        began_at = noted_at = time.monotonic()
        try:
            for outcome in outcomes:
                if outcome is not None:
                    self._take(outcome)
                if stop.is_set():
                    self._meet(Verdict(WAITING, "this node is stopping", LEAVING))
                if time.monotonic() - began_at >= TURN_S_MAX:
                    self._meet(Verdict(WAITING, "others had their turn", TURN))
                if time.monotonic() - noted_at >= NOTE_S:
                    self._note()
                    noted_at = time.monotonic()
            self._note()
        finally:
            self.halt.set()
            outcomes.close()

    def _take(self, outcome: Outcome) -> None:
        verdict = verdict_of(outcome)
        if outcome.fate not in (Fate.LEFT, Fate.UNSENT):
            row = self._rows[outcome.sop_instance_uid]
            self._noted.append((row.id, verdict.state, verdict.reason))
            self.got_on = self.got_on or verdict.state != WAITING
        if verdict.trouble:
            self._meet(verdict)

    def _meet(self, verdict: Verdict) -> None:
        """Note what stands in the way; the gravest counts, and a full peer is left alone."""
        if self.trouble is None or _GRAVITY[verdict.trouble] > _GRAVITY[self.trouble.trouble]:
            self.trouble = verdict
        if verdict.trouble in (FULL, *_OF_OURS):
            self.halt.set()

    def _note(self) -> None:
        """Make durable what is known by now, also if the index is away for a moment."""
        if not self._noted:
            return
        for tries_left in reversed(range(NOTE_TRIES)):
            try:
                self._write()
            except Unavailable:
                if not tries_left:
                    raise
                time.sleep(NOTE_S)
            else:
                break
        self._noted = []

    def _write(self) -> None:
        """Write it; who got what is audited with the first that was delivered."""
        has_delivered = any(state == DELIVERED for _, state, _ in self._noted)
        with self._index.write() as connection:
            forwards.note(connection, self._noted)
            if self.got_on:
                self.job = jobs.gets_on(connection, self.job)
            else:
                jobs.renew(connection, self.job)
            if has_delivered and not self._is_audited:
                self._audit(connection)
            if has_delivered:
                jobs.wake(connection, self.job.lane, reason_codes=_OF_THE_PEER)
        self._is_audited = self._is_audited or has_delivered

    def _audit(self, connection: Connection) -> None:
        rules = sorted({str(row.rule) for row in self._rows.values()})
        audit.append(
            connection,
            NODE,
            "forward",
            archive=self.job.archive,
            outcome="done",
            subject={
                "study": self.job.study_instance_uid,
                "destination": self._peer.ae_title,
                "address": f"{self._peer.host}:{self._peer.port}",
                "instances": len(self._rows),
                "rules": ",".join(rules),
            },
        )


# Which of several troubles the next attempt depends on most.
_GRAVITY: Final[Mapping[str, int]] = {
    trouble: gravity for gravity, trouble in enumerate((BUSY, LINE, TURN, AWAY, FULL, LEAVING))
}


def _told(found: Sequence[tuple[str, str, int]]) -> End:
    """How a job ends, in words, by what became of its instances: state, reason and number."""
    numbers: Counter[str] = Counter()
    for state, _, number in found:
        numbers[state] += number
    told = [f"{numbers[DELIVERED]} of {sum(numbers.values())} instances delivered."]
    refused = [(reason, number) for state, reason, number in found if state == REFUSED]
    told += [f"{number} refused: {reason}." for reason, number in refused[:REASONS_TOLD_MAX]]
    if len(refused) > REASONS_TOLD_MAX:
        told.append("Others were refused for further reasons.")
    if numbers[GONE]:
        told.append(f"{numbers[GONE]} were deleted or replaced here before they could be sent.")
    if refused:
        return End(FAILED, "refused", " ".join(told))
    return End(SUCCEEDED, reason=" ".join(told))
