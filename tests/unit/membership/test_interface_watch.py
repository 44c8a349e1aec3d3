"""When a node tells of its interfaces."""

from __future__ import annotations

from dataclasses import replace

from clussvc.membership.connectivity import LinkSeen
from clussvc.membership.interface_watch import LOOK_MS, SETTLE_MS, InterfaceWatch
from clussvc.model.config import Config, Interface
from clussvc.model.ids import NodeId
from clussvc.model.settings import WAN

from .test_connectivity import N1, N2, N3, cluster

EVERYBODY = frozenset({(N2, 0), (N3, 0), (N2, 1), (N3, 1)})
DOWN = LinkSeen(trouble="the link is down")


class Bench:
    """One node's watch on a clock; what it tells is taken into the configuration at once."""

    def __init__(self) -> None:
        self.config: Config = cluster(3, networks=2)
        told = tuple(Interface(position=place, address=f"10.0.{place}.1") for place in (0, 1))
        nodes = {**self.config.nodes, N1: replace(self.config.nodes[N1], interfaces=told)}
        self.config = replace(self.config, nodes=nodes)
        self.watch = InterfaceWatch(N1)
        self.now_ms = 0

    def look(self, ms: int = 0, *, lately: frozenset[NodeId] = frozenset((N2, N3))) -> tuple[Interface, ...] | None:
        self.now_ms += ms
        view = self.watch.to_tell(self.config, lambda: lately, self.now_ms)
        if view is not None:
            me = replace(self.config.nodes[N1], interfaces=view)
            self.config = replace(self.config, nodes={**self.config.nodes, N1: me})
        return view


def test_nothing_is_told_as_long_as_nobody_looks() -> None:
    bench = Bench()
    assert bench.look() is None
    assert bench.look(10 * SETTLE_MS) is None


def test_a_link_that_goes_down_is_told_at_once_and_its_return_when_it_lasts() -> None:
    bench = Bench()
    bench.watch.seen({0: DOWN}, EVERYBODY)
    told = bench.look()
    assert told is not None
    assert told[0].trouble == DOWN.trouble
    assert bench.look(LOOK_MS) is None

    bench.watch.seen({0: LinkSeen()}, EVERYBODY)
    assert bench.look() is None
    assert bench.look(SETTLE_MS - 1) is None
    assert bench.look(LOOK_MS) is not None
    assert bench.look(SETTLE_MS) is None


def test_a_silence_is_told_when_it_lasts() -> None:
    bench = Bench()
    bench.watch.seen({}, EVERYBODY - {(N2, 1)})
    assert bench.look() is None
    bench.watch.seen({}, EVERYBODY)
    assert bench.look(SETTLE_MS // 2) is None
    bench.watch.seen({}, EVERYBODY - {(N2, 1)})
    assert bench.look(SETTLE_MS // 2) is None, "it was interrupted"
    told = bench.look(SETTLE_MS)
    assert told is not None
    assert told[1].silent == (N2,)


def test_a_slow_profile_waits_for_three_heartbeats() -> None:
    bench = Bench()
    bench.config = replace(bench.config, timing=WAN)
    bench.watch.seen({}, EVERYBODY - {(N2, 1)})
    assert bench.look() is None
    assert bench.look(3 * WAN.heartbeat_interval_ms - 1) is None
    assert bench.look(LOOK_MS) is not None


def test_a_node_that_is_heard_nowhere_is_not_told_of() -> None:
    bench = Bench()
    bench.watch.seen({}, frozenset({(N3, 0), (N3, 1)}))
    assert bench.look(lately=frozenset((N3,))) is None
    assert bench.look(10 * SETTLE_MS, lately=frozenset((N3,))) is None


def test_client_networks() -> None:
    bench = Bench()
    assert bench.watch.clients_reached(bench.config, member=True) == 2
    bench.watch.seen({1: DOWN}, EVERYBODY)
    assert bench.watch.clients_reached(bench.config, member=True) == 1
    lost = cluster(3, networks=2, misses={(1, 2), (1, 3), (2, 1), (3, 1)})
    assert bench.watch.clients_reached(lost, member=True) == 0
    # What the log said last of a node that is no member is old news.
    assert bench.watch.clients_reached(lost, member=False) == 1
