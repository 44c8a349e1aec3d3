"""Which node gets a group, and why not the others (Microsoft KB 299631).

A *candidate* is up, neither paused nor stopping, and a possible owner of every resource in the group. The *node list*
of a group is its preferred owners in order, then all other nodes in the order of their installation. What is chosen
from it depends on why the group moves:

| why | with preferred owners | without |
|---|---|---|
| a resource failed | next candidate below the present owner in the node list, then from the top | the same |
| the node failed | next candidate below the present owner in the node list, then from the top | any candidate |
| best possible, first placement | first preferred candidate, else any | any candidate |

"Any" is the original's random choice that spreads load; here it is a hash of the group and its epoch, so that every
node would choose alike and a plan can be foretold. Among equals, groups that repel each other (AntiAffinityClassNames)
are kept apart: the first choice that hosts none of them is taken, and only if every candidate hosts one, the rule
yields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from clussvc.model.config import Config, Group, Resource
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.states import MoveCause

_ORDERED = (MoveCause.RESOURCE_FAILURE, MoveCause.NODE_DOWN, MoveCause.NODE_STOPPING)


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

    @classmethod
    def of(cls, config: Config) -> Hosting:
        """By owner, or by the decided target of a move."""
        hosting = cls()
        for group in config.groups.values():
            target = group.move.to if group.move is not None and group.move.to is not None else group.owned
            if target is not None:
                hosting.put(group, target)
        return hosting

    def put(self, group: Group, node: NodeId) -> None:
        """The group is, or will be, on that node."""
        self.remove(group)
        for name in group.anti_affinity:
            self.classes.setdefault(node, {}).setdefault(name, set()).add(group.id)

    def remove(self, group: Group) -> None:
        """The group is nowhere."""
        for name in group.anti_affinity:
            for hosted in self.classes.values():
                hosted.get(name, set()).discard(group.id)

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


def rejection(config: Config, resources: Iterable[Resource], node: NodeId) -> str | None:
    """Why a node cannot take a group with these resources now; None if it can."""
    member = config.nodes.get(node)
    if member is None:
        return f"{config.node_name(node)} is no member of the cluster"
    if not member.up:
        return f"{member.name} is joining" if member.joining else f"{member.name} is down"
    if member.stopping:
        return f"{member.name} is being stopped"
    if member.paused:
        return f"{member.name} is paused"
    for resource in resources:
        if resource.possible_owners is not None and node not in resource.possible_owners:
            return f"{member.name} is no possible owner of {resource.name}"
    return None


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
    needed = list(resources)
    rejected = []
    able = set()
    for node in sorted(config.nodes):
        reason = rejection(config, needed, node)
        if reason is not None:
            rejected.append((node, reason))
        elif node in exclude:
            rejected.append((node, f"the group is to leave {config.node_name(node)}"))
        else:
            able.add(node)
    order = _order(config, group, cause, able)
    for node in order:
        other = hosting.repelled_by(group, node)
        if other is None:
            return Choice(
                node=node, because=_because(config, group, node, cause, rejected, ""), rejected=tuple(rejected)
            )
        name = config.groups[other].name
        rejected.append((node, f"{config.node_name(node)} hosts {name}, which {group.name} keeps apart from"))
    if order:
        node = order[0]
        apart = "every candidate hosts a group that it keeps apart from"
        rejected = [(n, reason) for n, reason in rejected if n not in able]
        because = _because(config, group, node, cause, rejected, apart)
        return Choice(node=node, because=because, rejected=tuple(rejected))
    reasons = "; ".join(reason for _, reason in rejected) or "the cluster has no nodes"
    return Choice(node=None, because=f"no node can take it: {reasons}", rejected=tuple(rejected))


def _order(config: Config, group: Group, cause: MoveCause, able: set[NodeId]) -> list[NodeId]:
    """The candidates, best first."""
    listed = node_list(config, group)
    preferred = bool(group.preferred_owners)
    walks = cause is MoveCause.RESOURCE_FAILURE or (preferred and cause in _ORDERED)
    if walks and group.owner in listed:
        place = listed.index(group.owner) + 1
        return [node for node in (*listed[place:], *listed[:place]) if node in able]
    first = [node for node in listed[: len(group.preferred_owners)] if node in able]
    rest = sorted(node for node in able if node not in first)
    if rest:
        turn = _spread(group) % len(rest)
        rest = rest[turn:] + rest[:turn]
    return first + rest


def _spread(group: Group) -> int:
    digest = hashlib.sha256(f"{group.id} {group.epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _because(
    config: Config, group: Group, node: NodeId, cause: MoveCause, rejected: list[tuple[NodeId, str]], apart: str
) -> str:
    name = config.node_name(node)
    listed = node_list(config, group)
    if node in group.preferred_owners:
        walked = cause in _ORDERED and group.owner is not None
        rank = "the next preferred owner" if walked else "the first preferred owner"
        what = f"{name} is {rank} that can take it"
    elif cause is MoveCause.RESOURCE_FAILURE or group.preferred_owners:
        what = f"{name} is the next node that can take it"
    else:
        what = f"{name} was chosen among the nodes that can take it"
    if apart:
        what = f"{what} ({apart})"
    passed = [reason for other, reason in rejected if other != group.owner and _before(listed, other, node)]
    return f"{what}; {'; '.join(passed)}" if passed else what


def _before(listed: tuple[NodeId, ...], other: NodeId, node: NodeId) -> bool:
    return other in listed and listed.index(other) < listed.index(node)
