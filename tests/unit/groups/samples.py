"""Small configurations for tests of decisions about groups."""

from __future__ import annotations

from dataclasses import replace

from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import ClusterId, GroupId, NodeId, ResourceId
from clussvc.model.states import ResourceState

NOW_MS = 1_767_225_600_000 + 12 * 3_600_000
"""2026-01-01 12:00 UTC."""
N1, N2, N3, N4 = NodeId(1), NodeId(2), NodeId(3), NodeId(4)
SQL, WEB = GroupId("SQL"), GroupId("WEB")
APP, SITE = ResourceId("APP"), ResourceId("SITE")


def node(number: int, **fields: object) -> Node:
    """A voter that is up."""
    made = Node(
        id=NodeId(number),
        name=f"NODE{number}",
        addresses=(f"192.0.2.{number}",),
        port=3343,
        voter=True,
        up=True,
        joining=False,
        incarnation=1,
        boot=1,
        attempt=1,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def group(name: str, owner: int | None = None, *preferred: int, **fields: object) -> Group:
    """A group that is wanted online; without an owner it was just created."""
    made = Group(
        id=GroupId(name),
        name=name,
        persistent_state=True,
        owner=NodeId(owner) if owner is not None else None,
        epoch=0 if owner is None else 1,
        released=owner is None,
        released_because="the group was created" if owner is None else "",
        placed_because="" if owner is None else "it was put there",
        preferred_owners=tuple(NodeId(number) for number in preferred),
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def resource(name: str, in_group: str, *possible: int, **fields: object) -> Resource:
    """An online resource; no possible owners mean every node."""
    made = Resource(
        id=ResourceId(name),
        name=name,
        type="Generic Application",
        group=GroupId(in_group),
        persistent_state=True,
        state=ResourceState.ONLINE,
        private={"CommandLine": "sleep 1000"},
        possible_owners=tuple(NodeId(number) for number in possible) or None,
    )
    return replace(made, **fields)  # type: ignore[arg-type]


def cluster(*things: Node | Group | Resource) -> Config:
    """A configuration of these things; three nodes if none are named."""
    nodes = [thing for thing in things if isinstance(thing, Node)] or [node(number) for number in (1, 2, 3)]
    return Config(
        cluster=ClusterId("c"),
        name="C",
        next_node_id=len(nodes) + 1,
        nodes={each.id: each for each in nodes},
        groups={each.id: each for each in things if isinstance(each, Group)},
        resources={each.id: each for each in things if isinstance(each, Resource)},
    )
