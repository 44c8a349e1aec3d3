"""Why a group is where it is, and where else it could go, in sentences for administrators.

Everything is derived from the configuration by the functions that also decide, so an explanation cannot differ from
what the cluster does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clussvc.global_update.instances import possible_nodes
from clussvc.global_update.update import AssignGroup
from clussvc.groups.failover_policy import failback, may_fail_over
from clussvc.groups.networks import cut_off
from clussvc.groups.placement import Hosting, choose_target, node_list, obstacle, rejection
from clussvc.groups.planner import plan
from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.states import MoveCause


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One node as a place for the group."""

    node: str
    able: bool
    """Whether it could take the group now, or has it."""
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The answer; ``because`` is the reason that was given when the group came where it is."""

    group: str
    owner: str
    because: str
    candidates: tuple[Candidate, ...]
    """All nodes, in the order of the group's node list."""
    next: str
    """Where the group goes if nobody owns it, or would go if a resource failed for good."""
    policies: tuple[str, ...]


def explain_group(config: Config, group_id: GroupId, *, now_ms: int) -> Explanation:
    """Explain a group, which must exist; ``now_ms`` is the wall clock, for failover periods and failback windows.

    A parallel group is explained as a whole; each of its instances is a group that can be asked about as well.
    """
    group = config.groups[group_id]
    resources = list(config.resources_of(group_id))
    hosting = Hosting.of(config)
    if group.parallel or config.instances_of(group_id):
        return _explain_parallel(config, group, resources, hosting, now_ms)
    return Explanation(
        group=group.name,
        owner=_owner(config, group),
        because=_because(group),
        candidates=tuple(_candidates(config, group, resources, hosting)),
        next=_next(config, group, resources, hosting, now_ms),
        policies=tuple(_policies(config, group, resources, hosting, now_ms)),
    )


def _owner(config: Config, group: Group) -> str:
    if group.owned is None:
        last = f"; {config.node_name(group.owner)} had it last" if group.owner is not None else ""
        return f"Nobody owns {group.name}{last}."
    owner = config.node_name(group.owned)
    if group.move is None:
        return f"{owner} owns {group.name}."
    to = config.node_name(group.move.to) if group.move.to is not None else "a node that is chosen when it is released"
    return f"{owner} owns {group.name}, which is on its way to {to}: {group.move.because}."


def _because(group: Group) -> str:
    reason = group.released_because if group.released else group.placed_because
    return f"{reason[:1].upper()}{reason[1:]}." if reason else ""


def _candidates(config: Config, group: Group, resources: list[Resource], hosting: Hosting) -> Iterator[Candidate]:
    away = cut_off(config, resources)
    for node in node_list(config, group):
        name = config.node_name(node)
        preference = _preference(group, node)
        if node == group.owned:
            lost = f"; {away[node]}" if node in away else ""
            yield Candidate(node=name, able=True, words=f"{name} owns it{preference}{lost}")
            continue
        reason = obstacle(config, group, node, resources=resources, hosting=hosting)
        if reason is not None:
            yield Candidate(node=name, able=False, words=f"{reason}{preference}")
            continue
        other = hosting.repelled_by(group, node)
        if node in away:
            yield Candidate(
                node=name, able=True, words=f"{name} can take it as the last resort: {away[node]}{preference}"
            )
        elif other is not None:
            apart = f"{name} can take it, but hosts {config.groups[other].name}, which it keeps apart from"
            yield Candidate(node=name, able=True, words=f"{apart}{preference}")
        else:
            yield Candidate(node=name, able=True, words=f"{name} can take it{preference}")


def _preference(group: Group, node: NodeId) -> str:
    if node not in group.preferred_owners:
        return ""
    return f" (preferred owner {group.preferred_owners.index(node) + 1} of {len(group.preferred_owners)})"


def _next(config: Config, group: Group, resources: list[Resource], hosting: Hosting, now_ms: int) -> str:
    """What the planner does with a group that nobody owns, or would do with one whose resource fails for good."""
    if group.owned is None:
        planned = plan(config, now_ms=now_ms)
        for update in planned.updates:
            if isinstance(update, AssignGroup) and update.group == group.id:
                return f"It goes to {config.node_name(update.to)}: {update.because}."
        for blocked in planned.blocked:
            if blocked.group == group.id:
                return f"It waits: {blocked.because}."
        raise AssertionError(group.id)
    choice = choose_target(
        config,
        group,
        MoveCause.RESOURCE_FAILURE,
        resources=resources,
        hosting=hosting,
        exclude=frozenset((group.owned,)),
    )
    if choice.node is None:
        return f"If a resource fails for good, the group stays: {choice.because}."
    return f"If a resource fails for good, the group goes to {config.node_name(choice.node)}: {choice.because}."


def _policies(config: Config, group: Group, resources: list[Resource], hosting: Hosting, now_ms: int) -> Iterator[str]:
    used = may_fail_over(group, now_ms)
    yield f"Failover: {used.because}." if used.allowed else f"Failover: not now, {used.because}."
    if group.halted:
        yield "It failed over too often and is kept offline until somebody brings it online."
    if group.failover is not None:
        yield f"A failover is asked for: {group.failover.because}."
    yield _failback_words(group)
    waiting = failback(config, group, resources=resources, hosting=hosting, now_ms=now_ms)
    if waiting is not None:
        yield f"{waiting.because[:1].upper()}{waiting.because[1:]}."
    apart = [
        f"{other.name} ({config.node_name(other.owned)})"
        for other in config.groups.values()
        if other.id != group.id
        and not other.parallel
        and (other.instance_of is None or other.instance_of not in (group.id, group.instance_of))
        and not set(group.anti_affinity).isdisjoint(other.anti_affinity)
    ]
    if apart:
        yield f"Keeps apart, where it can, from {', '.join(apart)}."


def _failback_words(group: Group) -> str:
    if not group.auto_failback:
        return "Failback: off (AutoFailbackType is 0)."
    if not group.preferred_owners:
        return "Failback: never, since the group has no preferred owners."
    start, end = group.failback_window_start_h, group.failback_window_end_h
    always = start < 0 or end < 0 or start == end
    when = "at once" if always else f"between {start:02}:00 and {end:02}:00"
    by_hand = "; not now, since an administrator put the group where it is" if group.moved_by_hand else ""
    return f"Failback: {when}, when a node comes up that it prefers to its owner{by_hand}."


# --- a parallel group as a whole ------------------------------------------------------------------------------------


def _explain_parallel(
    config: Config, group: Group, resources: list[Resource], hosting: Hosting, now_ms: int
) -> Explanation:
    instances = config.instances_of(group.id)
    places = {each.owned: each for each in instances if each.owned is not None}
    candidates: list[Candidate] = []
    spare: list[str] = []
    for node in node_list(config, group):
        name, preference = config.node_name(node), _preference(group, node)
        reason = rejection(config, resources, node)
        if node in places:
            candidates.append(Candidate(node=name, able=True, words=f"{name} has {places[node].name}{preference}"))
        elif reason is not None:
            candidates.append(Candidate(node=name, able=False, words=f"{reason}{preference}"))
        else:
            spare.append(name)
            candidates.append(Candidate(node=name, able=True, words=f"{name} can take an instance{preference}"))
    return Explanation(
        group=group.name,
        owner=_instances(config, group, instances),
        because=_why_so_many(config, group, resources),
        candidates=tuple(candidates),
        next=_spare(spare),
        policies=tuple(_policies_of_instances(config, group, instances, hosting, now_ms)),
    )


def _instances(config: Config, group: Group, instances: list[Group]) -> str:
    if group.owned is not None:
        return f"{config.node_name(group.owned)} still owns {group.name}, which has instances when it has let it go."
    if not instances:
        return f"{group.name} is parallel and has no instances, since it has no resources."
    said = [
        f"{each.name} on {config.node_name(each.owned)}" if each.owned is not None else f"{each.name} nowhere"
        for each in instances
    ]
    return f"{group.name} runs in {len(instances)} instances: {', '.join(said)}."


def _why_so_many(config: Config, group: Group, resources: list[Resource]) -> str:
    if not group.parallel:
        return "It is to run on one node from now on; its instances end first."
    count = len(possible_nodes(config, group.id)) if resources else 0
    limit = f"at most {group.max_instances} (MaxInstances)" if group.max_instances else "no limit (MaxInstances is 0)"
    return f"One instance on a node: {count} possible owners, {limit}."


def _spare(spare: list[str]) -> str:
    if not spare:
        return "There is no spare node: an instance that fails for good stays, and that of a node that dies waits."
    return f"An instance that fails for good, or whose node dies, goes to a spare node: {', '.join(spare)}."


def _policies_of_instances(
    config: Config, group: Group, instances: list[Group], hosting: Hosting, now_ms: int
) -> Iterator[str]:
    for each in instances:
        used = may_fail_over(each, now_ms)
        halted = "; it failed over too often and is kept offline" if each.halted else ""
        yield f"{each.name}: {used.because}{halted}."
        waiting = failback(config, each, resources=config.resources_of(each.id), hosting=hosting, now_ms=now_ms)
        if waiting is not None:
            yield f"{each.name}: {waiting.because}."
    yield _failback_words(group)
