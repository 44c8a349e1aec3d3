"""The resource monitors' processes of this node by name: started, commanded and ended without anybody waiting.

A monitor that is told to end may take its time, and the thread that owns the core must not. So each end has a thread of
its own, which ends by itself: after ``stop_ms`` the process is killed. Two processes never share one monitor's folder:
a start that comes while the former one still ends is carried out when that has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

import structlog

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import MonitorCommand, MonitorDied

log = structlog.get_logger()


class Host(Protocol):
    """What is used of a MonitorHost."""

    @property
    def pid(self) -> int | None: ...

    def start(self) -> None: ...

    def send(self, command: MonitorCommand) -> None: ...

    def stop(self, timeout_ms: int) -> bool: ...


class MonitorHosts:
    """All monitors of one node. Its methods may be called from one thread only, that of the core."""

    def __init__(
        self, make: Callable[[str], Host], on_death: Callable[[str, MonitorDied], None], *, stop_ms: int
    ) -> None:
        """``on_death`` is told of a monitor that could not be started, from any thread."""
        self._make = make
        self._on_death = on_death
        self._stop_ms = stop_ms
        self._hosts: dict[str, Host] = {}
        self._lock = threading.Lock()
        self._ending: set[str] = set()
        self._start_after: set[str] = set()
        self._closed = False

    def start(self, name: str) -> None:
        """Start the monitor, or have it started once the former one of that name has ended; never waits."""
        if name not in self._hosts:
            self._hosts[name] = self._make(name)
        with self._lock:
            ending = name in self._ending
            if ending:
                self._start_after.add(name)
        if ending:
            return
        if self._hosts[name].pid is None:
            self._start(name)
        else:
            # It was started anew while the news of its predecessor's death was on its way; begin once more.
            self._end_soon(name, then_start=True)

    def send(self, name: str, command: MonitorCommand) -> None:
        """Hand a command to the monitor, if there is one."""
        host = self._hosts.get(name)
        if host is not None:
            host.send(command)

    def stop(self, name: str) -> None:
        """Have the monitor terminate what it runs and end; returns at once."""
        if name in self._hosts:
            self._end_soon(name, then_start=False)

    def close(self) -> None:
        """End all of them and wait for that; nothing is started any more."""
        with self._lock:
            self._closed = True
            self._start_after.clear()
        for host in self._hosts.values():
            host.stop(self._stop_ms)

    def pid(self, name: str) -> int | None:
        """The process of that monitor, if it runs."""
        host = self._hosts.get(name)
        return host.pid if host is not None else None

    def _start(self, name: str) -> None:
        try:
            self._hosts[name].start()
        except ClusterError as error:
            self._on_death(name, MonitorDied(why=error.message))

    def _end_soon(self, name: str, *, then_start: bool) -> None:
        with self._lock:
            (self._start_after.add if then_start else self._start_after.discard)(name)
            if name in self._ending:
                return
            self._ending.add(name)
        threading.Thread(target=self._end, args=(name,), name=f"monitor-end-{name}", daemon=True).start()

    def _end(self, name: str) -> None:
        if not self._hosts[name].stop(self._stop_ms):
            log.warning("monitor.end-forced", monitor=name, because=f"it did not end by itself in {self._stop_ms} ms")
        with self._lock:
            self._ending.discard(name)
            again = name in self._start_after and not self._closed
            self._start_after.discard(name)
            if again:
                self._start(name)
