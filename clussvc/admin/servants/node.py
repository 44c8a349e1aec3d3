"""The object Node."""

from __future__ import annotations

import time

from clussvc.admin import dto, fencing
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Refused, Servant, change, query
from clussvc.admin.servants.lines import common_lines, private_changes_of, private_lines
from clussvc.admin.values import Assigned, common_changes
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model import reports
from clussvc.model.reports import Report


class NodeServant(Servant):
    """The nodes."""

    @query()
    def status(self, name: str | None = None) -> list[Plain]:
        """One node or all of them, by number."""
        view = self.access.view()
        nodes = [self.node(name)] if name else [self.config.nodes[key] for key in sorted(self.config.nodes)]
        own = {"shortcomings": list(self.access.shortcomings())}
        wall_ms = time.time_ns() // 1_000_000
        return [
            dto.node_of(node, view)
            | (own if node.id == view.node else {})
            | {"notes": fencing.notes_on(self.config, node, wall_ms)}
            for node in nodes
        ]

    @query()
    def local(self) -> Plain:
        """The node that answers."""
        return dto.node_of(self.node(None), self.access.view())

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one node or of all."""
        nodes = [self.node(name)] if name else self.config.nodes.values()
        return common_lines(nodes)

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one node or of all."""
        nodes = [self.node(name)] if name else self.config.nodes.values()
        return [line for node in nodes for line in private_lines(node.private, node.name)]

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        node = self.node(name)
        return updates.SetNodeProperties(node=node.id, common=common_changes(node, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties."""
        node = self.node(name)
        return updates.SetNodeProperties(node=node.id, private=private_changes_of(node, assigned, reset))

    @change(Role.OPERATOR)
    def pause(self, name: str | None = None) -> Update:
        """The node keeps its groups and takes no more."""
        return updates.PauseNode(node=self.node(name).id)

    @change(Role.OPERATOR)
    def resume(self, name: str | None = None) -> Update:
        """End of a pause."""
        return updates.ResumeNode(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def stop(self, name: str | None = None) -> Update:
        """Hand the node's groups over, then stop its service."""
        return updates.StopNode(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def confirm_down(self, name: str) -> Update:
        """The administrator has made sure that the machine is off."""
        return updates.ConfirmNodeDown(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def fence(self, name: str) -> Update:
        """Have the node's fence devices switch it off now, from this node."""
        node = self.node(name)
        if node.id == self.access.node_id():
            raise Refused(reports.bad_argument(f"Node {node.name} cannot fence itself; ask another node to do it."))
        devices = self.config.fence_devices_of(node.id)
        if not devices:
            raise Refused(reports.no_fence_device(node.name))
        done = fencing.fence_by_hand(self.access, self.config, node, devices)
        if isinstance(done, Report):
            raise Refused(done)
        if not node.up:
            # It had been declared down before; there is nothing to note.
            return updates.Batch(updates=())
        return updates.NodeFenced(node=node.id, incarnation=node.incarnation, because=done)

    @change(Role.ADMINISTRATOR)
    def clear_quarantine(self, name: str) -> Update:
        """Let a node in again that was lost too often."""
        return updates.ClearQuarantine(node=self.node(name).id)

    @change(Role.ADMINISTRATOR)
    def evict(self, name: str) -> Update:
        """Have a node that is down removed; the coordinator takes its vote first."""
        return updates.EvictNode(node=self.node(name).id)
