"""Whom a load-balancing host reckons with: other machines, what keeps them from balancing together, and what follows.

Hosts that differ in what must be equal do not share. Which of two is passed over follows from one thing: a host that
takes no traffic can be left out, and one that takes traffic cannot, so then nobody shares out anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from clussvc.model.ids import HostId
from clussvc.nlb.agreement import Statement
from clussvc.nlb.heartbeat import DEFAULT_SLOT, MembershipHeartbeat
from clussvc.nlb.misconfiguration import Misconfiguration, compare, duplicate_handling, duplicate_host, inactive_team
from clussvc.nlb.port_rule import PortRule

Machine = tuple[HostId, int]
"""A host id and a host code: one machine, even if another one has the same host id."""


@dataclass(slots=True)
class Peer:
    """What is known of one machine. ``said`` is its last heartbeat; ``statement`` and ``idle`` are parts of it."""

    said: MembershipHeartbeat
    received_ms: int
    source: str
    statement: Statement
    idle: tuple[int, ...]

    @property
    def title(self) -> str:
        """How messages name a machine whose host id says nothing."""
        return f"{self.source or 'another machine'} ({self.said.dip})"


def peer_of(said: MembershipHeartbeat, *, received_ms: int, source: str) -> Peer:
    """The machine that a heartbeat speaks of."""
    slots = range(said.rules)
    statement = Statement(
        host=said.host,
        host_code=said.host_code,
        boot=said.boot,
        generation=said.generation,
        table_code=said.table_code,
        words=(*(said.current[slot] for slot in slots), said.current[DEFAULT_SLOT]),
        weights=(*(said.weights[slot] for slot in slots), said.weights[DEFAULT_SLOT]),
    )
    idle = (*(said.idle[slot] for slot in slots), said.idle[DEFAULT_SLOT])
    return Peer(said=said, received_ms=received_ms, source=source, statement=statement, idle=idle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Company:
    """Whom this host reckons with at a moment."""

    others: Mapping[HostId, Peer]
    """Those with whom it may share."""
    findings: tuple[Misconfiguration, ...]
    blocked: bool
    """Some difference must go away before anybody may share out anew."""


def company_of(
    mine: MembershipHeartbeat,
    peers: Mapping[Machine, Peer],
    *,
    rules: Sequence[PortRule],
    may_take: Callable[[Peer], bool],
) -> Company:
    """Who may share, who is not admitted, and whether anything forbids to share out anew.

    ``mine`` is what this host says of itself, with a generation if it has a map. ``may_take`` tells whether another one
    takes traffic, or may do so.
    """
    mapped = mine.generation > 0
    findings = inactive_team(mine)
    blocked = bool(findings)
    differs: dict[Machine, list[Misconfiguration]] = {}
    for key, peer in peers.items():
        differs[key] = [*compare(mine, peer.said, rules), *inactive_team(peer.said)]
        if key[0] == mine.host:
            differs[key].append(duplicate_host(mine.host, f"this one ({mine.dip})", peer.title))
    # Somebody who takes traffic and agrees with this host vouches for it: those who differ are the strangers then.
    anchored = mapped or any(may_take(peer) and not differs[key] for key, peer in peers.items())
    seats: dict[HostId, Peer] = {}
    for key, peer in sorted(peers.items(), key=lambda each: each[1].statement.rank):
        wrong = differs[key]
        if not wrong and key[0] in seats:
            # Who has the better claim sits there already.
            wrong = [duplicate_host(key[0], seats[key[0]].title, peer.title)]
            blocked |= not may_take(seats[key[0]])
        findings += wrong
        if not wrong:
            seats[key[0]] = peer
        elif may_take(peer) or not anchored:
            blocked = True
    said = {host: peer.said for host, peer in seats.items()} | {mine.host: mine}
    for finding in duplicate_handling(said, rules):
        findings.append(finding)
        if not set(finding.hosts) <= {mine.host, *seats}:
            continue
        takers = {host for host in finding.hosts if (mapped if host == mine.host else may_take(seats[host]))}
        strangers = [host for host in finding.hosts if host not in takers and host != mine.host]
        blocked |= not strangers or not takers
        if takers:
            for host in strangers:
                del seats[host]
    return Company(others=seats, findings=tuple(findings), blocked=blocked)
