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
from clussvc.global_update.update import Batch, DropVote, Proposal, Update
from clussvc.groups.planner import plan
from clussvc.membership import regroup, tie_break
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, RequestId
from clussvc.quorum.stand_in import Decision

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
    decision: Decision | None = None,
    fenced: Sequence[Update] = (),
) -> Coordination:
    """Decide. ``own_request`` is this node's boot and attempt while it asks to be admitted itself; ``fenced`` is what
    came of fencing; ``jury`` judges silences; ``said_version`` is the version of voters and timing that this node says
    it acts by; ``decision`` is what the witness has decided, as far as this node knows.

    ``plan_due`` False skips the groups, which need no look as long as nothing in the configuration has changed.
    """
    members: list[Update] = [
        *fenced,
        *regroup.declare_down(config, table, node=node, jury=jury, now_ms=now_ms),
        *regroup.settled(config, table, node=node, said_version=said_version),
        *regroup.admit(config, table, node=node, own=own_request, now_ms=now_ms, wall_ms=wall_ms),
    ]
    votes = tie_break.next_step(config, table, node=node, log_members=log_members, decision=decision, now_ms=now_ms)
    if votes.update is not None and (not members or isinstance(votes.update, DropVote)):
        # The silences were judged by the version of the voters that this ends, so it comes behind them.
        members.append(votes.update)
    planned = None
    if members or plan_due:
        planned = plan(_after(config, members, node, wall_ms) if members else config, now_ms=wall_ms)
    return Coordination(
        updates=(*members, *(planned.updates if planned else ()))[:UPDATES_PER_BATCH_MAX],
        planned=planned is not None,
        next_wall_ms=planned.next_ms if planned else None,
        add_log_members=votes.add_log_members,
        remove_log_members=votes.remove_log_members,
    )


def _after(config: Config, updates: list[Update], node: NodeId, wall_ms: int) -> Config:
    """The configuration as it will be when these updates are applied; they are applied for real through the log."""
    proposal = Proposal(
        request=RequestId("expected"), proposer=node, at_ms=wall_ms, update=Batch(updates=tuple(updates))
    )
    return apply(config, proposal).config
