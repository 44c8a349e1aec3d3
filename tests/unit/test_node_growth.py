"""The core's work for one event does not grow with the number of resources: counted in calls, not in time."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from benchmarks.core import bring_online, created


def calls_per_event(resources: int) -> float:
    """Calls of functions, those of the interpreter included, while this many resources come online."""
    groups = resources * 3 // 10
    bench = created(groups, resources)
    bench.handled = count = 0

    def note(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1

    sys.setprofile(note)
    try:
        bring_online(bench, groups, resources)
    finally:
        sys.setprofile(None)
    return count / bench.handled


def test_work_for_an_event_does_not_grow_with_the_resources() -> None:
    """Four times as many resources make four times as many events, each of which costs the same."""
    few, many = calls_per_event(100), calls_per_event(400)

    assert many < 1.25 * few, f"{few:.0f} calls for each event with 100 resources, {many:.0f} with 400"
