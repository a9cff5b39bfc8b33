"""C-FIND: an identifier becomes one `Query`, and each of its rows one answer (PS3.4 C.4.1).

Keys are parsed by the function that QIDO-RS uses, so the two doors find the same. A key that the
index lacks does not narrow the search; it comes back empty, and the answer's status is FF01 instead
of FF00. That is so for every sequence, RequestAttributesSequence among them: none is in the index.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, cast

from pydicom.datadict import dictionary_VR
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.events import Event

from pacs.archive import Archive
from pacs.dicom.attributes import INDEXED, UNIQUE_KEY, Attribute, Level
from pacs.dicom.matching import Match, Query, Single, UidList, parse_key
from pacs.dimse.handlers import actor_of
from pacs.dimse.identifiers import (
    SPECIFIC_CHARACTER_SET,
    Identifier,
    Key,
    Value,
    read_identifier,
    tag_of,
    write_identifier,
)
from pacs.dimse.messages import Answer
from pacs.dimse.status import (
    CANCELLED,
    FIND,
    PENDING,
    PENDING_WITH_UNSUPPORTED_KEYS,
    SUCCESS,
    comment_of,
    status_of,
)
from pacs.dimse.upper_layer import PeerAssociation
from pacs.errors import Exhausted, Mismatch, NodeError

# The level at the top of each information model (PS3.4 C.6.1, C.6.2), by SOP class.
FIND_ROOTS: Final[Mapping[str, Level]] = {
    "1.2.840.10008.5.1.4.1.2.1.1": Level.PATIENT,
    "1.2.840.10008.5.1.4.1.2.2.1": Level.STUDY,
}
MOVE_ROOTS: Final[Mapping[str, Level]] = {
    "1.2.840.10008.5.1.4.1.2.1.2": Level.PATIENT,
    "1.2.840.10008.5.1.4.1.2.2.2": Level.STUDY,
}
GET_ROOTS: Final[Mapping[str, Level]] = {
    "1.2.840.10008.5.1.4.1.2.1.3": Level.PATIENT,
    "1.2.840.10008.5.1.4.1.2.2.3": Level.STUDY,
}
ROOTS: Final[Mapping[str, Level]] = {**FIND_ROOTS, **MOVE_ROOTS, **GET_ROOTS}

LEVELS: Final = {level.query_retrieve_level: level for level in Level}

AVAILABILITY: Final = "ONLINE"  # everything that has a row can be retrieved at once

_BY_TAG: Final = {attribute.tag: attribute for attribute in INDEXED.values()}

QUERY_RETRIEVE_LEVEL: Final = tag_of("QueryRetrieveLevel")
# What every answer tells besides the values asked for, whether it was asked or not.
_OF_EVERY_ANSWER: Final = ("QueryRetrieveLevel", "RetrieveAETitle", "InstanceAvailability")
_CONTROLS: Final = frozenset((SPECIFIC_CHARACTER_SET, *map(tag_of, _OF_EVERY_ANSWER)))
_KEYWORDS: Final = {tag_of(keyword): keyword for keyword in (*INDEXED, *_OF_EVERY_ANSWER)}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """The information model that a request is made in, with the options that were negotiated."""

    root: Level
    relational: bool = False  # keys of any level, in any combination (PS3.4 C.4.1.2.2.1)
    fuzzy: bool = False  # names match by their words (C.2.2.2.1.1)


def negotiated(requested: Mapping[str, bytes]) -> dict[str, bytes]:
    """Our answer to SOP Class Extended Negotiation, by SOP class (PS3.4 C.5.1.1.1, C.5.2.1.1).

    Of the options for C-FIND we have relational queries and fuzzy matching of names; dates and
    times are matched each for itself, and time zones are not adjusted. Of those for C-MOVE and
    C-GET we have relational retrieval.
    """
    offered = {**dict.fromkeys(ROOTS, b"\1\0"), **dict.fromkeys(FIND_ROOTS, b"\1\0\1\0")}
    return {
        sop_class_uid: bytes(
            wanted & ours
            for wanted, ours in zip_longest(
                asked, offered[sop_class_uid][: len(asked)], fillvalue=0
            )
        )
        for sop_class_uid, asked in requested.items()
        if sop_class_uid in offered
    }


def on_extended_negotiation(event: Event) -> dict[str, bytes]:
    """Answer the SOP Class Extended Negotiation of an association."""
    return negotiated(_extended(event))


def _extended(event: Event) -> dict[str, bytes]:
    items = event.assoc.requestor.sop_class_extended.items()
    return {str(uid): information for uid, information in items}


def model_of(event: Event) -> Model:
    """The model of a request, with what its association negotiated."""
    sop_class_uid = str(event.context.abstract_syntax)
    options = negotiated(_extended(event)).get(sop_class_uid, b"").ljust(3, b"\0")
    return Model(ROOTS[sop_class_uid], relational=bool(options[0]), fuzzy=bool(options[2]))


def level_of(identifier: Identifier, root: Level) -> Level:
    """The Query/Retrieve Level of a request. Raises Mismatch."""
    level = LEVELS.get(identifier.keys.get(QUERY_RETRIEVE_LEVEL, Key("CS", "")).text)
    if level is None or level < root:
        raise Mismatch("the Query/Retrieve Level is missing or not one of the model")
    return level


def keys_of(identifier: Identifier, level: Level, model: Model) -> dict[Attribute, Match]:
    """The matching keys of a request: those with a value, and in the index.

    Raises BadQuery for a value that cannot be matched; Mismatch for a key below the level, and for
    a unique key above it that is no single value, unless the model is relational (C.4.1.2.1).
    """
    keys = {}
    for tag, key in identifier.keys.items():
        attribute = _BY_TAG.get(tag)
        if attribute is None or not attribute.matchable or not key.text:
            continue
        if attribute.level > level and not model.relational:
            raise Mismatch(f"{attribute.keyword} lies below the level")
        keys[attribute] = parse_key(attribute, key.text, fuzzy=model.fuzzy)
    if not model.relational:
        for above in Level:
            if model.root <= above < level and not is_single(keys.get(UNIQUE_KEY[above])):
                raise Mismatch(f"{UNIQUE_KEY[above].keyword} is missing or not a single value")
    return keys


def is_single(match: Match | None) -> bool:
    """Whether a unique key names one entity and no more."""
    return isinstance(match, Single) or (isinstance(match, UidList) and len(match.uids) == 1)


def is_supported(tag: int, key: Key, level: Level) -> bool:
    """Whether an answer at a level has this attribute, and its key was heeded (PS3.4 C.4.1.1.4)."""
    if tag in _CONTROLS:
        return True
    attribute = _BY_TAG.get(tag)
    if attribute is None or attribute.level > level:
        return False
    if attribute.counted:
        return attribute.level is level and (attribute.matchable or not key.text)
    return True


@dataclass(frozen=True, slots=True)
class Shape:
    """What every answer to one request looks like: the elements it repeats, and how it is written."""

    columns: tuple[tuple[int, str, str], ...]  # tag, VR, keyword: empty for what we do not have
    of_every_answer: Mapping[str, Value]
    transfer_syntax_uid: str
    character_set: tuple[str, ...]
    status: int

    @classmethod
    def of(
        cls, identifier: Identifier, level: Level, transfer_syntax_uid: str, ae_title: str
    ) -> Shape:
        """The shape of the answers to an identifier: its keys, and the unique ones down to level."""
        unique = {key.tag: Key(key.vr, "") for at, key in UNIQUE_KEY.items() if at <= level}
        controls = {tag: Key(dictionary_VR(tag), "") for tag in _CONTROLS}
        asked = {**controls, **unique, **identifier.keys}
        del asked[SPECIFIC_CHARACTER_SET]  # whoever writes the answer knows in which it is
        supported = {tag: is_supported(tag, key, level) for tag, key in asked.items()}
        return cls(
            tuple((tag, key.vr, _KEYWORDS.get(tag, "")) for tag, key in sorted(asked.items())),
            {
                "QueryRetrieveLevel": level.query_retrieve_level,
                "RetrieveAETitle": ae_title,
                "InstanceAvailability": AVAILABILITY,
            },
            transfer_syntax_uid,
            identifier.character_set,
            PENDING if all(supported.values()) else PENDING_WITH_UNSUPPORTED_KEYS,
        )

    def answer(self, row: Mapping[str, Value]) -> Answer:
        """The answer that tells one row."""
        values = {**row, **self.of_every_answer}
        elements = ((tag, vr, values.get(keyword)) for tag, vr, keyword in self.columns)
        identifier = write_identifier(elements, self.transfer_syntax_uid, self.character_set)
        return Answer(self.status, identifier)


def on_c_find(
    event: Event, archive: Archive, ae_title: str, answers_max: int
) -> Generator[Answer, None, None]:
    """Answer one C-FIND-RQ (PS3.4 C.4.1.3): every match, and then how it ended."""
    request = Request.of(event)

    def pages() -> Iterator[Iterable[Answer]]:
        query, shape = _understood(event, request, ae_title, answers_max)
        for page in archive.pages(actor_of(event), query, is_stopped=request.is_stopped):
            yield map(shape.answer, page)

    return every_answer(request, pages(), answers_max)


def every_answer(
    request: Request, pages: Iterator[Iterable[Answer]], answers_max: int
) -> Generator[Answer, None, None]:
    """The answers of a C-FIND as they come, page by page, and then how it ended."""
    answered = 0
    try:
        for page in pages:
            for answer in page:
                if request.is_stopped():
                    yield Answer(CANCELLED)
                    return
                if answered == answers_max:
                    raise Exhausted("more matches exist than are answered", answers_max=answers_max)
                answered += 1
                yield answer
        yield Answer(SUCCESS)
    except NodeError as error:
        yield Answer(CANCELLED) if request.is_stopped() else refusal(error)


def _understood(
    event: Event, request: Request, ae_title: str, answers_max: int
) -> tuple[Query, Shape]:
    """What a C-FIND asks, and how it is answered. The query finds one more, to tell that it exists."""
    identifier, model = request.identifier(), model_of(event)
    level = level_of(identifier, model.root)
    keys = keys_of(identifier, level, model)
    query = Query(level, keys, limit=answers_max + 1, relational=model.relational)
    return query, Shape.of(identifier, level, request.transfer_syntax_uid, ae_title)


def refusal(error: NodeError) -> Answer:
    """The response that ends a C-FIND with an error."""
    log.warning("C-FIND refused: %s", error, extra={"facts": error.facts})
    return Answer(status_of(error, FIND), comment=comment_of(error.message))


@dataclass(frozen=True, slots=True)
class Request:
    """A C-FIND, C-GET or C-MOVE while it is served."""

    association: PeerAssociation
    message: C_FIND | C_GET | C_MOVE
    transfer_syntax_uid: str

    @classmethod
    def of(cls, event: Event) -> Request:
        """The request of an event."""
        return cls(
            cast(PeerAssociation, event.assoc),
            cast("C_FIND | C_GET | C_MOVE", event.request),
            str(event.context.transfer_syntax),
        )

    @property
    def message_id(self) -> int:
        """The number that its responses, and a C-CANCEL, refer to."""
        return cast(int, self.message.MessageID)

    def identifier(self) -> Identifier:
        """Its identifier. Raises as `read_identifier` does."""
        encoded = self.message.Identifier
        return read_identifier(
            b"" if encoded is None else encoded.getbuffer(), self.transfer_syntax_uid
        )

    def is_stopped(self) -> bool:
        """Whether nobody waits for more: the peer has sent a C-CANCEL, or is gone."""
        return self.association.is_cancelled(self.message_id) or not self.association.is_standing
