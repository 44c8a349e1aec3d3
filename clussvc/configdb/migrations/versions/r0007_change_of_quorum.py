"""What a change of the quorum leaves behind."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Until now no cluster has changed its log."""
    for name in ("quorum_former_hold_ms", "quorum_former_silence_ms", "settling_version"):
        op.add_column("cluster", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("nodes", sa.Column("unsettled", sa.Boolean(), nullable=False, server_default="0"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
