"""One simulated machine: clocks, disk, resource monitors, and the service, which may run, stand still or be gone."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from clussvc.events import Event, InterfacesSeen
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, ResourceId
from clussvc.node import NodeCore
from tests.simulation.beacon import Beacon
from tests.simulation.disk import Disk
from tests.simulation.monitors import SimMonitor
from tests.simulation.scheduler import MachineClock


@dataclass
class Machine:
    """One machine. ``generation`` is raised whenever the service process ends: what an earlier one waited for never
    arrives; ``power`` whenever the machine does."""

    id: NodeId
    addresses: tuple[str, ...]
    clock: MachineClock
    disk: Disk
    boots: int = 0
    generation: int = 0
    power: int = 0
    core: NodeCore | None = None
    frozen: bool = False
    """The service process is stopped by a signal."""
    suspended: bool = False
    """The whole machine stands still, as a virtual machine that is paused; its clock runs on."""
    stalled_until_us: int = -1
    """The core's thread gets no time until then; the other threads of the service do."""
    excused_until_us: int = -1
    """Something beyond the assumptions has just ended; its monitors have until then to notice."""
    monitors: dict[str, SimMonitor] = field(default_factory=dict)
    occupied: set[str] = field(default_factory=set)
    """The monitors of which something may run, as marked in their folders."""
    will: tuple[int, bytes] | None = None
    """What the last monitor sends when the service is dead, and of which incarnation."""
    beacon: Beacon | None = None
    """The heartbeats of its service; they go on while the core is stalled."""
    links_down: set[int] = field(default_factory=set)
    """The networks of which its cable is pulled."""
    seen: InterfacesSeen | None = None
    """What the watcher of interfaces told last."""
    internal: tuple[int, ...] | None = None
    """On which networks its service sends heartbeats; None: on all."""
    inbox: deque[Event] = field(default_factory=deque)
    draining: bool = False
    stored: list[tuple[int, Config]] = field(default_factory=list)
    """What the configuration database holds, newest last; a crash may lose the newest."""
    wiped: bool = False
    """Its data were removed; it is no member any more."""
    tick_us: int = -1
    tick_of: int = -1
    """When the next tick comes, and for which generation; -1: none is scheduled."""
    read: Config | None = None
    """What the service has read from the log, also after its end."""

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def name(self) -> str:
        """n1, n2, ..."""
        return f"n{self.id}"

    @property
    def alive(self) -> bool:
        """Whether the service process exists; it may stand still."""
        return self.core is not None

    @property
    def awake(self) -> bool:
        """Whether the service process runs."""
        return self.core is not None and not self.frozen and not self.suspended

    # --- what the referee sees --------------------------------------------------------------------------------------

    @property
    def config(self) -> Config | None:
        """What its service has read from the log."""
        return self.core.config if self.core is not None else self.read

    @property
    def excused(self) -> bool:
        """Whether something beyond the assumptions happens to it, or has just ended."""
        return self.suspended or self.unwatched or self.excused_until_us > self.clock.world_us

    @property
    def unwatched(self) -> bool:
        """Whether resources run while neither the service does, nor their monitor.

        Only a watchdog of the hardware ends that, and the simulated machines have none.
        """
        deciding = self.awake and self.stalled_until_us <= self.clock.world_us
        return not deciding and any(
            monitor.running and (monitor.frozen or monitor.dead) for monitor in self.monitors.values()
        )

    @property
    def running(self) -> dict[ResourceId, int]:
        """All that runs on the machine, in whatever monitor, with its epoch."""
        return {resource: epoch for monitor in self.monitors.values() for resource, epoch in monitor.running.items()}

    def all_running(self) -> dict[ResourceId, int]:
        """See Watched."""
        return self.running

    def all_online(self) -> set[ResourceId]:
        """See Watched."""
        return {resource for monitor in self.monitors.values() for resource in monitor.online()}

    @property
    def busy(self) -> set[ResourceId]:
        """Everything with a transition under way."""
        return {resource for monitor in self.monitors.values() for resource in monitor.busy}
