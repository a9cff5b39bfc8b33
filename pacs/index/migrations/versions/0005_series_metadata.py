"""Where the metadata of a series are kept, and which studies wait for theirs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.create_table(
        "series_metadata",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("series_id", KEY, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_series_metadata_archive_id")
        ),
        sa.ForeignKeyConstraint(
            ["series_id"],
            ["series.id"],
            name=op.f("fk_series_metadata_series_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series_metadata")),
        sa.UniqueConstraint("series_id", name=op.f("uq_series_metadata_series_id")),
    )
    op.create_index(op.f("ix_series_metadata_digest"), "series_metadata", ["digest"])
    op.add_column("studies", sa.Column("metadata_due_at", sa.Double(), nullable=True))
    op.execute("UPDATE studies SET metadata_due_at = last_received_at WHERE state = 'complete'")
    op.create_index(op.f("ix_studies_metadata_due_at"), "studies", ["metadata_due_at"])
