"""The host process: makes this node a host of a load-balanced cluster, and ends all of it with itself.

Started by the resource type Network Load Balancing. One thread waits for whatever comes first: a heartbeat of another
host, a neighbour that asks for the cluster, a question or facts on the Unix socket, a change of the link, the time. All
decisions are those of the convergence machine; this module carries them to segment, filter and card.

Nothing is taken before the service has told the facts (see :mod:`clussvc.service.balancers`). The order in which a host
begins keeps every moment closed: filter first, then virtual addresses, then answers to neighbours; it ends the other
way round, and the end of the process ends everything at once.

SIGTERM is the wish to leave in order: the host says goodbye, so that the others take its share at once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from clussvc.model.errors import ClusterError
from clussvc.model.ids import ResourceId
from clussvc.resources.types import rtnetlink
from clussvc.resources.types.balancer_socket import LINE_BYTES_MAX, listen, socket_name
from clussvc.service.balancer_host import Host, now_ms

CONNECTIONS_MAX: Final = 16
"""On the socket at once; the service and the monitor hold one or two each."""
GOODBYE_LIMIT_S: Final = 1.0
EVENTS_MAX: Final = 64
IDLE_S: Final = 1.0


class Balancer:
    """The loop. Everything of it runs in one thread."""

    def __init__(self, resource: ResourceId, interface: str, folder: Path) -> None:
        """Raises OSError when the socket cannot be made."""
        self._interface = interface
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._listening = listen(folder, socket_name(resource))
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._changes = rtnetlink.open_changes()
        self._selector.register(self._changes, selectors.EVENT_READ, self._link_changed)
        self._wake, self._woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, self._told_to_leave)
        self._buffers: dict[socket.socket, bytes] = {}
        self._leaving = False
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_MAX)
        self._events_seen = 0
        self._host: Host | None = None
        self._trouble = ""

    # --- the loop ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until SIGTERM; 0."""
        signal.signal(signal.SIGTERM, lambda *_: self.leave())
        while not self._leaving:
            self._turn(IDLE_S)
        self._say_goodbye()
        return 0

    def leave(self) -> None:
        """End the loop; may be called from a signal handler."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._woken, b"x")

    def _turn(self, longest_s: float) -> None:
        due_s = longest_s
        if self._host is not None:
            due_s = min(due_s, max(self._host.next_ms - now_ms(), 0) / 1000)
        for key, _ in self._selector.select(due_s):
            key.data()
        if self._host is not None:
            self._host.tick()

    def _told_to_leave(self) -> None:
        os.read(self._wake, 100)
        self._leaving = True

    def _say_goodbye(self) -> None:
        """Leave, and go on until the last farewell is sent."""
        host = self._host
        if host is None:
            return
        host.stop()
        give_up_s = time.monotonic() + GOODBYE_LIMIT_S
        while host.deadline_ms is not None and time.monotonic() < give_up_s:
            self._turn(0.01)
        host.close()

    def _link_changed(self) -> None:
        rtnetlink.drain_changes(self._changes)
        if self._host is not None:
            self._host.look_at_link()

    # --- the socket -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listening.accept()
            if len(self._buffers) >= CONNECTIONS_MAX:
                connection.close()
                return
            # Answers are short, and the other end reads them; one that does not is hung up on.
            connection.settimeout(0.2)
            self._buffers[connection] = b""
            self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: socket.socket) -> None:
        try:
            chunk = connection.recv(1 << 16)
        except TimeoutError:
            return
        except OSError:
            chunk = b""
        self._buffers[connection] += chunk
        if not chunk or len(self._buffers[connection]) > LINE_BYTES_MAX:
            self._hang_up(connection)
            return
        *lines, self._buffers[connection] = self._buffers[connection].split(b"\n")
        for line in lines:
            try:
                connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")
            except OSError:
                self._hang_up(connection)
                return

    def _hang_up(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        del self._buffers[connection]
        connection.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            question = json.loads(line)
            known = {
                "facts": self._facts,
                "health": self._health,
                "status": self._status,
                "connections": self._connections,
                "explain": self._explain,
                "team": self._team,
                "notes": self._notes,
                "drain": self._drain,
            }.get(str(question.get("ask")) if isinstance(question, dict) else "")
        except ValueError:
            known = None
        if known is None:
            return {"refused": "this is not a question that a host understands"}
        try:
            return known(question)
        except ClusterError as error:
            if known == self._facts:
                self._trouble = error.message
            return {"refused": error.message}

    def _facts(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._host is None:
            self._host = Host(self._interface, question, self._selector, self._folder, self._note)
        else:
            self._host.learn(question)
        self._trouble = ""
        return {"ok": True}

    def _health(self, question: dict[str, Any]) -> dict[str, Any]:
        if self._host is None:
            why = self._trouble or "the service has not told what the host must know"
            return {"ready": False, "waits_for": why, "trouble": why}
        # Parameters that cannot be taken over now leave the host as it is, which is no failure.
        return self._host.health() | {"parameters_trouble": self._trouble}

    def _status(self, question: dict[str, Any]) -> dict[str, Any]:
        status = self._need_host().status()
        return status | {"events": list(self._events), "parameters_trouble": self._trouble}

    def _connections(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._need_host().connections()

    def _explain(self, question: dict[str, Any]) -> dict[str, Any]:
        words = [str(question.get(name, "")) for name in ("protocol", "client", "server", "flags")]
        return self._need_host().explain(*words)

    def _drain(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._need_host().drain()

    def _notes(self, question: dict[str, Any]) -> dict[str, Any]:
        after = question.get("after")
        return {"notes": [one for one in self._events if isinstance(after, int) and one["number"] > after]}

    def _team(self, question: dict[str, Any]) -> dict[str, Any]:
        return self._need_host().team()

    def _need_host(self) -> Host:
        if self._host is None:
            raise ClusterError("no-facts", "the service has not told what the host must know", retryable=True)
        return self._host

    def _note(self, event_id: int, text: str) -> None:
        """For ``nlb display`` and the log of the resource."""
        self._events_seen += 1
        self._events.append(
            {"number": self._events_seen, "at_ms": time.time_ns() // 1_000_000, "id": event_id, "text": text}
        )
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {event_id} {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be a host until SIGTERM."""
    parser = argparse.ArgumentParser(prog="clussvc-balancer", description="Started by a resource monitor.")
    parser.add_argument("--resource", required=True)
    parser.add_argument("--interface", required=True)
    options = parser.parse_args(arguments)
    _keep_on_time()
    folder = Path(os.environ["CLUSSVC_RUN"]).parent
    return Balancer(ResourceId(options.resource), options.interface, folder).run()


def _keep_on_time() -> None:
    """Heartbeats must leave on a busy machine too. The loop needs little, so it may go first where that is allowed."""
    attempts: tuple[Callable[[], None], ...] = (
        lambda: os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1)),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
    )
    for attempt in attempts:
        with contextlib.suppress(OSError):
            attempt()
            return


if __name__ == "__main__":
    sys.exit(main())
