"""DICOM values as people read them: names, dates, numbers, codes, states. Pure functions.

Whatever cannot be read is shown as it came, never dropped: a page that hides an odd value hides
the study's trouble. Escaping is the templates' work, not ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from inference.words import UNIT_WORDS

NOTHING: Final = "–"
LAST_WITH_COMMA: Final = "\u052f"  # the end of the Cyrillic letters; later scripts go without

# What a chip says for a state of a run or a job. "none" is a study that no model was asked about.
STATE_WORDS: Final[Mapping[str, str]] = {
    "none": "no AI run",
    "queued": "waiting",
    "running": "running",
    "succeeded": "result",
    "skipped": "not applicable",
    "failed": "failed",
    "superseded": "superseded",
}
JOB_WORDS: Final = {**STATE_WORDS, "succeeded": "done"}
KIND_WORDS: Final = {"infer": "run a model", "release": "release to a project"}
OBJECT_WORDS: Final = {"SR": "structured report", "SEG": "segmentation"}

_PRESENCE: Final = {"True": "present", "False": "absent"}
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})")
_TIME = re.compile(r"(\d{2}):?(\d{2})")


def person_name(value: object) -> str:
    """A PN value: `Family, Given Middle`, and the ideographic group in brackets (PS3.5 6.2.1).

    A name that is not in Latin, Greek or Cyrillic letters has no comma.
    """
    first, _, others = str(value or "").partition("=")
    alphabetic, ideographic = _name_group(first), _name_group(others.partition("=")[0])
    if alphabetic and ideographic:
        return f"{alphabetic} ({ideographic})"
    return alphabetic or ideographic or NOTHING


def _name_group(group: str) -> str:
    family, given, middle, prefix, suffix = (group.split("^") + [""] * 5)[:5]
    first = " ".join(part.strip() for part in (prefix, given, middle) if part.strip())
    comma = " " if any(character > LAST_WITH_COMMA for character in family) else ", "
    return comma.join(part.strip() for part in (family, first, suffix) if part.strip())


def date(value: object) -> str:
    """A DA value as 2024-02-29."""
    found = _DATE.fullmatch(str(value or "").strip())
    return "-".join(found.groups()) if found else str(value or NOTHING)


def time_of_day(value: object) -> str:
    """A TM value as 10:15; nothing if it is absent."""
    found = _TIME.match(str(value or "").strip())
    return ":".join(found.groups()) if found else str(value or "")


def text(value: object) -> str:
    """Any value of a row; several are joined."""
    if isinstance(value, tuple | list):
        return ", ".join(str(part) for part in value if part) or NOTHING
    return NOTHING if value is None or value == "" else str(value)


def number(value: object) -> str:
    """A measured value with as many digits as help a reader, and thin spaces between thousands."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(value)
    digits = 0 if abs(value) >= 1000 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")


def sentence(value: object) -> str:
    """A reason as a sentence: it begins with a capital and ends with a stop."""
    found = str(value or "").strip()
    return found[:1].upper() + found[1:] + ("" if found.endswith((".", "!", "?")) else ".")


def duration(milliseconds: float) -> str:
    """How long something took."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1000:.1f} s"


def moment(seconds: float | None) -> str:
    """A moment of a job's life in UTC, to the second."""
    if seconds is None:
        return NOTHING
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def meaning(code: object) -> str:
    """The code meaning of a triple, given as a mapping or as value, scheme, meaning."""
    match code:
        case {"meaning": str() as found}:
            return found
        case [_, _, str() as found]:
            return found
        case _:
            return ""


def triple(code: object) -> str:
    """A code triple as the standard prints it: (value, scheme)."""
    match code:
        case {"value": value, "scheme": scheme}:
            return f"({value}, {scheme})"
        case [value, scheme, _]:
            return f"({value}, {scheme})"
        case _:
            return ""


def unit(code: object) -> str:
    """A UCUM unit as it is written beside a number."""
    value = code.get("value") if isinstance(code, Mapping) else None
    if isinstance(code, Sequence) and not isinstance(code, str) and code:
        value = code[0]
    found = str(value or code or "")
    return UNIT_WORDS.get(found, found)


@dataclass(frozen=True, slots=True)
class FindingRow:
    """One finding as a row of the table."""

    title: str
    answer: str
    unit: str
    code: str
    site: str


def finding_row(finding: Mapping[str, Any]) -> FindingRow:
    """A finding of `/api/…/results` in words: a number, or present, absent, undetermined."""
    answer = number(finding["value"]) if finding.get("value") is not None else _presence(finding)
    return FindingRow(
        title=str(finding.get("title") or meaning(finding.get("code")) or NOTHING),
        answer=answer,
        unit=unit(finding.get("unit")),
        code=triple(finding.get("code")),
        site=_site(finding.get("site")),
    )


def _site(site: object) -> str:
    """A coded site, or the name of the segment that was measured."""
    return site.replace("_", " ") if isinstance(site, str) else meaning(site)


def _presence(finding: Mapping[str, Any]) -> str:
    if "present" not in finding and "probability" not in finding:
        return NOTHING
    words = _PRESENCE.get(str(finding.get("present")), "undetermined")
    probability = finding.get("probability")
    if probability is None:
        return words
    return f"{words} (probability {number(float(probability))})"
