"""What the cluster would do: the same decisions as in the planner's scenarios, told as a whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.groups.what_if import (
    GroupMoved,
    Hypothesis,
    NodeDies,
    NodePaused,
    NodeResumed,
    NodeReturns,
    OwnerChange,
    ResourceFails,
    WhatIf,
    simulate,
)
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.witness import Witness
from tests.unit.groups.samples import APP, N1, N2, N3, NOW_MS, SITE, SQL, WEB, cluster, group, node, resource

HEALTHY = cluster(
    group("SQL", 1, 1, 3, 2), group("WEB", 2), resource("APP", "SQL"), resource("SITE", "WEB", restart_action=1)
)


def ask(hypothesis: Hypothesis, config: Config = HEALTHY) -> WhatIf:
    """The answer; asking changes nothing."""
    before = replace(config)
    answer = simulate(config, hypothesis, now_ms=NOW_MS)
    assert before == config
    return answer


def test_a_death() -> None:
    """Its groups go where the planner sends them; the others stay."""
    answer = ask(NodeDies(node=N1))

    assert answer.event == "Node NODE1 dies."
    assert answer.quorum == "2 of 3 voters would be up, 2 are needed: the cluster goes on."
    assert answer.steps == (
        "Node NODE1 went down: it was switched off.",
        "Group SQL moved from NODE1 to NODE3: NODE1 went down; NODE3 is the next preferred owner that can take it.",
    )
    assert answer.changes == (OwnerChange(group="SQL", before="NODE1", after="NODE3"),)
    assert answer.unchanged == 1
    assert answer.blocked == answer.later == ()


def test_with_a_quorum_disk_one_node_is_enough() -> None:
    quorum = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1")
    config = replace(cluster(node(1), node(2), node(3, up=False), group("SQL", 1)), quorum=quorum)

    answer = ask(NodeDies(node=N1), config)

    assert answer.quorum == "1 of 3 nodes would be up; the cluster goes on with the quorum disk."
    assert [(each.group, each.after) for each in answer.changes] == [("SQL", "NODE2")]


def test_a_death_too_many() -> None:
    """Without a majority nobody decides anything and every group stops."""
    config = cluster(node(1), node(2), node(3, up=False), group("SQL", 1), group("WEB", 2))

    answer = ask(NodeDies(node=N1), config)

    assert "no node would hold quorum" in answer.quorum
    assert [(each.group, each.after) for each in answer.changes] == [("SQL", None), ("WEB", None)]


def test_nodes_without_a_vote_do_not_count() -> None:
    """Three are up, but only one of two voters would be."""
    config = cluster(node(1), node(2), node(3, voter=False), group("SQL", 1))

    assert ask(NodeDies(node=N1), config).quorum.startswith("1 of 2 voters would be up, 2 are needed")


def test_a_group_that_nobody_could_take() -> None:
    """It is named with all reasons."""
    config = cluster(group("SQL", 1), resource("APP", "SQL", 1))

    answer = ask(NodeDies(node=N1), config)

    assert answer.changes == (OwnerChange(group="SQL", before="NODE1", after=None),)
    assert answer.blocked == (
        "SQL: no node can take it: NODE1 is down; NODE2 is no possible owner of APP; NODE3 is no possible owner of"
        " APP.",
    )


def test_a_return_with_failback() -> None:
    """The group goes home."""
    config = cluster(node(1, up=False), node(2), node(3), group("SQL", 2, 1, auto_failback=True))

    answer = ask(NodeReturns(node=N1), config)

    assert answer.changes == (OwnerChange(group="SQL", before="NODE2", after="NODE1"),)


def test_a_return_outside_the_window() -> None:
    """The group would go later."""
    sql = group("SQL", 2, 1, auto_failback=True, failback_window_start_h=22, failback_window_end_h=6)
    config = cluster(node(1, up=False), node(2), node(3), sql)

    answer = ask(NodeReturns(node=N1), config)

    assert answer.changes == ()
    assert answer.later == ("SQL: NODE1 can take it again and is preferred to NODE2, but failback waits until 22:00.",)


def test_the_end_of_a_pause() -> None:
    """A waiting group finds an owner."""
    config = cluster(node(1, paused=True), node(2), node(3), group("SQL", None), resource("APP", "SQL", 1))

    answer = ask(NodeResumed(node=N1), config)

    assert answer.changes == (OwnerChange(group="SQL", before=None, after="NODE1"),)


def test_a_pause() -> None:
    """Nothing moves."""
    answer = ask(NodePaused(node=N1))

    assert answer.steps == ("Node NODE1 is paused: it keeps its groups and takes no others.",)
    assert answer.changes == ()
    assert answer.unchanged == 2


@pytest.mark.parametrize(("to", "after"), [(N2, "NODE2"), (None, "NODE3")])
def test_a_move(to: NodeId | None, after: str) -> None:
    """By name, or to the best possible node."""
    answer = ask(GroupMoved(group=SQL, to=to))

    assert answer.changes == (OwnerChange(group="SQL", before="NODE1", after=after),)


def test_a_resource_that_fails_for_good() -> None:
    """Restarts are used up, then the group fails over."""
    answer = ask(ResourceFails(resource=APP))

    assert answer.steps == (
        "Resource APP fails on NODE1: 3 of 3 restarts used in the last 15 min, so its group should fail over.",
        "Group SQL moved from NODE1 to NODE3: APP failed; NODE3 is the next preferred owner that can take it.",
    )


def test_a_resource_that_does_not_affect_its_group() -> None:
    """The group stays, and the step says why."""
    answer = ask(ResourceFails(resource=SITE))

    assert answer.changes == ()
    assert answer.steps == (
        "Resource SITE fails on NODE2: 3 of 3 restarts used in the last 15 min, and its RestartAction is 1, so the"
        " group stays.",
    )


def test_one_failover_too_many() -> None:
    """The denial is told with its reason."""
    config = cluster(group("SQL", 1, failover_threshold=1, failovers=(NOW_MS,)), resource("APP", "SQL"))

    answer = ask(ResourceFails(resource=APP), config)

    assert answer.changes == ()
    assert answer.steps[-1] == (
        "Group SQL stays on NODE1 and is kept offline: APP failed; but 1 of 1 failovers used in the last 6 h."
    )


@pytest.mark.parametrize(
    ("hypothesis", "obstacle"),
    [
        (NodeDies(node=N3), "NODE3 is down already."),
        (NodeReturns(node=N1), "NODE1 is up already."),
        (NodeReturns(node=N2), "NODE2 is paused already."),
        (NodePaused(node=N2), "NODE2 is paused already."),
        (GroupMoved(group=SQL, to=N1), "NODE1 owns SQL already."),
        (ResourceFails(resource=SITE), "Nobody owns group WEB now, so nothing of it can fail."),
        (ResourceFails(resource=APP), "APP is to be offline, so it cannot fail."),
    ],
    ids=lambda each: type(each).__name__ if not isinstance(each, str) else "",
)
def test_what_cannot_happen(hypothesis: Hypothesis, obstacle: str) -> None:
    """The only step says why; nothing follows."""
    config = cluster(
        node(1),
        node(2, paused=True),
        node(3, up=False),
        group("SQL", 1),
        group("WEB"),
        resource("APP", "SQL", persistent_state=False),
        resource("SITE", "WEB"),
    )

    answer = ask(hypothesis, config)

    assert answer.steps == (obstacle,)
    assert answer.changes == ()


@pytest.mark.parametrize("hypothesis", [NodeResumed(node=N1), GroupMoved(group=WEB, to=N3)])
def test_what_the_cluster_would_refuse(hypothesis: Hypothesis) -> None:
    """In the words of the refusal."""
    config = cluster(node(1), node(2), node(3, paused=True), group("WEB", 1))

    answer = ask(hypothesis, config)

    assert len(answer.steps) == 1
    assert "paused" in answer.steps[0]
    assert answer.changes == ()


def test_half_of_the_voters_goes_on_with_a_witness_that_is_open() -> None:
    config = replace(HEALTHY, nodes={number: HEALTHY.nodes[number] for number in (N1, N2)}, voters_version=3)
    witness = Witness(path="/mnt/witness", token="0" * 16, opened=3)

    assert "no node would hold quorum" in ask(NodeDies(node=N1), config).quorum
    assert "if the witness is reached" in ask(NodeDies(node=N1), replace(config, witness=witness)).quorum
    closed = replace(witness, opened=2)
    assert "no node would hold quorum" in ask(NodeDies(node=N1), replace(config, witness=closed)).quorum
