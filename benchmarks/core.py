"""How much one node's core thinks while everything comes online: ``python -m benchmarks.core [--resources 500]``.

One core, a cluster of one node, a log that takes every proposal at once, monitors that do at once what they are told.
What is counted is processor time: for each event, and in all. A core whose work for one event grows with the number of
resources shows here as a figure for each event that does.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections import deque

from clussvc.actions import CommandMonitor, Propose, StartMonitor
from clussvc.events import CommandArrived, Committed, Event, LeadershipChanged, MonitorSaid, Tick
from clussvc.global_update.apply import apply
from clussvc.global_update.update import Batch, CreateGroup, CreateResource, FoundCluster, OnlineGroup, Update
from clussvc.model.config import Config
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    EverythingTerminated,
    MonitorStarted,
    ResourceReported,
    TerminateEverything,
)
from clussvc.model.settings import LAN
from clussvc.model.states import ResourceState
from clussvc.node import NodeCore

WALL_MS = 1_767_225_600_000
NODE = NodeId(1)


class Bench:
    """The core and what stands for all around it."""

    def __init__(self) -> None:
        found = FoundCluster(
            name="BENCH",
            timing_profile="lan",
            node_name="NODE1",
            addresses=("192.0.2.1",),
            port=3343,
            admin_port=0,
            utc_offset_min=0,
            group=GroupId("cluster-group"),
        )
        self.now_ms = 1_000
        self.core = NodeCore(
            node=NODE,
            boot=1,
            timing=LAN,
            peers={},
            index=0,
            config=None,
            now_ms=self.now_ms,
            found=(RequestId("bench"), found),
        )
        self.config: Config | None = None
        self.index = 0
        self.events: deque[Event] = deque()
        self.handled = 0
        self.spent_ns = 0

    def run(self) -> None:
        """Handle events until nothing follows from them any more."""
        while self.events:
            event = self.events.popleft()
            begun_ns = time.process_time_ns()
            actions = self.core.handle(event, now_ms=self.now_ms, wall_ms=WALL_MS + self.now_ms)
            self.core.view(self.now_ms)
            self.spent_ns += time.process_time_ns() - begun_ns
            self.handled += 1
            for action in actions:
                self._perform(action)

    def _perform(self, action: object) -> None:
        if isinstance(action, Propose):
            applied = apply(self.config, action.proposal)
            self.config = applied.config
            self.index += 1
            self.events.append(
                Committed(
                    index=self.index,
                    proposal=action.proposal,
                    config=applied.config,
                    refusal=applied.refusal,
                    records=applied.records,
                )
            )
        elif isinstance(action, StartMonitor):
            self.events.append(MonitorSaid(monitor=action.monitor, report=MonitorStarted(pid=1)))
        elif isinstance(action, CommandMonitor):
            command = action.command
            if isinstance(command, TerminateEverything):
                report = EverythingTerminated(ticket=command.ticket, left=())
                self.events.append(MonitorSaid(monitor=action.monitor, report=report))
            elif isinstance(command, BringOnline):
                for state in (ResourceState.ONLINE_PENDING, ResourceState.ONLINE):
                    said = ResourceReported(resource=command.resource, epoch=command.epoch, state=state)
                    self.events.append(MonitorSaid(monitor=action.monitor, report=said))

    def tick(self, count: int = 1) -> None:
        """Time passes."""
        for _ in range(count):
            self.now_ms += 100
            self.events.append(Tick())
            self.run()

    def ask(self, name: str, *changes: Update) -> None:
        """An administrator wants this."""
        self.events.append(CommandArrived(request=RequestId(name), update=Batch(updates=changes)))
        self.run()


def measure(groups: int, resources: int) -> tuple[int, float]:
    """Bring them online; events handled, and processor milliseconds for all of them together."""
    bench = created(groups, resources)
    bench.handled = bench.spent_ns = 0
    bring_online(bench, groups, resources)
    return bench.handled, bench.spent_ns / 1e6


def created(groups: int, resources: int) -> Bench:
    """A cluster of one node that owns these groups, all offline."""
    bench = Bench()
    bench.events += [Tick(), LeadershipChanged(leader=NODE, leads=True, members=frozenset({NODE}))]
    bench.run()
    bench.tick(20)
    ids = [GroupId(f"g{number}") for number in range(groups)]
    bench.ask("groups", *(CreateGroup(group=each, name=each, on=NODE) for each in ids))
    made = [
        CreateResource(
            resource=ResourceId(f"r{number}"),
            name=f"r{number}",
            type="Generic Script",
            group=ids[number % groups],
            private={"ScriptFilepath": "/opt/dummy.py"},
        )
        for number in range(resources)
    ]
    bench.ask("resources", *made)
    bench.tick()
    return bench


def bring_online(bench: Bench, groups: int, resources: int) -> None:
    """All of them, in one request."""
    bench.ask("online", *(OnlineGroup(group=GroupId(f"g{number}")) for number in range(groups)))
    bench.tick(5)
    assert bench.config is not None
    online = [each for each in bench.config.resources.values() if each.state is ResourceState.ONLINE]
    assert len(online) == resources, f"{len(online)} of {resources} are online"


def main() -> int:
    """Measure with a quarter, a half and all of the resources, so that growth is seen."""
    parser = argparse.ArgumentParser(prog="core", description="What the core does while everything comes online.")
    parser.add_argument("--resources", type=int, default=1_000)
    parser.add_argument("--profile", action="store_true", help="show where the time goes")
    arguments = parser.parse_args()
    for share in (4, 2, 1):
        resources = arguments.resources // share
        events, spent_ms = measure(max(1, resources * 3 // 10), resources)
        each_us = 1_000 * spent_ms / events
        print(f"{resources:>6} resources: {events:>6} events, {spent_ms:8.1f} ms, {each_us:7.1f} us for each event")
    if arguments.profile:
        profile = cProfile.Profile()
        profile.runcall(measure, max(1, arguments.resources * 3 // 10), arguments.resources)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    return 0


if __name__ == "__main__":
    sys.exit(main())
