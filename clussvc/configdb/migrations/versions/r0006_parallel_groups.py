"""Parallel groups and their instances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every group runs on one node, as they all did."""
    op.add_column("groups", sa.Column("group_type", sa.Text(), nullable=False, server_default="failover"))
    op.add_column("groups", sa.Column("max_instances", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("groups", sa.Column("instance_of", sa.Text(), nullable=True))
    op.add_column("groups", sa.Column("instance", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("resources", sa.Column("instance_of", sa.Text(), nullable=True))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
