"""Matching keys: the text of a key becomes one of six frozen values (PS3.4 C.2.2.2).

C-FIND and QIDO-RS parse with the same function, and the index turns the values into SQL with the
same match statement, so the two doors cannot disagree about what a key means.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
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


_DATE_TIME: Final = re.compile(
    r"(\d{4}(?:\d{2}(?:\d{2}(?:\d{2}(?:\d{2}(?:\d{2}(?:\.\d{1,6})?)?)?)?)?)?)([+-]\d{4})?"
)
_DATE_TIME_RANGE: Final = re.compile(rf"({_DATE_TIME.pattern})?-({_DATE_TIME.pattern})?")
_FIRST, _LAST = "00000101000000", "99991231235959"


def _date_time(attribute: Attribute, text: str) -> Match:
    """A date and time names the whole span it leaves open, as a time does."""
    if _DATE_TIME.fullmatch(text):
        return Range(_instant(text, _FIRST, "0"), _instant(text, _LAST, "9"))
    found = _DATE_TIME_RANGE.fullmatch(text)
    if found is None or text == "-":
        raise BadQuery(f"{attribute.keyword} is not a DT value or range")
    first, last = found[1] or "", found[4] or ""
    return Range(
        _instant(first, _FIRST, "0") if first else "", _instant(last, _LAST, "9") if last else ""
    )


def _instant(text: str, missing: str, fraction: str) -> str:
    """A DT value as YYYYMMDDHHMMSS.FFFFFF; one with an offset in UTC, one without as it stands."""
    found = _DATE_TIME.fullmatch(text)
    assert found is not None, "only what was matched is made canonical"
    whole, _, decimals = found[1].partition(".")
    whole += missing[len(whole) :]
    if found[2]:
        whole = _in_utc(whole, found[2])
    return f"{whole}.{decimals:{fraction}<6}"


def _in_utc(whole: str, offset: str) -> str:
    sign = -1 if offset[0] == "-" else 1
    shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    day = min(int(whole[6:8]), monthrange(int(whole[:4]) or 1, _month(whole))[1])
    try:
        at = datetime.strptime(f"{whole[:6]}{day:02}{whole[8:]}", "%Y%m%d%H%M%S")  # noqa: DTZ007 - the zone is taken off here
        return (at - sign * shift).strftime("%Y%m%d%H%M%S").rjust(14, "0")
    except (ValueError, OverflowError):
        return whole  # no such day or hour: it is compared as it is written


def _month(whole: str) -> int:
    return min(max(int(whole[4:6]), 1), 12)


def canonical_date_time(text: str) -> str:
    """A DT value in the form in which texts sort as times do; empty for what is none."""
    text = text.strip()
    return _instant(text, _FIRST, "0") if _DATE_TIME.fullmatch(text) else ""


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
    "DT": _date_time,
}


def canonical_time(text: str) -> str:
    """A TM value as the index keeps it, HHMMSS.FFFFFF, so that texts sort as times do."""
    text = text.strip().replace(":", "")
    return _time_floor(text) if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text) else ""
