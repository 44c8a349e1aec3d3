"""Whether a node may own a group now: the conditions that every assignment and every move by name must meet."""

from __future__ import annotations

from clussvc.global_update.outcome import find_node
from clussvc.global_update.refusals import instance_on_node, node_is_stopping
from clussvc.model.config import Config, Group
from clussvc.model.ids import NodeId
from clussvc.model.reports import Report, node_is_down, node_is_paused, not_possible_owner


def why_not(config: Config, group: Group, node_id: NodeId, *, although_paused: bool = False) -> Report | None:
    """What keeps the node from owning the group; None if nothing does.

    ``although_paused``: a paused node keeps what it has, so it may also get back what it just had.
    """
    node = find_node(config, node_id)
    if isinstance(node, Report):
        return node
    if not node.up:
        return node_is_down(node.name, node.down_because)
    if node.stopping:
        return node_is_stopping(node.name)
    if node.paused and not although_paused:
        return node_is_paused(node.name)
    return not_possible(config, group, node_id) or occupied(config, group, node_id)


def occupied(config: Config, group: Group, node_id: NodeId) -> Report | None:
    """A node runs at most one instance of a parallel group: the refusal if it has another one, or one is on its way."""
    if group.instance_of is None:
        return None
    for other in config.instances_of(group.instance_of):
        if other.id == group.id or other.owned is None:
            continue
        if node_id == other.owned or (other.move is not None and node_id == other.move.to):
            return instance_on_node(group.name, config.node_name(node_id), other.name)
    return None


def not_possible(config: Config, group: Group, node_id: NodeId) -> Report | None:
    """The first resource of the group that may not run on the node, as a refusal; None if all may."""
    for resource in config.resources_of(group.id):
        possible = resource.possible_owners
        if possible is not None and node_id not in possible:
            names = [config.node_name(owner) for owner in possible]
            return not_possible_owner(group.name, config.node_name(node_id), resource.name, names)
    return None
