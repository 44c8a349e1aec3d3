"""One formed cluster for each module, put in order before each test."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import Cluster
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
    formed.put_in_order()
    yield formed
    formed.check_worker()
