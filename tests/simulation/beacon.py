"""The heartbeats of one simulated service: the compiled core of the product, driven by the virtual clock.

In the service a native thread drives it. It goes on while the core's thread is stalled, and stands still with the
process; so does this.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from clussvc.actions import Vouch
from clussvc.comms.heartbeats import PHASES, as_heard
from clussvc.membership.heartbeat import Heard
from clussvc.model.ids import NodeId
from clussvc.native import Heartbeats
from tests.simulation.scheduler import MachineClock, Scheduler

DATAGRAMS_WAITING_MAX = 200
"""What a socket keeps for a process that does not read."""

KEY = b"one for everyone"


class Beacon:
    """Of one boot of a service."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        clock: MachineClock,
        scheduler: Scheduler,
        awake: Callable[[], bool],
        send: Callable[[bytes], None],
        news: Callable[[], None],
        heard: Callable[[NodeId, int, int], None],
    ) -> None:
        """``awake``: whether the process runs; ``send`` to everybody; ``news`` wakes the core; ``heard`` tells the
        referee of a heartbeat that was accepted: sender, boot, and when it was sent."""
        self._native = Heartbeats(node, boot, KEY)
        self._clock = clock
        self._scheduler = scheduler
        self._awake = awake
        self._send_to_all = send
        self._news = news
        self._heard = heard
        self._interval_ms = 100
        self._next_ms = 0
        self._timer = 0
        self._ended = False
        self._watched: tuple[object, ...] = ()
        self._waiting: deque[tuple[bytes, NodeId, int, int | None, int]] = deque()

    def end(self) -> None:
        """The process is gone."""
        self._ended = True
        self._waiting.clear()

    def set_peers(self, peers: tuple[NodeId, ...]) -> None:
        """Who the others are."""
        self._native.set_peers(peers, self._clock.now_ms)

    def vouch(self, action: Vouch) -> None:
        """The core lives."""
        if self._watched != (action.watched, action.watch_ms):
            self._watched = action.watched, action.watch_ms
            self._native.watch(action.watched, action.watch_ms)
        self._native.vouch(
            until_ms=action.until_ms,
            grants_until_ms=action.grants_until_ms,
            interval_ms=action.interval_ms,
            phase=PHASES.index(action.phase),
            attempt=action.attempt,
            incarnation=action.incarnation,
            index=action.index,
            voters_version=action.voters_version,
            at_once=action.at_once,
            probe=action.probe,
        )
        self._interval_ms = action.interval_ms
        if action.at_once or self._next_ms == 0 or self._next_ms > self._clock.now_ms + action.interval_ms:
            self._send()

    def compose_will(self, incarnation: int) -> bytes:
        """What may be sent when this boot is over."""
        return self._native.compose_will(incarnation)

    def take(self) -> tuple[Heard, ...]:
        """What was heard since the last call."""
        return tuple([as_heard(entry) for entry in self._native.take()])

    def heard_on(self, networks: int, lost_ms: int) -> frozenset[tuple[NodeId, int]]:
        """Who was heard where within that time, as the watcher of the service has it."""
        return frozenset(
            (NodeId(node), network)
            for node, ages in self._native.ages(self._clock.now_ms).items()
            for network, age_ms in enumerate(ages[:networks])
            if 0 <= age_ms <= lost_ms
        )

    # --- sending ----------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        now_ms = self._clock.now_ms
        self._next_ms = now_ms + self._interval_ms
        data = self._native.compose(now_ms)
        if data:
            self._send_to_all(data)
        self._timer += 1
        number = self._timer
        self._scheduler.later(
            self._clock.until_ms(self._next_ms) + 0.001, lambda: self._due() if number == self._timer else None
        )

    def _due(self) -> None:
        if not self._ended and self._awake():
            self._send()

    # --- receiving --------------------------------------------------------------------------------------------------

    def arrive(self, data: bytes, sender: NodeId, boot: int, sent_us: int | None, network: int = 0) -> None:
        """A datagram reaches the socket on that network; a will was not sent by the service, and has no time."""
        if self._ended:
            return
        if not self._awake():
            if len(self._waiting) < DATAGRAMS_WAITING_MAX:
                self._waiting.append((data, sender, boot, sent_us, network))
            return
        outcome, news, answer = self._native.receive(data, self._clock.now_ms, network)
        if outcome == "received" and sent_us is not None:
            self._heard(sender, boot, sent_us)
        if answer:
            self._send()
        if news:
            self._news()

    def goes_on(self) -> None:
        """The process runs again: what has waited is read, and the timer rings; nothing yet if the machine stands."""
        while self._waiting and self._awake():
            self.arrive(*self._waiting.popleft())
        if not self._ended and self._awake():
            self._send()
