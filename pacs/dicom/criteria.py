"""Criteria: matching keys on data sets that have no rows of their own, judged one by one.

A question is a list of pairs, a path of keywords and a text, so it can be kept and asked again. It
is parsed by the function that C-FIND and QIDO-RS use; an attribute list then satisfies it or not
(PS3.4 C.2.2.2). All keys inside one sequence must be satisfied by one and the same item (C.2.2.2.6).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from pydicom.datadict import keyword_for_tag, tag_for_keyword

from pacs.dicom.attributes import Attribute, Level
from pacs.dicom.folding import canonical_date_time, canonical_time, folded
from pacs.dicom.json_model import JsonModel
from pacs.dicom.matching import (
    PN_GROUPS,
    AnyOf,
    Empty,
    Match,
    Range,
    Single,
    UidList,
    Universal,
    Wildcard,
    Words,
    parse_key,
)
from pacs.errors import BadQuery

KEYS_MAX: Final = 128  # of one question; more are refused
PATH_STEPS_MAX: Final = 8  # sequences inside sequences in one key; deeper ones are refused

Pairs = Sequence[tuple[str, str]]
Criteria = Mapping[Attribute, "Match | Criteria"]

_HEXADECIMAL: Final = re.compile(r"[0-9A-Fa-f]{8}")


def parse(pairs: Pairs, *, fuzzy: bool = False) -> Criteria:
    """What pairs of a path, such as `ScheduledStationNameCodeSequence.CodeValue`, and a text ask.

    A key without a value asks nothing. Raises BadQuery.
    """
    if len(pairs) > KEYS_MAX:
        raise BadQuery("the question has too many keys", keys_max=KEYS_MAX)
    criteria: dict[Attribute, Any] = {}
    for path, text in pairs:
        *above, last = _steps(path)
        match = parse_key(last, text, fuzzy=fuzzy)
        if match == Universal():
            continue
        inside = criteria
        for attribute in above:
            inside = inside.setdefault(attribute, {})
        if inside.setdefault(last, match) != match:
            raise BadQuery(f"{last.keyword} is given twice with different values")
    return criteria


def _steps(path: str) -> list[Attribute]:
    names = path.split(".")
    if len(names) > PATH_STEPS_MAX:
        raise BadQuery("a key lies too deep in sequences", steps_max=PATH_STEPS_MAX)
    steps = [attribute(name) for name in names]
    if any(step.vr != "SQ" for step in steps[:-1]) or steps[-1].vr == "SQ":
        raise BadQuery(f"{steps[-1].keyword} cannot be matched")
    return steps


@cache
def _attribute(keyword: str) -> Attribute:
    return Attribute(keyword, Level.INSTANCE)


def attribute(name: str) -> Attribute:
    """The attribute of PS3.6 that a keyword or a tag names. Raises BadQuery for none."""
    keyword = keyword_for_tag(int(name, 16)) if _HEXADECIMAL.fullmatch(name) else name
    if not keyword or tag_for_keyword(keyword) is None:
        raise BadQuery("a key names no attribute of PS3.6")
    return _attribute(keyword)


def satisfies(model: JsonModel, criteria: Criteria) -> bool:
    """Whether an attribute list has what is asked."""
    return all(_has(model, key, wanted) for key, wanted in criteria.items())


def _has(model: JsonModel, key: Attribute, wanted: Match | Criteria) -> bool:
    found = [v for v in model.get(f"{key.tag:08X}", {}).get("Value", []) if v is not None]
    if isinstance(wanted, Mapping):
        return any(satisfies(item, wanted) for item in found)
    if key.vr == "PN":
        return any(_matches_name(name, wanted) for name in found)
    return any(_matches(compared(key.vr, value), wanted) for value in found)


def compared(vr: str, value: object) -> str | int:
    """A value of the JSON model in the form in which it is compared."""
    if vr in ("IS", "SS", "SL", "SV", "US", "UL", "UV"):
        return int(str(value))
    text = str(value).strip()
    if vr == "TM":
        return canonical_time(text)
    return canonical_date_time(text) if vr == "DT" else text


def _matches_name(name: Mapping[str, str], wanted: Match) -> bool:
    """A name matches if any of its groups does, or each group that the key gives."""
    groups = [folded(name.get(group.capitalize(), "")) for group in PN_GROUPS]
    text = str(wanted.value) if isinstance(wanted, Single) else getattr(wanted, "pattern", "")
    if "=" not in text:
        return any(group and _matches(group, wanted) for group in groups)
    given = zip(groups, text.split("="), strict=False)
    return all(is_like(group, pattern) for group, pattern in given if pattern)


def _matches(value: str | int, wanted: Match) -> bool:
    match wanted:
        case Universal():
            return True
        case Single(single):
            return value == single
        case UidList(uids):
            return value in uids
        case Wildcard(pattern):
            return is_like(str(value), pattern)
        case Range(first, last):
            return (not first or str(value) >= first) and (not last or str(value) <= last)
        case Words(words):
            return all(_begins_a_word(str(value), word) for word in words)
        case Empty():
            return value == ""
        case AnyOf(matches):
            return any(_matches(value, one) for one in matches)


def _begins_a_word(name: str, prefix: str) -> bool:
    return any(word.startswith(prefix) for word in re.split(r"[ ^]", name))


def is_like(text: str, pattern: str) -> bool:
    """Whether a text has the form of a pattern with `*` and `?`; never more than their product."""
    at = begun = retry = 0
    star = -1
    while at < len(text):
        if begun < len(pattern) and pattern[begun] == "*":
            star, retry, begun = begun, at, begun + 1
        elif begun < len(pattern) and pattern[begun] in ("?", text[at]):
            at, begun = at + 1, begun + 1
        elif star >= 0:
            retry += 1
            at, begun = retry, star + 1
        else:
            return False
    return not pattern[begun:].strip("*")


def flat(criteria: Criteria) -> Iterable[tuple[Attribute, Match]]:
    """The keys that lie in no sequence."""
    return ((k, m) for k, m in criteria.items() if not isinstance(m, Mapping))
