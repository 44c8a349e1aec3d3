"""One formed cluster for each module, put in order before each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import GROUP, Cluster
from tests.cluster.lab import Lab, missing_programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here makes namespaces; say why nothing is run where they cannot be made."""
    here = Path(__file__).parent
    missing = missing_programs()
    why = "network namespaces need root (or a user namespace)" if os.geteuid() else f"not found: {', '.join(missing)}"
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.namespaces)
            item.add_marker(pytest.mark.skipif(os.geteuid() != 0 or bool(missing), reason=why))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder on the disk whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Cluster]:
    """Three nodes with the group of the web server on NODE1."""
    with Lab(folder=folder) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback")
        cluster.create_web_group(failback=True)
        yield cluster


@pytest.fixture
def cluster(formed: Cluster) -> Iterator[Cluster]:
    """All nodes up, the group online on NODE1; afterwards no two of its applications have run at once."""
    put_in_order(formed)
    yield formed
    formed.check_worker()


def put_in_order(cluster: Cluster) -> None:
    """Undo whatever the last test did to the machines, and bring the group home."""
    first, *_ = cluster.lab.nodes
    for node in cluster.lab.nodes:
        if not node.up:
            node.boot()
        node.heal()
        node.thaw()
        if node.service() is None:
            node.start_service()
    cluster.wait_all_up()
    if cluster.owner(on=first) is not first:
        cluster.command("group", GROUP, f"/moveto:{first.name}", "/wait:60")
    for node in cluster.lab.nodes:
        cluster.wait_group(first.name, on=node)
