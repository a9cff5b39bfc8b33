"""What is held: rows of patients, studies, series and instances, made, found and removed.

Functions take the caller's connection, so that a row, its audit and its jobs share one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    not_,
    select,
    update,
)

from pacs.dicom.attributes import Attribute, Level, read_from_data_set
from pacs.dicom.folding import canonical_date, canonical_time, folded
from pacs.dicom.matching import PN_GROUPS
from pacs.dicom.part10 import Scan
from pacs.errors import Unreachable
from pacs.index import names
from pacs.index.schema import (
    archives,
    insert_new,
    instances,
    name_tails,
    now,
    patients,
    same,
    search_columns,
    series,
    series_metadata,
    studies,
    versions,
)

Values = dict[str, Any]

RECEIVING, COMPLETE = "receiving", "complete"

# A longer value is cut in the index, and kept whole in the store. What two columns of one database
# index hold together must stay below the 2,704 bytes that PostgreSQL allows.
INDEXED_BYTES_MAX: Final = 1024
DIGESTS_ASKED_MAX: Final = (
    10_000  # in one statement, since its values are limited; more take several
)

_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}")


@dataclass(frozen=True, slots=True)
class Scope:
    """What part of an archive is meant: a study, one of its series, or one instance."""

    study_instance_uid: str
    series_instance_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True, slots=True)
class Kept:
    """What the store holds of an instance, as its row tells it; times in seconds since 1970."""

    digest: str
    size_bytes: int
    data_set_digest: str
    data_set_offset: int
    transfer_syntax_uid: str
    frame_table: bytes
    received_at: float
    made_by: str = ""
    source_ae_title: str = ""


def archive_id(connection: Connection, name: str) -> int:
    """The id of an archive, made at its first use."""
    return insert_new(connection, archives, ["name"], {"name": name})[0]


def described(scan: Scan) -> dict[Level, Values]:
    """The columns of every level, read from a walked data set."""
    return {
        level: {
            name: value
            for attribute in read_from_data_set(level)
            for name, value in _columns(attribute, scan.text(attribute.keyword)).items()
        }
        for level in Level
    }


def _columns(attribute: Attribute, text: str) -> Values:
    keyword, text = attribute.keyword, _cut(text.replace("\0", ""))
    if attribute.vr in ("IS", "US"):
        return {keyword: int(text) if _WHOLE_NUMBER.fullmatch(text) else None}
    if attribute.vr == "DA":
        return {keyword: canonical_date(text) or None}
    values: Values = {keyword: text or (None if _nullable(keyword) else "")}
    if attribute.vr == "PN":
        groups = [*text.split("="), "", "", ""]
        names = zip(search_columns(attribute), groups, strict=False)
        values |= {column: _cut(folded(group)) or None for column, group in names}
        assert len(values) == 1 + len(PN_GROUPS)
    elif attribute.vr == "TM":
        values |= dict.fromkeys(search_columns(attribute), canonical_time(text) or None)
    return values


def unfit(scan: Scan, values: Mapping[Level, Values]) -> tuple[str, ...]:
    """The keywords of values that are there, and that the index leaves out as no value of their VR."""
    return tuple(
        attribute.keyword
        for level in Level
        for attribute in read_from_data_set(level)
        if attribute.vr in _CHECKED
        and not values[level][search_columns(attribute)[0]]
        and values[level][search_columns(attribute)[0]] != 0
        and scan.text(attribute.keyword)
    )


_CHECKED: Final = frozenset(("DA", "IS", "TM", "US"))


def _cut(text: str) -> str:
    return text.encode()[:INDEXED_BYTES_MAX].decode(errors="ignore")


def _nullable(keyword: str) -> bool:
    return any(bool(table.c[keyword].nullable) for table in _TABLES if keyword in table.c)


_TABLES: Final = (patients, studies, series, instances)


def find_instance(connection: Connection, archive: int, sop_instance_uid: str) -> Row[Any] | None:
    """The row of an instance, with its place, or None."""
    wanted = {"archive": archive, "instance": sop_instance_uid}
    return connection.execute(_INSTANCE, wanted).one_or_none()


_PLACED: Final[Select[Any]] = select(
    instances,
    series.c.SeriesInstanceUID,
    series.c.Modality,
    series.c.study_id,
    studies.c.StudyInstanceUID,
).select_from(instances.join(series).join(studies))

# Statements on the path of every instance are built once: building costs more than running.
_INSTANCE: Final = _PLACED.where(
    instances.c.archive_id == bindparam("archive"),
    instances.c.SOPInstanceUID == bindparam("instance"),
)
_PLACE: Final = (
    select(studies.c.id.label("study_id"), patients.c.PatientID, series.c.id.label("series_id"))
    .select_from(
        studies.join(patients).outerjoin(
            series,
            and_(
                series.c.study_id == studies.c.id,
                series.c.SeriesInstanceUID == bindparam("series"),
            ),
        )
    )
    .where(
        studies.c.archive_id == bindparam("archive"),
        studies.c.StudyInstanceUID == bindparam("study"),
    )
)
_TOUCH: Final = (
    update(studies)
    .where(studies.c.id == bindparam("study_id"))
    .values(state=RECEIVING, last_received_at=now())
)
_AWAIT_METADATA: Final = (
    update(studies).where(studies.c.id == bindparam("study_id")).values(metadata_due_at=now())
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance belongs: its series, its study, and the Patient ID the study came with."""

    study_id: int
    series_id: int
    patient_id: str


def add_instance(
    connection: Connection, archive: int, values: Mapping[Level, Values], kept: Kept
) -> tuple[Place, bool]:
    """Make the rows of an instance where they are missing; its place, and whether it is new.

    One that is known already leaves no trace, not even of the study it claims to belong to.
    """
    place = _place(connection, archive, values)
    _, is_new = insert_new(
        connection,
        instances,
        ["archive_id", "SOPInstanceUID"],
        {
            "archive_id": archive,
            "series_id": place.series_id,
            **values[Level.INSTANCE],
            **_kept_columns(kept),
        },
    )
    if not is_new:
        _remove_childless(connection, place.study_id)
    elif kept.made_by:
        connection.execute(_AWAIT_METADATA, {"study_id": place.study_id})
    else:
        touch(connection, place.study_id)
    return place, is_new


def _kept_columns(kept: Kept) -> Values:
    return {name: getattr(kept, name) for name in kept.__dataclass_fields__}


def _place(connection: Connection, archive: int, values: Mapping[Level, Values]) -> Place:
    wanted = {
        "archive": archive,
        "study": values[Level.STUDY]["StudyInstanceUID"],
        "series": values[Level.SERIES]["SeriesInstanceUID"],
    }
    found = connection.execute(_PLACE, wanted).one_or_none()
    if found is None:
        _add_study(connection, archive, values)
        found = connection.execute(_PLACE, wanted).one_or_none()
    if found is None:
        raise Unreachable("the study is being removed at this moment")
    series_id = found.series_id
    if series_id is None:
        series_id, _ = insert_new(
            connection,
            series,
            ["study_id", "SeriesInstanceUID"],
            {"archive_id": archive, "study_id": found.study_id, **values[Level.SERIES]},
        )
    return Place(found.study_id, series_id, found.PatientID)


def _add_study(connection: Connection, archive: int, values: Mapping[Level, Values]) -> None:
    patient = values[Level.PATIENT]
    study = values[Level.STUDY]
    scope = "" if patient["PatientID"] else study["StudyInstanceUID"]
    patient_id, is_new = insert_new(
        connection,
        patients,
        ["archive_id", "PatientID", "IssuerOfPatientID", "scope"],
        {"archive_id": archive, "scope": scope, **patient},
    )
    if is_new:
        names.enter(connection, archive, patient_id, patient)
    insert_new(
        connection,
        studies,
        ["archive_id", "StudyInstanceUID"],
        {"archive_id": archive, "patient_id": patient_id, **study},
        stamped=["first_received_at", "last_received_at"],
    )


def touch(connection: Connection, study_id: int) -> None:
    """Something of this study arrived: it is no longer complete, or not yet."""
    connection.execute(_TOUCH, {"study_id": study_id})


def add_version(connection: Connection, instance_id: int, kept: Kept) -> bool:
    """Note other bytes of a known instance beside the current ones; False if noted already."""
    _, is_new = insert_new(
        connection,
        versions,
        ["instance_id", "data_set_digest"],
        {
            "instance_id": instance_id,
            "digest": kept.digest,
            "size_bytes": kept.size_bytes,
            "data_set_digest": kept.data_set_digest,
            "received_at": kept.received_at,
        },
    )
    return is_new


def has_version(connection: Connection, instance_id: int, data_set_digest: str) -> bool:
    """Whether these bytes are kept as a further version of an instance."""
    wanted = {"instance_id": instance_id, "data_set_digest": data_set_digest}
    return bool(
        connection.execute(select(exists().where(same(versions, [*wanted], wanted)))).scalar()
    )


def version_digests(connection: Connection, instance_id: int) -> list[str]:
    """The digests of the further versions that are kept of an instance."""
    found = connection.execute(
        select(versions.c.digest).where(versions.c.instance_id == instance_id)
    )
    return list(found.scalars())


def replace_current(
    connection: Connection, current: Row[Any], values: Mapping[Level, Values], kept: Kept
) -> None:
    """Make new bytes current, and the current ones a further version."""
    add_version(connection, current.id, kept_of(current))
    connection.execute(
        delete(versions).where(
            versions.c.instance_id == current.id,
            versions.c.data_set_digest == kept.data_set_digest,
        )
    )
    connection.execute(
        update(instances)
        .where(instances.c.id == current.id)
        .values(**values[Level.INSTANCE], **_kept_columns(kept))
    )
    touch(connection, current.study_id)


def kept_of(row: Row[Any]) -> Kept:
    """What an instance's row says of the store."""
    return Kept(**{name: getattr(row, name) for name in Kept.__dataclass_fields__})


def instances_of(connection: Connection, archive: int, scope: Scope) -> list[Row[Any]]:
    """The instances of a scope: series by number, then instances by number, then UID."""
    return list(connection.execute(_of_scope(_PLACED, _given(scope)), _named(archive, scope)))


_IN_ORDER: Final = (
    series.c.SeriesNumber.is_(None),
    series.c.SeriesNumber,
    series.c.SeriesInstanceUID,
    instances.c.InstanceNumber.is_(None),
    instances.c.InstanceNumber,
    instances.c.SOPInstanceUID,
)
_MEMBERS: Final = select(
    instances.c.series_id,
    studies.c.StudyInstanceUID,
    series.c.SeriesInstanceUID,
    instances.c.SOPInstanceUID,
    instances.c.digest,
    series_metadata.c.digest.label("kept"),
).select_from(instances.join(series).join(studies).outerjoin(series_metadata))


def members_of(connection: Connection, archive: int, scope: Scope) -> list[Row[Any]]:
    """The same order, and no more than the UIDs and digests: its series' metadata's as `kept`."""
    return list(connection.execute(_of_scope(_MEMBERS, _given(scope)), _named(archive, scope)))


_UIDS: Final[Mapping[str, Column[Any]]] = {
    "study_instance_uid": studies.c.StudyInstanceUID,
    "series_instance_uid": series.c.SeriesInstanceUID,
    "sop_instance_uid": instances.c.SOPInstanceUID,
}


def _named(archive: int, scope: Scope) -> Values:
    """The parameters of `_of_scope`."""
    return {"archive": archive, **{name: getattr(scope, name) for name in _given(scope)}}


def _given(scope: Scope) -> tuple[str, ...]:
    """The UIDs that a scope gives; without a study it is an empty one, never everything."""
    return tuple(name for name in _UIDS if getattr(scope, name) or name == "study_instance_uid")


@cache
def _of_scope(found: Select[Any], given: tuple[str, ...]) -> Select[Any]:
    """What lies in a scope that gives these UIDs, in order; built once for every such scope."""
    uids = (_UIDS[name] == bindparam(name) for name in given)
    wanted = found.where(studies.c.archive_id == bindparam("archive"), *uids)
    return wanted.order_by(*_IN_ORDER)


def placed(connection: Connection, instance_ids: Sequence[int]) -> dict[int, Row[Any]]:
    """The instances with these ids, with their places; of those that are gone, nothing."""
    rows = connection.execute(_PLACED.where(instances.c.id.in_(instance_ids)))
    return {row.id: row for row in rows}


def inside(archive: int, scope: Scope) -> ColumnElement[bool]:
    """The condition that an instance, joined with its series and study, is of a scope."""
    wanted = [
        studies.c.archive_id == archive,
        studies.c.StudyInstanceUID == scope.study_instance_uid,
    ]
    if scope.series_instance_uid:
        wanted.append(series.c.SeriesInstanceUID == scope.series_instance_uid)
    if scope.sop_instance_uid:
        wanted.append(instances.c.SOPInstanceUID == scope.sop_instance_uid)
    return and_(*wanted)


def remove(connection: Connection, archive: int, scope: Scope) -> tuple[int, list[str]]:
    """Remove the rows of a scope; how many instances, and the digests no row names any more."""
    study_id = lock_study(connection, archive, scope)
    if study_id is None:
        return 0, []
    joined = instances.join(series).join(studies)
    wanted = select(instances.c.id).select_from(joined).where(inside(archive, scope))
    further, current = [
        connection.scalars(delete(table).where(key.in_(wanted)).returning(table.c.digest)).all()
        for table, key in ((versions, versions.c.instance_id), (instances, instances.c.id))
    ]
    derived = _remove_metadata(connection, archive, scope)
    _remove_childless(connection, study_id)
    digests = {*current, *further}
    return len(current), sorted(digests - set(still_named(connection, digests))) + derived


def _remove_metadata(connection: Connection, archive: int, scope: Scope) -> list[str]:
    """What tells of an instance goes with it, so the metadata of its series are made anew."""
    whole = Scope(scope.study_instance_uid, scope.series_instance_uid)
    wanted = select(series.c.id).join(studies).where(inside(archive, whole))
    connection.execute(wanted.with_for_update(of=series, key_share=True))  # its makers wait
    return list(
        connection.scalars(
            delete(series_metadata)
            .where(series_metadata.c.series_id.in_(wanted))
            .returning(series_metadata.c.digest)
        )
    )


def lock_study(connection: Connection, archive: int, scope: Scope) -> int | None:
    """The id of a study that is to lose something, or None. Its patient's row is locked.

    So removers follow each other instead of meeting in a deadlock; who stores is not held up.
    """
    return connection.execute(
        select(studies.c.id)
        .join(patients)
        .where(
            studies.c.archive_id == archive,
            studies.c.StudyInstanceUID == scope.study_instance_uid,
        )
        .with_for_update(of=patients, key_share=True)
    ).scalar_one_or_none()


def _remove_childless(connection: Connection, study_id: int) -> None:
    """Remove the series of a study that hold nothing, then the study and its patient likewise."""
    patient_id = select(studies.c.patient_id).where(studies.c.id == study_id)
    patient = connection.execute(patient_id).scalar_one_or_none()
    for parent, child, link, ours in (
        (series, instances, instances.c.series_id, series.c.study_id == study_id),
        (studies, series, series.c.study_id, studies.c.id == study_id),
    ):
        childless = not_(exists(select(child.c.id).where(link == parent.c.id)))
        connection.execute(delete(parent).where(ours, childless))
    has_study = exists(select(studies.c.id).where(studies.c.patient_id == patients.c.id))
    gone = delete(patients).where(patients.c.id == patient, not_(has_study)).returning(patients)
    for row in connection.execute(gone).mappings():
        names.leave(connection, row["archive_id"], row["id"], row)


def still_named(connection: Connection, digests: set[str]) -> Iterator[str]:
    """Those of digests that some instance or version names, in any archive."""
    asked = sorted(digests)
    for start in range(0, len(asked), DIGESTS_ASKED_MAX):
        some = asked[start : start + DIGESTS_ASKED_MAX]
        for table in (instances, versions):
            yield from connection.scalars(select(table.c.digest).where(table.c.digest.in_(some)))


def every_digest(connection: Connection, archive: int) -> Iterator[tuple[str, int]]:
    """Digest and size of each object that an archive's instances and versions name."""
    yield from (
        (digest, size)
        for digest, size in connection.execute(
            select(instances.c.digest, instances.c.size_bytes).where(
                instances.c.archive_id == archive
            )
        )
    )
    yield from (
        (digest, size)
        for digest, size in connection.execute(
            select(versions.c.digest, versions.c.size_bytes)
            .join(instances)
            .where(instances.c.archive_id == archive)
        )
    )


def forget_everything(connection: Connection, archive: int) -> None:
    """Remove every row of an archive's instances; its objects stay. For `rebuild`."""
    of_archive = select(instances.c.id).where(instances.c.archive_id == archive)
    connection.execute(delete(versions).where(versions.c.instance_id.in_(of_archive)))
    for table in (instances, series, studies, patients, name_tails):
        connection.execute(delete(table).where(table.c.archive_id == archive))


def complete_study(connection: Connection, study_id: int, generation: int) -> None:
    """Mark a study complete at a generation."""
    connection.execute(
        update(studies)
        .where(studies.c.id == study_id)
        .values(state=COMPLETE, generation=generation, completed_at=now(), metadata_due_at=now())
    )


def is_any_quiet(connection: Connection, quiet_s: float) -> bool:
    """Whether some study is due to be completed; a look that locks nothing."""
    return bool(connection.execute(select(exists().where(_is_quiet(quiet_s)))).scalar())


def _is_quiet(quiet_s: float) -> ColumnElement[bool]:
    return and_(studies.c.state == RECEIVING, studies.c.last_received_at <= now() - quiet_s)


def quiet_studies(connection: Connection, quiet_s: float, rows_max: int) -> list[Row[Any]]:
    """Studies still receiving that have been quiet, the longest quiet first, locked for us."""
    return list(
        connection.execute(
            select(studies, archives.c.name.label("archive"))
            .join(archives)
            .where(_is_quiet(quiet_s))
            .order_by(studies.c.last_received_at)
            .limit(rows_max)
            .with_for_update(of=studies, skip_locked=True)
        )
    )


def receiving_study(
    connection: Connection, archive: int, study_instance_uid: str
) -> Row[Any] | None:
    """The row of a study that is not complete, locked for us; None if there is no such study."""
    return connection.execute(
        select(studies, archives.c.name.label("archive"))
        .join(archives)
        .where(
            studies.c.archive_id == archive,
            studies.c.StudyInstanceUID == study_instance_uid,
            studies.c.state == RECEIVING,
        )
        .with_for_update(of=studies)
    ).one_or_none()


def study_row(connection: Connection, archive: int, study_instance_uid: str) -> Row[Any] | None:
    """The row of a study, or None."""
    return connection.execute(
        select(studies).where(
            studies.c.archive_id == archive, studies.c.StudyInstanceUID == study_instance_uid
        )
    ).one_or_none()


def restore_study(
    connection: Connection, archive: int, study_instance_uid: str, generation: int
) -> None:
    """Set a study's generation from a record found by `rebuild`; it only ever rises."""
    connection.execute(
        update(studies)
        .where(
            studies.c.archive_id == archive,
            studies.c.StudyInstanceUID == study_instance_uid,
            studies.c.generation < generation,
        )
        .values(generation=generation, state=COMPLETE, completed_at=now(), metadata_due_at=now())
    )
