"""Which of the filter's counters counts the packets of which rule.

The filter has more counters than a table has rules, and its table says for each rule which one is meant. So a rule
keeps its counter, and with it what was counted, when others come before it or go, when its owners, its mode or its
affinity change, and when it is away for a while, as all rules are while the host is stopped. A rule is what its title
says: address, ports and protocol. One with other ports is another rule, and begins at nothing.

A counter never runs backwards, and nobody sets it to nothing: other processors may be counting. A new rule gets one
that no rule of the loaded table has, so that nothing counts there, and what it says at that moment is deducted from
then on. The one that was away for longest gives its counter up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

COUNTERS: Final = 128
"""In the filter: twice the rules of a table, the default rule included, and more."""
DEFAULT_TITLE: Final = "Default"
"""Names the default rule, which has no ports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """Packets of one rule that this host has decided."""

    accepted: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    counter: int
    before: Packets
    """What it had counted when the rule got it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCounters:
    """The counters of the rules of one table, and of those that are away."""

    lanes: tuple[tuple[str, _Lane], ...] = ()
    """By the rule's title. Those of the loaded table are last; before them, whoever went first is first."""
    loaded: frozenset[str] = frozenset()

    def with_rules(self, titles: Sequence[str], counted: Sequence[Packets]) -> RuleCounters:
        """For a table with these rules, the default rule included, each named once, at most half of the counters.

        ``counted``: what each counter says now; the table that is loaded must still be the one before.
        """
        assert len(set(titles)) == len(titles) <= COUNTERS // 2, "rules are named once each"
        assert len(counted) == COUNTERS, "every counter says something"
        lanes = dict(self.lanes)
        free = [number for number in range(COUNTERS) if number not in {lane.counter for lane in lanes.values()}]
        kept = {title: lanes.pop(title) for title in titles if title in lanes}
        # Those of the loaded table may be counting until the next one is there.
        away = [title for title in lanes if title not in self.loaded]
        for title in titles:
            if title not in kept:
                number = free.pop(0) if free else lanes.pop(away.pop(0)).counter
                kept[title] = _Lane(counter=number, before=counted[number])
        return RuleCounters(lanes=(*lanes.items(), *kept.items()), loaded=frozenset(titles))

    def counter_of(self, title: str) -> int:
        """The counter of a rule of the table."""
        return dict(self.lanes)[title].counter

    def packets(self, counted: Sequence[Packets]) -> Mapping[str, Packets]:
        """What was counted for each rule of the table, by its title, out of what each counter says."""
        return {
            title: Packets(
                accepted=counted[lane.counter].accepted - lane.before.accepted,
                dropped=counted[lane.counter].dropped - lane.before.dropped,
            )
            for title, lane in self.lanes
            if title in self.loaded
        }
