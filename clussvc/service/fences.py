"""All fencing of one node, wired: its own means, its watchdog, and the agents that it runs against others."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import structlog

from clussvc.events import FenceEnded
from clussvc.fencing import agents
from clussvc.fencing.means import Means, parse_means, problem_of, use_means
from clussvc.fencing.watchdog import Clock, Watchdog, WatchdogFeeder
from clussvc.membership.fencing import FenceOrder, parameters_of
from clussvc.model.config import FenceDevice
from clussvc.model.errors import ClusterError
from clussvc.model.settings import Timing

AGAIN_S = 5.0
"""A node that still lives so long after it used its means may use them again."""

log = structlog.get_logger()


class Fences:
    """What can switch machines off, for the assembly."""

    def __init__(self, entries: tuple[str, ...], clock: Clock, ended: Callable[[FenceEnded], None]) -> None:
        """``entries`` is ``self_fence`` of the node file; ``ended`` takes the results of orders, from any thread.

        Raises ClusterError(``self-fence-bad``).
        """
        self._means = parse_means(entries)
        self._clock = clock
        self._ended = ended
        self._feeder: WatchdogFeeder | None = None
        self._lock = threading.Lock()
        self._used_s: float | None = None

    def open(self, timing: Timing) -> tuple[str, ...]:
        """Look at every means and arm the watchdog; what does not work, and what that means, in sentences."""
        found = []
        for means in self._means:
            problem = self._arm(means, timing) if means.kind == "watchdog" else problem_of(means)
            if problem:
                found.append(f"self-fencing by {means} is not to be relied on: {problem}")
            else:
                log.info("fence.ready", means=str(means))
        if not self._means:
            log.info("fence.none", because="self_fence in the node file names no means")
        return tuple(found)

    def _arm(self, means: Means, timing: Timing) -> str:
        try:
            watchdog = Watchdog(means.device, timeout_s=means.timeout_s)
        except ClusterError as error:
            return error.message
        self._feeder = WatchdogFeeder(watchdog, self._clock)
        self._feeder.start()
        log.info("fence.watchdog", device=str(means.device), identity=watchdog.identity, timeout_s=watchdog.timeout_s)
        if not watchdog.outlives_its_feeder:
            return (
                "its driver stops it when the service dies (it knows no magic close), so it guards only against a"
                " service that hangs; use another watchdog, or load the driver with nowayout=1"
            )
        beyond_ms = timing.lease_ms + watchdog.timeout_s * 1_000 - timing.silence_ms()
        if beyond_ms <= 0:
            return ""
        return (
            f"it goes off {watchdog.timeout_s} s after the service and its monitors stood still, and the others take"
            f" over after {timing.silence_ms()} ms of silence, so resources may run twice for up to {beyond_ms} ms;"
            " give the watchdog a shorter time-out, choose a slower timing profile, or use fence devices with"
            " FencingRequired=1"
        )

    def vouch(self, until_ms: int) -> None:
        """The core lives."""
        if self._feeder is not None:
            self._feeder.vouch(until_ms)

    def stop(self, *, disarm: bool) -> None:
        """The service ends; ``disarm`` if nothing is left that could run."""
        if self._feeder is not None:
            self._feeder.stop(disarm=disarm)
            self._feeder = None

    # --- this machine -----------------------------------------------------------------------------------------------

    def fence_self(self, why: str) -> None:
        """End this machine by all means; without one, say loudly that nothing was done. Returns at once."""
        if not self._means:
            log.critical("fence.not-configured", because=why, remedy="set self_fence in the node file")
            return
        with self._lock:
            now_s = time.monotonic()
            if self._used_s is not None and now_s - self._used_s < AGAIN_S:
                return
            self._used_s = now_s
        log.critical("fence.self", because=why, means=[str(means) for means in self._means])
        threading.Thread(target=self._use, name="fence-self", daemon=True).start()

    def _use(self) -> None:
        use_means(
            self._means,
            expire_watchdog=lambda: self._feeder.expire() if self._feeder is not None else None,
            told=lambda means, outcome: log.critical("fence.used", means=means, outcome=outcome),
        )

    # --- other machines ---------------------------------------------------------------------------------------------

    def fence_node(self, order: FenceOrder, node: str) -> None:
        """Carry out an order; its result is told later."""
        log.warning("fence.begins", node=node, device=order.device.name, because=order.why)
        threading.Thread(target=self._carry_out, args=(order, node), name=f"fence-{node}", daemon=True).start()

    def _carry_out(self, order: FenceOrder, node: str) -> None:
        try:
            self.switch_off(order.device, node)
        except ClusterError as error:
            log.error("fence.failed", node=node, device=order.device.name, because=error.message)
            self._ended(FenceEnded(ticket=order.ticket, off=False, detail=error.message))
            return
        log.warning("fence.done", node=node, device=order.device.name)
        self._ended(FenceEnded(ticket=order.ticket, off=True, detail=""))
        self.switch_on_again(order.device, node)

    @staticmethod
    def switch_off(device: FenceDevice, node: str, *, timeout_ms: int | None = None) -> None:
        """Have the device do it, and see that it was done. Raises ClusterError."""
        agents.switch_off(
            device.agent,
            parameters_of(device, "off", node),
            timeout_ms=timeout_ms or device.timeout_ms,
            verify=device.verify,
        )

    @staticmethod
    def switch_on_again(device: FenceDevice, node: str) -> None:
        """If the device is to reboot the node; it was off, so what follows has nothing to do with safety."""
        if device.action != "reboot":
            return
        with contextlib.suppress(ClusterError):
            agents.switch_on(device.agent, parameters_of(device, "on", node), timeout_ms=device.timeout_ms)
            log.info("fence.on", node=node, device=device.name)
            return
        log.error("fence.not-on", node=node, device=device.name, remedy="switch the machine on by hand")

    @staticmethod
    def ask(device: FenceDevice, node: str, *, timeout_ms: int) -> None:
        """See whether the device answers. Raises ClusterError."""
        agents.ask_monitor(device.agent, parameters_of(device, "monitor", node), timeout_ms=timeout_ms)
