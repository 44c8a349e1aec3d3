"""The simulated disk itself: what a loss of power may take, and what it may not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from clussvc.global_update.raft.raft_node import JOURNAL_NAME
from tests.simulation.disk import Disk


class _Case:
    """A disk with a durable journal of ten bytes, and a clock."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.now_us = 0
        self.disk = Disk(folder, random.Random(seed), lambda: self.now_us)
        self.path = folder / JOURNAL_NAME
        self.disk.replace(self.path, b"0123456789")
        self.file = self.disk.append_to(self.path, 10)

    def sync_in_a_stall(self, until_us: int) -> None:
        self.disk.stalled_until_us = until_us
        self.file.write(b"abcdefghij")
        self.file.sync()

    def left(self) -> bytes:
        self.disk.lose_power()
        return self.disk.read(self.path) or b""


@pytest.mark.parametrize("seed", range(10))
def test_a_sync_that_one_stall_held_up_is_not_undone_by_the_next_stall(tmp_path: Path, seed: int) -> None:
    """It was done between the two, and others were told so."""
    case = _Case(tmp_path, seed)
    case.sync_in_a_stall(100)
    case.now_us = 150
    case.disk.stalled_until_us = 300
    case.now_us = 200
    assert case.left() == b"0123456789abcdefghij"


def test_a_sync_that_is_held_up_is_not_done(tmp_path: Path) -> None:
    """Nobody was told that it is; some of it may be there, and all that was before is."""
    left = set()
    for seed in range(40):
        case = _Case(tmp_path / str(seed), seed)
        case.sync_in_a_stall(100)
        case.now_us = 99
        left.add(case.left())
    assert all(content.startswith(b"0123456789") for content in left)
    assert b"0123456789abcdefghij"[:10] in {content.rstrip(b"\0") for content in left}
    assert len(left) > 5


def test_what_is_opened_is_durable(tmp_path: Path) -> None:
    """As the port of the log says: whoever wrote it, it counts from then on."""
    case = _Case(tmp_path)
    case.file.write(b"abcdefghij")
    case.disk.append_to(case.path, 20)
    assert case.left() == b"0123456789abcdefghij"
