"""Laws of the planner, on random clusters after random events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.global_update.apply import apply
from clussvc.global_update.update import (
    AssignGroup,
    DenyFailover,
    GroupReleased,
    MoveGroup,
    NodeDown,
    NodeUp,
    PauseNode,
    Proposal,
    ReportInterfaces,
    RequestFailover,
    ResumeNode,
    StopNode,
    Update,
)
from clussvc.groups.networks import cut_off, doubtful
from clussvc.groups.placement import Hosting, rejection
from clussvc.groups.planner import plan
from clussvc.model.config import Config, FailoverRequest, Group, Interface, Move, Node, Resource
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.states import MoveCause, ResourceState
from tests.unit.groups.samples import NOW_MS, cluster, group, node, resource

NODES, GROUPS = 4, 4
ON_NETWORK: dict[str, Any] = {
    "type": "IP Address",
    "private": {"Address": "10.0.0.99", "SubnetMask": "255.255.255.0", "Network": "Cluster Network 1"},
}
"""What makes a resource one that needs its clients on the nodes' network."""
numbers = st.integers(1, NODES)


@st.composite
def nodes(draw: st.DrawFn, number: int) -> Node:
    up = draw(st.booleans())
    trouble = draw(st.sampled_from(["", "", "the link is down"]))
    silent = tuple(map(NodeId, sorted(draw(st.sets(numbers, max_size=1)) - {number})))
    interface = Interface(position=0, address=f"10.0.0.{number}", prefix=24, trouble=trouble, silent=silent)
    return node(
        number,
        interfaces=(interface,) if draw(st.booleans()) else (),
        up=up,
        joining=not up and draw(st.booleans()),
        paused=draw(st.booleans()),
        stopping=up and draw(st.booleans()),
    )


@st.composite
def groups(draw: st.DrawFn, number: int) -> Group:
    """A group that an owner has or had, perhaps on its way, perhaps asking for failover."""
    causes = st.sampled_from(list(MoveCause))
    owner = draw(st.none() | numbers)
    preferred = draw(st.lists(numbers, unique=True, max_size=NODES))
    made = group(
        f"G{number}",
        owner,
        *preferred,
        anti_affinity=tuple(draw(st.sets(st.sampled_from(["x", "y"])))),
        auto_failback=draw(st.booleans()),
        homecoming=draw(st.booleans()),
        moved_by_hand=draw(st.booleans()),
        halted=draw(st.booleans()),
        failover_threshold=draw(st.integers(0, 3)),
        failovers=(NOW_MS - 1,) * draw(st.integers(0, 3)),
    )
    if owner is not None and draw(st.booleans()):
        made = replace(made, released=True, released_cause=draw(causes), released_because="it was let go")
    if draw(st.booleans()) and draw(st.booleans()):
        to = draw(st.none() | numbers)
        made = replace(made, move=Move(to=NodeId(to) if to else None, cause=draw(causes), because="it was decided"))
    elif not made.released and draw(st.booleans()):
        wish = FailoverRequest(resource=ResourceId(f"R{number}"), because=f"R{number} failed", at_ms=NOW_MS)
        made = replace(made, failover=wish)
    return made


@st.composite
def clusters(draw: st.DrawFn) -> Config:
    """Nobody owns a group on a node that is down: the log would have released it."""
    all_nodes = [draw(nodes(number)) for number in range(1, NODES + 1)]
    all_groups = [draw(groups(number)) for number in range(1, GROUPS + 1)]
    up = {each.id for each in all_nodes if each.up}
    all_groups = [
        each if each.released or each.owner in up else replace(each, released=True, released_cause=MoveCause.NODE_DOWN)
        for each in all_groups
    ]
    resources: list[Resource] = [
        resource(
            f"R{number}",
            f"G{number}",
            *sorted(draw(st.sets(numbers))),
            persistent_state=draw(st.booleans()),
            state=draw(st.sampled_from([ResourceState.ONLINE, ResourceState.FAILED])),
            **draw(st.sampled_from([{}, ON_NETWORK])),
        )
        for number in range(1, GROUPS + 1)
    ]
    return cluster(*all_nodes, *all_groups, *resources)


class Log:
    """Applies updates one after the other."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._count = 0

    def do(self, update: Update) -> bool:
        self._count += 1
        proposal = Proposal(request=RequestId(f"{self._count}"), proposer=NodeId(1), at_ms=NOW_MS, update=update)
        applied = apply(self.config, proposal)
        self.config = applied.config
        return applied.refusal is None


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_laws_of_one_plan(config: Config) -> None:
    """Deterministic, at most one decision for a group, all of them accepted, and nothing is left after it."""
    planned = plan(config, now_ms=NOW_MS)
    log = Log(config)

    assert planned == plan(config, now_ms=NOW_MS)
    decided = [update.group for update in planned.updates] + [blocked.group for blocked in planned.blocked]
    assert len(set(decided)) == len(decided)
    for update in planned.updates:
        assert log.do(update), update
        assert update.because
        assert not isinstance(update, DenyFailover) or not update.halt or update.because.endswith(" h")
    # A group that was only told to stay may go home afterwards: one decision at a time.
    stays = {update.group for update in planned.updates if isinstance(update, DenyFailover) and not update.halt}
    left = plan(log.config, now_ms=NOW_MS).updates
    assert all(update.group in stays and isinstance(update, MoveGroup) for update in left), left
    assert planned.blocked == plan(log.config, now_ms=NOW_MS).blocked


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_only_candidates_receive_groups(config: Config) -> None:
    """Up, not stopping, possible owner; a paused node only what it had last."""
    for update in plan(config, now_ms=NOW_MS).updates:
        if isinstance(update, DenyFailover):
            continue
        assert update.to is not None
        resources = list(config.resources_of(update.group))
        had_it = update.to == config.groups[update.group].owner and isinstance(update, AssignGroup)
        assert rejection(config, resources, update.to, although_paused=had_it) is None


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_a_group_waits_only_if_nobody_can_take_it(config: Config) -> None:
    """Every released group is assigned or blocked, and blocked only when no candidate exists."""
    planned = plan(config, now_ms=NOW_MS)
    assigned = {update.group for update in planned.updates if isinstance(update, AssignGroup)}
    blocked = {each.group for each in planned.blocked}

    assert assigned | blocked == {each.id for each in config.groups.values() if each.released}
    for name in blocked:
        resources = list(config.resources_of(name))
        assert all(rejection(config, resources, each) is not None for each in config.nodes)


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_repelling_groups_meet_only_when_they_must(config: Config) -> None:
    """A target that was chosen freely hosts a repelling group only if every other candidate does."""
    hosting = Hosting.of(config)
    for update in plan(config, now_ms=NOW_MS).updates:
        if isinstance(update, DenyFailover):
            continue
        assert update.to is not None
        moved = config.groups[update.group]
        freely = moved.move is None and update.to != moved.owner
        if freely and hosting.repelled_by(moved, update.to) is not None:
            others = [each for each in config.nodes if each not in (update.to, moved.owner)]
            resources = list(config.resources_of(moved.id))
            for other in others:
                able = rejection(config, resources, other) is None and other not in cut_off(config, resources)
                assert not able or hosting.repelled_by(moved, other) is not None
        hosting.put(moved, update.to)


@settings(max_examples=200, deadline=None)
@given(clusters())
def test_a_group_leaves_its_network_only_for_a_better_place(config: Config) -> None:
    """It moves for a network only if that failed on its owner and works on the target; and it is not assigned to a node
    without the network that it needs while another one could take it."""
    for update in plan(config, now_ms=NOW_MS).updates:
        if isinstance(update, DenyFailover):
            continue
        resources = list(config.resources_of(update.group))
        if isinstance(update, MoveGroup) and update.cause is MoveCause.NETWORK_FAILURE:
            assert config.groups[update.group].owner in cut_off(config, resources)
            assert update.to not in doubtful(config, resources)
        away = cut_off(config, resources)
        owner = config.groups[update.group].owner
        if update.to in away:
            others = [each for each in config.nodes if each not in (update.to, owner)]
            able = [each for each in others if rejection(config, resources, each) is None]
            assert all(each in away for each in able), update


EVENTS = [
    "loses the network",
    "regains the network",
    "dies",
    "returns",
    "is paused",
    "is resumed",
    "stops",
    "group moves",
    "resource fails",
    "owners act",
]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), numbers, numbers), max_size=25))
def test_after_any_history_the_groups_come_to_rest(history: list[tuple[str, int, int]]) -> None:
    """And while any node is up and takes groups, every group has an owner in the end."""
    fresh = [group(f"G{number}", None, number, number % NODES + 1, auto_failback=True) for number in range(1, 5)]
    members = [node(number) for number in range(1, NODES + 1)]
    log = Log(
        cluster(
            *members,
            *fresh,
            *(resource(f"R{n}", f"G{n}", state=ResourceState.OFFLINE, **ON_NETWORK) for n in range(1, 5)),
        )
    )
    for event, first, second in history:
        for update in plan(log.config, now_ms=NOW_MS).updates:
            assert log.do(update), update
        happen(log, event, first, second)
    settle(log)

    if any(each.up and not each.paused and not each.stopping for each in log.config.nodes.values()):
        assert all(each.owned is not None for each in log.config.groups.values())
    assert all(log.config.nodes[each.owned].up for each in log.config.groups.values() if each.owned is not None)


def happen(log: Log, event: str, first: int, second: int) -> None:
    """One event; some are impossible at that moment, and the log refuses them."""
    member, moved = log.config.nodes[NodeId(first)], log.config.groups[GroupId(f"G{second}")]
    match event:
        case "loses the network" | "regains the network":
            trouble = "the link is down" if event.startswith("loses") else ""
            interface = Interface(position=0, address=member.addresses[0], prefix=24, trouble=trouble)
            log.do(ReportInterfaces(node=member.id, incarnation=member.incarnation, interfaces=(interface,)))
        case "dies":
            log.do(NodeDown(node=member.id, incarnation=member.incarnation, voters_version=0, because="a test"))
        case "returns":
            if not member.up:
                log.do(NodeUp(node=member.id, incarnation=member.incarnation, boot=member.boot + 1, attempt=1))
        case "is paused":
            log.do(PauseNode(node=member.id))
        case "is resumed":
            log.do(ResumeNode(node=member.id))
        case "stops":
            log.do(StopNode(node=member.id))
        case "group moves":
            log.do(MoveGroup(group=moved.id, to=member.id, cause=MoveCause.ADMIN, because="a test"))
        case "resource fails":
            log.do(
                RequestFailover(
                    group=moved.id, epoch=moved.epoch, resource=ResourceId(f"R{second}"), because="a test", at_ms=NOW_MS
                )
            )
        case "owners act":
            release(log)


def release(log: Log) -> bool:
    """The owners of groups on their way let go."""
    moving = [each for each in log.config.groups.values() if each.owned is not None and each.move is not None]
    for each in moving:
        assert each.owned is not None
        assert log.do(GroupReleased(group=each.id, epoch=each.epoch, node=each.owned, because="a test"))
    return bool(moving)


def settle(log: Log) -> None:
    """Owners and planner take turns."""
    for _ in range(10):
        updates = plan(log.config, now_ms=NOW_MS).updates
        for update in updates:
            assert log.do(update), update
        if not release(log) and not updates:
            return
    raise AssertionError("the groups do not come to rest")
