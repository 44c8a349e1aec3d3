"""Laws of the planner for parallel groups, over random histories: whatever happens, instances spread as they should."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.global_update.instances import with_instances
from clussvc.global_update.update import MoveGroup, NodeDown, NodeUp, RequestFailover, SetGroupProperties
from clussvc.groups.planner import plan
from clussvc.model.config import Config
from clussvc.model.ids import GroupId, NodeId, ResourceId
from clussvc.model.states import MoveCause, ResourceState
from tests.unit.groups.samples import NOW_MS, SITE, WEB, cluster, group, node, resource
from tests.unit.groups.test_planner_laws import EVENTS, NODES, ON_NETWORK, Log, happen, release, settle

HAPPENING = [*EVENTS, "the limit changes"]
numbers = st.integers(1, NODES)


def farm(limit: int, *, failback: bool) -> Log:
    """WEB on at most ``limit`` of four nodes, and a group that has its own fate beside it."""
    config = cluster(
        *(node(number) for number in range(1, NODES + 1)),
        group("WEB", None, 2, 1, group_type="parallel", max_instances=limit, auto_failback=failback),
        group("G1", None, 1, auto_failback=True),
        resource("SITE", "WEB", state=ResourceState.OFFLINE, **ON_NETWORK),
        resource("R1", "G1", state=ResourceState.OFFLINE),
    )
    return Log(with_instances(config)[0])


def act(log: Log, event: str, first: int, second: int) -> None:
    """One event; what concerns a group concerns an instance here, if it is there."""
    instance = log.config.groups.get(GroupId(f"WEB#{second}"))
    if event == "the limit changes":
        assert log.do(SetGroupProperties(group=WEB, common={"MaxInstances": first % NODES}, instances=True))
    elif event == "group moves":
        known = instance.id if instance else WEB
        log.do(MoveGroup(group=known, to=NodeId(first), cause=MoveCause.ADMIN, because="a test"))
    elif event == "resource fails" and instance is not None:
        failed = ResourceId(f"{SITE}#{second}")
        log.do(
            RequestFailover(group=instance.id, epoch=instance.epoch, resource=failed, because="a test", at_ms=NOW_MS)
        )
    else:
        happen(log, event, first, 1)


def places(config: Config) -> dict[str, NodeId]:
    return {each.name: each.owned for each in config.instances_of(WEB) if each.owned is not None}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, NODES),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(HAPPENING), numbers, numbers), max_size=25),
)
def test_after_any_history_no_instance_waits_beside_a_free_node(
    limit: int, failback: bool, history: list[tuple[str, int, int]]
) -> None:
    """Whatever the planner decides is accepted; a node never has two; and at rest nobody waits who need not."""
    log = farm(limit, failback=failback)
    for event, first, second in history:
        for update in plan(log.config, now_ms=NOW_MS).updates:
            assert log.do(update), update
            assert len(set(places(log.config).values())) == len(places(log.config))
        act(log, event, first, second)
    settle(log)

    config, taken = log.config, set(places(log.config).values())
    free = [
        each.id
        for each in config.nodes.values()
        if each.up and not each.paused and not each.stopping and each.id not in taken
    ]
    waiting = [each.name for each in config.instances_of(WEB) if each.owned is None]
    assert not (free and waiting)
    assert len(config.instances_of(WEB)) == min(config.groups[WEB].max_instances or NODES, NODES)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, NODES), st.lists(st.tuples(numbers, st.booleans()), min_size=1, max_size=12))
def test_a_death_or_a_return_moves_no_other_instance(limit: int, history: list[tuple[int, bool]]) -> None:
    """Without failback, an instance whose node lives stays where it is."""
    log = farm(limit, failback=False)
    settle(log)
    for number, dies in history:
        member, before = log.config.nodes[NodeId(number)], places(log.config)
        if dies and member.up:
            log.do(NodeDown(node=member.id, incarnation=member.incarnation, voters_version=0, because="a test"))
        elif not dies and not member.up:
            log.do(NodeUp(node=member.id, incarnation=member.incarnation, boot=member.boot + 1, attempt=1))
        settle(log)
        assert not release(log)
        after = places(log.config)
        assert {name: owner for name, owner in before.items() if owner != member.id}.items() <= after.items()
