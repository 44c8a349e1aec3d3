"""The world: hosts with clocks of their own, a segment that loses and delays frames, and the cluster that some of
them have.

Time is in whole microseconds of a true clock; each host sees milliseconds of its own, which runs a little fast or slow
and begins somewhere. A host is a real :class:`~clussvc.nlb.convergence.Convergence` with a model of its filter: the
table that it was told last, a deadman, and connections that go on where they were accepted.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address
from random import Random

from clussvc.model.ids import HostId
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.heartbeat import (
    EXTENDED,
    HostName,
    MapPart,
    MembershipHeartbeat,
    Refused,
    decode,
    decode_extended,
    encode,
    encode_maps,
)
from clussvc.nlb.messages import (
    Action,
    ConnectionsReported,
    Event,
    HeartbeatHeard,
    HeartbeatRefused,
    MapsHeard,
    Note,
    Passing,
    QuorumChanged,
    SendHeartbeat,
    SendMaps,
    Table,
    Tick,
    UseTable,
)
from clussvc.nlb.parameters import ClusterParameters, HostParameters, InterfaceAddress
from clussvc.nlb.port_rule import PortRule, Protocol, find_rule

MS = 1_000
"""Microseconds."""
ADDRESS = IPv4Address("192.0.2.10")
KEY = b"the key of the cluster in stories"
OTHER_KEY = b"somebody else's key, not this one"
LOST_IN_A_ROW_MAX = 2
"""A link that loses more frames in a row than a host tolerates is cut, and stories cut links by name."""
INBOX_MAX = 256
"""Frames that wait for a paused host; a socket holds no more."""
REPORT_MS = 150
"""How often the filter's connections are looked at."""


def parameters(rules: tuple[PortRule, ...], *, buckets: int = 60, period_ms: int = 100) -> ClusterParameters:
    """The cluster of all stories, with these rules."""
    return ClusterParameters(
        address=InterfaceAddress(address=ADDRESS, prefix=24), rules=rules, bucket_count=buckets, period_ms=period_ms
    )


@dataclass(slots=True)
class Connection:
    """One TCP connection: to which port, in which bucket, and on which host it was accepted."""

    port: int
    bucket: int
    host: HostId
    life: int
    """Which life of the host; its later ones know nothing of it."""


@dataclass(slots=True)
class Link:
    """One direction between two hosts."""

    lost_in_a_row: int = 0
    cut: bool = False


@dataclass(slots=True)
class Station:
    """A host, its filter, and its clock."""

    host: HostParameters
    rate_ppm: int
    offset_ms: int
    machine: Convergence
    alive: bool = True
    life: int = 1
    paused: bool = False
    inbox: list[Event] = field(default_factory=list)
    table: Table | None = None
    valid_until_ms: int = -1
    wake_us: int | None = None
    notes: list[Note] = field(default_factory=list)
    quorum: bool = True
    slots_of: tuple[PortRule, ...] = ()
    slots: dict[int, int] = field(default_factory=dict)

    def clock(self, now_us: int) -> int:
        """Milliseconds of this host."""
        return self.offset_ms + (now_us + now_us * self.rate_ppm // 1_000_000) // MS

    def filtering(self, now_us: int) -> Table | None:
        """The table by which the filter decides now; None: it takes nothing."""
        table = self.table
        if not self.alive or table is None or not table.active or self.clock(now_us) >= self.valid_until_ms:
            return None
        return table

    def slot(self, table: Table, port: int) -> int:
        """The slot of a port's rule."""
        if self.slots_of is not table.rules:
            self.slots_of, self.slots = table.rules, {}
        if port not in self.slots:
            found = find_rule(table.rules, ADDRESS, port, Protocol.TCP)
            self.slots[port] = len(table.rules) if found is None else found
        return self.slots[port]


class Segment:
    """All hosts, and everything that is under way. ``watch`` is called after whatever may have changed what is
    taken."""

    def __init__(self, *, random: Random, delay_us_max: int, loss: float, duplicates: float) -> None:
        self.random = random
        self.now_us = 0
        self.delay_us_max = delay_us_max
        self.loss = loss
        self.duplicates = duplicates
        self.stations: dict[HostId, Station] = {}
        self.links: dict[tuple[HostId, HostId], Link] = {}
        self.connections: list[Connection] = []
        self.heard_together_us: dict[frozenset[HostId], int] = {}
        """For two hosts, when the last cut between them was mended; absent: never cut."""
        self.sent: list[bytes] = []
        """The last frames, for those who replay them."""
        self.frames = 0
        self.refused = 0
        self.watch: Callable[[], None] = lambda: None
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        self._boots = 1_000

    # --- time -------------------------------------------------------------------------------------------------------

    def at(self, when_us: int, what: Callable[[], None]) -> None:
        """Do this at that time."""
        self._count += 1
        heapq.heappush(self._queue, (when_us, self._count, what))

    def run(self, until_us: int) -> None:
        """Let everything happen up to that time."""
        queue = self._queue
        while queue and queue[0][0] <= until_us:
            self.now_us, _, what = heapq.heappop(queue)
            what()
        self.now_us = until_us

    # --- hosts ------------------------------------------------------------------------------------------------------

    def add(self, host: HostParameters, cluster: ClusterParameters, *, quorum: bool = True) -> Station:
        """A host that starts now."""
        random = self.random
        station = Station(
            host=host,
            rate_ppm=random.randint(-400, 400),
            offset_ms=random.randint(0, 10_000),
            machine=self._machine(host, cluster, quorum),
            quorum=quorum,
        )
        for other in self.stations:
            self.links[host.host, other] = Link()
            self.links[other, host.host] = Link()
        self.stations[host.host] = station
        self.tell(station, Tick())
        self._look_at_connections(station)
        return station

    def _machine(self, host: HostParameters, cluster: ClusterParameters, quorum: bool) -> Convergence:
        # A host counts on by itself whenever it loses its map, so lives are a good deal apart, as clocks are.
        self._boots += 1_000
        return Convergence(cluster=cluster, host=host, host_code=0xC0DE00 + host.host, boot=self._boots, quorum=quorum)

    def restart(self, station: Station, cluster: ClusterParameters, host: HostParameters, *, quorum: bool) -> None:
        """A host that had crashed starts again."""
        station.host = host
        station.machine = self._machine(host, cluster, quorum)
        station.alive, station.paused = True, False
        station.life += 1
        station.table, station.wake_us, station.valid_until_ms = None, None, -1
        station.inbox.clear()
        station.quorum = quorum
        self.tell(station, Tick())

    def crash(self, station: Station) -> None:
        """The machine is gone at once, with all connections."""
        station.alive = False
        station.table = None
        self.connections = [each for each in self.connections if each.host != station.host.host]
        self.watch()

    def pause(self, station: Station) -> None:
        """The agent is not run any more; the filter goes on."""
        station.paused = True

    def go_on(self, station: Station) -> None:
        """The agent finds what has come in the meantime."""
        station.paused = False
        waiting, station.inbox = station.inbox, []
        for event in waiting or [Tick()]:
            self.tell(station, event)

    def tell(self, station: Station, event: Event) -> None:
        """An event for a host's machine."""
        if not station.alive:
            return
        if station.paused:
            if len(station.inbox) < INBOX_MAX:
                station.inbox.append(event)
            return
        if isinstance(event, QuorumChanged):
            station.quorum = event.held
        self.perform(station, station.machine.handle(event, station.clock(self.now_us)))

    def perform(self, station: Station, actions: tuple[Action, ...]) -> None:
        """Do what a machine wants."""
        changed = False
        for action in actions:
            match action:
                case UseTable(table=table):
                    station.table = table
                    changed = True
                case SendHeartbeat(heartbeat=heartbeat, valid_until_ms=valid_until_ms):
                    self.broadcast(station, encode(heartbeat, KEY))
                    changed |= station.clock(self.now_us) >= station.valid_until_ms
                    station.valid_until_ms = valid_until_ms
                case SendMaps(part=part):
                    for payload in encode_maps(part, KEY):
                        self.broadcast(station, payload)
                case Note():
                    station.notes.append(action)
        if changed:
            self.watch()
        self._wake(station)

    def _wake(self, station: Station) -> None:
        """At the deadline of the machine, and not again for a deadline that is later than one that is set already."""
        deadline_ms = station.machine.deadline_ms
        if deadline_ms is None:
            return
        wait_ms = max(0, deadline_ms - station.clock(self.now_us))
        when_us = self.now_us + wait_ms * MS + (MS // 2 if wait_ms else 100)
        if station.wake_us is not None and self.now_us < station.wake_us <= when_us:
            return
        station.wake_us = when_us
        life = station.life

        def wake() -> None:
            if station.life != life or station.wake_us != when_us:
                return
            station.wake_us = None
            due = station.machine.deadline_ms
            if station.paused:
                self.at(when_us + 5 * MS, lambda: self._wake(station))
            elif due is not None and due <= station.clock(self.now_us):
                self.tell(station, Tick())
            else:
                self._wake(station)

        self.at(when_us, wake)

    def _look_at_connections(self, station: Station) -> None:
        """Reports the connections of the filter from time to time."""
        if station.alive and not station.paused and station.table is not None:
            self.tell(station, self.report(station))
        self.at(self.now_us + REPORT_MS * MS, lambda: self._look_at_connections(station))

    def report(self, station: Station) -> ConnectionsReported:
        """What the filter of a host says of its connections."""
        table = station.table
        assert table is not None
        mine = [each for each in self.connections if each.host == station.host.host]
        buckets = [0] * (len(table.rules) + 1)
        for connection in mine:
            buckets[station.slot(table, connection.port)] |= 1 << connection.bucket
        return ConnectionsReported(number=table.number, total=len(mine), buckets=tuple(buckets))

    # --- frames -----------------------------------------------------------------------------------------------------

    def broadcast(self, station: Station, payload: bytes) -> None:
        """A frame for all others."""
        self.frames += 1
        self.sent.append(payload)
        del self.sent[:-400]
        for host, other in self.stations.items():
            if other is not station:
                self._carry(station.host.host, host, payload)

    def _carry(self, source: HostId, target: HostId, payload: bytes) -> None:
        link = self.links[source, target]
        random = self.random
        if link.cut:
            return
        if self.loss and link.lost_in_a_row < LOST_IN_A_ROW_MAX and random.random() < self.loss:
            link.lost_in_a_row += 1
            return
        link.lost_in_a_row = 0
        copies = 2 if self.duplicates and random.random() < self.duplicates else 1
        for _ in range(copies):
            delay_us = random.randint(20, self.delay_us_max)
            self.at(self.now_us + delay_us, lambda: self.arrive(target, payload, f"h{source}"))

    def arrive(self, target: HostId, payload: bytes, source: str) -> None:
        """A frame reaches a host, wherever it comes from."""
        station = self.stations[target]
        if not station.alive:
            return
        said = read(payload)
        match said:
            case MembershipHeartbeat():
                self.tell(station, HeartbeatHeard(heartbeat=said, source=source))
            case MapPart():
                self.tell(station, MapsHeard(part=said))
            case Refused():
                self.refused += 1
                self.tell(station, HeartbeatRefused(reason=said))
            case HostName():
                pass

    def cut(self, one: HostId, other: HostId, *, both_ways: bool = True) -> None:
        """Nothing comes through from one host to another."""
        self.links[one, other].cut = True
        if both_ways:
            self.links[other, one].cut = True
        self.heard_together_us.pop(frozenset({one, other}), None)

    def mend(self) -> None:
        """Every link carries again."""
        for (one, other), link in self.links.items():
            if link.cut:
                link.cut = False
                self.heard_together_us[frozenset({one, other})] = self.now_us

    def is_cut(self, one: HostId, other: HostId) -> bool:
        """Whether some direction between two hosts is cut."""
        return self.links[one, other].cut or self.links[other, one].cut

    # --- clients ----------------------------------------------------------------------------------------------------

    def takers(self, port: int, bucket: int) -> list[Station]:
        """The hosts whose filters accept a new connection."""
        found = []
        for station in self.stations.values():
            table = station.filtering(self.now_us)
            if table is None:
                continue
            slot = table.slots[station.slot(table, port)]
            if slot.owners[bucket] == station.host.host and slot.passing is not Passing.DISABLED:
                found.append(station)
        return found

    def connect(self, port: int, bucket: int, lasts_us: int) -> Station | None:
        """A client opens a connection; the host that accepted it."""
        takers = self.takers(port, bucket)
        if not takers:
            return None
        host = takers[0]
        connection = Connection(port=port, bucket=bucket, host=host.host.host, life=host.life)
        self.connections.append(connection)

        def end() -> None:
            if connection in self.connections:
                self.connections.remove(connection)

        self.at(self.now_us + lasts_us, end)
        return host


@lru_cache(maxsize=512)
def read(payload: bytes) -> MembershipHeartbeat | MapPart | HostName | Refused:
    """What a payload means to every host of the cluster."""
    if payload[:4] == EXTENDED.to_bytes(4, "little"):
        return decode_extended(payload, KEY, ADDRESS.packed)
    return decode(payload, KEY, ADDRESS.packed)
