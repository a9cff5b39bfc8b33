"""Matching keys: the text of a key becomes one of six frozen values (PS3.4 C.2.2.2).

C-FIND and QIDO-RS parse with the same function, and the index turns the values into SQL with the
same match statement, so the two doors cannot disagree about what a key means.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pacs.dicom import uids
from pacs.dicom.attributes import Attribute, Level
from pacs.errors import BadQuery

KEY_CHARACTERS_MAX: Final = 65_536  # a longer key is refused: no list of UIDs needs more
WILDCARDS_MAX: Final = 32  # more in one key are refused: each costs the database a search
LIMIT_MAX: Final = 10_000  # rows of one page; a larger limit is cut to this
PN_GROUPS: Final = ("alphabetic", "ideographic", "phonetic")


@dataclass(frozen=True, slots=True)
class Universal:
    """Every value, also an absent one (C.2.2.2.3)."""


@dataclass(frozen=True, slots=True)
class Single:
    """This very value (C.2.2.2.1). A person's name is folded; a number is an int."""

    value: str | int


@dataclass(frozen=True, slots=True)
class UidList:
    """Any of these UIDs (C.2.2.2.2)."""

    uids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wildcard:
    """`*` for any characters, `?` for one (C.2.2.2.4)."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Range:
    """From first to last, both included; an empty end is open (C.2.2.2.5)."""

    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Words:
    """Fuzzy matching of a name: each word begins some word of the name, in any order."""

    words: tuple[str, ...]


Match = Universal | Single | UidList | Wildcard | Range | Words


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: matching keys at or above a level, and which page of the answer.

    A `relational` query may have keys below its level: what lies below must have them together.
    """

    level: Level
    keys: Mapping[Attribute, Match] = field(default_factory=dict)
    limit: int = LIMIT_MAX
    offset: int = 0
    relational: bool = False

    def __post_init__(self) -> None:
        below = [k.keyword for k in self.keys if k.level > self.level and not self.relational]
        if below:
            raise BadQuery(f"{below[0]} lies below the level {self.level.query_retrieve_level}")
        if self.limit < 0 or self.offset < 0:
            raise BadQuery("limit and offset are counted from 0")


def folded(name: str) -> str:
    """One component group of a person's name as it is compared (PS3.4 C.2.2.2.1, 6.2.1 of PS3.5).

    Compatibility forms are unified, marks removed, case folded, spaces joined and empty trailing
    components cut, so `MÜLLER ^Eva^^` and `muller^eva` are the same.
    """
    text = unicodedata.normalize("NFKD", name)
    text = "".join(c for c in text if not unicodedata.combining(c)).casefold()
    components = (" ".join(component.split()) for component in text.split("^"))
    return "^".join(components).rstrip("^")


def parse_key(attribute: Attribute, text: str, *, fuzzy: bool = False) -> Match:
    """The meaning of one matching key's text. Raises BadQuery."""
    if not attribute.matchable:
        raise BadQuery(f"{attribute.keyword} cannot be matched")
    if len(text) > KEY_CHARACTERS_MAX:
        raise BadQuery(f"{attribute.keyword} is longer than {KEY_CHARACTERS_MAX} characters")
    text = text.strip(" \0")
    if "\0" in text:
        raise BadQuery(f"{attribute.keyword} holds a character that no value may hold")
    if not text or set(text) == {"*"}:
        return Universal()
    if fuzzy and attribute.vr == "PN":
        return _words(text)
    return _PARSERS.get(attribute.vr, _text)(attribute, text)


def _words(text: str) -> Match:
    words = re.split(r"[\s^=]+", folded(text.replace("*", " ").replace("?", " ")))
    found = tuple(word for word in words if word)
    return Words(found) if found else Universal()


def _text(attribute: Attribute, text: str) -> Match:
    if text.count("*") + text.count("?") > WILDCARDS_MAX:
        raise BadQuery(f"{attribute.keyword} has more than {WILDCARDS_MAX} wildcards")
    return Wildcard(text) if "*" in text or "?" in text else Single(text)


def _person_name(attribute: Attribute, text: str) -> Match:
    groups = [folded(group) for group in text.split("=")[:3]]
    return _text(attribute, "=".join(groups)) if any(groups) else Universal()


def _uid(attribute: Attribute, text: str) -> Match:
    named = (uid.strip() for uid in re.split(r"[\\,]", text))
    found = tuple(dict.fromkeys(uid for uid in named if uid))
    if not all(uids.is_valid(uid) for uid in found):
        raise BadQuery(f"{attribute.keyword} is not a list of UIDs")
    return UidList(found)


def _number(attribute: Attribute, text: str) -> Match:
    if not re.fullmatch(r"[+-]?\d{1,12}", text):
        raise BadQuery(f"{attribute.keyword} is not a whole number")
    return Single(int(text))


def _date(attribute: Attribute, text: str) -> Match:
    return _range(attribute, text.replace(".", ""), re.compile(r"\d{8}"), lambda t: t, lambda t: t)


def _time(attribute: Attribute, text: str) -> Match:
    """A time names the whole span it leaves open: 10 is 100000 to 105959.999999."""
    shape = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")
    found = _range(attribute, text.replace(":", ""), shape, _time_floor, _time_ceiling)
    if isinstance(found, Single):
        value = str(found.value)
        return Range(_time_floor(value), _time_ceiling(value))
    return found


def _time_floor(text: str) -> str:
    whole, _, fraction = text.partition(".")
    return f"{whole:0<6}.{fraction:0<6}"


def _time_ceiling(text: str) -> str:
    whole, _, fraction = text.partition(".")
    return f"{whole}{'235959'[len(whole) :]}.{fraction:9<6}"


def _range(
    attribute: Attribute,
    text: str,
    shape: re.Pattern[str],
    floor: Callable[[str], str],
    ceiling: Callable[[str], str],
) -> Match:
    first, dash, last = (part.strip() for part in text.partition("-"))
    if dash and not first and not last:
        raise BadQuery(f"{attribute.keyword} has a range without ends")
    if not all(shape.fullmatch(end) for end in (first, last) if end):
        raise BadQuery(f"{attribute.keyword} is not a {attribute.vr} value or range")
    if not dash:
        return Single(first)
    return Range(floor(first) if first else "", ceiling(last) if last else "")


_PARSERS: Final[Mapping[str, Callable[[Attribute, str], Match]]] = {
    "PN": _person_name,
    "UI": _uid,
    "IS": _number,
    "US": _number,
    "DA": _date,
    "TM": _time,
}


def canonical_time(text: str) -> str:
    """A TM value as the index keeps it, HHMMSS.FFFFFF, so that texts sort as times do."""
    text = text.strip().replace(":", "")
    return _time_floor(text) if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text) else ""
