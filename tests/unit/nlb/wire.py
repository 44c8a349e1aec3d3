"""Some hosts on a wire that delivers everything at once: for tests of the convergence machine, and for scenarios."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from clussvc.model.ids import HostId
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.heartbeat import MembershipHeartbeat
from clussvc.nlb.messages import (
    Action,
    Control,
    Event,
    HeartbeatHeard,
    MapsHeard,
    Note,
    ResourcesOnline,
    RuleControl,
    SendHeartbeat,
    SendMaps,
    Status,
    Table,
    Tick,
    UseTable,
)
from clussvc.nlb.parameters import ClusterParameters, HostParameters, InterfaceAddress
from clussvc.nlb.port_rule import PortRule, RuleScope, parse_rules

PRIMARY = InterfaceAddress(address=IPv4Address("192.0.2.10"), prefix=24)
RULES = parse_rules(["All 25 TCP Single", "All 80 TCP Multiple", "All 443 TCP Multiple None 30 resource=WEB"])[0]


class Wire:
    """Some hosts, one clock, and no loss. Messages arrive in the order of sending."""

    def __init__(self, *numbers: int, buckets: int = 60, rules: tuple[PortRule, ...] = RULES) -> None:
        self.now_ms = 1_000
        self.cluster = ClusterParameters(address=PRIMARY, rules=rules, bucket_count=buckets)
        self.hosts: dict[int, Convergence] = {}
        self.tables: dict[int, Table] = {}
        self.notes: list[tuple[int, Note]] = []
        """With the key of the host that made each."""
        self.noted_ms: list[int] = []
        self.lost: Callable[[int, int, MembershipHeartbeat], bool] | None = None
        """Whether a heartbeat of one host to another one is lost."""
        self.valid_until_ms: dict[int, int] = {}
        self._waiting: list[tuple[int, Event]] = []
        for number in numbers:
            self.add(number)

    def add(self, number: int, *, code: int = 0, cluster: ClusterParameters | None = None, key: int = 0) -> None:
        """A host starts."""
        host = HostParameters(node=f"n{number}", host=HostId(number))
        machine = Convergence(
            cluster=cluster or self.cluster, host=host, host_code=code or number, boot=self.now_ms, quorum=True
        )
        self.hosts[key or number] = machine
        self.tell(key or number, ResourcesOnline(names=frozenset({"web"})))

    def tell(self, number: int, event: Event) -> None:
        """An event for one host, and all that follows at once."""
        self.perform(number, self.hosts[number].handle(event, self.now_ms))
        self._deliver()

    def perform(self, number: int, actions: tuple[Action, ...]) -> None:
        """Does what a machine wants."""
        for action in actions:
            match action:
                case SendHeartbeat(heartbeat=heartbeat, valid_until_ms=valid_until_ms):
                    self.valid_until_ms[number] = valid_until_ms
                    said = HeartbeatHeard(heartbeat=heartbeat, source=f"mac{number}")
                    self._waiting += [
                        (other, said)
                        for other in self.hosts
                        if other != number and not (self.lost and self.lost(number, other, heartbeat))
                    ]
                case SendMaps(part=part):
                    self._waiting += [(other, MapsHeard(part=part)) for other in self.hosts if other != number]
                case UseTable(table=table):
                    self.tables[number] = table
                case Note():
                    self.notes.append((number, action))
                    self.noted_ms.append(self.now_ms)

    def _deliver(self) -> None:
        while self._waiting:
            number, event = self._waiting.pop(0)
            if number in self.hosts:
                self.perform(number, self.hosts[number].handle(event, self.now_ms))

    def run(self, for_ms: int) -> None:
        """Time passes; every host is asked when it wants to be."""
        end_ms = self.now_ms + for_ms
        while True:
            due = [(host.deadline_ms, number) for number, host in self.hosts.items() if host.deadline_ms is not None]
            next_ms, number = min(due, default=(end_ms + 1, 0))
            if next_ms is None or next_ms > end_ms:
                break
            self.now_ms = max(self.now_ms, next_ms)
            self.tell(number, Tick())
        self.now_ms = end_ms

    def remove(self, number: int) -> None:
        """A host dies without a word."""
        del self.hosts[number]
        self.tables.pop(number, None)

    def control(self, number: int, what: Control) -> Status:
        """A command."""
        status, actions = self.hosts[number].control(what, self.now_ms)
        self.perform(number, actions)
        self._deliver()
        return status

    def control_rules(self, number: int, what: RuleControl, scope: RuleScope) -> Status:
        """A command for rules."""
        status, actions = self.hosts[number].control_rules(what, scope, self.now_ms)
        self.perform(number, actions)
        self._deliver()
        return status

    def state(self, number: int) -> str:
        """As a query shows it."""
        return self.hosts[number].view(self.now_ms).state

    def states(self) -> dict[int, str]:
        """Of all hosts."""
        return {number: self.state(number) for number in self.hosts}

    def owned(self, number: int, slot: int = 1) -> int:
        """How many buckets of a rule a host takes; the second rule is shared equally."""
        table = self.tables[number]
        return table.slots[slot].owners.count(number) if table.active else 0

    def passing(self, number: int) -> str:
        """What a host does with packets of the second rule."""
        return self.tables[number].slots[1].passing.value

    def said(self, event_id: int) -> list[str]:
        """The messages of that number."""
        return [note.message for _, note in self.notes if note.event_id == event_id]


def settled(*numbers: int, buckets: int = 60) -> Wire:
    """Hosts that have converged."""
    wire = Wire(*numbers, buckets=buckets)
    wire.run(1_000)
    assert set(wire.states().values()) <= {"converged", "converged as DEFAULT"}
    return wire
