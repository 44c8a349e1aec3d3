"""The described frames in ``described/``: the twin, the C core and the program in the kernel answer alike.

Each file says why, from what table the filter decides (``given``, as arguments of ``tests.packets.tables.table``), and
what becomes of one frame after the other. In between, ``load`` brings another table (``owner``: all buckets of every
rule to that host; ``dirty``, ``cut``: of all; other words as in ``given``), and ``wait_ms`` lets time pass, which the
kernel's test run cannot: there the story ends.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from clussvc.nlb.filter.binding import NativeFilter, XdpFilter
from clussvc.nlb.filter_table import FilterTable, Reason, RuleBuckets, Verdict
from clussvc.nlb.ownership import Flows, decide
from tests.packets.described import answer_of, frame_of
from tests.packets.tables import table

STORIES = sorted((Path(__file__).parent / "described").glob("*.yaml"))


def table_of(words: dict[str, Any]) -> FilterTable:
    """The table that ``given`` and ``load`` describe."""
    words = dict(words)
    rules = words.pop("rules", [])
    owner, dirty, cut = words.pop("owner", None), words.pop("dirty", False), words.pop("cut", False)
    for name in ("vips", "dedicated"):
        if name in words:
            words[name] = tuple(ip_address(each) for each in words[name])
    made = table(*rules, **words)
    every = frozenset(range(made.buckets))

    def changed(shares: RuleBuckets) -> RuleBuckets:
        owners = shares.owners if owner is None else (owner,) * made.buckets
        return RuleBuckets(owners=owners, dirty=every if dirty else frozenset(), cut=cut)

    return replace(made, rule_buckets=tuple(map(changed, made.rule_buckets)), default=changed(made.default))


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The story and its steps."""
    story = yaml.safe_load(path.read_text())
    assert set(story) == {"why", "given", "then"}, path
    return story, story["then"]


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_the_twin_and_the_core_answer_as_described(path: Path, rewrite: bool) -> None:
    story, steps = read(path)
    given = story["given"]
    now_ms = 0
    current = table_of(given)
    core, flows = NativeFilter(current), Flows()
    answers: list[str] = []
    for step in steps:
        ((word, value),) = step.items()
        if word == "load":
            current = table_of({**given, **value})
            core.load(current)
        elif word == "wait_ms":
            now_ms += value
        else:
            frame = frame_of(word)
            answer = answer_of(decide(current, flows, frame, now_ms))
            assert answer == answer_of(core.decide(frame, now_ms)), word
            answers.append(answer)
            if not rewrite:
                assert value == answer, word
    if rewrite:
        _write(path, answers)


def _write(path: Path, answers: list[str]) -> None:
    """Put the answers behind the frames, and leave every other line as it is."""
    lines, left = [], list(answers)
    for line in path.read_text().splitlines():
        if line.startswith('  - "'):
            line = line[: line.rindex('":') + 2] + " " + left.pop(0)
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_the_kernel_answers_as_described(path: Path, kernel_filter: XdpFilter) -> None:
    story, steps = read(path)
    given = story["given"]
    kernel_filter.load(table_of(given))
    counted = dict.fromkeys(Reason, 0)
    for step in steps:
        ((word, value),) = step.items()
        if word == "load":
            kernel_filter.load(table_of({**given, **value}))
        elif word == "wait_ms":
            break
        elif len(frame_of(word)) >= 14:
            through, _, _ = kernel_filter.test_run(frame_of(word))
            verdict, _, reason = value.partition(";")[0].partition(" ")
            counted[Reason(reason)] += 1
            assert through is (Verdict(verdict) is not Verdict.DROP), word
            assert counted == kernel_filter.counters(), word
