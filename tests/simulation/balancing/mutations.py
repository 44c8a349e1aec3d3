"""Ways to break load balancing on purpose; each must be noticed, or the stories prove nothing.

Run ``python -m tests.simulation.balancing --mutations`` for the table of how soon each one is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clussvc.nlb import heartbeat
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.handover import Handover
from tests.simulation.balancing.story import Ending, draw, tell
from tests.simulation.mutation import broken_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One way to break the product."""

    name: str
    what: str
    """What the broken product does, in a sentence."""
    caught_as: frozenset[str]
    """The promises of the referee that count as noticed."""
    broken: Callable[[], AbstractContextManager[None]]
    seeds_max: int
    """Within how many seeds, from 1 on, it must be noticed."""


def _takes_at_once(self: Handover) -> tuple[int, ...]:
    if self.adopted is None:
        return ()
    return tuple(own & ~left for own, left in zip(self.adopted.own, self._yielded, strict=True))


def _clean(self: Handover, peers: object) -> tuple[int, ...]:
    return (0,) * len(self.adopted.own) if self.adopted else ()


def _quorum_does_not_matter(self: Convergence) -> str:
    return "" if self._wanted.value == "started" and self._link and not self._ended else "it is stopped"


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="takes at once",
        what="A host takes what it gains without waiting for the former owner's word.",
        caught_as=frozenset({"one taker"}),
        broken=broken_by((Handover, "taking", _takes_at_once)),
        seeds_max=20,
    ),
    Mutation(
        name="founds at once",
        what="A host that starts does not listen for others before it shares out.",
        caught_as=frozenset({"one taker"}),
        broken=broken_by((Convergence, "_may_found", lambda *_: True)),
        seeds_max=40,
    ),
    Mutation(
        name="no deadman",
        what="A host whose agent stands still goes on to take clients.",
        caught_as=frozenset({"one taker"}),
        broken=broken_by((Convergence, "deadman_ms", 1_000_000)),
        seeds_max=200,
    ),
    Mutation(
        name="deadman as long as detection",
        what="The filter stops only when others count the host as dead, whatever was lost before.",
        caught_as=frozenset({"one taker"}),
        broken=broken_by((Convergence, "deadman_ms", Convergence.detection_ms)),
        seeds_max=1_500,
    ),
    Mutation(
        name="nobody is asked",
        what="The lowest host adopts a map without hearing that the others see what it sees.",
        caught_as=frozenset({"one taker", "one map", "connections stay"}),
        broken=broken_by((Convergence, "_unlike", lambda *_: []), (Convergence, "_unready", lambda *_: [])),
        seeds_max=100,
    ),
    Mutation(
        name="yields nothing",
        what="After a cut, hosts of both sides keep what both have.",
        caught_as=frozenset({"one taker", "connections stay"}),
        broken=broken_by((Handover, "yield_to", lambda *_: None)),
        seeds_max=1_500,
    ),
    Mutation(
        name="nothing is dirty",
        what="The new owner of a bucket answers packets of connections that are not its own.",
        caught_as=frozenset({"connections stay"}),
        broken=broken_by((Handover, "dirty", _clean)),
        seeds_max=100,
    ),
    Mutation(
        name="keeps nothing",
        what="The former owner of a bucket forgets that it has connections there.",
        caught_as=frozenset({"connections stay"}),
        broken=broken_by((Handover, "keep", lambda *_: None)),
        seeds_max=60,
    ),
    Mutation(
        name="believes old frames",
        what="A heartbeat that somebody recorded counts again.",
        caught_as=frozenset({"one taker", "one map", "connections stay", "service goes on"}),
        broken=broken_by((Convergence, "_is_old", lambda *_: False)),
        seeds_max=1_500,
    ),
    Mutation(
        name="believes anybody",
        what="Heartbeats are not authenticated.",
        caught_as=frozenset({"one taker", "one map", "connections stay", "service goes on"}),
        broken=broken_by((heartbeat, "_is_signed", lambda *_: True)),
        seeds_max=1_500,
    ),
    Mutation(
        name="quorum does not matter",
        what="A host whose node has no quorum goes on.",
        caught_as=frozenset({"no quorum, no traffic"}),
        broken=broken_by((Convergence, "_why_not", _quorum_does_not_matter)),
        seeds_max=60,
    ),
    Mutation(
        name="new rules at once",
        what="A host takes buckets of new rules while another one decides by the old rules.",
        caught_as=frozenset({"one taker", "connections stay"}),
        broken=broken_by((Handover, "_decides_alike", lambda *_: True)),
        seeds_max=60,
    ),
    Mutation(
        name="a member is a stranger",
        what="A member that has promised to adopt the map, and has not been heard since, counts as one without a map.",
        caught_as=frozenset({"one taker"}),
        broken=broken_by((Handover, "may_take", lambda self, peer: peer.said.generation > 0)),
        seeds_max=4_000,
    ),
)


def named(name: str) -> Mutation:
    """The mutation of that name."""
    return next(mutation for mutation in MUTATIONS if mutation.name == name)


def hunt(mutation: Mutation) -> Ending | None:
    """The first story that notices; None if none does."""
    for seed in range(1, mutation.seeds_max + 1):
        with mutation.broken():
            ending = tell(draw(seed))
        if ending.rule in mutation.caught_as:
            return ending
    return None
