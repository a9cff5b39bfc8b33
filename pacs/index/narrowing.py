"""From keys to rows: which condition each key is, and which of them leads the way.

Two ways lead to the newest hundred of a million studies. Where some key has few matches, they are
looked up in its index and sorted. Where every key has many, the studies are walked in their order
until enough have them all. A database guesses which is which from averages, and one wrong guess
costs seconds; so the matches are counted first, in the key's own index and no further than to FEW.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    UnaryExpression,
    and_,
    bindparam,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import FromClause

from pacs.dicom.attributes import Attribute, Level
from pacs.dicom.matching import (
    PN_GROUPS,
    AnyOf,
    Empty,
    Match,
    Query,
    Range,
    Single,
    UidList,
    Universal,
    Wildcard,
    Words,
)
from pacs.dicom.query_tags import QueryTag
from pacs.index import names
from pacs.index.schema import (
    TABLE,
    TAG_VALUES,
    instances,
    name_tails,
    patients,
    search_columns,
    series,
    studies,
)

FEW: Final = 3_000  # matches of a key that are looked up and sorted; where more, rows are walked

_LAST: Final = "\U0010ffff"  # sorts after every character

# The tables that the order of each level needs. What lies above joins in by a condition.
_FROM: Final[Mapping[Level, FromClause]] = {
    Level.PATIENT: patients,
    Level.STUDY: studies,
    Level.SERIES: studies.join(series),
    Level.INSTANCE: studies.join(series).join(instances),
}
_LEADER: Final = {Level.PATIENT: patients}  # of each level's order; else the studies
_PARENT: Final[Mapping[Level, Column[Any]]] = {
    Level.STUDY: studies.c.patient_id,
    Level.SERIES: series.c.study_id,
    Level.INSTANCE: instances.c.series_id,
}
# Keys of which a value names one entity or very few: nothing needs to be counted.
_UNIQUE: Final = frozenset(("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"))
_INDEXED: Final = _UNIQUE | {"AccessionNumber", "Modality"}  # with an index of their own


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Tables and conditions that leave the rows of a query."""

    tables: FromClause
    conditions: Sequence[ColumnElement[bool]]

    def select(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """Columns of those rows, in no order."""
        return select(*columns).select_from(self.tables).where(*self.conditions)


@dataclass(frozen=True, slots=True)
class _Keys:
    """The keys of one level that leave something out."""

    level: Level
    keys: Mapping[Attribute, Match]
    tags: Mapping[QueryTag, Match]
    combined: bool = False

    @property
    def table(self) -> Table:
        return TABLE[self.level]

    @property
    def is_sure(self) -> bool:
        """Whether some key can match very few entities."""
        return any(
            key.keyword in _UNIQUE and isinstance(match, Single | UidList)
            for key, match in self.keys.items()
        )

    @property
    def is_indexed(self) -> bool:
        """Whether some key has an index of its own."""
        return any(
            key.keyword in _INDEXED and not isinstance(match, Empty)
            for key, match in self.keys.items()
        )


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """One query on the way to SQL."""

    connection: Connection
    archive: int
    query: Query
    dialect: str
    conditions: list[ColumnElement[bool]] = field(default_factory=list)

    def narrowed(self) -> Narrowed:
        """The whole of it."""
        level, below = self.query.level, []
        is_led = False
        for keys in _by_level(self.query):
            if keys.level > level:
                below.append(keys)
            else:
                is_led |= self._above(keys)
        modalities = _modalities(self.query)
        if modalities is not None:
            is_led |= self._modalities(modalities)
        if below:
            is_led |= self._below(below)
        leader = _LEADER.get(level, studies)
        here = [] if is_led else [leader.c.archive_id == self.archive]
        return Narrowed(_FROM[level], [*here, *self.conditions])

    def _above(self, keys: _Keys) -> bool:
        """Take in the keys of the query's level or one above it; whether they lead the way."""
        is_here = keys.level is self.query.level
        link = keys.table.c.id if is_here else _PARENT[Level(keys.level + 1)]
        leads = self._leading(keys, link)
        if leads is not None:
            self.conditions.append(leads)
            return True
        wanted = conditions_of(keys, self.dialect, hidden=True)
        if keys.level is Level.PATIENT and self.query.level is not Level.PATIENT:
            of_study = patients.c.id == studies.c.patient_id
            wanted = [exists(select(1).where(of_study, *wanted).correlate(studies))]
        self.conditions.extend(wanted)
        return False

    def _leading(self, keys: _Keys, link: Column[Any]) -> ColumnElement[bool] | None:
        """That a link has one of the ids that keys leave, if some index has them and they are few."""
        found = None
        if keys.is_sure or keys.is_indexed:
            found = select(keys.table.c.id).where(keys.table.c.archive_id == self.archive)
        elif keys.tags and (led := _led_by_tag(keys, self.dialect)) is not None:
            found = led
        elif keys.level is Level.PATIENT:
            found = _led_by_name(self.archive, keys)
        if found is None:
            return None
        found = found.where(*conditions_of(keys, self.dialect))
        return link.in_(found) if keys.is_sure else self._if_few(link, found)

    def _modalities(self, match: Match) -> bool:
        """Take in ModalitiesInStudy: some series of the study has it."""
        holds = condition(series.c.Modality, match, self.dialect)
        in_archive = series.c.archive_id == self.archive
        found = select(series.c.study_id).where(in_archive, holds)
        link = studies.c.id if self.query.level is Level.STUDY else series.c.study_id
        leads = None if isinstance(match, Empty) else self._if_few(link, found)
        if leads is not None:
            self.conditions.append(leads)
            return True
        of_study = series.c.study_id == studies.c.id
        probe = select(1).select_from(series).where(of_study, in_archive, holds)
        self.conditions.append(exists(probe.correlate(studies)))
        return False

    def _below(self, below: Sequence[_Keys]) -> bool:
        """Take in keys below the level: one chain of rows must have them all (PS3.4 C.4.1.2.2.1)."""
        level, lowest = self.query.level, max(keys.level for keys in below)
        steps = [step for step in Level if level < step <= lowest]
        top = _PARENT[steps[0]]
        links = [_PARENT[step] == TABLE[Level(step - 1)].c.id for step in steps[1:]]
        wanted = [one for keys in below for one in conditions_of(keys, self.dialect)]
        chain = select(top).select_from(*(TABLE[step] for step in steps)).where(*links, *wanted)
        led = [keys for keys in below if keys.is_sure or keys.is_indexed]
        found = chain.where(*(keys.table.c.archive_id == self.archive for keys in led))
        leads = self._if_few(TABLE[level].c.id, found) if led else None
        if leads is not None:
            self.conditions.append(leads)
            return True
        here = chain.where(top == TABLE[level].c.id).correlate(TABLE[level])
        self.conditions.append(exists(here))
        return False

    def _if_few(self, link: Column[Any], found: Select[Any]) -> ColumnElement[bool] | None:
        """That a link has one of the ids found; None if they are not few."""
        ids = self.connection.scalars(found.limit(FEW + 1)).all()
        if len(ids) > FEW:
            return None
        return among(link, self.dialect, packed(ids, self.dialect)[IDS])


IDS: Final = "ids"  # the name of the parameter that `among` looks into


def among(column: Column[Any], dialect: str, ids: object = None) -> ColumnElement[bool]:
    """That a column has one of so many ids: one parameter, whatever their number."""
    name = IDS if ids is None else None
    if dialect == "sqlite":
        every = func.json_each(bindparam(name, ids, Text)).table_valued("value")
        return column.in_(select(every.c.value))
    return column == func.any(bindparam(name, ids, ARRAY(BigInteger)))


def packed(ids: Sequence[int], dialect: str) -> dict[str, object]:
    """Ids as the parameter that `among` looks into."""
    return {IDS: json.dumps(list(ids)) if dialect == "sqlite" else list(ids)}


def narrowed(connection: Connection, archive: int, query: Query) -> Narrowed:
    """What leaves the rows of a query; keys with an index are asked how many they match."""
    return _Narrowing(connection, archive, query, connection.dialect.name).narrowed()


def _by_level(query: Query) -> Iterable[_Keys]:
    for level in Level:
        keys = {
            key: match
            for key, match in query.keys.items()
            if key.level is level and match != Universal() and not key.counted
        }
        tags = {
            tag: match
            for tag, match in query.tags.items()
            if tag.level is level and match != Universal()
        }
        if keys or tags:
            yield _Keys(level, keys, tags, query.combined)


def _modalities(query: Query) -> Match | None:
    found = (match for key, match in query.keys.items() if key.keyword == "ModalitiesInStudy")
    return next((match for match in found if match != Universal()), None)


def _led_by_tag(keys: _Keys, dialect: str) -> Select[Any] | None:
    """The entities that have the first tag; the other conditions follow."""
    tag, match = next(iter(keys.tags.items()))
    if isinstance(match, Empty):
        return None
    values = TAG_VALUES[keys.level].alias("leading")
    has = (values.c.tag_id == tag.id, _value_condition(values, tag, match, dialect))
    return select(keys.table.c.id).join(values, values.c.owner_id == keys.table.c.id).where(*has)


def _led_by_name(archive: int, keys: _Keys) -> Select[Any] | None:
    """The patients of whose names some tail fits; the whole names are compared after that."""
    named = (match for key, match in keys.keys.items() if key.keyword == "PatientName")
    near = names.near(archive, next(named, Universal()))
    if near is None:
        return None
    with_tails = name_tails.join(patients, patients.c.id == name_tails.c.patient_id)
    return select(patients.c.id).select_from(with_tails).where(near)


# One key, one condition


def conditions_of(keys: _Keys, dialect: str, *, hidden: bool = False) -> list[ColumnElement[bool]]:
    """The conditions of the keys of one level.

    `hidden` keeps SQLite from leaving the order of the walk for the index of a key.
    """
    by_keyword = {key.keyword: match for key, match in keys.keys.items()}
    pairs = [pair for pair in _PAIRS if keys.combined and _is_interval(by_keyword, pair)]
    times = {time for _, time in pairs}
    found = [
        satisfied(keys.table, key, match, dialect, hidden=hidden and key.keyword in _INDEXED)
        for key, match in keys.keys.items()
        if key.keyword not in times
    ]
    intervals = [_interval(keys.table, pair, by_keyword) for pair in pairs]
    days = _of_days(by_keyword.get("StudyDate"))
    return [*found, *intervals, *days, *_tag_conditions(keys, dialect)]


# Dates with the times that belong to them.
_PAIRS: Final = (
    ("StudyDate", "StudyTime"),
    ("SeriesDate", "SeriesTime"),
    ("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
)


def _is_interval(keys: Mapping[str, Match], pair: tuple[str, str]) -> bool:
    """Whether a date and a time are ranges that make one: no end of a time lacks its day."""
    date, time = (keys.get(keyword) for keyword in pair)
    if not isinstance(date, Range) or not isinstance(time, Range):
        return False
    return bool(date.first or not time.first) and bool(date.last or not time.last)


def _interval(
    table: Table, pair: tuple[str, str], keys: Mapping[str, Match]
) -> ColumnElement[bool]:
    """From the first time of the first day to the last time of the last (C.2.2.2.5.3)."""
    days, times = (keys[keyword] for keyword in pair)
    assert isinstance(days, Range)
    assert isinstance(times, Range)
    date, time = table.c[pair[0]], table.c[f"{pair[1]}_sorted"]
    begun = or_(date > days.first, time >= times.first) if times.first else true()
    not_over = or_(date < days.last, time <= times.last) if times.last else true()
    return and_(begun, not_over)


def _of_days(date: Match | None) -> Iterable[ColumnElement[bool]]:
    """Study dates in the words of the index that has the order."""
    if isinstance(date, Single | Range):
        days = date if isinstance(date, Range) else Range(str(date.value), str(date.value))
        yield studies.c.moment >= days.first
        yield studies.c.moment <= days.last + _LAST if days.last else true()


def wanted(attribute: Attribute, match: Match, dialect: str) -> ColumnElement[bool]:
    """One key as SQL over the joined tables: the condition on its attribute's columns."""
    if attribute.keyword == "ModalitiesInStudy":
        holds = condition(series.c.Modality, match, dialect)
        return exists(select(1).where(series.c.study_id == studies.c.id, holds).correlate(studies))
    return satisfied(TABLE[attribute.level], attribute, match, dialect)


def satisfied(
    table: FromClause, attribute: Attribute, match: Match, dialect: str, *, hidden: bool = False
) -> ColumnElement[bool]:
    """One matching key as a condition on the columns of its attribute in a table."""
    columns: list[ColumnElement[Any]] = [table.c[name] for name in search_columns(attribute)]
    if hidden and dialect == "sqlite":
        columns = [UnaryExpression(column, operator=custom_op("+")) for column in columns]
    if attribute.vr == "PN":
        return name_condition(columns, match, dialect)
    return condition(columns[0], match, dialect)


def name_condition(
    columns: Sequence[ColumnElement[Any]], match: Match, dialect: str
) -> ColumnElement[bool]:
    """A name matches if any of its component groups does, or each group the key gives (C.2.2.2)."""
    if isinstance(match, AnyOf):
        return or_(*(name_condition(columns, one, dialect) for one in match.matches))
    if isinstance(match, Empty):
        return and_(*(condition(column, match, dialect) for column in columns))
    text = match.value if isinstance(match, Single) else getattr(match, "pattern", "")
    if "=" not in str(text):
        return or_(*(condition(column, match, dialect) for column in columns))
    given = zip(columns, str(text).split("="), strict=False)
    assert len(columns) == len(PN_GROUPS)
    return and_(*(condition(c, _of_group(group), dialect) for c, group in given if group))


def _of_group(group: str) -> Match:
    return Wildcard(group) if "*" in group or "?" in group else Single(group)


def _tag_conditions(keys: _Keys, dialect: str) -> Iterable[ColumnElement[bool]]:
    """That the entity has a value for each tag; those of one sequence in one and the same item."""
    wanted = sorted(keys.tags.items(), key=lambda one: one[0].path)
    for _, of_sequence in groupby(wanted, key=lambda one: one[0].path[:-1]):
        yield _has_values(keys, list(of_sequence), dialect)


def _has_values(
    keys: _Keys, tags: Sequence[tuple[QueryTag, Match]], dialect: str
) -> ColumnElement[bool]:
    owner = keys.table.c.id
    empty: list[tuple[FromClause, tuple[ColumnElement[bool], ...]]] = []
    full = empty.copy()
    for tag, match in tags:
        values = TAG_VALUES[keys.level].alias()
        is_empty = isinstance(match, Empty)
        holds = true() if is_empty else _value_condition(values, tag, match, dialect)
        has = (values.c.owner_id == owner, values.c.tag_id == tag.id, holds)
        (empty if is_empty else full).append((values, has))
    together = [one.c["items"] == full[0][0].c["items"] for one, _ in full[1:]]
    found = [one for _, has in full for one in has]
    lacks = [not_(_exists(keys, values, has)) for values, has in empty]
    has_all = [_exists(keys, full[0][0], [*found, *together])] if full else []
    return and_(*has_all, *lacks)


def _exists(
    keys: _Keys, values: FromClause, has: Iterable[ColumnElement[bool]]
) -> ColumnElement[bool]:
    return exists(select(1).select_from(values).where(*has).correlate(keys.table))


def _value_condition(
    values: FromClause, tag: QueryTag, match: Match, dialect: str
) -> ColumnElement[bool]:
    if isinstance(match, AnyOf):
        return or_(*(_value_condition(values, tag, one, dialect) for one in match.matches))
    if tag.is_number and isinstance(match, Single):
        return values.c["number"] == float(match.value)
    if tag.vr == "PN" and "=" in str(getattr(match, "value", getattr(match, "pattern", ""))):
        groups = str(getattr(match, "value", getattr(match, "pattern", ""))).split("=")
        return or_(*(condition(values.c["text"], _of_group(g), dialect) for g in groups if g))
    return condition(values.c["text"], match, dialect)


def condition(column: ColumnElement[Any], wanted: Match, dialect: str) -> ColumnElement[bool]:
    """One matching key as SQL (PS3.4 C.2.2.2)."""
    match wanted:
        case Universal():
            return true()
        case Single(value):
            return column == value
        case Empty():
            return or_(column.is_(None), column == "")
        case UidList(uids):
            return column.in_(uids) if uids else false()
        case Wildcard(pattern):
            return _like(column, pattern, dialect)
        case Range(first, last):
            return and_(column >= first if first else true(), column <= last if last else true())
        case Words(words):
            return and_(*(_begins_a_word(column, word, dialect) for word in words))
        case AnyOf(matches):
            return or_(*(condition(column, one, dialect) for one in matches))


def _begins_a_word(column: ColumnElement[Any], word: str, dialect: str) -> ColumnElement[bool]:
    return or_(*(_like(column, f"{before}{word}*", dialect) for before in ("", "* ", "*^")))


def _like(column: ColumnElement[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    """Case-sensitive on both databases: SQLite's LIKE folds case, its GLOB does not."""
    if dialect == "sqlite":
        return column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]"))
    return column.like(pattern.translate(_LIKE), escape="\\")


_LIKE: Final = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%", "?": "_"})
