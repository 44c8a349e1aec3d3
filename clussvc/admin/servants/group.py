"""The object Group."""

from __future__ import annotations

import time
from typing import Any

from clussvc.admin import dto, instances
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Derived, Refused, Servant, change, query
from clussvc.admin.servants.lines import common_lines, no_instances, private_changes_of, private_lines
from clussvc.admin.values import Assigned, common_changes
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.groups.explain import explain_group
from clussvc.model.ids import GroupId
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause


class GroupServant(Servant):
    """The groups."""

    @query()
    def status(self, name: str | None = None, node: str | None = None) -> list[Plain]:
        """One group or all of them; only those that ``node`` owns, if given. Instances stand inside their group."""
        config = self.config
        owner = self.node(node).id if node else None
        groups = [self.group(name)] if name else no_instances(config.groups.values())
        members = config.resources_by_group()
        shown = [(group, instances.group_of(config, group, members.get(group.id, ()), owner)) for group in groups]
        return [one for group, one in shown if owner is None or group.owned == owner or one["instances"]]

    @query()
    def instance(self, name: str, node: str) -> str:
        """The name of the instance of a parallel group that the node has."""
        found = instances.instance_on(self.config, self.group(name), self.node(node))
        if isinstance(found, Report):
            raise Refused(found)
        return found.name

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one group or of all."""
        return common_lines([self.group(name)] if name else no_instances(self.config.groups.values()))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one group or of all."""
        groups = [self.group(name)] if name else no_instances(self.config.groups.values())
        return [line for group in groups for line in private_lines(group.private, group.name)]

    @query()
    def owners(self, name: str) -> list[str]:
        """Preferred owners, best first."""
        return dto.names_of(self.config, self.group(name).preferred_owners)

    @query()
    def explain(self, name: str) -> Any:
        """Why the group is where it is, and where else it could be."""
        return explain_group(self.config, self.group(name).id, now_ms=time.time_ns() // 1_000_000)

    @change(Role.ADMINISTRATOR)
    def create(self, name: str, on: str | None = None) -> Any:
        """A new empty group."""
        node = self.node(on).id if on else None
        return Derived(lambda identifier: updates.CreateGroup(group=GroupId(identifier), name=name, on=node))

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """Delete an empty group."""
        return updates.DeleteGroup(group=self.group(name).id)

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the group another name."""
        return updates.Rename(kind="group", id=self.group(name).id, name=new_name)

    @change(Role.OPERATOR)
    def move(self, name: str, to: str | None = None) -> Update:
        """Change the owner; without ``to``, to the best possible node."""
        group = self.group(name)
        target = self.node(to).id if to else None
        because = f"{self.caller.who} moved it"
        return updates.MoveGroup(group=group.id, to=target, cause=MoveCause.ADMIN, because=because)

    @change(Role.OPERATOR)
    def online(self, name: str, to: str | None = None) -> Update:
        """Want all its resources online; of a parallel group, those of the instance on ``to`` if that is given."""
        group, node = self.group(name), self.node(to) if to else None
        if group.parallel and node is not None:
            found = instances.instance_on(self.config, group, node)
            if isinstance(found, Report):
                raise Refused(found)
            return updates.OnlineGroup(group=found.id)
        return updates.OnlineGroup(group=group.id, to=node.id if node is not None else None)

    @change(Role.OPERATOR)
    def offline(self, name: str) -> Update:
        """Want all its resources offline."""
        return updates.OfflineGroup(group=self.group(name).id)

    @change(Role.ADMINISTRATOR)
    def set_owners(self, name: str, nodes: list[str]) -> Update:
        """Set the preferred owners."""
        found = tuple(self.node(node).id for node in nodes)
        return updates.SetPreferredOwners(group=self.group(name).id, nodes=found)

    @change(Role.ADMINISTRATOR)
    def set_properties(
        self,
        name: str,
        assigned: list[Assigned],
        reset: list[str],
        expected: list[Assigned] | None = None,
        expected_default: list[str] | None = None,
    ) -> Update:
        """Change common properties, if these are as expected; else the refusal is ``property-changed``."""
        group = self.group(name)
        named = {each.casefold() for each in (*(one.name for one in assigned), *reset)}
        return updates.SetGroupProperties(
            group=group.id,
            common=common_changes(group, assigned, reset),
            instances=not named.isdisjoint(("grouptype", "maxinstances")),
            expected_common=common_changes(group, expected or [], expected_default or []),
        )

    @change(Role.ADMINISTRATOR)
    def set_private(
        self,
        name: str,
        assigned: list[Assigned],
        reset: list[str],
        expected: list[Assigned] | None = None,
        expected_absent: list[str] | None = None,
    ) -> Update:
        """Change private properties, if these are as expected; else the refusal is ``property-changed``."""
        group = self.group(name)
        return updates.SetGroupProperties(
            group=group.id,
            private=private_changes_of(group, assigned, reset),
            expected_private=private_changes_of(group, expected or [], expected_absent or []),
        )
