"""Differences between hosts that must not balance together: found in heartbeats, named with the hosts and the way out.

A difference is between two hosts. Which of them is not admitted follows from one thing: a host that has no map takes no
traffic, so the others may go on without it; a host that has one takes traffic, so nobody may share out anew over
its head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, unique
from itertools import combinations

from clussvc.model.ids import HostId
from clussvc.nlb.heartbeat import DEFAULT_SLOT, MembershipHeartbeat
from clussvc.nlb.port_rule import FilteringMode, PortRule


@unique
class Cause(Enum):
    """Why hosts converge: the published numbers."""

    BAD_CONFIGURATION = 1
    NEW_MEMBER = 2
    UNKNOWN = 3
    DUPLICATE_HOST = 4
    NUMBER_OF_RULES = 5
    MODIFIED_RULES = 6
    MEMBER_LOST = 7
    MODIFIED_PARAMETERS = 8

    @property
    def words(self) -> str:
        """For people."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Misconfiguration:
    """One finding."""

    cause: Cause
    event_id: int
    """The published number of the event."""
    hosts: tuple[HostId, ...]
    """The two hosts between which the difference is, or the one that it is about."""
    message: str


def compare(one: MembershipHeartbeat, other: MembershipHeartbeat, rules: Sequence[PortRule]) -> list[Misconfiguration]:
    """What keeps two hosts from balancing together. ``rules`` are those of the first one; only the names come from
    them."""
    if one.codes == other.codes and one.buckets == other.buckets and (one.team.word | 1) == (other.team.word | 1):
        # The number of rules follows from the codes, which are never 0.
        return []
    hosts = (one.host, other.host)
    pair = f"Hosts {_labelled(one)} and {_labelled(other)}"

    def finding(cause: Cause, event_id: int, message: str) -> Misconfiguration:
        return Misconfiguration(cause=cause, event_id=event_id, hosts=hosts, message=message)

    found = []
    if one.rules != other.rules:
        found.append(
            finding(
                Cause.NUMBER_OF_RULES,
                67,
                f"{pair} have conflicting numbers of port rules, {one.rules} and {other.rules};"
                " give both the same rules.",
            )
        )
    else:
        for slot in range(one.rules):
            if one.codes[slot] != other.codes[slot]:
                title = rules[slot].title if slot < len(rules) else f"number {slot + 1}"
                found.append(
                    finding(
                        Cause.BAD_CONFIGURATION,
                        67,
                        f"{pair} differ in port rule '{title}': in its address, ports, protocol, mode, affinity or"
                        " timeout; give both the same rule.",
                    )
                )
    if one.codes[DEFAULT_SLOT] != other.codes[DEFAULT_SLOT] or one.buckets != other.buckets:
        found.append(
            finding(
                Cause.BAD_CONFIGURATION,
                67,
                f"{pair} differ in operation mode, virtual addresses, network address, BucketCount or FilterICMP;"
                " give both the same cluster parameters.",
            )
        )
    if (one.team.word | 1) != (other.team.word | 1):
        found.append(
            finding(
                Cause.BAD_CONFIGURATION,
                67,
                f"{pair} differ in their bi-directional affinity team: in participants, master, direction or addresses;"
                " the team is inactive until they are equal.",
            )
        )
    return found


def _labelled(said: MembershipHeartbeat) -> str:
    """The host id, with a dedicated address if there is one."""
    return f"{said.host} ({said.dip})" if int(said.dip) else str(said.host)


def duplicate_handling(
    heartbeats: Mapping[HostId, MembershipHeartbeat], rules: Sequence[PortRule]
) -> list[Misconfiguration]:
    """Hosts that have the same handling priority in a rule with a single host."""
    found = []
    for slot, rule in enumerate(rules):
        if rule.mode is not FilteringMode.SINGLE:
            continue
        for one, other in combinations(sorted(heartbeats), 2):
            priority = heartbeats[one].weights[slot]
            if priority and priority == heartbeats[other].weights[slot]:
                found.append(
                    Misconfiguration(
                        cause=Cause.BAD_CONFIGURATION,
                        event_id=20,
                        hosts=(one, other),
                        message=f"Hosts {one} and {other} have the same handling priority {priority} in port rule"
                        f" '{rule.title}'; give each host one of its own.",
                    )
                )
    return found


def inactive_team(heartbeat: MembershipHeartbeat) -> list[Misconfiguration]:
    """A host whose team is not complete: its other adapters do not balance, or not as their team mates."""
    if heartbeat.team.participants == 0 or heartbeat.team.active:
        return []
    return [
        Misconfiguration(
            cause=Cause.BAD_CONFIGURATION,
            event_id=67,
            hosts=(heartbeat.host,),
            message=f"The bi-directional affinity team of host {heartbeat.host} is inactive; every participant has to"
            " balance, and exactly one must be the master.",
        )
    ]


def duplicate_host(host: HostId, one: str, other: str) -> Misconfiguration:
    """Two machines with one host id; ``one`` and ``other`` say which machines."""
    return Misconfiguration(
        cause=Cause.DUPLICATE_HOST,
        event_id=17,
        hosts=(host,),
        message=f"Host id {host} is used by two hosts, {one} and {other}; give one of them another priority.",
    )
