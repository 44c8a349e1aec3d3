"""Which node gets a group, and why not the others (Microsoft KB 299631).

A *candidate* is up, neither paused nor stopping, and a possible owner of every resource in the group. The *node list*
of a group is its preferred owners in order, then all other nodes in the order of their installation. What is chosen
from it depends on why the group moves:

| why | with preferred owners | without |
|---|---|---|
| a resource or network failed | next candidate below the owner in the node list, then from the top | the same |
| the node failed, or stops | next candidate below the owner in the node list, then from the top | any candidate |
| best possible, first placement | first preferred candidate, else any | any candidate |

"Any" is the original's random choice that spreads load; here it is a hash of the group and its epoch, so that every
node would choose alike and a plan can be foretold. Among equals, groups that repel each other (AntiAffinityClassNames)
are kept apart: the first choice that hosts none of them is taken, and only if every candidate hosts one, the rule
yields. In the same way a node on which a client network has failed that the group needs is passed over, unless there is
no other. An instance of a parallel group does not yield: a node that has another one is no candidate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from clussvc.groups.networks import cut_off
from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.states import MoveCause

_FAILED = (MoveCause.RESOURCE_FAILURE, MoveCause.NETWORK_FAILURE)
_ORDERED = (*_FAILED, MoveCause.NODE_DOWN, MoveCause.NODE_STOPPING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A node, or None, with the reason in words, and why each other node was passed over."""

    node: NodeId | None
    because: str
    rejected: tuple[tuple[NodeId, str], ...] = ()


@dataclass(slots=True)
class Hosting:
    """Which anti-affinity classes each node hosts; kept up to date while a plan is made."""

    classes: dict[NodeId, dict[str, set[GroupId]]] = field(default_factory=dict)
    places: dict[GroupId, NodeId] = field(default_factory=dict)
    instances: dict[GroupId, dict[GroupId, frozenset[NodeId]]] = field(default_factory=dict)
    """By parallel group and instance: where it is, and where it is to go. A wish of an instance that nobody owns is not
    among them: two of them could keep each other away from the same node for ever."""

    @classmethod
    def of(cls, config: Config) -> Hosting:
        """By owner, or by the decided target of a move."""
        hosting = cls()
        for group in config.groups.values():
            target = group.move.to if group.move is not None and group.move.to is not None else group.owned
            if target is not None:
                hosting.put(group, target)
            if group.owned is None:
                hosting._leave(group)
        return hosting

    def put(self, group: Group, node: NodeId) -> None:
        """The group is, or will be, on that node."""
        self.remove(group)
        if group.instance_of is not None:
            places = frozenset((node,)) if group.owned is None else frozenset((node, group.owned))
            self.instances.setdefault(group.instance_of, {})[group.id] = places
        if not group.anti_affinity:
            return
        self.places[group.id] = node
        hosted = self.classes.setdefault(node, {})
        for name in group.anti_affinity:
            hosted.setdefault(name, set()).add(group.id)

    def remove(self, group: Group) -> None:
        """The group is nowhere."""
        self._leave(group)
        node = self.places.pop(group.id, None)
        if node is None:
            return
        for name in group.anti_affinity:
            self.classes[node][name].discard(group.id)

    def _leave(self, group: Group) -> None:
        if group.instance_of is not None:
            self.instances.get(group.instance_of, {}).pop(group.id, None)

    def occupied_by(self, group: Group, node: NodeId) -> GroupId | None:
        """Another instance of the same parallel group that is on that node, or is to go there."""
        if group.instance_of is None:
            return None
        for other, places in self.instances.get(group.instance_of, {}).items():
            if other != group.id and node in places:
                return other
        return None

    def repelled_by(self, group: Group, node: NodeId) -> GroupId | None:
        """A group on that node that shares a class with this one."""
        hosted = self.classes.get(node, {})
        for name in group.anti_affinity:
            for other in sorted(hosted.get(name, ())):
                if other != group.id:
                    return other
        return None


def node_list(config: Config, group: Group) -> tuple[NodeId, ...]:
    """Preferred owners in order, then all other nodes in the order of installation."""
    preferred = [node for node in group.preferred_owners if node in config.nodes]
    return (*preferred, *sorted(node for node in config.nodes if node not in preferred))


def rejection(
    config: Config, resources: Iterable[Resource], node: NodeId, *, although_paused: bool = False
) -> str | None:
    """Why a node cannot take a group with these resources now; None if it can.

    ``although_paused``: a paused node keeps what it has, so it may also get back what it had last.
    """
    member = config.nodes.get(node)
    if member is None:
        return f"{config.node_name(node)} is no member of the cluster"
    if not member.up:
        return f"{member.name} is joining" if member.joining else f"{member.name} is down"
    if member.stopping:
        return f"{member.name} is being stopped"
    if member.paused and not although_paused:
        return f"{member.name} is paused"
    for resource in resources:
        if resource.possible_owners is not None and node not in resource.possible_owners:
            return f"{member.name} is no possible owner of {resource.name}"
    return None


def obstacle(
    config: Config,
    group: Group,
    node: NodeId,
    *,
    resources: Iterable[Resource],
    hosting: Hosting,
    although_paused: bool = False,
) -> str | None:
    """Like :func:`rejection`; and an instance of a parallel group never goes to a node that has another one."""
    other = hosting.occupied_by(group, node)
    reason = rejection(config, resources, node, although_paused=although_paused)
    if reason is not None or other is None:
        return reason
    return f"{config.node_name(node)} has {config.groups[other].name} already"


def choose_target(
    config: Config,
    group: Group,
    cause: MoveCause,
    *,
    resources: Iterable[Resource],
    hosting: Hosting,
    exclude: frozenset[NodeId] = frozenset(),
) -> Choice:
    """Choose the next owner; ``exclude`` names nodes that are not wanted although they could."""
    resources = list(resources)
    needed = [resource for resource in resources if resource.possible_owners is not None]
    reasons: dict[NodeId, str] = {}
    able: set[NodeId] = set()
    for node in sorted(config.nodes.keys() - exclude):
        reason = obstacle(config, group, node, resources=needed, hosting=hosting)
        if reason is None:
            able.add(node)
        else:
            reasons[node] = reason
    if not able:
        return Choice(node=None, because=_nobody(reasons, exclude), rejected=tuple(reasons.items()))
    away = {node: why for node, why in cut_off(config, resources).items() if node in able}
    if len(away) < len(able):
        able -= away.keys()
        reasons |= away
    ranked = _ranked(config, group, cause, able)
    order = [node for node in ranked if node in able]
    repelled = {node: hosting.repelled_by(group, node) for node in order} if group.anti_affinity else {}
    free = [node for node in order if repelled.get(node) is None]
    node = free[0] if free else order[0]
    if free:
        for other, hosted in repelled.items():
            if hosted is not None:
                name = config.groups[hosted].name
                reasons[other] = f"{config.node_name(other)} hosts {name}, which {group.name} keeps apart from"
    what = f"{config.node_name(node)} is {_rank(config, group, cause, node, able, exclude)}"
    if not free:
        what += f"; every such node hosts a group that {group.name} keeps apart from"
    if node in away:
        what += f"; every such node has lost a network that {group.name} needs"
    passed = ranked[: ranked.index(node)] if len(able) > 1 or node in group.preferred_owners else list(reasons)
    # Why the group leaves its owner, or does not get where it was to go, is told by whoever asked.
    known = (group.owner, group.move.to if group.move is not None else None)
    said = [reasons[other] for other in passed if other in reasons and other not in known]
    return Choice(node=node, because="; ".join((what, *said)), rejected=tuple(reasons.items()))


def _walks(config: Config, group: Group, cause: MoveCause) -> bool:
    """Whether the choice goes down the node list from the owner, rather than from the top or by chance."""
    if group.owner not in config.nodes:
        return False
    return cause in _FAILED or (bool(group.preferred_owners) and cause in _ORDERED)


def _ranked(config: Config, group: Group, cause: MoveCause, able: set[NodeId]) -> list[NodeId]:
    """The nodes that the rule looks at, best first; all of the able ones are among them."""
    listed = node_list(config, group)
    if group.owner is not None and _walks(config, group, cause):
        place = listed.index(group.owner) + 1
        return [*listed[place:], *listed[:place]]
    first = [node for node in listed if node in group.preferred_owners]
    rest = sorted(able.difference(first))
    if rest:
        turn = _spread(group) % len(rest)
        rest = rest[turn:] + rest[:turn]
    return first + rest


def _spread(group: Group) -> int:
    digest = hashlib.sha256(f"{group.id} {group.epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _rank(
    config: Config, group: Group, cause: MoveCause, node: NodeId, able: set[NodeId], exclude: frozenset[NodeId]
) -> str:
    """What the chosen node is, in words."""
    walked = _walks(config, group, cause)
    other = "other " if exclude else ""
    if node in group.preferred_owners:
        place = "next" if walked else f"first {other}".rstrip()
        return f"the {place} preferred owner that can take it"
    if len(able) == 1:
        return f"the only {other}node that can take it"
    return "the next node that can take it" if walked else f"one of the {other}nodes that can take it"


def _nobody(reasons: dict[NodeId, str], exclude: frozenset[NodeId]) -> str:
    other = "other " if exclude else ""
    if not reasons:
        return f"there is no {other}node"
    return f"no {other}node can take it: {'; '.join(reasons.values())}"
