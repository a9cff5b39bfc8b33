"""Names found from their middle: an index of tails.

A worklist asks for `*ller*` at every key that is pressed. So each folded name is entered from each
of its characters on, and the piece is the beginning of some tail, which is one step in an ordered
index, however many patients there are. Whoever asks still compares the whole name: tails are short,
and one that outlived its patient does no harm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, delete
from sqlalchemy.dialects import postgresql, sqlite

from pacs.dicom.attributes import INDEXED
from pacs.dicom.matching import Match, Single, Wildcard, Words
from pacs.index.schema import name_tails, search_columns

TAIL_CHARACTERS: Final = 8  # of a tail; what a longer piece finds too much is compared and dropped

_NAMES: Final = search_columns(INDEXED["PatientName"])
_LAST: Final = "\U0010ffff"  # sorts after every character
_STATEMENTS: Final = {
    "postgresql": postgresql.insert(name_tails).on_conflict_do_nothing(),
    "sqlite": sqlite.insert(name_tails).on_conflict_do_nothing(),
}


def tails(names: Iterable[str | None]) -> set[str]:
    """Every folded name from each of its characters on, cut to TAIL_CHARACTERS."""
    return {
        name[start : start + TAIL_CHARACTERS]
        for name in names
        if name
        for start in range(len(name))
    }


def enter(connection: Connection, archive: int, patient_id: int, values: Mapping[Any, Any]) -> None:
    """Make a patient's names findable; again, whenever they have changed."""
    rows = [
        {"archive_id": archive, "tail": tail, "patient_id": patient_id}
        for tail in tails(values[column] for column in _NAMES)
    ]
    if rows:
        connection.execute(_STATEMENTS[connection.dialect.name], rows)


def leave(connection: Connection, archive: int, patient_id: int, values: Mapping[Any, Any]) -> None:
    """Forget the names of a patient who is gone."""
    connection.execute(
        delete(name_tails).where(
            name_tails.c.archive_id == archive,
            name_tails.c.tail.in_(tails(values[column] for column in _NAMES)),
            name_tails.c.patient_id == patient_id,
        )
    )


def near(archive: int, match: Match) -> ColumnElement[bool] | None:
    """A condition on tails that those of every name that matches satisfy; None if there is none."""
    pieces = _pieces(match)
    if len(pieces) != 1 or not pieces[0]:
        return None
    short = pieces[0][:TAIL_CHARACTERS]
    tail = name_tails.c.tail
    return and_(name_tails.c.archive_id == archive, tail >= short, tail < short + _LAST)


def _pieces(match: Match) -> list[str]:
    """The longest piece without a wildcard of each name that would match."""
    match match:
        case Single(value):
            return [_longest(str(value))]
        case Wildcard(pattern):
            return [_longest(pattern)]
        case Words(words):
            return [max(words, key=len)]
        case _:
            return []


def _longest(pattern: str) -> str:
    return max(re.split(r"[*?=]", pattern), key=len)
