"""Deletions that can be taken back, and what changed instance by instance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

# What is held already is told as created, in the order it came.
TELL_HELD = """
INSERT INTO changes
SELECT instances.archive_id,
       row_number() OVER (PARTITION BY instances.archive_id
                          ORDER BY instances.received_at, instances.id),
       instances.received_at, 'create', studies."StudyInstanceUID", series."SeriesInstanceUID",
       instances."SOPInstanceUID", instances.digest
FROM instances
JOIN series ON series.id = instances.series_id
JOIN studies ON studies.id = series.study_id
"""


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.create_table(
        "deletions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("StudyInstanceUID", EXACT, nullable=False),
        sa.Column("SeriesInstanceUID", EXACT, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_deletions_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deletions")),
    )
    op.create_table(
        "recycled",
        sa.Column("id", KEY, nullable=False),
        sa.Column("deletion_id", KEY, nullable=False),
        sa.Column("SeriesInstanceUID", EXACT, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["deletion_id"], ["deletions.id"], name=op.f("fk_recycled_deletion_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_recycled")),
    )
    op.create_table(
        "changes",
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("change", EXACT, nullable=False),
        sa.Column("StudyInstanceUID", EXACT, nullable=False),
        sa.Column("SeriesInstanceUID", EXACT, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_changes_archive_id")
        ),
        sa.PrimaryKeyConstraint("archive_id", "seq", name=op.f("pk_changes")),
        sqlite_with_rowid=False,
    )
    for table, columns in (
        ("deletions", ["archive_id", "StudyInstanceUID"]),
        ("deletions", ["archive_id", "deleted_at"]),
        ("deletions", ["digest"]),
        ("recycled", ["deletion_id", "SOPInstanceUID"]),
        ("recycled", ["digest"]),
        ("changes", ["archive_id", "at"]),
    ):
        op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, columns)
    op.execute(TELL_HELD)
