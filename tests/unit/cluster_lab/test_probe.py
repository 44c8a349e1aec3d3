"""The arithmetic of what the client saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cluster.probe import Attempt, longest_gap, read_attempts, settled


def attempt(ended_s: float, node: str | None = "NODE1", *, took_s: float = 0.004) -> Attempt:
    """An attempt that ended then, answered by the node or by nobody."""
    answer = f"{node} WEB Server" if node else None
    return Attempt(begun_s=ended_s - took_s, ended_s=ended_s, answer=answer, error="" if answer else "timeout")


def every_10_ms(since_s: float, until_s: float, node: str | None = "NODE1") -> list[Attempt]:
    """Attempts that end every 10 ms in the half-open interval."""
    return [attempt(since_s + n / 100, node) for n in range(round((until_s - since_s) * 100))]


def test_an_outage_reaches_from_the_last_answer_before_to_the_first_one_after() -> None:
    """Failed attempts in between do not count, however many there are."""
    seen = every_10_ms(0, 1) + every_10_ms(1, 2.2, None) + every_10_ms(2.2, 3, "NODE2")

    gap = longest_gap(seen, since_s=1.0)

    assert gap is not None
    assert gap.length_s == pytest.approx(1.21)
    assert (gap.before.node, gap.after.node) == ("NODE1", "NODE2")


def test_a_longer_gap_that_was_over_before_the_fault_does_not_count() -> None:
    """Formation, for instance, is one long gap."""
    seen = [attempt(0), *every_10_ms(50, 51), *every_10_ms(51.5, 52)]

    gap = longest_gap(seen, since_s=50.9)

    assert gap is not None
    assert gap.length_s == pytest.approx(0.51)


def test_a_gap_that_begins_after_the_fault_counts() -> None:
    """A planned move serves on for a while after the command."""
    seen = every_10_ms(0, 1.5) + every_10_ms(1.9, 3, "NODE2")

    gap = longest_gap(seen, since_s=1.0)

    assert gap is not None
    assert gap.length_s == pytest.approx(0.41)


def test_a_later_gap_can_be_left_out() -> None:
    """What the node's return costs is asked for by itself."""
    seen = every_10_ms(0, 1) + every_10_ms(1.2, 5) + every_10_ms(9, 10)

    first = longest_gap(seen, since_s=1.0, until_s=4.0)

    assert first is not None
    assert first.length_s == pytest.approx(0.21)


def test_an_outage_that_never_ends_has_no_length() -> None:
    """The caller must not take it for a short one."""
    assert longest_gap(every_10_ms(0, 1) + every_10_ms(1, 2, None), since_s=1.0) is None
    assert longest_gap([], since_s=1.0) is None


def test_attempts_count_in_the_order_in_which_they_ended() -> None:
    """They overlap, so the file has them in no other order of use."""
    slow = attempt(1.2, took_s=0.24)
    seen = [slow, *every_10_ms(0, 1), *every_10_ms(1.3, 2)]

    gap = longest_gap(seen, since_s=0.995)

    assert gap is not None
    assert gap.before == attempt(0.99)
    assert gap.after == slow


@given(ends=st.lists(st.integers(0, 10_000), min_size=2, unique=True), fault=st.integers(0, 10_000))
def test_no_answer_lies_within_the_longest_gap(ends: list[int], fault: int) -> None:
    """And it is at least as long as any other that ends after the fault."""
    seen = [attempt(float(end)) for end in ends]

    gap = longest_gap(seen, since_s=fault)

    after = [end for end in sorted(ends)[1:] if end > fault]
    if gap is None:
        assert not after
    else:
        assert not [end for end in ends if gap.before.ended_s < end < gap.after.ended_s]
        before = [max(other for other in ends if other < end) for end in after]
        assert gap.length_s == max(end - other for end, other in zip(after, before, strict=True))


def test_settled_needs_answers_to_attempts_begun_after_the_fault() -> None:
    """An answer that was on its way when the fault came says nothing."""
    assert settled(every_10_ms(2, 3), since_s=1.9, answers=50)
    assert not settled(every_10_ms(2, 3), since_s=2.7, answers=50)
    assert not settled([*every_10_ms(2, 3), attempt(3.0, None)], since_s=1.9, answers=50)
    assert not settled(every_10_ms(2, 2.1), since_s=1.9, answers=50)


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    """The client writes while the lab reads."""
    path = tmp_path / "probe.jsonl"
    line = json.dumps({"begun_s": 1.0, "ended_s": 1.5, "answer": "NODE1 x", "error": ""})
    path.write_text(f"{line}\n{line[:20]}")

    assert [Attempt(begun_s=1.0, ended_s=1.5, answer="NODE1 x", error="")] == read_attempts(path)
    assert [] == read_attempts(tmp_path / "none")
