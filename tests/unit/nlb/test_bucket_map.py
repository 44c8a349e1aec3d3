"""Laws of bucket ownership, for random histories of hosts and weights, beside a twin that tries every transfer."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import (
    BUCKET_COUNTS,
    BUCKETS_COMPATIBLE,
    BUCKETS_LARGE,
    NOBODY,
    BucketMap,
    counts,
    default_host,
    empty_map,
    from_bits,
    moved,
    next_map,
    own_bits,
    single_owner,
)

HOSTS = st.integers(1, 32).map(HostId)
WEIGHTS = st.dictionaries(HOSTS, st.integers(0, 100), max_size=8)
HISTORIES = st.lists(WEIGHTS, max_size=4)


def after(history: list[dict[HostId, int]], buckets: int = BUCKETS_COMPATIBLE) -> BucketMap:
    """The map that a series of changes leads to."""
    owners = empty_map(buckets)
    for weights in history:
        owners = next_map(owners, weights)
    return owners


def twin(former: BucketMap, weights: dict[HostId, int]) -> BucketMap:
    """The same market, written without queues: exact fractions, and every host asked each time."""
    owners = [owner if weights.get(HostId(owner), 0) else NOBODY for owner in former]
    takers = sorted(host for host, weight in weights.items() if weight)

    def bid(host: int) -> Fraction:
        return Fraction(2 * weights[HostId(host)], 2 * owners.count(host) + 1)

    def value(host: int) -> Fraction:
        return Fraction(2 * weights[HostId(host)], 2 * owners.count(host) - 1)

    for bucket, owner in enumerate(owners):
        if owner == NOBODY and takers:
            owners[bucket] = max(takers, key=lambda host: (bid(host), -host))
    while takers:
        buyer = max(takers, key=lambda host: (bid(host), -host))
        seller = min((host for host in takers if host in owners), key=lambda host: (value(host), -host))
        if bid(buyer) <= value(seller):
            break
        sold = [bucket for bucket, owner in enumerate(owners) if owner == seller]
        # What a host got in this round it sells first, and otherwise its highest bucket.
        fresh = [bucket for bucket in sold if former[bucket] != seller]
        owners[(fresh or sold)[-1]] = buyer
    return tuple(owners)


@given(history=HISTORIES, weights=WEIGHTS)
def test_it_counts_like_its_twin(history: list[dict[HostId, int]], weights: dict[HostId, int]) -> None:
    """Every host gets as many buckets as the twin gives it, and as many move."""
    former = after(history)
    mine, theirs = next_map(former, weights), twin(former, weights)

    assert counts(theirs) == counts(mine)
    assert moved(former, theirs) == moved(former, mine)


@given(history=HISTORIES, weights=WEIGHTS, buckets=st.sampled_from(BUCKET_COUNTS))
def test_every_bucket_has_an_owner_who_lives(
    history: list[dict[HostId, int]], weights: dict[HostId, int], buckets: int
) -> None:
    """Nobody owns anything only if no host has a weight."""
    owners = next_map(after(history, buckets), weights)
    takers = {host for host, weight in weights.items() if weight}

    assert len(owners) == buckets
    assert set(owners) <= takers or (not takers and set(owners) == {NOBODY})


@given(history=HISTORIES, weights=WEIGHTS, leaver=HOSTS)
def test_a_leave_moves_only_what_the_leaver_had(
    history: list[dict[HostId, int]], weights: dict[HostId, int], leaver: HostId
) -> None:
    """All other clients stay where they are."""
    before = next_map(after(history), weights)
    later = next_map(before, {host: weight for host, weight in weights.items() if host != leaver})

    assert all(old in (new, leaver) for old, new in zip(before, later, strict=True))


@given(history=HISTORIES, weights=WEIGHTS, joiner=HOSTS, weight=st.integers(0, 100))
def test_a_join_moves_buckets_only_to_the_joiner(
    history: list[dict[HostId, int]], weights: dict[HostId, int], joiner: HostId, weight: int
) -> None:
    """Nothing moves between the others."""
    others = {host: each for host, each in weights.items() if host != joiner}
    before = next_map(after(history), others)
    later = next_map(before, {**others, joiner: weight})

    assert all(new in (old, joiner) for old, new in zip(before, later, strict=True))


@given(history=HISTORIES, weights=WEIGHTS)
def test_nothing_moves_without_a_reason(history: list[dict[HostId, int]], weights: dict[HostId, int]) -> None:
    """The next map of a map for the same weights is the map itself."""
    owners = next_map(after(history), weights)

    assert owners == next_map(owners, weights)


@given(history=HISTORIES, weights=WEIGHTS, buckets=st.sampled_from(BUCKET_COUNTS))
@settings(max_examples=50)
def test_no_transfer_brings_two_hosts_nearer_to_their_shares(
    history: list[dict[HostId, int]], weights: dict[HostId, int], buckets: int
) -> None:
    """As exact as whole buckets can be."""
    owned = counts(next_map(after(history, buckets), weights))
    total = sum(weights.values())
    takers = [host for host, weight in weights.items() if weight]
    for giver in takers:
        for taker in takers:
            if giver == taker or not owned.get(giver, 0):
                continue
            over = owned[giver] - Fraction(weights[giver] * buckets, total)
            under = Fraction(weights[taker] * buckets, total) - owned.get(taker, 0)
            assert not (abs(over - 1) < abs(over) and abs(under - 1) < abs(under))


@pytest.mark.parametrize(
    ("buckets", "limit"), [(BUCKETS_COMPATIBLE, Fraction(145, 100)), (BUCKETS_LARGE, Fraction(103, 100))]
)
def test_the_busiest_of_equal_hosts(buckets: int, limit: Fraction) -> None:
    """The larger count leaves at most 1.03 times the mean to the busiest of up to 32 hosts, however they came."""
    owners = empty_map(buckets)
    for hosts in [*range(1, 33), *range(31, 0, -1)]:
        owners = next_map(owners, {HostId(number): 50 for number in range(1, hosts + 1)})
        assert Fraction(max(counts(owners).values()) * hosts, buckets) <= limit


def test_equal_hosts_share_to_a_bucket() -> None:
    """From one host to 32 and back, nobody has two more than another."""
    owners = empty_map(BUCKETS_LARGE)
    for hosts in [*range(1, 33), *range(31, 0, -1)]:
        owners = next_map(owners, {HostId(number): 7 for number in range(1, hosts + 1)})
        owned = counts(owners).values()
        assert max(owned) - min(owned) <= 1


@pytest.mark.parametrize("buckets", BUCKET_COUNTS)
def test_weights_are_shares(buckets: int) -> None:
    """20 : 30 : 50, and a host that takes nothing new."""
    owned = counts(next_map(empty_map(buckets), {HostId(1): 20, HostId(2): 30, HostId(3): 50, HostId(4): 0}))

    assert owned == {HostId(1): buckets * 20 // 100, HostId(2): buckets * 30 // 100, HostId(3): buckets * 50 // 100}


@given(history=HISTORIES, weights=WEIGHTS, buckets=st.sampled_from(BUCKET_COUNTS))
def test_bitmaps_tell_the_map(history: list[dict[HostId, int]], weights: dict[HostId, int], buckets: int) -> None:
    """What each host says it owns makes the whole map."""
    owners = next_map(after(history, buckets), weights)
    bits = {HostId(host): own_bits(owners, HostId(host)) for host in range(1, 33)}

    assert owners == from_bits(bits, buckets)
    assert sum(each.bit_count() for each in bits.values()) == sum(owner != NOBODY for owner in owners)


def test_the_lower_host_has_what_two_claim() -> None:
    """After a partition two hosts may claim one bucket; all others read it alike."""
    assert (1, 2, 0, 1) == from_bits({HostId(2): 0b0011, HostId(1): 0b1001}, 4)


def test_one_host_for_a_rule() -> None:
    """The lowest handling priority; with two of them, the lower host."""
    assert single_owner({HostId(1): 9, HostId(2): 3, HostId(5): 4}) == 2
    assert single_owner({HostId(7): 3, HostId(2): 3}) == 2
    assert single_owner({}) == NOBODY
    assert default_host([HostId(4), HostId(3)]) == 3
    assert default_host([]) == NOBODY
