"""How long the planner thinks: ``python -m benchmarks.planning``.

The cluster has 8 nodes, 300 groups and 1000 resources; every third group repels its neighbours, every second one has
preferred owners, some resources may not run everywhere. The target is 20 ms for any plan, so that the coordinator can
look at every group after every change.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

from clussvc.global_update.apply import apply
from clussvc.global_update.update import NodeDown, Proposal
from clussvc.groups.planner import plan
from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import ClusterId, GroupId, NodeId, RequestId, ResourceId
from clussvc.model.states import ResourceState

NODES, GROUPS, RESOURCES, REPEATS = 8, 300, 1_000, 21
NOW_MS = 1_767_225_600_000


def cluster(*, placed: bool) -> Config:
    """The cluster, with every group online on a node, or with none placed yet."""
    nodes = [
        Node(id=NodeId(n), name=f"NODE{n}", addresses=("192.0.2.1",), port=3343, voter=True, up=True, incarnation=1)
        for n in range(1, NODES + 1)
    ]
    groups = [
        Group(
            id=GroupId(f"group-{n}"),
            name=f"Group {n}",
            persistent_state=True,
            owner=NodeId(n % NODES + 1) if placed else None,
            epoch=1 if placed else 0,
            released=not placed,
            auto_failback=n % 2 == 0,
            preferred_owners=tuple(NodeId((n + k) % NODES + 1) for k in range(-1, 2)) if n % 2 == 0 else (),
            anti_affinity=(f"class-{n // 6}",) if n % 3 == 0 else (),
            homecoming=n % 4 == 0,
        )
        for n in range(GROUPS)
    ]
    resources = [
        Resource(
            id=ResourceId(f"resource-{n}"),
            name=f"Resource {n}",
            type="Generic Application",
            group=groups[n % GROUPS].id,
            persistent_state=True,
            state=ResourceState.ONLINE if placed else ResourceState.OFFLINE,
            possible_owners=tuple(node.id for node in nodes if (node.id + n) % NODES) if n % 5 == 0 else None,
        )
        for n in range(RESOURCES)
    ]
    return Config(
        cluster=ClusterId("benchmark"),
        name="BENCHMARK",
        nodes={node.id: node for node in nodes},
        groups={group.id: group for group in groups},
        resources={resource.id: resource for resource in resources},
    )


def without_node(config: Config) -> Config:
    """The same cluster after the first node died."""
    down = NodeDown(node=NodeId(1), incarnation=1, voters_version=0, because="it is silent")
    applied = apply(config, Proposal(request=RequestId("down"), proposer=NodeId(2), at_ms=NOW_MS, update=down))
    assert applied.refusal is None, applied.refusal
    return applied.config


def measure(name: str, config: Config) -> None:
    """Plan several times and print the median."""
    times_ms = []
    for _ in range(REPEATS):
        begun_ns = time.perf_counter_ns()
        planned = plan(config, now_ms=NOW_MS)
        times_ms.append((time.perf_counter_ns() - begun_ns) / 1e6)
    print(f"{name:<24} {statistics.median(times_ms):7.2f} ms   {len(planned.updates):>4} decisions")


def main() -> None:
    """All three situations."""
    print(f"{NODES} nodes, {GROUPS} groups, {RESOURCES} resources; median of {REPEATS}")
    placed = cluster(placed=True)
    measure(
        "steady state", replace(placed, groups={g.id: replace(g, homecoming=False) for g in placed.groups.values()})
    )
    measure("many fail back", placed)
    measure("one node lost", without_node(placed))
    measure("first placement", cluster(placed=False))


if __name__ == "__main__":
    main()
