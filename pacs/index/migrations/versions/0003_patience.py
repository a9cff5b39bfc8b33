"""A job's patience, and the faults it has met."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward only: a backup goes back."""
    for name, default in (("attempts_max", "12"), ("faults", "0")):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default=default))
