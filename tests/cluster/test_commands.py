"""The commands of the quickstart, word by word, with the default places of every file.

Each machine gets a ``/etc`` and a ``/var/lib`` of its own for this; nothing of the real ones is touched.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.lab import Lab, Node, environment, eventually

pytestmark = pytest.mark.namespaces


def program(node: Node, *words: str) -> str:
    """What ``cluster`` prints on that machine, where nothing tells it which socket to use."""
    done = node.run(sys.executable, "-m", "cluster_cli.main", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start(node: Node, said: Path) -> None:
    """``clussvc run``, with no option at all."""
    with said.open("ab") as log:
        node._services.append(
            subprocess.Popen(
                node.enter(sys.executable, "-m", "clussvc.service.main", "run"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment(),
            )
        )


def up(node: Node, *names: str) -> bool:
    """Whether ``cluster node`` answers there and shows these as Up."""
    done = node.run(sys.executable, "-m", "cluster_cli.main", "node")
    return done.returncode == 0 and all(re.search(rf"^{name} +\d+ Up$", done.stdout, re.MULTILINE) for name in names)


def test_creating_and_joining_with_the_cluster_command(folder: Path) -> None:
    """Create, start, make a token, join, start: two nodes that are up, and a second creation that is refused.

    Where there is no shared disk a new cluster has a local quorum, which nobody can join before it is changed.
    """
    with Lab(folder=folder, nodes=2) as lab:
        for node in lab.nodes:
            done = node.run("sh", "-c", "mount -t tmpfs tmpfs /etc && mount -t tmpfs tmpfs /var/lib")
            assert done.returncode == 0, done.stderr
        one, two = lab.nodes
        program(one, "QUICK", "/create", f"/ipaddr:{one.address}", "/node:NODE1")
        start(one, folder / "one")
        eventually(lambda: up(one, "NODE1"), "NODE1 is up", timeout_s=60)
        token = re.search(r"clj1-\S+", program(one, "/addnodes:NODE2"))
        assert token is not None
        words = (f"/join:{token.group()}", "/node:NODE2", f"/ipaddr:{two.address}")
        refused = two.run(sys.executable, "-m", "cluster_cli.main", *words)
        assert refused.returncode != 0
        assert "cluster /quorum:majority" in refused.stdout + refused.stderr
        assert "Local Quorum" in program(one, "/quorum")
        assert "Majority Node Set" in program(one, "/quorum:majority")
        program(two, f"/join:{token.group()}", "/node:NODE2", f"/ipaddr:{two.address}")
        start(two, folder / "two")
        eventually(lambda: up(one, "NODE1", "NODE2") and up(two, "NODE1", "NODE2"), "both are up", timeout_s=60)
        again = one.run(sys.executable, "-m", "cluster_cli.main", "OTHER", "/create", f"/ipaddr:{one.address}")

        assert again.returncode != 0
        assert "QUICK" in again.stdout + again.stderr
