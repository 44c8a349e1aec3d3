"""What is promised of load balancing, checked after everything that may have changed what a filter accepts.

* **one taker**: no two hosts accept new connections of one bucket, unless the segment was cut between them, or has not
  been whole again for long enough that each has heard the other;
* **no quorum, no traffic**: a host whose node has no quorum accepts nothing;
* **connections stay**: the host of a connection accepts its packets, and whoever owns the bucket by now is silent;
* **service goes on**: without a new map, a host takes no less than before;
* **one map**: some time after all faults have ended, all hosts have converged on one map, and every bucket of
  every rule is taken by exactly one of them.
"""

from __future__ import annotations

from clussvc.model.ids import HostId
from clussvc.nlb.messages import Passing, Table
from clussvc.nlb.port_rule import FilteringMode
from tests.simulation.balancing.segment import MS, Segment, Station

STUCK_US = 320_000
"""An agent that stands still does not hear that its node has lost its quorum; then its monitor ends it, within the
release budget, and before that its filter stops by its deadman."""


class BrokenPromise(Exception):
    """``rule`` is the promise in a few words."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule


class Referee:
    """Watches one segment. ``probes`` are the ports that clients use."""

    def __init__(self, segment: Segment, *, probes: tuple[int, ...], buckets: int, settle_us: int) -> None:
        self._segment = segment
        self._probes = probes
        self._buckets = buckets
        self._settle_us = settle_us
        """How long after a cut was mended two hosts may still not have heard each other."""
        self.lease_until_us: dict[frozenset[HostId], int] = {}
        """For pairs that the cluster has separated: until when one of them may still have had quorum. Later the cut of
        the segment between them is no excuse."""
        self._before: dict[HostId, tuple[Table | None, dict[int, int]]] = {}
        self.checks = 0
        self.overlaps_excused = 0

    # --- what is taken ----------------------------------------------------------------------------------------------

    def taken(self, station: Station) -> dict[int, int]:
        """For each port, the bitmap of buckets of which new connections are accepted."""
        table = station.filtering(self._segment.now_us)
        if table is None:
            return {}
        result = {}
        for port in self._probes:
            slot = table.slots[station.slot(table, port)]
            if slot.passing is not Passing.DISABLED:
                result[port] = _bits(slot.owners, station.host.host)
        return result

    def watch(self) -> None:
        """Checks all that must hold at every moment."""
        self.checks += 1
        segment = self._segment
        taken = {}
        for host, station in segment.stations.items():
            table = station.filtering(segment.now_us)
            former = self._before.get(host)
            if former is not None and former[0] is table:
                bits = former[1]
            else:
                bits = self.taken(station)
                self._watch_service(station, former, table, bits)
                self._before[host] = table, bits
            if bits:
                taken[host] = bits
            if not station.quorum and not station.paused and table is not None:
                raise BrokenPromise("no quorum, no traffic", f"host {host} accepts traffic")
        for port in self._probes:
            union = 0
            for host, ports in taken.items():
                mine = ports.get(port, 0)
                if mine & union:
                    self._judge_overlap(port, host, mine, taken)
                union |= mine
        self._watch_connections()

    def _judge_overlap(self, port: int, host: HostId, mine: int, taken: dict[HostId, dict[int, int]]) -> None:
        for other, ports in taken.items():
            both = mine & ports.get(port, 0)
            if other == host or not both:
                continue
            if self._excused(host, other):
                self.overlaps_excused += 1
                continue
            bucket = (both & -both).bit_length() - 1
            raise BrokenPromise(
                "one taker",
                f"hosts {other} and {host} both take bucket {bucket} of port {port} ({both.bit_count()} in all)",
            )

    def _excused(self, one: HostId, other: HostId) -> bool:
        segment = self._segment
        pair = frozenset({one, other})
        until_us = self.lease_until_us.get(pair)
        if until_us is not None:
            late_us = STUCK_US if any(segment.stations[host].paused for host in pair) else 0
            return segment.now_us < until_us + late_us
        if segment.is_cut(one, other):
            return True
        mended_us = segment.heard_together_us.get(pair)
        return mended_us is not None and segment.now_us - mended_us < self._settle_us

    def _watch_service(
        self,
        station: Station,
        former: tuple[Table | None, dict[int, int]] | None,
        table: Table | None,
        bits: dict[int, int],
    ) -> None:
        """Nobody gives up a bucket without a reason."""
        if former is None or former[0] is None or table is None or self._segment.heard_together_us:
            return
        if former[0].generation != table.generation or any(link.cut for link in self._segment.links.values()):
            return
        others = [each.table.generation for each in self._segment.stations.values() if each.table is not None]
        if table.generation < max(others):
            # Others live by a newer map already; what they claim is theirs.
            return
        for port, had in former[1].items():
            slot = table.slots[station.slot(table, port)]
            if had & ~bits.get(port, 0) and slot.passing is Passing.ENABLED:
                raise BrokenPromise("service goes on", f"host {station.host.host} gave up buckets of port {port}")

    # --- connections ------------------------------------------------------------------------------------------------

    def _watch_connections(self) -> None:
        segment = self._segment
        lost = []
        for connection in segment.connections:
            keeper = segment.stations[connection.host]
            table = keeper.filtering(segment.now_us)
            if table is None or connection.life != keeper.life:
                # Its host stopped, or was silent for too long: then connections are lost, as in the original.
                lost.append(connection)
                continue
            slot = table.slots[keeper.slot(table, connection.port)]
            if slot.passing is Passing.DISABLED:
                lost.append(connection)
                continue
            bit = 1 << connection.bucket
            if slot.owners[connection.bucket] != connection.host and not slot.kept & bit:
                raise BrokenPromise(
                    "connections stay",
                    f"host {connection.host} forgot one of port {connection.port}, bucket {connection.bucket}",
                )
            for other in segment.stations.values():
                if other is keeper or self._excused(keeper.host.host, other.host.host):
                    continue
                theirs = other.filtering(segment.now_us)
                if theirs is None:
                    continue
                there = theirs.slots[other.slot(theirs, connection.port)]
                owns = there.owners[connection.bucket] == other.host.host and there.passing is not Passing.DISABLED
                if owns and not there.dirty & bit:
                    raise BrokenPromise(
                        "connections stay",
                        f"host {other.host.host} would answer packets of a connection of host {connection.host}, port"
                        f" {connection.port}, bucket {connection.bucket}",
                    )
        for connection in lost:
            segment.connections.remove(connection)

    # --- the end ----------------------------------------------------------------------------------------------------

    def unsettled(self) -> str:
        """Why the hosts have not settled yet, or nothing."""
        segment = self._segment
        views = {}
        for host, station in segment.stations.items():
            if not station.alive:
                return f"host {host} is down"
            views[host] = station.machine.view(station.clock(segment.now_us))
        for host, view in views.items():
            if not view.state.startswith("converged"):
                return f"host {host} is {view.state}: {view.because}"
            if set(view.members) != set(segment.stations):
                return f"host {host} has converged with {view.members} only"
            table = segment.stations[host].table
            if table is None or table.rules != view.rules:
                return f"host {host} decides by former rules"
        maps = {(view.generation, view.maps) for view in views.values()}
        if len(maps) != 1:
            return f"{len(maps)} maps"
        full = (1 << self._buckets) - 1
        for port in self._probes:
            union = 0
            wanted = full
            for station in segment.stations.values():
                table = station.filtering(segment.now_us)
                if table is None:
                    return f"the filter of host {station.host.host} takes nothing"
                slot = station.slot(table, port)
                if slot < len(table.rules) and table.rules[slot].mode is FilteringMode.DISABLED:
                    wanted = 0
                union |= self.taken(station).get(port, 0)
            weighted = any(view.weights[self._slot_of(port)] for view in views.values())
            if union != (wanted if weighted else 0):
                return f"port {port}: {wanted.bit_count() - union.bit_count()} buckets are taken by nobody"
        return ""

    def _slot_of(self, port: int) -> int:
        station = next(iter(self._segment.stations.values()))
        table = station.table
        assert table is not None
        return station.slot(table, port)


def _bits(owners: tuple[int, ...], host: HostId) -> int:
    bits = 0
    for bucket, owner in enumerate(owners):
        if owner == host:
            bits |= 1 << bucket
    return bits


def settle_us(segment: Segment, period_ms: int) -> int:
    """How long after a cut was mended two hosts may not have heard each other: a frame is sent in every period,
    and at most so many in a row are lost."""
    return (4 + 1) * period_ms * MS + 2 * segment.delay_us_max + 2 * MS
