"""Our side as requestor that asks: C-FIND, C-GET and C-MOVE towards a peer (PS3.4 C.4).

A peer that answers is trusted no more than one that sends. What it may say is bounded in number, in
bytes and in time; instances that were not asked for are refused (DCMTK CVE-2022-2120) by whoever
keeps them, since the archive compares each data set with what was expected of it. All questions are
asked in the Study Root model, which every archive has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pynetdicom.presentation import PresentationContext, StoragePresentationContexts

from pacs.archive import Incoming, Scope
from pacs.dicom import uids
from pacs.dicom.attributes import UNIQUE_KEY, Level
from pacs.dicom.part10 import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from pacs.dimse.handlers import received
from pacs.dimse.identifiers import UTF_8, Element, read_identifier, write_identifier
from pacs.dimse.messages import (
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    CONTEXTS_MAX,
    Question,
    Reply,
)
from pacs.dimse.scu import Peer, associated
from pacs.dimse.status import (
    CANCELLED,
    SOME_FAILED,
    STORE,
    STORED_WITH_WARNING,
    SUCCESS,
    comment_of,
    is_pending,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation, StoreRequest
from pacs.errors import BadQuery, Exhausted, NodeError, Refused, Unavailable, Unreachable

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_MOVE: Final = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET: Final = "1.2.840.10008.5.1.4.1.2.2.3"

MATCHES_MAX: Final = 10_000  # of one C-FIND; when as many came, it is cancelled
CANCEL_S: Final = 5.0  # a peer that answers for longer after a C-CANCEL: A-ABORT
INSTANCES_MAX: Final = 100_000  # of one C-GET; further ones are answered A700
STALL_S: Final = 300.0  # of a C-GET or C-MOVE without an instance or a new count: A-ABORT
SERIES_LOOKED_AT_MAX: Final = 500  # before a C-GET, for their SOP classes; of more, the first ones
INSTANCES_LOOKED_AT_MAX: Final = 2_000  # and instances of each
REFUSALS_MAX: Final = 1_000  # instances whose refusal is told; of more, their number alone

_PLAIN: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
# Proposed besides, the more frequent first, so that instances come as they are stored there.
_AS_STORED: Final = tuple(
    f"1.2.840.10008.1.2.{tail}"
    for tail in (
        *("4.70", "4.90", "4.91", "4.50", "4.80", "4.81", "5", "4.57", "4.51"),  # still images
        *("4.102", "4.103", "4.100", "4.201", "4.202", "4.203", "1.99", "4.107", "4.108"),
    )
)
# Proposed where the peer does not say which SOP classes a study has: what pynetdicom holds for
# common, and beyond that what AI results and newer devices bring.
_COMMON: Final = (
    *(str(context.abstract_syntax) for context in StoragePresentationContexts),
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.88.35",  # Extensible SR
    "1.2.840.10008.5.1.4.1.1.88.68",  # Radiopharmaceutical Radiation Dose SR
    "1.2.840.10008.5.1.4.1.1.88.71",  # Acquisition Context SR
)

# PS3.4 C.4.1.1.4, C.4.2.1.5, C.4.3.1.4; PS3.7 annex C. "It" is the peer.
_MEANINGS: Final[Mapping[int, str]] = {
    0x0122: "it does not support this service",
    0x0124: "it does not allow us to ask this",
    0xA700: "it is out of resources",
    0xA701: "it cannot count the matches now",
    0xA702: "it could perform none of the sub-operations",
    0xA801: "it does not know the destination",
    0xA900: "it does not accept the keys that were asked",
    SOME_FAILED: "some sub-operations failed",
    CANCELLED: "it cancelled the operation",
}

Tell = Callable[[int, int], None]  # how many sub-operations are done, and of how many
Row = Mapping[str, str]  # keyword -> text
# Keeps an instance that has these values, by keyword; a warning, or none. Raises NodeError.
Keep = Callable[[Incoming, Mapping[str, str]], str]

log = logging.getLogger(__name__)


class Matches(NamedTuple):
    """The answers to a C-FIND: rows by keyword, whether more exist, and how many made no sense."""

    rows: Sequence[Row]
    more: bool = False
    unreadable: int = 0


@dataclass(slots=True)
class Retrieval:
    """How a C-GET or C-MOVE ended: what was kept here, what was refused here, what failed there.

    `status` is None where the last response never came; `reason` is empty where all went well.
    """

    status: int | None = None
    reason: str = ""
    kept: int = 0
    warned: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)  # SOP Instance UID, reason
    refusals: int = 0  # their number, beyond REFUSALS_MAX too
    failed: int = 0  # by the peer's own count

    @property
    def is_whole(self) -> bool:
        """Whether everything that the peer has of it arrived."""
        return self.status == SUCCESS and not self.refusals and not self.failed


def find(
    peer: Peer, level: Level, keys: Mapping[str, str], *, matches_max: int = MATCHES_MAX
) -> Matches:
    """Ask a peer what it has at a level (C-FIND). Keys without a value are only returned.

    Raises BadQuery for a keyword that PS3.6 does not know, Unreachable where the peer does not
    answer to the end, and Refused where it answers with a failure.
    """
    elements = _elements(level, keys)
    with _asking(peer) as association:
        return _found(association, elements, matches_max)


@contextmanager
def _asking(peer: Peer) -> Iterator[PeerAssociation]:
    """An association for C-FIND. Raises Unreachable."""
    association = associated(peer, [(STUDY_ROOT_FIND, *_PLAIN)])
    try:
        yield association
    finally:
        _end(association)


def _found(association: PeerAssociation, elements: Sequence[Element], matches_max: int) -> Matches:
    """The answers to one C-FIND. Raises Unreachable, Refused, Exhausted."""
    context_id, syntax = _context(association, STUDY_ROOT_FIND)
    identifier = write_identifier(elements, syntax, UTF_8)
    question = Question(C_FIND_RQ, STUDY_ROOT_FIND, identifier)
    return _matches(association, context_id, question, syntax, matches_max)


def _matches(
    association: PeerAssociation,
    context_id: int,
    question: Question,
    transfer_syntax_uid: str,
    matches_max: int,
) -> Matches:
    """Every answer up to the limit; then a C-CANCEL, and a while for the peer to heed it."""
    rows: list[Row] = []
    unreadable, until = 0, 0.0
    with closing(association.ask(context_id, question)) as replies:
        for reply in replies:
            if not is_pending(reply.status):
                _check(reply.status, is_cancelled=bool(until))
            elif until:
                if time.monotonic() > until:
                    break
            elif len(rows) + unreadable == matches_max:
                until = time.monotonic() + CANCEL_S
                association.cancel(context_id)
            else:
                try:
                    rows.append(_row(reply, transfer_syntax_uid))
                except NodeError:
                    unreadable += 1
    return Matches(rows, bool(until), unreadable)


def _elements(level: Level, keys: Mapping[str, str]) -> list[Element]:
    """The identifier of a question; the unique key of its level is always returned."""
    wanted = {UNIQUE_KEY[level].keyword: "", **keys}
    elements: list[Element] = []
    for keyword, text in {**wanted, "QueryRetrieveLevel": level.query_retrieve_level}.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise BadQuery(f"{keyword} is no attribute of DICOM")
        vr = dictionary_VR(tag).partition(" or ")[0]
        if vr in ("SQ", "OB", "OW", "UN", "AT") and text:
            raise BadQuery(f"{keyword} cannot be matched")
        elements.append((tag, vr, _value(keyword, vr, text)))
    return sorted(elements)


def _value(keyword: str, vr: str, text: str) -> str | int:
    if vr != "US" or not text:
        return text
    if not (text.isascii() and text.isdigit() and int(text) <= 0xFFFF):
        raise BadQuery(f"{keyword} is a number up to 65,535")
    return int(text)


def _row(reply: Reply, transfer_syntax_uid: str) -> Row:
    """One match as text by keyword. Raises as `read_identifier` does."""
    keys = read_identifier(reply.identifier, transfer_syntax_uid).keys
    return {keyword_for_tag(tag) or f"{tag:08X}": key.text for tag, key in keys.items()}


def get(
    peer: Peer, scope: Scope, keep: Keep, *, tell: Tell | None = None, spool: Path | None = None
) -> Retrieval:
    """Fetch a study, a series or an instance from a peer (C-GET); `keep` judges what comes.

    Raises Unreachable where no association comes about. Whatever goes wrong later is told in the
    result, since what was kept until then stays.
    """
    contexts = _receiving(_sop_classes(peer, scope))
    receiving = list(dict.fromkeys(context[0] for context in contexts))
    association = associated(peer, [(STUDY_ROOT_GET, *_PLAIN), *contexts], receiving, spool)
    try:
        taker = _Taker(scope, keep)
        _retrieve(association, STUDY_ROOT_GET, C_GET_RQ, taker, tell or _silently)
        return taker.result
    finally:
        _end(association)


def move(peer: Peer, scope: Scope, destination: str, *, tell: Tell | None = None) -> Retrieval:
    """Have a peer send a study, a series or an instance to another AE (C-MOVE).

    Raises Unreachable where no association comes about.
    """
    association = associated(peer, [(STUDY_ROOT_MOVE, *_PLAIN)])
    try:
        taker = _Taker(scope, None)
        _retrieve(association, STUDY_ROOT_MOVE, C_MOVE_RQ, taker, tell or _silently, destination)
        return taker.result
    finally:
        _end(association)


def _silently(_done: int, _total: int) -> None:
    """Nobody asked how far it is."""


class _Taker:
    """Takes what comes by one C-GET, and remembers how that went."""

    def __init__(self, scope: Scope, keep: Keep | None) -> None:
        self.level, self.keys = _keys_of(scope)
        self.result = Retrieval()
        self.came_at = time.monotonic()  # of the last thing that was progress
        self._keep = keep

    def take(self, request: StoreRequest, context: PresentationContext) -> tuple[int, str]:
        """Judge one instance: the status and the Error Comment for the peer."""
        announced = {
            "SOPClassUID": str(request.AffectedSOPClassUID or ""),
            "SOPInstanceUID": str(request.AffectedSOPInstanceUID or ""),
        }
        try:
            warning = self._judge(request, context, announced)
        except NodeError as error:
            log.warning("an instance is refused: %s", error, extra={"facts": error.facts})
            self.result.refusals += 1
            if self.result.refusals <= REFUSALS_MAX:
                uid = announced["SOPInstanceUID"]
                named = uid if uids.is_valid(uid) else "without a valid UID"
                self.result.refused.append((named, error.message))
            return status_of(error, STORE), error.message
        self.result.kept += 1
        self.result.warned += bool(warning)
        self.came_at = time.monotonic()
        return (STORED_WITH_WARNING if warning else SUCCESS), warning

    def _judge(
        self, request: StoreRequest, context: PresentationContext, announced: Mapping[str, str]
    ) -> str:
        """Keep one instance; a warning, or none. Raises NodeError."""
        assert self._keep is not None, "only a C-GET hands instances over"
        if not context.as_scp or announced["SOPClassUID"] != context.abstract_syntax:
            raise Refused("the SOP class is not that of its context")
        if self.result.kept + self.result.refusals >= INSTANCES_MAX:
            raise Exhausted("more instances come than one C-GET may bring", max=INSTANCES_MAX)
        for keyword, value in announced.items():
            if self.keys.get(keyword, value) != value:
                raise Refused("this instance was not asked for")
        incoming = received(request, str(context.transfer_syntax[0]))
        return self._keep(incoming, {**announced, **self.keys})


def _retrieve(
    association: PeerAssociation,
    sop_class_uid: str,
    request: int,
    taker: _Taker,
    tell: Tell,
    destination: str = "",
) -> None:
    """Ask, and follow what is told until the end; how it ended stands in the taker's result."""
    context_id, syntax = _context(association, sop_class_uid)
    identifier = write_identifier(_elements(taker.level, taker.keys), syntax, UTF_8)
    question = Question(request, sop_class_uid, identifier, destination)
    on_store = taker.take if request == C_GET_RQ else None
    result = taker.result
    try:
        with closing(association.ask(context_id, question, on_store)) as replies:
            _follow(replies, taker, tell)
    except Unreachable as error:
        result.status, result.reason = None, error.message


def _follow(replies: Generator[Reply, None, None], taker: _Taker, tell: Tell) -> None:
    """Count until the last response. Raises Unreachable for a peer that gets no further."""
    done = -1
    for reply in replies:
        left, completed, failed, warned = reply.counts
        if completed + failed + warned > done:
            done, taker.came_at = completed + failed + warned, time.monotonic()
            tell(done, done + (left or 0))
        if not is_pending(reply.status):
            taker.result.status, taker.result.failed = reply.status, failed
            if reply.status != SUCCESS:
                taker.result.reason = _meaning(reply.status, reply.comment)
        elif time.monotonic() - taker.came_at > STALL_S:
            raise Unreachable("it makes no progress", stall_s=STALL_S)


def _keys_of(scope: Scope) -> tuple[Level, dict[str, str]]:
    """The level of a scope, and the UIDs that name it. Raises BadQuery for what is no UID."""
    keys = {
        "StudyInstanceUID": scope.study_instance_uid,
        "SeriesInstanceUID": scope.series_instance_uid,
        "SOPInstanceUID": scope.sop_instance_uid,
    }
    named = {keyword: uid for keyword, uid in keys.items() if uid}
    if not all(map(uids.is_valid, named.values())):
        raise BadQuery("what is asked for is no UID")
    if list(named) != list(keys)[: len(named)] or not named:
        raise BadQuery("an instance is named with its series, and a series with its study")
    return Level(len(named)), named


def _sop_classes(peer: Peer, scope: Scope) -> Sequence[str]:
    """The SOP classes of what is wanted, as the peer tells them; none if it does not."""
    _, keys = _keys_of(scope)
    try:
        with _asking(peer) as association:
            told = list(_told_classes(association, keys))
    except (Refused, Unavailable):
        return ()
    return [uid for uid in dict.fromkeys(told) if uids.is_valid(uid)]


def _told_classes(association: PeerAssociation, keys: Mapping[str, str]) -> Iterator[str]:
    """The SOP classes of a study in one answer, or else those of its instances."""

    def ask(level: Level, keys: Mapping[str, str], wanted: str, most: int) -> list[str]:
        elements = _elements(level, {**keys, wanted: ""})
        return [row.get(wanted, "") for row in _found(association, elements, most).rows]

    study = {"StudyInstanceUID": keys["StudyInstanceUID"]}
    in_study = ask(Level.STUDY, study, "SOPClassesInStudy", 1)
    if any(in_study):
        yield from in_study[0].split("\\")
        return
    series = [keys.get("SeriesInstanceUID", "")]
    if not any(series):
        series = ask(Level.SERIES, study, "SeriesInstanceUID", SERIES_LOOKED_AT_MAX)
    for uid in filter(uids.is_valid, series):
        below = {**keys, "SeriesInstanceUID": uid}
        yield from ask(Level.INSTANCE, below, "SOPClassUID", INSTANCES_LOOKED_AT_MAX)


def _receiving(sop_class_uids: Sequence[str]) -> list[tuple[str, ...]]:
    """The contexts in which instances may come: of few classes, each also as it may be stored.

    A class needs one context for what anybody can make of it, and one for each other syntax, since
    the peer picks one of those that share a context, and not by instance.
    """
    room = CONTEXTS_MAX - 1  # one is for the question
    classes = list(sop_class_uids[:room]) or list(_COMMON[:room])
    each = min(len(_AS_STORED), room // len(classes) - 1)
    return [
        context
        for uid in classes
        for context in ((uid, *_PLAIN), *((uid, syntax) for syntax in _AS_STORED[:each]))
    ]


def _context(association: PeerAssociation, sop_class_uid: str) -> tuple[int, str]:
    """The context of a question and its transfer syntax. Raises Unreachable."""
    for accepted in association.accepted_contexts:
        if accepted.abstract_syntax == sop_class_uid and accepted.context_id is not None:
            return accepted.context_id, str(accepted.transfer_syntax[0])
    raise Unreachable("it does not offer this service")


def _end(association: PeerAssociation) -> None:
    if association.is_established:
        association.release()


def _check(status: int, *, is_cancelled: bool) -> None:
    """Return if a C-FIND ended well. Raises Refused or Unreachable."""
    if status == SUCCESS or (is_cancelled and status == CANCELLED):
        return
    kind = Exhausted if status & 0xFF00 == 0xA700 else Refused
    raise kind(_meaning(status), status=f"{status:04X}")


def _meaning(status: int, comment: str = "") -> str:
    """A status in words, with what the peer itself says of it."""
    words = _MEANINGS.get(status, "it cannot process the request")
    said = f": {comment_of(comment)}" if comment.strip() else ""
    return f"{words} (status {status:04X}{said})"
