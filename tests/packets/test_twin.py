"""The C core against its twin in Python, on frames of every kind; and both against the described frames."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace

from clussvc.nlb.filter.binding import NativeFilter, XdpFilter
from clussvc.nlb.filter_table import Decision, Reason, Verdict
from clussvc.nlb.ownership import Flows, decide, siphash13
from tests.packets.random_frames import Frames, random_table

SEEDS = 300
FRAMES = 200


def story(seed: int) -> tuple[NativeFilter, list[tuple[bytes, int, Decision]]]:
    """Frames, times and what the twin says of them, with a filter that has the same table."""
    chance = random.Random(seed)
    table = random_table(chance)
    flows = Flows()
    told = []
    now_ms = 0
    frames = Frames(chance)
    for _ in range(FRAMES):
        now_ms += chance.choice((0, 0, 0, 1, 10, 100, 600))
        frame = frames.next()
        told.append((frame, now_ms, decide(table, flows, frame, now_ms)))
    return NativeFilter(table), told


def test_the_core_decides_like_its_twin() -> None:
    """Every field of every decision, over stories of 200 frames whose flows open, close and run out. Every reason
    occurs."""
    reasons: Counter[Reason] = Counter()
    for seed in range(SEEDS):
        core, told = story(seed)
        for number, (frame, now_ms, expected) in enumerate(told):
            assert expected == core.decide(frame, now_ms), f"seed {seed}, frame {number}: {frame.hex()}"
            reasons[expected.reason] += 1

    assert set(Reason) == set(reasons)


def test_batches_decide_like_single_calls() -> None:
    """The same frames in one call; flows are kept there too, at one time."""
    for seed in range(20):
        chance = random.Random(seed)
        table = random_table(chance)
        source = Frames(chance)
        frames = [source.next() for _ in range(500)]
        flows = Flows()
        expected = [decide(table, flows, frame, 7) for frame in frames]

        answers = NativeFilter(table).decide_all(frames, 7)

        assert [(each.verdict, each.reason) for each in expected] == [answer[:2] for answer in answers]
        assert [each.owner or 0 for each in expected] == [answer[2] for answer in answers]
        assert [255 if each.rule is None else each.rule for each in expected] == [answer[3] for answer in answers]


def test_the_kernel_decides_like_the_twin(kernel_filter: XdpFilter) -> None:
    """The program in the kernel, by its test run: verdict, link address and counted reason of every frame. Time there
    is the kernel's, so none passes here. Frames below 14 bytes cannot be run there."""
    decided = 0
    for seed in range(1000, 1040):
        chance = random.Random(seed)
        table = random_table(chance)
        kernel_filter.load(replace(table, running=False))
        kernel_filter.load(table)
        flows = Flows()
        before = kernel_filter.counters()
        wanted: Counter[Reason] = Counter()
        frames = Frames(chance)
        for number in range(FRAMES):
            frame = frames.next()
            if len(frame) < 14:
                continue
            expected = decide(table, flows, frame, 0)
            wanted[expected.reason] += 1
            through, _, after = kernel_filter.test_run(frame)
            where = f"seed {seed}, frame {number}: {frame.hex()}"
            assert through is (expected.verdict is not Verdict.DROP), where
            assert table.own_mac is not None or not expected.rewrite
            assert after == ((table.own_mac or b"") + frame[6:] if expected.rewrite else frame), where
            decided += 1
        counted = kernel_filter.counters()
        assert wanted == Counter({reason: counted[reason] - before[reason] for reason in Reason}), f"seed {seed}"

    assert decided > 7000


def test_the_hash_is_siphash() -> None:
    """The interpreter hashes bytes by SipHash-1-3 as well; with its seed 0 the key is sixteen zeros. And with the key
    of the authors' test vectors, 00 01 .. 0f, fixed values, which other programs can compare themselves with."""
    program = "import sys; print(sys.hash_info.algorithm, *(hash(bytes(range(n))) & 2**64 - 1 for n in range(1, 40)))"
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    algorithm, *values = said.stdout.split()
    if algorithm == "siphash13":
        assert [int(value) for value in values] == [siphash13(bytes(16), bytes(range(n))) for n in range(1, 40)]

    vectors = {
        0: "dcc40f055801acab",
        4: "2883d388605775cf",
        6: "a7229fc5502b0dc5",
        16: "668b907d1add4fcc",
        18: "3ee673b49c38fc8f",
    }
    for length, expected in vectors.items():
        assert expected == siphash13(bytes(range(16)), bytes(range(length))).to_bytes(8, "little").hex()
