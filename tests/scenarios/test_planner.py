"""The planner's scenarios: one behaviour in each file of ``planner/``, with the reasons that administrators read.

A file says *why* it exists, what is *given*, and optionally which events happen then; the planner's *plan* follows
with the reason of every line in *because*, and *then* who owns the groups when everything has been carried out. Run
pytest with ``--rewrite`` to write these three parts as observed, and review the difference as a change of the product.

```
given:
  nodes: {NODE1: up, NODE2: paused, NODE3: down}     # also: joining, stopping, paused down; numbered in this order
  groups:
    SQL: {owner: NODE1, preferred: [NODE1, NODE3], resources: {APP: {possible: [NODE1]}}}
    WEB: {parallel: 2, at: [NODE1, null], resources: {SITE: {}}}     # WEB#1 is on NODE1, WEB#2 nowhere
  networks: {PUBLIC: {}, HEART: {role: 1}}           # a resource on one: {ADDRESS: {network: PUBLIC}}
now: "22:30"                                         # UTC; 12:00 if it is not said
event: [NODE1 dies, NODE3 returns]                   # see happen(); 'it is decided' carries out one plan
```
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from clussvc.global_update.apply import apply
from clussvc.global_update.instances import with_instances
from clussvc.global_update.outcome import with_groups, with_resources
from clussvc.global_update.update import (
    AssignGroup,
    CreateGroup,
    DenyFailover,
    GroupReleased,
    MoveGroup,
    NodeDown,
    NodeUp,
    OfflineGroup,
    OfflineResource,
    OnlineGroup,
    PauseNode,
    Proposal,
    RemoveNode,
    RemovePossibleOwner,
    ReportInterfaces,
    RequestFailover,
    ResumeNode,
    SetVoter,
    StopNode,
    Update,
)
from clussvc.groups.planner import Plan, plan
from clussvc.membership.connectivity import told_of
from clussvc.model.config import FAILOVER_TYPE, PARALLEL_TYPE, Config, Group, Network, Node, Resource, default_network
from clussvc.model.ids import ClusterId, GroupId, NodeId, RequestId, ResourceId
from clussvc.model.states import MoveCause, ResourceState

FOLDER = Path(__file__).parent / "planner"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
DAY_MS = 1_767_225_600_000
"""2026-01-01 00:00 UTC."""
HOUR_MS = 3_600_000
ROUNDS_MAX = 20

GROUP_KEYS = {
    "owner", "preferred", "anti_affinity", "resources", "failback", "threshold", "period_h", "failed_over_h_ago",
    "by_hand", "halted", "homecoming", "wanted", "parallel", "at",
}  # fmt: skip
RESOURCE_KEYS = {"possible", "state", "wanted", "needs", "network"}
FILE_KEYS = {"why", "given", "now", "utc_offset_min", "event", "plan", "because", "then"}


class World:
    """A configuration made from a file; changed only by ``apply``."""

    def __init__(self, story: dict[str, Any]) -> None:
        assert set(story) <= FILE_KEYS, set(story) - FILE_KEYS
        hours, minutes = map(int, str(story.get("now", "12:00")).split(":"))
        self.now_ms = DAY_MS + hours * HOUR_MS + minutes * 60_000
        given = story["given"]
        self._count = 0
        networks = [
            network_of(place, name, words) for place, (name, words) in enumerate(given.get("networks", {}).items())
        ]
        nodes = [
            node_of(NodeId(place), name, words, networks=max(1, len(networks)))
            for place, (name, words) in enumerate(given["nodes"].items(), 1)
        ]
        self.config = Config(
            cluster=ClusterId("c"),
            name="C",
            utc_offset_min=story.get("utc_offset_min", 0),
            next_node_id=len(nodes) + 1,
            nodes={node.id: node for node in nodes},
            networks={network.id: network for network in networks},
        )
        groups = [self._group(name, words or {}) for name, words in given.get("groups", {}).items()]
        self.config = replace(self.config, groups={group.id: group for group in groups})
        resources = [
            self._resource(GroupId(group), name, words or {})
            for group, has in given.get("groups", {}).items()
            for name, words in (has or {}).get("resources", {}).items()
        ]
        self.config = replace(self.config, resources={resource.id: resource for resource in resources})
        self.config, _ = with_instances(self.config)
        for name, words in given.get("groups", {}).items():
            self._place_instances(GroupId(name), (words or {}).get("at", []))

    def _place_instances(self, group: GroupId, owners: list[str | None]) -> None:
        """The instances of a parallel group on these nodes, in the order of their numbers, all online."""
        for instance, owner in zip(self.config.instances_of(group), owners, strict=False):
            if owner is not None:
                placed = replace(instance, owner=self.node(owner), epoch=1, released=False, released_because="")
                online = [replace(each, state=ResourceState.ONLINE) for each in self.config.resources_of(instance.id)]
                self.config = with_resources(with_groups(self.config, [placed]), online)

    def node(self, name: str) -> NodeId:
        found = self.config.node_named(name)
        assert found is not None, name
        return found.id

    def _nodes(self, names: list[str]) -> tuple[NodeId, ...]:
        return tuple(self.node(name) for name in names)

    def _group(self, name: str, words: dict[str, Any]) -> Group:
        assert set(words) <= GROUP_KEYS, set(words) - GROUP_KEYS
        owner = words.get("owner")
        failback = words.get("failback")
        start, end = (int(hour) for hour in failback.split("-")) if isinstance(failback, str) else (-1, -1)
        return Group(
            id=GroupId(name),
            name=name,
            group_type=PARALLEL_TYPE if "parallel" in words else FAILOVER_TYPE,
            max_instances=words.get("parallel", 0),
            persistent_state=words.get("wanted", True),
            owner=self.node(owner) if owner else None,
            epoch=1 if owner else 0,
            released=owner is None,
            released_because="" if owner else "the group was created",
            preferred_owners=self._nodes(words.get("preferred", [])),
            anti_affinity=tuple(words.get("anti_affinity", [])),
            auto_failback=bool(failback),
            failback_window_start_h=start,
            failback_window_end_h=end,
            failover_threshold=words.get("threshold", 10),
            failover_period_h=words.get("period_h", 6),
            failovers=tuple(int(self.now_ms - ago * HOUR_MS) for ago in words.get("failed_over_h_ago", [])),
            moved_by_hand=words.get("by_hand", False),
            halted=words.get("halted", False),
            homecoming=words.get("homecoming", False),
        )

    def _resource(self, group: GroupId, name: str, words: dict[str, Any]) -> Resource:
        assert set(words) <= RESOURCE_KEYS, set(words) - RESOURCE_KEYS
        owned = self.config.groups[group].owned is not None
        return Resource(
            id=ResourceId(name),
            name=name,
            type="IP Address" if "network" in words else "Generic Application",
            private={"Address": "198.51.100.99", "SubnetMask": "255.255.255.0", "Network": words["network"]}
            if "network" in words
            else {"CommandLine": "sleep 1000"},
            group=group,
            persistent_state=words.get("wanted", True),
            possible_owners=self._nodes(words["possible"]) if "possible" in words else None,
            depends_on=tuple(ResourceId(each) for each in words.get("needs", [])),
            state=ResourceState(words.get("state", "Online" if owned else "Offline")),
        )

    def do(self, update: Update) -> None:
        self._count += 1
        request = RequestId(f"{self._count}")
        applied = apply(self.config, Proposal(request=request, proposer=NodeId(1), at_ms=self.now_ms, update=update))
        assert applied.refusal is None, (update, applied.refusal)
        self.config = applied.config

    def release(self, group: Group) -> None:
        assert group.owned is not None
        self.do(GroupReleased(group=group.id, epoch=group.epoch, node=group.owned, because="it was asked to"))

    def carry_out(self, planned: Plan) -> None:
        for update in planned.updates:
            self.do(update)

    def settle(self) -> None:
        """Owners and planner take turns until nothing is left to do."""
        for _ in range(ROUNDS_MAX):
            moving = [group for group in self.config.groups.values() if group.move is not None and not group.released]
            for group in moving:
                self.release(group)
            planned = plan(self.config, now_ms=self.now_ms)
            self.carry_out(planned)
            if not moving and not planned.updates:
                return
        raise AssertionError("the groups do not come to rest")


def network_of(place: int, name: str, words: dict[str, Any]) -> Network:
    assert set(words) <= {"role"}, words
    return replace(default_network(place), name=name, **words)


def node_of(number: NodeId, name: str, words: str, *, networks: int) -> Node:
    """``words`` are up, down, joining, paused, stopping, or two of them."""
    states = set(words.split())
    assert states <= {"up", "down", "joining", "paused", "stopping"}, words
    return Node(
        id=number,
        name=name,
        addresses=tuple(f"192.0.{2 + place}.{number}" for place in range(networks)),
        port=3343,
        voter=True,
        up=not states & {"down", "joining"},
        joining="joining" in states,
        paused="paused" in states,
        stopping="stopping" in states,
        incarnation=1,
        boot=1,
        attempt=1,
    )


def happen(world: World, event: str) -> None:
    """One event of a scenario."""
    config = world.config
    match event.split():
        case ["it", "is", "decided"]:
            world.carry_out(plan(config, now_ms=world.now_ms))
        case ["everything", "settles"]:
            world.settle()
        case [hours, "hours", "pass"]:
            world.now_ms += int(hours) * HOUR_MS
        case [name, "dies"]:
            down(world, name, stopped=False)
        case [name, "is", "evicted"]:
            evicted = world.node(name)
            world.do(SetVoter(node=evicted, voter=False, voters_version=config.voters_version))
            world.do(RemoveNode(node=evicted))
        case [name, "has", "stopped"]:
            down(world, name, stopped=True)
        case [name, "returns"]:
            node = config.nodes[world.node(name)]
            world.do(NodeUp(node=node.id, incarnation=node.incarnation, boot=node.boot + 1, attempt=1))
        case [name, "is", "paused"]:
            world.do(PauseNode(node=world.node(name)))
        case [name, "is", "resumed"]:
            world.do(ResumeNode(node=world.node(name)))
        case [name, "is", "being", "stopped"]:
            world.do(StopNode(node=world.node(name)))
        case [name, "loses", network]:
            tell(world, name, network, trouble="the link eth1 is down")
        case [name, "regains", network]:
            tell(world, name, network)
        case [name, "misses", "everybody", "on", network]:
            tell(world, name, network, misses=tuple(each.name for each in config.nodes.values() if each.name != name))
        case [name, "misses", other, "on", network]:
            tell(world, name, network, misses=(other,))
        case [name, "moves"]:
            world.do(MoveGroup(group=GroupId(name), to=None, cause=MoveCause.ADMIN, because="ada moved it"))
        case [name, "moves", "to", node]:
            to = world.node(node)
            world.do(MoveGroup(group=GroupId(name), to=to, cause=MoveCause.ADMIN, because="ada moved it"))
        case [name, "is", "released"]:
            world.release(config.groups[GroupId(name)])
        case [name, "is", "created", "on", node]:
            world.do(CreateGroup(group=GroupId(name), name=name, on=world.node(node)))
        case [name, "is", "wanted", "offline"]:
            known = GroupId(name) in config.groups
            world.do(OfflineGroup(group=GroupId(name)) if known else OfflineResource(resource=ResourceId(name)))
        case [name, "is", "brought", "online", "on", node]:
            world.do(OnlineGroup(group=GroupId(name), to=world.node(node)))
        case [name, "must", "not", "run", "on", node]:
            world.do(RemovePossibleOwner(resource=ResourceId(name), node=world.node(node)))
        case [name, "fails"]:
            group = config.groups[config.resources[ResourceId(name)].group]
            world.do(
                RequestFailover(
                    group=group.id, epoch=group.epoch, resource=ResourceId(name), because=f"{name} failed", at_ms=0
                )
            )
        case _:
            raise AssertionError(f"unknown event: {event}")


def tell(world: World, name: str, network: str, *, trouble: str = "", misses: tuple[str, ...] = ()) -> None:
    """A node tells of its interface on one network; of the others it repeats what it told before."""
    node = world.config.nodes[world.node(name)]
    known = world.config.network_named(network)
    assert known is not None, network
    interfaces = [told_of(node, place) for place in range(len(node.addresses))]
    silent = tuple(world.node(each) for each in misses)
    interfaces[known.position] = replace(interfaces[known.position], trouble=trouble, silent=silent)
    world.do(ReportInterfaces(node=node.id, incarnation=node.incarnation, interfaces=tuple(interfaces)))


def down(world: World, name: str, *, stopped: bool) -> None:
    node = world.config.nodes[world.node(name)]
    world.do(
        NodeDown(
            node=node.id,
            incarnation=node.incarnation,
            voters_version=world.config.voters_version,
            because="it is silent",
            stopped=stopped,
        )
    )


def told(config: Config, planned: Plan) -> Iterator[tuple[str, str]]:
    """The plan as lines with their reasons."""
    for update in planned.updates:
        name = config.groups[update.group].name
        match update:
            case AssignGroup():
                counted = ", a failover" if update.counts_as_failover else ""
                yield f"assign {name} to {config.node_name(update.to)}{counted}", update.because
            case MoveGroup():
                way = f"{config.node_name(config.groups[update.group].owner)} -> {config.node_name(update.to)}"
                yield f"move {name} {way} ({update.cause.value})", update.because
            case DenyFailover():
                yield f"deny {name}{' and halt it' if update.halt else ''}", update.because
    for blocked in planned.blocked:
        yield f"nobody takes {config.groups[blocked.group].name}", blocked.because
    if planned.next_ms is not None:
        hours, rest = divmod(planned.next_ms - DAY_MS, HOUR_MS)
        yield f"look again at {hours:02}:{rest // 60_000:02}", "a failback window opens"


def observe(story: dict[str, Any]) -> dict[str, Any]:
    """Let it happen and tell what was seen; the laws that hold in every scenario are checked on the way."""
    world = World(story)
    for event in story.get("event", []):
        happen(world, event)
    planned = plan(world.config, now_ms=world.now_ms)
    lines = list(told(world.config, planned))
    world.carry_out(planned)
    assert plan(world.config, now_ms=world.now_ms).updates == (), "planning again yields something new"
    world.settle()
    owners = {
        group.name: world.config.node_name(group.owned) if group.owned is not None else None
        for group in world.config.groups.values()
        if not group.parallel
    }
    for group in world.config.parallel_groups:
        places = [each.owned for each in world.config.instances_of(group.id) if each.owned is not None]
        assert len(places) == len(set(places)), "two instances on one node"
    return {"plan": [line for line, _ in lines], "because": [reason for _, reason in lines], "then": owners}


@pytest.mark.parametrize("name", NAMES)
def test_scenario(name: str, rewrite: bool) -> None:
    """One file."""
    path = FOLDER / f"{name}.yaml"
    text = path.read_text()
    story = yaml.safe_load(text)
    observed = observe(story)
    if rewrite:
        path.write_text(text.split("\nplan:")[0].rstrip("\n") + "\n" + written(observed))
        return
    assert {key: story[key] for key in observed} == observed


def written(observed: dict[str, Any]) -> str:
    """The observed parts in the form of the files: one sentence in a line."""
    lines = []
    for key in ("plan", "because"):
        lines.append(f"{key}:" if observed[key] else f"{key}: []")
        lines += [f"  - {yaml.safe_dump(one, width=1000).splitlines()[0]}" for one in observed[key]]
    owners = ", ".join(f"{group}: {owner or 'null'}" for group, owner in observed["then"].items())
    return "\n".join([*lines, f"then: {{{owners}}}"]) + "\n"


def test_there_are_scenarios() -> None:
    """A wrong path would make all of them pass."""
    assert len(NAMES) >= 70
