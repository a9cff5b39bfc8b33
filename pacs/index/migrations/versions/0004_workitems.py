"""Workitems, who watches them, and what their watchers are still to be told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.create_table(
        "workitems",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("ProcedureStepState", EXACT, nullable=True),
        sa.Column("ScheduledProcedureStepStartDateTime_sorted", EXACT, nullable=True),
        sa.Column("ScheduledProcedureStepPriority", EXACT, nullable=True),
        sa.Column("InputReadinessState", EXACT, nullable=True),
        sa.Column("ProcedureStepLabel", EXACT, nullable=True),
        sa.Column("WorklistLabel", EXACT, nullable=True),
        sa.Column("PatientID", EXACT, nullable=True),
        sa.Column("PatientName_alphabetic", EXACT, nullable=True),
        sa.Column("PatientName_ideographic", EXACT, nullable=True),
        sa.Column("PatientName_phonetic", EXACT, nullable=True),
        sa.Column("StudyInstanceUID", EXACT, nullable=True),
        sa.Column("performer", EXACT, server_default="", nullable=False),
        sa.Column("transaction_uid", EXACT, server_default="", nullable=False),
        sa.Column("data_set", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_workitems_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitems")),
        sa.UniqueConstraint(
            "archive_id", "SOPInstanceUID", name=op.f("uq_workitems_archive_id_SOPInstanceUID")
        ),
    )
    op.create_index(
        "ix_workitems_worklist",
        "workitems",
        ["archive_id", "ProcedureStepState", "ScheduledProcedureStepStartDateTime_sorted"],
    )
    op.create_index(
        "ix_workitems_by_start",
        "workitems",
        ["archive_id", "ScheduledProcedureStepStartDateTime_sorted"],
    )
    op.create_index(
        op.f("ix_workitems_archive_id_PatientID"), "workitems", ["archive_id", "PatientID"]
    )
    op.create_index(
        op.f("ix_workitems_archive_id_ended_at"), "workitems", ["archive_id", "ended_at"]
    )
    op.create_table(
        "workitem_subscriptions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("ae_title", EXACT, nullable=False),
        sa.Column("target", EXACT, nullable=False),
        sa.Column("deletion_lock", sa.Boolean(), nullable=False),
        sa.Column("is_called", sa.Boolean(), nullable=False),
        sa.Column("filter", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_workitem_subscriptions_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_subscriptions")),
        sa.UniqueConstraint(
            "archive_id",
            "target",
            "ae_title",
            name=op.f("uq_workitem_subscriptions_archive_id_target_ae_title"),
        ),
    )
    op.create_index(
        op.f("ix_workitem_subscriptions_archive_id_ae_title"),
        "workitem_subscriptions",
        ["archive_id", "ae_title"],
    )
    op.create_table(
        "workitem_events",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("ae_title", EXACT, nullable=False),
        sa.Column("target", EXACT, nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("information", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("is_due", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_workitem_events_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_events")),
    )
    op.create_index(
        op.f("ix_workitem_events_archive_id_ae_title_id"),
        "workitem_events",
        ["archive_id", "ae_title", "id"],
    )
    op.create_index(op.f("ix_workitem_events_created_at"), "workitem_events", ["created_at"])
