"""The file share witness, and dynamic votes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Until now no cluster had a witness."""
    for name in ("path", "token"):
        op.add_column("cluster", sa.Column(f"witness_{name}", sa.Text(), nullable=False, server_default=""))
    op.add_column("cluster", sa.Column("witness_opened", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("cluster", sa.Column("dynamic_votes", sa.Boolean(), nullable=False, server_default="0"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
