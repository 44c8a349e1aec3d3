"""What one update leads to, and how the configuration is rebuilt with a few objects exchanged.

A handler answers with :class:`Done` or with a refusal, and never changes anything in place. The helpers copy only the
mapping concerned and keep the order of creation, which is the order in which everything is listed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.index import carry
from clussvc.model.records import Record
from clussvc.model.reports import (
    Report,
    Severity,
    group_not_found,
    node_not_found,
    resource_not_found,
)
from clussvc.model.states import ResourceState

ASKED = "an administrator asked for it"
"""The reason in the records of plain commands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The update took effect (or had nothing to do); ``records`` are what is worth remembering of it."""

    config: Config
    records: tuple[Record, ...] = ()


Result = Done | Report


def find_node(config: Config, node: NodeId) -> Node | Report:
    """The node, or the refusal that says that it is none."""
    return config.nodes.get(node) or node_not_found(str(node), [known.name for known in config.nodes.values()])


def find_group(config: Config, group: GroupId) -> Group | Report:
    """The group, or the refusal that says that it is none."""
    return config.groups.get(group) or group_not_found(group)


def find_resource(config: Config, resource: ResourceId) -> Resource | Report:
    """The resource, or the refusal that says that it is none."""
    return config.resources.get(resource) or resource_not_found(resource)


def with_node(config: Config, node: Node) -> Config:
    """The configuration with this node added or exchanged."""
    return replace(config, nodes={**config.nodes, node.id: node})


def with_groups(config: Config, groups: Iterable[Group]) -> Config:
    """The configuration with these groups added or exchanged."""
    changed = {group.id: group for group in groups}
    if not changed:
        return config
    after = {**config.groups, **changed}
    carry(config.groups, after, changed.values())
    return replace(config, groups=after)


def with_resources(config: Config, resources: Iterable[Resource]) -> Config:
    """The configuration with these resources added or exchanged."""
    changed = {resource.id: resource for resource in resources}
    if not changed:
        return config
    after = {**config.resources, **changed}
    carry(config.resources, after, changed.values())
    return replace(config, resources=after)


def all_offline(config: Config, groups: Iterable[GroupId]) -> Config:
    """The configuration in which nothing of these groups runs, since nobody owns them, or somebody begins anew."""
    return with_resources(
        config,
        [
            replace(resource, state=ResourceState.OFFLINE, detail="")
            for group in groups
            for resource in config.resources_of(group)
            if resource.state is not ResourceState.OFFLINE or resource.detail
        ],
    )


def note(
    name: str,
    message: str,
    *,
    kind: str,
    thing: str,
    because: str = ASKED,
    event_id: int = 0,
    severity: Severity = Severity.INFORMATION,
    node: str = "",
) -> tuple[Record, ...]:
    """One record, as the tuple that :class:`Done` wants."""
    return (
        Record(
            name=name,
            message=message,
            kind=kind,
            object=thing,
            because=because,
            event_id=event_id,
            severity=severity,
            node=node,
        ),
    )
