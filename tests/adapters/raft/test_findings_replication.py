"""What the stock library does wrong when it replicates (S1, S2, S3, S9, S12), and that ours does not.

Each story is told twice: by the library as it is shipped, where the test states the loss, and between guard and
journal, where the test states the promise.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pysyncobj.config import SERIALIZER_STATE

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.raft_node import SNAPSHOT_NAME
from tests.adapters.raft.pair import Cluster, StockCluster, acknowledged, commands, message_kind, ours, stock
from tests.adapters.raft.stock import DUMP_NAME


def others(cluster: Cluster, *nodes: int) -> list[int]:
    """The founders but these."""
    return sorted(cluster.founders - set(nodes))


def lost(cluster: Cluster, wanted: list[bytes]) -> list[bytes]:
    """Those that were acknowledged and that the leader has not."""
    held = cluster.history(cluster.lead())
    return [command for command in acknowledged(cluster, wanted) if command not in held]


# --- S1 --------------------------------------------------------------------------------------------------------------


def an_isolated_leader_returns_to_a_compacted_log(cluster: Cluster) -> list[bytes]:
    """What the isolated leader alone held and acknowledged all the same."""
    old = cluster.lead()
    cluster.commit(old, *commands("before", 5))
    cluster.isolate(old)
    alone = commands("alone", 10)
    for command in alone:
        cluster.propose(old, command, timeout_s=0.2)
    cluster.settle(lambda: cluster.holder() not in (None, old))
    new = cluster.lead()
    behind = cluster.log_last(old)
    cluster.commit(new, *commands("majority", 200))
    cluster.settle(lambda: cluster.log_first(new) > behind)
    cluster.run(5.0)
    cluster.heal()
    cluster.settle(lambda: commands("majority", 200)[-1] in cluster.history(old))
    cluster.run(2.0)
    return lost(cluster, alone)


def test_s1_stock_library_fails(tmp_path: Path) -> None:
    """A piece of a snapshot moves the commit index over its own tail: ten commands are acknowledged, and gone."""
    with stock(tmp_path, 3, compaction_entries=25) as cluster:
        assert commands("alone", 10) == an_isolated_leader_returns_to_a_compacted_log(cluster)


def test_s1_ours(tmp_path: Path) -> None:
    """The isolated leader acknowledges nothing."""
    with ours(tmp_path, 3, compaction_entries=25) as cluster:
        assert [] == an_isolated_leader_returns_to_a_compacted_log(cluster)


# --- S2 --------------------------------------------------------------------------------------------------------------


def both_followers_die_between_snapshot_and_trim(cluster: Cluster) -> list[bytes]:
    """What was acknowledged and is lost although a majority came back from its disks."""
    leader = cluster.lead()
    cluster.commit(leader, *commands("first", 50))
    cluster.run(1.0)
    second = commands("second", 52)
    for command in second:
        cluster.propose(leader, command)
    cluster.settle(lambda: len(acknowledged(cluster, second)) == len(second))
    for follower in others(cluster, leader):
        # The followers hold all of it, and write a snapshot of what they know to be committed.
        assert cluster.log_last(follower) == cluster.log_last(leader)
        first = cluster.log_first(follower)
        cluster.compact(follower)
        cluster.tick(follower)
        assert cluster.log_first(follower) == first, "the journal was trimmed already"
        assert snapshot_file(cluster, follower).exists()
    for node_id in sorted(cluster.founders):
        cluster.crash(node_id)
    for follower in others(cluster, leader):
        cluster.boot(follower)
    return lost(cluster, commands("first", 50) + second)


def snapshot_file(cluster: Cluster, node_id: int) -> Path:
    """Where a node's snapshot is."""
    if isinstance(cluster, StockCluster):
        return cluster.folder(node_id) / DUMP_NAME
    return cluster.machines[node_id].folder / SNAPSHOT_NAME


def test_s2_stock_library_fails(tmp_path: Path) -> None:
    """Both throw their whole journals away, and with them what they had acknowledged."""
    with stock(tmp_path, 3) as cluster:
        gone = both_followers_die_between_snapshot_and_trim(cluster)
    assert len(gone) >= 25
    assert set(gone) <= set(commands("second", 52))


def test_s2_ours(tmp_path: Path) -> None:
    """Journal and snapshot are made to fit, and nothing is lost."""
    with ours(tmp_path, 3) as cluster:
        assert [] == both_followers_die_between_snapshot_and_trim(cluster)


# --- S3 --------------------------------------------------------------------------------------------------------------


def a_leader_dies_while_it_sends_again(cluster: Cluster) -> tuple[int, list[bytes]]:
    """By how much the follower's log became shorter, and what was acknowledged and is lost."""
    leader = cluster.lead()
    follower, absent = others(cluster, leader)
    cluster.commit(leader, *commands("before", 5))
    cluster.run(0.5)
    cluster.crash(absent)
    cluster.isolate(follower)
    wanted = commands("long", 60, size=4_000)
    for command in wanted:
        cluster.propose(leader, command, timeout_s=60.0)
    reset_when_noticed(cluster, leader, follower)
    cluster.settle(lambda: len(acknowledged(cluster, wanted)) == len(wanted))
    highest = cluster.log_last(follower)
    cluster.run_until(lambda: cluster.log_last(follower) < highest, 1.0)
    shorter = highest - cluster.log_last(follower)
    cluster.crash(leader)
    cluster.boot(absent)
    cluster.settle(lambda: cluster.holder() is not None)
    return shorter, lost(cluster, wanted)


def reset_when_noticed(cluster: Cluster, leader: int, follower: int) -> None:
    """The connection is made anew; two appends are under way on it before the first answer is back."""
    appends = 0

    def count(sender: int, receiver: int, frame: Any) -> bool:
        nonlocal appends
        appends += (sender, receiver, message_kind(frame)) == (leader, follower, "append_entries")
        return True

    cluster.tap = count
    cluster.heal()
    cluster.reset(leader, follower)
    cluster.settle(lambda: appends > 0)
    cluster.propose(leader, b"crossing", timeout_s=60.0)
    cluster.tick(leader)


def test_s3_stock_library_fails(tmp_path: Path) -> None:
    """Entries that match are cut off by an append that is sent again; the leader dies, and they are lost."""
    with stock(tmp_path, 3) as cluster:
        shorter, gone = a_leader_dies_while_it_sends_again(cluster)
    assert shorter > 0
    assert len(gone) > 0


def test_s3_ours(tmp_path: Path) -> None:
    """What is held is left alone."""
    with ours(tmp_path, 3) as cluster:
        assert (0, []) == a_leader_dies_while_it_sends_again(cluster)


# --- S9 --------------------------------------------------------------------------------------------------------------


def an_answer_to_a_former_leadership_arrives(cluster: Cluster) -> list[bytes]:
    """What the leader acknowledges although no other node has it."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    peers = others(cluster, leader)
    cluster.tap = lambda sender, receiver, frame: False
    cluster.propose(leader, b"alone", timeout_s=1.0)
    cluster.run(0.1)
    late(cluster, peers[0], leader)
    cluster.run(0.1)
    assert all(b"alone" not in cluster.history(peer) for peer in peers)
    return acknowledged(cluster, [b"alone"])


def late(cluster: Cluster, peer: int, leader: int) -> None:
    """An answer of a peer to the same node's leadership of an earlier term, in which the log was longer."""
    term, index = cluster.term(leader) - 1, cluster.log_last(leader) + 1
    if isinstance(cluster, StockCluster):
        cluster.inject(peer, leader, {"type": "next_node_idx", "next_node_idx": index, "reset": False, "success": True})
    else:
        cluster.inject(peer, leader, wire.encode(wire.Reply(term, index, False, True, cluster.now_s)))


def test_s9_stock_library_fails(tmp_path: Path) -> None:
    """The answer names no term, so it counts, and a write is acknowledged that is on one node."""
    with stock(tmp_path, 3) as cluster:
        assert [b"alone"] == an_answer_to_a_former_leadership_arrives(cluster)


def test_s9_ours(tmp_path: Path) -> None:
    """The answer names its term and is dropped."""
    with ours(tmp_path, 3) as cluster:
        assert [] == an_answer_to_a_former_leadership_arrives(cluster)


# --- S12 -------------------------------------------------------------------------------------------------------------


def a_peer_lags_while_a_snapshot_is_written(cluster: Cluster, slow: Callable[[], None] = lambda: None) -> int:
    """How many messages the leader sends it within half a second."""
    leader = cluster.lead()
    lagging = others(cluster, leader)[0]
    cluster.isolate(lagging)
    behind = cluster.log_last(lagging)
    cluster.commit(leader, *commands("x", 100))
    cluster.settle(lambda: cluster.log_first(leader) > behind)
    cluster.run(5.0)
    sent = 0

    def count(sender: int, receiver: int, frame: Any) -> bool:
        nonlocal sent
        sent += (sender, receiver) == (leader, lagging)
        return True

    slow()
    cluster.commit(leader, b"one more")
    cluster.compact(leader)
    cluster.tick(leader)
    cluster.tap = count
    cluster.heal()
    cluster.run(0.5)
    return sent


class Writer:
    """The library's hooks for an own dump of one node, as a user with a large state has them."""

    slow = False
    """Whether dumps take longer than the test."""

    def __init__(self) -> None:
        self._writing = False

    def write(self, path: str, data: Any) -> None:
        """Begin a dump."""
        Path(path).write_bytes(pickle.dumps(data))
        self._writing = True

    def read(self, path: str) -> Any:
        """Load a dump."""
        return pickle.loads(Path(path).read_bytes())

    def check(self) -> int:
        """How far the dump is."""
        if not self._writing:
            return int(SERIALIZER_STATE.NOT_SERIALIZING)
        if self.slow:
            return int(SERIALIZER_STATE.SERIALIZING)
        self._writing = False
        return int(SERIALIZER_STATE.SUCCESS)


def test_s12_stock_library_fails(tmp_path: Path) -> None:
    """It spins, and sends thousands of empty pieces."""
    writers: list[Writer] = []

    def hooks(node_id: int) -> Mapping[str, Any]:
        writers.append(writer := Writer())
        return {"serializer": writer.write, "deserializer": writer.read, "serializeChecker": writer.check}

    def slow() -> None:
        for writer in writers:
            writer.slow = True

    with stock(tmp_path, 3, compaction_entries=25, hooks=hooks) as cluster:
        assert a_peer_lags_while_a_snapshot_is_written(cluster, slow) > 1_000


def test_s12_ours(tmp_path: Path) -> None:
    """A heartbeat at a time, and the pieces of the snapshot."""
    with ours(tmp_path, 3, compaction_entries=25) as cluster:
        assert a_peer_lags_while_a_snapshot_is_written(cluster) < 50


# --- an answer that points beyond the log ----------------------------------------------------------------------------


def a_peer_points_beyond_the_leaders_log(cluster: Cluster) -> list[bool]:
    """For each append that follows to that peer, whether it names the entry before it."""
    leader = cluster.lead()
    peer = others(cluster, leader)[0]
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    named: list[bool] = []

    def watch(sender: int, receiver: int, frame: Any) -> bool:
        if (sender, receiver, message_kind(frame)) == (leader, peer, "append_entries"):
            named.append(previous_index(frame) is not None)
        # The peer's own answers are under way all the time and would mend it.
        return (sender, receiver) != (peer, leader)

    cluster.tap = watch
    index = cluster.log_last(leader) + 100
    if isinstance(cluster, StockCluster):
        cluster.inject(peer, leader, {"type": "next_node_idx", "next_node_idx": index, "reset": True, "success": False})
    else:
        cluster.inject(peer, leader, wire.encode(wire.Reply(cluster.term(leader), index, True, False, cluster.now_s)))
    cluster.run(0.01)
    named.clear()
    cluster.run(1.0)
    return named


def previous_index(frame: bytes | Mapping[str, Any]) -> int | None:
    """The index before the entries of an append."""
    if isinstance(frame, Mapping):
        found = frame["prevLogIdx"]
        return None if found is None else int(found)
    message = wire.decode(frame)
    assert isinstance(message, wire.Append)
    return message.prev_index


def test_beyond_the_log_stock_library_fails(tmp_path: Path) -> None:
    """It sends appends without a place for as long as the answer stands."""
    with stock(tmp_path, 3) as cluster:
        named = a_peer_points_beyond_the_leaders_log(cluster)
    assert len(named) >= 5
    assert not any(named)


def test_beyond_the_log_ours(tmp_path: Path) -> None:
    """The answer is clamped to the end of the log."""
    with ours(tmp_path, 3) as cluster:
        named = a_peer_points_beyond_the_leaders_log(cluster)
    assert len(named) >= 5
    assert all(named)
