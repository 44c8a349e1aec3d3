"""A team of bi-directional affinity on one node: host processes on several adapters that decide alike, or not at all.

Both sides of a firewall see the same connections, each from its own end. The packets of either direction must reach
the same machine, so all members of the team decide by the buckets of one of them, the *master*; those that face the
servers change source and destination first (``ReverseHash``). The other members keep their own heartbeats and
membership, but not their own buckets.

A machine that lacks one of its members must take nothing on the others: what it accepted on one side would come back on
the other to nobody. So the members ask each other over their sockets, many times a second, and each takes part in its
cluster only while all others of the team are able to. Who has not answered for a moment is not able.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from clussvc.model.ids import HostId, ResourceId
from clussvc.nlb.messages import Passing, SlotTable, Table
from clussvc.nlb.port_rule import parse_rules
from clussvc.resources.types.balancer_socket import LINE_BYTES_MAX, connect_at_once

ASK_INTERVAL_MS: Final = 50
SILENCE_MS: Final = 400
"""A member that has not answered for so long is not able; it answers within a millisecond or so."""


class Partner:
    """Another member on this node, as this one sees it. For the loop of the host process: nothing here waits."""

    def __init__(
        self,
        resource: ResourceId,
        *,
        master: bool,
        folder: Path,
        selector: selectors.BaseSelector,
        news: Callable[[], None],
    ) -> None:
        """``news`` is called when an answer says something else than the one before."""
        self.resource = resource
        self.master = master
        self._folder = folder
        self._selector = selector
        self._news = news
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._asked_ms = 0
        self._heard_ms = -SILENCE_MS
        self._said: Mapping[str, Any] = {}

    def tick(self, now: int) -> int:
        """Ask if it is time; when the next time is."""
        if now < self._asked_ms + ASK_INTERVAL_MS:
            return self._asked_ms + ASK_INTERVAL_MS
        self._asked_ms = now
        if self._socket is None:
            self._socket = connect_at_once(self._folder, self.resource)
            if self._socket is None:
                return now + ASK_INTERVAL_MS
            self._buffer = b""
            self._selector.register(self._socket, selectors.EVENT_READ, self._read)
        try:
            self._socket.send(b'{"ask": "team"}\n')
        except BlockingIOError:
            # It does not read, and will be silent for too long.
            return now + ASK_INTERVAL_MS
        except OSError:
            self.close()
        return now + ASK_INTERVAL_MS

    def able(self, now: int) -> bool:
        """Whether it would take part if all others did."""
        return now - self._heard_ms < SILENCE_MS and bool(self._said.get("able"))

    def table(self, now: int) -> Table | None:
        """What it decides by, if it is able to and told."""
        told = self._said.get("table")
        return read_table(told) if told and self.able(now) else None

    def close(self) -> None:
        """Ask no more."""
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._buffer += chunk
        if not chunk or len(self._buffer) > LINE_BYTES_MAX:
            self.close()
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                self._heard_ms = self._asked_ms
                if isinstance(said, dict) and said != self._said:
                    self._said = said
                    self._news()


def write_table(table: Table | None) -> dict[str, Any] | None:
    """A table in plain values."""
    if table is None:
        return None
    return {
        "number": table.number,
        "generation": table.generation,
        "active": table.active,
        "host": int(table.host),
        "rules": [rule.text() for rule in table.rules],
        "slots": [
            {"owners": list(map(int, slot.owners)), "dirty": hex(slot.dirty), "passing": slot.passing.value}
            for slot in table.slots
        ],
    }


def read_table(told: Mapping[str, Any]) -> Table:
    """The inverse. What a member says of the connections that it keeps is its own affair."""
    rules, _ = parse_rules([str(rule) for rule in told["rules"]])
    return Table(
        number=int(told["number"]),
        generation=int(told["generation"]),
        active=bool(told["active"]),
        host=HostId(int(told["host"])),
        rules=rules,
        slots=tuple(
            SlotTable(
                owners=tuple(map(int, slot["owners"])), dirty=int(slot["dirty"], 16), passing=Passing(slot["passing"])
            )
            for slot in told["slots"]
        ),
    )
