"""Overlaps are found by the order of lines; a pause of the machine excuses its waking, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab import eventually
from tests.torture import witness
from tests.torture.overlaps import WAKING_NS, Line, Pause, check_overlaps, read_lines

STEP_NS = 25_000_000


def lines(text: str) -> list[Line]:
    """A word ``NODE/INSTANCE`` for each line of one resource, 25 ms apart; ``+N`` lets N steps pass first."""
    made, at_ns = [], 0
    for word in text.split():
        if word.startswith("+"):
            at_ns += int(word[1:]) * STEP_NS
            continue
        node, _, instance = word.partition("/")
        at_ns += STEP_NS
        made.append(Line(name="W", node=node, instance=f"{node}-{instance}", word="alive", at_ns=at_ns))
    return made


@pytest.mark.parametrize(
    ("text", "instances"),
    [
        ("", 0),
        ("A/1 A/1 A/1", 1),
        ("A/1 A/1 B/1 B/1 A/2 A/2", 3),
        ("A/1 B/1 B/1 C/1", 3),
        ("A/1 +500 A/1 B/1", 2),
    ],
)
def test_one_after_the_other_is_right(text: str, instances: int) -> None:
    found = check_overlaps(lines(text))
    assert (instances, ()) == (found.instances, found.overlaps)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("A/1 B/1 A/1", [("A-1", "B-1")]),
        ("A/1 A/1 B/1 B/1 A/1 B/1", [("A-1", "B-1")]),
        ("A/1 A/2 A/1", [("A-1", "A-2")]),
        ("A/1 B/1 B/1 C/1 A/1", [("A-1", "B-1"), ("A-1", "C-1")]),
        ("A/1 B/1 A/1 C/1 C/1 D/1 C/1", [("A-1", "B-1"), ("C-1", "D-1")]),
        ("A/1 +500 B/1 +500 A/1", [("A-1", "B-1")]),
    ],
)
def test_a_line_between_two_of_another_one_is_an_overlap(text: str, pairs: list[tuple[str, str]]) -> None:
    """Whoever wrote it, on the same machine or another one, and however long nothing was written."""
    found = check_overlaps(lines(text))
    assert pairs == [(overlap.first, overlap.second) for overlap in found.overlaps]


def test_resources_are_judged_apart() -> None:
    both = [Line(name=name, node="A", instance=f"A-{name}", word="alive", at_ns=at) for at in (1, 2) for name in "VW"]
    assert () == check_overlaps(both).overlaps


WOKEN = "A/1 A/1 +100 B/1 B/1 +10 A/1 B/1 B/1"
PAUSE = Pause(node="A", from_ns=2 * STEP_NS + 1, to_ns=114 * STEP_NS)


def test_a_line_right_after_a_pause_of_the_machine_is_counted_apart() -> None:
    found = check_overlaps(lines(WOKEN), [PAUSE])
    assert (1, ()) == (found.waking, found.overlaps)


@pytest.mark.parametrize(
    "pause",
    [
        Pause(node="B", from_ns=PAUSE.from_ns, to_ns=PAUSE.to_ns),
        Pause(node="A", from_ns=PAUSE.from_ns, to_ns=PAUSE.to_ns - WAKING_NS - STEP_NS),
        Pause(node="A", from_ns=0, to_ns=PAUSE.to_ns),
    ],
    ids=["of another machine", "too long ago", "before the instance began"],
)
def test_nothing_else_is_an_excuse(pause: Pause) -> None:
    found = check_overlaps(lines(WOKEN), [pause])
    assert [("A-1", "B-1")] == [(overlap.first, overlap.second) for overlap in found.overlaps]


def test_an_instance_that_goes_on_after_waking_overlaps() -> None:
    steps = WAKING_NS // STEP_NS
    found = check_overlaps(lines(WOKEN + f" +{steps} A/1 B/1"), [PAUSE])
    assert 1 == len(found.overlaps)


def test_a_broken_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("W A A-1 alive 5\nW A A-1 al\n")
    with pytest.raises(ValueError, match="line 2"):
        read_lines(tmp_path / "w")


def test_the_witness_writes_what_is_read_here(tmp_path: Path) -> None:
    """Start, alive, and an end when it is asked to; nothing after a kill."""
    path = tmp_path / "w"
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = subprocess.Popen([sys.executable, "-I", "-S", witness.__file__, str(path), "W"])
        try:
            before = len(read_lines(path))
            eventually(lambda before=before: len(read_lines(path)) > before + 3, "the witness writes")  # type: ignore[misc]
        finally:
            process.send_signal(number)
            process.wait(20)
    written = read_lines(path)
    assert 2 == len({line.instance for line in written})
    assert ["start", "end"] == [line.word for line in written if line.word != "alive"][:2]
    assert "alive" == written[-1].word
    assert () == check_overlaps(written).overlaps
