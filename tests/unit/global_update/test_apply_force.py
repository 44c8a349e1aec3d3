"""The state with which a cluster goes on by force."""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.apply_force import forced
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.witness import Witness
from tests.unit.groups.samples import cluster, node

DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600, generation=3, hold_ms=5_000)


def test_the_listed_nodes_are_the_voters_and_nobody_is_declared_down() -> None:
    before = cluster(node(1), node(2), node(3), node(4), node(5))
    after = forced(before, voters=frozenset({NodeId(1), NodeId(4)}), generation=1_800_000_000)
    assert after.voters == {1, 4}
    assert (after.quorum.kind, after.quorum.generation) == (QuorumKind.MAJORITY, 1_800_000_000)
    assert {n.id: n.up for n in after.nodes.values()} == {n.id: n.up for n in before.nodes.values()}
    assert after.groups == before.groups
    assert after.voters_version > before.voters_version


def test_after_a_disk_nobody_is_declared_down_while_somebody_may_hold_it() -> None:
    """The new voters wait for as long as an owner or a lease of the disk can have lasted."""
    base = cluster(node(1), node(2))
    before = replace(base, quorum=DISK, timing=DISK.timing_of(base.timing.profile))
    after = forced(before, voters=frozenset({NodeId(2)}), generation=4)
    assert (after.quorum.kind, after.quorum.device) == (QuorumKind.MAJORITY, "")
    assert after.quorum.former_hold_ms >= 5_000
    assert after.quorum.former_silence_ms >= before.timing.silence_ms()
    assert after.timing == after.quorum.timing_of(before.timing.profile)
    assert after.timing_version == after.voters_version


def test_a_local_quorum_of_one_node_stays_one() -> None:
    before = replace(cluster(node(1)), quorum=Quorum(kind=QuorumKind.LOCAL))
    assert forced(before, voters=frozenset({NodeId(1)}), generation=9).quorum.kind is QuorumKind.LOCAL


def test_what_the_witness_has_decided_before_counts_no_more() -> None:
    before = cluster(node(1), node(2))
    before = replace(before, witness=Witness(path="/mnt/w", token="0" * 16, opened=before.voters_version))
    assert before.witness_open
    after = forced(before, voters=frozenset({NodeId(2)}), generation=9)
    assert not after.witness_open
    assert after.witness.path == "/mnt/w"
