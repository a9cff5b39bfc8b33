"""C-FIND of the modality worklist (PS3.4 annex K): what a scanner asks before a patient lies down.

Keys are matched by the function that every other query uses. The keys of table K.6-1 that must be
returned come in every answer, whether they were asked for or not; any other attribute comes if the
entry has it, and empty if not. A key with a value that is not matched makes the status FF01.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Final

from pynetdicom.events import Event

from pacs.dicom.attributes import WORKLIST, Level
from pacs.dimse.handlers import actor_of
from pacs.dimse.identifiers import Key, answered, tag_of, write_identifier
from pacs.dimse.messages import Answer
from pacs.dimse.query import Request, every_answer
from pacs.dimse.status import PENDING, PENDING_WITH_UNSUPPORTED_KEYS
from pacs.worklist import Entry, Worklist

WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"

STEP_SEQUENCE: Final = tag_of("ScheduledProcedureStepSequence")

_OF_STEP: Final = {a.tag: k for k, a in WORKLIST.items() if a.level is Level.SERIES}
_ABOVE: Final = {a.tag: k for k, a in WORKLIST.items() if a.level is not Level.SERIES}
_OPTIONAL: Final = WORKLIST["IssuerOfPatientID"].tag  # matched, and returned when asked for
_EVERY: Final = {a.tag: Key(a.vr, "") for a in WORKLIST.values() if a.tag != _OPTIONAL}

Keys = Mapping[int, Key]


def on_worklist_find(
    event: Event, worklist: Worklist, answers_max: int
) -> Generator[Answer, None, None]:
    """Answer one C-FIND-RQ: every step that is on the list and matches, and then how it ended."""
    request = Request.of(event)

    def pages() -> Iterator[Iterable[Answer]]:
        identifier = request.identifier()
        keys = returned(identifier.keys)
        status = PENDING if is_heeded(identifier.keys) else PENDING_WITH_UNSUPPORTED_KEYS

        def answer(entry: Entry) -> Answer:
            elements = answered(keys, entry.model)
            syntax, characters = request.transfer_syntax_uid, identifier.character_set
            return Answer(status, write_identifier(elements, syntax, characters))

        texts = matched(identifier.keys)
        for page in worklist.pages(actor_of(event), texts, is_stopped=request.is_stopped):
            yield map(answer, page)

    return every_answer(request, pages(), answers_max)


def matched(keys: Keys) -> dict[str, str]:
    """The matching keys of a request that have a value, by keyword."""
    return _texts(keys, _ABOVE) | _texts(_item(keys), _OF_STEP)


def _texts(keys: Keys, known: Mapping[int, str]) -> dict[str, str]:
    return {known[tag]: key.text for tag, key in keys.items() if tag in known and key.text}


def _item(keys: Keys) -> Keys:
    """The keys for the step itself."""
    return keys[STEP_SEQUENCE].item if STEP_SEQUENCE in keys else {}


def is_heeded(keys: Keys) -> bool:
    """Whether every key that has a value is matched (PS3.4 K.4.1.1.4)."""
    others = {tag: key for tag, key in keys.items() if tag not in {*_ABOVE, STEP_SEQUENCE}}
    others_of_step = {tag: key for tag, key in _item(keys).items() if tag not in _OF_STEP}
    return not any(_has_value(key) for key in (*others.values(), *others_of_step.values()))


def _has_value(key: Key) -> bool:
    return bool(key.text.strip("*")) or any(map(_has_value, key.item.values()))


def returned(keys: Keys) -> dict[int, Key]:
    """The keys that answers have: those asked for, and those that always come.

    A step that is asked for without keys in it comes whole.
    """
    above = {tag: key for tag, key in _EVERY.items() if tag in _ABOVE}
    step = {tag: key for tag, key in _EVERY.items() if tag in _OF_STEP}
    is_whole = STEP_SEQUENCE in keys and not _item(keys)
    item = {} if is_whole else {**step, **_item(keys)}
    return {**above, **keys, STEP_SEQUENCE: Key("SQ", "", item)}
