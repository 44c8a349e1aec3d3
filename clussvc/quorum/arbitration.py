"""Arbitration: who may own the quorum disk. Challenge and defence, and a vote that no timing can spoil.

The owner *defends* by writing its slot again and again, with a counter that rises. It acts as the owner only while its
*hold* runs: for the ``hold_ms`` of the newest such writing from the moment at which that began, on its own clock, and
only if the slots that it has read after that writing showed no contest for a later epoch.

Who hears no owner *watches*. When the owner's slot has stood still for longer than a hold, counted from the end of the
first reading that showed its present counter, that writing's hold is over on any clock, and the node *contests* the
next epoch. Several may; among them Disk Paxos decides (Gafni and Lamport, 2003; here with one disk). In one contest a
node's slot holds a ballot, the newest ballot that it has accepted, and the choice that goes with it:

1. write a ballot higher than any seen; read all slots. A higher ballot of another node: begin again later. Else the
   choice is that of the highest accepted ballot, or this node if there is none;
2. write that ballot as accepted, with the choice; read all slots. No higher ballot: the choice is made, for ever.

Every reading of a contest is also a look at the owner. If its slot has moved, the contest ends without harm. So:

* at most one node is ever chosen for an epoch, however slow anybody is;
* the chosen node writes its claim and reads all slots before it acts. If somebody contests a later epoch it does not
  act; if nobody does yet, whoever begins later finds the claim, which is a movement. So an owner that renews and a
  challenger cannot both go on;
* the hold of the owner before is over when the chosen node begins to act, so what it has granted ends a lease later.

With persistent reservations the new owner also preempts the key of the one before, whose late writes the device then
refuses. Without, they meet only areas that are not in use (:mod:`clussvc.quorum.disk_layout`), and what is written
after the hold has ended is acknowledged to nobody.

**Better connected nodes.** A node that is cut off from the owner, but sees its slot move, says in its own slot that it
*wants* the disk, and how many networks of clients work on it. An owner without any gives way to one that has some
(MSCS 2003; in 2000 the owner always won). A challenger without any waits longer, so that others are first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clussvc.model.ids import NodeId
from clussvc.model.quorum import NODE_NUMBER_MAX
from clussvc.quorum.disk_layout import PAIRS, LogPlace, Slot

HANDICAP_HOLDS = 1
"""So many holds more a node without any network of clients waits before it contests."""

Slots = Mapping[NodeId, Slot]


def owner_of(slots: Slots) -> Slot | None:
    """Who has acted as owner last, whether it still holds the disk or not."""
    return max((slot for slot in slots.values() if slot.epoch), key=lambda slot: slot.epoch, default=None)


def log_of(slots: Slots) -> LogPlace | None:
    """Where the log is; None on a disk that was never owned."""
    return max((slot.log for slot in slots.values() if slot.log), key=lambda log: log.epoch, default=None)


def pair_for(slots: Slots) -> int:
    """The pair of areas for the next owner: not the one that the log is in, and of the others the one that has not been
    claimed for longest. An owner that was overtaken while it wrote its image may have a write on its way."""
    log = log_of(slots)
    claimed = {pair: 0 for pair in range(PAIRS) if log is None or pair != log.area // 2}
    for slot in slots.values():
        if slot.pair in claimed:
            claimed[slot.pair] = max(claimed[slot.pair], slot.epoch)
    return min(claimed, key=lambda pair: (claimed[pair], pair))


def epoch_to_contest(slots: Slots, *, given_up: int = 0) -> int:
    """The epoch that is decided next. ``given_up``: the choice for it was made, and the chosen node never came."""
    owned = max((slot.epoch for slot in slots.values()), default=0)
    contested = max((slot.contested for slot in slots.values()), default=0)
    return max(owned + 1, contested, given_up + 1)


def overtaken(slots: Slots, me: NodeId, epoch: int) -> bool:
    """Whether another node takes part in the contest for a later epoch, or has won one."""
    return any(max(slot.contested, slot.epoch) > epoch for slot in slots.values() if slot.node != me)


def next_ballot(slots: Slots, me: NodeId, epoch: int) -> int:
    """A ballot that is higher than all that are known and that no other node uses."""
    highest = max((slot.ballot for slot in slots.values() if slot.contested == epoch), default=0)
    return (highest // (NODE_NUMBER_MAX + 1) + 1) * (NODE_NUMBER_MAX + 1) + me


def outvoted(slots: Slots, me: NodeId, epoch: int, ballot: int) -> bool:
    """Whether another node has begun with a higher ballot for this epoch."""
    return any(slot.contested == epoch and slot.ballot > ballot for slot in slots.values() if slot.node != me)


def choice_of(slots: Slots, me: NodeId, epoch: int) -> NodeId:
    """Whom to propose: the choice that may have been made already, else the node itself."""
    accepted = max(
        (slot for slot in slots.values() if slot.contested == epoch and slot.accepted),
        key=lambda slot: slot.accepted,
        default=None,
    )
    return accepted.choice if accepted is not None and accepted.choice else me


def wishes_to_serve(slots: Slots, before: Slots, me: NodeId) -> NodeId | None:
    """The best connected node that wants the disk, with networks of clients, and is alive; for an owner without any."""
    wanting = [
        slot
        for slot in slots.values()
        if slot.node != me
        if slot.wants and slot.client_networks
        if slot.node in before and before[slot.node].counter != slot.counter
    ]
    best = max(wanting, key=lambda slot: (slot.client_networks, -slot.node), default=None)
    return best.node if best else None


@dataclass(slots=True)
class Watch:
    """For how long the owner's slot has stood still, on this node's clock."""

    me: NodeId
    own_hold_ms: int
    drift_ppm: int
    owner: Slot | None = None
    since_ms: int = -1
    """When the first reading ended that showed the owner's slot as it is; -1: nothing was read yet."""
    given_up: int = 0
    """An epoch for which another node was chosen that did not come to act."""
    _sign: tuple[object, ...] = (None,)
    _chosen: tuple[int, int] | None = None

    def see(self, slots: Slots, now_ms: int) -> bool:
        """Take in a reading that ended now; says whether the owner is another one, or has moved."""
        owner = owner_of(slots)
        sign: tuple[object, ...] = (owner.node, owner.epoch) if owner else ()
        if owner is not None and owner.node != self.me:
            # Who holds nothing any more, and who watches, writes its slot as well when it wants the disk.
            sign += (owner.held, owner.boot, owner.counter) if owner.held else (owner.held,)
        moved = sign != self._sign
        self.owner = owner
        if moved:
            self.since_ms, self._sign = now_ms, sign
            if owner is not None and self._chosen is not None and owner.epoch >= self._chosen[0]:
                self._chosen = None
        return moved

    def chosen(self, epoch: int, now_ms: int) -> None:
        """Another node was chosen for that epoch; it may come to act for a while."""
        if self._chosen is None or self._chosen[0] != epoch:
            self._chosen = epoch, now_ms

    @property
    def stands_still_ms(self) -> int:
        """After so long without a new counter the owner's hold is over, drift of the clocks allowed for."""
        hold_ms = self.owner.hold_ms if self.owner is not None and self.owner.held else self.own_hold_ms
        return hold_ms + 1 + hold_ms * self.drift_ppm // 1_000_000

    def over_ms(self) -> int:
        """When the owner's hold is over for certain if nothing moves; it gave nothing away after that."""
        assert self.since_ms >= 0, "nothing was read yet"
        if self.owner is None or not self.owner.held:
            return self.since_ms
        return self.since_ms + self.stands_still_ms

    def may_contest(self, now_ms: int, *, client_networks: int) -> bool:
        """Whether the next epoch may be contested now; raises ``given_up`` when a chosen node has not come."""
        if self.since_ms < 0:
            return False
        handicap_ms = 0 if client_networks else HANDICAP_HOLDS * self.stands_still_ms
        if now_ms < self.over_ms() + handicap_ms:
            return False
        if self._chosen is not None:
            epoch, at_ms = self._chosen
            if now_ms < at_ms + self.stands_still_ms:
                return False
            self.given_up, self._chosen = max(self.given_up, epoch), None
        return True
