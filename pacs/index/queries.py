"""A query becomes SQL, for C-FIND, QIDO-RS and the pages alike.

`condition` turns one matching key into a condition; the attributes' columns come from `INDEXED`.
The page of rows is fetched first, and what is counted about them second, for those rows alone.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    exists,
    false,
    func,
    or_,
    select,
    true,
)
from sqlalchemy.sql.selectable import FromClause

from pacs.dicom.attributes import INDEXED, Attribute, Level
from pacs.dicom.matching import (
    PN_GROUPS,
    Match,
    Query,
    Range,
    Single,
    UidList,
    Universal,
    Wildcard,
    Words,
)
from pacs.index.schema import TABLE, instances, patients, search_columns, series, studies

Value = str | int | tuple[str, ...] | None

JOINED_DOWN_TO: Final[dict[Level, FromClause]] = {
    Level.PATIENT: patients,
    Level.STUDY: patients.join(studies),
    Level.SERIES: patients.join(studies).join(series),
    Level.INSTANCE: patients.join(studies).join(series).join(instances),
}

# The same request on the same data gives the same order (PS3.18 8.3.4.4.1): newest study first,
# then by number, and by UID where the rest is equal; missing values last.
_ORDER: Final[dict[Level, tuple[ColumnElement[Any], ...]]] = {
    Level.PATIENT: (patients.c.PatientID, patients.c.id),
    Level.STUDY: (
        studies.c.StudyDate.desc().nulls_last(),
        studies.c.StudyTime_sorted.desc().nulls_last(),
        studies.c.StudyInstanceUID,
    ),
    Level.SERIES: (
        studies.c.StudyInstanceUID,
        series.c.SeriesNumber.nulls_last(),
        series.c.SeriesInstanceUID,
    ),
    Level.INSTANCE: (
        studies.c.StudyInstanceUID,
        series.c.SeriesNumber.nulls_last(),
        series.c.SeriesInstanceUID,
        instances.c.InstanceNumber.nulls_last(),
        instances.c.SOPInstanceUID,
    ),
}


def search(
    connection: Connection, archive: int, query: Query
) -> tuple[list[dict[str, Value]], bool]:
    """The rows that satisfy every key, and whether more exist beyond the limit."""
    found = connection.execute(statement(archive, query, connection.dialect.name)).all()
    page = found[: query.limit]
    counts = _counted(connection, query.level, [row.id for row in page])
    return [_answer(row, query.level, counts[row.id]) for row in page], len(found) > query.limit


def statement(archive: int, query: Query, dialect: str) -> Select[Any]:
    """The SELECT for one page, and one row more: it tells that more exist."""
    return _satisfying(archive, query, _answered(query.level), dialect).limit(query.limit + 1)


def found_ids(connection: Connection, archive: int, query: Query) -> array[int]:
    """The ids of the rows that satisfy every key, in their order: 8 bytes for each of a million."""
    satisfying = _satisfying(archive, query, [TABLE[query.level].c.id], connection.dialect.name)
    return array("q", connection.execute(satisfying.limit(query.limit)).scalars())


def answers(connection: Connection, level: Level, ids: Sequence[int]) -> list[dict[str, Value]]:
    """The rows with these ids in their order; of those that went meanwhile, nothing."""
    table = TABLE[level]
    rows = connection.execute(
        select(*_answered(level)).select_from(JOINED_DOWN_TO[level]).where(table.c.id.in_(ids))
    )
    counts = _counted(connection, level, ids)
    found = {row.id: _answer(row, level, counts[row.id]) for row in rows}
    return [found[one] for one in ids if one in found]


def held(connection: Connection, archive: int, query: Query) -> list[Row[Any]]:
    """Where the instances that satisfy every key are kept, in their order."""
    assert query.level is Level.INSTANCE, query.level
    columns = (
        studies.c.StudyInstanceUID,
        *(instances.c[name] for name in ("SOPClassUID", "SOPInstanceUID", "transfer_syntax_uid")),
        *(instances.c[name] for name in ("digest", "size_bytes", "data_set_offset")),
    )
    return list(connection.execute(_satisfying(archive, query, columns, connection.dialect.name)))


def _satisfying(
    archive: int, query: Query, columns: Sequence[ColumnElement[Any]], dialect: str
) -> Select[Any]:
    """Columns of the rows that satisfy every key, in their order.

    The archive is asked of every table that has a key: it is the first column of their indices.
    Asked of the others it would only lead the database to begin with all rows of the archive.
    """
    above = {key: match for key, match in query.keys.items() if key.level <= query.level}
    below = {key: match for key, match in query.keys.items() if key.level > query.level}
    return (
        select(*columns)
        .select_from(JOINED_DOWN_TO[query.level])
        .where(*(TABLE[level].c.archive_id == archive for level in _asked(query.level, above)))
        .where(*(wanted(key, match, dialect) for key, match in above.items()))
        .where(*([_has_below(query.level, below, dialect)] if below else []))
        .order_by(*_ORDER[query.level])
        .offset(query.offset)
    )


def _asked(level: Level, keys: Mapping[Attribute, Match]) -> set[Level]:
    """The levels that some key narrows down, or else the level of the query."""
    return {key.level for key, match in keys.items() if match != Universal()} or {level}


# Parent and child of each level, to look from a row at what lies below it.
_STEPS: Final[dict[Level, tuple[FromClause, ColumnElement[bool]]]] = {
    Level.STUDY: (studies, studies.c.patient_id == patients.c.id),
    Level.SERIES: (series, series.c.study_id == studies.c.id),
    Level.INSTANCE: (instances, instances.c.series_id == series.c.id),
}


def _has_below(level: Level, keys: Mapping[Attribute, Match], dialect: str) -> ColumnElement[bool]:
    """Whether one chain of rows below this one satisfies every key (PS3.4 C.4.1.2.2.1)."""
    lowest = max(key.level for key in keys)
    steps = [_STEPS[step] for step in Level if level < step <= lowest]
    return exists(
        select(1)
        .select_from(*(table for table, _ in steps))
        .where(*(link for _, link in steps))
        .where(*(wanted(key, match, dialect) for key, match in keys.items()))
        .correlate(TABLE[level])
    )


def _answered(level: Level) -> list[ColumnElement[Any]]:
    return [TABLE[level].c.id, *_extra(level), *(_column(a) for a in _returned(level))]


def _returned(level: Level) -> list[Attribute]:
    return [a for a in INDEXED.values() if a.level <= level and not a.counted]


def _extra(level: Level) -> Sequence[Column[Any]]:
    return [instances.c.transfer_syntax_uid] if level is Level.INSTANCE else []


def _column(attribute: Attribute) -> Column[Any]:
    return TABLE[attribute.level].c[attribute.keyword]


def wanted(attribute: Attribute, match: Match, dialect: str) -> ColumnElement[bool]:
    """One key as SQL over the joined tables: the condition on its attribute's columns."""
    if attribute.keyword == "ModalitiesInStudy":
        holds = condition(series.c.Modality, match, dialect)
        return exists(select(1).where(series.c.study_id == studies.c.id, holds).correlate(studies))
    return satisfied(TABLE[attribute.level], attribute, match, dialect)


def satisfied(
    table: FromClause, attribute: Attribute, match: Match, dialect: str
) -> ColumnElement[bool]:
    """One matching key as a condition on the columns of its attribute in a table."""
    columns: list[Column[Any]] = [table.c[name] for name in search_columns(attribute)]  # type: ignore[misc]  # a table's are
    if attribute.vr == "PN":
        return name_condition(columns, match, dialect)
    return condition(columns[0], match, dialect)


def name_condition(
    columns: Sequence[Column[Any]], match: Match, dialect: str
) -> ColumnElement[bool]:
    """A name matches if any of its component groups does, or each group the key gives (C.2.2.2)."""
    text = match.value if isinstance(match, Single) else getattr(match, "pattern", "")
    if "=" not in str(text):
        return or_(*(condition(column, match, dialect) for column in columns))
    given = zip(columns, str(text).split("="), strict=False)
    assert len(columns) == len(PN_GROUPS)
    return and_(*(condition(c, _of_group(group), dialect) for c, group in given if group))


def _of_group(group: str) -> Match:
    return Wildcard(group) if "*" in group or "?" in group else Single(group)


def condition(column: Column[Any], wanted: Match, dialect: str) -> ColumnElement[bool]:
    """One matching key as SQL (PS3.4 C.2.2.2)."""
    match wanted:
        case Universal():
            return true()
        case Single(value):
            return column == value
        case UidList(uids):
            return column.in_(uids) if uids else false()
        case Wildcard(pattern):
            return _like(column, pattern, dialect)
        case Range(first, last):
            return and_(column >= first if first else true(), column <= last if last else true())
        case Words(words):
            return and_(*(_begins_a_word(column, word, dialect) for word in words))


def _begins_a_word(column: Column[Any], word: str, dialect: str) -> ColumnElement[bool]:
    return or_(*(_like(column, f"{before}{word}*", dialect) for before in ("", "* ", "*^")))


def _like(column: Column[Any], pattern: str, dialect: str) -> ColumnElement[bool]:
    """Case-sensitive on both databases: SQLite's LIKE folds case, its GLOB does not."""
    if dialect == "sqlite":
        return column.op("GLOB", is_comparison=True)(pattern.replace("[", "[[]"))
    return column.like(pattern.translate(_LIKE), escape="\\")


_LIKE: Final = str.maketrans({"\\": r"\\", "%": r"\%", "_": r"\_", "*": "%", "?": "_"})


def _answer(row: Row[Any], level: Level, counts: dict[str, Value]) -> dict[str, Value]:
    answer: dict[str, Value] = {a.keyword: getattr(row, a.keyword) for a in _returned(level)}
    if level is Level.INSTANCE:
        answer["AvailableTransferSyntaxUID"] = (row.transfer_syntax_uid,)
    return answer | counts


def _counted(
    connection: Connection, level: Level, ids: Sequence[int]
) -> defaultdict[int, dict[str, Value]]:
    answers: defaultdict[int, dict[str, Value]] = defaultdict(dict)
    if level is Level.STUDY:
        for row in _of_studies(connection, ids):
            answers[row.id] = {
                "ModalitiesInStudy": _distinct(row.modalities),
                "NumberOfStudyRelatedSeries": row.series,
                "NumberOfStudyRelatedInstances": int(row.instances),
            }
    elif level is Level.SERIES:
        for row in _count(connection, instances.c.series_id, ids):
            answers[row.id] = {"NumberOfSeriesRelatedInstances": row.number}
    elif level is Level.PATIENT:
        for row in _count(connection, studies.c.patient_id, ids):
            answers[row.id] = {"NumberOfPatientRelatedStudies": row.number}
    return answers


def _count(connection: Connection, parent: Column[Any], ids: Sequence[int]) -> Iterable[Row[Any]]:
    return connection.execute(
        select(parent.label("id"), func.count().label("number"))
        .where(parent.in_(ids))
        .group_by(parent)
    )


def _of_studies(connection: Connection, ids: Sequence[int]) -> Iterable[Row[Any]]:
    held = (
        select(instances.c.series_id, func.count().label("number"))
        .join(series)
        .where(series.c.study_id.in_(ids))
        .group_by(instances.c.series_id)
        .subquery()
    )
    return connection.execute(
        select(
            series.c.study_id.label("id"),
            func.count().label("series"),
            func.sum(held.c.number).label("instances"),
            func.aggregate_strings(func.coalesce(series.c.Modality, "OT"), ",").label("modalities"),
        )
        .join(held, held.c.series_id == series.c.id)
        .where(series.c.study_id.in_(ids))
        .group_by(series.c.study_id)
    )


def _distinct(modalities: str) -> tuple[str, ...]:
    return tuple(sorted(set(modalities.split(","))))
