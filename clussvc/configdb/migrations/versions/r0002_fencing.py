"""Fence devices, and quarantine of nodes that are lost too often."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """A table for the devices; what is known of nodes and of the cluster begins with the defaults."""
    op.create_table(
        "fence_devices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("node", sa.BigInteger(), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("order", sa.BigInteger(), nullable=False),
        sa.Column("timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("verify", sa.Boolean(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_fence_devices"),
    )
    op.add_column("nodes", sa.Column("losses", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("nodes", sa.Column("quarantined_until_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("fence_failure", sa.Text(), nullable=False, server_default=""))
    op.add_column("cluster", sa.Column("fencing_required", sa.Boolean(), nullable=False, server_default="0"))
    op.add_column("cluster", sa.Column("quarantine_threshold", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("cluster", sa.Column("quarantine_period_s", sa.BigInteger(), nullable=False, server_default="3600"))
    op.add_column("cluster", sa.Column("quarantine_duration_s", sa.BigInteger(), nullable=False, server_default="7200"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
