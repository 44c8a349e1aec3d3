"""One story: hosts come up, have trouble that the seed draws, and must come back. The same seed tells the same
story."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from clussvc.model.ids import HostId
from clussvc.nlb.messages import Control, LinkChanged, NodesUp, ParametersChanged, QuorumChanged, RuleControl
from clussvc.nlb.parameters import ClusterParameters, HostParameters, RuleNumber
from clussvc.nlb.port_rule import PortRule, RuleScope, parse_rules
from tests.simulation.balancing.referee import BrokenPromise, Referee, settle_us
from tests.simulation.balancing.segment import MS, Segment, Station, parameters

PROBES = (80, 443, 25, 9)
"""Ports of two shared rules, one for a single host, and one that only the default rule covers."""
RULES = ("All 80 TCP Multiple Single Equal", "All 443 TCP Multiple None 30", "All 25 TCP Single")
OTHER_RULES = (
    "All 80-90 TCP Multiple Single Equal",
    "All 443 TCP Multiple None 30",
    "192.0.2.10 443 TCP Disabled",
    "All 53 UDP Single",
)
AS_MANY_RULES = ("All 80-90 TCP Multiple Single Equal", "192.0.2.10 443 TCP Multiple None 30", "All 25 TCP Multiple")
LEASE_MS = 480
"""After so long, at the latest, a node that was cut off knows that it has no quorum."""
DECLARED_MS = 800
"""After so long the others read in the log that it is down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What the seed has drawn for the whole story."""

    seed: int
    hosts: int
    buckets: int
    period_ms: int
    delay_us_max: int
    loss: float
    duplicates: float
    cluster: bool
    """The hosts are nodes of a failover cluster, which tells them of quorum and of deaths."""
    steps: int

    @property
    def settle_ms(self) -> int:
        """The stated limit: after all faults have ended, the silence after which the dead are given up, as long again
        for listening, and fifteen periods for what is said meanwhile and may be lost."""
        return 2 * 5 * self.period_ms + 15 * self.period_ms + 20 * self.delay_us_max // MS + 700


def draw(seed: int) -> Plot:
    """The plot of a seed."""
    random = Random(seed)
    period_ms = random.choice((100, 100, 25, 200))
    return Plot(
        seed=seed,
        hosts=random.choice((2, 3, 3, 4, 5)),
        buckets=960 if random.random() < 0.1 else 60,
        period_ms=period_ms,
        delay_us_max=random.choice((200, 200, 2_000, period_ms * MS // 4)),
        loss=random.choice((0.0, 0.02, 0.1, 0.3)),
        duplicates=random.choice((0.0, 0.1)),
        cluster=random.random() < 0.5,
        steps=random.randint(3, 9),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a story ended. ``rule`` is empty if it ended well."""

    plot: Plot
    rule: str
    what: str
    words: tuple[str, ...]
    """What happened, with times."""
    settled_ms: int
    """How long after the end of all faults the hosts had converged."""
    checks: int
    frames: int


class Story:
    """Tells one plot."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.random = Random(plot.seed + 1_000_003)
        self.words: list[str] = []
        self.segment = Segment(
            random=self.random, delay_us_max=plot.delay_us_max, loss=plot.loss, duplicates=plot.duplicates
        )
        self.referee = Referee(
            self.segment,
            probes=PROBES,
            buckets=plot.buckets,
            settle_us=settle_us(self.segment, plot.period_ms),
        )
        self.segment.watch = self.referee.watch
        self.rules: tuple[PortRule, ...] = parse_rules(RULES)[0]
        self.hosts = {
            HostId(number): HostParameters(node=f"n{number}", host=HostId(number))
            for number in range(1, plot.hosts + 1)
        }
        self.up: set[HostId] = set(self.hosts)
        self.without_quorum: set[HostId] = set()
        self._entry = 0
        self._read: dict[HostId, int] = {}
        self._admitted: set[HostId] = set()
        """Nodes that are up again by the log and have not read it yet."""

    # --- what happens -----------------------------------------------------------------------------------------------

    def say(self, words: str) -> None:
        """A line for people."""
        self.words.append(f"{self.segment.now_us / 1_000_000:8.4f} {words}")

    def cluster_parameters(self) -> ClusterParameters:
        """As the log has them now."""
        return parameters(self.rules, buckets=self.plot.buckets, period_ms=self.plot.period_ms)

    def later(self, low_ms: int, high_ms: int, what: Callable[[], None]) -> None:
        """Do this within that time."""
        self.segment.at(self.segment.now_us + self.random.randint(low_ms * MS, high_ms * MS), what)

    def some(self, *, alive: bool = True) -> Station | None:
        """Any host that lives, or that does not."""
        found = [station for station in self.segment.stations.values() if station.alive == alive]
        return self.random.choice(found) if found else None

    def spread_parameters(self) -> None:
        """A change reaches every host at its own moment, as the log does."""
        for host, station in self.segment.stations.items():

            def change(station: Station = station, host: HostId = host) -> None:
                self.segment.tell(station, ParametersChanged(cluster=self.cluster_parameters(), host=self.hosts[host]))

            self.later(0, 60, change)

    def spread_membership(self) -> None:
        """The log says who is up; each host reads it a little later, and never an older entry after a newer one."""
        if not self.plot.cluster:
            return
        self._entry += 1
        for host, station in self.segment.stations.items():
            if host in self.up or host in self._admitted:
                self._read_log(station, self._entry, frozenset(self.up))

    def _read_log(self, station: Station, entry: int, up: frozenset[HostId]) -> None:
        host, life = station.host.host, station.life

        def read_it() -> None:
            if self._read.get(host, 0) < entry and station.life == life:
                self._read[host] = entry
                self.segment.tell(station, NodesUp(hosts=up))
                if host in self._admitted and host in up:
                    self._admitted.discard(host)
                    self.segment.tell(station, QuorumChanged(held=True))

        self.later(0, 30, read_it)

    def admit(self, station: Station) -> None:
        """The node becomes a member again, some time from now."""
        host, life = station.host.host, station.life

        def admit() -> None:
            if station.alive and station.life == life and host not in self.without_quorum:
                self.up.add(host)
                self._admitted.add(host)
                self.spread_membership()

        self.later(60, 200, admit)

    def crash(self) -> None:
        station = self.some()
        if station is None or sum(each.alive for each in self.segment.stations.values()) < 2:
            return
        host = station.host.host
        self.say(f"host {host} dies")
        self.segment.crash(station)
        if self.plot.cluster:
            life = station.life

            def declare() -> None:
                if not station.alive and station.life == life:
                    self.up.discard(host)
                    self.spread_membership()

            self.later(DECLARED_MS // 4, DECLARED_MS, declare)

    def restart(self) -> None:
        station = self.some(alive=False)
        if station is not None:
            self.start_again(station)

    def start_again(self, station: Station) -> None:
        host = station.host.host
        self.say(f"host {host} starts again")
        self.segment.restart(station, self.cluster_parameters(), self.hosts[host], quorum=not self.plot.cluster)
        if self.plot.cluster:
            # A node that returns before it was declared down is declared down first.
            self.up.discard(host)
            self.spread_membership()
            if host not in self.without_quorum:
                self.admit(station)

    def pause(self) -> None:
        station = self.some()
        if station is None or station.paused:
            return
        self.say(f"the agent of host {station.host.host} stands still")
        self.segment.pause(station)
        life = station.life

        def resume() -> None:
            if station.alive and station.life == life and station.paused:
                self.say(f"the agent of host {station.host.host} goes on")
                self.segment.go_on(station)

        self.later(20, 12 * self.plot.period_ms, resume)

    def cut(self) -> None:
        """The segment alone is cut in two; the cluster notices nothing."""
        if self.plot.cluster or len(self.segment.stations) < 2:
            return
        left = self._side()
        self.say(f"the segment is cut: {sorted(left)} and the others")
        for one in left:
            for other in set(self.segment.stations) - left:
                self.segment.cut(one, other)

    def _side(self) -> set[HostId]:
        hosts = sorted(self.segment.stations)
        return set(self.random.sample(hosts, self.random.randint(1, len(hosts) - 1)))

    def cut_one_way(self) -> None:
        """One host does not hear another one."""
        hosts = sorted(self.segment.stations)
        if len(hosts) < 2 or self.plot.cluster:
            return
        one, other = self.random.sample(hosts, 2)
        self.say(f"host {other} does not hear host {one}")
        self.segment.cut(one, other, both_ways=False)

    def separate(self) -> None:
        """The cluster is cut in two with the segment: the smaller side loses its quorum."""
        hosts = sorted(self.segment.stations)
        if not self.plot.cluster or len(hosts) < 3 or self.without_quorum:
            return
        small = set(self.random.sample(hosts, self.random.randint(1, (len(hosts) - 1) // 2)))
        self.say(f"the cluster is cut: {sorted(small)} have no majority")
        self.without_quorum = set(small)
        end_us = self.segment.now_us + LEASE_MS * MS
        for one in small:
            for other in set(hosts) - small:
                self.segment.cut(one, other)
                self.referee.lease_until_us[frozenset({one, other})] = end_us
        for host in small:
            station = self.segment.stations[host]
            life = station.life

            def lose(station: Station = station, life: int = life) -> None:
                if station.life == life and station.host.host in self.without_quorum:
                    self.segment.tell(station, QuorumChanged(held=False))

            self.segment.at(self.segment.now_us + self.random.randint(200, LEASE_MS - 20) * MS, lose)

        def declare() -> None:
            if self.without_quorum == small:
                self.up -= small
                self.spread_membership()

        self.segment.at(self.segment.now_us + DECLARED_MS * MS, declare)

    def mend(self) -> None:
        """Everything is whole again; who had no quorum is admitted anew."""
        if not any(link.cut for link in self.segment.links.values()):
            return
        self.say("the segment is whole again")
        self.segment.mend()
        back, self.without_quorum = self.without_quorum, set()
        for host in back:
            station = self.segment.stations[host]
            if not station.alive:
                continue
            self.segment.tell(station, QuorumChanged(held=False))
            self.up.discard(host)
            self.admit(station)
        if back:
            self.spread_membership()

    def weigh(self) -> None:
        """A host gets another weight, everywhere known."""
        host = self.random.choice(sorted(self.hosts))
        weight = self.random.choice((0, 10, 50, 100))
        self.say(f"host {host} gets the weight {weight}")
        scope = RuleScope(port=80)
        self.hosts[host] = replace(self.hosts[host], weights=(RuleNumber(scope=scope, number=weight),))
        self.spread_parameters()

    def rewrite(self) -> None:
        """The rules are changed."""
        texts = self.random.choice((RULES, OTHER_RULES, AS_MANY_RULES))
        self.say(f"other rules: {texts}")
        self.rules = parse_rules(texts)[0]
        self.spread_parameters()

    def control(self) -> None:
        """A command for a host."""
        station = self.some()
        if station is None or station.paused:
            return
        what = self.random.choice(tuple(Control))
        self.say(f"{what.value} on host {station.host.host}")
        _, actions = station.machine.control(what, station.clock(self.segment.now_us))
        self.segment.perform(station, actions)

    def control_rule(self) -> None:
        """A command for a rule on a host."""
        station = self.some()
        if station is None or station.paused:
            return
        what = self.random.choice(tuple(RuleControl))
        scope = RuleScope(port=self.random.choice(PROBES[:3]))
        self.say(f"{what.value} {scope.text()} on host {station.host.host}")
        _, actions = station.machine.control_rules(what, scope, station.clock(self.segment.now_us))
        self.segment.perform(station, actions)

    def unplug(self) -> None:
        """The adapter of a host loses its carrier for a while."""
        station = self.some()
        if station is None:
            return
        host = station.host.host
        self.say(f"host {host} loses its link")
        self.segment.tell(station, LinkChanged(up=False))
        self.later(50, 800, lambda: self.segment.tell(station, LinkChanged(up=True)))

    def forge(self) -> None:
        """Somebody on the segment sends what hosts must not believe."""
        target = self.random.choice(sorted(self.segment.stations))
        for _ in range(20):
            if not self.segment.sent:
                return
            payload = bytearray(self.random.choice(self.segment.sent))
            match self.random.randint(0, 2):
                case 0:
                    payload[self.random.randrange(len(payload))] ^= 1 << self.random.randint(0, 7)
                case 1:
                    payload = payload[: self.random.randrange(len(payload))]
                case _:
                    pass  # An old frame, as it was.
            self.later(0, 100, lambda data=bytes(payload): self.segment.arrive(target, data, "forger"))  # type: ignore[misc]

    def connect(self) -> None:
        """A few clients come."""
        for _ in range(6):
            port = self.random.choice(PROBES)
            self.segment.connect(port, self.random.randrange(self.plot.buckets), self.random.randint(50, 1_500) * MS)
        self.segment.watch()

    # --- telling ----------------------------------------------------------------------------------------------------

    def tell(self) -> Ending:
        """The whole story."""
        rule = what = ""
        settled_ms = -1
        try:
            settled_ms = self._tell()
        except BrokenPromise as broken:
            rule, what = broken.rule, str(broken)
            self.say(str(broken))
        return Ending(
            plot=self.plot,
            rule=rule,
            what=what,
            words=tuple(self.words),
            settled_ms=settled_ms,
            checks=self.referee.checks,
            frames=self.segment.frames,
        )

    def _tell(self) -> int:
        plot, segment, random = self.plot, self.segment, self.random
        for host in self.hosts.values():
            start_us = random.choice((0, random.randint(0, 300 * MS), random.randint(0, 1_200 * MS)))
            segment.at(start_us, lambda host=host: self._first_start(host))  # type: ignore[misc]
        segment.run(1_500 * MS)
        kinds: tuple[Callable[[], None], ...] = (
            self.crash, self.crash, self.restart, self.restart, self.pause, self.cut, self.cut_one_way, self.separate,
            self.mend, self.mend, self.weigh, self.rewrite, self.control, self.control, self.control_rule, self.unplug,
            self.forge,
        )  # fmt: skip
        for _ in range(plot.steps):
            self.connect()
            random.choice(kinds)()
            segment.run(segment.now_us + random.choice((5, 40, 300, 900)) * random.randint(1, MS))
        return self._come_back()

    def _first_start(self, host: HostParameters) -> None:
        station = self.segment.add(host, self.cluster_parameters())
        if self.plot.cluster:
            self.segment.tell(station, NodesUp(hosts=frozenset(self.up)))

    def _come_back(self) -> int:
        """All faults end. Returns after how many milliseconds the hosts had settled."""
        segment = self.segment
        self.say("all faults end")
        self.mend()
        segment.run(segment.now_us + 250 * MS)
        for station in segment.stations.values():
            if not station.alive:
                self.start_again(station)
            if station.paused:
                segment.go_on(station)
            segment.tell(station, LinkChanged(up=True))
            for what in (Control.RESUME, Control.START):
                _, actions = station.machine.control(what, station.clock(segment.now_us))
                segment.perform(station, actions)
            everything = RuleScope()
            _, actions = station.machine.control_rules(RuleControl.ENABLE, everything, station.clock(segment.now_us))
            segment.perform(station, actions)
        self.spread_parameters()
        begin_us = segment.now_us
        why = self.referee.unsettled()
        while why and segment.now_us < begin_us + self.plot.settle_ms * MS:
            segment.run(segment.now_us + 20 * MS)
            why = self.referee.unsettled()
        settled_ms = (segment.now_us - begin_us) // MS
        if why:
            raise BrokenPromise("one map", f"after {settled_ms} ms: {why}")
        segment.run(segment.now_us + 3 * self.plot.period_ms * MS)
        self.referee.watch()
        why = self.referee.unsettled()
        if why:
            raise BrokenPromise("one map", f"the peace did not last: {why}")
        return settled_ms


def tell(plot: Plot) -> Ending:
    """Tells a story from its plot."""
    return Story(plot).tell()
