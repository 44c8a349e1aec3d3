"""Was a resource ever online twice? Judged by the lines that its instances wrote into one file.

A kill -9 leaves no last line, so an instance is known to have been online from its first line to its last one, and two
instances of one resource overlap when a line of one stands between two lines of the other. The order of the file
counts, not the times in it.

**Machines that were stopped.** When a whole machine stands still (a virtual machine that is paused) its resources stand
still with it. The others take over meanwhile, as they must. When the machine goes on, everything on it does at the same
moment, and a resource may write a line before the deadman of its monitor has ended it: no cluster can prevent that
without a fence that the paused machine cannot pass, and none is set up here. So lines that an instance writes within
WAKING_NS after a pause of its machine that the harness made itself are counted apart and judged not to overlap. What an
instance writes later than that is judged like any other line, and so is everything on machines that were not stopped,
however slow they are. When the service alone was stopped, its monitors run, and there is no excuse at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WAKING_NS: Final = 2_000_000_000
"""How long after its machine's pause an instance may still write; several times the release budget of ``lan``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A time in which a whole machine stood still, in CLOCK_BOOTTIME nanoseconds."""

    node: str
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a witness."""

    name: str
    node: str
    instance: str
    word: str
    at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two instances of one resource that were online at once; places are numbers of lines in the file."""

    name: str
    first: str
    second: str
    at_line: int
    for_ms: int
    """Between the first line of the later one and the last line of the one that ended first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witnessed:
    """What the file says."""

    lines: int
    instances: int
    waking: int
    """Lines that were written just after a pause of the machine and while another instance may have been online."""
    overlaps: tuple[Overlap, ...]


@dataclass(slots=True)
class _Life:
    """What was seen of one instance so far."""

    instance: str
    first_place: int
    first_ns: int
    last_place: int
    last_ns: int


def read_lines(path: Path) -> list[Line]:
    """All lines of the file. Raises ValueError for a line that no witness writes."""
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1) if path.exists() else ():
        words = text.split()
        if len(words) != 5:
            raise ValueError(f"{path}, line {number}: {text!r} was not written in one piece")
        name, node, instance, word, at_ns = words
        lines.append(Line(name=name, node=node, instance=instance, word=word, at_ns=int(at_ns)))
    return lines


def check_overlaps(lines: Sequence[Line], pauses: Iterable[Pause] = ()) -> Witnessed:
    """The verdict on all resources of the file."""
    by_node: dict[str, list[Pause]] = {}
    for pause in pauses:
        by_node.setdefault(pause.node, []).append(pause)
    lives: dict[str, dict[str, _Life]] = {}
    waking = 0
    for place, line in enumerate(lines, 1):
        known = lives.setdefault(line.name, {})
        life = known.get(line.instance)
        if life is None:
            known[line.instance] = _Life(line.instance, place, line.at_ns, place, line.at_ns)
        elif any(pause.from_ns >= life.first_ns and _wakes(pause, line) for pause in by_node.get(line.node, ())):
            waking += 1
        else:
            life.last_place, life.last_ns = place, line.at_ns
    found = [overlap for name, known in lives.items() for overlap in _overlaps_of(name, list(known.values()))]
    count = sum(map(len, lives.values()))
    return Witnessed(lines=len(lines), instances=count, waking=waking, overlaps=tuple(found))


def _wakes(pause: Pause, line: Line) -> bool:
    return pause.from_ns <= line.at_ns <= pause.to_ns + WAKING_NS


def _overlaps_of(name: str, lives: list[_Life]) -> list[Overlap]:
    """In order of their first lines, each against the longest one before it."""
    found = []
    longest: _Life | None = None
    for life in sorted(lives, key=lambda each: each.first_place):
        if longest is not None and life.first_place < longest.last_place:
            until_ns = min(life.last_ns, longest.last_ns)
            found.append(
                Overlap(
                    name=name,
                    first=longest.instance,
                    second=life.instance,
                    at_line=life.first_place,
                    for_ms=max(0, until_ns - life.first_ns) // 1_000_000,
                )
            )
        if longest is None or life.last_place > longest.last_place:
            longest = life
    return found
