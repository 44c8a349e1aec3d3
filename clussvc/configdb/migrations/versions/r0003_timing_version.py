"""From which version of the voters on nodes act by the present timing."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Until now timings could only become slower, so every node may be judged by the present one."""
    op.add_column("cluster", sa.Column("timing_version", sa.BigInteger(), nullable=False, server_default="0"))
    # What a configuration holds has grown, so its digest is another one; the next save writes it.
    op.execute("UPDATE applied SET digest = ''")
