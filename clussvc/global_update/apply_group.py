"""What administrators want of groups: creating and deleting them, their properties, online and offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from clussvc.global_update.apply_ownership import wish_to_move
from clussvc.global_update.eligibility import not_possible, why_not
from clussvc.global_update.instances import check_no_instance, check_not_reserved, check_room, copies_of
from clussvc.global_update.names import check_new_name
from clussvc.global_update.outcome import Done, Result, find_group, find_node, note, with_groups, with_resources
from clussvc.global_update.readiness import check_ready
from clussvc.global_update.refusals import (
    core_group,
    core_group_alone,
    group_type_in_use,
    instance_wanted,
    instances_left,
    property_changed,
)
from clussvc.global_update.update import (
    CreateGroup,
    DeleteGroup,
    OfflineGroup,
    OnlineGroup,
    SetGroupProperties,
    SetPreferredOwners,
)
from clussvc.model.config import Config, Group, Move
from clussvc.model.monitoring import PropertyValue
from clussvc.model.properties import GROUP_PROPERTIES, Stored, common_changes, private_changes, shown
from clussvc.model.reports import (
    Report,
    bad_argument,
    bad_property,
    group_is_moving,
    group_not_empty,
    limit_reached,
    node_is_paused,
    object_exists,
)
from clussvc.model.settings import GROUPS_MAX
from clussvc.model.states import MoveCause, ResourceState

TOLD_LENGTH_MAX = 64
"""Characters of a property's value in a refusal, which every node remembers for a while."""


def create_group(config: Config, update: CreateGroup) -> Result:
    """A new empty group that nobody owns yet; ``on`` becomes a wish that the coordinator honours if it can."""
    if not update.group:
        return bad_argument("A group needs an identifier.")
    if update.group in config.groups:
        return object_exists("group", update.group)
    bad = check_new_name(config, "group", update.name) or check_not_reserved(config, "group", update.name, update.group)
    if bad is not None:
        return bad
    if len(config.groups) >= GROUPS_MAX:
        return limit_reached("groups", GROUPS_MAX)
    move = None
    if update.on is not None:
        node = find_node(config, update.on)
        if isinstance(node, Report):
            return node
        because = f"the group was created on {node.name}"
        move = Move(to=node.id, cause=MoveCause.FIRST_PLACEMENT, because=because)
    group = Group(id=update.group, name=update.name, move=move, released_because="the group was created")
    return Done(
        config=with_groups(config, [group]),
        records=note("group.created", f"Group {group.name} was created.", kind="group", thing=group.name),
    )


def delete_group(config: Config, update: DeleteGroup) -> Result:
    """Only an empty group that is not the cluster's own."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if group.id == config.default_group:
        return core_group(group.name)
    bad = check_no_instance(config, group)
    if bad is not None:
        return bad
    left = [instance.name for instance in config.instances_of(group.id)]
    if left and not any(config.resources_of(group.id)):
        return instances_left(group.name, left)
    held = [resource.name for resource in config.resources_of(group.id)]
    if held:
        return group_not_empty(group.name, held)
    return Done(
        config=replace(config, groups={known: other for known, other in config.groups.items() if known != group.id}),
        records=note("group.deleted", f"Group {group.name} was deleted.", kind="group", thing=group.name),
    )


def set_group_properties(config: Config, update: SetGroupProperties) -> Result:
    """All values, or none of them; none at all if something is not as the update expects."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    bad = check_no_instance(config, group)
    if bad is not None:
        return bad
    owner = f"group {group.name!r}"
    unexpected = _check_expected(owner, group, update)
    if unexpected is not None:
        return unexpected
    common = common_changes("group", owner, update.common)
    if isinstance(common, Report):
        return common
    later = sorted({"group_type", "max_instances"} & common.keys())
    if later and not update.instances:
        why = "a release that does not know parallel groups cannot set it; ask a node of a later release"
        return bad_property(owner, next(each.name for each in GROUP_PROPERTIES if each.attribute == later[0]), why)
    private = private_changes(owner, group.private, update.private)
    if isinstance(private, Report):
        return private
    changed = replace(group, private=private, **common)  # type: ignore[arg-type]  # the table pairs fields and types
    if changed.group_type != group.group_type:
        bad = _check_type_change(config, group, changed)
        if bad is not None:
            return bad
        if changed.owned is not None:
            # Its owner has to let it go before there are instances (rule R1).
            because = f"{group.name} is to run in instances"
            changed = replace(changed, move=Move(to=None, cause=MoveCause.OWNERS_CHANGED, because=because))
    instances = config.instances_of(group.id) if "persistent_state" in common else []
    wished = [replace(each, persistent_state=changed.persistent_state) for each in instances]
    names = ", ".join((*update.common, *update.private)) or "nothing"
    message = f"Properties of group {group.name} were set: {names}."
    return Done(
        config=with_groups(config, [changed, *wished]),
        records=note("group.properties", message, kind="group", thing=group.name),
    )


def _check_type_change(config: Config, group: Group, changed: Group) -> Report | None:
    """A group becomes parallel, or ceases to be, only while nothing of it runs or is to run."""
    wanted = "parallel" if changed.parallel else "a failover group"
    if group.id == config.default_group:
        return core_group_alone(group.name)
    if group.move is not None or any(each.move is not None for each in config.instances_of(group.id)):
        return group_type_in_use(group.name, wanted, "it is moving")
    resources = [*config.resources_of(group.id)]
    resources += [copy for resource in resources for copy in copies_of(config, resource)]
    for resource in resources:
        if resource.state is not ResourceState.OFFLINE or resource.persistent_state:
            state = "wanted online" if resource.persistent_state else resource.state.value
            return group_type_in_use(group.name, wanted, f"resource {resource.name!r} is {state}")
    if not changed.parallel:
        return None
    left = [instance.name for instance in config.instances_of(group.id)]
    if left:
        return instances_left(group.name, left)
    bad = check_room(config, "group", group.name, group.id)
    for resource in resources:
        bad = bad or check_room(config, "resource", resource.name, resource.id)
    return bad


def _check_expected(owner: str, group: Group, update: SetGroupProperties) -> Report | None:
    """The first property that is not as expected, if any. What cannot be a value of it is refused as such."""
    fields = common_changes("group", owner, update.expected_common)
    if isinstance(fields, Report):
        return fields
    for field, stored in fields.items():
        present: Stored = getattr(group, field)
        if present != stored:
            known = next(each for each in GROUP_PROPERTIES if each.attribute == field)
            return property_changed(owner, known.name, _told(shown(known, present)), _told(shown(known, stored)))
    return check_expected_private(owner, group.private, update.expected_private)


def check_expected_private(
    owner: str, private: Mapping[str, PropertyValue], expected_private: Mapping[str, PropertyValue | None]
) -> Report | None:
    """The first private property that is not as expected, if any."""
    spelling = {name.casefold(): name for name in private}
    for name, expected in expected_private.items():
        held = private.get(spelling.get(name.casefold(), name))
        if held != expected:
            return property_changed(owner, name, _told(held), _told(expected))
    return None


def _told(value: PropertyValue | None) -> str:
    """A value as the refusal shows it: at most TOLD_LENGTH_MAX characters of it."""
    if value is None:
        return "not set"
    text = repr(value)
    return text if len(text) <= TOLD_LENGTH_MAX else f"{text[:TOLD_LENGTH_MAX]}..."


def set_preferred_owners(config: Config, update: SetPreferredOwners) -> Result:
    """The whole ordered list at once; every node once."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    bad = check_no_instance(config, group)
    if bad is not None:
        return bad
    names = []
    for wanted in update.nodes:
        node = find_node(config, wanted)
        if isinstance(node, Report):
            return node
        names.append(node.name)
    if len(set(update.nodes)) != len(update.nodes):
        return bad_argument(f"The preferred owners {', '.join(names)} name a node twice; name each once.")
    message = f"Preferred owners of group {group.name} are now {', '.join(names) or 'not set'}."
    return Done(
        config=with_groups(config, [replace(group, preferred_owners=update.nodes)]),
        records=note("group.owners", message, kind="group", thing=group.name),
    )


def online_group(config: Config, update: OnlineGroup) -> Result:
    """Want everything online; failed resources get another try, a halted group is let go on.

    Without an owner the wish is remembered and fulfilled when a node takes the group.
    """
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    if group.parallel:
        return _online_instances(config, group, update)
    bad = _check_place(config, group, update) or check_ready(config, list(config.resources_of(group.id)))
    if bad is not None:
        return bad
    wanted = replace(group, persistent_state=True, halted=False, failover=None)
    if update.to is not None and update.to != group.owned:
        because = f"an administrator brings it online on {config.node_name(update.to)}"
        wanted = wish_to_move(wanted, update.to, MoveCause.ADMIN, because, bring_online=True)
    resources = [
        replace(resource, persistent_state=True, online_ticket=resource.online_ticket + 1)
        for resource in config.resources_of(group.id)
    ]
    where = f" on {config.node_name(update.to)}" if update.to is not None else ""
    message = f"Group {group.name} is to be online{where}."
    return Done(
        config=with_resources(with_groups(config, [wanted]), resources),
        records=note("group.wanted_online", message, kind="group", thing=group.name, event_id=1200),
    )


def _online_instances(config: Config, group: Group, update: OnlineGroup) -> Result:
    """Want every instance online, and those that will be added. One that cannot be started where it is does not hinder
    the others; if that is true of all of them, it is the answer."""
    instances = config.instances_of(group.id)
    if update.to is not None:
        return instance_wanted("group", group.name, [each.name for each in instances])
    bad = check_ready(config, list(config.resources_of(group.id)))
    if bad is not None:
        return bad
    refusals: list[Report] = []
    wanted = config
    for instance in instances:
        result = online_group(wanted, OnlineGroup(group=instance.id))
        if isinstance(result, Done):
            wanted = result.config
        else:
            refusals.append(result)
    if refusals and len(refusals) == len(instances):
        return refusals[0]
    return Done(
        config=_wish(wanted, group, online=True),
        records=note(
            "group.wanted_online",
            f"Group {group.name} is to be online on {len(instances)} nodes.",
            kind="group",
            thing=group.name,
            event_id=1200,
        ),
    )


def _wish(config: Config, group: Group, *, online: bool) -> Config:
    """The pattern of a parallel group with the wish that future instances begin with."""
    resources = [replace(resource, persistent_state=online) for resource in config.resources_of(group.id)]
    return with_resources(with_groups(config, [replace(group, persistent_state=online)]), resources)


def _check_place(config: Config, group: Group, update: OnlineGroup) -> Report | None:
    """Whether the group may be brought online where it is, or where it is wanted (MSCS: not on a paused node)."""
    if update.to is not None and update.to != group.owned:
        if group.owned is not None and group.move is not None:
            return group_is_moving(group.name, f" to {config.node_name(group.move.to)}" if group.move.to else "")
        return why_not(config, group, update.to)
    if group.owned is None or group.move is not None:
        return None
    owner = config.nodes[group.owned]
    return node_is_paused(owner.name) if owner.paused else not_possible(config, group, owner.id)


def offline_group(config: Config, update: OfflineGroup) -> Result:
    """Want everything offline, here and wherever the group goes."""
    group = find_group(config, update.group)
    if isinstance(group, Report):
        return group
    unwanted = [group, *config.instances_of(group.id)]
    resources = [
        replace(resource, persistent_state=False)
        for each in unwanted
        for resource in config.resources_of(each.id)
        if resource.persistent_state
    ]
    groups = [replace(each, persistent_state=False) for each in unwanted]
    return Done(
        config=with_resources(with_groups(config, groups), resources),
        records=note(
            "group.wanted_offline",
            f"Group {group.name} is to be offline.",
            kind="group",
            thing=group.name,
            event_id=1203,
        ),
    )
