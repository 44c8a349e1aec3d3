"""What a load-balancing host takes: the map that it has adopted, less what others have not let go, and what
outlives a move.

Maps are adopted at different moments on different hosts. What a host loses by a map it gives up when it adopts it. What
it gains from a host that lives is *pending* until that host has said that it has adopted the map too. What another host
claims with more right is *yielded*, whatever the map says: after a cut both sides have maps.

Connections outlive all of this. Buckets that a host does not take any more, and in which it may have connections, are
*held*; it says so in its heartbeats. Buckets that it has *gained* are dirty until the others have said that they hold
nothing there.

| bucket | new connections | other packets without a connection of this host |
|---|---|---|
| own | taken | taken |
| own, dirty | taken | dropped in silence |
| own, pending or yielded | another host's | dropped |
| another's, held | another host's | dropped |
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from clussvc.model.ids import HostId
from clussvc.nlb.agreement import Agreement, Statement
from clussvc.nlb.bucket_map import NOBODY, BucketMap
from clussvc.nlb.company import Peer
from clussvc.nlb.heartbeat import MAP_BITS, MembershipHeartbeat, State, all_groups, bits_of_groups, map_word
from clussvc.nlb.messages import Passing, SlotTable, Table
from clussvc.nlb.port_rule import PortRule

KNOWN_MAPS_MAX = 4_096
"""Bitmaps that are remembered by their digest, where words hold digests: 33 slots of 32 hosts, three generations
long."""

Claims = tuple[int, ...]
"""A bitmap of buckets for each slot: each rule, and the default rule at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The rules by which hosts decide, and what follows from them."""

    rules: tuple[PortRule, ...]
    codes: tuple[int, ...]
    """Of these rules, and of the cluster's parameters at the end."""
    code_words: tuple[int, ...]
    """The codes as heartbeats carry them."""
    table_code: int
    """One number for all of it."""
    buckets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """The map by which this host takes traffic."""

    agreement: Agreement
    setting: Setting
    own: Claims

    def is_spoken_of(self, said: MembershipHeartbeat) -> bool:
        """Whether the words of a heartbeat are about the rules by which this host decides, and its sender too."""
        same = said.table_code == self.setting.table_code and said.codes == self.setting.code_words
        return said.generation > 0 and same


class KnownMaps:
    """Bitmaps by their words, where a word is a digest; the newest :data:`KNOWN_MAPS_MAX`."""

    def __init__(self, buckets: int) -> None:
        self.buckets = buckets
        self._known: OrderedDict[int, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def know(self, bits: int) -> None:
        """Remember a bitmap."""
        if self.buckets <= MAP_BITS or bits == 0:
            return
        word = map_word(bits, self.buckets)
        self._known[word] = bits
        self._known.move_to_end(word)
        if len(self._known) > KNOWN_MAPS_MAX:
            self._known.popitem(last=False)

    def bits(self, word: int) -> int | None:
        """The bitmap behind a map word; None: nobody has told it."""
        if self.buckets <= MAP_BITS:
            return word & (1 << self.buckets) - 1
        return 0 if word == 0 else self._known.get(word)

    def claims(self, statement: Statement) -> Claims | None:
        """The bitmaps that a host claims; None if some are not known."""
        bits = [self.bits(word) for word in statement.words]
        return None if None in bits else tuple(each or 0 for each in bits)


class Handover:
    """What one host takes. ``peers`` in the methods are all other machines that are heard."""

    def __init__(self, host: HostId, host_code: int) -> None:
        self._host = host
        self._host_code = host_code
        self.adopted: Adopted | None = None
        self.table: Table | None = None
        """What the filter was told last."""
        self._pending: dict[HostId, Claims] = {}
        self._yielded: list[int] = []
        self._held: list[int] = []
        self._gained: list[int] = []
        self._contested: list[int] = []
        """Own buckets that another host takes as well, with less right; it will leave them as soon as it hears."""
        self._taken: Claims | None = None
        """Of which buckets the filter was told to take new connections, by the adopted rules."""
        self._reports_from = 0
        """A report of connections counts if it was made under this table or a later one."""

    # --- the map ----------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """Of the adopted map; 0: none."""
        return self.adopted.agreement.generation if self.adopted else 0

    def claims(self, setting: Setting) -> Claims:
        """What this host owns, for rules that may be others than those by which it decides."""
        adopted = self.adopted
        if adopted is None or adopted.setting.buckets != setting.buckets:
            return (0,) * len(setting.codes)
        if adopted.setting is setting:
            return adopted.own
        by_code = dict(zip(adopted.setting.codes, adopted.own, strict=True))
        return tuple(by_code.get(code, 0) for code in setting.codes)

    def lives_by_other_rules(self, setting: Setting) -> bool:
        """Whether the adopted map is one for other rules than these."""
        return self.adopted is not None and self.adopted.setting.table_code != setting.table_code

    def is_stranger(self, host: HostId) -> bool:
        """Whether a host has no part in the adopted map."""
        return self.adopted is not None and host not in self.adopted.agreement.members

    def may_take(self, peer: Peer) -> bool:
        """Whether a host takes traffic, or may do so without our having heard of it: it was to adopt our map."""
        if peer.said.generation or self.adopted is None:
            return peer.said.generation > 0
        basis = self.adopted.agreement.statements.get(peer.said.host)
        return basis is not None and (basis.boot, basis.host_code) == (peer.said.boot, peer.said.host_code)

    def _decides_alike(self, said: Statement, setting: Setting) -> bool:
        """Whether another host decides by these rules already, as this one does."""
        return not self.lives_by_other_rules(setting) and said.table_code == setting.table_code

    def forget(self) -> None:
        """This host has no map any more, and takes nothing."""
        self.adopted = None
        self._pending.clear()
        self._taken = None

    def adopt(self, agreement: Agreement, setting: Setting, dead: Callable[[HostId], bool]) -> None:
        """From now on this host lives by these maps. ``dead``: whether the cluster has declared a host down."""
        own = agreement.shares[self._host]
        new_rules = self.lives_by_other_rules(setting)
        taken = (0,) * len(own) if self.adopted is None or new_rules else self.taking()
        pending = {}
        for host, said in agreement.statements.items():
            if host == self._host or said.generation == 0 or dead(host):
                continue
            waiting = own
            if self._decides_alike(said, setting):
                # What this host takes already, it goes on to take. Of a host that decides by other rules until it
                # adopts, any packet may be its own.
                claimed = agreement.claims[host]
                waiting = tuple(bits & theirs & ~mine for bits, theirs, mine in zip(own, claimed, taken, strict=True))
            if any(waiting):
                pending[host] = waiting
        if new_rules or self.adopted is None:
            # Under other rules nobody knows yet to which buckets the connections belong.
            everywhere = (1 << setting.buckets) - 1 if new_rules else 0
            self._held = [everywhere] * len(own)
            self._gained = [everywhere] * len(own)
            self._taken = None
            self._reports_from = self._next_number()
        self._gained = [(had | ~was) & bits for had, was, bits in zip(self._gained, taken, own, strict=True)]
        self._contested = [0] * len(own)
        self._yielded = [0] * len(own)
        self._pending = pending
        self.adopted = Adopted(agreement=agreement, setting=setting, own=own)

    # --- what others say --------------------------------------------------------------------------------------------

    def release_of_dead(self, dead: Callable[[HostId], bool]) -> None:
        """Hosts that the cluster has declared down have let go of everything."""
        for host in [host for host in self._pending if dead(host)]:
            del self._pending[host]

    def release(self, peer: Peer, maps: KnownMaps) -> None:
        """Whether a host that had buckets of ours has let them go by what it says now."""
        waiting = self._pending.get(peer.said.host)
        if waiting is None or self.adopted is None:
            return
        basis = self.adopted.agreement.statements.get(peer.said.host)
        if basis is None or peer.said.host_code != basis.host_code:
            return
        left = waiting
        if peer.said.boot != basis.boot or peer.said.generation == 0 or peer.said.state is State.LEAVING:
            # It has begun anew, and what it had it has not any more.
            left = ()
        elif peer.said.generation >= self.generation:
            claims = maps.claims(peer.statement)
            if peer.said.agreement == self.adopted.agreement.value:
                left = ()
            elif claims is not None and self.adopted.is_spoken_of(peer.said) and len(claims) == len(waiting):
                left = tuple(bits & claimed for bits, claimed in zip(waiting, claims, strict=True))
        self._pending[peer.said.host] = left
        if not any(left):
            del self._pending[peer.said.host]

    def yield_to(self, peers: Collection[Peer], maps: KnownMaps) -> None:
        """Leaves what others claim with more right, and reckons with connections of those who have less."""
        adopted = self.adopted
        if adopted is None:
            return
        yielded = [0] * len(adopted.own)
        contested = [0] * len(adopted.own)
        rank = -self.generation, int(self._host), self._host_code
        for peer in peers:
            if not peer.said.generation:
                continue
            spoken_of = adopted.is_spoken_of(peer.said) and maps.buckets == adopted.setting.buckets
            if not spoken_of or self.is_stranger(peer.said.host):
                # It lives by other rules, or has balanced without this host: its connections may lie in any bucket.
                contested = [had | own for had, own in zip(contested, adopted.own, strict=True)]
            if not spoken_of:
                continue
            for slot, (own, word) in enumerate(zip(adopted.own, peer.statement.words, strict=True)):
                bits = maps.bits(word)
                if bits is None:
                    contested[slot] |= own
                elif own & bits and peer.statement.rank < rank:
                    yielded[slot] |= own & bits
                else:
                    contested[slot] |= own & bits
        self._yielded = yielded
        self._contested = contested
        self._gained = [was | more for was, more in zip(self._gained, contested, strict=True)]

    # --- what is taken ----------------------------------------------------------------------------------------------

    def taking(self) -> Claims:
        """The buckets of which this host takes new connections, by the rules that it has adopted."""
        if self.adopted is None:
            return ()
        taken = [own & ~left for own, left in zip(self.adopted.own, self._yielded, strict=True)]
        for waiting in self._pending.values():
            taken = [bits & ~wait for bits, wait in zip(taken, waiting, strict=True)]
        return tuple(taken)

    def held(self) -> Claims:
        """The buckets that this host does not take, and in which it may still have connections."""
        return tuple(bits & ~mine for bits, mine in zip(self._held, self.taking(), strict=True)) if self.adopted else ()

    def report(self, number: int, buckets: Sequence[int]) -> bool:
        """In which buckets the filter has connections, by the table of that number; whether that changes anything."""
        if self.adopted is None or len(buckets) != len(self._held) or number < self._reports_from:
            return False
        before = self._held
        self._held = [bits & ~mine for bits, mine in zip(buckets, self.taking(), strict=True)]
        return before != self._held

    def is_told(self, number: int) -> bool:
        """Whether a report that was made under that table tells of all connections in buckets that were given up."""
        return number >= self._reports_from

    def dirty(self, peers: Collection[Peer]) -> Claims:
        """Own buckets of which others still have connections; those that are clean now stay clean."""
        adopted = self.adopted
        assert adopted is not None
        dirty = [0] * len(self._gained)
        unsure = bool(self._pending) or any(self._contested)
        full = all_groups(adopted.setting.buckets)
        for peer in peers if any(self._gained) else ():
            if not peer.said.generation:
                continue
            if peer.said.generation < self.generation or not adopted.is_spoken_of(peer.said):
                unsure = True
                continue
            for slot, idle in enumerate(peer.idle):
                busy = ~idle & full
                if busy and self._gained[slot]:
                    dirty[slot] |= self._gained[slot] & bits_of_groups(busy, adopted.setting.buckets)
        if unsure:
            # What has not been said yet cannot be known to be clean.
            return tuple(self._gained)
        self._gained = dirty
        return tuple(dirty)

    def keep(self) -> None:
        """What this host does not take any more, it may still have connections of; the filter will tell. What it takes
        now and did not take before, others may have connections of."""
        taking = self.taking()
        if self._taken is not None:
            left = [was & ~bits for was, bits in zip(self._taken, taking, strict=True)]
            more = [bits & ~was for was, bits in zip(self._taken, taking, strict=True)]
            self._gained = [had | bits for had, bits in zip(self._gained, more, strict=True)]
            if any(left):
                self._held = [had | bits for had, bits in zip(self._held, left, strict=True)]
                self._reports_from = self._next_number()
        self._taken = taking

    # --- the table of the filter ------------------------------------------------------------------------------------

    def _next_number(self) -> int:
        return (self.table.number if self.table else 0) + 1

    def renew_table(self, peers: Collection[Peer], passing: Mapping[int, Passing], rest: Passing, idle: Table) -> bool:
        """Makes the table anew; whether it has changed.

        ``passing`` has by the code of a rule what is done with its packets, ``rest`` is for the default rule and rules
        that are gone, and ``idle`` is the table of a host that takes nothing.
        """
        adopted = self.adopted
        fresh = idle
        if adopted is not None:
            self.keep()
            taking, dirty, held = self.taking(), self.dirty(peers), self.held()
            slots = []
            for slot, owners in enumerate(adopted.agreement.maps):
                off = adopted.own[slot] & ~taking[slot]
                last = slot == len(adopted.setting.rules)
                slots.append(
                    SlotTable(
                        owners=self._others_first(slot, owners, off) if off else owners,
                        dirty=dirty[slot] & taking[slot],
                        kept=held[slot],
                        passing=rest if last else passing.get(adopted.setting.codes[slot], rest),
                    )
                )
            fresh = replace(
                idle, generation=self.generation, active=True, rules=adopted.setting.rules, slots=tuple(slots)
            )
        if self.table is not None and replace(self.table, number=0) == replace(fresh, number=0):
            return False
        self.table = replace(fresh, number=self._next_number())
        return True

    def _others_first(self, slot: int, owners: BucketMap, off: int) -> BucketMap:
        """The map with those hosts in the place of this one from whom it waits to get the buckets."""
        result = list(owners)
        for bucket in range(len(result)):
            if off >> bucket & 1:
                holders = [host for host, bits in self._pending.items() if bits[slot] >> bucket & 1]
                result[bucket] = min(holders, default=NOBODY)
        return tuple(result)
