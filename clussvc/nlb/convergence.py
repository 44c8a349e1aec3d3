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

**Who hears nothing is not alone.** A host that hears no other one, while the cluster's log says that others are to
share, is one of two: the only one that works, or deaf. It does not share out anew at once, since the others, who may
hear it, would yield everything to it. If a frame of a client arrives meanwhile, it hears, and takes all. If neither a
frame nor other news have come after the detection time again, it leaves, so that the others go on without it, and
comes back when it hears a host or a client, or the log says that no other one is left.

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
from dataclasses import replace
from ipaddress import IPv4Address
from typing import assert_never

from clussvc.model.ids import HostId
from clussvc.model.reports import Severity
from clussvc.nlb.agreement import Agreement, Statement, agree, agreement_value
from clussvc.nlb.bucket_map import NOBODY
from clussvc.nlb.company import Company, Machine, Peer, company_of, peer_of
from clussvc.nlb.handover import Adopted, Handover, KnownMaps, Setting
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
    group_bits,
    map_word,
    words,
)
from clussvc.nlb.mac import address_octets
from clussvc.nlb.messages import (
    Action,
    ClientsHeard,
    ConnectionsReported,
    Control,
    Event,
    HeartbeatHeard,
    HeartbeatRefused,
    HistoryLine,
    HostsOnline,
    LinkChanged,
    MapsHeard,
    NameHeard,
    NodesUp,
    Note,
    ParametersChanged,
    Passing,
    PeerView,
    ProbesAnswered,
    QuorumChanged,
    ResourcesOnline,
    RuleControl,
    SendHeartbeat,
    SendMaps,
    Status,
    Table,
    TeamChanged,
    Tick,
    UseTable,
    View,
)
from clussvc.nlb.misconfiguration import Cause, Misconfiguration
from clussvc.nlb.parameters import ClusterParameters, HostParameters, HostState
from clussvc.nlb.port_rule import FilteringMode, PortRule, RuleScope

PEERS_MAX = 64
"""Machines of which heartbeats are kept; twice as many as a cluster has hosts, for those that use one host id twice."""
HISTORY_MAX = 64
PROMISES_MAX = 8
"""Agreements that a host has announced as stable and may still hear to have been adopted."""
FAREWELLS = 3
"""Heartbeats in which a host that leaves says so; two may be lost."""
LOST_MAX = 2
"""Heartbeats in a row of which nobody hears, without anything being wrong. A host that stops to send them stops to take
traffic so many periods before others can count it as dead."""
LASTING_DETECTIONS = 4
"""A convergence that takes so many times the detection time is hindered: in the simulation every other one takes less
than twice that time."""
DRIFT_PPM = 1_000
"""Largest difference in rate between the clocks of two hosts, as everywhere in the cluster."""
SEND_GAP_PARTS = 20
"""What is sent at once is sent at least a twentieth of a period after the last heartbeat, so that a host sends at most
twenty times as many in a storm of changes as at rest."""


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
        self._hosts_online: frozenset[HostId] | None = None
        self._heard_ms = 0
        """When a host was heard last, or this one started."""
        self._clients_ms: int | None = None
        """When a client is known to have been heard last."""
        self._doubt_ms: int | None = None
        """Since when this host waits for a sign that it is not deaf."""
        self._deaf = False
        self._left: set[HostId] = set()
        """Who has said goodbye and was not heard since."""
        self._online: frozenset[str] = frozenset()
        self._answering: frozenset[str] = frozenset()
        self._rule_states: dict[int, Passing] = {}
        """By the code of the rule."""
        self._team = TeamWord()
        self._connections_total = 0
        self._connections_number = 0
        self._packets = 0

        self._peers: dict[Machine, Peer] = {}
        self._newest: OrderedDict[Machine, tuple[int, int]] = OrderedDict()
        """The newest heartbeat of each machine, living or not: no older one counts."""
        self._names: dict[HostId, str] = {}
        self._maps = KnownMaps(cluster.bucket_count)

        self._now_ms = 0
        self._ended = False
        self._running = False
        self._listen_until_ms = 0
        self._hand = Handover(host.host, host_code)
        self._state = State.CONVERGING
        self._agreement: Agreement | None = None
        self._promises: OrderedDict[int, Agreement] = OrderedDict()
        self._convergences = 0
        self._converging_since_ms = 0

        self._farewells = 0
        self._last_sent_ms: int | None = None
        self._next_send_ms: int | None = None
        self._said: tuple[object, ...] | None = None
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
        rules, buckets = self._cluster.rules, self._cluster.bucket_count
        codes = (*(rule.code() for rule in rules), self._cluster.code())
        digest = hashlib.blake2b(struct.pack(f"<I{len(codes)}I", buckets, *codes), digest_size=4).digest()
        self._setting = Setting(
            rules=rules,
            codes=codes,
            code_words=words(codes[:-1], codes[-1]),
            table_code=int.from_bytes(digest, "little") or 1,
            buckets=buckets,
        )
        self._weighed: tuple[object, tuple[int, ...]] | None = None
        self._stated: tuple[object, Statement] | None = None
        self._rule_states = {code: state for code, state in self._rule_states.items() if code in codes}
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

    @property
    def _rules(self) -> tuple[PortRule, ...]:
        return self._setting.rules

    @property
    def _buckets(self) -> int:
        return self._setting.buckets

    @property
    def _adopted(self) -> Adopted | None:
        return self._hand.adopted

    @property
    def _generation(self) -> int:
        return self._hand.generation

    def _passing(self, slot: int) -> Passing:
        """What this host does with the packets of one of its configured rules."""
        rule = self._rules[slot]
        state = self._rule_states.get(self._setting.codes[slot], Passing.ENABLED)
        if state is not Passing.ENABLED:
            return state
        served = rule.probe is None or rule.title in self._answering
        if self._draining or not served or _is_missing(rule.resource, self._online):
            return Passing.DRAINING
        return state

    def _weights(self) -> tuple[int, ...]:
        """This host's number for each slot; 0: it takes nothing new."""
        basis = (self._draining, self._online, self._answering, tuple(self._rule_states.items()))
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
        if self._running and self._doubt_ms is not None:
            times.append(self._doubt_ms + self.detection_ms)
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
                self._hand.release_of_dead(self._is_dead)
            case HostsOnline(hosts=hosts):
                changed |= hosts != self._hosts_online
                self._hosts_online = hosts
            case ClientsHeard():
                self._clients_ms = now_ms
                changed |= self._deaf or self._doubt_ms is not None
                self._deaf = False
            case QuorumChanged(held=held):
                self._quorum = held
            case LinkChanged(up=up):
                self._link = up
            case ResourcesOnline(names=names):
                self._online = frozenset(name.casefold() for name in names)
                changed = True
            case ProbesAnswered(titles=titles):
                changed |= titles != self._answering
                self._answering = titles
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
        self._deaf &= bool(self._missed())
        changed |= self._start_or_leave(now_ms)
        if self._running:
            changed |= self._expire(now_ms) or any(
                since_ms is not None and now_ms - since_ms >= self.detection_ms for since_ms in self._found_ms.values()
            )
            due = self._next_send_ms is not None and now_ms >= self._next_send_ms
            due |= self._adopted is None and now_ms >= self._listen_until_ms
            due |= self._doubt_ms is not None and now_ms >= self._doubt_ms + self.detection_ms
            if not changed and not due:
                # The usual case: somebody said again what is known.
                actions, self._actions = tuple(self._actions), []
                return actions
            if changed or self._state is not State.CONVERGED:
                self._reconsider(now_ms)
                changed = True
                # Here it may have turned out to be deaf.
                self._start_or_leave(now_ms)
            if self._draining:
                # What was given up in this turn is asked about anew: the last report may be older than a connection.
                self._use_table()
            if self._draining and self._drained():
                changed = True
                self._note(6, "nlb.stopped", f"Host {self._me} has been drained and stops: no connection is left.")
                self._wanted, self._draining = HostState.STOPPED, False
                self._start_or_leave(now_ms)
        if changed or self._hand.table is None:
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
            if self._clients_ms != now_ms:
                # Else a client has shown a moment ago that this host hears, and it starts for that.
                self._heard_ms = now_ms
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
        if self._deaf:
            return f"it hears no client, nor {_hosts(self._missed())}, online by the cluster's log; it may be deaf"
        return ""

    # --- being deaf -------------------------------------------------------------------------------------------------

    def _missed(self) -> frozenset[HostId]:
        """Who is to share the clients by the cluster's log, besides this host."""
        others = (self._hosts_online or frozenset()) - {self._me} - self._left
        return others if self._nodes_up is None else others & self._nodes_up

    @property
    def is_in_doubt(self) -> bool:
        """Whether it may matter soon if clients can be heard here; then somebody should look in every period, and tell
        :class:`~clussvc.nlb.messages.ClientsHeard`."""
        if self._deaf:
            return True
        settled = self._state is State.CONVERGED and not self._peers
        silence_ms = self._now_ms - self._heard_ms
        return (
            self._running and not settled and bool(self._missed()) and silence_ms >= LOST_MAX * self._cluster.period_ms
        )

    def _doubts(self, now_ms: int) -> bool:
        """Whether this host may be deaf, so that it must not act as the only one. What arrived before the others would
        have been missed says nothing."""
        missed_ms = self._heard_ms + LOST_MAX * self._cluster.period_ms
        hears = self._clients_ms is not None and self._clients_ms > missed_ms
        if self._peers or hears or not self._missed():
            self._doubt_ms = None
            return False
        self._doubt_ms = now_ms if self._doubt_ms is None else self._doubt_ms
        self._deaf = now_ms >= self._doubt_ms + self.detection_ms
        return True

    def _leave(self, now_ms: int, why: str) -> None:
        """Gives up everything, and says so a few times."""
        self._running = False
        self._forget()
        self._peers.clear()
        self._doubt_ms = None
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
        self._hand.forget()
        self._agreement = None
        self._promises.clear()

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
        if key == (self._me, self._host_code) or not (self._running or self._deaf):
            return False
        if self._is_old(said):
            self.counters["heartbeats that were old"] += 1
            return False
        self._heard_ms = now_ms
        if said.state is State.LEAVING:
            self._left.add(said.host)
        else:
            self._left.discard(said.host)
        if self._deaf:
            # It hears; what was said it will hear again.
            self._deaf = False
            return True
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
                self._hand.release(known, self._maps)
            return known is not None
        former = self._peers.get(key)
        if former is None and len(self._peers) >= PEERS_MAX:
            self.counters["heartbeats of too many hosts"] += 1
            return False
        if former is not None and _same(former.said, said):
            former.received_ms, former.said, former.source = now_ms, said, event.source
            return False
        peer = peer_of(said, received_ms=now_ms, source=event.source)
        self._peers[key] = peer
        self._hand.release(peer, self._maps)
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
        before = len(self._maps)
        for bits in part.bits.values():
            self._maps.know(bits)
        return len(self._maps) != before

    def _expire(self, now_ms: int) -> bool:
        silent = [key for key, peer in self._peers.items() if now_ms - peer.received_ms >= self.detection_ms]
        if self._nodes_up is not None:
            silent += [key for key in self._peers if key[0] not in self._nodes_up and key not in silent]
        for key in silent:
            del self._peers[key]
        return bool(silent)

    def _report(self, report: ConnectionsReported) -> bool:
        """What the filter says of connections; whether that changes anything."""
        before = self._drained()
        self._connections_total = report.total
        self._connections_number = report.number
        self._packets = report.packets
        return self._hand.report(report.number, report.buckets) or before != self._drained()

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
            and self._hand.is_told(self._connections_number)
            and self._connections_total == 0
        )

    # --- the state --------------------------------------------------------------------------------------------------

    def _statement(self) -> Statement:
        weights = self._weights()
        if self._stated is not None and self._stated[0] is self._adopted and self._stated[1].weights is weights:
            return self._stated[1]
        statement = Statement(
            host=self._me,
            host_code=self._host_code,
            boot=self._boot,
            generation=self._generation,
            table_code=self._adopted.setting.table_code if self._adopted else 0,
            words=tuple(map_word(bits, self._buckets) for bits in self._hand.claims(self._setting)),
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
            codes=self._setting.code_words,
            weights=words(mine.weights[:-1], mine.weights[-1]),
            generation=mine.generation,
            buckets=self._buckets,
        )

    def _company(self) -> Company:
        return company_of(
            self._self_portrait(self._statement()), self._peers, rules=self._rules, may_take=self._hand.may_take
        )

    def _reconsider(self, now_ms: int) -> None:
        """The heart: where this host stands, by all that it has heard, and what it has to announce."""
        if self._team.participants and not self._team.active and self._adopted is not None:
            self._forget()
            self._begin(now_ms, "the bi-directional affinity team is inactive")
        company = self._company()
        self._tell(company.findings)
        self._hand.yield_to(self._peers.values(), self._maps)
        mine = self._statement()
        if self._is_settled(company, mine):
            self._doubt_ms = None
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
                host for host, peer in company.others.items() if peer.said.generation and self._hand.is_stranger(host)
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
        if self._doubts(now_ms):
            self._because = f"hears neither a client nor {_hosts(self._missed())}, and may be deaf"
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

    def _unlike(self, company: Company, agreement: Agreement) -> list[HostId]:
        """Who does not announce this agreement."""
        return [
            host
            for host, peer in company.others.items()
            if peer.said.agreement != agreement.value or peer.said.members != agreement.members
        ]

    def _unready(self, company: Company) -> list[HostId]:
        """Who has not promised yet to adopt what he announces."""
        return [host for host, peer in company.others.items() if peer.said.state is not State.STABLE]

    def _may_found(self, company: Company, now_ms: int) -> bool:
        """Whether this host has listened long enough, if nobody has a map yet."""
        return (
            self._adopted is not None
            or now_ms >= self._listen_until_ms
            or any(peer.said.generation for peer in company.others.values())
        )

    def _waiting_for(self, company: Company) -> str:
        if company.findings and company.blocked:
            return company.findings[0].message.rstrip(".")
        if self._agreement is None:
            return "waits for the maps of other hosts"
        return "listens for other hosts"

    def _agree(self, company: Company, mine: Statement) -> Agreement | None:
        """What all statements lead to; None if some maps are not known."""
        statements = [mine, *(peer.statement for peer in company.others.values())]
        setting = self._setting
        value = agreement_value(statements, setting.codes, setting.buckets)
        if self._agreement is not None and self._agreement.value == value:
            return self._agreement
        if value in self._promises:
            return self._promises[value]
        claims = {self._me: self._hand.claims(setting)}
        for host, peer in company.others.items():
            known = self._maps.claims(peer.statement)
            if known is None:
                return None
            claims[host] = known
        return agree(statements, claims, setting.rules, setting.codes, setting.buckets)

    def _is_settled(self, company: Company, mine: Statement) -> bool:
        """Whether everybody is where the adopted map has put him, or is about to go there."""
        adopted = self._adopted
        if adopted is None or company.blocked or self._hand.lives_by_other_rules(self._setting):
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

    def _cause(self, company: Company, mine: Statement) -> tuple[Cause, str]:
        """Why the adopted map does not hold any more."""
        adopted = self._adopted
        assert adopted is not None
        if self._hand.lives_by_other_rules(self._setting):
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

    def _begin(self, now_ms: int, why: str) -> None:
        self._state = State.CONVERGING
        self._converging_since_ms = now_ms
        self._convergences += 1
        self._because = why
        self._remember(now_ms, "converging", (), why)

    def _adopt(self, agreement: Agreement, now_ms: int) -> None:
        """From now on this host lives by these maps."""
        before = self._hand.claims(self._setting)
        self._hand.adopt(agreement, self._setting, self._is_dead)
        self._agreement = None
        self._state = State.CONVERGED
        self._because = ""
        for share in (*agreement.shares.values(), before):
            for bits in share:
                self._maps.know(bits)
        for value in [value for value, each in self._promises.items() if each.generation <= agreement.generation]:
            del self._promises[value]
        for peer in self._peers.values():
            self._hand.release(peer, self._maps)
        self._hand.yield_to(self._peers.values(), self._maps)
        members = tuple(sorted(agreement.members))
        self._remember(now_ms, "converged", members, "")
        if members[0] == self._me:
            others = f" with {_hosts(members[1:])}" if members[1:] else " alone"
            text = f"Host {self._me} converged as DEFAULT host{others} as part of the cluster."
            self._note(29, "nlb.converged", text)
        else:
            self._note(28, "nlb.converged", f"Host {self._me} converged with {_hosts(set(members) - {self._me})}.")

    def _is_dead(self, host: HostId) -> bool:
        return self._nodes_up is not None and host not in self._nodes_up

    def _use_table(self) -> None:
        """Tells the filter, if anything is new to it."""
        rest = Passing.DRAINING if self._draining else Passing.ENABLED
        passing = {self._setting.codes[slot]: self._passing(slot) for slot in range(len(self._rules))}
        nothing = Table(number=0, generation=0, active=False, host=self._me, rules=self._rules, slots=())
        if self._hand.renew_table(self._peers.values(), passing, rest, nothing):
            assert self._hand.table is not None
            self._actions.append(UseTable(table=self._hand.table))

    # --- saying -----------------------------------------------------------------------------------------------------

    def _heartbeat(self, mine: Statement) -> MembershipHeartbeat:
        """What this host has to say; without sequence number."""
        adopted = self._adopted
        state = self._state if self._running else State.LEAVING
        agreement = adopted.agreement if adopted and state is State.CONVERGED else self._agreement
        claims = coming = self._hand.claims(self._setting)
        ready = [all_groups(self._buckets)] * len(coming)
        if self._agreement is not None:
            coming = self._agreement.shares[self._me]
            lost = [was & ~will for was, will in zip(claims, coming, strict=True)]
            ready = [each & ~group_bits(gone, self._buckets) for each, gone in zip(ready, lost, strict=True)]
        full = all_groups(self._buckets)
        # Of other rules than those by which this host decides, others do not read what it holds.
        speaks = adopted is not None and not self._hand.lives_by_other_rules(self._setting)
        held = self._hand.held() if speaks else (0,) * len(claims)
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
            codes=self._setting.code_words,
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
                (slot if slot < len(self._rules) else DEFAULT_SLOT): each
                for slot, each in enumerate(self._hand.claims(self._setting))
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
        wanted = {code: passing.get(code, Passing.ENABLED) for code in self._setting.codes[:-1]}
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
        if cluster.bucket_count != self._cluster.bucket_count:
            self._maps = KnownMaps(cluster.bucket_count)
        if host.host != self._me:
            table, self._hand = self._hand.table, Handover(host.host, self._host_code)
            self._hand.table = table
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
        return self._hand.table

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
            hindrances=self._hindrances(now_ms),
        )

    def _hindrances(self, now_ms: int) -> tuple[str, ...]:
        """Pairs of hosts of which one does not reckon with the other, as far as this host hears; once convergence has
        lasted so long that it is no matter of lost frames."""
        if not self._running or self._state is State.CONVERGED or self._findings:
            return ()
        if now_ms - self._converging_since_ms < LASTING_DETECTIONS * self.detection_ms:
            return ()
        said = {peer.said.host: peer.said.members for peer in self._peers.values()} | {
            self._me: self._agreement.members if self._agreement else frozenset(key[0] for key in self._peers)
        }
        return tuple(
            f"Host {one} does not hear host {other}, or does not admit it, and so no change has been agreed upon for"
            f" {(now_ms - self._converging_since_ms) // 1000} s; everybody goes on with the former map. Look at what is"
            " between the two, or stop one of them."
            for one in sorted(said)
            for other in sorted(said)
            if one != other and other not in said[one]
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
