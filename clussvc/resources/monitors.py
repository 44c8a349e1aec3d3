"""The resource monitors of this node, as the deciding side sees them: which are ready, which owe an answer.

A monitor is *clean* when it has answered the newest TerminateEverything. A monitor that has just started is asked at
once, since an earlier one of the same name may have left processes or addresses behind; it takes no other command
before it has answered. So "all monitors are clean" proves that nothing of an earlier incarnation runs on this node,
which is what the node says when it asks to be admitted (rule R2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from clussvc.model.ids import ResourceId
from clussvc.model.monitoring import EverythingTerminated, ResourceSpec

DEFAULT_MONITOR = ""
"""The monitor of all resources that do not ask for one of their own."""

RESTARTS_AT_ONCE_MAX = 5
RESTART_PAUSE_MS = 1_000
"""After so many deaths, each soon after the start, the next start waits, so that a monitor that cannot live does not
occupy the machine."""

GOOD_LIFE_MS = 60_000
"""A monitor that has lived so long can live: the deaths before it are forgotten."""

ASK_AGAIN_MS = 1_000
"""How long to wait before resources that could not be terminated are tried again."""


@dataclass(slots=True)
class MonitorState:
    """One monitor. ``owes`` is the ticket of an unanswered TerminateEverything."""

    name: str
    started: bool = False
    started_ms: int = 0
    owes: int | None = None
    opened: dict[ResourceId, ResourceSpec] = field(default_factory=dict)
    fed_until_ms: int = -1
    deaths: int = 0
    start_at_ms: int | None = 0
    """When to start the process; None: it has been asked to start, or runs."""
    ask_again_ms: int | None = None
    died_because: str = ""
    """Set while what this monitor ran has to be treated as failed once the next one has cleaned up."""
    left: tuple[ResourceId, ...] = ()
    may_run: bool = False
    """Something was given to this monitor, or to one before it that died, and nobody has confirmed since that nothing
    of it is left. A monitor that never took a command has nothing that could make a fence necessary."""

    @property
    def ready(self) -> bool:
        """It takes commands."""
        return self.started and self.owes is None and self.ask_again_ms is None


class MonitorPool:
    """All monitors of one node; pure bookkeeping, the owner of the pool turns it into actions."""

    def __init__(self) -> None:
        self._monitors: dict[str, MonitorState] = {}
        self._ticket = 0

    def __len__(self) -> int:
        return len(self._monitors)

    def __iter__(self) -> Iterator[MonitorState]:
        return iter(self._monitors.values())

    def get(self, name: str) -> MonitorState | None:
        """The monitor of that name, if there is one."""
        return self._monitors.get(name)

    def want(self, name: str, now_ms: int) -> MonitorState:
        """The monitor of that name; made, and started at the next opportunity, if there is none."""
        if name not in self._monitors:
            self._monitors[name] = MonitorState(name=name, start_at_ms=now_ms)
        return self._monitors[name]

    def inherit(self, name: str, now_ms: int) -> None:
        """The monitor of that name is wanted, since one of an earlier life of the service may have left something."""
        self.want(name, now_ms).may_run = True

    def drop(self, name: str) -> None:
        """Forget a monitor that was stopped."""
        self._monitors.pop(name, None)

    def due_to_start(self, now_ms: int) -> list[MonitorState]:
        """Monitors whose process should be started now; they count as asked to start."""
        due = [m for m in self if m.start_at_ms is not None and now_ms >= m.start_at_ms]
        for monitor in due:
            monitor.start_at_ms = None
        return due

    def began(self, name: str, now_ms: int) -> MonitorState:
        """The process is ready; it owes an answer to the question that its caller sends now."""
        monitor = self._monitors.setdefault(name, MonitorState(name=name, start_at_ms=None))
        monitor.started, monitor.started_ms = True, now_ms
        monitor.opened.clear()
        monitor.fed_until_ms = -1
        self.ask(monitor)
        return monitor

    def died(self, name: str, why: str, now_ms: int) -> None:
        """The process is gone; another one is started, at once at first, later with a pause."""
        monitor = self._monitors.get(name)
        if monitor is None:
            return
        if monitor.started and now_ms - monitor.started_ms >= GOOD_LIFE_MS:
            monitor.deaths = 0
        monitor.started = False
        monitor.owes = monitor.ask_again_ms = None
        monitor.opened.clear()
        monitor.died_because = why
        monitor.deaths += 1
        monitor.start_at_ms = now_ms + (0 if monitor.deaths <= RESTARTS_AT_ONCE_MAX else RESTART_PAUSE_MS)

    def ask(self, monitor: MonitorState) -> int:
        """A new ticket for a TerminateEverything to this monitor."""
        self._ticket += 1
        monitor.owes = self._ticket
        monitor.ask_again_ms = None
        return self._ticket

    def answered(self, name: str, answer: EverythingTerminated, now_ms: int) -> bool:
        """Take in an answer; False if it is an old one. Resources that are left are tried again later."""
        monitor = self._monitors.get(name)
        if monitor is None or monitor.owes != answer.ticket:
            return False
        monitor.owes = None
        monitor.left = answer.left
        monitor.may_run = bool(answer.left)
        if answer.left:
            monitor.ask_again_ms = now_ms + ASK_AGAIN_MS
        return True

    @property
    def may_run(self) -> bool:
        """Something that monitors of this node started may still run; see MonitorState."""
        return any(monitor.may_run for monitor in self)

    @property
    def clean(self) -> bool:
        """Every monitor runs and has confirmed that nothing of an earlier incarnation is left."""
        return bool(self._monitors) and all(monitor.ready for monitor in self)
