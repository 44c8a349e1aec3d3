"""The next bucket maps of a cluster, as a function of what its members say of themselves.

Every host says in its heartbeats what it owns (its *claims*), under which generation, and with which weight it
takes part. Hosts that have heard the same statements compute the same next maps, and a 64-bit value that is equal
exactly if the statements and the rules are. So they need not send each other maps to agree; they compare the values.

Claims can contradict each other: after a partition both sides have given out all buckets. A claim of a higher
generation counts more; of equal ones, that of the lower host. The maps built on these *base* owners move no bucket
without need.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import NOBODY, BucketMap, empty_map, next_map, own_bits, single_owner
from clussvc.nlb.port_rule import FilteringMode, PortRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one host says of itself that enters the next maps. The tuples have a place for each rule and one, the last,
    for the default rule."""

    host: HostId
    host_code: int
    boot: int
    generation: int
    """Of the map that the host has adopted; 0: none, and then it claims nothing."""
    table_code: int
    """Of the rules by which it decides at present."""
    words: tuple[int, ...]
    """Its claims as map words."""
    weights: tuple[int, ...]

    @property
    def rank(self) -> tuple[int, int, int]:
        """Orders claims: the smallest counts most."""
        return -self.generation, int(self.host), self.host_code


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What follows from the statements of all members."""

    value: int
    """64 bits, never 0."""
    generation: int
    """Under which the maps will be adopted: above those of all members."""
    statements: Mapping[HostId, Statement]
    claims: Mapping[HostId, tuple[int, ...]]
    """As bitmaps."""
    maps: tuple[BucketMap, ...]
    """For each rule, and for the default rule."""
    shares: Mapping[HostId, tuple[int, ...]]
    """What each member owns by them, as bitmaps."""

    @property
    def members(self) -> frozenset[HostId]:
        """Who takes part."""
        return frozenset(self.statements)


def agreement_value(statements: Iterable[Statement], codes: Sequence[int], buckets: int) -> int:
    """The number by which hosts see that they would adopt the same maps."""
    digest = hashlib.blake2b(struct.pack(f"<I{len(codes)}I", buckets, *codes), digest_size=8, person=b"nlb agreement")
    for said in sorted(statements, key=lambda each: each.host):
        digest.update(
            struct.pack(
                f"<IIQII{len(said.words)}Q{len(said.weights)}B",
                said.host,
                said.host_code,
                said.boot,
                said.generation,
                said.table_code,
                *said.words,
                *said.weights,
            )
        )
    return int.from_bytes(digest.digest(), "little") or 1


def agree(
    statements: Sequence[Statement],
    claims: Mapping[HostId, tuple[int, ...]],
    rules: Sequence[PortRule],
    codes: Sequence[int],
    buckets: int,
) -> Agreement:
    """What these statements lead to. ``claims`` has the bitmaps behind their words; ``codes`` one number a slot."""
    ranked = sorted(statements, key=lambda each: each.rank)
    maps = []
    for slot in range(len(rules) + 1):
        weights = {said.host: said.weights[slot] for said in ranked if said.weights[slot]}
        mode = rules[slot].mode if slot < len(rules) else FilteringMode.SINGLE
        match mode:
            case FilteringMode.MULTIPLE:
                base = merged([(said.host, claims[said.host][slot]) for said in ranked], buckets)
                maps.append(next_map(base, weights))
            case FilteringMode.SINGLE:
                maps.append((single_owner(weights),) * buckets)
            case FilteringMode.DISABLED:
                maps.append(empty_map(buckets))
    return Agreement(
        value=agreement_value(statements, codes, buckets),
        generation=1 + max(said.generation for said in statements),
        statements={said.host: said for said in statements},
        claims=dict(claims),
        maps=tuple(maps),
        shares={said.host: tuple(own_bits(owners, said.host) for owners in maps) for said in statements},
    )


def merged(ranked: Sequence[tuple[HostId, int]], buckets: int) -> BucketMap:
    """The owners of buckets by the claims of hosts; the first that claims a bucket has it."""
    owners = [NOBODY] * buckets
    taken = 0
    for host, claimed in ranked:
        rest = claimed & ~taken
        taken |= claimed
        while rest:
            lowest = rest & -rest
            owners[lowest.bit_length() - 1] = host
            rest ^= lowest
    return tuple(owners)
