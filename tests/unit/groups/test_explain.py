"""Explanations agree with the decisions and name what matters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.instances import with_instances
from clussvc.global_update.outcome import with_groups
from clussvc.groups.explain import Explanation, explain_group
from clussvc.model.config import Config, FailoverRequest, Move
from clussvc.model.ids import NodeId
from clussvc.model.states import MoveCause, ResourceState
from tests.unit.groups.samples import APP, N3, NOW_MS, SQL, WEB, cluster, group, node, resource


def explained(config: Config) -> Explanation:
    return explain_group(config, SQL, now_ms=NOW_MS)


def test_a_group_at_rest() -> None:
    """Owner, reason, all nodes in the order of the node list, what comes next, and the policies."""
    config = cluster(
        node(1),
        node(2),
        node(3),
        node(4, paused=True),
        group("SQL", 3, 3, 4, anti_affinity=("db",)),
        group("ERP", 1, anti_affinity=("db",)),
        resource("APP", "SQL"),
    )

    answer = explained(config)

    assert answer.owner == "NODE3 owns SQL."
    assert answer.because == "It was put there."
    assert [(each.node, each.able, each.words) for each in answer.candidates] == [
        ("NODE3", True, "NODE3 owns it (preferred owner 1 of 2)"),
        ("NODE4", False, "NODE4 is paused (preferred owner 2 of 2)"),
        ("NODE1", True, "NODE1 can take it, but hosts ERP, which it keeps apart from"),
        ("NODE2", True, "NODE2 can take it"),
    ]
    assert answer.next == (
        "If a resource fails for good, the group goes to NODE2: NODE2 is the next node that can take it; NODE4 is"
        " paused; NODE1 hosts ERP, which SQL keeps apart from."
    )
    assert answer.policies == (
        "Failover: 0 of 10 failovers used in the last 6 h.",
        "Failback: off (AutoFailbackType is 0).",
        "Keeps apart, where it can, from ERP (NODE1).",
    )


def test_a_group_that_waits() -> None:
    """Nobody owns it; the reasons are those of the planner."""
    config = cluster(
        node(1, up=False), group("SQL", 1, released=True, released_because="NODE1 went down: it is silent")
    )

    answer = explained(config)

    assert answer.owner == "Nobody owns SQL; NODE1 had it last."
    assert answer.because == "NODE1 went down: it is silent."
    assert answer.next == "It waits: no node can take it: NODE1 is down."


def test_a_group_about_to_be_assigned() -> None:
    """The next decision is foretold."""
    answer = explained(cluster(group("SQL", None, 2)))

    assert answer.owner == "Nobody owns SQL."
    assert answer.next == (
        "It goes to NODE2: the group was created; NODE2 is the first preferred owner that can take it."
    )


def test_a_group_on_its_way() -> None:
    """Where to, and why."""
    moving = Move(to=N3, cause=MoveCause.ADMIN, because="ada moved it")

    assert explained(cluster(group("SQL", 1, move=moving))).owner == (
        "NODE1 owns SQL, which is on its way to NODE3: ada moved it."
    )


def test_a_group_that_cannot_leave() -> None:
    """A failure would leave it where it is."""
    assert explained(cluster(node(1), group("SQL", 1))).next == (
        "If a resource fails for good, the group stays: there is no other node."
    )


def test_failovers_used_up() -> None:
    """Halted, and what ends it."""
    answer = explained(cluster(group("SQL", 1, halted=True, failover_threshold=1, failovers=(NOW_MS,))))

    assert answer.policies[:2] == (
        "Failover: not now, 1 of 1 failovers used in the last 6 h.",
        "It failed over too often and is kept offline until somebody brings it online.",
    )


def test_a_failover_that_is_asked_for() -> None:
    """The wish of the owner is shown."""
    wish = FailoverRequest(resource=APP, because="APP failed", at_ms=NOW_MS)

    assert "A failover is asked for: APP failed." in explained(cluster(group("SQL", 1, failover=wish))).policies


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "Failback: never, since the group has no preferred owners."),
        ({"preferred_owners": (N3,)}, "Failback: at once, when a node comes up that it prefers to its owner."),
        (
            {"preferred_owners": (N3,), "failback_window_start_h": 22, "failback_window_end_h": 6},
            "Failback: between 22:00 and 06:00, when a node comes up that it prefers to its owner.",
        ),
        (
            {"preferred_owners": (N3,), "moved_by_hand": True},
            "Failback: at once, when a node comes up that it prefers to its owner; not now, since an administrator put"
            " the group where it is.",
        ),
    ],
    ids=["no list", "at once", "window", "by hand"],
)
def test_failback_in_words(fields: dict[str, object], words: str) -> None:
    """The policy as it is set."""
    assert words in explained(cluster(group("SQL", 1, auto_failback=True, **fields))).policies


def test_a_failback_that_waits() -> None:
    """The hour is named."""
    sql = group("SQL", 1, 3, auto_failback=True, homecoming=True, failback_window_start_h=22, failback_window_end_h=6)

    assert explained(cluster(sql)).policies[-1] == (
        "NODE3 can take it again and is preferred to NODE1, but failback waits until 22:00."
    )


def parallel(*owners: int | None, anti_affinity: tuple[str, ...] = ()) -> Config:
    """WEB on at most as many nodes of four, with its instances on these; NODE4 is paused."""
    config = cluster(
        *(node(number) for number in (1, 2, 3)),
        node(4, paused=True),
        group("WEB", group_type="parallel", max_instances=len(owners), anti_affinity=anti_affinity),
        resource("SITE", "WEB", state=ResourceState.OFFLINE),
    )
    config, _ = with_instances(config)
    placed = [
        replace(each, owner=NodeId(owner), epoch=1, released=False) if owner else each
        for each, owner in zip(config.instances_of(WEB), owners, strict=True)
    ]
    return with_groups(config, placed)


def test_a_parallel_group() -> None:
    """Where its instances are, which nodes are spare, and how often each instance failed over."""
    answer = explain_group(parallel(1, 3), WEB, now_ms=NOW_MS)

    assert answer.owner == "WEB runs in 2 instances: WEB#1 on NODE1, WEB#2 on NODE3."
    assert answer.because == "One instance on a node: 4 possible owners, at most 2 (MaxInstances)."
    assert [(each.able, each.words) for each in answer.candidates] == [
        (True, "NODE1 has WEB#1"),
        (True, "NODE2 can take an instance"),
        (True, "NODE3 has WEB#2"),
        (False, "NODE4 is paused"),
    ]
    assert answer.next == "An instance that fails for good, or whose node dies, goes to a spare node: NODE2."
    assert answer.policies == (
        "WEB#1: 0 of 10 failovers used in the last 6 h.",
        "WEB#2: 0 of 10 failovers used in the last 6 h.",
        "Failback: off (AutoFailbackType is 0).",
    )


def test_one_instance() -> None:
    """It is explained like any group; a node with another instance cannot take it, and is no stranger to keep from."""
    config = parallel(1, 3, anti_affinity=("web",))
    answer = explain_group(config, config.instances_of(WEB)[0].id, now_ms=NOW_MS)

    assert (False, "NODE3 has WEB#2 already") in [(each.able, each.words) for each in answer.candidates]
    assert answer.next == (
        "If a resource fails for good, the group goes to NODE2: NODE2 is the only other node that can take it; NODE3"
        " has WEB#2 already; NODE4 is paused."
    )
    assert not any("Keeps apart" in each for each in answer.policies)


def test_a_parallel_group_without_a_spare() -> None:
    """It says what that means, and which instance waits."""
    answer = explain_group(parallel(1, 2, 3, None), WEB, now_ms=NOW_MS)

    assert answer.owner.endswith("WEB#3 on NODE3, WEB#4 nowhere.")
    assert answer.next == (
        "There is no spare node: an instance that fails for good stays, and that of a node that dies waits."
    )


def test_a_group_that_becomes_parallel_or_was() -> None:
    """Whoever has it still lets it go first; and the other way round."""
    owned = cluster(group("WEB", 2, group_type="parallel"), resource("SITE", "WEB"))
    assert explain_group(owned, WEB, now_ms=NOW_MS).owner == (
        "NODE2 still owns WEB, which has instances when it has let it go."
    )
    empty = cluster(group("WEB", group_type="parallel"))
    assert "has no resources" in explain_group(empty, WEB, now_ms=NOW_MS).owner
    running = parallel(1, 2)
    former = with_groups(running, [replace(running.groups[WEB], group_type="failover")])
    assert explain_group(former, WEB, now_ms=NOW_MS).because == (
        "It is to run on one node from now on; its instances end first."
    )
