"""Forwarding: its rules, how far the feed is read, what went to whom; who sent an instance."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EXACT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Forward only: a backup goes back."""
    for table, name in (("instances", "source_ae_title"), ("jobs", "lane")):
        op.add_column(table, sa.Column(name, EXACT, nullable=False, server_default=""))
    op.create_index(op.f("ix_jobs_lane_state"), "jobs", ["lane", "state"])
    op.create_table(
        "rules",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", EXACT, nullable=False),
        sa.Column("peer", EXACT, nullable=False),
        sa.Column("trigger", EXACT, nullable=False),
        sa.Column("project", EXACT, nullable=False),
        sa.Column("conditions", sa.Text(), nullable=False),
        sa.Column("commitment", sa.Boolean(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rules")),
        sa.UniqueConstraint("name", name=op.f("uq_rules_name")),
    )
    op.create_table(
        "feeds",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", EXACT, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feeds")),
        sa.UniqueConstraint("name", name=op.f("uq_feeds_name")),
    )
    op.create_table(
        "deliveries",
        sa.Column("id", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("peer", EXACT, nullable=False),
        sa.Column("rule", EXACT, nullable=False),
        sa.Column("digest", EXACT, nullable=False),
        sa.Column("sop_instance_uid", EXACT, nullable=False),
        sa.Column("commitment", sa.Boolean(), nullable=False),
        sa.Column("state", EXACT, server_default="waiting", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("peer", "digest", name=op.f("uq_deliveries_peer_digest")),
    )
    op.create_index(op.f("ix_deliveries_sop_instance_uid"), "deliveries", ["sop_instance_uid"])
    op.create_index(op.f("ix_deliveries_job_id_state"), "deliveries", ["job_id", "state"])
    op.create_index(op.f("ix_deliveries_peer_state"), "deliveries", ["peer", "state"])
