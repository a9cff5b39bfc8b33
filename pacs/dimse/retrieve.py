"""C-GET and C-MOVE: the instances that an identifier names leave by C-STORE (PS3.4 C.4.2, C.4.3).

The two differ only in the line that instances go down: the requestor's own association, or one or
two that we open to the destination (`pacs/dimse/sending.py`). The association's thread counts and
reports.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Final, cast

from pynetdicom.dimse_primitives import C_MOVE
from pynetdicom.events import Event

from pacs.archive import Held
from pacs.dicom.attributes import UNIQUE_KEY, Level
from pacs.dicom.matching import Query, UidList
from pacs.dimse import scu
from pacs.dimse.handlers import actor_of
from pacs.dimse.identifiers import write_identifier
from pacs.dimse.messages import COUNT_MAX, Answer, Counts
from pacs.dimse.query import Request, is_single, keys_of, level_of, model_of
from pacs.dimse.scu import WARNINGS
from pacs.dimse.sending import PROGRESS_S, Batch, Line, Supply, batches_to
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
from pacs.errors import Mismatch, Missing, NodeError
from pacs.peers import Peer, Peers, Right

FAILED_UIDS_MAX: Final = 1_000  # named in a final response: UI has 64 KiB in Explicit VR; more: cut

FAILED_SOP_INSTANCE_UID_LIST: Final = 0x00080058

log = logging.getLogger(__name__)


class OwnLine(Line):
    """The line of a C-GET: the requestor's association, which is not ours to re-open or release."""

    def __init__(self, association: PeerAssociation) -> None:
        super().__init__(lambda: association)
        self._may_reopen = False

    def close(self) -> None:
        """Leave the association to its requestor."""


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
class Retriever:
    """What serves C-GET and C-MOVE of one archive."""

    supply: Supply
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
        batch = Batch(self.supply, selected, lines)
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
        called = scu.Peer.listed(destination, self.ae_title, self.credentials)
        to_send = batches_to(called, self.supply, selected, originator)
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
        return self.supply.archive.select(actor_of(event), query, destination=destination)

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
