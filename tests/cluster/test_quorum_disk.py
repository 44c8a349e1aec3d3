"""Two nodes and a quorum disk: one of the two is enough, and never both.

Everything is tried on a file on shared storage, with the on-disk lease, and on a real iSCSI disk with reservations.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.quorum.arbitration import log_of
from clussvc.quorum.disk_layout import (
    DISK_BYTES_MIN,
    FIRST_SLOT_SECTOR,
    SECTOR_BYTES,
    SLOT_SECTORS,
    area_start,
    decode_slots,
    decode_superblock,
)
from tests.cluster.formation import TOKEN, WORKER, Cluster
from tests.cluster.lab import Lab, Node, eventually
from tests.cluster.storage import Storage, can_serve

FILE = "file"
ISCSI = pytest.param("iscsi", marks=pytest.mark.skipif(not can_serve(), reason="tgt is not installed"))


@pytest.fixture(scope="module", params=[FILE, ISCSI])
def disk(request: pytest.FixtureRequest) -> str:
    """What the quorum disk is."""
    return str(request.param)


@pytest.fixture(scope="module")
def lab(disk: str, folder: Path) -> Iterator[Lab]:
    with Lab(folder=folder / disk, nodes=2) as made:
        yield made


@pytest.fixture(scope="module")
def storage(disk: str, lab: Lab) -> Iterator[Storage | None]:
    """The machine with the iSCSI disk; none for a file."""
    if disk == FILE:
        yield None
        return
    made = Storage(lab, size_bytes=2 * DISK_BYTES_MIN)
    yield made
    made.close()


@pytest.fixture(scope="module")
def formed(lab: Lab, storage: Storage | None) -> Cluster:
    """Two nodes with the group of the web server on NODE1."""
    cluster = Cluster(lab)
    cluster.form("loopback", quorum=storage.place if storage else str(lab.folder / "quorum.disk"))
    cluster.create_web_group(failback=False)
    return cluster


def disk_owner(cluster: Cluster) -> tuple[Node, Node]:
    """Who owns the quorum disk, and the other one."""
    first, second = cluster.lab.nodes
    found: list[str] = []

    def known() -> bool:
        found[:] = [cluster.ask("/quorum", on=first)["coordinator"]]
        return found[0] is not None

    eventually(known, "somebody owns the quorum disk")
    owner = cluster.lab.named(found[0])
    return owner, second if owner is first else first


def stored_groups(node: Node) -> set[str]:
    """The groups in the node's own copy of the configuration."""
    with contextlib.closing(sqlite3.connect(f"file:{node.data / 'cluster.db'}?mode=ro", uri=True)) as database:
        return {name for (name,) in database.execute("select name from groups")}


def test_the_quorum_is_shown(cluster: Cluster, disk: str) -> None:
    told = cluster.ask("/quorum", on=cluster.lab[2])
    assert ("Physical Disk", disk != FILE, 4096) == (told["type"], told["reservations"], told["max_log_kb"])
    assert told["coordinator"] in ("NODE1", "NODE2")


@pytest.mark.parametrize("victim", [1, 2])
def test_the_one_that_is_left_goes_on(cluster: Cluster, victim: int) -> None:
    """Whoever dies, with the quorum disk in its hands or without: the other one has everything, and all that was
    acknowledged."""
    first, second = cluster.lab[victim], cluster.lab[3 - victim]
    cluster.command("group", f"BEFORE{victim}", "/create", on=first)
    first.crash()
    # A node that was started a moment ago waits before it writes on the disk, and may lose its lease over that.
    eventually(
        lambda: cluster.coordinator(second) == second.name and cluster.takes_part(second),
        f"{second.name} goes on alone",
    )
    cluster.wait_group(second.name, on=second)
    assert f"BEFORE{victim}" in {group["name"] for group in cluster.ask("group", on=second)}
    cluster.command("group", f"ALONE{victim}", "/create", on=second)

    first.boot()
    first.start_service()
    cluster.wait_all_up()
    assert f"ALONE{victim}" in {group["name"] for group in cluster.ask("group", on=first)}


def test_of_two_that_do_not_hear_each_other_one_goes_on(cluster: Cluster) -> None:
    """The link between them is cut, both reach the disk: its owner stays, and the other one has let go."""
    owner, other = disk_owner(cluster)
    cluster.command("group", "WEB", f"/moveto:{other.name}", "/wait:60", on=owner)
    before = cluster.process(other, WORKER)
    assert before is not None
    other.cut()
    cluster.wait_group(owner.name, on=owner)
    assert [] == cluster.traces(other)

    other.heal()
    cluster.wait_all_up()


def test_an_owner_that_reaches_no_clients_gives_way(cluster: Cluster, storage: Storage | None) -> None:
    """The cable is pulled at the owner, who still reaches the disk: the better connected node goes on with everything,
    and the owner has let go before."""
    if storage is not None:
        pytest.skip("an iSCSI disk is lost with the cable")
    owner, other = disk_owner(cluster)
    cluster.command("group", "WEB", f"/moveto:{owner.name}", "/wait:60", on=owner)
    owner.cut()
    cluster.wait_group(other.name, on=other)
    assert [] == cluster.traces(owner)
    assert cluster.coordinator(other) == other.name
    assert f"it gives the quorum disk to {other.name}, which reaches clients" in owner.log.read_text()

    owner.heal()
    cluster.wait_all_up()


def test_a_cluster_that_was_switched_off_as_a_whole_comes_back(cluster: Cluster) -> None:
    """Either node alone can form the cluster, with all that the last owner knew."""
    first, second = cluster.lab.nodes
    first.crash()
    cluster.wait_group(second.name, on=second)
    cluster.command("group", "LATEST", "/create", on=second)
    second.crash()
    first.boot()
    first.start_service()
    # Until it has read the log, a node shows what it knew last.
    eventually(
        lambda: "LATEST" in {group["name"] for group in cluster.ask("group", on=first) or ()},
        "NODE1, which was down when it was made, reads of the newest group on the disk",
    )
    cluster.wait_group(first.name, on=first)
    second.boot()
    second.start_service()
    cluster.wait_all_up()


def test_an_owner_without_the_disk_hands_everything_over(cluster: Cluster, storage: Storage | None) -> None:
    """It alone has lost its way to the storage; the other node takes the disk and the groups."""
    if storage is None:
        pytest.skip("a file cannot be kept from one machine here")
    owner, other = disk_owner(cluster)
    cluster.command("group", "WEB", f"/moveto:{owner.name}", "/wait:60", on=owner)
    storage.keep_from(owner)
    try:
        eventually(lambda: disk_owner(cluster)[0] is other, "the other node owns the disk")
        cluster.wait_all_up()
        assert cluster.owner(on=other)
        # Without the disk a node is a member like any other, as long as it hears the owner.
        cluster.command("group", "SEEN", "/create", on=owner)
    finally:
        storage.give_to(owner)


def test_a_disk_that_stands_still_stops_everybody_and_loses_nothing(cluster: Cluster, storage: Storage | None) -> None:
    """For longer than a hold and a lease nobody can show that it owns the disk: nothing runs anywhere meanwhile."""
    if storage is None:
        pytest.skip("a file does not stand still here")
    owner, other = disk_owner(cluster)
    cluster.command("group", "KEPT", "/create", on=other)
    with storage.stalled():
        eventually(lambda: not any(map(cluster.takes_part, (owner, other))), "neither of them may act")
        eventually(lambda: not cluster.traces(owner) and not cluster.traces(other), "both have let go of the group")
    cluster.wait_all_up()
    cluster.wait_group(cluster.owner(on=owner).name, on=other)
    assert "KEPT" in {group["name"] for group in cluster.ask("group", on=owner)}


def test_a_disk_that_is_lost_by_all_and_comes_back(cluster: Cluster, storage: Storage | None) -> None:
    """Nobody goes on without it; whoever reaches it again first goes on with everything."""
    if storage is None:
        pytest.skip("a file cannot be kept from one machine here")
    owner, other = disk_owner(cluster)
    cluster.command("group", "WEB", f"/moveto:{owner.name}", "/wait:60", on=owner)
    cluster.command("group", "FOUND", "/create", on=other)
    for node in (owner, other):
        storage.keep_from(node)
    eventually(lambda: not cluster.traces(owner) and not cluster.traces(other), "both have let go of the group")
    eventually(lambda: "quorum disk" in owner.tail() and "does not answer" in owner.tail(), "its log says why")
    storage.give_to(other)
    eventually(lambda: cluster.coordinator(other) == other.name, "who reaches the disk owns it")
    # The one without the disk is a member again as well, and may have been quicker to take its group back.
    assert cluster.owner(on=other)
    assert "FOUND" in {group["name"] for group in cluster.ask("group", on=other)}
    storage.give_to(owner)
    cluster.wait_all_up()


def test_the_hold_is_set_on_the_running_cluster(cluster: Cluster) -> None:
    """Longer, for a disk with pauses, and back; groups stay where they are."""
    first, second = cluster.lab.nodes
    worker = cluster.process(first, WORKER)
    assert (1120, False) == held(cluster)
    cluster.command("/quorum", "/hold:2500", on=second)
    assert (2500, True) == held(cluster)
    refused = first.cluster("/quorum", "/hold:50")
    assert refused.returncode != 0
    assert "50 is outside 100..20000" in refused.stderr
    cluster.command("/quorum", "/hold:auto", on=first)
    assert (1120, False) == held(cluster)
    cluster.command("group", "AFTER", "/create", on=second)
    assert cluster.process(first, WORKER) == worker


def held(cluster: Cluster) -> tuple[int, bool]:
    """How long the owner holds the disk at a time, and whether that was set."""
    told = cluster.ask("/quorum", on=cluster.lab[1])
    return told["hold_ms"], told["hold_is_set"]


def test_a_session_that_breaks_costs_nothing(cluster: Cluster, storage: Storage | None) -> None:
    """The real target takes each session for another initiator; the owner gets its registration back in time."""
    if storage is None:
        pytest.skip("a file has no sessions")
    owner, other = disk_owner(cluster)
    said_before = len(owner.log.read_text(errors="replace"))
    for number in range(3):
        assert storage.break_sessions() > 0
        cluster.command("group", f"THROUGH{number}", "/create", on=other)
    assert disk_owner(cluster)[0] is owner
    said = owner.log.read_text(errors="replace")[said_before:]
    assert "owns the quorum disk no more" not in said


def test_a_node_started_with_fixquorum_shows_and_takes_no_part(cluster: Cluster) -> None:
    """The others see it down, and nothing of it is done; started as always it is a member again."""
    first, second = cluster.lab.nodes
    second.stop_service()
    second.wait_service_ended()
    second.start_service("/fixquorum")
    eventually(lambda: cluster.ask("group", on=second) is not None, "it answers")
    assert "WEB" in {group["name"] for group in cluster.ask("group", on=second)}
    for words in (("group", "NEVER", "/create"), ("/addnodes:NODE9",), ("group", "WEB", "/online", "/wait:1")):
        assert second.cluster(*words).returncode != 0
    assert "fixquorum" in second.cluster("node").stderr
    # It runs nothing, and nobody can join by it: it does not even listen.
    assert cluster.traces(second) == []
    assert ":3343" not in second.run("ss", "-Hlnt").stdout + second.run("ss", "-Hlnu").stdout
    assert cluster.node_states(first)[second.name] == "Down"
    second.stop_service()
    second.wait_service_ended()
    second.start_service()
    cluster.wait_all_up()


def test_an_evicted_node_that_takes_the_disk_gives_it_back(cluster: Cluster, storage: Storage | None) -> None:
    """It reads of its eviction on the disk, as its owner or just before, ends, and cleans itself up. The other one
    finds the disk free, and the machine can join again."""
    if storage is not None:
        pytest.skip("the simulator tries it with reservations as well")
    first, second = cluster.lab.nodes
    cluster.command("group", "WEB", f"/moveto:{first.name}", "/wait:60", on=first)
    second.stop_service()
    second.wait_service_ended()
    cluster.wait_nodes({first.name: "Up", second.name: "Down"}, on=first)
    cluster.command("node", second.name, "/evict", on=first)
    cluster.wait_nodes({first.name: "Up"}, on=first)
    first.stop_service()
    first.wait_service_ended()

    said = second.log.stat().st_size
    second.start_service()
    second.wait_service_ended(timeout_s=60.0)
    told = second.log.read_text()[said:]
    assert "was evicted from the cluster DEMO (the log says so)" in told
    assert not second.config.exists() and not (second.data / "keys").exists()

    first.start_service()
    cluster.wait_group(first.name, on=first)
    (token,) = TOKEN.findall(cluster.command(f"/addnodes:{second.name}", on=first))
    cluster.join(second, token)
    cluster.wait_all_up()


def test_a_damaged_log_stops_everybody_until_it_is_given_up(cluster: Cluster, storage: Storage | None) -> None:
    """A sector in the middle of the log is lost while nobody runs. Nobody goes on by itself."""
    first, second = cluster.lab.nodes
    for number in range(8):
        cluster.command("group", f"G{number}", "/create", on=first)
    second.crash()
    cluster.wait_group(first.name, on=first)
    # What is given up below is the log; the node goes on with the copy that it has stored, a moment behind the log.
    eventually(lambda: "G7" in stored_groups(first), "the node has stored the newest group")
    first.crash()
    file = storage.file if storage else cluster.lab.folder / "quorum.disk"
    _lose_a_sector(file)

    first.boot()
    first.start_service()
    eventually(lambda: "cannot be taken over" in first.tail(), f"it says what is wrong\n{first.tail()}")
    assert "--resetquorumlog" in first.tail()
    assert not cluster.takes_part(first)
    first.stop_service()
    first.wait_service_ended()
    first.start_service("/nq")
    eventually(
        lambda: "The log on the quorum disk is damaged" in first.cluster("node").stderr, "it says what is damaged"
    )
    told = first.cluster("node").stderr
    assert "of the log cannot be read" in told
    assert "It can be read up to entry " in told
    assert "This node has stored entry " in told
    assert not cluster.takes_part(first)
    first.stop_service()
    first.wait_service_ended()
    _damage_the_superblock(file)
    first.start_service("/rq")
    cluster.wait_group(first.name, on=first)
    assert "G7" in {group["name"] for group in cluster.ask("group", on=first)}
    second.boot()
    second.start_service()
    cluster.wait_all_up()
    cluster.command("group", "AFTERWARDS", "/create", on=second)


def _damage_the_superblock(file: Path) -> None:
    """The slots still show whose disk it is."""
    with file.open("r+b") as disk:
        disk.seek(60)
        disk.write(b"?")


def _lose_a_sector(file: Path) -> None:
    content = bytearray(file.read_bytes())
    block = decode_superblock(bytes(content[:SECTOR_BYTES]))
    assert block is not None
    slots = content[FIRST_SLOT_SECTOR * SECTOR_BYTES : (FIRST_SLOT_SECTOR + SLOT_SECTORS) * SECTOR_BYTES]
    place = log_of(decode_slots(bytes(slots), block.disk))
    assert place is not None
    assert place.tail > 4
    at = (area_start(block, place.area) + place.log_start + place.tail // 2) * SECTOR_BYTES
    content[at : at + SECTOR_BYTES] = bytes(SECTOR_BYTES)
    file.write_bytes(content)
