"""Values as they are compared: names folded, times and moments as texts that sort.

What a key means and what the index holds must be made by the same functions, or they would not meet.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta
from typing import Final

_FIRST: Final = "00000101000000"  # what a moment's open digits mean
_MOMENT_PARTS: Final = re.compile(r"(\d{4}(?:\d{2}){0,5})(?:\.(\d{1,6}))?([+-]\d{4})?", re.ASCII)


def folded(name: str) -> str:
    """One component group of a person's name as it is compared (PS3.4 C.2.2.2.1, 6.2.1 of PS3.5).

    Compatibility forms are unified, marks removed, case folded, spaces joined and empty trailing
    components cut, so `MÜLLER ^Eva^^` and `muller^eva` are the same.
    """
    text = unicodedata.normalize("NFKD", name)
    text = "".join(c for c in text if not unicodedata.combining(c)).casefold()
    components = (" ".join(component.split()) for component in text.split("^"))
    return "^".join(components).rstrip("^")


def time_floor(text: str) -> str:
    """The first moment of a time that is left open, HHMMSS.FFFFFF."""
    whole, _, fraction = text.partition(".")
    return f"{whole:0<6}.{fraction:0<6}"


def time_ceiling(text: str) -> str:
    """The last moment of a time that is left open."""
    whole, _, fraction = text.partition(".")
    return f"{whole}{'235959'[len(whole) :]}.{fraction:9<6}"


def canonical_date_time(text: str) -> str:
    """A DT value in the form in which texts sort as times do; empty for what is none.

    A day that no calendar has is compared as it is written.
    """
    span, shape = moments(text), _MOMENT_PARTS.fullmatch(text.strip(" \0"))
    if span or shape is None:
        return span[0] if span else ""
    return f"{shape[1]}{_FIRST[len(shape[1]) :]}.{shape[2] or '':0<6}"


def moments(text: str) -> tuple[str, str] | None:
    """The first and the last moment that a DT value names, as texts that sort; None if it is none.

    One with an offset is taken to UTC, one without stays as it is (PS3.5 table 6.2-1).
    """
    found = _MOMENT_PARTS.fullmatch(text.strip(" \0"))
    if found is None:
        return None
    digits, fraction, offset = found[1], found[2] or "", found[3]
    first = f"{digits}{_FIRST[len(digits) :]}.{fraction:0<6}"
    last = f"{digits}{'00001231235959'[len(digits) :]}.{fraction:9<6}"
    try:
        return _in_utc(first, offset), _in_utc(_in_its_month(last, digits), offset)
    except (ValueError, OverflowError):
        return None


def _in_its_month(last: str, digits: str) -> str:
    """The same, on the last day that its month has, where the day was left open."""
    if len(digits) != 6:
        return last
    first_of_next = datetime.strptime(f"{digits}28", "%Y%m%d") + timedelta(days=4)  # noqa: DTZ007 - a day, in no zone
    return f"{first_of_next - timedelta(days=first_of_next.day):%Y%m%d}{last[8:]}"


def _in_utc(moment: str, offset: str | None) -> str:
    at = datetime.strptime(moment, "%Y%m%d%H%M%S.%f")  # noqa: DTZ007 - its zone is beside it
    if offset:
        minutes = int(offset[1:3]) * 60 + int(offset[3:5])
        at -= timedelta(minutes=-minutes if offset[0] == "-" else minutes)
    return f"{at:%Y%m%d%H%M%S.%f}"


def canonical_date(text: str) -> str:
    """A DA value as the index keeps it, YYYYMMDD; empty for what is none (PS3.5 table 6.2-1)."""
    text = text.strip().replace(".", "")
    return text if re.fullmatch(r"\d{8}", text, re.ASCII) else ""


def canonical_time(text: str) -> str:
    """A TM value as the index keeps it, HHMMSS.FFFFFF, so that texts sort as times do."""
    text = text.strip().replace(":", "")
    return time_floor(text) if re.fullmatch(r"\d{2,6}(\.\d{1,6})?", text) else ""
