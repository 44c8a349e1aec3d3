"""The replicated log behind one face, whichever quorum the cluster has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from clussvc.actions import AddLogMember, RemoveLogMember
from clussvc.comms.wire import Kind
from clussvc.global_update.disk.disk_thread import DiskLogThread
from clussvc.global_update.raft.replicator import RaftThread
from clussvc.model.quorum import Quorum
from clussvc.model.settings import PROFILES, Timing, disk_timing
from clussvc.ports import Done, Outcome, OutcomeKind
from clussvc.quorum.stand_in import Decision

LeaderChanged = Callable[[int | None, bool, frozenset[int]], None]
"""Who leads, whether this node does, and who takes part in the log's own voting."""


class Engine(Protocol):
    """What the assembly needs of a log."""

    kind: Kind
    """Of its frames between nodes."""

    def start(self) -> None:
        """Begin to take part."""

    def stop(self) -> None:
        """End its threads and release its files."""

    def receive(self, sender: int, frame: bytes) -> None:
        """Take a frame from an authenticated node."""

    def peer_connected(self, node: int) -> None:
        """A node can be reached."""

    def peer_disconnected(self, node: int) -> None:
        """A node cannot be reached any more."""

    def use_timing(self, timing: Timing) -> None:
        """Act by it from now on."""

    def use_quorum(self, quorum: Quorum) -> None:
        """See actions.UseQuorum."""

    def forget_leader(self, node: int) -> None:
        """See actions.ForgetLeader."""

    def use_decision(self, decision: Decision) -> None:
        """See actions.UseDecision."""

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """Have a command appended; ``done`` runs on a thread of the log."""

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        """Perform the action."""

    def contest(self, *, wanted: bool, client_networks: int) -> None:
        """See actions.ContestQuorum."""

    def give_back(self) -> None:
        """See actions.GiveQuorumBack."""

    @property
    def applied_index(self) -> int:
        """Entries applied."""

    @property
    def trouble(self) -> str:
        """What keeps the log from its work, in a sentence; empty if nothing does."""


class NoEngine:
    """No log: the node shows what it has stored and takes part in nothing."""

    kind = Kind.RAFT

    def __init__(self, applied_index: int, switch: str, diagnosis: str = "") -> None:
        self.applied_index = applied_index
        self.trouble = f"the service was started with {switch}, so it takes no part in the cluster"
        if diagnosis:
            self.trouble += f". {diagnosis} This node has stored entry {applied_index}"

    def start(self) -> None:
        """See Engine."""

    stop = give_back = start

    def receive(self, sender: int, frame: bytes) -> None:
        """See Engine."""

    def peer_connected(self, node: int) -> None:
        """See Engine."""

    peer_disconnected = forget_leader = peer_connected

    def use_timing(self, timing: Timing) -> None:
        """See Engine."""

    def use_quorum(self, quorum: Quorum) -> None:
        """See Engine."""

    def use_decision(self, decision: Decision) -> None:
        """See Engine."""

    def propose(self, command: bytes, timeout_s: float, done: Done) -> None:
        """See Engine."""
        done(Outcome(kind=OutcomeKind.REFUSED, detail=self.trouble))

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        """See Engine."""
        done(Outcome(kind=OutcomeKind.REFUSED, detail=self.trouble))

    def contest(self, *, wanted: bool, client_networks: int) -> None:
        """See Engine."""


class LostLogEngine(NoEngine):
    """This node has lost its part of the log, and with it what it has promised: it votes for nothing and says nothing
    until the cluster begins another one."""

    def __init__(self, applied_index: int, why: str) -> None:
        super().__init__(applied_index, "resetquorumlog")
        self.trouble = (
            f"this node has lost its part of the log ({why}), and waits until another one begins: give the command"
            " 'cluster /quorum /renewlog' on another node"
        )


class RaftEngine:
    """The log among the nodes."""

    kind = Kind.RAFT
    trouble = ""

    def __init__(self, raft: RaftThread, leader_changed: LeaderChanged) -> None:
        self._raft = raft
        self._leader_changed = leader_changed
        self.start, self.stop = raft.start, raft.stop
        self.receive, self.propose = raft.receive, raft.propose
        self.peer_connected, self.peer_disconnected = raft.peer_connected, raft.peer_disconnected
        self.forget_leader, self.use_decision = raft.forget_leader, raft.use_decision

    def use_timing(self, timing: Timing) -> None:
        """See Engine."""
        self._raft.set_timing(heartbeat_ms=timing.raft_heartbeat_ms, election_timeout_ms=timing.raft_election_ms)

    def use_quorum(self, quorum: Quorum) -> None:
        """See Engine; a local quorum and a majority node set have the same log."""

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        """See Engine."""
        change = self._raft.add_member if isinstance(action, AddLogMember) else self._raft.remove_member

        def changed(outcome: Outcome) -> None:
            done(outcome)
            self._leader_changed(self._raft.leader, self._raft.is_leader_with_lease, self._raft.members)

        change(int(action.node), changed)

    def contest(self, *, wanted: bool, client_networks: int) -> None:
        """See Engine; a majority is not contested."""

    def give_back(self) -> None:
        """See Engine; there is nothing to give back."""

    @property
    def applied_index(self) -> int:
        """See Engine."""
        return self._raft.applied_index


class DiskEngine:
    """The log on a quorum disk."""

    kind = Kind.DISK_LOG

    def __init__(self, disk: DiskLogThread, quorum: Quorum, timing: Timing) -> None:
        self._disk = disk
        self._quorum = quorum
        self._timing = timing
        self.start, self.stop = disk.start, disk.stop
        self.receive, self.propose = disk.receive, disk.propose
        self.peer_connected, self.peer_disconnected = disk.peer_connected, disk.peer_disconnected
        self.contest, self.give_back = disk.contest, disk.give_back

    def use_timing(self, timing: Timing) -> None:
        """See Engine."""
        self._timing = timing
        self._disk.set_timing(disk_timing(PROFILES[timing.profile], self._quorum.hold_ms))

    def use_quorum(self, quorum: Quorum) -> None:
        """See Engine."""
        self._quorum = quorum
        self._disk.set_log_size(quorum.max_log_kb)
        self.use_timing(self._timing)

    def forget_leader(self, node: int) -> None:
        """See Engine; the hold of an owner ends by itself, whatever is known of it."""

    def use_decision(self, decision: Decision) -> None:
        """See Engine; a quorum disk has no witness."""

    def change_members(self, action: AddLogMember | RemoveLogMember, done: Done) -> None:
        """See Engine; nobody votes about entries here, so the core never asks."""
        raise AssertionError(action)

    @property
    def applied_index(self) -> int:
        """See Engine."""
        return self._disk.applied_index

    @property
    def trouble(self) -> str:
        """See Engine."""
        return self._disk.trouble
