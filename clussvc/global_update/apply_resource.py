"""What administrators want of resources: creating and deleting them, their properties, online, offline, fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clussvc.global_update.addresses import check_addresses
from clussvc.global_update.apply_group import check_expected_private
from clussvc.global_update.eligibility import not_possible
from clussvc.global_update.instances import check_no_instance, check_not_reserved, check_room, copies_of
from clussvc.global_update.names import check_new_name
from clussvc.global_update.outcome import (
    ASKED,
    Done,
    Result,
    find_group,
    find_resource,
    note,
    with_groups,
    with_resources,
)
from clussvc.global_update.readiness import check_ready
from clussvc.global_update.refusals import instance_wanted
from clussvc.global_update.update import (
    CreateResource,
    DeleteResource,
    FailResource,
    OfflineResource,
    OnlineResource,
    SetResourceProperties,
)
from clussvc.model.config import Config, Group, Resource
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import common_changes, private_changes
from clussvc.model.reports import (
    Report,
    bad_argument,
    bad_property,
    dependents_exist,
    limit_reached,
    node_is_paused,
    not_online,
    object_exists,
    type_not_found,
)
from clussvc.model.settings import RESOURCES_MAX
from clussvc.model.states import ResourceState
from clussvc.resources.dependency import dependents_closure, graph_of, providers_closure
from clussvc.resources.type_info import BUILTIN_TYPES, check_kinds, check_private, find_type


def create_resource(config: Config, update: CreateResource) -> Result:
    """A new resource, offline and not wanted. What its type requires may still be missing; online asks for it."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if not update.resource:
        return bad_argument("A resource needs an identifier.")
    if update.resource in config.resources:
        return object_exists("resource", update.resource)
    bad = (
        check_new_name(config, "resource", update.name)
        or check_not_reserved(config, "resource", update.name, update.resource)
        or check_no_instance(config, group)
    )
    if bad is None and group.parallel:
        bad = check_room(config, "resource", update.name, update.resource)
    if bad is not None:
        return bad
    info = find_type(update.type)
    if info is None:
        return type_not_found(update.type[:64], BUILTIN_TYPES)
    if len(config.resources) >= RESOURCES_MAX:
        return limit_reached("resources", RESOURCES_MAX)
    blank = Resource(
        id=update.resource,
        name=update.name,
        type=info.name,
        group=group.id,
        separate_monitor=update.separate_monitor,
    )
    resource = _with_properties(blank, update.common, update.private)
    if isinstance(resource, Report):
        return resource
    bad = check_addresses(config, resource)
    if bad is not None:
        return bad
    bad = _check_online(config, group, [resource]) if resource.persistent_state else None
    if bad is not None:
        return bad
    message = f"Resource {resource.name} of type {info.name} was created in group {group.name}."
    return Done(
        config=with_resources(config, [resource]),
        records=note("resource.created", message, kind="resource", thing=resource.name),
    )


def _with_properties(
    resource: Resource,
    common: Mapping[str, PropertyValue | None],
    private: Mapping[str, PropertyValue | None],
) -> Resource | Report:
    """The resource with these values, or the first thing that is wrong with them."""
    owner = f"resource {resource.name!r}"
    changes = common_changes("resource", owner, common)
    if isinstance(changes, Report):
        return changes
    info = find_type(resource.type)
    if info is None:
        return type_not_found(resource.type, BUILTIN_TYPES)
    spelled: dict[str, PropertyValue | None] = {}
    for name, value in private.items():
        known = info.property_named(name)
        spelled[known.name if known else name] = value
    merged = private_changes(owner, resource.private, spelled)
    if isinstance(merged, Report):
        return merged
    complete = all(merged.get(known.name) not in (None, "", ()) for known in info.private if known.required)
    problems = check_private(info, merged) if complete else check_kinds(info, merged)
    if spelled and problems:
        return bad_property(owner, ", ".join(spelled)[:255], "; ".join(problems))
    return replace(resource, private=merged, **changes)  # type: ignore[arg-type]  # the table pairs fields and types


def delete_resource(config: Config, update: DeleteResource) -> Result:
    """Only a resource that nobody depends on; its owner terminates it if it runs."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    bad = check_no_instance(config, resource)
    if bad is not None:
        return bad
    dependents = [other.name for other in config.resources_of(resource.group) if resource.id in other.depends_on]
    if dependents:
        return dependents_exist(resource.name, dependents)
    left = replace(
        config, resources={known: other for known, other in config.resources.items() if known != resource.id}
    )
    group = left.groups[resource.group]
    if group.failover is not None and group.failover.resource == resource.id:
        left = with_groups(left, [replace(group, failover=None)])
    message = f"Resource {resource.name} was deleted from group {group.name}."
    return Done(config=left, records=note("resource.deleted", message, kind="resource", thing=resource.name))


def set_resource_properties(config: Config, update: SetResourceProperties) -> Result:
    """All values, or none of them. What a resource of an instance sets itself counts for all instances."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    if resource.instance_of is not None and update.because:
        resource = config.resources[resource.instance_of]
    bad = check_no_instance(config, resource) or check_expected_private(
        f"resource {resource.name!r}", resource.private, update.expected_private
    )
    if bad is not None:
        return bad
    changed = _with_properties(resource, update.common, update.private)
    if isinstance(changed, Report):
        return changed
    if update.private:
        bad = check_addresses(config, changed)
        if bad is not None:
            return bad
    if changed.persistent_state and not resource.persistent_state:
        # PersistentState=1 is another way of saying online, and must not lead past its conditions.
        bad = _check_online(config, config.groups[resource.group], [changed])
        if bad is not None:
            return bad
    if changed == resource:
        # Scripts set what they find at every start; that is nothing to remember.
        return Done(config=config)
    wished = []
    if changed.persistent_state != resource.persistent_state:
        wished = [replace(copy, persistent_state=changed.persistent_state) for copy in copies_of(config, resource)]
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of resource {resource.name} were set: {names}."
    because = update.because or ASKED
    return Done(
        config=with_resources(config, [changed, *wished]),
        records=note("resource.properties", message, kind="resource", thing=resource.name, because=because),
    )


def online_resource(config: Config, update: OnlineResource) -> Result:
    """Want the resource and all that it needs online; each gets another try, and a halted group is let go on."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    group = config.groups[resource.group]
    if group.parallel:
        return _online_copies(config, group, resource)
    wanted = [
        config.resources[each] for each in providers_closure(graph_of(config.resources_of(group.id)), (resource.id,))
    ]
    bad = _check_online(config, group, wanted)
    if bad is not None:
        return bad
    answered = group.failover is not None and group.failover.resource in {each.id for each in wanted}
    changed = with_resources(
        config,
        [replace(each, persistent_state=True, online_ticket=each.online_ticket + 1) for each in wanted],
    )
    live = replace(group, persistent_state=True, halted=False, failover=None if answered else group.failover)
    message = f"Resource {resource.name} is to be online{_with_others(wanted[1:], 'what it needs')}."
    return Done(
        config=with_groups(changed, [live]),
        records=note("resource.wanted_online", message, kind="resource", thing=resource.name),
    )


def _online_copies(config: Config, group: Group, resource: Resource) -> Result:
    """Want the resource online in every instance of its parallel group, and in those that will be added."""
    wanted = [
        config.resources[each] for each in providers_closure(graph_of(config.resources_of(group.id)), (resource.id,))
    ]
    bad = check_ready(config, wanted)
    if bad is not None:
        return bad
    changed, refusals, copies = config, [], copies_of(config, resource)
    for copy in copies:
        result = online_resource(changed, OnlineResource(resource=copy.id))
        if isinstance(result, Done):
            changed = result.config
        else:
            refusals.append(result)
    if refusals and len(refusals) == len(copies):
        return refusals[0]
    changed = with_resources(changed, [replace(each, persistent_state=True) for each in wanted])
    message = (
        f"Resource {resource.name} is to be online on {len(copies)} nodes{_with_others(wanted[1:], 'what it needs')}."
    )
    return Done(
        config=with_groups(changed, [replace(group, persistent_state=True)]),
        records=note("resource.wanted_online", message, kind="resource", thing=resource.name),
    )


def _check_online(config: Config, group: Group, wanted: list[Resource]) -> Report | None:
    """Whether these resources may be brought online where their group is, if it is anywhere."""
    if group.owned is not None and group.move is None:
        owner = config.nodes[group.owned]
        # A paused node may stop what it has and starts nothing (MSCS: pausing a node).
        bad = node_is_paused(owner.name) if owner.paused else not_possible(config, group, owner.id)
        if bad is not None:
            return bad
    return check_ready(config, wanted)


def offline_resource(config: Config, update: OfflineResource) -> Result:
    """Want the resource and all that needs it offline; the group's own wish stays."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    graph = graph_of(config.resources_of(resource.group))
    own = [config.resources[each] for each in dependents_closure(graph, (resource.id,))]
    unwanted = [*own, *(copy for each in own for copy in copies_of(config, each))]
    changed = [replace(each, persistent_state=False) for each in unwanted if each.persistent_state]
    message = f"Resource {resource.name} is to be offline{_with_others(own[1:], 'what needs it')}."
    return Done(
        config=with_resources(config, changed),
        records=note("resource.wanted_offline", message, kind="resource", thing=resource.name),
    )


def _with_others(others: list[Resource], what: str) -> str:
    if not others:
        return ""
    names = ", ".join(other.name for other in others[:12])
    return f", with {what} ({names}{', ...' if len(others) > 12 else ''})"


def fail_resource(config: Config, update: FailResource) -> Result:
    """Let the owner treat an online resource as failed."""
    resource = find_resource(config, update.resource)
    if isinstance(resource, Report):
        return resource
    if config.groups[resource.group].parallel:
        return instance_wanted("resource", resource.name, [copy.name for copy in copies_of(config, resource)])
    if resource.state is not ResourceState.ONLINE:
        return not_online(resource.name, resource.state.value)
    message = f"Resource {resource.name} is made to fail."
    return Done(
        config=with_resources(config, [replace(resource, fail_ticket=resource.fail_ticket + 1)]),
        records=note("resource.fail_asked", message, kind="resource", thing=resource.name),
    )
