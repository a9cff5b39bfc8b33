"""What makes finding fast and wide: moments that sort, tails of names, extended query tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
MOMENT = """coalesce("StudyDate", '') || coalesce("StudyTime_sorted", '')"""
TAIL_CHARACTERS = 8
ROWS_AT_ONCE = 1_000


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.add_column("studies", sa.Column("moment", EXACT, sa.Computed(MOMENT)))
    op.drop_index("ix_studies_archive_id_StudyDate_StudyTime_sorted", "studies")
    op.create_index(
        "ix_studies_archive_id_moment_StudyInstanceUID",
        "studies",
        ["archive_id", "moment", "StudyInstanceUID"],
    )
    op.drop_index("ix_series_archive_id_Modality", "series")
    op.create_index(
        "ix_series_archive_id_Modality_study_id", "series", ["archive_id", "Modality", "study_id"]
    )
    _add_name_tails()
    _add_query_tags()


def _add_name_tails() -> None:
    tails = op.create_table(
        "name_tails",
        sa.Column("archive_id", KEY, autoincrement=False, nullable=False),
        sa.Column("tail", EXACT, nullable=False),
        sa.Column("patient_id", KEY, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("archive_id", "tail", "patient_id", name=op.f("pk_name_tails")),
        sqlite_with_rowid=False,
    )
    groups = [f"PatientName_{group}" for group in ("alphabetic", "ideographic", "phonetic")]
    columns = [sa.column(name, sa.Text) for name in ("archive_id", "id", *groups)]
    patients = sa.select(*columns).select_from(sa.table("patients"))
    connection = op.get_bind()
    every = connection.execute(patients).all()
    for start in range(0, len(every), ROWS_AT_ONCE):
        rows = every[start : start + ROWS_AT_ONCE]
        found = [
            {"archive_id": archive, "tail": tail, "patient_id": patient}
            for archive, patient, *names in rows
            for tail in {
                name[at : at + TAIL_CHARACTERS] for name in names if name for at in range(len(name))
            }
        ]
        if found:
            connection.execute(sa.insert(tails), found)


def _add_query_tags() -> None:
    op.create_table(
        "query_tags",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("path", EXACT, nullable=False),
        sa.Column("creator", EXACT, server_default="", nullable=False),
        sa.Column("vr", EXACT, nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("is_built_in", sa.Boolean(), nullable=False),
        sa.Column("is_queried", sa.Boolean(), server_default=sa.true(), nullable=False),
        sa.Column("to_id", sa.BigInteger(), nullable=False),
        sa.Column("done_id", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("instances", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("operation", EXACT, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_query_tags_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_query_tags")),
        sa.UniqueConstraint(
            "archive_id", "path", "creator", name=op.f("uq_query_tags_archive_id_path_creator")
        ),
    )
    op.create_index("ix_query_tags_operation", "query_tags", ["operation"])
    op.create_table(
        "query_tag_errors",
        sa.Column("id", KEY, nullable=False),
        _owned("query_tag_errors", "tag_id", "query_tags"),
        _owned("query_tag_errors", "instance_id", "instances"),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_query_tag_errors")),
    )
    op.create_index("ix_query_tag_errors_instance_id", "query_tag_errors", ["instance_id"])
    op.create_index("ix_query_tag_errors_tag_id_id", "query_tag_errors", ["tag_id", "id"])
    for level, owners in (("study", "studies"), ("series", "series"), ("instance", "instances")):
        _add_values(f"{level}_tag_values", owners)


def _add_values(name: str, owners: str) -> None:
    op.create_table(
        name,
        sa.Column("id", KEY, nullable=False),
        _owned(name, "tag_id", "query_tags"),
        _owned(name, "owner_id", owners),
        sa.Column("items", EXACT, nullable=False),
        sa.Column("text", EXACT, nullable=True),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{name}")),
    )
    for columns in (["tag_id", "text"], ["tag_id", "number"], ["owner_id", "tag_id"]):
        op.create_index(f"ix_{name}_{'_'.join(columns)}", name, columns)


def _owned(table: str, column: str, owners: str) -> sa.Column[int]:
    """A column whose rows go with the row they name."""
    key = sa.ForeignKey(f"{owners}.id", name=op.f(f"fk_{table}_{column}"), ondelete="CASCADE")
    return sa.Column(column, KEY, key, nullable=False)
