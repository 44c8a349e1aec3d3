"""Mutations of clusters whose quorum changes; see :mod:`tests.simulation.mutations`.

Some weaknesses cannot be seen as a broken rule, since something else holds as well; they were tried:

* a node that says too early that it is settled: its owner hears it say so, and any silence begins after that;
* a retired owner that goes on to renew its hold: its core does not grant by it any more, since it has read of the
  change;
* a disk that is owned again by who reads the end of its log there: the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clussvc.membership import regroup
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.membership.mandate import Mandate
from clussvc.model.config import Config, Node
from clussvc.model.ids import NodeId
from tests.simulation.common_history import SimState
from tests.simulation.mutation import Mutation, broken_by
from tests.simulation.temptations import Draw, tempting

CHANGE = "change of the quorum"
_NETWORK = {"isolation": 3.0, "partition": 3.0, "cut links": 2.0, "one-way cut": 2.0, "administration": 2.0}
_POWER = {"crash": 1.0, "stopped service": 3.0, "stalled core": 2.0}
_RUNS = frozenset({"R1", "R2", "R3", "one owner"})
_LOST = frozenset({"one log", "acknowledged", "equal state", "applied once"})


def _changing(*, log: str, nodes: int, kinds: dict[str, float], rate_per_s: float = 3.0) -> Draw:
    """Stories in which the quorum changes again and again, in bad weather."""
    return tempting({CHANGE: 6.0} | kinds, log=log, nodes=nodes, rate_per_s=rate_per_s, for_ms=(300, 4_000))


def _by_the_owner_alone(config: Config, table: HeartbeatTable, member: Node, jury: Jury, now_ms: int) -> int:
    del config
    return table.common_silence_ms(member.id, jury.voters, now_ms, newborn_grace_ms=regroup.FORMATION_GRACE_MS)


def _without_what_was_left(jury: Jury, node: NodeId, *, silence_ms: int, lease_ms: int) -> int:
    return _not_before(replace(jury, left_over_ms=None), node, silence_ms=silence_ms, lease_ms=lease_ms)


_not_before = Jury.not_before_ms


def _never_settles(mandate: Mandate, table: HeartbeatTable, *_: Any, **__: Any) -> bool:
    """It says that it acts by the disk alone, and goes on by the majority."""
    return False


def _bridge_without_end(mandate: Mandate, table: HeartbeatTable, voters: frozenset[NodeId], now_ms: int) -> int:
    until_ms = _until(mandate, table, voters, now_ms)
    return max(until_ms, mandate.bridge_until_ms + 5_000) if mandate.bridge_until_ms > 0 else until_ms


_until = Mandate.until_ms


QUORUM_MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="unsettled nodes judged by the owner alone",
        breaks="R3",
        what="The owner of the new disk declares a node down that may act by the former majority.",
        caught_as=_RUNS,
        broken=broken_by((regroup, "proven_silence_ms", _by_the_owner_alone)),
        plot=_changing(log="raft", nodes=5, kinds=_NETWORK),
        seeds_max=60,
    ),
    Mutation(
        name="entries after a cut",
        breaks="log",
        what="What follows the last entry of a log is applied.",
        caught_as=_LOST | {"no exception"},
        broken=broken_by((SimState, "retired", property(lambda state: False))),
        plot=_changing(log="disk-leases", nodes=3, kinds=_POWER | {"administration": 6.0}),
        seeds_max=40,
    ),
    Mutation(
        name="leases of the disk that was left are forgotten",
        breaks="R3",
        what="After a change away from a disk nobody waits for the last leases of its owner.",
        caught_as=_RUNS,
        broken=broken_by((Jury, "not_before_ms", _without_what_was_left)),
        plot=_changing(log="disk-leases", nodes=4, kinds=_NETWORK | _POWER),
        seeds_max=80,
    ),
    Mutation(
        name="back to the majority",
        breaks="R2",
        what="A node acts by the former majority though it has said that it acts by the disk alone.",
        caught_as=_RUNS,
        broken=broken_by((Mandate, "settles", _never_settles), (Mandate, "settled", lambda mandate, now_ms: True)),
        plot=_changing(log="raft", nodes=5, kinds=_NETWORK),
        seeds_max=60,
    ),
    Mutation(
        name="a bridge that is too long",
        breaks="R2",
        what="After a change away from a disk a node goes on for seconds by what it had.",
        caught_as=_RUNS,
        broken=broken_by((Mandate, "until_ms", _bridge_without_end)),
        plot=_changing(log="disk-leases", nodes=3, kinds=_NETWORK | _POWER),
        seeds_max=40,
    ),
)
