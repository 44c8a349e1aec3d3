"""Two nodes whose quorum is of a third-party type: the locked file of the page on writing resources."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.adapters.quorum.type_site import install_locked_file
from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import Lab, Node, children_of, eventually

TYPE_PROCESS = "clussvc.service.quorum_type_main"


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    """What only its winner can read."""
    return folder / "payroll.quorum"


@pytest.fixture(scope="module")
def formed(folder: Path, file: Path) -> Iterator[Cluster]:
    """Two nodes with the group of the web server; the type's package is installed on both."""
    install_locked_file(folder / "site")
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(folder / "site"))
    with Lab(folder=folder, nodes=2) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback", quorum=f"locked-file://{file}?SizeMB=64")
        cluster.create_web_group(failback=False)
        yield cluster
    patch.undo()


def owner_of(cluster: Cluster) -> tuple[Node, Node]:
    """Who has won the quorum, and the other one."""
    first, second = cluster.lab.nodes
    found: list[str] = []

    def known() -> bool:
        found[:] = [name for name in (cluster.coordinator(first), cluster.coordinator(second)) if name]
        return bool(found)

    eventually(known, "somebody has the quorum")
    owner = cluster.lab.named(found[0])
    return owner, second if owner is first else first


def type_process(node: Node) -> int:
    """The process of the type on that node."""
    service = node.service()
    assert service is not None
    found = [pid for pid in children_of(service) if TYPE_PROCESS.encode() in _words(pid)]
    assert len(found) == 1, found
    return found[0]


def _words(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def said_since(node: Node, before: int) -> str:
    return node.log.read_text(errors="replace")[before:]


def test_it_is_shown_as_what_it_is(cluster: Cluster) -> None:
    told = cluster.command("/quorum", on=cluster.lab[2])
    assert "locked-file" in told.splitlines()[2]
    assert "the arbitration of locked-file" in told


def test_the_one_that_is_left_goes_on(cluster: Cluster) -> None:
    """The lock goes with the machine that had it."""
    owner, other = owner_of(cluster)
    cluster.command("group", "BEFORE", "/create", on=other)
    owner.crash()
    cluster.wait_group(other.name, on=other)
    assert "BEFORE" in {group["name"] for group in cluster.ask("group", on=other)}
    cluster.command("group", "ALONE", "/create", on=other)
    owner.boot()
    owner.start_service()
    cluster.wait_all_up()
    assert "ALONE" in {group["name"] for group in cluster.ask("group", on=owner)}


def test_of_two_that_do_not_hear_each_other_the_winner_goes_on(cluster: Cluster) -> None:
    owner, other = owner_of(cluster)
    cluster.command("group", "WEB", f"/moveto:{other.name}", "/wait:60", on=owner)
    assert cluster.process(other, WORKER) is not None
    other.cut()
    cluster.wait_group(owner.name, on=owner)
    assert [] == cluster.traces(other)
    other.heal()
    cluster.wait_all_up()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["crashes", "hangs"])
def test_a_process_of_the_type_that_fails_costs_the_quorum_at_most(cluster: Cluster, how: signal.Signals) -> None:
    """It is a disk that does not answer: the owner lets go, and one of the two goes on with everything."""
    owner, other = owner_of(cluster)
    cluster.command("group", f"KEPT{how}", "/create", on=other)
    before = len(owner.log.read_text(errors="replace"))
    failed = type_process(owner)
    os.kill(failed, how)
    eventually(lambda: "owns the quorum disk no more" in said_since(owner, before), "the owner has noticed")
    cluster.wait_all_up()
    assert f"KEPT{how}" in {group["name"] for group in cluster.ask("group", on=owner_of(cluster)[0])}
    eventually(lambda: not _words(failed), "the process is gone")
    cluster.command("group", f"AFTER{how}", "/create", on=owner)


def test_the_owner_gives_up_what_the_type_says_is_lost(cluster: Cluster, file: Path) -> None:
    """Somebody takes the file away below its lock, and puts it back: nothing is lost with it."""
    owner, other = owner_of(cluster)
    cluster.command("group", "SEEN", "/create", on=other)
    before = len(owner.log.read_text(errors="replace"))
    file.rename(file.with_name("aside"))
    eventually(lambda: "this node has lost the quorum" in said_since(owner, before), "the type has said so")
    file.with_name("aside").rename(file)
    cluster.wait_all_up()
    assert "SEEN" in {group["name"] for group in cluster.ask("group", on=other)}
    cluster.command("group", "FOUND", "/create", on=other)


def test_it_is_changed_on_the_running_cluster_and_back(cluster: Cluster, file: Path) -> None:
    """To a majority, and to the same file again, which was given free; the group stays where it is."""
    first, second = cluster.lab.nodes
    owner = cluster.owner(on=first)
    worker = cluster.process(owner, WORKER)
    cluster.command("/quorum:majority", on=first)
    eventually(lambda: cluster.takes_part(first) and cluster.takes_part(second), "both act by the majority")
    cluster.command("group", "BETWEEN", "/create", on=second)
    change = ["/quorum:disk", f"/path:locked-file://{file}?SizeMB=64"]
    # Refused for as long as not every node acts by the majority.
    eventually(lambda: second.cluster(*change).returncode == 0, "the locked file is the quorum again")
    assert cluster.ask("/quorum", on=first)["type"] == "locked-file"
    owner_of(cluster)
    cluster.command("group", "BACK", "/create", on=first)
    assert cluster.process(owner, WORKER) == worker
    cluster.wait_all_up()
