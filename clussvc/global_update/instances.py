"""The instances of parallel groups: kept in step with their pattern, by number and by property.

A parallel group is a pattern that nobody owns. Each of its instances is a group of its own, with owner, epoch,
failovers and resources, so that everything that is promised of a group (rule R1) holds of an instance by the same code
(docs/decisions/0019). What follows from the pattern is worked out here after every update that may have changed it:

* there are as many instances as possible owners, at most MaxInstances; none while the pattern has no resources or is
  still owned from the time when it was no pattern;
* an instance has the properties, the resources and the dependencies of the pattern; the owner, the wish to be online
  and the states are its own;
* an instance too many is first taken from its owner, and disappears when that has let go. Its epochs are never used
  again: the pattern remembers the highest one, where new instances go on.

Names and identifiers of instances are those of the pattern with ``#`` and the number, and are kept free for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from clussvc.global_update.outcome import note, with_groups, with_resources
from clussvc.global_update.refusals import instance_fixed, name_for_instances, too_long_for_instances
from clussvc.model.config import INSTANCE_SIGN, Config, Group, Move, Resource
from clussvc.model.ids import NAME_LENGTH_MAX, GroupId, NodeId, ResourceId
from clussvc.model.index import index_of
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import GROUPS_MAX, INSTANCES_MAX, RESOURCES_MAX
from clussvc.model.states import MoveCause

_GROUP_FIELDS = (
    "description",
    "failover_threshold",
    "failover_period_h",
    "auto_failback",
    "failback_window_start_h",
    "failback_window_end_h",
    "anti_affinity",
    "preferred_owners",
    "private",
)
"""What an instance has from its pattern, beside the name."""

_RESOURCE_FIELDS = (
    "type",
    "description",
    "separate_monitor",
    "looks_alive_poll_interval_ms",
    "is_alive_poll_interval_ms",
    "restart_action",
    "restart_threshold",
    "restart_period_ms",
    "retry_period_on_failure_ms",
    "pending_timeout_ms",
    "possible_owners",
    "private",
)

_NUMBERED = re.compile(rf"(.+){INSTANCE_SIGN}([1-9][0-9]?)", re.DOTALL)


def with_instances(config: Config, before: Config | None = None) -> tuple[Config, tuple[Record, ...]]:
    """The configuration with the instances that its parallel groups should have, and what was added or removed.

    ``before`` is the configuration from which this one was made, whose instances were in step; what has not changed
    since then is not looked at again.
    """
    index = index_of(config.groups)
    records: tuple[Record, ...] = ()
    for pattern in dict.fromkeys((*index.parallel, *index.members)):
        config, told = _settle(config, pattern, before)
        records += told
    return config, records


def possible_nodes(config: Config, pattern: GroupId) -> list[NodeId]:
    """The members that may run every resource of the group, whether they are up or not."""
    limits = [each.possible_owners for each in config.resources_of(pattern) if each.possible_owners is not None]
    return [node for node in config.nodes if all(node in limit for limit in limits)]


def copies_of(config: Config, resource: Resource) -> list[Resource]:
    """The resource in each instance of its parallel group, by number; empty for one of another group."""
    found = []
    for instance in config.instances_of(resource.group):
        copy = config.resources.get(ResourceId(f"{resource.id}{INSTANCE_SIGN}{instance.instance}"))
        if copy is not None:
            found.append(copy)
    return found


def check_no_instance(config: Config, thing: Group | Resource) -> Report | None:
    """The refusal to change an instance by itself; None for what is no instance."""
    if thing.instance_of is None:
        return None
    if isinstance(thing, Group):
        return instance_fixed("group", thing.name, config.groups[GroupId(thing.instance_of)].name)
    return instance_fixed("resource", thing.name, config.resources[ResourceId(thing.instance_of)].name)


def check_not_reserved(config: Config, kind: str, name: str, identifier: str = "") -> Report | None:
    """Whether a new name, or identifier, is kept free for an instance of something; ``kind`` is group or resource."""
    for text, by_name in ((name, True), (identifier, False)):
        numbered = _NUMBERED.fullmatch(text)
        if numbered is None:
            continue
        base = numbered[1]
        found: Group | Resource | None
        if kind == "group":
            found = config.group_named(base) if by_name else config.groups.get(GroupId(base))
            pattern = found
        else:
            found = config.resource_named(base) if by_name else config.resources.get(ResourceId(base))
            pattern = config.groups[found.group] if found is not None else None
        if pattern is not None and (pattern.parallel or config.instances_of(pattern.id)):
            assert found is not None
            return name_for_instances(kind, name, found.name)
    return None


def check_room(config: Config, kind: str, name: str, identifier: str) -> Report | None:
    """Whether instances of something of that name and identifier could have theirs; ``kind`` is group or resource."""
    if len(name) + len(f"{INSTANCE_SIGN}{INSTANCES_MAX}") > NAME_LENGTH_MAX:
        return too_long_for_instances(kind, name)
    for number in range(1, INSTANCES_MAX + 1):
        numbered, known = f"{name}{INSTANCE_SIGN}{number}", f"{identifier}{INSTANCE_SIGN}{number}"
        taken: Group | Resource | None
        if kind == "group":
            taken = config.groups.get(GroupId(known)) or config.group_named(numbered)
        else:
            taken = config.resources.get(ResourceId(known)) or config.resource_named(numbered)
        if taken is not None and taken.instance_of != identifier:
            return name_for_instances(kind, taken.name, name)
    return None


# --- one pattern ----------------------------------------------------------------------------------------------------


def _settle(config: Config, pattern_id: GroupId, before: Config | None) -> tuple[Config, tuple[Record, ...]]:
    pattern = config.groups[pattern_id]
    same = before is not None and _same(before, config, pattern)
    if pattern.parallel and pattern.released and (pattern.move is not None or pattern.halted):
        # It was owned until now, and what was decided about it then is over; from here on its instances are owned.
        pattern = replace(pattern, move=None, halted=False, released_because="it runs in instances")
        config = with_groups(config, [pattern])
    resources = list(config.resources_of(pattern_id))
    wanted = _count(config, pattern, resources)
    present = config.instances_of(pattern_id)
    records: tuple[Record, ...] = ()
    if len(present) > wanted:
        config, told = _remove(config, pattern, present, len(present) - wanted)
        records += told
    elif len(present) < wanted:
        config, told = _add(config, pattern, present, wanted - len(present))
        records += told
        same = False
    return config if same else _copy(config, config.groups[pattern_id], resources), records


def _same(before: Config, config: Config, pattern: Group) -> bool:
    """Whether everything that instances have from their pattern is what it was."""
    if before.nodes is not config.nodes or before.groups.get(pattern.id) is not pattern:
        return False
    if before.resources is config.resources:
        return True
    held, had = list(config.resources_of(pattern.id)), list(before.resources_of(pattern.id))
    return len(held) == len(had) and all(one is other for one, other in zip(held, had, strict=True))


def _count(config: Config, pattern: Group, resources: list[Resource]) -> int:
    """How many instances there should be. No more than the limits of a configuration leave room for."""
    if not pattern.parallel or not pattern.released or not resources:
        return 0
    present = len(config.instances_of(pattern.id))
    room = min(GROUPS_MAX - len(config.groups), (RESOURCES_MAX - len(config.resources)) // len(resources))
    limit = pattern.max_instances or INSTANCES_MAX
    return min(len(possible_nodes(config, pattern.id)), limit, present + max(0, room))


def _add(config: Config, pattern: Group, present: list[Group], count: int) -> tuple[Config, tuple[Record, ...]]:
    taken = {instance.instance for instance in present}
    free = [number for number in range(1, INSTANCES_MAX + 1) if number not in taken][:count]
    added = [
        Group(
            id=GroupId(f"{pattern.id}{INSTANCE_SIGN}{number}"),
            name=f"{pattern.name}{INSTANCE_SIGN}{number}",
            instance_of=pattern.id,
            instance=number,
            persistent_state=pattern.persistent_state,
            epoch=pattern.epoch,
            released_because="the instance was added",
        )
        for number in free
    ]
    records: tuple[Record, ...] = ()
    for instance in added:
        message = f"Instance {instance.name} of group {pattern.name} was added."
        because = f"{pattern.name} is to run on {len(present) + count} nodes"
        records += note("group.instance_added", message, kind="group", thing=instance.name, because=because)
    return with_groups(config, added), records


def _remove(config: Config, pattern: Group, present: list[Group], count: int) -> tuple[Config, tuple[Record, ...]]:
    """Take instances away: those that nobody owns at once, others from their owners first."""
    possible = set(possible_nodes(config, pattern.id))
    chosen = sorted(
        present,
        key=lambda each: (
            each.owned is not None,
            each.owned in possible,
            each.move is None or each.move.to is not None,
            -each.instance,
        ),
    )[:count]
    because = f"{pattern.name} runs in {len(present) - count} instances now"
    leaving = [
        replace(each, move=Move(to=None, cause=MoveCause.OWNERS_CHANGED, because=because), failover=None)
        for each in chosen
        if each.owned is not None and each.move is None
    ]
    config = with_groups(config, leaving)
    gone = {each.id for each in chosen if each.owned is None}
    if not gone:
        return config, ()
    newest = _newest_epoch(pattern, chosen)
    records: tuple[Record, ...] = ()
    for each in chosen:
        if each.id in gone:
            message = f"Instance {each.name} of group {pattern.name} was removed."
            records += note("group.instance_removed", message, kind="group", thing=each.name, because=because)
    config = replace(
        config,
        groups={known: each for known, each in config.groups.items() if known not in gone},
        resources={known: each for known, each in config.resources.items() if each.group not in gone},
    )
    return with_groups(config, [replace(pattern, epoch=newest)]), records


def _newest_epoch(pattern: Group, gone: list[Group]) -> int:
    """Nothing of the instances runs under any epoch that they had, and none of these is ever given again."""
    return max(pattern.epoch, *(each.epoch for each in gone))


def _copy(config: Config, pattern: Group, resources: list[Resource]) -> Config:
    """Give every instance what the pattern has, and take from it what the pattern has no more."""
    groups: list[Group] = []
    copies: list[Resource] = []
    lost: set[ResourceId] = set()
    for instance in config.instances_of(pattern.id):
        number = instance.instance
        values = {name: getattr(pattern, name) for name in _GROUP_FIELDS}
        copied = replace(instance, name=f"{pattern.name}{INSTANCE_SIGN}{number}", **values)
        made = [_copy_of(config, resource, instance.id, number) for resource in resources]
        known = {each.id for each in made}
        left = [each.id for each in config.resources_of(instance.id) if each.id not in known]
        lost.update(left)
        if copied.failover is not None and copied.failover.resource in left:
            copied = replace(copied, failover=None)
        if copied != instance:
            groups.append(copied)
        copies += [each for each in made if each != config.resources.get(each.id)]
    config = with_resources(with_groups(config, groups), copies)
    if not lost:
        return config
    return replace(config, resources={known: each for known, each in config.resources.items() if known not in lost})


def _copy_of(config: Config, resource: Resource, group: GroupId, number: int) -> Resource:
    known = ResourceId(f"{resource.id}{INSTANCE_SIGN}{number}")
    present = config.resources.get(known) or Resource(
        id=known,
        name="",
        type=resource.type,
        group=group,
        instance_of=resource.id,
        persistent_state=resource.persistent_state,
    )
    return replace(
        present,
        name=f"{resource.name}{INSTANCE_SIGN}{number}",
        depends_on=_numbered(resource.depends_on, number),
        **{name: getattr(resource, name) for name in _RESOURCE_FIELDS},
    )


def _numbered(resources: Iterable[ResourceId], number: int) -> tuple[ResourceId, ...]:
    return tuple(ResourceId(f"{each}{INSTANCE_SIGN}{number}") for each in resources)
