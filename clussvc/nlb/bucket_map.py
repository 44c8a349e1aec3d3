"""Which host owns which bucket of a port rule: kept where it is, moved only where it must, equal on every host.

A client falls into a *bucket* by its hash, and a *bucket map* names for every bucket the one host that owns it.
When hosts come, go or change their weights, the next map is a function of the former map and the weights alone, so
all hosts that agree on these agree on it:

* the buckets of a host that left go to those that stay, and nothing else moves;
* a host that joins gets its share, and nothing moves between the others;
* the shares follow the weights as exactly as whole buckets can: they are an apportionment after Webster (Sainte-Lague).
  No other rule of apportionment has both properties: it is free of the paradox that somebody's leaving costs a third
  one a seat, and no transfer of one bucket between two hosts would bring both nearer to their exact shares.

The idea is a market of seats. A host of weight w that owns s buckets bids ``w / (s + 1/2)`` for one more and values its
last one at ``w / (s - 1/2)``. A bucket that nobody owns goes to the highest bid; one that somebody owns changes
hands only when a bid is higher than its owner values it. Ties change nothing, or go to the lowest host.

Sixty buckets are what the original's heartbeat can carry (its maps are 64-bit words), and divide evenly among 1 to
6, 10, 12, 15, 20 and 30 hosts. The larger count is 960 = 16 x 60: it divides evenly wherever 60 does and among 8,
16, 24 and 32 as well, honours weights to a tenth of a percent, and leaves the busiest of up to 32 equal hosts at
most 1.03 times the mean (60: up to 1.45).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from functools import lru_cache

from clussvc.model.ids import HostId

BucketMap = tuple[int, ...]
"""For each bucket the host that owns it, 1..32, or :data:`NOBODY`."""

NOBODY = 0
"""Stands in a bucket map where no host takes the bucket: no host that lives has a weight."""

BUCKETS_COMPATIBLE = 60
"""The default: every bucket map fits into the words of the published heartbeat."""
BUCKETS_LARGE = 960
"""For evenness; see above."""
BUCKET_COUNTS = (BUCKETS_COMPATIBLE, BUCKETS_LARGE)

WEIGHT_MAX = 100


def empty_map(buckets: int) -> BucketMap:
    """Nobody owns anything yet."""
    return (NOBODY,) * buckets


def next_map(former: BucketMap, weights: Mapping[HostId, int]) -> BucketMap:
    """The map that follows ``former`` when exactly the hosts of ``weights`` live.

    A weight is 0..100; hosts with weight 0, and owners that ``weights`` does not name, lose their buckets. When no host
    has a weight, nobody owns anything.
    """
    return _next_map(former, tuple(sorted((host, weight) for host, weight in weights.items() if weight > 0)))


@lru_cache(maxsize=64)
def _next_map(former: BucketMap, weights: tuple[tuple[HostId, int], ...]) -> BucketMap:
    """Remembered, since the rules of one cluster mostly have the same weights."""
    if not weights:
        return empty_map(len(former))
    weight_of = dict(weights)
    owned: dict[int, list[int]] = {host: [] for host in weight_of}
    free: list[int] = []
    for bucket, owner in enumerate(former):
        owned.get(owner, free).append(bucket)
    # Every host waits in both queues with its present count; an entry of an older count is passed over.
    asking = [(-_bid(weight, len(owned[host])), int(host)) for host, weight in weights]
    giving = [(_value(weight, len(owned[host])), -int(host)) for host, weight in weights]
    heapq.heapify(asking)
    heapq.heapify(giving)

    def changed(host: HostId) -> None:
        heapq.heappush(asking, (-_bid(weight_of[host], len(owned[host])), int(host)))
        heapq.heappush(giving, (_value(weight_of[host], len(owned[host])), -int(host)))

    def buyer() -> HostId:
        while True:
            bid, number = asking[0]
            host = HostId(number)
            if -bid == _bid(weight_of[host], len(owned[host])):
                return host
            heapq.heappop(asking)

    def seller() -> HostId:
        while True:
            value, number = giving[0]
            host = HostId(-number)
            if value == _value(weight_of[host], len(owned[host])):
                return host
            heapq.heappop(giving)

    for bucket in free:
        taker = buyer()
        owned[taker].append(bucket)
        changed(taker)
    while True:
        taker, giver = buyer(), seller()
        if _bid(weight_of[taker], len(owned[taker])) <= _value(weight_of[giver], len(owned[giver])):
            break
        owned[taker].append(owned[giver].pop())
        changed(taker)
        changed(giver)
    result = [NOBODY] * len(former)
    for host, buckets in owned.items():
        for bucket in buckets:
            result[bucket] = host
    return tuple(result)


_SCALE_BITS = 40
"""Bids are compared as whole numbers. Two different ones differ by at least 1/(2 x 1000 buckets)^2 > 2^-24, so rounding
down at 2^-40 changes no order, and equal ones stay equal."""


def _bid(weight: int, count: int) -> int:
    return (weight << _SCALE_BITS) // (2 * count + 1)


def _value(weight: int, count: int) -> int:
    """What the last of ``count`` buckets is worth to its owner; one that owns none has nothing to sell."""
    return (weight << _SCALE_BITS) // (2 * count - 1) if count else WEIGHT_MAX << (_SCALE_BITS + 1)


def own_bits(owners: BucketMap, host: HostId) -> int:
    """The buckets of one host as a bitmap; bit 0 is bucket 0."""
    if host not in owners:
        return 0
    # Half the time of adding up powers of two: bits are written as text, highest first.
    return int("".join(["1" if owner == host else "0" for owner in reversed(owners)]), 2)


def from_bits(bits: Mapping[HostId, int], buckets: int) -> BucketMap:
    """The map that follows from what each host says it owns. Where two claim a bucket, the lower host has it."""
    owners = [NOBODY] * buckets
    for host in sorted(bits, reverse=True):
        claimed = bits[host]
        for bucket in range(buckets):
            if claimed >> bucket & 1:
                owners[bucket] = host
    return tuple(owners)


def moved(before: BucketMap, after: BucketMap) -> int:
    """How many buckets changed hands."""
    return sum(1 for old, new in zip(before, after, strict=True) if old != new)


def counts(owners: BucketMap) -> Mapping[HostId, int]:
    """How many buckets each owner has; those without any are not named."""
    found: dict[HostId, int] = {}
    for owner in owners:
        if owner != NOBODY:
            found[HostId(owner)] = found.get(HostId(owner), 0) + 1
    return found


def single_owner(priorities: Mapping[HostId, int]) -> int:
    """Who takes everything of a rule with a single host: the lowest handling priority among the hosts that live
    and handle it; the lower host where two have the same, which is a misconfiguration; :data:`NOBODY` if there is
    none."""
    return min(priorities, key=lambda host: (priorities[host], host), default=NOBODY)


def default_host(hosts: Iterable[HostId]) -> int:
    """Who takes what no rule covers: the lowest host that lives."""
    return min(hosts, default=NOBODY)
