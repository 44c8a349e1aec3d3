"""The network between the machines: datagrams that get lost, doubled, late and out of order, and streams that break.

Every direction of every link can be cut by itself; where machines are on several networks, so can it on each of them.
A stream keeps its order; while one of its directions is cut its frames are held back, until the link is mended or both
ends give the connection up.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from clussvc.model.ids import NodeId
from tests.simulation.scheduler import Scheduler

HELD_FRAMES_MAX = 2_000


@dataclass(slots=True)
class _Stream:
    """The connection of two machines, in both directions."""

    up: bool = False
    number: int = 0
    """Raised whenever it breaks; what was under way on an earlier one never arrives."""
    free_us: dict[tuple[NodeId, NodeId], int] = field(default_factory=dict)
    held: list[tuple[NodeId, NodeId, bytes]] = field(default_factory=list)


class Network:
    """All links. ``deliver`` takes what arrives on streams, ``changed`` hears of their ups and downs."""

    def __init__(
        self,
        scheduler: Scheduler,
        rng: random.Random,
        *,
        deliver: Callable[[NodeId, NodeId, bytes], None],
        changed: Callable[[NodeId, NodeId, bool], None],
        alive: Callable[[NodeId], bool],
        networks: int = 1,
        internal: Callable[[NodeId], tuple[int, ...] | None] = lambda _: None,
    ) -> None:
        self._scheduler = scheduler
        self._rng = rng
        self._deliver = deliver
        self._changed = changed
        self._alive = alive
        self._streams: dict[frozenset[NodeId], _Stream] = {}
        self.cut: set[tuple[NodeId, NodeId]] = set()
        """Directions in which nothing passes."""
        self.networks = networks
        self._internal = internal
        self.cut_on: set[tuple[NodeId, NodeId, int]] = set()
        """Directions in which nothing passes on one network; streams take another one."""
        self.cut_streams: set[tuple[NodeId, NodeId]] = set()
        """Directions in which streams carry nothing while datagrams pass, as after a cut whose end TCP has not tried
        yet."""
        self.slow_ms: dict[tuple[NodeId, NodeId], float] = {}
        """By how much every datagram in a direction is late; they keep their order."""
        self.loss = 0.0
        self.duplication = 0.0
        self.late = 0.0
        """The share of datagrams that take up to ``late_ms``, so that later ones overtake them."""
        self.late_ms = 400.0
        self.delay_ms = (0.1, 2.0)

    def passes(self, sender: NodeId, receiver: NodeId, network: int) -> bool:
        """Whether anything can get from one to the other now on that network."""
        return (sender, receiver) not in self.cut and (sender, receiver, network) not in self.cut_on

    def flows(self, sender: NodeId, receiver: NodeId) -> bool:
        """Whether a stream carries anything from one to the other now."""
        internal = self._internal(sender)
        used = range(self.networks) if internal is None else internal
        passes = any(self.passes(sender, receiver, network) for network in used)
        return passes and (sender, receiver) not in self.cut_streams

    def both_ways(self, one: NodeId, other: NodeId) -> bool:
        """Whether they can talk to each other, in more than datagrams."""
        return self.flows(one, other) and self.flows(other, one)

    # --- datagrams --------------------------------------------------------------------------------------------------

    def datagram(self, sender: NodeId, receiver: NodeId, arrive: Callable[[], None], network: int = 0) -> None:
        """Send one on a network; it may arrive not at all, once or twice, and late."""
        rng = self._rng
        for _ in range(2 if self.duplication and rng.random() < self.duplication else 1):
            if not self.passes(sender, receiver, network) or (self.loss and rng.random() < self.loss):
                continue
            low, high = self.delay_ms
            delay_ms = low + (high - low) * rng.random() + self.slow_ms.get((sender, receiver), 0.0)
            if self.late and rng.random() < self.late:
                delay_ms += self.late_ms * rng.random()
            self._scheduler.later(delay_ms, arrive)

    # --- streams ----------------------------------------------------------------------------------------------------

    def send(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """Queue a frame; without a connection it is dropped."""
        stream = self._streams.get(frozenset((sender, receiver)))
        if stream is None or not stream.up:
            return
        if not self.flows(sender, receiver):
            if len(stream.held) < HELD_FRAMES_MAX:
                stream.held.append((sender, receiver, frame))
            return
        self._transmit(stream, sender, receiver, frame)

    def _transmit(self, stream: _Stream, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        low, high = self.delay_ms
        delay_ms = low + (high - low) * self._rng.random()
        if self.loss and self._rng.random() < self.loss:
            # A lost segment is sent again; the stream waits for it.
            delay_ms += 40 + 160 * self._rng.random()
        arrival_us = max(self._scheduler.now_us + int(delay_ms * 1000), stream.free_us.get((sender, receiver), 0))
        stream.free_us[sender, receiver] = arrival_us
        number = stream.number

        def arrive() -> None:
            if stream.number == number:
                self._deliver(sender, receiver, frame)

        self._scheduler.later((arrival_us - self._scheduler.now_us) / 1000, arrive)

    def connect_soon(self, one: NodeId, other: NodeId) -> None:
        """Both ends try to connect; it works if both live and can talk at that moment."""
        stream = self._streams.setdefault(frozenset((one, other)), _Stream())

        def connect() -> None:
            if stream.up or not self.both_ways(one, other) or not (self._alive(one) and self._alive(other)):
                return
            stream.up = True
            self._changed(one, other, True)
            self._changed(other, one, True)

        self._scheduler.later(5 + 200 * self._rng.random(), connect)

    def break_streams(self, node: NodeId, others: Iterable[NodeId], *, silently: bool) -> None:
        """The process at one end is gone. Its kernel resets the connections at once, unless it is gone as well."""
        for other in others:
            stream = self._streams.get(frozenset((node, other)))
            if stream is not None and stream.up:
                self._break(stream, node, other, delay_ms=300 + 2_000 * self._rng.random() if silently else 1.0)

    def _break(self, stream: _Stream, gone: NodeId, other: NodeId, *, delay_ms: float) -> None:
        stream.up = False
        stream.number += 1
        stream.held.clear()
        stream.free_us.clear()
        self._changed(gone, other, False)
        number = stream.number

        def notice() -> None:
            if stream.number == number and not stream.up:
                self._changed(other, gone, False)

        self._scheduler.later(delay_ms, notice)

    def links_changed(self) -> None:
        """Something was cut or mended: held frames go on, broken connections are given up or made anew."""
        for pair, stream in sorted(self._streams.items(), key=lambda item: sorted(item[0])):
            one, other = sorted(pair)
            held, stream.held = stream.held, []
            for sender, receiver, frame in held:
                self.send(sender, receiver, frame)
            if self.both_ways(one, other):
                if not stream.up:
                    self.connect_soon(one, other)
            elif stream.up:
                self._give_up_later(stream, one, other)

    def _give_up_later(self, stream: _Stream, one: NodeId, other: NodeId) -> None:
        number = stream.number

        def give_up() -> None:
            if stream.number == number and stream.up and not self.both_ways(one, other):
                self._break(stream, one, other, delay_ms=500 * self._rng.random())

        self._scheduler.later(300 + 2_700 * self._rng.random(), give_up)
