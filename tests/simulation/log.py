"""What the simulated services use as their replicated log: a port with two implementations.

:mod:`tests.simulation.raft_log` has the real library behind the real guard and journal inside;
:mod:`tests.simulation.ordered_log` is a list, for clusters that are too large for that, and for speed.
"""

from __future__ import annotations

from typing import Protocol

from clussvc.actions import AddLogMember, Propose, RemoveLogMember
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from tests.simulation.machine import Machine


class LogModel(Protocol):
    """The log of a whole cluster."""

    entries: list[tuple[Proposal, Config | None, Report | None]]
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

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """Perform the action."""

    def thawed(self, machine: Machine) -> None:
        """The service goes on after it stood still."""

    def network_changed(self) -> None:
        """Links were cut or mended."""

    def leader(self) -> NodeId | None:
        """Who leads, if anybody certainly does."""
