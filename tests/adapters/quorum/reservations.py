"""Persistent reservations as SPC-4 describes them, for one logical unit: the model behind the fakes.

Only the type that a quorum disk uses, *Write Exclusive, Registrants Only*. A *nexus* is whoever the device takes for
one initiator. Methods answer with a SCSI status.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

GOOD, CONFLICT = 0x00, 0x18


@dataclass(slots=True)
class Reservations:
    """The state in the device."""

    keys: dict[Hashable, int] = field(default_factory=dict)
    holder: Hashable | None = None
    generation: int = 0
    preempted: list[Hashable] = field(default_factory=list)
    """Who is still to be told that it was preempted."""

    def register(self, nexus: Hashable, key: int, new: int, *, ignore: bool) -> int:
        """REGISTER, or REGISTER AND IGNORE EXISTING KEY."""
        if not ignore and key != self.keys.get(nexus, 0):
            return CONFLICT
        if new:
            self.keys[nexus] = new
        else:
            self._drop(nexus)
        self.generation += 1
        return GOOD

    def reserve(self, nexus: Hashable, key: int) -> int:
        """RESERVE."""
        if self.keys.get(nexus) != key or self.holder not in (None, nexus):
            return CONFLICT
        self.holder = nexus
        return GOOD

    def release(self, nexus: Hashable, key: int) -> int:
        """RELEASE; without effect when somebody else holds the reservation."""
        if self.keys.get(nexus) != key:
            return CONFLICT
        if self.holder == nexus:
            self.holder = None
        return GOOD

    def clear(self, nexus: Hashable, key: int) -> int:
        """CLEAR."""
        if self.keys.get(nexus) != key:
            return CONFLICT
        self.preempted += [each for each in self.keys if each != nexus]
        self.keys.clear()
        self.holder = None
        self.generation += 1
        return GOOD

    def preempt(self, nexus: Hashable, key: int, victim: int) -> int:
        """PREEMPT."""
        victims = [each for each, theirs in self.keys.items() if theirs == victim]
        if self.keys.get(nexus) != key or not victims:
            return CONFLICT
        held = self.holder in victims
        for each in victims:
            if each != nexus:
                self._drop(each)
                self.preempted.append(each)
        if held:
            self.holder = nexus
        self.generation += 1
        return GOOD

    def may_write(self, nexus: Hashable) -> bool:
        """Registrants may; while nobody holds the reservation, everybody."""
        return self.holder is None or nexus in self.keys

    @property
    def holding_key(self) -> int:
        """The key of who holds the reservation; 0: nobody does."""
        return self.keys[self.holder] if self.holder is not None else 0

    def _drop(self, nexus: Hashable) -> None:
        self.keys.pop(nexus, None)
        if self.holder == nexus:
            self.holder = None
