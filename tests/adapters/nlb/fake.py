"""A packet filter without a kernel: the same decisions, and frames that a test hands in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from clussvc.model.errors import ClusterError
from clussvc.nlb.filter.binding import TCP, NativeFilter, example_frame
from clussvc.nlb.filter_table import DEFAULT_RULE, Decision, FilterTable, Flow, Reason, Verdict
from clussvc.nlb.mac import Address
from clussvc.nlb.rule_counters import DEFAULT_TITLE, Packets


class FakeFilter:
    """The port ``PacketFilter`` for tests. ``interfaces``: those that exist."""

    def __init__(self, interfaces: set[str]) -> None:
        self.interfaces = interfaces
        self.now_ms = 0
        self._core: NativeFilter | None = None
        self._table: FilterTable | None = None
        self._interface = ""
        self._closed = False
        self._until_ms: int | None = None
        self._counts: Counter[Reason] = Counter()
        self._packets: Counter[tuple[str, bool]] = Counter()

    def load(self, table: FilterTable) -> None:
        self._require_open()
        if self._core is None or not table.running:
            self._core = NativeFilter(table)
        else:
            self._core.load(table)
        self._table = table

    def keep_until(self, boot_time_ms: int | None) -> None:
        self._require_open()
        self._until_ms = boot_time_ms

    def attach(self, interface: str, *, native: bool = False) -> None:
        self._require_open()
        assert self._core is not None, "attached before a table was loaded"
        if interface not in self.interfaces:
            raise ClusterError("interface-missing", f"There is no interface {interface} on this host.")
        self._interface = interface

    def detach(self) -> None:
        self._interface = ""

    def attached(self) -> bool:
        self._require_open()
        return self._interface in self.interfaces

    def close(self) -> None:
        self._closed = True

    def counters(self) -> Mapping[Reason, int]:
        self._require_open()
        return {reason: self._counts[reason] for reason in Reason}

    def packets(self) -> Mapping[str, Packets]:
        self._require_open()
        assert self._table is not None
        titles = [*(rule.title for rule in self._table.rules), DEFAULT_TITLE]
        return {
            title: Packets(accepted=self._packets[title, True], dropped=self._packets[title, False]) for title in titles
        }

    def flows(self, limit: int = 1000) -> tuple[Flow, ...]:
        self._require_open()
        assert self._core is not None
        return self._core.flows(self.now_ms)[:limit]

    def occupied(self) -> Mapping[int, frozenset[int]]:
        self._require_open()
        assert self._core is not None
        return self._core.occupied(self.now_ms)

    def explain(
        self,
        *,
        client: Address,
        server: Address,
        protocol: int = TCP,
        client_port: int = 0,
        server_port: int = 0,
        opens: bool = True,
    ) -> Decision:
        self._require_open()
        assert self._core is not None and self._table is not None
        frame = example_frame(self._table, client, server, protocol, client_port, server_port, opens)
        return self._core.what_if(frame, self.now_ms)

    def receive(self, frame: bytes) -> bool:
        """A frame arrives: whether it gets through."""
        assert self._core is not None
        decision = self._core.decide(frame, self.now_ms)
        reason = decision.reason
        late = self._until_ms is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 > self._until_ms
        if late and decision.verdict is Verdict.ACCEPT and reason is not Reason.NEIGHBOUR:
            reason = Reason.STOPPED
        self._counts[reason] += 1
        taken = decision.verdict is not Verdict.DROP and reason is not Reason.STOPPED
        if decision.rule is not None:
            assert self._table is not None
            default = decision.rule == DEFAULT_RULE
            self._packets[DEFAULT_TITLE if default else self._table.rules[decision.rule].title, taken] += 1
        return taken

    def _require_open(self) -> None:
        if self._closed:
            raise ClusterError("filter-closed", "The packet filter is closed.")
