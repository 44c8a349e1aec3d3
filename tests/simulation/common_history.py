"""The one history of a simulated cluster, and the state machine that each node's log drives.

Whoever is the first to apply an entry says what stands at that index; all others must agree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clussvc import codec
from clussvc.events import Committed, ConfigInstalled
from clussvc.global_update.apply import Applied, apply, founded
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.reports import Report
from tests.simulation.machine import Machine
from tests.simulation.referee import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

RECOMPUTED_EVERY = 16
"""Applying is pure, so one computation serves all nodes; every so often it is done anew and compared."""
_INDEX = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What stands at one index, and what it meant, as the first node to apply it found."""

    command: bytes
    before: Config | None
    proposal: Proposal
    applied: Applied


class SimState:
    """The state machine of one node. It differs from ReplicatedState only in sharing the work with the other nodes."""

    def __init__(
        self,
        history: CommonHistory,
        machine: Machine,
        *,
        of_log: int = 0,
        index: int = 0,
        config: Config | None = None,
    ) -> None:
        """``of_log``: the generation of the quorum whose log this is; ``index`` and ``config``: what a log that keeps
        no state of its own begins with."""
        self._log = history
        self._machine = machine
        self._generation = machine.generation
        self._of_log = of_log
        self._config = config
        self._index = index

    @property
    def highest_node(self) -> int:
        """See StateMachine."""
        return self._config.next_node_id - 1 if self._config is not None else 0

    @property
    def retired(self) -> bool:
        """See StateMachine."""
        return self._config is not None and self._config.quorum.generation > self._of_log

    def apply(self, index: int, command: bytes) -> bytes:
        """See StateMachine."""
        if self.retired:
            return _INDEX.pack(index)
        if index != self._index + 1:
            raise Violation("one log", f"n{self._machine.id} applies entry {index} after {self._index}")
        self._index = index
        entry = self._log.entry(self._machine, index, command, self._config)
        self._config = entry.applied.config if founded(entry.applied.config) else None
        if self._config is not None:
            self._tell(
                Committed(
                    index=index,
                    proposal=entry.proposal,
                    config=entry.applied.config,
                    refusal=entry.applied.refusal,
                    records=entry.applied.records,
                )
            )
        return _INDEX.pack(index)

    def snapshot(self) -> bytes:
        """See StateMachine."""
        return codec.encode_config(self._config) if self._config is not None else b""

    def restore(self, index: int, image: bytes) -> None:
        """See StateMachine."""
        self._index = index
        decoded = codec.decode_config(image) if image else None
        known = self._log.config_at(index)
        if decoded != known:
            raise Violation("equal state", f"n{self._machine.id} restores another state of index {index} than applied")
        self._config = known
        if self._config is not None:
            self._tell(ConfigInstalled(index=index, config=self._config))

    def _tell(self, event: Committed | ConfigInstalled) -> None:
        if self._machine.generation == self._generation:
            self._log.world.post(self._machine, event)


class CommonHistory:
    """See the module; the part of a log that is the same for every kind of quorum, and goes on when it changes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._entries: list[_Entry] = []
        self.entries: list[tuple[Proposal, Config | None, Report | None]] = []

    def entry(self, machine: Machine, index: int, command: bytes, before: Config | None) -> _Entry:
        """What stands at this index; the first node to come there says it, the others must agree."""
        if index <= len(self._entries):
            entry = self._entries[index - 1]
            if entry.command != command:
                raise Violation(
                    "one log",
                    f"n{machine.id} applies {codec.decode_proposal(command).request} at index {index}, where"
                    f" {entry.proposal.request} was applied before",
                )
            if before is not entry.before and before != entry.before:
                raise Violation("equal state", f"n{machine.id} has another state than others before index {index}")
            if (index + machine.id) % RECOMPUTED_EVERY == 0:
                again = apply(before, codec.decode_proposal(command))
                if again != entry.applied:
                    raise Violation("equal state", f"n{machine.id} comes to another state at index {index}")
            return entry
        proposal = codec.decode_proposal(command)
        entry = _Entry(command, before, proposal, apply(before, proposal))
        self._entries.append(entry)
        self.entries.append((proposal, entry.applied.config, entry.applied.refusal))
        self.world.referee.committed(index, proposal, before, entry.applied.config)
        return entry

    def config_at(self, index: int) -> Config | None:
        """The configuration after an entry that somebody has applied."""
        config = self._entries[index - 1].applied.config if index else None
        return config if founded(config) else None
