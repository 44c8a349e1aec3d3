"""What the coordinator proposes: one batch at a time, decided from the configuration and the heartbeats.

The coordinator is the leader of the log while it holds quorum. It admits and declares down, gives released groups to
nodes, answers wishes for failover, fails groups back, and extends the set of voters. Everything it proposes carries
preconditions, so it needs no memory: after a change of coordinator the next one looks at the same configuration and
comes to the same conclusions. The consequences of a declared death are planned on the configuration as it will be, so
that the death and the new owners travel in one entry of the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clussvc.global_update.apply import apply
from clussvc.global_update.update import Batch, Proposal, Update
from clussvc.groups.planner import plan
from clussvc.membership import regroup
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, RequestId

UPDATES_PER_BATCH_MAX = 500
"""The rest follows in the next batch; keeps one log entry well below its size limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coordination:
    """What to propose now, and when to look again although nothing happened (wall clock)."""

    updates: tuple[Update, ...]
    planned: bool = False
    """Whether the groups were looked at."""
    next_wall_ms: int | None = None
    add_log_members: tuple[NodeId, ...] = ()
    remove_log_members: tuple[NodeId, ...] = ()


def coordinate(
    config: Config,
    table: HeartbeatTable,
    *,
    node: NodeId,
    own_request: tuple[int, int] | None,
    log_members: frozenset[NodeId],
    now_ms: int,
    wall_ms: int,
    plan_due: bool,
    jury: Jury,
    said_version: int = 0,
    fenced: Sequence[Update] = (),
) -> Coordination:
    """Decide. ``own_request`` is this node's boot and attempt while it asks to be admitted itself; ``fenced`` is what
    came of fencing; ``jury`` judges silences; ``said_version`` is the version of voters and timing that this node says
    it acts by.

    ``plan_due`` False skips the groups, which need no look as long as nothing in the configuration has changed.
    """
    members: list[Update] = [
        *fenced,
        *regroup.declare_down(config, table, node=node, jury=jury, now_ms=now_ms),
        *regroup.settled(config, table, node=node, said_version=said_version),
        *regroup.admit(config, table, node=node, own=own_request, now_ms=now_ms, wall_ms=wall_ms),
    ]
    change = regroup.next_change(config, table, node=node, now_ms=now_ms) if not members else None
    if change is not None:
        members.append(change)
    planned = None
    if members or plan_due:
        planned = plan(_after(config, members, node, wall_ms) if members else config, now_ms=wall_ms)
    reachable = [
        member for member in config.nodes if member not in log_members and _heard_lately(config, table, member, now_ms)
    ]
    return Coordination(
        updates=(*members, *(planned.updates if planned else ()))[:UPDATES_PER_BATCH_MAX],
        planned=planned is not None,
        next_wall_ms=planned.next_ms if planned else None,
        add_log_members=tuple(reachable),
        remove_log_members=tuple(member for member in log_members if member in config.evicted),
    )


def _heard_lately(config: Config, table: HeartbeatTable, node: NodeId, now_ms: int) -> bool:
    silent_ms = table.silent_ms(node, now_ms)
    return silent_ms is not None and silent_ms <= config.timing.lease_ms


def _after(config: Config, updates: list[Update], node: NodeId, wall_ms: int) -> Config:
    """The configuration as it will be when these updates are applied; they are applied for real through the log."""
    proposal = Proposal(
        request=RequestId("expected"), proposer=node, at_ms=wall_ms, update=Batch(updates=tuple(updates))
    )
    return apply(config, proposal).config
