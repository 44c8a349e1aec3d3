"""The objects Resource and ResourceType."""

from __future__ import annotations

from typing import Any, cast

from clussvc.admin import dto, instances
from clussvc.admin.dto import Plain
from clussvc.admin.roles import Role
from clussvc.admin.servant import Derived, Refused, Servant, change, query
from clussvc.admin.servants.lines import common_lines, no_instances, private_lines, refuse_reports
from clussvc.admin.values import Assigned, common_changes, private_changes
from clussvc.global_update import update as updates
from clussvc.global_update.update import Update
from clussvc.model.config import Resource
from clussvc.model.ids import ResourceId
from clussvc.model.reports import Report
from clussvc.resources.type_info import BUILTIN_TYPES, find_type


class ResourceServant(Servant):
    """The resources."""

    @query()
    def status(self, name: str | None = None, node: str | None = None) -> list[Plain]:
        """One resource or all of them; only those that ``node`` runs, if given. What instances of a parallel group run
        stands in the resource of the group."""
        config, view = self.config, self.access.view()
        owner = self.node(node).id if node else None
        resources = [self.resource(name)] if name else no_instances(config.resources.values())
        shown = [(each, instances.resource_of(config, each, view, owner)) for each in resources]
        return [
            one for each, one in shown if owner is None or config.groups[each.group].owned == owner or one["instances"]
        ]

    @query()
    def instance(self, name: str, node: str) -> str:
        """The name that the resource has in the instance of its parallel group that the node has."""
        found = instances.copy_on(self.config, self.resource(name), self.node(node))
        if isinstance(found, Report):
            raise Refused(found)
        return found.name

    @query()
    def properties(self, name: str | None = None) -> list[Plain]:
        """Common properties of one resource or of all."""
        return common_lines([self.resource(name)] if name else no_instances(self.config.resources.values()))

    @query()
    def private(self, name: str | None = None) -> list[Plain]:
        """Private properties of one resource or of all."""
        resources = [self.resource(name)] if name else no_instances(self.config.resources.values())
        return [line for one in resources for line in private_lines(one.private, one.name)]

    @query()
    def dependencies(self, name: str) -> list[Plain]:
        """What the resource depends on directly."""
        config, view = self.config, self.access.view()
        providers = self.resource(name).depends_on
        return [instances.resource_of(config, config.resources[provider], view) for provider in providers]

    @query()
    def owners(self, name: str) -> list[str]:
        """Possible owners."""
        possible = self.resource(name).possible_owners
        return dto.names_of(self.config, sorted(self.config.nodes) if possible is None else possible)

    @change(Role.ADMINISTRATOR)
    def create(
        self,
        name: str,
        type: str,
        group: str,
        separate_monitor: bool = False,
        common: list[Assigned] | None = None,
        private: list[Assigned] | None = None,
    ) -> Any:
        """A new resource, offline."""
        info = self.type_info(type)
        home = self.group(group).id
        blank = Resource(id=ResourceId(""), name=name, type=info.name, group=home)
        common_values_ = common_changes(blank, common or [], [])
        private_values = private_changes(f"resource {name!r}", {}, info, private or [], [])
        refuse_reports(private_values)
        return Derived(
            lambda identifier: updates.CreateResource(
                resource=ResourceId(identifier),
                name=name,
                type=info.name,
                group=home,
                separate_monitor=separate_monitor,
                common=common_values_,
                private=cast("dict[str, Any]", private_values),
            )
        )

    @change(Role.ADMINISTRATOR)
    def delete(self, name: str) -> Update:
        """Delete the resource."""
        return updates.DeleteResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def rename(self, name: str, new_name: str) -> Update:
        """Give the resource another name."""
        return updates.Rename(kind="resource", id=self.resource(name).id, name=new_name)

    @change(Role.ADMINISTRATOR)
    def move(self, name: str, group: str) -> Update:
        """Put it into another group."""
        return updates.MoveResource(resource=self.resource(name).id, group=self.group(group).id)

    @change(Role.OPERATOR)
    def online(self, name: str) -> Update:
        """Want it and its providers online."""
        return updates.OnlineResource(resource=self.resource(name).id)

    @change(Role.OPERATOR)
    def offline(self, name: str) -> Update:
        """Want it and its dependents offline."""
        return updates.OfflineResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def fail(self, name: str) -> Update:
        """Treat it as failed."""
        return updates.FailResource(resource=self.resource(name).id)

    @change(Role.ADMINISTRATOR)
    def add_dependency(self, name: str, provider: str) -> Update:
        """It needs ``provider`` online first."""
        return updates.AddDependency(resource=self.resource(name).id, provider=self.resource(provider).id)

    @change(Role.ADMINISTRATOR)
    def remove_dependency(self, name: str, provider: str) -> Update:
        """The inverse."""
        return updates.RemoveDependency(resource=self.resource(name).id, provider=self.resource(provider).id)

    @change(Role.ADMINISTRATOR)
    def add_owner(self, name: str, node: str) -> Update:
        """Allow it on one more node."""
        return updates.AddPossibleOwner(resource=self.resource(name).id, node=self.node(node).id)

    @change(Role.ADMINISTRATOR)
    def remove_owner(self, name: str, node: str) -> Update:
        """Forbid it on a node."""
        return updates.RemovePossibleOwner(resource=self.resource(name).id, node=self.node(node).id)

    @change(Role.ADMINISTRATOR)
    def set_properties(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change common properties."""
        resource = self.resource(name)
        return updates.SetResourceProperties(resource=resource.id, common=common_changes(resource, assigned, reset))

    @change(Role.ADMINISTRATOR)
    def set_private(self, name: str, assigned: list[Assigned], reset: list[str]) -> Update:
        """Change private properties; they take effect at the next online."""
        resource = self.resource(name)
        info = find_type(resource.type)
        changes = private_changes(f"resource {resource.name!r}", resource.private, info, assigned, reset)
        return updates.SetResourceProperties(resource=resource.id, private=refuse_reports(changes))


class ResourceTypeServant(Servant):
    """The types of resources."""

    @query()
    def types(self, name: str | None = None) -> list[Plain]:
        """One type or all of them."""
        return [dto.type_of(info) for info in ([self.type_info(name)] if name else BUILTIN_TYPES.values())]
