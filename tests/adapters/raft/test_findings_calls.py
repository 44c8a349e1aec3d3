"""What the stock library does wrong with commands and their callbacks (S10, apply path, code versions), and not ours.

See :mod:`tests.adapters.raft.test_findings_replication` for the form.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pysyncobj import replicated

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind
from tests.adapters.raft.pair import Cluster, StockCluster, acknowledged, commands, message_kind, ours, stock
from tests.adapters.raft.stock import StockNode


def others(cluster: Cluster, *nodes: int) -> list[int]:
    """The founders but these."""
    return sorted(cluster.founders - set(nodes))


def all_pass(sender: int, receiver: int, frame: Any) -> bool:
    """A network that loses nothing."""
    del sender, receiver, frame
    return True


# --- S10 -------------------------------------------------------------------------------------------------------------


def a_request_of_an_earlier_life_is_answered(cluster: Cluster) -> list[bytes]:
    """What is acknowledged although it never reached the leader.

    The leader has the request of the earlier process still in its queue, and answers it to the node, wherever that is.
    """
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    follower = others(cluster, leader)[0]
    requests: list[Any] = []

    def keep_requests(sender: int, receiver: int, frame: Any) -> bool:
        request = (sender, receiver, message_kind(frame)) == (follower, leader, "apply_command")
        if request:
            requests.append(frame)
        return not request

    cluster.tap = keep_requests
    cluster.propose(follower, b"first life", timeout_s=0.3)
    cluster.settle(lambda: bool(requests))
    cluster.crash(follower)
    cluster.boot(follower)
    cluster.run(1.0)
    cluster.propose(follower, b"second life", timeout_s=1.0)
    cluster.settle(lambda: len(requests) == 2)
    cluster.inject(follower, leader, requests[0])
    cluster.run(3.0)
    assert b"first life" in cluster.history(leader)
    assert b"second life" not in cluster.history(leader)
    return acknowledged(cluster, [b"second life"])


def test_s10_stock_library_fails(tmp_path: Path) -> None:
    """Requests are numbered from one in each process, so the answer completes another command."""
    with stock(tmp_path, 3) as cluster:
        assert [b"second life"] == a_request_of_an_earlier_life_is_answered(cluster)


def test_s10_ours(tmp_path: Path) -> None:
    """Requests carry the boot they belong to."""
    with ours(tmp_path, 3) as cluster:
        assert [] == a_request_of_an_earlier_life_is_answered(cluster)


# --- exceptions ------------------------------------------------------------------------------------------------------


def propose_with_a_broken_callback(cluster: Cluster, node_id: int, command: bytes) -> None:
    """A client whose callback raises, the first time."""
    calls: list[None] = []

    def broken(*_: object) -> None:
        calls.append(None)
        if len(calls) == 1:
            raise KeyError("a mistake of the client")

    if isinstance(cluster, StockCluster):
        cluster.node(node_id).put(command, callback=broken)
    else:
        cluster.node(node_id).propose(command, 5.0, broken)
        cluster.machines[node_id].wake_s = cluster.now_s


def a_callback_raises(cluster: Cluster) -> dict[int, int]:
    """How often each node has applied the one command."""
    leader = cluster.lead()
    applied: Counter[int] = Counter()

    def count(node_id: int, command: bytes) -> None:
        applied[node_id] += command == b"x"

    cluster.on_apply = count
    propose_with_a_broken_callback(cluster, leader, b"x")
    cluster.run(1.0)
    return {node_id: applied[node_id] for node_id in (leader, *others(cluster, leader))}


def test_callback_exception_stock_library_fails(tmp_path: Path) -> None:
    """The leader has applied the command twice, the others once: the replicas differ."""
    with stock(tmp_path, 3) as cluster:
        applied = a_callback_raises(cluster)
    assert [2, 1, 1] == list(applied.values())


def test_callback_exception_ours(tmp_path: Path) -> None:
    """Each applies it once; the process with the mistake ends, since nothing is known of it any more."""
    with ours(tmp_path, 3) as cluster:
        leader = cluster.lead()
        cluster.may_end = True
        applied = a_callback_raises(cluster)
        assert isinstance(cluster.ended[leader], KeyError)
    assert [1, 1, 1] == list(applied.values())


def a_command_cannot_be_applied(cluster: Cluster) -> Counter[int]:
    """How often each node has tried within a second."""
    leader = cluster.lead()
    tries: Counter[int] = Counter()

    def poison(node_id: int, command: bytes) -> None:
        if command == b"poison":
            tries[node_id] += 1
            raise ValueError("a mistake of the state machine")

    cluster.on_apply = poison
    cluster.propose(leader, b"poison")
    cluster.run(1.0)
    return tries


def test_apply_exception_stock_library_fails(tmp_path: Path) -> None:
    """Each node tries again in every turn of its loop, for ever, and nothing else is applied."""
    with stock(tmp_path, 3) as cluster:
        tries = a_command_cannot_be_applied(cluster)
        assert all(len(cluster.node(node_id).errors) > 10 for node_id in cluster.founders)
    assert all(tries[node_id] > 10 for node_id in (1, 2, 3))


def test_apply_exception_ours(tmp_path: Path) -> None:
    """A node that comes to it tries once and ends, with the reason."""
    with ours(tmp_path, 3) as cluster:
        cluster.may_end = True
        tries = a_command_cannot_be_applied(cluster)
        assert tries
        assert set(tries) <= set(cluster.ended)
        assert all("a mistake of the state machine" in str(error) for error in cluster.ended.values())
    assert {1} == set(tries.values())


# --- callbacks that never fire ---------------------------------------------------------------------------------------


def a_request_is_lost_with_its_connection(cluster: Cluster) -> Outcome | None:
    """What the client hears within ten seconds, under the same leader."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    follower = others(cluster, leader)[0]
    lost: list[Any] = []

    def lose_once(sender: int, receiver: int, frame: Any) -> bool:
        request = not lost and (sender, receiver, message_kind(frame)) == (follower, leader, "apply_command")
        if request:
            lost.append(frame)
        return not request

    cluster.tap = lose_once
    cluster.propose(follower, b"asked")
    cluster.settle(lambda: bool(lost))
    cluster.reset(follower, leader)
    cluster.run(10.0)
    assert leader == cluster.holder()
    return cluster.outcomes.get(b"asked")


def test_lost_request_stock_library_fails(tmp_path: Path) -> None:
    """Nothing, ever."""
    with stock(tmp_path, 3) as cluster:
        assert a_request_is_lost_with_its_connection(cluster) is None


def test_lost_request_ours(tmp_path: Path) -> None:
    """It is sent again."""
    with ours(tmp_path, 3) as cluster:
        outcome = a_request_is_lost_with_its_connection(cluster)
    assert outcome is not None
    assert OutcomeKind.COMMITTED is outcome.kind


def a_snapshot_covers_what_a_client_waits_for(cluster: Cluster) -> Outcome | None:
    """What the client of a follower hears: the command was accepted, the follower was cut off, and a snapshot came."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    follower = others(cluster, leader)[0]
    accepted: list[Any] = []

    def only_that_it_is_accepted(sender: int, receiver: int, frame: Any) -> bool:
        if (sender, receiver) != (leader, follower):
            return True
        if message_kind(frame) != "apply_command_response":
            return False
        accepted.append(frame)
        # The stock library answers when a command is accepted; ours when it is committed, and that answer is lost.
        return isinstance(cluster, StockCluster)

    cluster.propose(follower, b"asked", timeout_s=30.0)
    cluster.tap = only_that_it_is_accepted
    cluster.settle(lambda: bool(accepted))
    cluster.run(0.05)
    cluster.isolate(follower)
    cluster.tap = all_pass
    assert b"asked" not in cluster.history(follower)
    behind = cluster.log_last(follower)
    cluster.commit(leader, *commands("more", 100))
    cluster.settle(lambda: cluster.log_first(leader) > behind + 1)
    cluster.run(5.0)
    cluster.heal()
    cluster.settle(lambda: commands("more", 100)[-1] in cluster.history(follower))
    cluster.run(10.0)
    assert b"asked" in cluster.history(follower)
    return cluster.outcomes.get(b"asked")


def test_snapshot_over_a_request_stock_library_fails(tmp_path: Path) -> None:
    """Nothing, though the command is applied."""
    with stock(tmp_path, 3, compaction_entries=25) as cluster:
        assert a_snapshot_covers_what_a_client_waits_for(cluster) is None


def test_snapshot_over_a_request_ours(tmp_path: Path) -> None:
    """The truth: it is asked for again, and known by its request."""
    with ours(tmp_path, 3, compaction_entries=25) as cluster:
        outcome = a_snapshot_covers_what_a_client_waits_for(cluster)
        assert outcome is not None
        assert OutcomeKind.COMMITTED is outcome.kind
        assert 1 == cluster.history(1).count(b"asked")


# --- code versions ---------------------------------------------------------------------------------------------------


class NewerStockNode(StockNode):
    """The same user's object in its next version."""

    @replicated(ver=1)  # type: ignore[untyped-decorator]
    def extra(self, command: bytes) -> None:
        """A method that the version before does not have."""
        self.history.append(command)


def test_code_version_stock_library_fails(tmp_path: Path) -> None:
    """A node of the old version passes over the switch, loses count, and applies later commands twice."""
    with stock(tmp_path, 3) as cluster:
        old = cluster.lead()
        for node_id in others(cluster, old):
            cluster.crash(node_id)
            cluster.boot(node_id, kind=NewerStockNode)
        cluster.isolate(old)
        cluster.settle(lambda: cluster.holder() not in (None, old), 60.0)
        new = cluster.lead()
        cluster.node(new).setCodeVersion(1)
        cluster.commit(new, *commands("x", 5))
        cluster.run(5.0)
        cluster.heal()
        cluster.run(5.0)
        assert commands("x", 5) == cluster.history(new)
        twice = [command for command, count in Counter(cluster.history(old)).items() if count > 1]
    assert twice


def test_code_version_ours(tmp_path: Path) -> None:
    """Such an entry does not enter the log, whoever sends it."""
    with ours(tmp_path, 3) as cluster:
        leader = cluster.lead()
        cluster.commit(leader, b"x")
        cluster.run(0.5)
        follower = others(cluster, leader)[0]
        last, term = cluster.log_last(follower), cluster.term(follower)
        switch = ((b"\x03\x80\x02K\x01.", last + 1, term),)
        cluster.inject(leader, follower, wire.encode(wire.Append(term, last, last, term, switch, cluster.now_s)))
        cluster.run(0.1)
        assert ("entry refused", 1) in cluster.node(follower).statistics().drops
        assert last == cluster.log_last(follower)
        cluster.converge()
