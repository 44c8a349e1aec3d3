"""How resources relate: dependencies, possible owners, and the group they belong to."""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.apply_ownership import wish_to_move
from clussvc.global_update.instances import check_no_instance, copies_of
from clussvc.global_update.outcome import (
    Done,
    Result,
    find_group,
    find_node,
    find_resource,
    note,
    with_groups,
    with_resources,
)
from clussvc.global_update.refusals import (
    different_owners,
    last_possible_owner,
    owner_exists,
    owner_not_listed,
    parallel_stays,
)
from clussvc.global_update.update import (
    AddDependency,
    AddPossibleOwner,
    MoveResource,
    RemoveDependency,
    RemovePossibleOwner,
)
from clussvc.model.config import Config, Group, Resource
from clussvc.model.reports import (
    Report,
    dependency_cycle,
    dependency_exists,
    dependency_not_found,
    dependency_other_group,
    group_is_moving,
    running_relation,
)
from clussvc.model.states import MoveCause, ResourceState
from clussvc.resources.dependency import connected, find_cycle, graph_of


def add_dependency(config: Config, update: AddDependency) -> Result:
    """Within one group, without a circle, and not in a way that what runs would suddenly lack a provider."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    provider = find_resource(config, update.provider)
    if isinstance(provider, Report):
        return provider
    if provider.group != resource.group:
        return dependency_other_group(resource.name, provider.name, config.groups[provider.group].name)
    if provider.id in resource.depends_on:
        return dependency_exists(resource.name, provider.name)
    circle = find_cycle(graph_of(config.resources_of(resource.group)), resource.id, provider.id)
    if circle is not None:
        return dependency_cycle([config.resources[each].name for each in circle])
    bad = check_no_instance(config, resource)
    if bad is not None:
        return bad
    copies = zip(copies_of(config, resource), copies_of(config, provider), strict=True)
    for upper, lower in ((resource, provider), *copies):
        runs = upper.state is ResourceState.ONLINE or upper.state.pending
        if runs and lower.state is not ResourceState.ONLINE:
            return running_relation(upper.name)
    changed = replace(resource, depends_on=(*resource.depends_on, provider.id))
    message = f"Resource {resource.name} now depends on {provider.name}."
    return Done(
        config=with_resources(config, [changed]),
        records=note("resource.dependency_added", message, kind="resource", thing=resource.name),
    )


def remove_dependency(config: Config, update: RemoveDependency) -> Result:
    """The inverse of adding."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    provider = find_resource(config, update.provider)
    if isinstance(provider, Report):
        return provider
    if provider.id not in resource.depends_on:
        return dependency_not_found(resource.name, provider.name)
    bad = check_no_instance(config, resource)
    if bad is not None:
        return bad
    changed = replace(resource, depends_on=tuple(each for each in resource.depends_on if each != provider.id))
    message = f"Resource {resource.name} no longer depends on {provider.name}."
    return Done(
        config=with_resources(config, [changed]),
        records=note("resource.dependency_removed", message, kind="resource", thing=resource.name),
    )


def add_possible_owner(config: Config, update: AddPossibleOwner) -> Result:
    """Allow one more node; without a list all are allowed already."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    bad = check_no_instance(config, resource)
    if bad is not None:
        return bad
    if resource.possible_owners is None or node.id in resource.possible_owners:
        return owner_exists(resource.name, node.name)
    changed = replace(resource, possible_owners=tuple(sorted((*resource.possible_owners, node.id))))
    message = f"Resource {resource.name} may now run on {node.name}."
    return Done(
        config=with_resources(config, [changed]),
        records=note("resource.owner_added", message, kind="resource", thing=resource.name, node=node.name),
    )


def remove_possible_owner(config: Config, update: RemovePossibleOwner) -> Result:
    """Forbid a node; if the resource is in use there, its group moves away."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    bad = check_no_instance(config, resource)
    if bad is not None:
        return bad
    possible = tuple(sorted(config.nodes)) if resource.possible_owners is None else resource.possible_owners
    if node.id not in possible:
        return owner_not_listed(resource.name, node.name)
    left = tuple(each for each in possible if each != node.id)
    if not left:
        return last_possible_owner(resource.name, node.name)
    changed = with_resources(config, [replace(resource, possible_owners=left)])
    for each in (resource, *copies_of(config, resource)):
        group = config.groups[each.group]
        in_use = each.state is not ResourceState.OFFLINE or each.persistent_state
        if group.owned == node.id and group.move is None and in_use:
            because = f"resource {each.name} may no longer run on {node.name}"
            moving = wish_to_move(group, None, MoveCause.OWNERS_CHANGED, because)
            changed = with_groups(changed, [moving])
    message = f"Resource {resource.name} may no longer run on {node.name}."
    return Done(
        config=changed,
        records=note("resource.owner_removed", message, kind="resource", thing=resource.name, node=node.name),
    )


def move_resource(config: Config, update: MoveResource) -> Result:
    """Put the resource, with all that is tied to it by dependencies, into another group of the same owner.

    Neither group may be moving: its owner may have said already that nothing of it runs, and what is added to it then
    would be left behind.
    """
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    target = find_group(config, update.group)
    if isinstance(target, Report):
        return target
    source = config.groups[resource.group]
    if source.id == target.id:
        return Done(config=config)
    bad = _check_neighbours(config, resource, source, target)
    if bad is not None:
        return bad
    moved = connected(graph_of(config.resources_of(source.id)), resource.id)
    changed = with_resources(config, [replace(config.resources[each], group=target.id) for each in moved])
    if source.failover is not None and source.failover.resource in moved:
        changed = with_groups(changed, [replace(source, failover=None)])
    names = ", ".join(config.resources[each].name for each in moved[:12])
    message = f"Moved from group {source.name} to group {target.name}: {names}."
    return Done(
        config=changed,
        records=note("resource.moved", message, kind="resource", thing=resource.name),
    )


def _check_neighbours(config: Config, resource: Resource, source: Group, target: Group) -> Report | None:
    for group in (source, target):
        if group.parallel or group.instance_of is not None or config.instances_of(group.id):
            return parallel_stays(resource.name, group.name)
    for group in (source, target):
        if group.owned is not None and group.move is not None:
            return group_is_moving(group.name, f" to {config.node_name(group.move.to)}" if group.move.to else "")
    if source.owned != target.owned:
        return different_owners(
            resource.name,
            source.name,
            config.node_name(source.owned),
            target.name,
            config.node_name(target.owned),
        )
    return None
