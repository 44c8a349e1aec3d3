"""A cluster under test that is closed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clussvc.global_update.raft.replicator import RaftSettings
from tests.adapters.raft.world import SETTINGS, World

MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Make clusters of a size; a seed decides all chance."""
    worlds: list[World] = []

    def make(size: int, *, seed: int = 1, settings: RaftSettings = SETTINGS) -> World:
        world = World(tmp_path / f"world{len(worlds)}", size, seed=seed, settings=settings)
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        world.close()
