"""Networks, and what nodes tell of their interfaces."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every network is as it is by default, and nobody has told anything of its interfaces."""
    op.create_table(
        "networks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("role", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("prefix", sa.BigInteger(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_networks"),
    )
    op.add_column("nodes", sa.Column("interfaces", sa.JSON(), nullable=False, server_default="[]"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
