"""The *ordered-log model*: one list of entries, a leader that is some node of a connected majority, and followers that
learn entries after a delay while they can reach the leader. It keeps what consensus promises (one order, nothing
acknowledged is lost) and leaves out how.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clussvc.actions import AddLogMember, ContestQuorum, Propose, RemoveLogMember
from clussvc.events import Committed, LeadershipChanged, ProposalFailed, ProposalFate
from clussvc.global_update.apply import apply
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.quorum.majority import is_majority
from clussvc.quorum.stand_in import Decision
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from tests.simulation.world import World


class OrderedLog:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.random
        self.entries: list[tuple[Proposal, Config | None, Report | None]] = []
        self._records: list[tuple[Record, ...]] = []
        self._leader: NodeId | None = None
        self._members = frozenset(world.nodes)
        self._applied: dict[NodeId, int] = {}
        self._election_due = False

    def append(self, proposal: Proposal) -> Report | None:
        """Commit an entry."""
        before = self.entries[-1][1] if self.entries else None
        applied = apply(before, proposal)
        self.entries.append((proposal, applied.config, applied.refusal))
        self._records.append(applied.records)
        self._world.referee.committed(len(self.entries), proposal, before, applied.config)
        return applied.refusal

    # --- the port ---------------------------------------------------------------------------------------------------

    def boot(self, machine: Machine, *, members: frozenset[NodeId], joining: bool) -> None:
        """See LogModel."""
        del members, joining
        self._members |= {machine.id}
        self._applied[machine.id] = machine.stored[-1][0] if machine.stored else 0
        self._tell_leadership(machine)
        self._catch_up_soon(machine)
        self._consider_election()

    def stop(self, machine: Machine) -> None:
        """See LogModel."""
        if self._leader == machine.id:
            self._lose_leader()

    def thawed(self, machine: Machine) -> None:
        """See LogModel."""
        self._tell_leadership(machine)
        self._catch_up_soon(machine)

    def leader(self) -> NodeId | None:
        """See LogModel."""
        leader = self._world.nodes.get(self._leader) if self._leader else None
        return leader.id if leader is not None and leader.awake else None

    def propose(self, machine: Machine, action: Propose) -> None:
        """See LogModel."""
        request = action.proposal.request
        leader = self.leader()
        if leader is None or not self._world.network.both_ways(machine.id, leader):
            failed = ProposalFailed(request=request, fate=ProposalFate.NOT_APPLIED, detail="no leader is known")
            self._world.post_later(machine, 1, failed)
            return

        def commit() -> None:
            if self._leader != leader or not self._majority(leader):
                failed = ProposalFailed(request=request, fate=ProposalFate.UNKNOWN, detail="the leader changed")
                self._world.post_later(machine, 1, failed)
                return
            self.append(action.proposal)
            for other in self._world.nodes.values():
                self._catch_up_soon(other)

        self._world.scheduler.later(self._rng.uniform(0.5, 3.0), commit)

    def set_timing(self, machine: Machine, timing: Timing) -> None:
        """See LogModel: it goes by what the world has read last."""

    def use_decision(self, machine: Machine, decision: Decision) -> None:
        """See LogModel: only the real log of a majority counts by decisions of a witness."""

    def contest(self, machine: Machine, action: ContestQuorum) -> None:
        """See LogModel: a majority is not contested."""

    def give_back(self, machine: Machine) -> None:
        """See LogModel: there is nothing to give back."""

    def deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """See LogModel: this log sends nothing."""

    def link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        """See LogModel: this log looks at the links themselves."""

    def erase(self, machine: Machine) -> None:
        """See LogModel: nothing is kept on machines."""

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """See LogModel: this log loses its leader at once when the process ends."""

    def change_members(self, machine: Machine, action: AddLogMember | RemoveLogMember) -> None:
        """See LogModel."""
        if self._leader != machine.id:
            return
        if isinstance(action, AddLogMember):
            self._members |= {action.node}
        else:
            self._members -= {action.node}
        self._tell_leadership(machine)

    def network_changed(self) -> None:
        """See LogModel."""
        if self._leader is not None and not self._majority(self._leader):
            self._world.scheduler.later(self._world.timing.raft_election_ms, self._step_down)
        for machine in self._world.nodes.values():
            self._tell_leadership(machine)
            self._catch_up_soon(machine)
        self._consider_election()

    # --- entries ----------------------------------------------------------------------------------------------------

    def _catch_up_soon(self, machine: Machine) -> None:
        generation = machine.generation

        def catch_up() -> None:
            if machine.generation != generation or not machine.awake or self._leader is None:
                return
            if not self._world.network.both_ways(machine.id, self._leader):
                return
            while machine.awake and self._applied[machine.id] < len(self.entries):
                index = self._applied[machine.id] = self._applied[machine.id] + 1
                proposal, config, refusal = self.entries[index - 1]
                assert config is not None
                self._world.post(
                    machine,
                    Committed(
                        index=index,
                        proposal=proposal,
                        config=config,
                        refusal=refusal,
                        records=self._records[index - 1],
                    ),
                )

        self._world.scheduler.later(self._rng.uniform(0.2, 2.0), catch_up)

    # --- leadership -------------------------------------------------------------------------------------------------

    def _majority(self, node: NodeId) -> bool:
        if not self._world.nodes[node].awake:
            return False
        reachable = {
            other
            for other in self._members
            if self._world.nodes[other].awake
            if other == node or self._world.network.both_ways(node, other)
        }
        return is_majority(reachable, set(self._members))

    def _lose_leader(self) -> None:
        self._leader = None
        for machine in self._world.nodes.values():
            self._tell_leadership(machine)
        self._consider_election()

    def _step_down(self) -> None:
        if self._leader is not None and not self._majority(self._leader):
            self._lose_leader()

    def _consider_election(self) -> None:
        if self._leader is None and not self._election_due:
            self._election_due = True
            shortest_ms = self._world.timing.raft_election_ms
            self._world.scheduler.later(self._rng.uniform(shortest_ms, 2 * shortest_ms), self._elect)

    def _elect(self) -> None:
        self._election_due = False
        if self._leader is not None:
            return
        candidates = [node for node in sorted(self._members) if self._majority(node)]
        if not candidates:
            self._consider_election()
            return
        self._leader = self._rng.choice(candidates)
        for machine in self._world.nodes.values():
            self._tell_leadership(machine)
            self._catch_up_soon(machine)

    def _tell_leadership(self, machine: Machine) -> None:
        reached = self._leader is not None and self._world.network.both_ways(machine.id, self._leader)
        leader = self._leader if reached else None
        event = LeadershipChanged(leader=leader, leads=leader == machine.id, members=self._members)
        self._world.post_later(machine, 0.1, event)
