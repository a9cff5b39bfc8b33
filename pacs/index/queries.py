"""A query is answered, for C-FIND, QIDO-RS and the pages alike.

`narrowing` turns its keys into conditions. The ids of a page's rows are found first, in order; their
values come second, and what is counted about them third, for those rows alone.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, func, literal_column, select
from sqlalchemy.sql.selectable import FromClause

from pacs.dicom.attributes import INDEXED, Attribute, Level
from pacs.dicom.matching import Query
from pacs.index.narrowing import among, narrowed, packed
from pacs.index.schema import TABLE, instances, patients, series, studies

Value = str | int | tuple[str, ...] | None

JOINED_DOWN_TO: Final[dict[Level, FromClause]] = {
    Level.PATIENT: patients,
    Level.STUDY: patients.join(studies),
    Level.SERIES: patients.join(studies).join(series),
    Level.INSTANCE: patients.join(studies).join(series).join(instances),
}

_JOINED_UP_TO: Final[dict[Level, FromClause]] = {
    Level.PATIENT: patients.join(studies).join(series).join(instances),
    Level.STUDY: studies.join(series).join(instances),
    Level.SERIES: series.join(instances),
    Level.INSTANCE: instances,
}

# The same request on the same data gives the same order (PS3.18 8.3.4.4.1): newest study first,
# then by number, and by UID where the rest is equal; missing values last.
_ORDER: Final[dict[Level, tuple[ColumnElement[Any], ...]]] = {
    Level.PATIENT: (patients.c.PatientID, patients.c.id),
    Level.STUDY: (studies.c.moment.desc(), studies.c.StudyInstanceUID.desc()),
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
    ids = found_ids(connection, archive, replace(query, limit=query.limit + 1))
    return answers(connection, query.level, ids[: query.limit]), len(ids) > query.limit


def found_ids(connection: Connection, archive: int, query: Query) -> array[int]:
    """The ids of the rows that satisfy every key, in their order: 8 bytes for each of a million."""
    wanted = narrowed(connection, archive, query).select(TABLE[query.level].c.id)
    in_order = wanted.order_by(*_ORDER[query.level]).offset(query.offset).limit(query.limit)
    return array("q", connection.execute(in_order).scalars())


def count(connection: Connection, archive: int, query: Query) -> int:
    """How many rows satisfy every key: those from the query's offset on, up to its limit."""
    wanted = narrowed(connection, archive, query).select(literal_column("1"))
    page = wanted.offset(query.offset).limit(query.limit).subquery()
    return int(connection.execute(select(func.count()).select_from(page)).scalar_one())


def first_instances(connection: Connection, level: Level, ids: Sequence[int]) -> dict[int, int]:
    """The id of the first instance of each of these patients, studies, series or instances."""
    owner, first = TABLE[level].c.id, func.min(instances.c.id).label("first")
    found = select(owner, first).select_from(_JOINED_UP_TO[level])
    rows = connection.execute(found.where(owner.in_(ids)).group_by(owner))
    return {row.id: row.first for row in rows}


def answers(connection: Connection, level: Level, ids: Sequence[int]) -> list[dict[str, Value]]:
    """The rows with these ids in their order; of those that went meanwhile, nothing."""
    dialect = connection.dialect.name
    rows = connection.execute(_rows(level, dialect), packed(ids, dialect))
    counts = _counted(connection, level, ids)
    found = {row.id: _answer(row, level, counts[row.id]) for row in rows}
    return [found[one] for one in ids if one in found]


@cache
def _rows(level: Level, dialect: str) -> Select[Any]:
    """What is answered of rows by their ids; built once, since building costs more than running."""
    wanted = select(*_answered(level)).select_from(JOINED_DOWN_TO[level])
    return wanted.where(among(TABLE[level].c.id, dialect))


def held(connection: Connection, archive: int, query: Query) -> list[Row[Any]]:
    """Where the instances that satisfy every key are kept, in their order."""
    assert query.level is Level.INSTANCE, query.level
    columns = (
        studies.c.StudyInstanceUID,
        *(instances.c[name] for name in ("SOPClassUID", "SOPInstanceUID", "transfer_syntax_uid")),
        *(instances.c[name] for name in ("digest", "size_bytes", "data_set_offset")),
    )
    wanted = narrowed(connection, archive, query).select(*columns)
    return list(connection.execute(wanted.order_by(*_ORDER[Level.INSTANCE])))


def _answered(level: Level) -> list[ColumnElement[Any]]:
    return [*(_column(INDEXED[a]) for a in _returned(level)), TABLE[level].c.id, *_extra(level)]


@cache
def _returned(level: Level) -> tuple[str, ...]:
    """The keywords of the columns that come first in a row."""
    return tuple(a.keyword for a in INDEXED.values() if a.level <= level and not a.counted)


def _extra(level: Level) -> Sequence[Column[Any]]:
    return [instances.c.transfer_syntax_uid] if level is Level.INSTANCE else []


def _column(attribute: Attribute) -> Column[Any]:
    return TABLE[attribute.level].c[attribute.keyword]


def _answer(row: Row[Any], level: Level, counts: dict[str, Value]) -> dict[str, Value]:
    answer: dict[str, Value] = dict(zip(_returned(level), row, strict=False))
    if level is Level.INSTANCE:
        answer["AvailableTransferSyntaxUID"] = (row.transfer_syntax_uid,)
    return answer | counts


def _counted(
    connection: Connection, level: Level, ids: Sequence[int]
) -> defaultdict[int, dict[str, Value]]:
    answers: defaultdict[int, dict[str, Value]] = defaultdict(dict)
    dialect = connection.dialect.name
    wanted = packed(ids, dialect)
    if level is Level.STUDY:
        for row in connection.execute(_of_studies(dialect), wanted):
            answers[row.id] = {
                "ModalitiesInStudy": _distinct(row.modalities),
                "NumberOfStudyRelatedSeries": row.series,
                "NumberOfStudyRelatedInstances": int(row.instances),
            }
    elif level is Level.SERIES:
        for row in connection.execute(_number_of(instances.c.series_id, dialect), wanted):
            answers[row.id] = {"NumberOfSeriesRelatedInstances": row.number}
    elif level is Level.PATIENT:
        for row in connection.execute(_number_of(studies.c.patient_id, dialect), wanted):
            answers[row.id] = {"NumberOfPatientRelatedStudies": row.number}
    return answers


@cache
def _number_of(child: Column[Any], dialect: str) -> Select[Any]:
    wanted = select(child.label("id"), func.count().label("number"))
    return wanted.where(among(child, dialect)).group_by(child)


@cache
def _of_studies(dialect: str) -> Select[Any]:
    held = (
        select(instances.c.series_id, func.count().label("number"))
        .join(series)
        .where(among(series.c.study_id, dialect))
        .group_by(instances.c.series_id)
        .subquery()
    )
    return (
        select(
            series.c.study_id.label("id"),
            func.count().label("series"),
            func.sum(held.c.number).label("instances"),
            func.aggregate_strings(func.coalesce(series.c.Modality, "OT"), ",").label("modalities"),
        )
        .join(held, held.c.series_id == series.c.id)
        .where(among(series.c.study_id, dialect))
        .group_by(series.c.study_id)
    )


def _distinct(modalities: str) -> tuple[str, ...]:
    return tuple(sorted(set(modalities.split(","))))
