"""What came of it: the verdicts together, and the table that is printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.torture.appends import Appended
from tests.torture.history import Kind, Operation, Outcome
from tests.torture.overlaps import Witnessed
from tests.torture.registers import Verdict, describe

SHOWN_MAX = 10
"""Examples shown of one sort of finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that is known at the end."""

    seconds: float
    operations: Sequence[Operation]
    faults: Mapping[str, int]
    registers: Sequence[Verdict]
    appended: Appended
    witnessed: Witnessed
    recoveries_s: Sequence[float]
    ends: Mapping[str, int]
    """How often services ended, by what explains it."""
    findings: Sequence[str]
    """Whatever else went wrong."""

    @property
    def acknowledged(self) -> int:
        """Operations that a client may rely on; refusals are none."""
        return sum(one.outcome is Outcome.ACKNOWLEDGED for one in self.operations)

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        kept = all(verdict.linearizable for verdict in self.registers) and self.appended.good
        return kept and not self.witnessed.overlaps and not self.findings


def show(console: Console, result: Result) -> None:
    """The tables, then everything that went wrong."""
    console.print(_operations(result))
    console.print(_faults(result))
    console.print(_promises(result))
    for line in problems(result):
        console.print(line, style="bold red", markup=False, soft_wrap=True)


def _operations(result: Result) -> Table:
    table = Table(title=f"Operations in {result.seconds:.0f} s")
    table.add_column("operation")
    for outcome in Outcome:
        table.add_column(outcome.value, justify="right")
    counts = Counter((one.kind, one.outcome) for one in result.operations)
    for kind in Kind:
        table.add_row(kind.value, *(str(counts[kind, outcome]) for outcome in Outcome))
    sums = Counter(one.outcome for one in result.operations)
    table.add_section()
    table.add_row("all", *(str(sums[outcome]) for outcome in Outcome))
    table.caption = f"{result.acknowledged / result.seconds:.0f} acknowledged a second"
    return table


def _faults(result: Result) -> Table:
    table = Table(title="Faults")
    table.add_column("fault")
    table.add_column("times", justify="right")
    for kind, count in sorted(result.faults.items()):
        table.add_row(kind, str(count))
    table.add_section()
    table.add_row("all", str(sum(result.faults.values())))
    if result.recoveries_s:
        slowest = max(result.recoveries_s)
        table.caption = f"left alone {len(result.recoveries_s)} times; whole again after {slowest:.1f} s at most"
    return table


def _promises(result: Result) -> Table:
    table = Table(title="Promises")
    table.add_column("promise")
    table.add_column("tried", justify="right")
    table.add_column("broken", justify="right")
    broken = sum(verdict.linearizable is False for verdict in result.registers)
    undecided = sum(verdict.linearizable is None for verdict in result.registers)
    appended, witnessed = result.appended, result.witnessed
    rows = (
        ("acknowledged appends lost", appended.acknowledged, len(appended.lost)),
        ("appends there twice", appended.acknowledged, len(appended.twice)),
        ("appends there that were not made", appended.acknowledged, len(appended.ghosts)),
        ("registers not linearizable", len(result.registers), broken),
        ("registers not decided", len(result.registers), undecided),
        ("resources online twice (instances overlapping)", witnessed.instances, len(witnessed.overlaps)),
        ("services that ended of themselves, and other findings", sum(result.ends.values()), len(result.findings)),
    )
    for what, tried, count in rows:
        table.add_row(what, str(tried), str(count), style="bold red" if count else "")
    ends = ", ".join(f"{count} {why}" for why, count in sorted(result.ends.items())) or "none"
    table.caption = f"services ended: {ends}; {witnessed.waking} lines of resources that woke with their machine"
    return table


def problems(result: Result) -> Iterable[str]:
    """Everything that went wrong, in sentences."""
    bad = [verdict for verdict in result.registers if not verdict.linearizable]
    for verdict in bad[:SHOWN_MAX]:
        yield f"register {verdict.key}: {verdict.because}"
        for one in verdict.around:
            yield f"    {one.number}: {one.begun_ns}..{one.ended_ns} {describe(one)}"
    entries = {"lost": result.appended.lost, "twice": result.appended.twice, "ghosts": result.appended.ghosts}
    for what, names in entries.items():
        if names:
            yield f"appends {what}: {', '.join(names[:SHOWN_MAX])}"
    for overlap in result.witnessed.overlaps[:SHOWN_MAX]:
        yield (
            f"{overlap.name} was online as {overlap.first} and as {overlap.second} at once, for {overlap.for_ms} ms,"
            f" from line {overlap.at_line}"
        )
    yield from result.findings
