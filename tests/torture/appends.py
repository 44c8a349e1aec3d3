"""Was anything lost that was acknowledged? Is anything there twice, or there though the client was told that it is not?

Clients append entries, each unique, to lists; at the end the lists are read. An acknowledged entry must be in them
once, one of unknown outcome at most once, and one that was refused or failed must not be there at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.torture.history import Kind, Operation, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of the entries; each list names the entries concerned."""

    acknowledged: int
    lost: tuple[str, ...]
    """Acknowledged and not there."""
    twice: tuple[str, ...]
    """There more than once."""
    ghosts: tuple[str, ...]
    """There, though the client was told that nothing was done, or nobody sent them."""

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.twice or self.ghosts)


def entries_of(value: str | None) -> list[str]:
    """The entries of a list, as clients write them: with blanks between."""
    return (value or "").split()


def check_appends(operations: Iterable[Operation], final: Mapping[str, str | None]) -> Appended:
    """The verdict on all appends, given what each list holds at the end."""
    there = Counter(entry for value in final.values() for entry in entries_of(value))
    appends = [one for one in operations if one.kind is Kind.APPEND]
    acknowledged = [one.entry for one in appends if one.outcome is Outcome.ACKNOWLEDGED]
    possible = {one.entry for one in appends if one.outcome in (Outcome.ACKNOWLEDGED, Outcome.UNKNOWN)}
    return Appended(
        acknowledged=len(acknowledged),
        lost=tuple(entry for entry in acknowledged if not there[entry]),
        twice=tuple(entry for entry, count in there.items() if count > 1),
        ghosts=tuple(entry for entry in there if entry not in possible),
    )
