"""The quorum disk of a simulated cluster, with everything that a real one may do to those who use it.

A write takes effect at some moment until it is answered. One that is answered with an error, or whose process or
machine is gone, may take effect then, later, or never, and one of several sectors in parts. With reservations the disk
refuses what comes of a machine whose key was preempted, also late. Without, it takes everything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from clussvc.model.ids import NodeId
from clussvc.quorum.disk_layout import SECTOR_BYTES, Superblock, decode_superblock, encode_superblock
from clussvc.quorum.disk_messages import (
    Clear,
    DiskFailed,
    DiskRequest,
    Preempt,
    Read,
    Register,
    Release,
    Reserve,
    Write,
)
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

BLANK = bytes(SECTOR_BYTES)
TIMEOUT_MS = 300.0
"""After so long without an answer a device is called lost; what it was asked for may be done all the same."""
LATE_MS = 4_000.0
"""A write that was under way may take effect so much later."""

Answer = Callable[[bytes | DiskFailed], None]


class SharedDisk:
    """Sectors, registrants, the reservation, and faults."""

    def __init__(self, world: World, block: Superblock, *, reservations: bool) -> None:
        self._world = world
        self._reservations = reservations
        self._sectors: dict[int, bytes] = {0: encode_superblock(block)}
        self._registered: dict[NodeId, int] = {}
        self._holder: NodeId | None = None
        self.cut_off: set[NodeId] = set()
        """Machines that do not reach it."""
        self.stalled_until_us: dict[NodeId, int] = {}
        """Until when it answers nobody on that machine."""
        self.failing = 0.0
        """The share of requests that fail for no reason."""

    @property
    def left(self) -> bool:
        """Whether it says that the cluster has left it."""
        block = decode_superblock(self._sectors[0])
        return block is not None and block.left

    def make_good(self) -> None:
        """End every fault."""
        self.cut_off.clear()
        self.stalled_until_us.clear()
        self.failing = 0.0

    def ask(self, machine: Machine, request: DiskRequest, answer: Answer) -> None:
        """Perform it, in time or never; ``answer`` is called once, whatever has become of who asked."""
        world = self._world
        rng = world.random
        delay_ms = 0.05 + 0.6 * rng.random() + (5.0 * rng.random() if rng.random() < 0.1 else 0.0)
        stall_ms = max(0.0, (self.stalled_until_us.get(machine.id, 0) - world.scheduler.now_us) / 1000)
        lost = DiskFailed(code="device-lost", detail="no answer")
        if machine.id in self.cut_off or (self.failing and rng.random() < self.failing):
            wait_ms = TIMEOUT_MS * rng.random() if machine.id in self.cut_off else delay_ms
            world.scheduler.later(wait_ms, lambda: answer(lost))
            if rng.random() < 0.3:
                world.scheduler.later(LATE_MS * rng.random(), lambda: self._partly(machine, request))
            return
        if stall_ms > TIMEOUT_MS:
            # The asker gives up first; the request is done when the disk goes on.
            world.scheduler.later(TIMEOUT_MS, lambda: answer(lost))
            world.scheduler.later(stall_ms + delay_ms, lambda: self._too_late(machine.id, request))
            return
        power = machine.power

        def perform() -> None:
            if machine.power != power and isinstance(request, Write):
                # The machine is off: what has arrived of the write takes effect, now or when the fabric has it.
                if rng.random() < 0.5:
                    self._partly(machine, request)
                else:
                    world.scheduler.later(LATE_MS * rng.random(), lambda: self._partly(machine, request))
                return
            answer(self._perform(machine.id, request))

        world.scheduler.later(stall_ms + delay_ms, perform)

    def _too_late(self, node: NodeId, request: DiskRequest) -> None:
        self._perform(node, request)

    def _partly(self, machine: Machine, request: DiskRequest) -> None:
        """A late or torn write: some of its sectors."""
        if not isinstance(request, Write):
            return
        rng = self._world.random
        for number in range(len(request.data) // SECTOR_BYTES):
            if rng.random() < 0.7 and self._accepts(machine.id):
                self._put(request, number)

    def _accepts(self, node: NodeId) -> bool:
        return not self._reservations or self._holder is None or node in self._registered

    def _put(self, request: Write, number: int) -> None:
        self._sectors[request.sector + number] = request.data[number * SECTOR_BYTES : (number + 1) * SECTOR_BYTES]

    def _perform(self, node: NodeId, request: DiskRequest) -> bytes | DiskFailed:
        match request:
            case Read():
                return b"".join(
                    self._sectors.get(at, BLANK) for at in range(request.sector, request.sector + request.count)
                )
            case Write():
                if not self._accepts(node):
                    return DiskFailed(code="reservation-conflict", detail="refused")
                for number in range(len(request.data) // SECTOR_BYTES):
                    self._put(request, number)
                return b""
            case _:
                return self._reserve(node, request)

    def _reserve(self, node: NodeId, request: Register | Reserve | Preempt | Release | Clear) -> bytes | DiskFailed:
        """SPC-4: a reservation is of a registrant, and goes with its registration."""
        if isinstance(request, Register):
            self._registered[node] = request.key
            return b""
        conflict = DiskFailed(code="reservation-conflict", detail="refused")
        if self._registered.get(node) != request.key:
            return conflict
        match request:
            case Reserve():
                if self._holder not in (None, node):
                    return conflict
                self._holder = node
            case Preempt():
                victims = [each for each, key in self._registered.items() if key == request.victim and each != node]
                if not victims:
                    return conflict
                for each in victims:
                    del self._registered[each]
                if self._holder in victims:
                    self._holder = node
            case Release():
                if self._holder == node:
                    self._holder = None
            case Clear():
                self._registered.clear()
                self._holder = None
        return b""
