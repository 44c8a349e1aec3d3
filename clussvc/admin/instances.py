"""What administration shows of parallel groups: one mapping for the group, with one for each instance inside.

The state of a parallel group is derived from the resources of all its instances that have a node, by the rule that
holds for the resources of one group. An instance that no node can take does not count: that it waits is told by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from clussvc.admin import dto
from clussvc.admin.dto import Plain
from clussvc.global_update.eligibility import why_not
from clussvc.global_update.instances import copies_of
from clussvc.global_update.refusals import instance_elsewhere, instance_wanted
from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report
from clussvc.model.states import GroupState, ResourceState
from clussvc.model.view import LiveView
from clussvc.resources.aggregate import group_state

PARALLEL = "(parallel)"
"""Stands in the place of a node for what is on several of them."""


def group_of(config: Config, group: Group, resources: Iterable[Resource], on: NodeId | None = None) -> Plain:
    """A group as a mapping; one that is parallel with its instances, only with that on node ``on`` if given."""
    plain = dto.group_of(config, group, resources)
    if not group.parallel and not config.instances_of(group.id):
        return plain
    instances = config.instances_of(group.id)
    shown = [dto.group_of(config, each, config.resources_of(each.id)) for each in instances]
    held = [resource for each in instances if each.owned is not None for resource in config.resources_of(each.id)]
    state = group_state(held)
    return plain | {
        "state": state.value,
        "state_number": state.number,
        "node": PARALLEL,
        "moving": not group.released or any(_moving(config, each) for each in instances),
        "halted": any(each.halted for each in instances),
        "because": f"it runs in {len(instances)} instances",
        "wanted": sum(resource.persistent_state for resource in held),
        "online": sum(resource.state is ResourceState.ONLINE for resource in held),
        "failed": [resource.name for resource in held if resource.state is ResourceState.FAILED],
        "pending": sum(resource.state.pending for resource in held),
        "instances": [one for one in shown if on is None or one["node_id"] == on],
    }


def _moving(config: Config, instance: Group) -> bool:
    """Whether something is about to become of its place; one that no node can take waits, and does not move."""
    if instance.owned is not None:
        return instance.move is not None or instance.failover is not None
    return any(why_not(config, instance, node) is None for node in config.nodes)


def resource_of(config: Config, resource: Resource, view: LiveView, on: NodeId | None = None) -> Plain:
    """A resource as a mapping; one of a parallel group with its copies, only with that on node ``on`` if given."""
    plain = dto.resource_of(config, resource, view)
    copies = copies_of(config, resource)
    group = config.groups[resource.group]
    if not group.parallel and not copies:
        return plain
    placed = [copy for copy in copies if config.groups[copy.group].owned is not None]
    state = group_state(placed)
    shown = [dto.resource_of(config, copy, view) for copy in copies]
    return plain | {
        "node": PARALLEL,
        "state": _WORDS.get(state, state.value),
        "state_number": _NUMBERS.get(state, ResourceState.UNKNOWN).number,
        "detail": "; ".join(one["detail"] for one in shown if one["detail"]),
        "moving": any(_moving(config, each) for each in config.instances_of(resource.group)),
        "instances": [
            one for one, copy in zip(shown, copies, strict=True) if on is None or config.groups[copy.group].owned == on
        ],
    }


_WORDS = {GroupState.PENDING: ResourceState.ONLINE_PENDING.value}
_NUMBERS = {
    GroupState.ONLINE: ResourceState.ONLINE,
    GroupState.OFFLINE: ResourceState.OFFLINE,
    GroupState.FAILED: ResourceState.FAILED,
    GroupState.PENDING: ResourceState.ONLINE_PENDING,
}
"""What copies of a resource in different states are together; partly online is otherwise a state of groups alone."""


def instance_on(config: Config, group: Group, node: Node) -> Group | Report:
    """The instance of a parallel group that the node has; the group itself if it is none and the node has it."""
    if not group.parallel:
        return (
            group
            if group.owned == node.id
            else instance_elsewhere(group.name, config.node_name(group.owned), node.name)
        )
    instances = config.instances_of(group.id)
    found = next((each for each in instances if each.owned == node.id), None)
    known = [f"{each.name} on {config.node_name(each.owned)}" for each in instances]
    return found or instance_wanted("group", group.name, known)


def copy_on(config: Config, resource: Resource, node: Node) -> Resource | Report:
    """The same for a resource."""
    found = instance_on(config, config.groups[resource.group], node)
    if isinstance(found, Report) or found.id == resource.group:
        return found if isinstance(found, Report) else resource
    return next(copy for copy in copies_of(config, resource) if copy.group == found.id)
