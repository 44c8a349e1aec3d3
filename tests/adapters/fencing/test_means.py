"""The means by which a machine ends itself, with a file in the place of the kernel's trigger."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from clussvc.fencing.means import Means, parse_means, problem_of, use_means
from clussvc.model.errors import ClusterError


def test_entries() -> None:
    found = parse_means(["sysrq", "watchdog", "none", "", "/usr/sbin/off --now"])
    assert [means.kind for means in found] == ["sysrq", "watchdog", "command"]
    assert found[2].command == "/usr/sbin/off --now"
    assert parse_means(["watchdog:/dev/watchdog1:4"])[0] == Means(
        kind="watchdog", device=Path("/dev/watchdog1"), timeout_s=4
    )


@pytest.mark.parametrize("entry", ["watchdog:dev", "watchdog:/dev/w:0", "watchdog:/dev/w:ten", "watchdog:/dev/w:99999"])
def test_bad_entries_are_named(entry: str) -> None:
    with pytest.raises(ClusterError, match="self_fence") as caught:
        parse_means([entry])
    assert caught.value.code == "self-fence-bad"


def test_two_watchdogs_are_refused() -> None:
    with pytest.raises(ClusterError, match="two watchdogs"):
        parse_means(["watchdog", "watchdog:/dev/watchdog1"])


def test_what_cannot_work_is_seen_before(tmp_path: Path) -> None:
    trigger = tmp_path / "trigger"
    (sysrq,) = parse_means(["sysrq"])
    assert "cannot be written" in problem_of(sysrq, sysrq=trigger)
    trigger.touch()
    assert problem_of(sysrq, sysrq=trigger) == ""
    assert "no program" in problem_of(Means(kind="command", command="a-program-that-nobody-has --now"))
    assert "will not understand" in problem_of(Means(kind="command", command='echo "'))
    assert problem_of(Means(kind="command", command="/bin/true; exec /bin/false")) == ""


def test_all_means_are_used_and_the_watchdog_first(tmp_path: Path) -> None:
    """Whoever fails does not keep the others from being tried."""
    trigger, mark = tmp_path / "trigger", tmp_path / "mark"
    trigger.touch()
    order: list[str] = []
    means = parse_means(["sysrq", f"touch {mark}", "watchdog"])
    use_means(
        means,
        expire_watchdog=lambda: order.append("expired"),
        told=lambda one, what: order.append(f"{one}: {what}"),
        sysrq=trigger,
        pause_s=0.01,
    )
    assert trigger.read_text() == "b"
    assert order[0] == "expired"
    assert order[2] == "sysrq: it was used"
    end_s = time.monotonic() + 30
    while not mark.exists():
        assert time.monotonic() < end_s
        time.sleep(0.01)

    order.clear()
    use_means(
        parse_means(["sysrq"]),
        expire_watchdog=lambda: None,
        told=lambda one, what: order.append(f"{one}: {what}"),
        sysrq=tmp_path / "nothing",
        pause_s=0.01,
    )
    assert order == ["sysrq: it failed: No such file or directory"]
