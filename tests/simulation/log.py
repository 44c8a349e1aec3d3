"""What the simulated services use as their replicated log: a port with three implementations.

:mod:`tests.simulation.raft_log` has the real library behind the real guard and journal inside;
:mod:`tests.simulation.disk_quorum_log` has the real log of a quorum disk, on a simulated shared disk;
:mod:`tests.simulation.ordered_log` is a list, for clusters that are too large for that, and for speed.
"""

from __future__ import annotations

from typing import Protocol

from clussvc.actions import AddLogMember, ContestQuorum, Propose, RemoveLogMember
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.quorum.stand_in import Decision
from tests.simulation.machine import Machine


class LogModel(Protocol):
    """The log of a whole cluster."""

    @property
    def entries(self) -> list[tuple[Proposal, Config | None, Report | None]]:
        """Every entry that some machine has applied, with the configuration after it, in order; index 1 comes first."""

    def boot(self, machine: Machine, *, members: frozenset[NodeId], joining: bool) -> None:
        """The service on this machine opens its log."""

    def stop(self, machine: Machine) -> None:
        """The service on this machine is gone."""

    def propose(self, machine: Machine, action: Propose) -> None:
        """Perform the action."""

    def change_members(self, machine: Machine, action: AddLogMember | RemoveLogMember) -> None:
        """Perform the action."""

    def set_timing(self, machine: Machine, timing: Timing) -> None:
        """Perform the action."""

    def contest(self, machine: Machine, action: ContestQuorum) -> None:
        """Perform the action."""

    def give_back(self, machine: Machine) -> None:
        """Perform the action GiveQuorumBack."""

    def use_decision(self, machine: Machine, decision: Decision) -> None:
        """Perform the action."""

    def deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """A frame has arrived on a stream."""

    def link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        """A node's connection to another one came or went."""

    def erase(self, machine: Machine) -> None:
        """The machine is set up anew."""

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """Perform the action."""

    def thawed(self, machine: Machine) -> None:
        """The service goes on after it stood still."""

    def network_changed(self) -> None:
        """Links were cut or mended."""

    def leader(self) -> NodeId | None:
        """Who leads, if anybody certainly does."""
