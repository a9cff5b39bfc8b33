"""Storage commitment: what peers ask of us and we of them, and the instances it is about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.create_table(
        "commitments",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("role", EXACT, nullable=False),
        sa.Column("ae_title", EXACT, nullable=False),
        sa.Column("transaction_uid", EXACT, nullable=False),
        sa.Column("open_key", EXACT, nullable=True),
        sa.Column("job_key", EXACT, server_default="", nullable=False),
        sa.Column("state", EXACT, nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("requested_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_commitments_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitments")),
        sa.UniqueConstraint("open_key", name=op.f("uq_commitments_open_key")),
    )
    for columns in (["state", "requested_at"], ["ae_title", "transaction_uid"]):
        op.create_index(op.f(f"ix_commitments_{'_'.join(columns)}"), "commitments", columns)
    op.create_table(
        "commitment_references",
        sa.Column("id", KEY, nullable=False),
        sa.Column("commitment_id", KEY, nullable=False),
        sa.Column("sop_class_uid", EXACT, nullable=False),
        sa.Column("sop_instance_uid", EXACT, nullable=False),
        sa.Column("failure_reason", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["commitment_id"],
            ["commitments.id"],
            name=op.f("fk_commitment_references_commitment_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment_references")),
    )
    op.create_index(
        op.f("ix_commitment_references_commitment_id"), "commitment_references", ["commitment_id"]
    )
