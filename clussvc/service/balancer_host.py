"""One host of a load-balanced cluster on one adapter: convergence machine, segment, filter and card, put together.

The machine decides, this class carries out. ``learn`` takes facts of the service; what of them the machine must know
becomes events, what the adapter must have is brought about. See :mod:`clussvc.service.balancer` for the loop.
"""

from __future__ import annotations

import contextlib
import hashlib
import selectors
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, assert_never

from clussvc.model.errors import ClusterError
from clussvc.model.ids import HostId, ResourceId
from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.bucket_map import NOBODY, counts
from clussvc.nlb.card import card
from clussvc.nlb.card.answering import Answerer
from clussvc.nlb.control import HostWish, RuleWish, Wishes
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.filter.binding import ESP, FLOWS_DEFAULT, GRE, TCP, UDP, NativeFilter, XdpFilter
from clussvc.nlb.filter_table import (
    ADDRESSES_MAX,
    DEFAULT_RULE,
    SEED_BYTES,
    FilterTable,
    FlowTimes,
    Reason,
    RuleBuckets,
)
from clussvc.nlb.frames import read_question
from clussvc.nlb.heartbeat import (
    EXTENDED,
    NO_ADDRESS,
    HostName,
    MembershipHeartbeat,
    Refused,
    TeamWord,
    decode,
    decode_extended,
    encode,
    encode_maps,
    encode_name,
    frame,
)
from clussvc.nlb.instance import FilterMode, Instance, digest, read_instance
from clussvc.nlb.mac import Address, OperationMode, address_octets, heartbeat_mac, igmp_group
from clussvc.nlb.messages import (
    Action,
    ClientsHeard,
    ConnectionsReported,
    Control,
    Event,
    HeartbeatHeard,
    HeartbeatRefused,
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
    ResourcesOnline,
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
from clussvc.nlb.parameters import HostParameters, HostState
from clussvc.nlb.port_rule import PortRule
from clussvc.nlb.probe_health import Change
from clussvc.nlb.segment.wire import SegmentWire
from clussvc.resources.types import rtnetlink
from clussvc.resources.types.rtnetlink import Link
from clussvc.service.balancer_probes import Probes
from clussvc.service.balancer_team import Partner, write_table

IDENTITY_INTERVAL_MS: Final = 10_000
"""Between two extended heartbeats with the name of the host, as in the original."""
COUNT_INTERVAL_MS: Final = 1_000
"""How often connections are counted, so that the others know which buckets are idle here."""
NEVER_MS: Final = 1 << 62
FLOWS_SHOWN_MAX: Final = 1_000
"""Connections that one answer shows."""

_PASSING: Final = {
    RuleWish.ENABLED: Passing.ENABLED,
    RuleWish.DISABLED: Passing.DISABLED,
    RuleWish.DRAINING: Passing.DRAINING,
}
_ACCEPTING: Final = frozenset(
    {
        Reason.BUCKET_OWNER,
        Reason.SINGLE_HOST,
        Reason.DEFAULT_HOST,
        Reason.KNOWN_CONNECTION,
        Reason.KNOWN_SESSION,
        Reason.ICMP_EVERYWHERE,
        Reason.FRAGMENT_FOLLOWS,
        Reason.FRAGMENT_UNPLACED,
    }
)
_PASSING_BY: Final = frozenset({Reason.NOT_IP, Reason.OTHER_ADDRESS, Reason.DEDICATED, Reason.NEIGHBOUR})
_DROPPING: Final = frozenset(Reason) - _ACCEPTING - _PASSING_BY
_EXPLAINED_BY_FILTER: Final = {"tcp": TCP, "udp": UDP, "gre": GRE}
_PROTOCOLS: Final = {TCP: "TCP", UDP: "UDP", GRE: "GRE", ESP: "IPsec"}


def now_ms() -> int:
    """Milliseconds of the boot-time clock, which runs on while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class Host:
    """See the module. All methods are called by one thread."""

    def __init__(
        self,
        interface: str,
        facts: Mapping[str, Any],
        selector: selectors.BaseSelector,
        folder: Path,
        note: Callable[[int, str], None],
    ) -> None:
        """Begin with the first facts. Raises ClusterError; nothing is left then."""
        instance, host = _read(facts)
        self._note = note
        self._selector = selector
        self._instance, self._host = instance, host
        self._key = bytes.fromhex(str(facts["key"]))
        self._digest = digest(_private(facts))
        self._link = card.find_link(interface, instance.address)
        self._link_up = True
        self._boot = time.time_ns() // 1_000_000
        self._names: dict[HostId, str] = {}
        self._identity_ms = 0
        self._identity_seq = 0
        self._held_ms = 0
        self._count_ms = 0
        self._listen_ms = NEVER_MS
        self._clients_seen: int | None = None
        """Frames for the virtual addresses at the last look; None: nobody looks."""
        self._team_ms = NEVER_MS
        self._failed = ""
        self._going = False
        self._drain_s = 0
        self._seed = bytes.fromhex(str(facts["seed"]))[:SEED_BYTES]
        self._folder = folder
        self._partners: dict[ResourceId, Partner] = {}
        self._team_complete = True
        self._team_told: dict[str, Any] | None = None
        self._probes = Probes(selector, self._served)
        self._machine = Convergence(
            cluster=instance.cluster, host=host, host_code=_host_code(self._link), boot=self._boot, quorum=True
        )
        with contextlib.ExitStack() as undo:
            self._filter = XdpFilter()
            undo.callback(self._filter.close)
            self._filter.load(self._filter_table(None))
            self._filter.attach(self._link.name, native=instance.filter_mode is FilterMode.NATIVE)
            self._segment = SegmentWire(self._link.name)
            undo.callback(self._segment.close)
            self._open_card()
            undo.callback(self._close_card)
            undo.pop_all()
        selector.register(self._segment, selectors.EVENT_READ, self._hear)
        self.learn(facts)

    # --- facts ------------------------------------------------------------------------------------------------------

    def learn(self, facts: Mapping[str, Any]) -> None:
        """Take over what the service knows. Raises ClusterError when it cannot be used; what was stays then."""
        instance, host = _read(facts)
        if _fixed(instance) != _fixed(self._instance):
            raise ClusterError(
                "takes-effect-later",
                "ClusterIPAddress, OperationMode, ClusterNetworkAddress, FilterMode and the members of a team take"
                " effect when the resource is next brought online",
            )
        self._digest = digest(_private(facts))
        former, self._instance, self._host = self._instance, instance, host
        served = self._probes.answering
        self._probes.watch(instance.cluster.rules, instance.address, now_ms())
        # The machine goes from the former rules to the new ones knowing of both what is served.
        self._tell(ProbesAnswered(titles=served | self._probes.answering))
        if former != instance:
            if _card_of(former) != _card_of(instance):
                self._close_card()
                gone = set(former.cluster.all_vips) - set(instance.cluster.all_vips)
                card.drop_addresses(gone)
                self._open_card()
            self._do(self._machine.handle(ParametersChanged(cluster=instance.cluster, host=host), now_ms()))
            # Addresses and times of the filter are not the machine's concern.
            self._filter.load(self._filter_table(self._machine.table))
        self._tell(ProbesAnswered(titles=self._probes.answering))
        self._drain_s = int(_private(facts).get("DrainSeconds", 0))  # type: ignore[arg-type]  # the type's table says so
        up = {str(name).casefold() for name in facts["up"]}
        self._tell(NodesUp(hosts=frozenset(one.host for one in instance.hosts if one.node.casefold() in up)))
        sharing = {str(name).casefold() for name in facts["sharing"]} if "sharing" in facts else None
        self._tell(HostsOnline(hosts=self._started_among(sharing) if sharing is not None else None))
        self._tell(ResourcesOnline(names=frozenset(map(str, facts["online"]))))
        self._meet_team(facts.get("team"))
        self._obey(instance.wishes_for(host.node))

    def _started_among(self, nodes: Collection[str]) -> frozenset[HostId]:
        """The hosts on these nodes that nobody has stopped."""
        started = (one for one in self._instance.hosts if one.node.casefold() in nodes)
        return frozenset(one.host for one in started if self._instance.wishes_for(one.node).host is HostWish.STARTED)

    def _obey(self, wishes: Wishes) -> None:
        """Bring the machine to what administrators want of this host."""
        if self._going:
            return
        self._do(
            self._machine.wish_rules(
                {rule.code(): _PASSING[wishes.of(rule)] for rule in self._instance.cluster.rules}, now_ms()
            )
        )
        if self._machine.wanted is HostState.SUSPENDED and wishes.host is not HostWish.SUSPENDED:
            self._control(Control.RESUME)
        match wishes.host:
            case HostWish.STARTED:
                # What one member of a team accepted alone would come back on the other to nobody.
                self._control(Control.START if self._team_complete else Control.STOP)
            case HostWish.STOPPED:
                self._control(Control.STOP)
            case HostWish.DRAINING:
                self._control(Control.DRAINSTOP)
            case HostWish.SUSPENDED:
                self._control(Control.SUSPEND)
            case _:
                assert_never(wishes.host)

    def _control(self, what: Control) -> None:
        _, actions = self._machine.control(what, now_ms())
        self._do(actions)

    # --- the team ---------------------------------------------------------------------------------------------------

    def _meet_team(self, told: Mapping[str, Any] | None) -> None:
        """Take over who belongs to the team of this adapter."""
        mates = {ResourceId(str(each["resource"])): bool(each["master"]) for each in told["mates"]} if told else {}
        for gone in [known for known in self._partners if known not in mates]:
            self._partners.pop(gone).close()
        for resource, master in mates.items():
            if resource not in self._partners:
                self._partners[resource] = Partner(
                    resource, master=master, folder=self._folder, selector=self._selector, news=self._use_table
                )
            self._partners[resource].master = master
        self._team_told = dict(told) if told else None
        self._look_at_team()

    def _look_at_team(self) -> None:
        """Whether all of the team are able on this node; this host takes part only then."""
        told, team, now = self._team_told, self._instance.cluster.team, now_ms()
        complete = team is None
        if told is not None and team is not None:
            complete = (
                told["masters"] == 1
                and len(self._partners) == told["participants"] - 1
                and all(partner.able(now) for partner in self._partners.values())
            )
            word = TeamWord(
                active=told["masters"] == 1,
                master=team.master,
                reverse=team.reverse_hash,
                participants=min(told["participants"], 31),
                xor_of_addresses=told["xor"],
            )
            self._tell(TeamChanged(team=word))
        if complete is not self._team_complete:
            self._team_complete = complete
            self._note(0, "The team is complete on this node." if complete else f"{self._missing(now)}")
            self._obey(self._instance.wishes_for(self._host.node))

    def _missing(self, now: int) -> str:
        told = self._team_told
        if told is not None and told["masters"] != 1:
            return f"The team has {told['masters']} masters; set Master=1 on exactly one of its members."
        able = sum(partner.able(now) for partner in self._partners.values())
        wanted = told["participants"] - 1 if told is not None else 1
        return f"Of {wanted} other members of the team {able} are able on this node; it takes nothing until all are."

    def team(self) -> dict[str, Any]:
        """What the other members on this node ask."""
        started = self._instance.wishes_for(self._host.node).host is HostWish.STARTED
        team = self._instance.cluster.team
        master = team is not None and team.master
        return {
            "able": started and self._link_up and not self._failed,
            "table": write_table(self._machine.table) if master else None,
        }

    def _master(self) -> Partner | None:
        """The member by which this one decides; None: by itself."""
        return next((partner for partner in self._partners.values() if partner.master), None)

    def _use_table(self) -> None:
        """Have the filter decide by what counts now."""
        self._look_at_team()
        self._filter.load(self._filter_table(self._machine.table))

    def drain(self) -> dict[str, Any]:
        """Take nothing new from now on, whatever is wished, since the resource goes offline; how long that may take."""
        limit_s = self._drain_s
        if limit_s:
            self._going = True
            self._control(Control.DRAINSTOP)
        return {"limit_s": limit_s}

    def stop(self) -> None:
        """Leave: the others are told at the next ticks."""
        self._control(Control.STOP)

    # --- what happens -----------------------------------------------------------------------------------------------

    @property
    def deadline_ms(self) -> int | None:
        """When :meth:`tick` is due; None: the host has left and said so."""
        return self._machine.deadline_ms

    @property
    def next_ms(self) -> int:
        """When anything is due, the keeping of addresses and counting included."""
        deadline_ms = self._machine.deadline_ms
        times = (self._held_ms, self._count_ms, self._identity_ms, self._team_ms, self._listen_ms)
        asked = (NEVER_MS if each is None else each for each in (deadline_ms, self._probes.deadline_ms))
        return min(*times, *asked)

    def tick(self) -> None:
        """Do what is due."""
        now = now_ms()
        if self._machine.deadline_ms is not None and now >= self._machine.deadline_ms:
            self._tell(Tick())
        if self._partners or self._team_told is not None:
            self._team_ms = min((partner.tick(now) for partner in self._partners.values()), default=now + 500)
            self._look_at_team()
        probe_ms = self._probes.deadline_ms
        if probe_ms is not None and now >= probe_ms:
            self._probes.tick(now)
        self._listen_for_clients(now)
        if now >= self._held_ms:
            self._hold_addresses(now)
        if now >= self._count_ms:
            self._count(now)
        if now >= self._identity_ms:
            self._say_name(now)

    def _served(self, change: Change) -> None:
        """A rule with a probe is served from now on, or not."""
        text = (
            f"Port rule '{change.title}' is served again: its probe is answered."
            if change.answering
            else f"Port rule '{change.title}' takes no new clients here: its probe fails ({change.why})."
        )
        self._note(0, text)
        self._tell(ProbesAnswered(titles=self._probes.answering))

    def _tell(self, event: Event) -> None:
        self._do(self._machine.handle(event, now_ms()))

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case SendHeartbeat(heartbeat=heartbeat, valid_until_ms=valid_until_ms):
                    # Those who hear it wait so long before they take this host's share.
                    if self._segment_send(encode(heartbeat, self._key)):
                        self._filter.keep_until(valid_until_ms)
                case SendMaps(part=part):
                    for payload in encode_maps(part, self._key):
                        self._segment_send(payload)
                case UseTable(table=table):
                    self._filter.load(self._filter_table(table))
                case Note(event_id=event_id, message=message):
                    self._note(event_id, message)
                case _:
                    assert_never(action)

    def _segment_send(self, payload: bytes) -> bool:
        """False: it was not sent. A link that is down is told by the kernel; the machine notices its own silence."""
        cluster = self._instance.cluster
        return self._segment.send(
            frame(heartbeat_mac(cluster.mode, cluster.address.address), self._link.hardware, payload)
        )

    def _hear(self) -> None:
        octets = address_octets(self._instance.address)
        for payload, source in self._segment.receive():
            said: MembershipHeartbeat | HostName | Any
            if payload[:4] == EXTENDED.to_bytes(4, "little"):
                said = decode_extended(payload, self._key, octets)
            else:
                said = decode(payload, self._key, octets)
            if isinstance(said, Refused):
                self._tell(HeartbeatRefused(reason=said))
            elif isinstance(said, MembershipHeartbeat):
                self._tell(HeartbeatHeard(heartbeat=said, source=source))
            elif isinstance(said, HostName):
                self._tell(NameHeard(name=said))
            else:
                self._tell(MapsHeard(part=said))

    def look_at_link(self) -> None:
        """Something about links has changed."""
        link = next((each for each in rtnetlink.links() if each.index == self._link.index), None)
        up = link is not None and link.works
        if up != self._link_up:
            self._link_up = up
            self._tell(LinkChanged(up=up))

    # --- the adapter ------------------------------------------------------------------------------------------------

    def _open_card(self) -> None:
        cluster = self._instance.cluster
        mac, vips = cluster.link_address(), cluster.all_vips
        with contextlib.ExitStack() as undo:
            self._memberships = card.Memberships(self._link, mac, vips)
            undo.callback(self._memberships.close)
            self._group = None
            if cluster.mode is OperationMode.IGMP:
                self._group = card.Group(self._link, igmp_group(cluster.address.address))
                undo.callback(self._group.close)
            card.hold_addresses(vips)
            self._held_ms = now_ms() + int(card.EXTENSION_INTERVAL_S * 1000)
            self._answerer = Answerer(self._link, vips, mac)
            undo.pop_all()
        self._selector.register(self._answerer, selectors.EVENT_READ, self._answerer.serve)
        self._answerer.announce()

    def _close_card(self) -> None:
        self._selector.unregister(self._answerer)
        self._answerer.close()
        if self._group is not None:
            self._group.close()
        self._memberships.close()

    def _hold_addresses(self, now: int) -> None:
        """Only a host that takes part has them; one that was frozen for longer than their lifetime lost them, and gets
        them back when it takes part again."""
        self._held_ms = now + int(card.EXTENSION_INTERVAL_S * 1000)
        try:
            card.hold_addresses(self._instance.cluster.all_vips)
        except OSError as error:
            self._failed = f"the virtual addresses cannot be held: {error.strerror}"

    def close(self) -> None:
        """Be no host any more."""
        for partner in self._partners.values():
            partner.close()
        self._probes.close()
        self._close_card()
        with contextlib.suppress(OSError):
            card.drop_addresses(self._instance.cluster.all_vips)
        self._selector.unregister(self._segment)
        self._segment.close()
        self._filter.close()

    # --- the filter -------------------------------------------------------------------------------------------------

    def _filter_table(self, table: Table | None) -> FilterTable:
        """What the machine wants, with what it does not know: addresses, times, the hash."""
        cluster = self._instance.cluster
        team = cluster.team
        if team is not None and not team.master and table is not None and table.active:
            master = self._master()
            told = master.table(now_ms()) if master is not None else None
            # Of connections that the master's side keeps this side knows nothing, so it marks none.
            table = replace(told, slots=tuple(replace(slot, dirty=0) for slot in told.slots)) if told else None
        active = table is not None and table.active
        rules = table.rules if table is not None and active else ()
        slots = table.slots if table is not None and active else ()
        nobody = RuleBuckets(owners=(NOBODY,) * cluster.bucket_count)
        # Until all hosts have agreed on new rules they decide by the former ones, whose addresses may be gone by now.
        named = [rule.vip for rule in rules if rule.vip is not None and rule.vip not in cluster.all_vips]
        vips = tuple(dict.fromkeys((*named, *cluster.all_vips)))[:ADDRESSES_MAX]
        buckets = [_rule_buckets(slot) for slot in slots]
        return FilterTable(
            generation=table.number if table is not None else 0,
            seed=self._seed,
            buckets=len(buckets[0].owners) if buckets else cluster.bucket_count,
            host=self._host.host,
            running=active,
            vips=vips,
            dedicated=tuple(dip.address for dip in self._host.dips),
            rules=rules,
            rule_buckets=tuple(buckets[:-1]),
            default=buckets[-1] if buckets else nobody,
            cluster_mac=cluster.link_address(),
            own_mac=self._link.hardware,
            filter_icmp=cluster.filter_icmp,
            reverse=team is not None and team.reverse_hash,
            transit=team is not None,
            times=FlowTimes(closing_ms=cluster.tcp_timeout_s * 1000, ipsec_ms=cluster.ipsec_timeout_s * 1000),
        )

    def _count(self, now: int) -> None:
        """Tell the machine which buckets have connections here."""
        begun_ms = now_ms()
        table = self._machine.table
        if table is not None and table.active:
            team = self._instance.cluster.team
            # The buckets of a member that is not the master are not those of its own machine.
            occupied = self._filter.occupied() if team is None or team.master else {}
            places = (*range(len(table.rules)), DEFAULT_RULE)
            buckets = tuple(sum(1 << bucket for bucket in occupied.get(place, ())) for place in places)
            self._tell(
                ConnectionsReported(
                    number=table.number,
                    total=sum(map(int.bit_count, buckets)),
                    buckets=buckets,
                    packets=self._packets()[0],
                )
            )
        # A table of connections that takes long to read is read less often.
        self._count_ms = now + max(COUNT_INTERVAL_MS, 20 * (now_ms() - begun_ms))

    def _listen_for_clients(self, now: int) -> None:
        """Once in a period, while the machine may be in doubt whether it is deaf."""
        if not self._machine.is_in_doubt:
            self._listen_ms, self._clients_seen = NEVER_MS, None
            return
        if self._clients_seen is not None and now < self._listen_ms:
            return
        self._listen_ms = now + self._instance.cluster.period_ms
        before, self._clients_seen = self._clients_seen, sum(self._packets())
        if before is not None and self._clients_seen > before:
            self._tell(ClientsHeard())

    def _packets(self) -> tuple[int, int]:
        """Accepted and dropped so far."""
        counters = self._filter.counters()
        accepted = sum(count for reason, count in counters.items() if reason in _ACCEPTING)
        dropped = sum(count for reason, count in counters.items() if reason in _DROPPING)
        return accepted, dropped

    def _say_name(self, now: int) -> None:
        self._identity_ms = now + IDENTITY_INTERVAL_MS
        self._identity_seq += 1
        dips = [dip.address for dip in self._host.dips if isinstance(dip.address, IPv4Address)]
        name = HostName(
            host=self._host.host,
            cluster=address_octets(self._instance.address),
            dip=dips[0] if dips else NO_ADDRESS,
            name=self._host.node,
            boot=self._boot,
            seq=self._identity_seq,
        )
        self._segment_send(encode_name(name, self._key))

    # --- answers ----------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """Whether the host is ready, and what is wrong."""
        trouble = self._failed
        if not trouble and not self._filter.attached():
            trouble = f"the packet filter is not on {self._link.name} any more"
        view = self._machine.view(now_ms())
        waits = view.status is Status.CONVERGING and not view.maps
        return {
            "ready": not trouble and not waits,
            "waits_for": trouble or view.because,
            "trouble": trouble,
            "drained": self._machine.wanted is HostState.STOPPED,
        }

    def status(self) -> dict[str, Any]:
        """All that a query shows."""
        view = self._machine.view(now_ms())
        accepted, dropped = self._packets()
        counters = {reason.value: count for reason, count in self._filter.counters().items() if count}
        wall_ms = time.time_ns() // 1_000_000 - now_ms()
        return {
            "default_host": int(view.default_host),
            "hosts": [self._own_line(view), *(_peer_line(view, peer) for peer in view.peers)],
            "rules": [self._rule_line(view, at) for at in range(len(view.rules))],
            "packets": {
                "accepted": accepted,
                "dropped": dropped,
                "by_reason": counters,
                "by_rule": {title: asdict(packets) for title, packets in self._filter.packets().items()},
            },
            "refused_frames": dict(view.counters),
            "statistics": {"connections": len(self._filter.flows(FLOWS_SHOWN_MAX)), "descriptors": FLOWS_DEFAULT},
            "history": [
                {"at_ms": wall_ms + line.at_ms, "state": line.state, "because": line.because} for line in view.history
            ],
            "findings": [
                *(finding.message for finding in view.findings),
                *view.hindrances,
                *(self._unserved(rule) for rule in self._instance.cluster.rules if self._probes.trouble(rule.title)),
                *(() if self._team_complete else (self._missing(now_ms()),)),
            ],
            "parameters_digest": self._digest,
            "trouble": self._failed,
        }

    def _own_line(self, view: View) -> dict[str, Any]:
        words = {
            Status.DEFAULT: "default",
            Status.CONVERGED: "converged",
            Status.CONVERGING: "converging",
            Status.DRAINING: "draining",
            Status.SUSPENDED: "suspended",
            Status.MEDIA_DISCONNECTED: "disconnected",
        }
        return {
            "id": int(view.host),
            "state": words.get(view.status, "stopped"),
            "members": [int(member) for member in view.members],
            "entered": view.convergences,
            "because": "" if view.status in (Status.DEFAULT, Status.CONVERGED) else view.because,
        }

    def _unserved(self, rule: PortRule) -> str:
        """What a rule suffers whose probe fails here."""
        assert rule.probe is not None
        return (
            f"Port rule '{rule.title}': the probe {rule.probe.target} of port {rule.probed_port} fails on"
            f" {self._host.node} ({self._probes.trouble(rule.title)}), so it takes no new clients there."
        )

    def _rule_line(self, view: View, at: int) -> dict[str, Any]:
        rule, passing = view.rules[at], view.passing[at]
        because = ""
        wish = self._instance.wishes_for(self._host.node)
        if passing is Passing.DRAINING and wish.of(rule) is RuleWish.ENABLED:
            because = "The host is draining."
            if rule.resource and wish.host is not HostWish.DRAINING:
                because = f"It is bound to resource '{rule.resource}', which is not online on this node."
            if self._probes.trouble(rule.title) and wish.host is not HostWish.DRAINING:
                because = f"Its probe fails on this node: {self._probes.trouble(rule.title)}."
        return {
            "title": rule.title,
            "state": passing.value,
            "because": because,
            "weight": view.weights[at],
            "buckets": {
                str(host): count for host, count in sorted(counts(view.maps[at]).items())
            } if view.maps else {},
        }  # fmt: skip

    def connections(self) -> dict[str, Any]:
        """What the flow table holds, as much of it as is shown."""
        flows = self._filter.flows(FLOWS_SHOWN_MAX)
        return {
            "count": len(flows),
            "connections": [
                {
                    "protocol": _PROTOCOLS.get(flow.protocol, str(flow.protocol)),
                    "client": _end(flow.client, flow.client_port),
                    "server": _end(flow.server, flow.server_port),
                    "state": flow.state.value,
                    "idle_ms": flow.idle_ms,
                }
                for flow in flows
            ],
        }

    def explain(self, protocol: str, client: str, server: str, flags: str) -> dict[str, Any]:
        """Which host takes such a packet, and why. Raises ClusterError."""
        question = read_question(protocol, client, server, flags)
        if isinstance(question, str):
            raise ClusterError("bad-question", question)
        table = self._filter_table(self._machine.table)
        if question.protocol in _EXPLAINED_BY_FILTER:
            decision = self._filter.explain(
                client=question.client,
                server=question.server,
                protocol=_EXPLAINED_BY_FILTER[question.protocol],
                client_port=question.client_port,
                server_port=question.server_port,
                opens=question.flags == "syn" or question.protocol != "tcp",
            )
        else:
            # These have no ports and no opening packets; what is known of their sessions is not looked at.
            decision = NativeFilter(table, flows_max=0).decide(question.frame(table.cluster_mac))
        owner = next((one for one in self._instance.hosts if one.host == decision.owner), None)
        sentences = [f"Host {self._host.host} ({self._host.node}): {decision.verdict.value}. {decision.because(table)}"]
        if owner is not None and owner.host != self._host.host:
            sentences.append(f"Host {owner.host} ({owner.node}) takes it, by what this host knows.")
        return {
            "sentences": sentences,
            "verdict": decision.verdict.value,
            "reason": decision.reason.value,
            "host": decision.owner,
            "bucket": decision.bucket,
        }


def _rule_buckets(slot: SlotTable) -> RuleBuckets:
    size = len(slot.owners)
    return RuleBuckets(
        owners=slot.owners,
        dirty=frozenset(bucket for bucket in range(size) if slot.dirty >> bucket & 1),
        # What the machine knows of open connections is a report old; the filter itself finds out what it had.
        kept=None,
        cut=slot.passing is Passing.DISABLED,
    )


def _read(facts: Mapping[str, Any]) -> tuple[Instance, HostParameters]:
    instance, problems = read_instance(_private(facts))
    if instance is None:
        raise ClusterError("bad-property", " ".join(problems))
    host = instance.host(str(facts["node"]))
    if host is None:
        raise ClusterError("not-a-host", f"{facts['node']} is not named in HostParameters any more")
    return instance, host


def _private(facts: Mapping[str, Any]) -> dict[str, PropertyValue]:
    """Lists of texts are tuples again, as everywhere but in JSON."""
    return {
        str(name): tuple(map(str, value)) if isinstance(value, list) else value
        for name, value in facts["private"].items()
    }


def _fixed(instance: Instance) -> tuple[object, ...]:
    """What a running host cannot change: the adapter and the heartbeats of the others are made for it."""
    cluster = instance.cluster
    native = instance.filter_mode is FilterMode.NATIVE
    return cluster.address, cluster.mode, cluster.link_address(), cluster.team, native


def _card_of(instance: Instance) -> tuple[object, ...]:
    cluster = instance.cluster
    return cluster.all_vips, cluster.link_address(), cluster.mode


def _host_code(link: Link) -> int:
    """32 bits that belong to this machine, so that two machines with one number are told apart."""
    with contextlib.suppress(OSError):
        machine = Path("/etc/machine-id").read_bytes()
        return int.from_bytes(hashlib.blake2b(machine + link.hardware, digest_size=4).digest(), "big")
    return int.from_bytes(hashlib.blake2b(link.hardware, digest_size=4).digest(), "big")


def _peer_line(view: View, peer: PeerView) -> dict[str, Any]:
    state = "draining" if peer.draining else "converging"
    if peer.state == "converged" and not peer.draining:
        state = "default" if peer.host == view.default_host else "converged"
    return {
        "id": int(peer.host),
        "state": state,
        "members": [int(member) for member in view.members],
        "entered": 0,
        "because": "" if peer.member else "It is not admitted; 'nlb diagnose' says why.",
        "source": peer.source,
        "silent_ms": peer.silent_ms,
    }


def _end(address: Address, port: int) -> str:
    text = f"[{address}]" if address.version == 6 and port else str(address)
    return f"{text}:{port}" if port else text
