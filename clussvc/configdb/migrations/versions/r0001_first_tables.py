"""The first tables.

Spelled out, not taken from ``tables``: this step must make the same tables for ever.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make all tables."""
    op.create_table(
        "applied",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("log_index", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_applied"),
    )
    op.create_table(
        "cluster",
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.Column("utc_offset_min", sa.BigInteger(), nullable=False),
        sa.Column("default_group", sa.Text(), nullable=True),
        sa.Column("next_node_id", sa.BigInteger(), nullable=False),
        sa.Column("voters_version", sa.BigInteger(), nullable=False),
        sa.Column("profile", sa.Text(), nullable=False),
        sa.Column("heartbeat_interval_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_ms", sa.BigInteger(), nullable=False),
        sa.Column("release_budget_ms", sa.BigInteger(), nullable=False),
        sa.Column("raft_heartbeat_ms", sa.BigInteger(), nullable=False),
        sa.Column("raft_election_ms", sa.BigInteger(), nullable=False),
        sa.Column("drift_ppm", sa.BigInteger(), nullable=False),
        sa.Column("evicted", sa.JSON(), nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("cursor", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("object", sa.Text(), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
        sa.Column("severity", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("cursor", name="pk_events"),
    )
    op.create_table(
        "groups",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("persistent_state", sa.Boolean(), nullable=False),
        sa.Column("failover_threshold", sa.BigInteger(), nullable=False),
        sa.Column("failover_period_h", sa.BigInteger(), nullable=False),
        sa.Column("auto_failback", sa.Boolean(), nullable=False),
        sa.Column("failback_window_start_h", sa.BigInteger(), nullable=False),
        sa.Column("failback_window_end_h", sa.BigInteger(), nullable=False),
        sa.Column("anti_affinity", sa.JSON(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.Column("owner", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("released", sa.Boolean(), nullable=False),
        sa.Column("released_because", sa.Text(), nullable=False),
        sa.Column("released_cause", sa.Text(), nullable=False),
        sa.Column("move_to", sa.BigInteger(), nullable=True),
        sa.Column("move_cause", sa.Text(), nullable=True),
        sa.Column("move_because", sa.Text(), nullable=True),
        sa.Column("move_bring_online", sa.Boolean(), nullable=True),
        sa.Column("failover_resource", sa.Text(), nullable=True),
        sa.Column("failover_because", sa.Text(), nullable=True),
        sa.Column("failover_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("failovers", sa.JSON(), nullable=False),
        sa.Column("halted", sa.Boolean(), nullable=False),
        sa.Column("placed_because", sa.Text(), nullable=False),
        sa.Column("moved_by_hand", sa.Boolean(), nullable=False),
        sa.Column("homecoming", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_groups"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("addresses", sa.JSON(), nullable=False),
        sa.Column("port", sa.BigInteger(), nullable=False),
        sa.Column("admin_port", sa.BigInteger(), nullable=False),
        sa.Column("voter", sa.Boolean(), nullable=False),
        sa.Column("up", sa.Boolean(), nullable=False),
        sa.Column("joining", sa.Boolean(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("evicting", sa.Boolean(), nullable=False),
        sa.Column("boot", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("stopping", sa.Boolean(), nullable=False),
        sa.Column("down_because", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.Text(), nullable=True),
        sa.Column("status", sa.BigInteger(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("severity", sa.Text(), nullable=True),
        sa.Column("force_code", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("request_id", name="pk_requests"),
    )
    op.create_table(
        "resources",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("group", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("separate_monitor", sa.Boolean(), nullable=False),
        sa.Column("persistent_state", sa.Boolean(), nullable=False),
        sa.Column("looks_alive_poll_interval_ms", sa.BigInteger(), nullable=True),
        sa.Column("is_alive_poll_interval_ms", sa.BigInteger(), nullable=True),
        sa.Column("restart_action", sa.BigInteger(), nullable=False),
        sa.Column("restart_threshold", sa.BigInteger(), nullable=False),
        sa.Column("restart_period_ms", sa.BigInteger(), nullable=False),
        sa.Column("retry_period_on_failure_ms", sa.BigInteger(), nullable=True),
        sa.Column("pending_timeout_ms", sa.BigInteger(), nullable=False),
        sa.Column("any_owner", sa.Boolean(), nullable=False),
        sa.Column("private", sa.JSON(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("online_ticket", sa.BigInteger(), nullable=False),
        sa.Column("fail_ticket", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_resources"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("secret_sha256", sa.Text(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("node_name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    op.create_table(
        "dependencies",
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("provider_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["resources.id"], name="fk_dependencies_resource_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource_id", "rank", name="pk_dependencies"),
    )
    op.create_table(
        "possible_owners",
        sa.Column("resource_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("node_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["resource_id"], ["resources.id"], name="fk_possible_owners_resource_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("resource_id", "rank", name="pk_possible_owners"),
    )
    op.create_table(
        "preferred_owners",
        sa.Column("group_id", sa.Text(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("node_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["group_id"], ["groups.id"], name="fk_preferred_owners_group_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "rank", name="pk_preferred_owners"),
    )
