"""The tables, their columns taken from `INDEXED`; every row belongs to one archive.

A column of an attribute bears its keyword. A person's name has a folded column per component
group beside it, and a time one that sorts, since those are what gets compared (PS3.4 C.2.2.2).
Rows are born by `insert_new` alone, so that racing doors make one patient and one study.
Times are seconds since 1970 in UTC, taken from the database's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Computed,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    and_,
    bindparam,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import DDLCompiler, SQLCompiler
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.functions import FunctionElement

from pacs.dicom.attributes import WORKLIST, Attribute, Level, read_from_data_set
from pacs.dicom.matching import PN_GROUPS
from pacs.errors import Unreachable

# Byte order and case as they are, on every database: DICOM compares so (PS3.4 C.2.2.2.1).
Exact = Text().with_variant(Text(collation="C"), "postgresql")
Key = BigInteger().with_variant(Integer(), "sqlite")


@compiles(Computed, "postgresql")
def _stored_on_postgresql(column: Computed, _compiler: DDLCompiler, **_: object) -> str:
    """PostgreSQL has indexes on stored derived columns alone; SQLite adds virtual ones alone."""
    return f"GENERATED ALWAYS AS ({column.sqltext}) STORED"


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

MOMENT: Final = """coalesce("StudyDate", '') || coalesce("StudyTime_sorted", '')"""
RACES_MAX: Final = 10  # an insert that loses so often against a remover of the same row is given up

_NUMBERS: Final = frozenset({"IS", "US"})
# The columns of a unique key are never NULL, or two unknowns would not be equal.
_NEVER_NULL: Final = frozenset(
    ["PatientID", "IssuerOfPatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
)


def search_columns(attribute: Attribute) -> tuple[str, ...]:
    """The columns that are compared with a key for this attribute."""
    if attribute.vr == "PN":
        return tuple(f"{attribute.keyword}_{group}" for group in PN_GROUPS)
    if attribute.vr in ("TM", "DT"):
        return (f"{attribute.keyword}_sorted",)
    return (attribute.keyword,)


def _columns_of(attributes: Iterable[Attribute]) -> list[Column[Any]]:
    columns: list[Column[Any]] = []
    for attribute in attributes:
        keyword = attribute.keyword
        kind = BigInteger() if attribute.vr in _NUMBERS else Exact
        columns.append(Column(keyword, kind, nullable=keyword not in _NEVER_NULL))
        columns += [Column(n, Exact) for n in search_columns(attribute) if n != keyword]
    return columns


def _archive() -> Column[int]:
    return Column("archive_id", Key, ForeignKey("archives.id"), nullable=False)


archives = Table(
    "archives",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", Exact, nullable=False, unique=True),
)

patients = Table(
    "patients",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    # Two strangers without a Patient ID are not one patient: their study tells them apart.
    Column("scope", Exact, nullable=False, server_default=""),
    *_columns_of(read_from_data_set(Level.PATIENT)),
    UniqueConstraint("archive_id", "PatientID", "IssuerOfPatientID", "scope"),
    Index(None, "archive_id", "PatientName_alphabetic"),
)

# Where a name can be found from its middle: it from each of its characters on (`names.tails`).
name_tails = Table(
    "name_tails",
    metadata,
    Column("archive_id", Key, primary_key=True, autoincrement=False),
    Column("tail", Exact, primary_key=True),
    Column("patient_id", Key, primary_key=True, autoincrement=False),
    sqlite_with_rowid=False,
)

studies = Table(
    "studies",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("patient_id", Key, ForeignKey("patients.id"), nullable=False, index=True),
    *_columns_of(read_from_data_set(Level.STUDY)),
    # Date and time in one text that sorts, empty where they are unknown: the order of answers.
    Column("moment", Exact, Computed(MOMENT)),
    Column("state", Exact, nullable=False, server_default="receiving"),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("first_received_at", Double, nullable=False),
    Column("last_received_at", Double, nullable=False),
    Column("completed_at", Double),
    # Since when the metadata of its series wait to be made; NULL if they do not.
    Column("metadata_due_at", Double),
    UniqueConstraint("archive_id", "StudyInstanceUID"),
    Index(None, "archive_id", "moment", "StudyInstanceUID"),
    Index(None, "archive_id", "AccessionNumber"),
    Index(None, "state", "last_received_at"),
    Index(None, "metadata_due_at"),
)

series = Table(
    "series",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("study_id", Key, ForeignKey("studies.id"), nullable=False),
    *_columns_of(read_from_data_set(Level.SERIES)),
    UniqueConstraint("study_id", "SeriesInstanceUID"),
    Index(None, "archive_id", "SeriesInstanceUID"),
    Index(None, "archive_id", "Modality", "study_id"),
)

series_metadata = Table(
    "series_metadata",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column(
        "series_id",
        Key,
        ForeignKey("series.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    Column("digest", Exact, nullable=False, index=True),
)

instances = Table(
    "instances",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("series_id", Key, ForeignKey("series.id"), nullable=False, index=True),
    *_columns_of(read_from_data_set(Level.INSTANCE)),
    Column("transfer_syntax_uid", Exact, nullable=False),
    Column("digest", Exact, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data_set_digest", Exact, nullable=False),
    Column("data_set_offset", Integer, nullable=False),
    Column("frame_table", LargeBinary, nullable=False),
    Column("received_at", Double, nullable=False),
    # The key of the job that made it; empty for what was received.
    Column("made_by", Exact, nullable=False, server_default=""),
    # The AE title that sent it; empty for what came in another way.
    Column("source_ae_title", Exact, nullable=False, server_default=""),
    UniqueConstraint("archive_id", "SOPInstanceUID"),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Key, primary_key=True),
    Column("instance_id", Key, ForeignKey("instances.id"), nullable=False),
    Column("digest", Exact, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("data_set_digest", Exact, nullable=False),
    Column("received_at", Double, nullable=False),
    UniqueConstraint("instance_id", "data_set_digest"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Key, primary_key=True),
    Column("key", Exact, nullable=False, unique=True),
    Column("kind", Exact, nullable=False),
    _archive(),
    Column("study_instance_uid", Exact, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("state", Exact, nullable=False, server_default="queued"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("attempts_max", Integer, nullable=False, server_default="12"),
    Column("faults", Integer, nullable=False, server_default="0"),
    Column("token", Integer, nullable=False, server_default="0"),
    # Of the jobs of one lane one runs at a time; empty for a job that heeds no other.
    Column("lane", Exact, nullable=False, server_default=""),
    Column("not_before", Double, nullable=False, server_default="0"),
    Column("lease_until", Double, nullable=False, server_default="0"),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("reason_code", Exact, nullable=False, server_default=""),
    Column("reason", Text, nullable=False, server_default=""),
    Index(None, "state", "not_before"),
    Index(None, "archive_id", "study_instance_uid"),
    Index(None, "lane", "state"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Key, primary_key=True),
    Column("key", Exact, nullable=False, unique=True),
    _archive(),
    Column("study_instance_uid", Exact, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("model", Exact, nullable=False),
    Column("state", Exact, nullable=False),
    # What the run says of itself, as JSON; kept in the store as well, for `rebuild`.
    Column("record", Text, nullable=False),
    Column("digest", Exact, nullable=False, index=True),
    Column("ended_at", Double, nullable=False),
    Index(None, "archive_id", "study_instance_uid"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", Key, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("event", Text, nullable=False),
    Column("previous", Exact, nullable=False),
    Column("digest", Exact, nullable=False),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, nullable=False),
    Column("digest", Exact, nullable=False),
)

query_tags = Table(
    "query_tags",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    # The path, eight hex digits a step.
    Column("path", Exact, nullable=False),
    Column("creator", Exact, nullable=False, server_default=""),
    Column("vr", Exact, nullable=False),
    Column("level", Integer, nullable=False),
    # Every node has these; the others were added by somebody.
    Column("is_built_in", Boolean, nullable=False),
    Column("is_queried", Boolean, nullable=False, server_default=true()),
    # Instances up to `to_id` were there before the tag; those up to `done_id` have been read for it.
    Column("to_id", BigInteger, nullable=False),
    Column("done_id", BigInteger, nullable=False, server_default="0"),
    Column("instances", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False, server_default="0"),
    Column("operation", Exact, nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    UniqueConstraint("archive_id", "path", "creator"),
)

query_tag_errors = Table(
    "query_tag_errors",
    metadata,
    Column("id", Key, primary_key=True),
    Column("tag_id", Key, ForeignKey("query_tags.id", ondelete="CASCADE"), nullable=False),
    Column(
        "instance_id",
        Key,
        ForeignKey("instances.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("sentence", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index(None, "tag_id", "id"),
)


def _tag_values(level: Level, owner: Table) -> Table:
    """The values that the entities of one level have for extended query tags."""
    return Table(
        f"{level.name.lower()}_tag_values",
        metadata,
        Column("id", Key, primary_key=True),
        Column("tag_id", Key, ForeignKey("query_tags.id", ondelete="CASCADE"), nullable=False),
        Column("owner_id", Key, ForeignKey(owner.c.id, ondelete="CASCADE"), nullable=False),
        # The numbers of the sequence items that the value stands in, each with a dot.
        Column("items", Exact, nullable=False),
        Column("text", Exact),
        Column("number", Double),
        Index(None, "tag_id", "text"),
        Index(None, "tag_id", "number"),
        Index(None, "owner_id", "tag_id"),
    )


TAG_VALUES: Final = {
    level: _tag_values(level, owner)
    for level, owner in (
        (Level.STUDY, studies),
        (Level.SERIES, series),
        (Level.INSTANCE, instances),
    )
}

peers = Table(
    "peers",
    metadata,
    Column("id", Key, primary_key=True),
    Column("ae_title", Exact, nullable=False, unique=True),
    Column("host", Exact, nullable=False),
    Column("port", Integer, nullable=False),
    Column("tls", Boolean, nullable=False),
    # The values of its rights in alphabetical order, with spaces between them.
    Column("rights", Exact, nullable=False),
    Column("last_association_at", Double),
    Column("last_error", Text, nullable=False, server_default=""),
    Column("last_error_at", Double),
)

# The keys of a workitem that have columns; all others are read from its data set (PS3.4 CC.2.8).
WORKITEM_KEYS: Final = tuple(
    Attribute(keyword, Level.INSTANCE)
    for keyword in (
        "ProcedureStepState",
        "ScheduledProcedureStepStartDateTime",
        "ScheduledProcedureStepPriority",
        "InputReadinessState",
        "ProcedureStepLabel",
        "WorklistLabel",
        "PatientID",
        "PatientName",
        "StudyInstanceUID",
    )
)

workitems = Table(
    "workitems",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("SOPInstanceUID", Exact, nullable=False),
    *(Column(name, Exact) for key in WORKITEM_KEYS for name in search_columns(key)),
    # Who claimed it: the kind of an actor, and the UID that this performer alone knows.
    Column("performer", Exact, nullable=False, server_default=""),
    Column("transaction_uid", Exact, nullable=False, server_default=""),
    Column("data_set", Text, nullable=False),  # DICOM JSON; empty once it is forgotten
    Column("created_at", Double, nullable=False),
    Column("ended_at", Double),
    UniqueConstraint("archive_id", "SOPInstanceUID"),
    Index(
        "ix_workitems_worklist",
        "archive_id",
        "ProcedureStepState",
        "ScheduledProcedureStepStartDateTime_sorted",
    ),
    Index("ix_workitems_by_start", "archive_id", "ScheduledProcedureStepStartDateTime_sorted"),
    Index(None, "archive_id", "PatientID"),
    Index(None, "archive_id", "ended_at"),
)

workitem_subscriptions = Table(
    "workitem_subscriptions",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("ae_title", Exact, nullable=False),
    # A workitem's UID, or the well-known one of all workitems (PS3.4 CC.2.3.1).
    Column("target", Exact, nullable=False),
    Column("deletion_lock", Boolean, nullable=False),
    # Whether events are sent to it by DIMSE; they can be read at a WebSocket in any case.
    Column("is_called", Boolean, nullable=False),
    Column(
        "filter", Text, nullable=False, server_default=""
    ),  # JSON pairs; of a filtered global one
    UniqueConstraint("archive_id", "target", "ae_title"),
    Index(None, "archive_id", "ae_title"),
)

workitem_events = Table(
    "workitem_events",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("ae_title", Exact, nullable=False),
    Column("target", Exact, nullable=False),
    Column("kind", Integer, nullable=False),
    Column("information", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("is_due", Boolean, nullable=False),  # it is still to be sent by DIMSE
    Index(None, "archive_id", "ae_title", "id"),
    Index(None, "created_at"),
)

rules = Table(
    "rules",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", Exact, nullable=False, unique=True),
    Column("peer", Exact, nullable=False),
    Column("trigger", Exact, nullable=False),
    # The project whose copies it forwards; empty for the identified archive.
    Column("project", Exact, nullable=False),
    # As JSON: by keyword a list of values.
    Column("conditions", Text, nullable=False),
    Column("commitment", Boolean, nullable=False),
    Column("enabled", Boolean, nullable=False),
    # The row of the audit trail that made it; it speaks of what happens after that.
    Column("since", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

feeds = Table(
    "feeds",
    metadata,
    Column("id", Key, primary_key=True),
    Column("name", Exact, nullable=False, unique=True),
    # The last row of the audit trail whose consequences are written.
    Column("seq", BigInteger, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", Key, primary_key=True),
    Column("job_id", Key, ForeignKey("jobs.id"), nullable=False),
    Column("peer", Exact, nullable=False),
    Column("rule", Exact, nullable=False),
    Column("digest", Exact, nullable=False),
    Column("sop_instance_uid", Exact, nullable=False, index=True),
    # Whether the peer is still to be asked for storage commitment.
    Column("commitment", Boolean, nullable=False),
    Column("state", Exact, nullable=False, server_default="waiting"),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("ended_at", Double),
    UniqueConstraint("peer", "digest"),
    Index(None, "job_id", "state"),
    Index(None, "peer", "state"),
)

# The worklist: each row one scheduled procedure step, with its own copy of what is said of its
# patient, so that no disagreement about a patient can keep a step off the list.
scheduled_steps = Table(
    "scheduled_steps",
    metadata,
    Column("id", Key, primary_key=True),
    *_columns_of(WORKLIST.values()),
    # Its start as one text that sorts, YYYYMMDDHHMMSS.FFFFFF in the department's own time.
    Column("starts_at", Exact, nullable=False),
    Column("status", Exact, nullable=False),
    # The whole entry as DICOM JSON, for the return keys.
    Column("entry", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    UniqueConstraint("AccessionNumber", "ScheduledProcedureStepID"),
    Index(None, "starts_at", "id"),
    Index(None, "StudyInstanceUID"),
    Index(None, "PatientID"),
    Index(None, "PatientName_alphabetic"),
)

performed_steps = Table(
    "performed_steps",
    metadata,
    Column("id", Key, primary_key=True),
    Column("SOPInstanceUID", Exact, nullable=False, unique=True),
    Column("ae_title", Exact, nullable=False),
    Column("state", Exact, nullable=False),
    # Its attributes as they stand now, as DICOM JSON.
    Column("attributes", Text, nullable=False),
    Column("messages", Integer, nullable=False),
    # Whether nothing more follows from it: all that it lists is here.
    Column("is_settled", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Index(None, "is_settled", "state", "changed_at"),
)

# What a performed step was performed for: the steps that were scheduled, and their studies.
performed_for = Table(
    "performed_for",
    metadata,
    Column("id", Key, primary_key=True),
    Column("step_id", Key, ForeignKey("performed_steps.id"), nullable=False, index=True),
    Column("StudyInstanceUID", Exact, nullable=False, index=True),
    Column("ScheduledProcedureStepID", Exact, nullable=False),
)

performed_instances = Table(
    "performed_instances",
    metadata,
    Column("id", Key, primary_key=True),
    Column("step_id", Key, ForeignKey("performed_steps.id"), nullable=False),
    Column("SOPInstanceUID", Exact, nullable=False),
    UniqueConstraint("step_id", "SOPInstanceUID"),
)

# The messages of a performed step as they came, in order from 0: others are told the same.
performed_messages = Table(
    "performed_messages",
    metadata,
    Column("id", Key, primary_key=True),
    Column("step_id", Key, ForeignKey("performed_steps.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("transfer_syntax_uid", Exact, nullable=False),
    Column("attributes", LargeBinary, nullable=False),
    UniqueConstraint("step_id", "number"),
)

# Storage commitment (PS3.4 annex J): what peers ask of us (role scp), and we of them (role scu).
commitments = Table(
    "commitments",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("role", Exact, nullable=False),
    Column("ae_title", Exact, nullable=False),
    Column("transaction_uid", Exact, nullable=False),
    # What no two that are open may share; NULL once it has ended, as a Transaction UID is then free.
    Column("open_key", Exact, unique=True),
    # The key of the job that carries it on.
    Column("job_key", Exact, nullable=False, server_default=""),
    Column("state", Exact, nullable=False),
    Column("instances", Integer, nullable=False),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("requested_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("reason", Text, nullable=False, server_default=""),
    Index(None, "state", "requested_at"),
    Index(None, "ae_title", "transaction_uid"),
)

commitment_references = Table(
    "commitment_references",
    metadata,
    Column("id", Key, primary_key=True),
    Column("commitment_id", Key, ForeignKey("commitments.id"), nullable=False, index=True),
    Column("sop_class_uid", Exact, nullable=False),
    Column("sop_instance_uid", Exact, nullable=False),
    # A Failure Reason of PS3.3 C.14.1.1; 0: committed; NULL: not known yet.
    Column("failure_reason", Integer),
)

# What was deleted and is kept for a while; a scope's empty UIDs mean all of the level.
deletions = Table(
    "deletions",
    metadata,
    Column("id", Key, primary_key=True),
    _archive(),
    Column("StudyInstanceUID", Exact, nullable=False),
    Column("SeriesInstanceUID", Exact, nullable=False),
    Column("SOPInstanceUID", Exact, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("digest", Exact, nullable=False, index=True),  # of the tombstone in the store
    Column("deleted_at", Double, nullable=False),
    Index(None, "archive_id", "StudyInstanceUID"),
    Index(None, "archive_id", "deleted_at"),
)

recycled = Table(
    "recycled",
    metadata,
    Column("id", Key, primary_key=True),
    Column("deletion_id", Key, ForeignKey("deletions.id"), nullable=False),
    Column("SeriesInstanceUID", Exact, nullable=False),
    Column("SOPInstanceUID", Exact, nullable=False),
    Column("digest", Exact, nullable=False, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("is_current", Boolean, nullable=False),  # else it was a further version
    Index(None, "deletion_id", "SOPInstanceUID"),
)

changes = Table(
    "changes",
    metadata,
    Column("archive_id", Key, ForeignKey("archives.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    Column("change", Exact, nullable=False),
    Column("StudyInstanceUID", Exact, nullable=False),
    Column("SeriesInstanceUID", Exact, nullable=False),
    Column("SOPInstanceUID", Exact, nullable=False),
    Column("digest", Exact, nullable=False),
    Index(None, "archive_id", "at"),
    sqlite_with_rowid=False,  # in the order of its key, so a row goes to the end of one tree
)

TABLE: Final = {
    Level.PATIENT: patients,
    Level.STUDY: studies,
    Level.SERIES: series,
    Level.INSTANCE: instances,
}


class now(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function it is
    """The database's clock: seconds since 1970. Workers' own clocks may differ."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(_element: now, _compiler: SQLCompiler, **_: object) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def insert_new(
    connection: Connection,
    table: Table,
    unique: Sequence[str],
    values: Mapping[str, Any],
    *,
    stamped: Sequence[str] = (),
) -> tuple[int, bool]:
    """The id of the row with these unique values, and whether it was made just now.

    The database decides the race, and tells its verdict by what it returns. `stamped` columns get
    the database's time. Raises Unreachable if somebody removes that row again and again.
    """
    statement = _insertion(
        connection.dialect.name, table, tuple(unique), tuple(values), tuple(stamped)
    )
    for _ in range(RACES_MAX):
        made = connection.execute(statement, values).scalar_one_or_none()
        if made is not None:
            return int(made), True
        found = connection.execute(select(table.c.id).where(same(table, unique, values)))
        held = found.scalar_one_or_none()
        if held is not None:
            return int(held), False
    raise Unreachable("the index makes and removes this very row all the time")


@lru_cache(maxsize=64)
def _insertion(
    dialect: str,
    table: Table,
    unique: tuple[str, ...],
    names: tuple[str, ...],
    stamped: tuple[str, ...],
) -> ReturningInsert[Any]:
    """The statement, built once: building costs more than running it."""
    insert = postgresql.insert if dialect == "postgresql" else sqlite.insert
    columns: dict[str, ColumnElement[Any]] = {name: bindparam(name) for name in names}
    columns |= dict.fromkeys(stamped, now())
    return (
        insert(table)
        .values(**columns)
        .on_conflict_do_nothing(index_elements=unique)
        .returning(table.c.id)
    )


def same(table: Table, unique: Sequence[str], values: Mapping[str, Any]) -> ColumnElement[bool]:
    """The condition that a row has these unique values."""
    return and_(*(table.c[name] == values[name] for name in unique))
