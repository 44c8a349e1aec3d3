"""Choosing a node, in the words of Microsoft KB 299631; the planner's scenarios hold the many cases."""

from __future__ import annotations

from collections import Counter

import pytest

from clussvc.groups.placement import Choice, Hosting, choose_target, node_list, rejection
from clussvc.model.config import Config, Move
from clussvc.model.ids import GroupId, NodeId
from clussvc.model.states import MoveCause
from tests.unit.groups.samples import N1, N2, N3, N4, SQL, WEB, cluster, group, node, resource


def choose(config: Config, name: GroupId, cause: MoveCause, *exclude: NodeId) -> Choice:
    return choose_target(
        config,
        config.groups[name],
        cause,
        resources=list(config.resources_of(name)),
        hosting=Hosting.of(config),
        exclude=frozenset(exclude),
    )


def test_node_list() -> None:
    """Preferred owners in order, then the others by number; a preferred owner that was evicted is skipped."""
    nodes = [node(number) for number in (1, 2, 3, 4)]
    config = cluster(*nodes, group("SQL", 1, 4, 9, 2))

    assert (N4, N2, N1, N3) == node_list(config, config.groups[SQL])


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, None),
        ({"up": False}, "NODE2 is down"),
        ({"up": False, "joining": True}, "NODE2 is joining"),
        ({"stopping": True}, "NODE2 is being stopped"),
        ({"paused": True}, "NODE2 is paused"),
        ({"paused": True, "up": False}, "NODE2 is down"),
    ],
)
def test_rejection_of_a_node(fields: dict[str, bool], why: str | None) -> None:
    """The first reason that applies."""
    assert why == rejection(cluster(node(1), node(2, **fields)), [], N2)


def test_rejection_of_a_stranger() -> None:
    """A node that was evicted has no name any more."""
    assert rejection(cluster(), [], NodeId(9)) == "node 9 is no member of the cluster"


def test_rejection_by_possible_owners() -> None:
    """Every resource counts, and the first that forbids the node is named."""
    resources = [resource("DISK", "SQL"), resource("APP", "SQL", 1, 3), resource("IP", "SQL", 1)]

    assert rejection(cluster(), resources, N1) is None
    assert rejection(cluster(), resources, N2) == "NODE2 is no possible owner of APP"
    assert rejection(cluster(), resources, N3) == "NODE3 is no possible owner of IP"


def test_a_pause_may_be_overlooked() -> None:
    """For the node that had the group last."""
    config = cluster(node(1), node(2, paused=True))

    assert rejection(config, [], N2, although_paused=True) is None


@pytest.mark.parametrize(
    ("owner", "cause", "chosen"),
    [
        (1, MoveCause.RESOURCE_FAILURE, N3),
        (3, MoveCause.RESOURCE_FAILURE, N2),
        (2, MoveCause.RESOURCE_FAILURE, N4),
        (4, MoveCause.RESOURCE_FAILURE, N1),
        (3, MoveCause.NODE_DOWN, N2),
        (3, MoveCause.NODE_STOPPING, N2),
        (3, MoveCause.ADMIN, N1),
        (3, MoveCause.OWNERS_CHANGED, N1),
    ],
)
def test_from_the_owner_or_from_the_top(owner: int, cause: MoveCause, chosen: NodeId) -> None:
    """The node list is 1 3 2 4; failures walk on from the owner, best possible begins at the top."""
    nodes = [node(number) for number in (1, 2, 3, 4)]
    config = cluster(*nodes, group("SQL", owner, 1, 3, 2))

    assert chosen == choose(config, SQL, cause, NodeId(owner)).node


def test_an_evicted_owner_has_no_place_in_the_list() -> None:
    """Then the walk begins at the top."""
    config = cluster(group("SQL", 9, 3, 2))

    choice = choose(config, SQL, MoveCause.NODE_DOWN)

    assert choice.node == N3
    assert choice.because == "NODE3 is the first preferred owner that can take it"


def test_chance_is_spread_and_repeatable() -> None:
    """Without preferred owners the groups of a dead node go to all others, to the same ones every time."""
    names = [f"G{number}" for number in range(200)]
    config = cluster(node(1, up=False), node(2), node(3), node(4), *(group(name, 1) for name in names))
    first = [choose(config, GroupId(name), MoveCause.NODE_DOWN).node for name in names]
    again = [choose(config, GroupId(name), MoveCause.NODE_DOWN).node for name in names]

    assert first == again
    counts = Counter(first)
    assert {N2, N3, N4} == set(counts)
    assert min(counts.values()) > 40


def test_a_group_does_not_repel_itself() -> None:
    """Its own place is no reason against a node."""
    config = cluster(group("SQL", 2, anti_affinity=("db",)))

    assert Hosting.of(config).repelled_by(config.groups[SQL], N2) is None


def test_hosting_follows_the_plan() -> None:
    """A group counts where it was put last, by its move rather than by its owner."""
    moving = Move(to=N3, cause=MoveCause.ADMIN, because="a test")
    config = cluster(group("SQL", 1, anti_affinity=("db",)), group("WEB", 2, anti_affinity=("db",), move=moving))
    hosting, sql, web = Hosting.of(config), config.groups[SQL], config.groups[WEB]

    assert [None, None, WEB] == [hosting.repelled_by(sql, each) for each in (N1, N2, N3)]
    hosting.put(web, N2)
    assert [None, WEB, None] == [hosting.repelled_by(sql, each) for each in (N1, N2, N3)]
    hosting.remove(web)
    assert [None, None, None] == [hosting.repelled_by(sql, each) for each in (N1, N2, N3)]


def test_excluded_nodes_are_not_explained() -> None:
    """Whoever excluded them knows why."""
    config = cluster(node(1), group("SQL", 1))

    assert choose(config, SQL, MoveCause.ADMIN, N1).because == "there is no other node"


def test_all_reasons_when_nobody_can() -> None:
    """The choice carries them in words and as data."""
    config = cluster(node(1, up=False), node(2, paused=True), group("SQL", 1))

    choice = choose(config, SQL, MoveCause.NODE_DOWN)

    assert choice.node is None
    assert choice.because == "no node can take it: NODE1 is down; NODE2 is paused"
    assert choice.rejected == ((N1, "NODE1 is down"), (N2, "NODE2 is paused"))
