"""The worklist, and the procedure steps that modalities perform."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    _scheduled_steps()
    _performed_steps()
    _of_performed_step(
        "performed_for",
        sa.Column("StudyInstanceUID", EXACT, nullable=False),
        sa.Column("ScheduledProcedureStepID", EXACT, nullable=False),
    )
    for column in ("step_id", "StudyInstanceUID"):
        op.create_index(op.f(f"ix_performed_for_{column}"), "performed_for", [column])
    _of_performed_step(
        "performed_instances",
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        unique="SOPInstanceUID",
    )
    _of_performed_step(
        "performed_messages",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("transfer_syntax_uid", EXACT, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        unique="number",
    )


SEARCHED = """PatientName PatientName_alphabetic PatientName_ideographic PatientName_phonetic
    AccessionNumber RequestedProcedureID
    ScheduledStationAETitle ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime
    ScheduledProcedureStepStartTime_sorted Modality ScheduledPerformingPhysicianName
    ScheduledPerformingPhysicianName_alphabetic ScheduledPerformingPhysicianName_ideographic
    ScheduledPerformingPhysicianName_phonetic ScheduledProcedureStepID"""


def _scheduled_steps() -> None:
    op.create_table(
        "scheduled_steps",
        sa.Column("id", KEY, nullable=False),
        *(sa.Column(name, EXACT, nullable=True) for name in SEARCHED.split()),
        sa.Column("PatientID", EXACT, nullable=False),
        sa.Column("IssuerOfPatientID", EXACT, nullable=False),
        sa.Column("StudyInstanceUID", EXACT, nullable=False),
        sa.Column("starts_at", EXACT, nullable=False),
        sa.Column("status", EXACT, nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduled_steps")),
        sa.UniqueConstraint(
            "AccessionNumber",
            "ScheduledProcedureStepID",
            name=op.f("uq_scheduled_steps_AccessionNumber_ScheduledProcedureStepID"),
        ),
    )
    for columns in (
        ["starts_at", "id"],
        ["StudyInstanceUID"],
        ["PatientID"],
        ["PatientName_alphabetic"],
    ):
        name = op.f(f"ix_scheduled_steps_{'_'.join(columns)}")
        op.create_index(name, "scheduled_steps", columns)


def _performed_steps() -> None:
    op.create_table(
        "performed_steps",
        sa.Column("id", KEY, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("ae_title", EXACT, nullable=False),
        sa.Column("state", EXACT, nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.Column("is_settled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_performed_steps")),
        sa.UniqueConstraint("SOPInstanceUID", name=op.f("uq_performed_steps_SOPInstanceUID")),
    )
    op.create_index(
        op.f("ix_performed_steps_is_settled_state_changed_at"),
        "performed_steps",
        ["is_settled", "state", "changed_at"],
    )


def _of_performed_step(table: str, *columns: sa.Column[Any], unique: str = "") -> None:
    once = [sa.UniqueConstraint("step_id", unique, name=op.f(f"uq_{table}_step_id_{unique}"))]
    op.create_table(
        table,
        sa.Column("id", KEY, nullable=False),
        sa.Column("step_id", KEY, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        sa.ForeignKeyConstraint(
            ["step_id"], ["performed_steps.id"], name=op.f(f"fk_{table}_step_id")
        ),
        *(once if unique else []),
    )
