"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    op.create_table(
        "archives",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_archives")),
        sa.UniqueConstraint("name", name=op.f("uq_archives_name")),
    )
    op.create_table(
        "audit",
        sa.Column("seq", KEY, autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("previous", EXACT, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", KEY, nullable=False),
        sa.Column("key", EXACT, nullable=False),
        sa.Column("kind", EXACT, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("study_instance_uid", EXACT, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", EXACT, server_default="queued", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("token", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.Double(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Double(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.Column("reason_code", EXACT, server_default="", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_jobs_archive_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("key", name=op.f("uq_jobs_key")),
    )
    op.create_index(
        op.f("ix_jobs_archive_id_study_instance_uid"),
        "jobs",
        ["archive_id", "study_instance_uid"],
        unique=False,
    )
    op.create_index(op.f("ix_jobs_state_not_before"), "jobs", ["state", "not_before"], unique=False)
    op.create_table(
        "patients",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("scope", EXACT, server_default="", nullable=False),
        sa.Column("PatientID", EXACT, nullable=False),
        sa.Column("IssuerOfPatientID", EXACT, nullable=False),
        sa.Column("PatientName", EXACT, nullable=True),
        sa.Column("PatientName_alphabetic", EXACT, nullable=True),
        sa.Column("PatientName_ideographic", EXACT, nullable=True),
        sa.Column("PatientName_phonetic", EXACT, nullable=True),
        sa.Column("PatientBirthDate", EXACT, nullable=True),
        sa.Column("PatientSex", EXACT, nullable=True),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_patients_archive_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patients")),
        sa.UniqueConstraint(
            "archive_id",
            "PatientID",
            "IssuerOfPatientID",
            "scope",
            name=op.f("uq_patients_archive_id_PatientID_IssuerOfPatientID_scope"),
        ),
    )
    op.create_index(
        op.f("ix_patients_archive_id_PatientName_alphabetic"),
        "patients",
        ["archive_id", "PatientName_alphabetic"],
        unique=False,
    )
    op.create_table(
        "runs",
        sa.Column("id", KEY, nullable=False),
        sa.Column("key", EXACT, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("study_instance_uid", EXACT, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("model", EXACT, nullable=False),
        sa.Column("state", EXACT, nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_runs_archive_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_runs")),
        sa.UniqueConstraint("key", name=op.f("uq_runs_key")),
    )
    op.create_index(
        op.f("ix_runs_archive_id_study_instance_uid"),
        "runs",
        ["archive_id", "study_instance_uid"],
        unique=False,
    )
    op.create_index(op.f("ix_runs_digest"), "runs", ["digest"], unique=False)
    op.create_table(
        "studies",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("patient_id", KEY, nullable=False),
        sa.Column("StudyInstanceUID", EXACT, nullable=False),
        sa.Column("StudyDate", EXACT, nullable=True),
        sa.Column("StudyTime", EXACT, nullable=True),
        sa.Column("StudyTime_sorted", EXACT, nullable=True),
        sa.Column("AccessionNumber", EXACT, nullable=True),
        sa.Column("StudyID", EXACT, nullable=True),
        sa.Column("StudyDescription", EXACT, nullable=True),
        sa.Column("ReferringPhysicianName", EXACT, nullable=True),
        sa.Column("ReferringPhysicianName_alphabetic", EXACT, nullable=True),
        sa.Column("ReferringPhysicianName_ideographic", EXACT, nullable=True),
        sa.Column("ReferringPhysicianName_phonetic", EXACT, nullable=True),
        sa.Column("state", EXACT, server_default="receiving", nullable=False),
        sa.Column("generation", sa.Integer(), server_default="0", nullable=False),
        sa.Column("first_received_at", sa.Double(), nullable=False),
        sa.Column("last_received_at", sa.Double(), nullable=False),
        sa.Column("completed_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_studies_archive_id")
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patients.id"], name=op.f("fk_studies_patient_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        sa.UniqueConstraint(
            "archive_id", "StudyInstanceUID", name=op.f("uq_studies_archive_id_StudyInstanceUID")
        ),
    )
    op.create_index(
        op.f("ix_studies_archive_id_AccessionNumber"),
        "studies",
        ["archive_id", "AccessionNumber"],
        unique=False,
    )
    op.create_index(
        op.f("ix_studies_archive_id_StudyDate_StudyTime_sorted"),
        "studies",
        ["archive_id", "StudyDate", "StudyTime_sorted"],
        unique=False,
    )
    op.create_index(op.f("ix_studies_patient_id"), "studies", ["patient_id"], unique=False)
    op.create_index(
        op.f("ix_studies_state_last_received_at"),
        "studies",
        ["state", "last_received_at"],
        unique=False,
    )
    op.create_table(
        "series",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("study_id", KEY, nullable=False),
        sa.Column("SeriesInstanceUID", EXACT, nullable=False),
        sa.Column("Modality", EXACT, nullable=True),
        sa.Column("SeriesNumber", sa.BigInteger(), nullable=True),
        sa.Column("SeriesDescription", EXACT, nullable=True),
        sa.Column("BodyPartExamined", EXACT, nullable=True),
        sa.Column("SeriesDate", EXACT, nullable=True),
        sa.Column("SeriesTime", EXACT, nullable=True),
        sa.Column("SeriesTime_sorted", EXACT, nullable=True),
        sa.Column("PerformedProcedureStepStartDate", EXACT, nullable=True),
        sa.Column("PerformedProcedureStepStartTime", EXACT, nullable=True),
        sa.Column("PerformedProcedureStepStartTime_sorted", EXACT, nullable=True),
        sa.Column("Manufacturer", EXACT, nullable=True),
        sa.Column("FrameOfReferenceUID", EXACT, nullable=True),
        sa.ForeignKeyConstraint(["archive_id"], ["archives.id"], name=op.f("fk_series_archive_id")),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name=op.f("fk_series_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_series")),
        sa.UniqueConstraint(
            "study_id", "SeriesInstanceUID", name=op.f("uq_series_study_id_SeriesInstanceUID")
        ),
    )
    op.create_index(
        op.f("ix_series_archive_id_Modality"), "series", ["archive_id", "Modality"], unique=False
    )
    op.create_index(
        op.f("ix_series_archive_id_SeriesInstanceUID"),
        "series",
        ["archive_id", "SeriesInstanceUID"],
        unique=False,
    )
    op.create_table(
        "instances",
        sa.Column("id", KEY, nullable=False),
        sa.Column("archive_id", KEY, nullable=False),
        sa.Column("series_id", KEY, nullable=False),
        sa.Column("SOPInstanceUID", EXACT, nullable=False),
        sa.Column("SOPClassUID", EXACT, nullable=True),
        sa.Column("InstanceNumber", sa.BigInteger(), nullable=True),
        sa.Column("Rows", sa.BigInteger(), nullable=True),
        sa.Column("Columns", sa.BigInteger(), nullable=True),
        sa.Column("BitsAllocated", sa.BigInteger(), nullable=True),
        sa.Column("NumberOfFrames", sa.BigInteger(), nullable=True),
        sa.Column("transfer_syntax_uid", EXACT, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data_set_digest", EXACT, nullable=False),
        sa.Column("data_set_offset", sa.Integer(), nullable=False),
        sa.Column("frame_table", sa.LargeBinary(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("made_by", EXACT, server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name=op.f("fk_instances_archive_id")
        ),
        sa.ForeignKeyConstraint(["series_id"], ["series.id"], name=op.f("fk_instances_series_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instances")),
        sa.UniqueConstraint(
            "archive_id", "SOPInstanceUID", name=op.f("uq_instances_archive_id_SOPInstanceUID")
        ),
    )
    op.create_index(op.f("ix_instances_digest"), "instances", ["digest"], unique=False)
    op.create_index(op.f("ix_instances_series_id"), "instances", ["series_id"], unique=False)
    op.create_table(
        "versions",
        sa.Column("id", KEY, nullable=False),
        sa.Column("instance_id", KEY, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data_set_digest", EXACT, nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instances.id"], name=op.f("fk_versions_instance_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_versions")),
        sa.UniqueConstraint(
            "instance_id", "data_set_digest", name=op.f("uq_versions_instance_id_data_set_digest")
        ),
    )
    op.create_index(op.f("ix_versions_digest"), "versions", ["digest"], unique=False)
    # The chain of the audit trail begins here (pacs/index/audit.py).
    op.execute(
        sa.text("INSERT INTO audit_head (id, seq, digest) VALUES (1, 0, :origin)").bindparams(
            origin="0" * 64
        )
    )
