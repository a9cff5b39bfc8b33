"""Instances on their way to another application, by C-STORE as SCU.

For C-GET and C-MOVE as for forwarding. An instance leaves as it is stored where the other side takes
that; else it is decompressed, never compressed. Whatever goes wrong with one instance is the end of
its sub-operation and of no other. One thread per line sends, and one more per line reads ahead.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pacs.archive import Archive, Held
from pacs.decode import DECODABLE, Decoder
from pacs.delivery import Fate, Outcome
from pacs.dicom.part10 import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    Buffer,
    read_part10,
)
from pacs.dimse import scu
from pacs.dimse.messages import CONTEXTS_MAX
from pacs.dimse.scu import NothingAccepted
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import NodeError, Refused, Unavailable, Unreachable
from pacs.store.spool import Spool

PROGRESS_S: Final = 0.5  # how often who waits hears how far we are; a requestor expects each second
READ_AHEAD_MAX: Final = 10  # instances in memory besides those being sent
READ_AHEAD_BYTES_MAX: Final = 128 << 20  # and their bytes; a larger instance is read alone
LINES_MAX: Final = 2  # associations to one destination at a time
SECOND_LINE_INSTANCES: Final = 20  # fewer are not worth a second association

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
        self.is_answered = False  # whether the other side was there when it was last called
        self.accepted: Accepted = {}

    def open(self) -> None:
        """Have an association. Raises Unreachable."""
        self.is_answered = False
        self._association = self._dial()
        self.is_answered = True
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


def leaving_as(held: Held, accepted: Accepted) -> str:
    """The transfer syntax in which an instance leaves. Raises Refused where there is none."""
    stored = held.transfer_syntax_uid
    if (held.sop_class_uid, stored) in accepted:
        return stored
    for syntax in _DECODED:
        if stored in DECODABLE and (held.sop_class_uid, syntax) in accepted:
            return syntax
    raise Refused("the other side takes no transfer syntax that this instance can leave in")


@dataclass(frozen=True, slots=True)
class Supply:
    """Where instances to be sent come from; `spool` is the folder of long files on their way."""

    archive: Archive
    decoder: Decoder
    spool: Path | None = None  # None: the system's


def data_set_in(supply: Supply, held: Held, syntax: str) -> Buffer:
    """The data set of an instance in a transfer syntax. Raises what reading and decoding raise.

    The file is read whole and checked against its digest before a byte of it leaves; a long one
    waits in a nameless file meanwhile.
    """
    if syntax == held.transfer_syntax_uid:
        return memoryview(_spooled(supply, held))[held.data_set_offset :]
    file, decoder = supply.archive.read(held), supply.decoder
    if syntax == EXPLICIT_VR_LITTLE_ENDIAN:
        return read_part10(decoder.explicit_little_endian(file)).data_set
    return read_part10(decoder.implicit_little_endian(file)).data_set


def _spooled(supply: Supply, held: Held) -> Buffer:
    """A stored file, in memory or mapped. Raises Corrupt, Exhausted, Missing, Unreachable."""
    spool = Spool(held.size_bytes, supply.spool)
    try:
        for chunk in supply.archive.chunks(held):
            spool.add(chunk)
        return spool.buffer()
    finally:
        spool.close()


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


class Batch:
    """Instances on their way, down one line or two. Its threads end when the lines do."""

    def __init__(self, supply: Supply, instances: Sequence[Held], lines: Sequence[Line]) -> None:
        self._supply = supply
        self._waiting = deque(instances)
        self._lines = lines
        self._is_stopped = threading.Event()
        self._outcomes: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._reason, self._fate = "", Fate.UNSENT
        self._threads = [
            threading.Thread(target=self._run, args=(line,), name="sending") for line in lines
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
        assert self._reason or not self._waiting, "a line has met a bug"
        for held in self._waiting:
            yield Outcome(held.sop_instance_uid, None, self._reason, self._fate)

    def stop(self) -> None:
        """Start no further instance."""
        self._is_stopped.set()

    def _run(self, line: Line) -> None:
        try:
            line.open()
            with ThreadPoolExecutor(1, "read ahead") as reader:
                self._send(line, reader)
        except NothingAccepted as error:
            self._reason, self._fate = error.message, Fate.IMPOSSIBLE
        except NodeError as error:
            self._reason = error.message
            self._fate = Fate.LEFT if line.is_answered else Fate.UNSENT
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
                impossible = Outcome(held.sop_instance_uid, None, error.message, Fate.IMPOSSIBLE)
                self._outcomes.put(impossible)
                continue
            reading = reader.submit(data_set_in, self._supply, held, syntax)
            window.append((held, syntax, reading))

    def _sent(self, line: Line, held: Held, syntax: str, reading: Future[Buffer]) -> Outcome:
        """Send one instance. Raises Unreachable when the line has ended; it has failed then, too."""
        try:
            data_set = reading.result()
        except NodeError as error:
            log.warning("an instance cannot be sent: %s", error, extra={"facts": error.facts})
            fate = Fate.UNREAD if isinstance(error, Unavailable) else Fate.IMPOSSIBLE
            return Outcome(held.sop_instance_uid, None, error.message, fate)
        try:
            status, _ = line.store(held, syntax, data_set)
            return Outcome(held.sop_instance_uid, status, f"an instance was answered {status:04X}")
        except Unreachable as error:
            broken = Outcome(held.sop_instance_uid, None, error.message, Fate.BROKEN)
            self._outcomes.put(broken)
            raise


def batches_to(
    called: scu.Peer,
    supply: Supply,
    selected: Sequence[Held],
    originator: tuple[str, int] | None = None,
) -> Iterator[Batch]:
    """Instances as batches to a peer, each over associations of its own, to be run one by one.

    `originator` is who asked for them by C-MOVE: its AE title and Message ID.
    """
    for contexts, instances in batches(selected):
        lines = [
            Line(partial(scu.associated, called, contexts), originator)
            for _ in range(LINES_MAX if len(instances) >= SECOND_LINE_INSTANCES else 1)
        ]
        yield Batch(supply, instances, lines)


def sent(batches: Iterator[Batch], halt: threading.Event) -> Generator[Outcome | None, None, None]:
    """Each outcome of some batches as it comes, and None whenever there was none for a while.

    Once `halt` is set, no further instance is started, and what was not started has no outcome.
    """
    for batch in batches:
        for outcome in batch.outcomes():
            if halt.is_set():
                batch.stop()
            yield outcome
        if halt.is_set():
            return
        yield from batch.failed()
