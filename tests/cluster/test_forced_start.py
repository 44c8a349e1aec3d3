"""Starts that go on without what was promised, because an administrator says so: forcequorum and resetquorumlog."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.formation import WORKER, Cluster
from tests.cluster.lab import Lab, Node, eventually


def group_names(cluster: Cluster, on: Node) -> set[str]:
    return {group["name"] for group in cluster.ask("group", on=on) or ()}


def test_a_node_without_its_part_of_the_log_waits_for_another_one(cluster: Cluster) -> None:
    """It votes for nothing meanwhile, and nobody takes it for a member; then it has everything, and its vote counts."""
    first, second, third = cluster.lab.nodes
    third.crash()
    cluster.command("group", "MEANWHILE", "/create", on=first)
    (third.data / "log" / "raft.journal").unlink()
    third.boot()
    third.start_service()
    third.wait_service_ended()
    assert "journal-missing" in third.log.read_text()
    third.start_service("/resetquorumlog")
    eventually(lambda: "/renewlog" in third.cluster("node").stderr, "it says what it waits for")
    assert cluster.node_states(first)["NODE3"] == "Down"
    worker = cluster.process(first, WORKER)
    cluster.command("/quorum", "/renewlog", on=second)
    cluster.wait_all_up()
    assert "MEANWHILE" in group_names(cluster, third)
    assert cluster.process(first, WORKER) == worker, "nobody else has noticed"
    # Its vote is worth something again.
    second.crash()
    cluster.command("group", "AGAIN", "/create", on=third)


def test_two_listed_nodes_go_on_with_the_newest_log_of_both(cluster: Cluster) -> None:
    """NODE1 is gone. NODE2 lacks what was changed last, NODE3 has it: nothing of that is lost, whichever of them is
    started first. When NODE1 comes back, it follows."""
    first, second, third = cluster.lab.nodes
    second.crash()
    cluster.wait_nodes({"NODE1": "Up", "NODE2": "Down", "NODE3": "Up"}, on=first)
    cluster.command("group", "LATE", "/create", on=first)
    eventually(lambda: "LATE" in group_names(cluster, third), "NODE3 has the newest group")
    third.crash()
    gone = cluster.group(on=first)
    first.crash()

    for node in (second, third):
        node.boot()
    third.start_service("/forcequorum:NODE1,NODE2")
    third.wait_service_ended()
    assert "NODE3 is not on the list" in third.log.read_text()
    second.start_service("/fo:NODE2,NODE3")
    eventually(lambda: "NODE3 has not been heard" in second.log.read_text(), "it says for whom it waits")
    third.start_service("/forcequorum:node3,node2")
    for node in (second, third):
        eventually(lambda node=node: cluster.takes_part(node), f"{node.name} takes part\n{node.tail()}")  # type: ignore[misc]
    told = cluster.ask("/quorum", on=second)
    assert (told["type"], told["voters"]) == ("Majority Node Set", ["NODE2", "NODE3"])
    # NODE1 may act by slower times than it does; so long its group is not started elsewhere.
    eventually(lambda: cluster.group(on=third) != gone, "NODE1 is declared down")
    assert cluster.owner(on=third) is not first
    assert "LATE" in group_names(cluster, second)
    cluster.command("group", "GOES ON", "/create", on=second)

    first.boot()
    first.start_service()
    cluster.wait_all_up()
    assert "GOES ON" in group_names(cluster, first)
    eventually(
        lambda: cluster.ask("/quorum", on=first)["voters"] == ["NODE1", "NODE2", "NODE3"],
        "NODE1 has its vote again",
    )


def test_one_node_goes_on_when_the_quorum_disk_is_lost(folder: Path) -> None:
    """With what it has stored, as a majority node set of its own; the other node follows when it is back."""
    with Lab(folder=folder / "disk", nodes=2) as lab:
        cluster = Cluster(lab)
        disk = lab.folder / "quorum.disk"
        cluster.form("loopback", quorum=str(disk))
        cluster.create_web_group(failback=False)
        first, second = lab.nodes
        cluster.command("group", "KNOWN", "/create", on=first)
        eventually(lambda: "KNOWN" in group_names(cluster, second), "NODE2 has read of it")
        # What was read last is written down within a fifth of a second, and at once in an orderly stop. NODE2 knows
        # then that NODE1 has stopped, and need not wait for its silence.
        for node in (first, second):
            node.stop_service()
            node.wait_service_ended()
        disk.unlink()

        second.start_service("/forcequorum:NODE2")
        cluster.wait_group("NODE2", on=second)
        assert "KNOWN" in group_names(cluster, second)
        assert cluster.ask("/quorum", on=second)["type"] == "Majority Node Set"
        # The switch may stay: it has been done, and does nothing any more.
        second.stop_service()
        second.wait_service_ended()
        second.start_service("/forcequorum:NODE2")
        cluster.wait_group("NODE2", on=second)
        assert "these nodes are the voters already" in second.log.read_text()

        first.start_service()
        cluster.wait_all_up()
        cluster.check_worker()


def test_the_damaged_log_of_a_cluster_of_one_node_is_made_anew(folder: Path) -> None:
    """From the copy of the configuration; without the switch the node says what is damaged and does not start."""
    with Lab(folder=folder / "one", nodes=1) as lab:
        cluster = Cluster(lab)
        (node,) = lab.nodes
        cluster.create("loopback", quorum="local")
        for number in range(5):
            cluster.command("group", f"G{number}", "/create", on=node)
        node.stop_service()
        node.wait_service_ended()
        journal = node.data / "log" / "raft.journal"
        content = bytearray(journal.read_bytes())
        content[len(content) // 2] ^= 0xFF
        journal.write_bytes(content)

        node.start_service()
        node.wait_service_ended()
        assert "journal-damaged" in node.log.read_text()
        for _ in range(2):
            # The second time it is good, and nothing happens.
            node.start_service("/resetquorumlog")
            eventually(lambda: cluster.takes_part(node), f"it takes part\n{node.tail()}")
            assert {f"G{number}" for number in range(5)} <= group_names(cluster, node)
            cluster.command("group", "Cluster Group", "/prop", "Description=still works", on=node)
            node.stop_service()
            node.wait_service_ended()
        assert node.log.read_text().count("log.reset") == 1
