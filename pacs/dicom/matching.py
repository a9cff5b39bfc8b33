"""Matching keys: the text of a key becomes one of eight frozen values (PS3.4 C.2.2.2).

C-FIND and QIDO-RS parse with the same function, and the index turns the values into SQL with the
same match statement, so the two doors cannot disagree about what a key means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, Protocol

from pacs.dicom import uids
from pacs.dicom.attributes import Attribute, Level
from pacs.dicom.folding import folded, moments, time_ceiling, time_floor
from pacs.dicom.query_tags import QueryTag
from pacs.errors import BadQuery

KEY_CHARACTERS_MAX: Final = 65_536  # a longer key is refused: no list of UIDs needs more
WILDCARDS_MAX: Final = 32  # more in one key are refused: each costs the database a search
VALUES_MAX: Final = 1_000  # values in one key of multiple value matching; more are refused
LIMIT_MAX: Final = 10_000  # rows of one page; a larger limit is cut to this
PN_GROUPS: Final = ("alphabetic", "ideographic", "phonetic")


@dataclass(frozen=True, slots=True)
class Universal:
    """Every value, also an absent one (C.2.2.2.3)."""


@dataclass(frozen=True, slots=True)
class Single:
    """This very value (C.2.2.2.1). A person's name is folded; a number is an int or a float."""

    value: str | int | float


@dataclass(frozen=True, slots=True)
class Empty:
    """No value: the element is absent or empty (C.2.2.2.7)."""


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


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Any of these (C.2.2.2.8)."""

    matches: tuple[Single | Wildcard | Range | Words, ...]


Match = Universal | Single | Empty | UidList | Wildcard | Range | Words | AnyOf


class Key(Protocol):
    """What `parse_key` must know of an attribute: an indexed one, or an extended query tag."""

    @property
    def keyword(self) -> str:
        """How a refusal names it."""

    @property
    def vr(self) -> str:
        """Its value representation."""

    @property
    def matchable(self) -> bool:
        """Whether a query may name it with a value."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: matching keys at or above a level, and which page of the answer.

    `tags` are the extended query tags among the keys. A `relational` query may have keys below its
    level: what lies below must have them together. With `combined`, a range of dates and one of
    times are one interval from moment to moment (C.2.2.2.5.3).
    """

    level: Level
    keys: Mapping[Attribute, Match] = field(default_factory=dict)
    limit: int = LIMIT_MAX
    offset: int = 0
    relational: bool = False
    tags: Mapping[QueryTag, Match] = field(default_factory=dict)
    combined: bool = False

    def __post_init__(self) -> None:
        named: list[Attribute | QueryTag] = [*self.keys, *self.tags]
        below = [k.keyword for k in named if k.level > self.level and not self.relational]
        if below:
            raise BadQuery(f"{below[0]} lies below the level {self.level.query_retrieve_level}")
        if self.limit < 0 or self.offset < 0:
            raise BadQuery("limit and offset are counted from 0")


def parse_key(
    attribute: Key, text: str, *, fuzzy: bool = False, empty: bool = False, multiple: bool = False
) -> Match:
    """The meaning of one matching key's text. Raises BadQuery.

    With `empty`, two quotation marks mean that there is no value (C.2.2.2.7); with `multiple`, a
    backslash stands between values of which any will do (C.2.2.2.8).
    """
    _check_key(attribute, text)
    text = text.strip(" \0")
    if empty and text == '""':
        return Empty()
    if not text or set(text) == {"*"}:
        return Universal()
    if multiple and "\\" in text and attribute.vr != "UI":
        return _any_of(attribute, text.split("\\"), fuzzy=fuzzy)
    if fuzzy and attribute.vr == "PN":
        return _words(text)
    return _PARSERS.get(attribute.vr, _text)(attribute, text)


def _check_key(attribute: Key, text: str) -> None:
    if not attribute.matchable:
        raise BadQuery(f"{attribute.keyword} cannot be matched")
    if len(text) > KEY_CHARACTERS_MAX:
        raise BadQuery(f"{attribute.keyword} is longer than {KEY_CHARACTERS_MAX} characters")
    if "\0" in text.strip(" \0"):
        raise BadQuery(f"{attribute.keyword} holds a character that no value may hold")


def _any_of(attribute: Key, texts: list[str], *, fuzzy: bool) -> Match:
    if len(texts) > VALUES_MAX:
        raise BadQuery(f"{attribute.keyword} has more than {VALUES_MAX} values")
    found = [parse_key(attribute, text, fuzzy=fuzzy) for text in texts if text.strip(" \0")]
    matches = tuple(m for m in found if isinstance(m, Single | Wildcard | Range | Words))
    # A value that matches everything makes the others idle.
    return AnyOf(matches) if matches and len(matches) == len(found) else Universal()


def _words(text: str) -> Match:
    words = re.split(r"[\s^=]+", folded(text.replace("*", " ").replace("?", " ")))
    found = tuple(word for word in words if word)
    return Words(found) if found else Universal()


def _text(attribute: Key, text: str) -> Match:
    if text.count("*") + text.count("?") > WILDCARDS_MAX:
        raise BadQuery(f"{attribute.keyword} has more than {WILDCARDS_MAX} wildcards")
    return Wildcard(text) if "*" in text or "?" in text else Single(text)


def _person_name(attribute: Key, text: str) -> Match:
    groups = [folded(group) for group in text.split("=")[:3]]
    return _text(attribute, "=".join(groups)) if any(groups) else Universal()


def _uid(attribute: Key, text: str) -> Match:
    named = (uid.strip() for uid in re.split(r"[\\,]", text))
    found = tuple(dict.fromkeys(uid for uid in named if uid))
    if not all(uids.is_valid(uid) for uid in found):
        raise BadQuery(f"{attribute.keyword} is not a list of UIDs")
    return UidList(found)


def _number(attribute: Key, text: str) -> Match:
    if not re.fullmatch(r"[+-]?\d{1,12}", text, re.ASCII):
        raise BadQuery(f"{attribute.keyword} is not a whole number")
    return Single(int(text))


def _decimal(attribute: Key, text: str) -> Match:
    try:
        value = float(text) if re.fullmatch(r"[0-9.eE+-]{1,32}", text) else float("nan")
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise BadQuery(f"{attribute.keyword} is not a number")
    return Single(value)


def _tag(attribute: Key, text: str) -> Match:
    plain = re.sub(r"[(), ]", "", text).upper()
    if not re.fullmatch(r"[0-9A-F]{8}", plain):
        raise BadQuery(f"{attribute.keyword} is not a tag")
    return Single(plain)


def _date(attribute: Key, text: str) -> Match:
    return _range(attribute, text.replace(".", ""), _DATE, lambda t: t, lambda t: t)


def _time(attribute: Key, text: str) -> Match:
    """A time names the whole span it leaves open: 10 is 100000 to 105959.999999."""
    found = _range(attribute, text.replace(":", ""), _TIME, time_floor, time_ceiling)
    if isinstance(found, Single):
        value = str(found.value)
        return Range(time_floor(value), time_ceiling(value))
    return found


def _range(
    attribute: Key,
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


def _moment(attribute: Key, text: str) -> Match:
    """A DT value or range; a value names the whole span it leaves open, as a time does.

    A hyphen before a number that can be an offset from UTC is its sign, any other the range's.
    """
    ends = _MOMENT_RANGE.fullmatch(text.replace(" ", ""))
    if ends is None or not (ends["first"] or ends["last"]):
        raise BadQuery(f"{attribute.keyword} is not a DT value or range")
    if not ends["dash"]:
        return Range(*_span(attribute, ends["first"]))
    first = _span(attribute, ends["first"])[0] if ends["first"] else ""
    return Range(first, _span(attribute, ends["last"])[1] if ends["last"] else "")


def _span(attribute: Key, text: str) -> tuple[str, str]:
    span = moments(text)
    if span is None:
        raise BadQuery(f"{attribute.keyword} is not a DT value or range")
    return span


_DATE: Final = re.compile(r"\d{8}", re.ASCII)
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?", re.ASCII)
# PS3.5 table 6.2-1: an offset from UTC lies between -1200 and +1400.
_MOMENT: Final = r"\d{4}(?:\d{2}){0,5}(?:\.\d{1,6})?(?:[+-](?:0\d|1[0-4])[0-5]\d)?"
_MOMENT_RANGE: Final = re.compile(
    rf"(?P<first>{_MOMENT})?(?P<dash>-)?(?P<last>(?<=-){_MOMENT})?", re.ASCII
)

_PARSERS: Final[Mapping[str, Callable[[Key, str], Match]]] = {
    "PN": _person_name,
    "UI": _uid,
    **dict.fromkeys(("IS", "SL", "SS", "SV", "UL", "US", "UV"), _number),
    **dict.fromkeys(("DS", "FD", "FL"), _decimal),
    "AT": _tag,
    "DA": _date,
    "TM": _time,
    "DT": _moment,
}
