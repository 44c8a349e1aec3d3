"""The quorum of the cluster."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Until now every cluster was a majority node set."""
    for name, default in (("kind", "majority node set"), ("device", ""), ("disk", "")):
        op.add_column("cluster", sa.Column(f"quorum_{name}", sa.Text(), nullable=False, server_default=default))
    for name, number in (
        ("sectors", "0"),
        ("base_index", "0"),
        ("max_log_kb", "4096"),
        ("hold_ms", "0"),
        ("generation", "0"),
    ):
        op.add_column("cluster", sa.Column(f"quorum_{name}", sa.BigInteger(), nullable=False, server_default=number))
    op.add_column("cluster", sa.Column("quorum_reservations", sa.Boolean(), nullable=False, server_default="0"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
