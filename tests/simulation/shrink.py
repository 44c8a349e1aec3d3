"""Make a failing story short: leave out steps as long as the same rule is still broken."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.story import Ending, tell

ATTEMPTS_MAX = 150


def shrink(ending: Ending) -> Ending:
    """A story with fewer steps that breaks the same rule; the same story if none is found."""
    best = ending
    attempts = 0
    size = max(1, len(best.plot.steps) // 2)
    while size >= 1 and attempts < ATTEMPTS_MAX:
        start = 0
        while start < len(best.plot.steps) and attempts < ATTEMPTS_MAX:
            steps = best.plot.steps[:start] + best.plot.steps[start + size :]
            attempts += 1
            shorter = tell(replace(best.plot, steps=steps))
            if shorter.rule == ending.rule:
                best = shorter
            else:
                start += size
        size //= 2
    return best
