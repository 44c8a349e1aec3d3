"""Convergence: how the hosts of a cluster agree on who takes which client. The pure machine of one host.

Every host announces in its heartbeats what it owns and with which weight it takes part. From what it has heard,
each host computes the next maps (:mod:`~clussvc.nlb.agreement`) and announces the *agreement*, a number that is
equal on two hosts exactly if they would adopt the same maps. Then:

| state | the host |
|---|---|
| converging | sees a difference: somebody came, went, changed a weight or a rule; or not all announce its agreement |
| stable | hears all members announce its agreement, and has promised to adopt it |
| converged | has adopted the maps, under a *generation* above all earlier ones |

The lowest of the members, the default host to be, adopts as soon as all are stable; the others when they hear of it.
Nothing waits for a number of periods: each change of what a host has to say is sent at once, so a convergence takes a
few messages in each direction. What takes time is to notice a silent death, unless the cluster declares it.

**One taker.** Outside partitions, no two hosts take new connections of one bucket, not even during convergence:

1. While hosts converge, everybody goes on with the former map.
2. A map is adopted by each host at its own moment. What it loses by the map it gives up in that moment; what it gains
   from a host that lives it takes only when that host has said that it has adopted the map too. (The two steps of a
   hand-over. What it gains from the dead it takes at once.)
3. A host that has sent no heartbeat for the detection time less two periods has lost its map: the others, who may have
   missed the last two, may be sharing out its buckets. It begins anew. The filter has the same deadman (see
   :class:`~clussvc.nlb.messages.SendHeartbeat`), for the case that this machine is not asked any more.
4. A host without a map listens for the detection time before it founds a cluster of its own.

If the segment itself is cut, hosts on both sides own all buckets, as in the original; but a host without quorum
takes nothing, so with the cluster's quorum only one side of a cluster that is cut in two does. When sides that
both lived meet again, each bucket is yielded at once by the side whose claim counts less, and one map follows.

**Connections outlive moves.** The former owner of a bucket keeps its connections and says of which groups of
buckets that is true (the idle map). To the new owner these are *dirty*: it takes new connections of them and is
silent otherwise.

**Misconfigured hosts** are found by comparing heartbeats. One that has no map is not admitted and the others go on
without it; if both have one, nobody shares out anew until the difference is gone, and all go on with the former map.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import assert_never

from clussvc.model.ids import HostId
from clussvc.model.reports import Severity
from clussvc.nlb.agreement import Agreement, Statement, agree, agreement_value
from clussvc.nlb.bucket_map import NOBODY, BucketMap
from clussvc.nlb.heartbeat import (
    DEFAULT_SLOT,
    MAP_BITS,
    NO_ADDRESS,
    MapPart,
    MembershipHeartbeat,
    Refused,
    State,
    TeamWord,
    all_groups,
    bits_of_groups,
    group_bits,
    map_word,
    words,
)
from clussvc.nlb.mac import address_octets
from clussvc.nlb.messages import (
    Action,
    ConnectionsReported,
    Control,
    Event,
    HeartbeatHeard,
    HeartbeatRefused,
    HistoryLine,
    LinkChanged,
    MapsHeard,
    NameHeard,
    NodesUp,
    Note,
    ParametersChanged,
    Passing,
    PeerView,
    QuorumChanged,
    ResourcesOnline,
    RuleControl,
    SendHeartbeat,
    SendMaps,
    SlotTable,
    Status,
    Table,
    TeamChanged,
    Tick,
    UseTable,
    View,
)
from clussvc.nlb.misconfiguration import (
    Cause,
    Misconfiguration,
    compare,
    duplicate_handling,
    duplicate_host,
    inactive_team,
)
from clussvc.nlb.parameters import ClusterParameters, HostParameters, HostState
from clussvc.nlb.port_rule import FilteringMode, PortRule, RuleScope

PEERS_MAX = 64
"""Machines of which heartbeats are kept; twice as many as a cluster has hosts, for those that use one host id twice."""
HISTORY_MAX = 64
PROMISES_MAX = 8
"""Agreements that a host has announced as stable and may still hear to have been adopted."""
KNOWN_MAPS_MAX = 4_096
"""Bitmaps that are remembered by their digest, where words hold digests: 33 slots of 32 hosts, three generations
long."""
FAREWELLS = 3
"""Heartbeats in which a host that leaves says so; two may be lost."""
LOST_MAX = 2
"""Heartbeats in a row of which nobody hears, without anything being wrong. A host that stops to send them stops to take
traffic so many periods before others can count it as dead."""
DRIFT_PPM = 1_000
"""Largest difference in rate between the clocks of two hosts, as everywhere in the cluster."""
SEND_GAP_PARTS = 20
"""What is sent at once is sent at least a twentieth of a period after the last heartbeat, so that a host sends at most
twenty times as many in a storm of changes as at rest."""

Claims = tuple[int, ...]
"""A bitmap of buckets for each slot: each rule, and the default rule at the end."""


@dataclass(slots=True)
class _Peer:
    """What is known of one machine. ``said`` is its last heartbeat."""

    said: MembershipHeartbeat
    received_ms: int
    source: str
    statement: Statement
    idle: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Adopted:
    """The map by which this host takes traffic."""

    agreement: Agreement
    rules: tuple[PortRule, ...]
    codes: tuple[int, ...]
    """Of these rules, and of the cluster's parameters at the end."""
    code_words: tuple[int, ...]
    """The codes as heartbeats carry them."""
    table_code: int
    buckets: int
    own: Claims

    def is_spoken_of(self, said: MembershipHeartbeat) -> bool:
        """Whether the words of a heartbeat are about the rules by which this host decides, and its sender too."""
        return said.generation > 0 and said.table_code == self.table_code and said.codes == self.code_words


@dataclass(frozen=True, slots=True, kw_only=True)
class _Company:
    """Whom this host reckons with at a moment."""

    others: Mapping[HostId, _Peer]
    """Those with whom it may share."""
    findings: tuple[Misconfiguration, ...]
    blocked: bool
    """Some difference must go away before anybody may share out anew."""


@dataclass(slots=True)
class _Connections:
    """What of a move is not over yet; a bitmap for each slot."""

    held: list[int] = field(default_factory=list)
    """Buckets that this host does not take, and in which it may still have connections."""
    gained: list[int] = field(default_factory=list)
    """Own buckets that may be dirty."""
    contested: list[int] = field(default_factory=list)
    """Own buckets that another host takes as well, with less right; it will leave them as soon as it hears of that."""
    since_table: int = 0
    """A report of connections counts if it was made under this table or a later one."""


class Convergence:
    """One host. ``handle`` is told everything that happens and returns what is to be done; it never waits.

    Times are milliseconds of a monotonic clock of the caller's. ``boot`` must be greater than in any earlier life
    of the host (milliseconds since 1970 will do): heartbeats of earlier lives are refused by it. It grows
    by one whenever the host loses its map. ``host_code`` are 32 bits that belong to the machine. ``quorum`` says
    whether the node may act at the beginning.
    """

    def __init__(
        self,
        *,
        cluster: ClusterParameters,
        host: HostParameters,
        host_code: int,
        boot: int,
        quorum: bool = False,
        initial: HostState | None = None,
    ) -> None:
        self._cluster = cluster
        self._host = host
        self._host_code = host_code
        self._boot = boot
        self._seq = 0
        self._quorum = quorum
        self._link = True
        self._wanted = host.initial if initial is None else initial
        self._draining = False
        self._nodes_up: frozenset[HostId] | None = None
        self._online: frozenset[str] = frozenset()
        self._rule_states: dict[int, Passing] = {}
        """By the code of the rule."""
        self._team = TeamWord()
        self._connections_total = 0
        self._connections_number = 0
        self._packets = 0

        self._peers: dict[tuple[HostId, int], _Peer] = {}
        self._newest: OrderedDict[tuple[HostId, int], tuple[int, int]] = OrderedDict()
        """The newest heartbeat of each machine, living or not: no older one counts."""
        self._names: dict[HostId, str] = {}
        self._known: OrderedDict[int, int] = OrderedDict()

        self._now_ms = 0
        self._ended = False
        self._running = False
        self._listen_until_ms = 0
        self._adopted: _Adopted | None = None
        self._state = State.CONVERGING
        self._agreement: Agreement | None = None
        self._promises: OrderedDict[int, Agreement] = OrderedDict()
        self._pending: dict[HostId, Claims] = {}
        self._taken: tuple[tuple[int, ...], Claims] | None = None
        """By which rules and of which buckets this host has told the filter to take new connections."""
        self._yielded: Claims = ()
        self._moves = _Connections()
        self._convergences = 0

        self._farewells = 0
        self._last_sent_ms: int | None = None
        self._next_send_ms: int | None = None
        self._said: tuple[object, ...] | None = None
        self._table: Table | None = None
        self._findings: tuple[Misconfiguration, ...] = ()
        self._found_ms: dict[str, int | None] = {}
        """Since when each finding lasts; None once it has been noted."""
        self._history: deque[HistoryLine] = deque(maxlen=HISTORY_MAX)
        self._because = "it has not been started"
        self.counters: Counter[str] = Counter()
        self._actions: list[Action] = []
        self._prepare()

    # --- configuration ----------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """All that follows from the parameters."""
        self._octets = address_octets(self._cluster.address.address)
        self._rules = self._cluster.rules
        self._codes = (*(rule.code() for rule in self._rules), self._cluster.code())
        self._buckets = self._cluster.bucket_count
        self._code_words = words(self._codes[:-1], self._codes[-1])
        digest = hashlib.blake2b(struct.pack(f"<I{len(self._codes)}I", self._buckets, *self._codes), digest_size=4)
        self._table_code = int.from_bytes(digest.digest(), "little") or 1
        self._weighed: tuple[object, tuple[int, ...]] | None = None
        self._stated: tuple[object, Statement] | None = None
        self._zeros: Claims = (0,) * (len(self._rules) + 1)
        self._rule_states = {code: state for code, state in self._rule_states.items() if code in self._codes}
        dips = [dip.address for dip in self._host.dips if isinstance(dip.address, IPv4Address)]
        self._dip = dips[0] if dips else NO_ADDRESS

    @property
    def detection_ms(self) -> int:
        """The silence after which a host counts as dead."""
        return self._cluster.detection_ms

    @property
    def deadman_ms(self) -> int:
        """How long after its last heartbeat a host may take traffic."""
        allowed_ms = (self._cluster.tolerance - LOST_MAX) * self._cluster.period_ms
        return allowed_ms - allowed_ms * DRIFT_PPM // 1_000_000 - 1

    @property
    def _me(self) -> HostId:
        return self._host.host

    def _passing(self, slot: int) -> Passing:
        """What this host does with the packets of one of its configured rules."""
        rule = self._rules[slot]
        state = self._rule_states.get(self._codes[slot], Passing.ENABLED)
        if state is Passing.ENABLED and (self._draining or _is_missing(rule.resource, self._online)):
            return Passing.DRAINING
        return state

    def _weights(self) -> tuple[int, ...]:
        """This host's number for each slot; 0: it takes nothing new."""
        basis = (self._draining, self._online, tuple(self._rule_states.items()))
        if self._weighed is not None and self._weighed[0] == basis:
            return self._weighed[1]
        numbers = []
        for slot, rule in enumerate(self._rules):
            if rule.mode is FilteringMode.DISABLED or self._passing(slot) is not Passing.ENABLED:
                numbers.append(0)
            elif rule.mode is FilteringMode.MULTIPLE:
                numbers.append(self._host.weight(rule))
            else:
                numbers.append(self._host.handling_priority(rule))
        weights = (*numbers, 0 if self._draining else int(self._me))
        self._weighed = basis, weights
        return weights

    # --- what happens -----------------------------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> int | None:
        """When the machine wants a :class:`Tick` at the latest; None: not before something happens."""
        times = [peer.received_ms + self.detection_ms for peer in self._peers.values()] if self._running else []
        if self._next_send_ms is not None:
            times.append(self._next_send_ms)
        times += [since_ms + self.detection_ms for since_ms in self._found_ms.values() if since_ms is not None]
        if self._running and self._adopted is None and self._listen_until_ms > self._now_ms:
            times.append(self._listen_until_ms)
        return min(times, default=None)

    def handle(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Something happened; returns what is to be done, in this order."""
        self._now_ms = now_ms
        changed = self._own_silence(now_ms)
        match event:
            case HeartbeatHeard():
                changed |= self._hear(event, now_ms)
            case MapsHeard(part=part):
                changed |= self._learn(part)
            case NameHeard(name=name):
                if name.host in self._names or len(self._names) < PEERS_MAX:
                    self._names[name.host] = name.name
            case Tick():
                pass
            case NodesUp(hosts=hosts):
                changed |= hosts != self._nodes_up
                self._nodes_up = hosts
                for host in [host for host in self._pending if self._is_dead(host)]:
                    del self._pending[host]
            case QuorumChanged(held=held):
                self._quorum = held
            case LinkChanged(up=up):
                self._link = up
            case ResourcesOnline(names=names):
                self._online = frozenset(name.casefold() for name in names)
                changed = True
            case HeartbeatRefused(reason=reason):
                self._refuse(reason)
            case ConnectionsReported():
                changed |= self._report(event)
            case ParametersChanged(cluster=cluster, host=host):
                self._change(cluster, host, now_ms)
                changed = True
            case TeamChanged(team=team):
                changed |= team != self._team
                self._team = team
            case _:
                assert_never(event)
        return self._finish(now_ms, changed=changed)

    def _finish(self, now_ms: int, *, changed: bool) -> tuple[Action, ...]:
        changed |= self._start_or_leave(now_ms)
        if self._running:
            changed |= self._expire(now_ms) or any(
                since_ms is not None and now_ms - since_ms >= self.detection_ms for since_ms in self._found_ms.values()
            )
            due = self._next_send_ms is not None and now_ms >= self._next_send_ms
            due |= self._adopted is None and now_ms >= self._listen_until_ms
            if not changed and not due:
                # The usual case: somebody said again what is known.
                actions, self._actions = tuple(self._actions), []
                return actions
            if changed or (self._state is not State.CONVERGED and due):
                self._reconsider(now_ms)
            if self._draining and self._drained():
                self._note(6, "nlb.stopped", f"Host {self._me} has been drained and stops: no connection is left.")
                self._wanted, self._draining = HostState.STOPPED, False
                self._start_or_leave(now_ms)
        self._use_table()
        self._send(now_ms)
        actions, self._actions = tuple(self._actions), []
        return actions

    def _start_or_leave(self, now_ms: int) -> bool:
        """Begins or ends to take part, if that is due; whether it was."""
        why = self._why_not()
        if not why and not self._running:
            self._running = True
            self._farewells = 0
            self._listen_until_ms = now_ms + self.detection_ms
            self._convergences = 0
            self._state = State.CONVERGING
            self._next_send_ms = now_ms
            self._note(5, "nlb.started", f"Cluster mode started with host id {self._me}.")
            self._begin(now_ms, "this host starts")
            return True
        if why and self._running:
            self._leave(now_ms, why)
            return True
        return False

    def _why_not(self) -> str:
        """Why this host must not take part, or nothing."""
        if self._ended:
            return "its agent ends"
        if self._wanted is not HostState.STARTED:
            return f"it is {self._wanted.value}"
        if not self._quorum:
            return "the node has no quorum"
        if not self._link:
            return "the adapter has no link"
        if self._nodes_up is not None and self._me not in self._nodes_up:
            return "the node is not up in the cluster"
        return ""

    def _leave(self, now_ms: int, why: str) -> None:
        """Gives up everything, and says so a few times."""
        self._running = False
        self._forget()
        self._peers.clear()
        self._findings = ()
        self._found_ms.clear()
        self._state = State.LEAVING
        self._farewells = FAREWELLS
        self._next_send_ms = now_ms
        self._because = why
        self._remember(now_ms, "left", (), why)
        self._note(6, "nlb.stopped", f"Cluster mode stopped on host {self._me}: {why}.")

    def _forget(self) -> None:
        """This host has no map any more, and takes nothing: another life of it begins, which has promised nothing."""
        self._boot += 1
        self._adopted = None
        self._agreement = None
        self._promises.clear()
        self._pending.clear()
        self._taken = None
        self._yielded = ()
        self._moves = _Connections(held=[*self._zeros], gained=[*self._zeros], contested=[*self._zeros])

    def _own_silence(self, now_ms: int) -> bool:
        """Whether this host was silent for so long that others may have taken its buckets; then it begins anew."""
        if not self._running or self._last_sent_ms is None or now_ms < self._valid_until_ms(self._last_sent_ms):
            return False
        had = self._adopted is not None
        self._forget()
        self._listen_until_ms = now_ms + self.detection_ms
        self._last_sent_ms = None
        if had:
            self._begin(now_ms, f"this host was silent for {self.deadman_ms} ms")
            self._note(
                0,
                "nlb.silent",
                f"Host {self._me} sent no heartbeat for {self.deadman_ms} ms, so that others may have taken its"
                " clients; it joins anew.",
                Severity.WARNING,
            )
        return True

    def _valid_until_ms(self, sent_ms: int) -> int:
        """Until when nobody can count this host as dead who has heard the heartbeat of that time or one of the two
        before."""
        return sent_ms + self.deadman_ms

    # --- hearing ----------------------------------------------------------------------------------------------------

    def _hear(self, event: HeartbeatHeard, now_ms: int) -> bool:
        said = event.heartbeat
        key = (said.host, said.host_code)
        if key == (self._me, self._host_code) or not self._running:
            return False
        if self._is_old(said):
            self.counters["heartbeats that were old"] += 1
            return False
        if key not in self._newest and len(self._newest) >= 2 * PEERS_MAX:
            self._newest.popitem(last=False)
        self._newest[key] = said.boot, said.seq
        self._newest.move_to_end(key)
        if self._nodes_up is not None and said.host not in self._nodes_up:
            self.counters["heartbeats of nodes that are not up"] += 1
            return self._peers.pop(key, None) is not None
        if said.state is State.LEAVING:
            known = self._peers.pop(key, None)
            if known is not None:
                known.said = said
                self._take_release(known)
            return known is not None
        former = self._peers.get(key)
        if former is None and len(self._peers) >= PEERS_MAX:
            self.counters["heartbeats of too many hosts"] += 1
            return False
        if former is not None and _same(former.said, said):
            former.received_ms, former.said, former.source = now_ms, said, event.source
            return False
        slots = range(said.rules)
        peer = _Peer(
            said=said,
            received_ms=now_ms,
            source=event.source,
            statement=Statement(
                host=said.host,
                host_code=said.host_code,
                boot=said.boot,
                generation=said.generation,
                table_code=said.table_code,
                words=(*(said.current[slot] for slot in slots), said.current[DEFAULT_SLOT]),
                weights=(*(said.weights[slot] for slot in slots), said.weights[DEFAULT_SLOT]),
            ),
            idle=(*(said.idle[slot] for slot in slots), said.idle[DEFAULT_SLOT]),
        )
        self._peers[key] = peer
        self._take_release(peer)
        promised = self._promises.get(said.agreement)
        if (
            promised is not None
            and said.state is State.CONVERGED
            and said.generation == promised.generation
            and said.generation > self._generation
            and said.host in promised.members
        ):
            self._adopt(promised, now_ms)
        return True

    def _is_old(self, said: MembershipHeartbeat) -> bool:
        """Whether a heartbeat of that machine has been heard that was sent later, or in a later life."""
        return (said.boot, said.seq) <= self._newest.get((said.host, said.host_code), (0, 0))

    def _learn(self, part: MapPart) -> bool:
        if part.buckets != self._buckets or not self._running:
            return False
        before = len(self._known)
        for bits in part.bits.values():
            self._know(bits)
        return len(self._known) != before

    def _know(self, bits: int) -> None:
        """Remembers a bitmap by its word."""
        if self._buckets <= MAP_BITS or bits == 0:
            return
        word = map_word(bits, self._buckets)
        self._known[word] = bits
        self._known.move_to_end(word)
        if len(self._known) > KNOWN_MAPS_MAX:
            self._known.popitem(last=False)

    def _bits(self, word: int) -> int | None:
        """The bitmap behind a map word; None: nobody has told it."""
        if self._buckets <= MAP_BITS:
            return word & (1 << self._buckets) - 1
        return 0 if word == 0 else self._known.get(word)

    def _claims_of(self, statement: Statement) -> Claims | None:
        """The bitmaps that another host claims; None if some are not known."""
        bits = [self._bits(word) for word in statement.words]
        return None if None in bits else tuple(each or 0 for each in bits)

    def _take_release(self, peer: _Peer) -> None:
        """Whether a host that had buckets of ours has let them go by what it says now."""
        waiting = self._pending.get(peer.said.host)
        if waiting is None or self._adopted is None:
            return
        basis = self._adopted.agreement.statements.get(peer.said.host)
        if basis is None or peer.said.host_code != basis.host_code:
            return
        if peer.said.boot != basis.boot or peer.said.generation == 0 or peer.said.state is State.LEAVING:
            # It has begun anew, and what it had it has not any more.
            del self._pending[peer.said.host]
        elif peer.said.generation >= self._adopted.agreement.generation:
            if peer.said.agreement == self._adopted.agreement.value:
                del self._pending[peer.said.host]
                return
            claims = self._claims_of(peer.statement)
            if claims is not None and self._adopted.is_spoken_of(peer.said):
                left = tuple(bits & claimed for bits, claimed in zip(waiting, claims, strict=True))
                self._pending[peer.said.host] = left
                if not any(left):
                    del self._pending[peer.said.host]

    def _expire(self, now_ms: int) -> bool:
        silent = [key for key, peer in self._peers.items() if now_ms - peer.received_ms >= self.detection_ms]
        if self._nodes_up is not None:
            silent += [key for key in self._peers if key[0] not in self._nodes_up and key not in silent]
        for key in silent:
            del self._peers[key]
        return bool(silent)

    def _report(self, report: ConnectionsReported) -> bool:
        """What the filter says of connections; whether that changes anything."""
        before = self._moves.held, self._drained()
        self._connections_total = report.total
        self._connections_number = report.number
        self._packets = report.packets
        if self._adopted is None or len(report.buckets) != len(self._moves.held):
            return False
        if report.number >= self._moves.since_table:
            self._moves.held = [bits & ~mine for bits, mine in zip(report.buckets, self._taking(), strict=True)]
        return before != (self._moves.held, self._drained())

    def _refuse(self, reason: Refused) -> None:
        """Counts what was not believed, and tells of the first of its kind."""
        name = f"frames refused: {reason.value}"
        self.counters[name] += 1
        if self.counters[name] == 1 and reason is not Refused.LENGTH:
            self._note(
                0,
                "nlb.refused",
                f"Host {self._me} refuses load-balancing frames ({reason.value}); more of the kind are counted only.",
                Severity.WARNING,
            )

    def _drained(self) -> bool:
        """Whether nothing is owned and no connection is left."""
        return (
            self._adopted is not None
            and self._state is State.CONVERGED
            and not any(self._adopted.own)
            and self._table is not None
            and self._connections_number >= self._moves.since_table
            and self._connections_total == 0
        )

    # --- the state --------------------------------------------------------------------------------------------------

    @property
    def _generation(self) -> int:
        return self._adopted.agreement.generation if self._adopted else 0

    def _claims(self) -> Claims:
        """What this host owns, for the rules as they are configured now."""
        adopted = self._adopted
        if adopted is None or adopted.buckets != self._buckets:
            return self._zeros
        if adopted.codes == self._codes:
            return adopted.own
        by_code = dict(zip(adopted.codes, adopted.own, strict=True))
        return tuple(by_code.get(code, 0) for code in self._codes)

    def _statement(self) -> Statement:
        weights = self._weights()
        if self._stated is not None and self._stated[0] is self._adopted and self._stated[1].weights is weights:
            return self._stated[1]
        statement = Statement(
            host=self._me,
            host_code=self._host_code,
            boot=self._boot,
            generation=self._generation,
            table_code=self._adopted.table_code if self._adopted else 0,
            words=tuple(map_word(bits, self._buckets) for bits in self._claims()),
            weights=weights,
        )
        self._stated = self._adopted, statement
        return statement

    def _self_portrait(self, mine: Statement) -> MembershipHeartbeat:
        """As much of a heartbeat as others are compared with."""
        return MembershipHeartbeat(
            host=self._me,
            cluster=self._octets,
            dip=self._dip,
            rules=len(self._rules),
            team=self._team,
            codes=self._code_words,
            weights=words(mine.weights[:-1], mine.weights[-1]),
            generation=mine.generation,
            buckets=self._buckets,
        )

    def _company(self) -> _Company:
        """Who may share, who is not admitted, and whether anything forbids to share out anew."""
        if not self._peers and self._team.participants == 0:
            return _Company(others={}, findings=(), blocked=False)
        mine = self._self_portrait(self._statement())
        mapped = self._adopted is not None
        findings: list[Misconfiguration] = inactive_team(mine)
        blocked = bool(findings)
        differs: dict[tuple[HostId, int], list[Misconfiguration]] = {}
        for key, peer in self._peers.items():
            differs[key] = compare(mine, peer.said, self._rules)
            if key[0] == self._me:
                differs[key].append(duplicate_host(self._me, f"this one ({self._dip})", _machine(peer)))
        # Somebody who has a map and agrees with this host vouches for it: those who differ are the strangers then.
        anchored = mapped or any(
            self._may_take(peer) and not differs[key] and not inactive_team(peer.said)
            for key, peer in self._peers.items()
        )
        seats: dict[HostId, _Peer] = {}
        for key, peer in sorted(self._peers.items(), key=lambda each: each[1].statement.rank):
            wrong = differs[key] or inactive_team(peer.said)
            if not wrong and key[0] in seats:
                other = seats[key[0]]
                wrong = [duplicate_host(key[0], _machine(other), _machine(peer))]
                blocked |= not self._may_take(other)
            findings += wrong
            if not wrong:
                seats[key[0]] = peer
            elif self._may_take(peer) or not anchored:
                blocked = True
        said = {host: peer.said for host, peer in seats.items()} | {self._me: mine}
        for finding in duplicate_handling(said, self._rules):
            findings.append(finding)
            if not set(finding.hosts) <= {self._me, *seats}:
                continue
            takers = {host for host in finding.hosts if (mapped if host == self._me else self._may_take(seats[host]))}
            strangers = [host for host in finding.hosts if host not in takers and host != self._me]
            if not strangers or not takers:
                blocked = True
            else:
                for host in strangers:
                    seats.pop(host, None)
        return _Company(others=seats, findings=tuple(findings), blocked=blocked)

    def _may_take(self, peer: _Peer) -> bool:
        """Whether a host takes traffic, or may do so without our having heard of it: it was to adopt our map."""
        if peer.said.generation or self._adopted is None:
            return peer.said.generation > 0
        basis = self._adopted.agreement.statements.get(peer.said.host)
        return basis is not None and (basis.boot, basis.host_code) == (peer.said.boot, peer.said.host_code)

    def _reconsider(self, now_ms: int) -> None:
        """The heart: where this host stands, by all that it has heard, and what it has to announce."""
        if self._team.participants and not self._team.active and self._adopted is not None:
            self._forget()
            self._begin(now_ms, "the bi-directional affinity team is inactive")
        company = self._company()
        self._tell(company.findings)
        self._yield()
        mine = self._statement()
        if self._is_settled(company, mine):
            self._state, self._agreement = State.CONVERGED, None
            self._because = ""
            return
        if self._state is State.CONVERGED:
            cause, why = self._cause(company, mine)
            self._begin(now_ms, why)
            self._note(
                0,
                "nlb.converging",
                f"Host {self._me} is converging ({cause.words}): {why}. Until then everybody goes on as before.",
            )
            strangers = [
                host for host, peer in company.others.items() if peer.said.generation and self._is_stranger(host)
            ]
            if strangers:
                self._note(
                    18,
                    "nlb.partition",
                    f"Duplicate cluster subnets: {_hosts(strangers)} and host {self._me} have balanced without each"
                    " other; the network may have been partitioned.",
                    Severity.WARNING,
                )
        self._agreement = None if company.blocked else self._agree(company, mine)
        self._state = State.CONVERGING
        agreement = self._agreement
        if agreement is None or not self._may_found(company, now_ms):
            self._because = self._waiting_for(company)
            return
        unlike = self._unlike(company, agreement)
        if unlike:
            self._because = f"waits for {_hosts(unlike)} to see the same members, weights and rules"
            return
        self._state = State.STABLE
        self._promises[agreement.value] = agreement
        self._promises.move_to_end(agreement.value)
        if len(self._promises) > PROMISES_MAX:
            self._promises.popitem(last=False)
        leader = min(agreement.members)
        if leader != self._me:
            self._because = f"waits for host {leader} to end the convergence"
            return
        unready = self._unready(company)
        if unready:
            self._because = f"waits for {_hosts(unready)} to be stable"
            return
        self._adopt(agreement, now_ms)

    def _unlike(self, company: _Company, agreement: Agreement) -> list[HostId]:
        """Who does not announce this agreement."""
        return [
            host
            for host, peer in company.others.items()
            if peer.said.agreement != agreement.value or peer.said.members != agreement.members
        ]

    def _unready(self, company: _Company) -> list[HostId]:
        """Who has not promised yet to adopt what he announces."""
        return [host for host, peer in company.others.items() if peer.said.state is not State.STABLE]

    def _may_found(self, company: _Company, now_ms: int) -> bool:
        """Whether this host has listened long enough, if nobody has a map yet."""
        return (
            self._adopted is not None
            or now_ms >= self._listen_until_ms
            or any(peer.said.generation for peer in company.others.values())
        )

    def _waiting_for(self, company: _Company) -> str:
        if company.findings and company.blocked:
            return company.findings[0].message.rstrip(".")
        if self._agreement is None:
            return "waits for the maps of other hosts"
        return "listens for other hosts"

    def _agree(self, company: _Company, mine: Statement) -> Agreement | None:
        """What all statements lead to; None if some maps are not known."""
        statements = [mine, *(peer.statement for peer in company.others.values())]
        value = agreement_value(statements, self._codes, self._buckets)
        if self._agreement is not None and self._agreement.value == value:
            return self._agreement
        if value in self._promises:
            return self._promises[value]
        claims: dict[HostId, Claims] = {self._me: self._claims()}
        for host, peer in company.others.items():
            known = self._claims_of(peer.statement)
            if known is None:
                return None
            claims[host] = known
        return agree(statements, claims, self._rules, self._codes, self._buckets)

    def _is_settled(self, company: _Company, mine: Statement) -> bool:
        """Whether everybody is where the adopted map has put him, or is about to go there."""
        adopted = self._adopted
        if adopted is None or company.blocked or adopted.codes != self._codes or adopted.buckets != self._buckets:
            return False
        agreement = adopted.agreement
        if {self._me, *company.others} != agreement.members:
            return False
        if mine.weights != agreement.statements[self._me].weights:
            return False
        for host, peer in company.others.items():
            basis = agreement.statements[host]
            if peer.said.agreement != agreement.value or peer.said.members != agreement.members:
                return False
            there = peer.said.generation == agreement.generation
            if there and (peer.statement.weights, peer.statement.boot) != (basis.weights, basis.boot):
                return False
            if not there and peer.statement != basis:
                return False
        return True

    def _cause(self, company: _Company, mine: Statement) -> tuple[Cause, str]:
        """Why the adopted map does not hold any more."""
        adopted = self._adopted
        assert adopted is not None
        if adopted.codes != self._codes or adopted.buckets != self._buckets:
            return Cause.MODIFIED_RULES, "the rules or parameters have changed"
        if company.blocked and company.findings:
            others = [host for host in company.findings[0].hosts if host != self._me] or [self._me]
            return company.findings[0].cause, f"{_hosts(others)} must not balance with the others as configured"
        before, now = adopted.agreement.members, {self._me, *company.others}
        if before - now:
            return Cause.MEMBER_LOST, f"{_hosts(before - now)} left or cannot be heard"
        if now - before:
            return Cause.NEW_MEMBER, f"{_hosts(now - before)} joins"
        if mine.weights != adopted.agreement.statements[self._me].weights:
            return Cause.MODIFIED_PARAMETERS, "the weights of this host have changed"
        for host, peer in company.others.items():
            if peer.statement.boot != adopted.agreement.statements[host].boot:
                return Cause.NEW_MEMBER, f"host {host} has been started anew"
            if peer.statement.weights != adopted.agreement.statements[host].weights:
                return Cause.MODIFIED_PARAMETERS, f"the weights of host {host} have changed"
        return Cause.UNKNOWN, "another host sees other members"

    def _is_stranger(self, host: HostId) -> bool:
        return self._adopted is not None and host not in self._adopted.agreement.members

    def _begin(self, now_ms: int, why: str) -> None:
        self._state = State.CONVERGING
        self._convergences += 1
        self._because = why
        self._remember(now_ms, "converging", (), why)

    def _adopt(self, agreement: Agreement, now_ms: int) -> None:
        """From now on this host lives by these maps."""
        former = self._adopted
        before = self._claims()
        own = agreement.shares[self._me]
        table_code = self._table_code
        changed_rules = self._lives_by_other_rules()
        pending: dict[HostId, Claims] = {}
        for host, said in agreement.statements.items():
            if host == self._me or said.generation == 0 or self._is_dead(host):
                continue
            if changed_rules or said.table_code != table_code:
                # It decides by other rules until it adopts, so any packet may still be its own.
                waiting = own
            else:
                waiting = tuple(bits & claimed for bits, claimed in zip(own, agreement.claims[host], strict=True))
                if former is not None:
                    # What this host takes already, it goes on to take.
                    mine = self._taking()
                    waiting = tuple(bits & ~taken for bits, taken in zip(waiting, mine, strict=True))
            if any(waiting):
                pending[host] = waiting
        taken = self._taking() if former is not None and not changed_rules else self._zeros
        # Under other rules nobody knows yet to which buckets the connections belong.
        everywhere = (1 << self._buckets) - 1 if changed_rules else 0
        held = [everywhere] * len(own) if changed_rules or former is None else self._moves.held
        gained = [everywhere] * len(own) if changed_rules or former is None else self._moves.gained
        self._moves = _Connections(
            held=list(held),
            gained=[(had | ~was) & bits for had, was, bits in zip(gained, taken, own, strict=True)],
            contested=[0] * len(own),
            since_table=(self._table.number if self._table else 0) + 1,
        )
        self._adopted = _Adopted(
            agreement=agreement,
            rules=self._rules,
            codes=self._codes,
            code_words=self._code_words,
            table_code=self._table_code,
            buckets=self._buckets,
            own=own,
        )
        self._pending = pending
        self._agreement = None
        self._state = State.CONVERGED
        self._because = ""
        for share in (*agreement.shares.values(), before):
            for bits in share:
                self._know(bits)
        for value in [value for value, each in self._promises.items() if each.generation <= agreement.generation]:
            del self._promises[value]
        for peer in self._peers.values():
            self._take_release(peer)
        self._yield()
        members = tuple(sorted(agreement.members))
        self._remember(now_ms, "converged", members, "")
        if members[0] == self._me:
            others = f" with {_hosts(members[1:])}" if members[1:] else " alone"
            text = f"Host {self._me} converged as DEFAULT host{others} as part of the cluster."
            self._note(29, "nlb.converged", text)
        else:
            self._note(28, "nlb.converged", f"Host {self._me} converged with {_hosts(set(members) - {self._me})}.")

    def _lives_by_other_rules(self) -> bool:
        """Whether the adopted map is one for other rules than those that are configured now."""
        return self._adopted is not None and self._adopted.table_code != self._table_code

    def _is_dead(self, host: HostId) -> bool:
        return self._nodes_up is not None and host not in self._nodes_up

    # --- what is taken ----------------------------------------------------------------------------------------------

    def _yield(self) -> None:
        """Leaves what others claim with more right, and reckons with connections of those who have less."""
        adopted = self._adopted
        if adopted is None:
            self._yielded = ()
            return
        yielded = [0] * len(adopted.own)
        contested = [0] * len(adopted.own)
        rank = self._statement_rank()
        for peer in self._peers.values():
            if not peer.said.generation:
                continue
            spoken_of = adopted.is_spoken_of(peer.said)
            if not spoken_of or self._is_stranger(peer.said.host):
                # It lives by other rules, or has balanced without this host: its connections may lie in any bucket.
                contested = [had | own for had, own in zip(contested, adopted.own, strict=True)]
            if not spoken_of:
                continue
            for slot, (own, word) in enumerate(zip(adopted.own, peer.statement.words, strict=True)):
                bits = self._bits(word)
                if bits is None:
                    contested[slot] |= own
                elif own & bits and peer.statement.rank < rank:
                    yielded[slot] |= own & bits
                else:
                    contested[slot] |= own & bits
        self._yielded = tuple(yielded)
        self._moves.contested = contested
        self._moves.gained = [was | more for was, more in zip(self._moves.gained, contested, strict=True)]

    def _statement_rank(self) -> tuple[int, int, int]:
        return -self._generation, int(self._me), self._host_code

    def _taking(self) -> Claims:
        """The buckets of which this host takes new connections, by the rules that it has adopted."""
        adopted = self._adopted
        if adopted is None or not self._running:
            return ()
        yielded = self._yielded or (0,) * len(adopted.own)
        taken = [own & ~left for own, left in zip(adopted.own, yielded, strict=True)]
        for waiting in self._pending.values():
            taken = [bits & ~wait for bits, wait in zip(taken, waiting, strict=True)]
        return tuple(taken)

    def _dirty(self) -> Claims:
        """Own buckets of which others still have connections; those that are clean now stay clean."""
        adopted = self._adopted
        assert adopted is not None
        gained = self._moves.gained
        dirty = [0] * len(gained)
        unsure = bool(self._pending) or any(self._moves.contested)
        if any(gained):
            full = all_groups(self._buckets)
            for peer in self._peers.values():
                if not peer.said.generation:
                    continue
                if peer.said.generation < self._generation or not adopted.is_spoken_of(peer.said):
                    unsure = True
                    continue
                for slot, idle in enumerate(peer.idle[: len(dirty)]):
                    busy = ~idle & full
                    if busy and gained[slot]:
                        dirty[slot] |= gained[slot] & bits_of_groups(busy, self._buckets)
        if unsure:
            # What has not been said yet cannot be known to be clean.
            return tuple(gained)
        self._moves.gained = list(dirty)
        return tuple(dirty)

    def _use_table(self) -> None:
        """Tells the filter, if anything is new to it."""
        adopted = self._adopted
        if adopted is None or not self._running:
            fresh = Table(number=0, generation=0, active=False, host=self._me, rules=self._rules, slots=())
        else:
            taking = self._taking()
            self._keep(adopted, taking)
            dirty = self._dirty()
            by_code = {code: slot for slot, code in enumerate(self._codes[:-1])}
            slots = []
            for slot, owners in enumerate(adopted.agreement.maps):
                off = adopted.own[slot] & ~taking[slot]
                passing = Passing.DRAINING if self._draining else Passing.ENABLED
                if slot < len(adopted.rules) and adopted.codes[slot] in by_code:
                    passing = self._passing(by_code[adopted.codes[slot]])
                slots.append(
                    SlotTable(
                        owners=self._others_first(slot, owners, off) if off else owners,
                        dirty=dirty[slot] & taking[slot],
                        kept=self._moves.held[slot] & ~taking[slot],
                        passing=passing,
                    )
                )
            fresh = Table(
                number=0,
                generation=self._generation,
                active=True,
                host=self._me,
                rules=adopted.rules,
                slots=tuple(slots),
            )
        if self._table is None or replace(self._table, number=0) != fresh:
            self._table = replace(fresh, number=(self._table.number if self._table else 0) + 1)
            self._actions.append(UseTable(table=self._table))

    def _keep(self, adopted: _Adopted, taking: Claims) -> None:
        """What this host does not take any more, it may still have connections of; the filter will tell. What it takes
        now and did not take before, others may have connections of."""
        if self._taken is not None and self._taken[0] == adopted.codes:
            left = [was & ~bits for was, bits in zip(self._taken[1], taking, strict=True)]
            more = [bits & ~was for was, bits in zip(self._taken[1], taking, strict=True)]
            self._moves.gained = [had | bits for had, bits in zip(self._moves.gained, more, strict=True)]
            if any(left):
                self._moves.held = [had | bits for had, bits in zip(self._moves.held, left, strict=True)]
                self._moves.since_table = (self._table.number if self._table else 0) + 1
        self._taken = adopted.codes, taking

    def _others_first(self, slot: int, owners: BucketMap, off: int) -> BucketMap:
        """The map with those hosts in the place of this one from whom it waits to get the buckets."""
        result = list(owners)
        for bucket in range(len(result)):
            if off >> bucket & 1:
                holders = [host for host, bits in self._pending.items() if bits[slot] >> bucket & 1]
                result[bucket] = min(holders, default=NOBODY)
        return tuple(result)

    # --- saying -----------------------------------------------------------------------------------------------------

    def _heartbeat(self, mine: Statement) -> MembershipHeartbeat:
        """What this host has to say; without sequence number."""
        adopted = self._adopted
        state = self._state if self._running else State.LEAVING
        agreement = adopted.agreement if adopted and state is State.CONVERGED else self._agreement
        coming = self._claims()
        ready = [all_groups(self._buckets)] * len(coming)
        if self._agreement is not None:
            coming = self._agreement.shares[self._me]
            lost = [was & ~will for was, will in zip(self._claims(), coming, strict=True)]
            ready = [each & ~group_bits(gone, self._buckets) for each, gone in zip(ready, lost, strict=True)]
        full = all_groups(self._buckets)
        held: Iterable[int] = self._zeros
        if adopted is not None and adopted.codes == self._codes and self._running:
            held = [bits & ~mine for bits, mine in zip(self._moves.held, self._taking(), strict=True)]
        idle = [full & ~group_bits(bits, self._buckets) for bits in held]
        default_owner = adopted.agreement.maps[-1][0] if adopted else NOBODY
        return MembershipHeartbeat(
            host=self._me,
            cluster=self._octets,
            dip=self._dip,
            default_host=default_owner,
            state=state,
            rules=len(self._rules),
            host_code=self._host_code,
            packets=self._packets,
            team=self._team,
            members=agreement.members if agreement else frozenset({self._me}),
            codes=words(self._codes[:-1], self._codes[-1]),
            current=words(mine.words[:-1], mine.words[-1]),
            new=_row([map_word(bits, self._buckets) for bits in coming]),
            idle=_row(idle),
            ready=_row(ready),
            weights=words(mine.weights[:-1], mine.weights[-1]),
            generation=mine.generation,
            boot=self._boot,
            seq=self._seq,
            draining=self._draining,
            agreement=agreement.value if agreement else 0,
            table_code=mine.table_code,
            buckets=self._buckets,
        )

    def _send(self, now_ms: int) -> None:
        """Says at once what is new, and otherwise at the pace."""
        if not self._running and self._farewells == 0:
            self._next_send_ms = None
            return
        beat = self._heartbeat(self._statement())
        content = (self._running, _key(beat))
        gap_ms = max(1, self._cluster.period_ms // SEND_GAP_PARTS)
        if content != self._said and self._running:
            earliest = now_ms if self._last_sent_ms is None else max(now_ms, self._last_sent_ms + gap_ms)
            self._next_send_ms = earliest if self._next_send_ms is None else min(earliest, self._next_send_ms)
        if self._next_send_ms is None or now_ms < self._next_send_ms:
            return
        self._said = content
        self._seq += 1
        beat = replace(beat, seq=self._seq)
        self._actions.append(SendHeartbeat(heartbeat=beat, valid_until_ms=self._valid_until_ms(now_ms)))
        settled = self._running and self._state is State.CONVERGED
        if self._buckets > MAP_BITS and self._adopted is not None and not settled:
            bits = {
                (slot if slot < len(self._rules) else DEFAULT_SLOT): each for slot, each in enumerate(self._claims())
            }
            self._actions.append(
                SendMaps(
                    part=MapPart(
                        host=self._me,
                        cluster=self._octets,
                        dip=self._dip,
                        boot=self._boot,
                        seq=self._seq,
                        buckets=self._buckets,
                        bits=bits,
                    )
                )
            )
        self._last_sent_ms = now_ms
        period_ms = self._cluster.period_ms if settled else max(1, self._cluster.period_ms // 2)
        if self._running:
            self._next_send_ms = now_ms + period_ms
        else:
            self._farewells -= 1
            self._next_send_ms = now_ms + gap_ms if self._farewells else None

    def end(self, now_ms: int) -> tuple[Action, ...]:
        """The agent ends: the host leaves in order, whatever was wanted of it. When ``deadline_ms`` is None it has."""
        self._now_ms = now_ms
        self._ended = True
        return self._finish(now_ms, changed=True)

    # --- controls ---------------------------------------------------------------------------------------------------

    def control(self, what: Control, now_ms: int) -> tuple[Status, tuple[Action, ...]]:
        """A command for the host; the published status of its outcome, and what is to be done."""
        self._now_ms = now_ms
        self._own_silence(now_ms)
        status = self._control(what)
        return status, self._finish(now_ms, changed=True)

    def _control(self, what: Control) -> Status:
        state = self._wanted
        if state is HostState.SUSPENDED and what is not Control.RESUME:
            return Status.ALREADY if what is Control.SUSPEND else Status.SUSPENDED
        interrupted = self._draining
        match what:
            case Control.START:
                if state is HostState.STARTED and not interrupted:
                    return Status.ALREADY
                self._wanted = HostState.STARTED
            case Control.STOP:
                if state is HostState.STOPPED:
                    return Status.ALREADY
                self._wanted = HostState.STOPPED
            case Control.DRAINSTOP:
                if state is HostState.STOPPED:
                    return Status.STOPPED
                if interrupted:
                    return Status.ALREADY
                self._note(44, "nlb.draining", f"Draining of connections started on host {self._me}.")
                self._draining = True
                if not self._running:
                    self._wanted, self._draining = HostState.STOPPED, False
                return Status.OK
            case Control.SUSPEND:
                self._wanted = HostState.SUSPENDED
            case Control.RESUME:
                if state is not HostState.SUSPENDED:
                    return Status.ALREADY
                self._wanted = HostState.STOPPED
            case _:
                assert_never(what)
        if interrupted:
            self._draining = False
            self._note(
                45, "nlb.draining", f"Draining of connections on host {self._me} was interrupted by {what.value}."
            )
            return Status.DRAIN_STOP
        return Status.OK

    def wish_rules(self, passing: Mapping[int, Passing], now_ms: int) -> tuple[Action, ...]:
        """What is wanted of the rules on this host, by their codes, whether it takes part now or not; those that are
        not named are enabled."""
        self._now_ms = now_ms
        changed = self._own_silence(now_ms)
        wanted = {code: passing.get(code, Passing.ENABLED) for code in self._codes[:-1]}
        changed |= wanted != {code: self._rule_states.get(code, Passing.ENABLED) for code in wanted}
        self._rule_states = wanted
        return self._finish(now_ms, changed=changed)

    def control_rules(self, what: RuleControl, scope: RuleScope, now_ms: int) -> tuple[Status, tuple[Action, ...]]:
        """A command for all rules that the scope names, on this host alone."""
        self._now_ms = now_ms
        self._own_silence(now_ms)
        status = self._control_rules(what, scope)
        return status, self._finish(now_ms, changed=True)

    def _control_rules(self, what: RuleControl, scope: RuleScope) -> Status:
        if self._wanted is HostState.SUSPENDED:
            return Status.SUSPENDED
        if self._wanted is HostState.STOPPED:
            self._note(26, "nlb.rule", "A port rule command came while cluster mode is stopped; nothing was changed.")
            return Status.STOPPED
        if self._draining:
            return Status.DRAINING
        meant = [rule for rule in self._rules if scope.means(rule)]
        if not meant:
            return Status.NOT_FOUND
        state = {
            RuleControl.ENABLE: Passing.ENABLED,
            RuleControl.DISABLE: Passing.DISABLED,
            RuleControl.DRAIN: Passing.DRAINING,
        }[what]
        changed = [rule for rule in meant if self._rule_states.get(rule.code(), Passing.ENABLED) is not state]
        event_id, verb = {
            RuleControl.ENABLE: (23, "Traffic handling enabled"),
            RuleControl.DISABLE: (24, "Traffic handling disabled"),
            RuleControl.DRAIN: (39, "New traffic disabled"),
        }[what]
        for rule in changed:
            self._rule_states[rule.code()] = state
            self._note(event_id, "nlb.rule", f"{verb} for port rule '{rule.title}' on host {self._me}.")
        return Status.OK if changed else Status.ALREADY

    def _change(self, cluster: ClusterParameters, host: HostParameters, now_ms: int) -> None:
        moved = host.host != self._me or address_octets(cluster.address.address) != self._octets
        if moved and self._running:
            self._leave(now_ms, "its host id or the cluster's address changes")
            self._send(now_ms)
        self._cluster, self._host = cluster, host
        self._agreement = None
        self._promises.clear()
        self._prepare()
        self._note(36, "nlb.reloaded", f"The parameters of host {self._me} were reloaded.")

    # --- telling ----------------------------------------------------------------------------------------------------

    def _tell(self, findings: tuple[Misconfiguration, ...]) -> None:
        """Notes what has been wrong for the detection time; a change that spreads makes hosts differ for a moment."""
        self._findings = findings
        if not findings:
            self._found_ms.clear()
            return
        self._found_ms = {finding.message: self._found_ms.get(finding.message, self._now_ms) for finding in findings}
        for finding in findings:
            since_ms = self._found_ms[finding.message]
            if since_ms is not None and self._now_ms - since_ms >= self.detection_ms:
                self._found_ms[finding.message] = None
                self._note(finding.event_id, "nlb.misconfigured", finding.message, Severity.ERROR)

    def _note(self, event_id: int, name: str, message: str, severity: Severity = Severity.INFORMATION) -> None:
        self._actions.append(Note(event_id=event_id, name=name, message=message, severity=severity))

    def _remember(self, now_ms: int, state: str, hosts: tuple[HostId, ...], because: str) -> None:
        self._history.append(
            HistoryLine(at_ms=now_ms, state=state, generation=self._generation, hosts=hosts, because=because)
        )

    @property
    def table(self) -> Table | None:
        """What the filter was told last."""
        return self._table

    @property
    def wanted(self) -> HostState:
        """What an administrator asked for last; to be kept if it is one of the states that persist."""
        return self._wanted

    def view(self, now_ms: int) -> View:
        """The answer to a query."""
        adopted = self._adopted
        members = adopted.agreement.members if adopted else frozenset({self._me, *(key[0] for key in self._peers)})
        if self._state is not State.CONVERGED and self._agreement is not None:
            members = self._agreement.members
        default = adopted.agreement.maps[-1][0] if adopted else NOBODY
        status, state = self._status()
        return View(
            host=self._me,
            status=status,
            state=state,
            because=self._because,
            members=tuple(sorted(members)) if self._running else (),
            default_host=default,
            convergences=self._convergences,
            generation=self._generation,
            peers=tuple(
                PeerView(
                    host=peer.said.host,
                    name=self._names.get(peer.said.host, ""),
                    dip=str(peer.said.dip),
                    source=peer.source,
                    state=peer.said.state.name.lower(),
                    silent_ms=now_ms - peer.received_ms,
                    draining=peer.said.draining,
                    member=adopted is not None and peer.said.host in adopted.agreement.members,
                )
                for _, peer in sorted(self._peers.items())
            ),
            findings=self._findings if self._running else (),
            history=tuple(self._history),
            counters=dict(self.counters),
            rules=self._rules,
            weights=self._weights(),
            passing=tuple(self._passing(slot) for slot in range(len(self._rules))),
            maps=adopted.agreement.maps if adopted else (),
        )

    def _status(self) -> tuple[Status, str]:
        if self._wanted is HostState.SUSPENDED:
            return Status.SUSPENDED, "suspended"
        if not self._link:
            return Status.MEDIA_DISCONNECTED, "media disconnected"
        if not self._running:
            return Status.STOPPED, "stopped"
        if self._draining:
            return Status.DRAINING, "draining"
        if self._state is not State.CONVERGED or self._adopted is None:
            return Status.CONVERGING, "converging"
        if min(self._adopted.agreement.members) == self._me:
            return Status.DEFAULT, "converged as DEFAULT"
        return Status.CONVERGED, "converged"


def _row(numbers: list[int]) -> tuple[int, ...]:
    return words(numbers[:-1], numbers[-1])


def _is_missing(resource: str, online: frozenset[str]) -> bool:
    return resource != "" and resource.casefold() not in online


def _machine(peer: _Peer) -> str:
    """How messages name a machine whose host id says nothing."""
    return f"{peer.source or 'another machine'} ({peer.said.dip})"


def _key(said: MembershipHeartbeat) -> tuple[object, ...]:
    """All of a heartbeat that others act on."""
    return (
        said.state, said.generation, said.agreement, said.boot, said.members, said.weights, said.current, said.codes,
        said.idle, said.table_code, said.rules, said.buckets, said.team, said.draining, said.dip,
    )  # fmt: skip


def _same(one: MembershipHeartbeat, other: MembershipHeartbeat) -> bool:
    return _key(one) == _key(other)


def _hosts(hosts: Iterable[HostId]) -> str:
    """``host 2``, ``hosts 1, 2``."""
    numbers = sorted(hosts)
    return f"host{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
