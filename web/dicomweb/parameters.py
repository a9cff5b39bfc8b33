"""The parameters of a search, and what they mean (PS3.18 8.3.4)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from pydicom.datadict import keyword_for_tag
from starlette.exceptions import HTTPException

from pacs.archive import Scope
from pacs.dicom.attributes import INDEXED, UNIQUE_KEY, Attribute, Level
from pacs.dicom.matching import Match, Query, UidList, parse_key
from pacs.dicom.query_tags import QueryTag, read_path
from pacs.errors import BadQuery
from pacs.index.query_tags import Known
from web.dicomweb.included import ALL, Included

PARAMETERS_MAX: Final = 1_000  # of one search; more are refused
NUMBER_DIGITS_MAX: Final = 18  # of limit and offset; a longer number is refused

MORE_REMAIN: Final = "There are additional results that can be requested"
NOT_ATTRIBUTES: Final = "Parameters that are no attributes were ignored"
NO_ZONE: Final = "TimezoneOffsetFromUTC was ignored: dates and times are matched as stored"
NOT_FUZZY: Final = (
    "The fuzzymatching parameter is not supported for these keys. "
    "Only literal matching has been performed."
)
NOT_READY: Final = "Some stored instances have not been read for an extended query tag yet"

_FLAGS: Final = ("fuzzymatching", "emptyvaluematching", "multiplevaluematching")
_NUMBERS: Final = ("limit", "offset")
_CONTROLS: Final = frozenset(["", "accept", "charset", "includefield", *_FLAGS, *_NUMBERS])


@dataclass(frozen=True, slots=True)
class Understood:
    """A search as it was understood: what it asks, what rows tell besides, and what was ignored."""

    query: Query
    included: Included = frozenset()
    warnings: tuple[str, ...] = ()


def read_query(
    level: Level, scope: Scope, query_string: bytes, tags: Callable[[], Sequence[Known]] = tuple
) -> Understood:
    """The query that a path and its parameters ask; `tags` are looked up where a key may be one.

    Raises BadQuery, and HTTPException 406.
    """
    parameters = _decoded(query_string)
    controls = {name.lower(): text for name, text in parameters if name.lower() in _CONTROLS}
    _check_charset(controls.get("charset", ""))
    reader = _Reader(level, tags, {name: _flag(name, controls) for name in _FLAGS})
    reader.keys.update(_of_path(scope))
    for name, text in parameters:
        if name.lower() not in _CONTROLS:
            reader.take(name, text)
    for name, text in parameters:
        if name.lower() == "includefield":
            reader.include(text)
    return reader.understood(
        _number("limit", controls, sys.maxsize), _number("offset", controls, 0)
    )


def _decoded(query_string: bytes) -> list[tuple[str, str]]:
    """Names and values, which are UTF-8 in percent-encoding (RFC 3986 2.5)."""
    try:
        unquote_to_bytes(query_string).decode("utf-8")
        text = query_string.decode("ascii", "surrogateescape")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError as error:
        raise BadQuery("the parameters are not in UTF-8") from error
    except ValueError as error:
        raise BadQuery("there are too many parameters", parameters_max=PARAMETERS_MAX) from error


def _check_charset(text: str) -> None:
    wanted = {one.partition(";")[0].strip().lower() for one in text.split(",")}
    if text and not wanted & {"utf-8", "*"}:
        raise HTTPException(406, "answers are in UTF-8")


def _flag(name: str, controls: Mapping[str, str]) -> bool:
    if controls.get(name, "false") not in ("true", "false"):
        raise BadQuery(f"{name} is neither true nor false")
    return controls.get(name) == "true"


def _number(name: str, controls: Mapping[str, str], default: int) -> int:
    text = controls.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > NUMBER_DIGITS_MAX:
        raise BadQuery(f"{name} is not a number from 0")
    return int(text)


def _of_path(scope: Scope) -> dict[Attribute, Match]:
    levels = {Level.STUDY: scope.study_instance_uid, Level.SERIES: scope.series_instance_uid}
    return {UNIQUE_KEY[level]: UidList((uid,)) for level, uid in levels.items() if uid}


@dataclass(slots=True)
class _Reader:
    """Keys as they are taken from the parameters, one after the other."""

    level: Level
    known: Callable[[], Sequence[Known]]
    flags: Mapping[str, bool]
    keys: dict[Attribute, Match] = field(default_factory=dict)
    tags: dict[QueryTag, Match] = field(default_factory=dict)
    included: set[int] = field(default_factory=set)
    ignored: set[str] = field(default_factory=set)

    def take(self, name: str, text: str) -> None:
        """Take one matching key. Raises BadQuery."""
        path = _path_of(name)
        if name == "TimezoneOffsetFromUTC" or path == (0x00080201,):
            self.ignored.add(NO_ZONE)
        elif path is None:
            self.ignored.add(NOT_ATTRIBUTES)
        elif not text.strip():
            self._include(path)  # universal matching: any attribute will do (PS3.4 C.2.2.2.3)
        else:
            self._add(path, text)

    def include(self, text: str) -> None:
        """Take one includefield, a list."""
        for name in filter(None, (one.strip() for one in text.split(","))):
            path = (ALL,) if name == "all" else _path_of(name)
            if path is None:
                self.ignored.add(NOT_ATTRIBUTES)
            else:
                self._include(path)

    def _include(self, path: tuple[int, ...]) -> None:
        """Have rows tell an attribute, unless they do already or it belongs to a level below."""
        if INDEXED.get(keyword_for_tag(path[0])) is None:
            self.included.add(path[0])

    def _add(self, path: tuple[int, ...], text: str) -> None:
        attribute = INDEXED.get(keyword_for_tag(path[0])) if len(path) == 1 else None
        if attribute is not None:
            parsed = self._parsed(attribute, text)
            _check_same(attribute.keyword, self.keys.setdefault(attribute, parsed), parsed)
            return
        for known in self.known():
            if known.tag.path == path:
                self._add_tag(known, text)
                return
        raise BadQuery(f"{_named(path)} cannot be matched")

    def _add_tag(self, known: Known, text: str) -> None:
        if not known.is_queried:
            raise BadQuery(f"{known.tag.keyword} may not be queried at present")
        if not known.is_ready:
            self.ignored.add(NOT_READY)
        parsed = self._parsed(known.tag, text)
        _check_same(known.tag.keyword, self.tags.setdefault(known.tag, parsed), parsed)
        self._include(known.tag.path)

    def _parsed(self, key: Attribute | QueryTag, text: str) -> Match:
        return parse_key(
            key,
            text,
            fuzzy=self.flags["fuzzymatching"],
            empty=self.flags["emptyvaluematching"],
            multiple=self.flags["multiplevaluematching"],
        )

    def understood(self, limit: int, offset: int) -> Understood:
        """All that was taken."""
        asked: Iterable[Attribute | QueryTag] = [*self.keys, *self.tags]
        if self.flags["fuzzymatching"] and asked and all(key.vr != "PN" for key in asked):
            self.ignored.add(NOT_FUZZY)
        query = Query(self.level, self.keys, limit, offset, tags=self.tags, combined=True)
        return Understood(query, frozenset(self.included), tuple(sorted(self.ignored)))


def _check_same(keyword: str, one: Match, other: Match) -> None:
    if one != other:
        raise BadQuery(f"{keyword} is given twice with different values")


def _path_of(name: str) -> tuple[int, ...] | None:
    """The path that a name means (PS3.18 8.3.4.1), or None for what is no attribute."""
    try:
        return read_path(name)
    except BadQuery:
        return None


def _named(path: tuple[int, ...]) -> str:
    return ".".join(keyword_for_tag(tag) or f"{tag:08X}" for tag in path)
