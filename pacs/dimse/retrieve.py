"""C-GET and C-MOVE: the instances that an identifier names leave by C-STORE (PS3.4 C.4.2, C.4.3).

The two differ only in the line that instances go down: the requestor's own association, or one or
two that we open to the destination. An instance leaves as it is stored where the other side takes
that; else it is decompressed, never compressed. Whatever goes wrong with one instance is the end of
its sub-operation and of no other. The association's thread counts and reports, one more thread per
line sends, and one more per line reads ahead.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.events import Event

from pacs.archive import Archive, Held
from pacs.decode import DECODABLE, Decoder
from pacs.dicom.attributes import UNIQUE_KEY, Level
from pacs.dicom.matching import Query, UidList
from pacs.dicom.part10 import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Buffer,
    read_part10,
)
from pacs.dimse import scu
from pacs.dimse.handlers import actor_of
from pacs.dimse.identifiers import write_identifier
from pacs.dimse.messages import CONTEXTS_MAX, COUNT_MAX, Answer, Counts
from pacs.dimse.query import Request, is_single, keys_of, level_of, model_of
from pacs.dimse.scu import WARNINGS
from pacs.dimse.status import (
    ALL_FAILED,
    CANCELLED,
    DESTINATION_UNKNOWN,
    PENDING,
    RETRIEVE,
    SOME_FAILED,
    SUCCESS,
    comment_of,
    status_of,
)
from pacs.dimse.tls import Credentials
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import Mismatch, Missing, NodeError, Refused, Unreachable
from pacs.peers import Peer, Peers, Right

PROGRESS_S: Final = 0.5  # how often the requestor hears how far we are; it may expect each second
READ_AHEAD_MAX: Final = 10  # instances in memory besides those being sent
READ_AHEAD_BYTES_MAX: Final = 128 << 20  # and their bytes; a larger instance is read alone
LINES_MAX: Final = 2  # associations to one destination at a time
SECOND_LINE_INSTANCES: Final = 20  # fewer are not worth a second association
FAILED_UIDS_MAX: Final = 1_000  # named in a final response: UI has 64 KiB in Explicit VR; more: cut

FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058

# What anything that can be decoded leaves as, the better first.
_DECODED: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)

Context = tuple[str, ...]  # a SOP class and the transfer syntaxes proposed for it
Accepted = Mapping[tuple[str, str], int]  # SOP class and transfer syntax -> context

log = logging.getLogger(__name__)


class Line:
    """The way to the other side: an association, opened when needed and re-opened once.

    `store` raises Unreachable when the line is beyond repair; an instance is sent twice at most.
    """

    def __init__(
        self, dial: Callable[[], PeerAssociation], originator: tuple[str, int] | None = None
    ) -> None:
        self._dial = dial
        self._originator = originator
        self._association: PeerAssociation | None = None
        self._may_reopen = True
        self.accepted: Accepted = {}

    def open(self) -> None:
        """Have an association. Raises Unreachable."""
        self._association = self._dial()
        self.accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0])): number
            for context in self._association.accepted_contexts
            if context.as_scu and (number := context.context_id) is not None
        }

    def store(self, held: Held, transfer_syntax_uid: str, data_set: Buffer) -> tuple[int, str]:
        """Send one instance; the other side's status and comment. Raises Unreachable."""
        try:
            return self._store(held, transfer_syntax_uid, data_set)
        except Unreachable:
            if not self._may_reopen:
                raise
        self._may_reopen = False
        self.open()
        return self._store(held, transfer_syntax_uid, data_set)

    def _store(self, held: Held, transfer_syntax_uid: str, data_set: Buffer) -> tuple[int, str]:
        context_id = self.accepted.get((held.sop_class_uid, transfer_syntax_uid))
        if context_id is None:
            raise Unreachable("the other side no longer takes what it took before")
        assert self._association is not None, "a line is opened before it is used"
        return self._association.store(
            context_id, held.sop_class_uid, held.sop_instance_uid, data_set, self._originator
        )

    def close(self) -> None:
        """Release the association."""
        if self._association is not None and self._association.is_established:
            self._association.release()


class OwnLine(Line):
    """The line of a C-GET: the requestor's association, which is not ours to re-open or release."""

    def __init__(self, association: PeerAssociation) -> None:
        super().__init__(lambda: association)
        self._may_reopen = False

    def close(self) -> None:
        """Leave the association to its requestor."""


def leaving_as(held: Held, accepted: Accepted) -> str:
    """The transfer syntax in which an instance leaves. Raises Refused where there is none."""
    stored = held.transfer_syntax_uid
    if (held.sop_class_uid, stored) in accepted:
        return stored
    for syntax in _DECODED:
        if stored in DECODABLE and (held.sop_class_uid, syntax) in accepted:
            return syntax
    raise Refused("the other side takes no transfer syntax that this instance can leave in")


def data_set_in(archive: Archive, decoder: Decoder, held: Held, syntax: str) -> Buffer:
    """The data set of an instance in a transfer syntax. Raises what reading and decoding raise.

    The file is read whole and checked against its digest before a byte of it leaves.
    """
    file = archive.read(held)
    if syntax == held.transfer_syntax_uid:
        return memoryview(file)[held.data_set_offset :]
    if syntax == EXPLICIT_VR_LITTLE_ENDIAN:
        return read_part10(decoder.explicit_little_endian(file)).data_set
    return read_part10(decoder.implicit_little_endian(file)).data_set


def batches(selected: Sequence[Held]) -> Iterator[tuple[list[Context], list[Held]]]:
    """Instances by association, with the contexts that each must propose: 128 at most.

    A kind of instance needs two contexts: one with the stored syntax alone, since of several the
    other side might pick another, and one with those that anything can be decoded to.
    """
    contexts: dict[Context, None] = {}
    kinds: set[tuple[str, str]] = set()
    for kind in dict.fromkeys(_kind(held) for held in selected):
        needed = dict.fromkeys([kind, (kind[0], *_DECODED)])
        if len(contexts | needed) > CONTEXTS_MAX:
            yield list(contexts), [held for held in selected if _kind(held) in kinds]
            contexts, kinds = {}, set()
        contexts |= needed
        kinds.add(kind)
    if kinds:
        yield list(contexts), [held for held in selected if _kind(held) in kinds]


def _kind(held: Held) -> tuple[str, str]:
    return held.sop_class_uid, held.transfer_syntax_uid


@dataclass(slots=True)
class Tally:
    """How far a retrieval is. The counts always add up to the total."""

    total: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    reason: str = ""  # why an instance failed, for the Error Comment

    @property
    def remaining(self) -> int:
        """Sub-operations that have not ended."""
        return self.total - self.completed - self.warned - len(self.failed)

    def add(self, sop_instance_uid: str, status: int | None, reason: str = "") -> None:
        """Count one sub-operation by the status that the other side gave, None for our failure."""
        if status == SUCCESS:
            self.completed += 1
        elif status in WARNINGS:
            self.warned += 1
        else:
            self.failed.append(sop_instance_uid)
            self.reason = reason or self.reason

    def pending(self) -> Answer:
        """The response that says how far it is."""
        return Answer(PENDING, counts=self._counts(self.remaining))

    def final(self, transfer_syntax_uid: str, *, is_cancelled: bool) -> Answer:
        """The last response (PS3.4 C.4.2.1.5): the failed instances are named in it."""
        identifier = b""
        if self.failed:
            named = tuple(self.failed[:FAILED_UIDS_MAX])
            identifier = write_identifier(
                [(FAILED_SOP_INSTANCE_UID_LIST, "UI", named)], transfer_syntax_uid
            )
        counts = self._counts(self.remaining if is_cancelled else None)
        return Answer(self._status(is_cancelled), identifier, comment_of(self.reason), counts)

    def _status(self, is_cancelled: bool) -> int:
        if is_cancelled:
            return CANCELLED
        if self.failed and len(self.failed) == self.total:
            return ALL_FAILED
        return SOME_FAILED if self.failed or self.warned else SUCCESS

    def _counts(self, remaining: int | None) -> Counts:
        """The four counts, none beyond the 16 bits it has."""
        completed, failed, warned = (
            min(count, COUNT_MAX) for count in (self.completed, len(self.failed), self.warned)
        )
        left = None if remaining is None else min(remaining, COUNT_MAX)
        return Counts(left, completed, failed, warned)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one sub-operation ended: the other side's status, or None and our reason."""

    sop_instance_uid: str
    status: int | None
    reason: str = ""


class Batch:
    """Instances on their way, down one line or two. Its threads end when the lines do."""

    def __init__(
        self, archive: Archive, decoder: Decoder, instances: Sequence[Held], lines: Sequence[Line]
    ) -> None:
        self._archive = archive
        self._decoder = decoder
        self._waiting = deque(instances)
        self._lines = lines
        self._is_stopped = threading.Event()
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._reason = ""
        self._threads = [
            threading.Thread(target=self._run, args=(line,), name="retrieval") for line in lines
        ]

    def outcomes(self) -> Generator[Outcome | None, None, None]:
        """Each outcome as it comes, and None whenever there was none for a while.

        When every line has ended, what still waits has failed; after `stop` it was never started.
        """
        for thread in self._threads:
            thread.start()
        ended = 0
        try:
            while ended < len(self._threads):
                try:
                    outcome = self._outcomes.get(timeout=PROGRESS_S)
                except queue.Empty:
                    yield None
                    continue
                ended += outcome is None
                yield outcome
        finally:
            self.stop()
            for thread in self._threads:
                thread.join()

    def failed(self) -> Iterator[Outcome]:
        """What still waits though the lines have ended."""
        for held in self._waiting:
            yield Outcome(held.sop_instance_uid, None, self._reason)

    def stop(self) -> None:
        """Start no further instance."""
        self._is_stopped.set()

    def _run(self, line: Line) -> None:
        try:
            line.open()
            with ThreadPoolExecutor(1, "read ahead") as reader:
                self._send(line, reader)
        except Unreachable as error:
            self._reason = error.message
        finally:
            line.close()
            self._outcomes.put(None)

    def _send(self, line: Line, reader: ThreadPoolExecutor) -> None:
        """Send what waits, reading ahead. Raises Unreachable when the line has ended."""
        window: deque[tuple[Held, str, Future[Buffer]]] = deque()
        try:
            while not self._is_stopped.is_set():
                self._fill(window, line, reader)
                if not window:
                    return
                held, syntax, reading = window.popleft()
                self._outcomes.put(self._sent(line, held, syntax, reading))
        finally:
            self._waiting.extendleft(held for held, _, _ in reversed(window))
            for _, _, reading in window:
                reading.cancel()

    def _fill(
        self,
        window: deque[tuple[Held, str, Future[Buffer]]],
        line: Line,
        reader: ThreadPoolExecutor,
    ) -> None:
        """Have the next instances read, as many as are allowed in memory."""
        size_bytes = sum(held.size_bytes for held, _, _ in window)
        while len(window) < READ_AHEAD_MAX // len(self._lines):
            try:
                held = self._waiting.popleft()
            except IndexError:
                return
            size_bytes += held.size_bytes
            if window and size_bytes > READ_AHEAD_BYTES_MAX // len(self._lines):
                self._waiting.appendleft(held)
                return
            try:
                syntax = leaving_as(held, line.accepted)
            except Refused as error:
                self._outcomes.put(Outcome(held.sop_instance_uid, None, error.message))
                continue
            reading = reader.submit(data_set_in, self._archive, self._decoder, held, syntax)
            window.append((held, syntax, reading))

    def _sent(self, line: Line, held: Held, syntax: str, reading: Future[Buffer]) -> Outcome:
        """Send one instance. Raises Unreachable when the line has ended; it has failed then, too."""
        try:
            data_set = reading.result()
        except NodeError as error:
            log.warning("an instance cannot be sent: %s", error, extra={"facts": error.facts})
            return Outcome(held.sop_instance_uid, None, error.message)
        try:
            status, _ = line.store(held, syntax, data_set)
            return Outcome(held.sop_instance_uid, status, f"an instance was answered {status:04X}")
        except Unreachable as error:
            self._outcomes.put(Outcome(held.sop_instance_uid, None, error.message))
            raise


@dataclass(frozen=True, slots=True)
class Retriever:
    """What serves C-GET and C-MOVE of one archive."""

    archive: Archive
    decoder: Decoder
    peers: Peers
    ae_title: str
    credentials: Credentials

    def on_c_get(self, event: Event) -> Generator[Answer, None, None]:
        """Answer one C-GET-RQ (PS3.4 C.4.3.3): instances go down the requestor's association."""
        request = Request.of(event)
        try:
            selected = self._selected(event, request)
        except NodeError as error:
            yield refusal(error)
            return
        lines = [OwnLine(request.association)]
        batch = Batch(self.archive, self.decoder, selected, lines)
        yield from self._report(request, len(selected), iter([batch]) if selected else iter([]))

    def on_c_move(self, event: Event) -> Generator[Answer, None, None]:
        """Answer one C-MOVE-RQ (PS3.4 C.4.2.3): instances go to a peer that may receive."""
        request = Request.of(event)
        title = (cast(C_MOVE, request.message).MoveDestination or "").strip()
        try:
            destination = self._destination(title)
            selected = self._selected(event, request, title)
        except Missing as error:
            yield Answer(DESTINATION_UNKNOWN, comment=comment_of(error.message))
            return
        except NodeError as error:
            yield refusal(error)
            return
        originator = (actor_of(event).name, request.message_id)
        to_send = self._batches(destination, selected, originator)
        yield from self._report(request, len(selected), to_send, title)

    def _destination(self, ae_title: str) -> Peer:
        """The peer to send to. Raises Missing, also for one that may not receive; Unreachable."""
        peer = self.peers.get(ae_title)
        if Right.RECEIVE not in peer.rights:
            raise Missing("this peer may not receive")
        return peer

    def _selected(self, event: Event, request: Request, destination: str = "") -> list[Held]:
        """The instances that a request names. Raises NodeError."""
        identifier, model = request.identifier(), model_of(event)
        level = level_of(identifier, model.root)
        keys = keys_of(identifier, level, model)
        named = keys.get(UNIQUE_KEY[level])
        if not is_single(named) and not isinstance(named, UidList):
            raise Mismatch(f"{UNIQUE_KEY[level].keyword} is missing or names nothing in particular")
        query = Query(Level.INSTANCE, keys)
        return self.archive.select(actor_of(event), query, destination=destination)

    def _batches(
        self, destination: Peer, selected: Sequence[Held], originator: tuple[str, int]
    ) -> Iterator[Batch]:
        called = scu.Peer.listed(destination, self.ae_title, self.credentials)
        for contexts, instances in batches(selected):
            lines = [
                Line(partial(scu.associated, called, contexts), originator)
                for _ in range(LINES_MAX if len(instances) >= SECOND_LINE_INSTANCES else 1)
            ]
            yield Batch(self.archive, self.decoder, instances, lines)

    def _report(
        self, request: Request, total: int, to_send: Iterator[Batch], destination: str = ""
    ) -> Generator[Answer, None, None]:
        """Run the batches, tell how far they are, and how they ended."""
        tally, told_at = Tally(total), time.monotonic()
        for batch in to_send:
            for outcome in batch.outcomes():
                if outcome is not None:
                    tally.add(outcome.sop_instance_uid, outcome.status, outcome.reason)
                if request.is_stopped():
                    batch.stop()
                if time.monotonic() - told_at >= PROGRESS_S:
                    told_at = time.monotonic()
                    yield tally.pending()
            if request.is_stopped():
                break
            for outcome in batch.failed():
                tally.add(outcome.sop_instance_uid, outcome.status, outcome.reason)
        if destination:
            self.peers.note(destination, tally.reason)
        is_cancelled = request.is_stopped() and tally.remaining > 0
        yield tally.final(request.transfer_syntax_uid, is_cancelled=is_cancelled)


def refusal(error: NodeError) -> Answer:
    """The response that ends a retrieval before its first sub-operation."""
    log.warning("a retrieval is refused: %s", error, extra={"facts": error.facts})
    return Answer(status_of(error, RETRIEVE), comment=comment_of(error.message))
