"""Mutations of clusters with a quorum disk; see :mod:`tests.simulation.mutations`.

Some weaknesses cannot be seen as a broken rule, since something else holds as well; they were tried:

* reservations that are not taken: everything rests on slots and areas then, as it does where a disk has none;
* an owner that does not look for contests: nobody contests before its slot has stood still, and then its hold is over;
* an owner whose grants, or whose own former leases, outlast its hold: its log tells it at that moment that it has lost
  the disk, and it drops both.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from clussvc.membership.disk_hold import DiskHold
from clussvc.membership.heartbeat import Heard, HeartbeatTable, _Peer
from clussvc.membership.jury import Jury
from clussvc.quorum import arbitration
from clussvc.quorum.arbitration import Watch
from clussvc.quorum.disk_layout import LogPlace, Slot
from clussvc.quorum.disk_log import QuorumDiskLog
from tests.simulation.faults import DISK_KINDS
from tests.simulation.mutation import Mutation, broken_by
from tests.simulation.temptations import tempting

LEASES = "disk-leases"
_DISK = dict.fromkeys(DISK_KINDS, 2.0) | {"administration": 3.0}
_NETWORK = {"isolation": 2.0, "partition": 2.0, "cut links": 1.0, "one-way cut": 1.0, "administration": 2.0}
_POWER = {"crash": 2.0, "crash of a service": 1.0, "stopped service": 2.0, "suspended machine": 1.0}
_ALL = _DISK | _NETWORK | _POWER
_RUNS = frozenset({"R1", "R2", "R3", "one owner"})
_LOST = frozenset({"one log", "acknowledged", "equal state", "applied once"})

_take_lease = HeartbeatTable._take_lease


def _lease_of_anybody(table: HeartbeatTable, peer: _Peer, heard: Heard) -> None:
    _take_lease(table, peer, replace(heard, heartbeat=replace(heard.heartbeat, grants=True)))


def _hold_for_longer(hold: DiskHold, table: HeartbeatTable) -> int:
    if hold._gives_way_to is not None:
        return -1
    return hold._held.until_ms + 1_500 if hold._held is not None else table.granted_until_ms()


def _read_nothing(log: QuorumDiskLog, place: LogPlace) -> Generator[Any, bytes, None]:
    yield from ()


def _begin_without_memory(log: QuorumDiskLog, copies: Sequence[Slot | None]) -> None:
    log._mine = Slot(node=log._node, boot=log._boot)


def _one_copy(log: QuorumDiskLog) -> int:
    return 0


DISK_MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="half a hold is waited for",
        breaks="one owner of the disk",
        what="A node takes the disk when its owner's slot has stood still for half a hold.",
        caught_as=frozenset({"one owner of the disk", *_RUNS}),
        broken=broken_by((Watch, "stands_still_ms", property(lambda watch: watch.own_hold_ms // 2))),
        plot=tempting(_ALL, log=LEASES, for_ms=(50, 1_500)),
        seeds_max=20,
    ),
    Mutation(
        name="choices are not kept to",
        breaks="one owner of the disk",
        what="Whoever contests proposes itself, though another node may have been chosen.",
        caught_as=frozenset({"one owner of the disk", *_RUNS, *_LOST}),
        broken=broken_by(
            (arbitration, "choice_of", lambda slots, me, epoch, ballot=0: me),
            (arbitration, "outvoted", lambda slots, me, epoch, ballot: False),
        ),
        plot=tempting(_ALL, log=LEASES, nodes=4, for_ms=(50, 1_500)),
        seeds_max=40,
    ),
    Mutation(
        name="leases of anybody",
        breaks="R2",
        what="A heartbeat gives a lease though its sender does not own the disk.",
        caught_as=_RUNS,
        broken=broken_by((HeartbeatTable, "_take_lease", _lease_of_anybody)),
        plot=tempting(_ALL, log=LEASES),
        seeds_max=20,
    ),
    Mutation(
        name="hold goes on",
        breaks="R2",
        what="An owner acts on when its hold is over.",
        caught_as=_RUNS,
        broken=broken_by((DiskHold, "until_ms", _hold_for_longer)),
        plot=tempting(_ALL, log=LEASES),
        seeds_max=20,
    ),
    Mutation(
        name="log not read",
        breaks="log",
        what="A new owner does not read the log that the one before has left.",
        caught_as=_LOST,
        broken=broken_by((QuorumDiskLog, "_replay", _read_nothing)),
        plot=tempting(_ALL, log=LEASES),
        seeds_max=20,
    ),
    Mutation(
        name="always the same areas",
        breaks="log",
        what="Every owner writes into the same areas, so that late writes of one before meet what is in use.",
        caught_as=_LOST,
        broken=broken_by((arbitration, "pair_for", lambda slots: 0)),
        plot=tempting(_ALL, log=LEASES),
        seeds_max=40,
    ),
    Mutation(
        name="slot without memory",
        breaks="one owner of the disk",
        what="A node that was started anew forgets what it has said on the disk.",
        caught_as=frozenset({"one owner of the disk", *_RUNS, *_LOST}),
        broken=broken_by((QuorumDiskLog, "_begin_slot", _begin_without_memory)),
        plot=tempting(_ALL, log=LEASES),
        seeds_max=40,
    ),
    Mutation(
        name="slots with one copy",
        breaks="log",
        what="A slot is written over its own newest words, and an old word may come back.",
        caught_as=frozenset({"one owner of the disk", *_RUNS, *_LOST}),
        broken=broken_by((QuorumDiskLog, "_usable_copy", _one_copy)),
        plot=tempting(_ALL, log=LEASES, nodes=4),
        seeds_max=60,
    ),
    Mutation(
        name="jury of nobody's past",
        breaks="R3",
        what="A new owner declares others down without waiting for what the one before has granted.",
        caught_as=_RUNS,
        broken=broken_by((Jury, "not_before_ms", lambda jury, node, *, silence_ms, lease_ms: 0)),
        plot=tempting(_NETWORK | {"owner in trouble": 6.0}, log=LEASES, nodes=4),
        seeds_max=60,
    ),
)
