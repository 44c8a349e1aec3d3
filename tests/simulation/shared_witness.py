"""The share of a witness in the simulator: a register for each version of the voters, written once, and its faults.

A share may be out of reach of a machine, slow, stuck, or fail. What a machine asked for may take effect although it was
told that it did not, and long after; the register is written once all the same, which is what the share promises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clussvc.membership.witness_watch import AskWitness, WitnessAnswered
from clussvc.model.ids import NodeId
from clussvc.quorum.stand_in import Decision
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from tests.simulation.world import World

LATE_MS_MAX = 5_000
"""How long after its answer a request may still take effect."""


class SharedWitness:
    """One for a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.decisions: dict[int, Decision] = {}
        """What stands on the share, by the version of the voters."""
        self.cut_off: set[NodeId] = set()
        self.stalled_until_us: dict[NodeId, int] = {}
        self.failing = 0.0
        """The part of all requests that fail."""
        self.slow_ms = 0.0
        self.asked = 0

    def make_good(self) -> None:
        """End every fault."""
        self.cut_off.clear()
        self.stalled_until_us.clear()
        self.failing = self.slow_ms = 0.0

    def ask(self, machine: Machine, question: AskWitness) -> None:
        """Perform the action of a service."""
        world = self._world
        self.asked += 1
        generation = machine.generation
        rng = world.random
        wait_ms = rng.uniform(0.4, 6.0) + self.slow_ms * rng.random()
        stalled_us = self.stalled_until_us.get(machine.id, -1) - world.scheduler.now_us
        wait_ms += max(0.0, stalled_us / 1000)
        fails = machine.id in self.cut_off or rng.random() < self.failing
        fate = rng.random()

        def answer() -> None:
            if fails:
                # The request may be on its way all the same.
                if fate < 0.5:
                    world.scheduler.later(LATE_MS_MAX * fate, lambda: self._write(question))
                reply = WitnessAnswered(version=question.version, decision=None, trouble="the share does not answer")
            else:
                self._write(question)
                reply = WitnessAnswered(version=question.version, decision=self.decisions.get(question.version))
            if machine.generation == generation:
                world.post(machine, reply)

        world.scheduler.later(wait_ms, answer)

    def _write(self, question: AskWitness) -> None:
        """Once; what comes later finds it written."""
        if question.drop is not None and question.version not in self.decisions:
            self.decisions[question.version] = Decision(
                version=question.version, voters=question.voters, dropped=question.drop
            )
            self._world.tell(None, f"the witness drops the vote of n{question.drop} in version {question.version}")
