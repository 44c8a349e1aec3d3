"""What the stock library does wrong in elections and with members (S8, S11, S13, two leaders), and that ours does not.

See :mod:`tests.adapters.raft.test_findings_replication` for the form.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind
from tests.adapters.raft.pair import Cluster, StockCluster, acknowledged, commands, message_kind, ours, stock


def others(cluster: Cluster, *nodes: int) -> list[int]:
    """The founders but these."""
    return sorted(cluster.founders - set(nodes))


# --- S11 -------------------------------------------------------------------------------------------------------------


def one_vote_arrives_twice(cluster: Cluster) -> bool:
    """Whether one of five leads with its own vote and that of one other."""

    def only_pre_votes(sender: int, receiver: int, frame: Any) -> bool:
        return message_kind(frame) in ("PreVote", "PreVoteReply")

    cluster.tap = only_pre_votes
    cluster.settle(lambda: any(cluster.term(node_id) > 0 for node_id in cluster.founders))
    candidate = next(node_id for node_id in sorted(cluster.founders) if cluster.term(node_id) > 0)
    voter = others(cluster, candidate)[0]
    cluster.tap = lambda sender, receiver, frame: False
    for _ in range(2):
        if isinstance(cluster, StockCluster):
            cluster.inject(voter, candidate, {"type": "response_vote", "term": cluster.term(candidate)})
        else:
            cluster.inject(voter, candidate, wire.encode(wire.VoteReply(cluster.term(candidate))))
    cluster.run(0.01)
    return cluster.claims(candidate)


def test_s11_stock_library_fails(tmp_path: Path) -> None:
    """Votes are counted, voters are not: two of five elect."""
    with stock(tmp_path, 5) as cluster:
        assert one_vote_arrives_twice(cluster)


def test_s11_ours(tmp_path: Path) -> None:
    """A voter counts once."""
    with ours(tmp_path, 5) as cluster:
        assert not one_vote_arrives_twice(cluster)


# --- S8, S13: members -------------------------------------------------------------------------------------------------


def boot_new(cluster: Cluster, node_id: int, members: frozenset[int]) -> None:
    """Start a machine that is to be added to these members."""
    if isinstance(cluster, StockCluster):
        cluster.boot(node_id, members | {node_id})
    else:
        cluster.boot(node_id, members | {node_id}, joining=True)


def ask(cluster: Cluster, leader: int, node_id: int, *, adding: bool = True) -> list[Outcome]:
    """Ask the leader to add or remove a node; the answer comes into the list."""
    answers: list[Outcome] = []
    if isinstance(cluster, StockCluster):

        def answered(result: object, reason: int) -> None:
            del result
            kind = OutcomeKind.COMMITTED if reason == 0 else OutcomeKind.REFUSED
            answers.append(Outcome(kind=kind, detail=str(reason)))

        node = cluster.node(leader)
        (node.addNodeToCluster if adding else node.removeNodeFromCluster)(str(node_id), callback=answered)
    else:
        ours_node = cluster.node(leader)
        (ours_node.add_member if adding else ours_node.remove_member)(node_id, answers.append)
        cluster.machines[leader].wake_s = cluster.now_s
    return answers


def change(cluster: Cluster, leader: int, node_id: int) -> None:
    """Add a node and wait until that is committed."""
    answers = ask(cluster, leader, node_id)
    cluster.settle(lambda: bool(answers))
    assert [OutcomeKind.COMMITTED] == [answer.kind for answer in answers]


def two_nodes_are_added_at_once(cluster: Cluster) -> frozenset[int]:
    """Who counts on the leader while no other node has heard of either change."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    for node_id in (4, 5):
        boot_new(cluster, node_id, cluster.founders)
    cluster.run(0.2)
    cluster.tap = lambda sender, receiver, frame: False
    for node_id in (4, 5):
        ask(cluster, leader, node_id)
    cluster.run(0.1)
    return cluster.members(leader)


def test_s8_stock_library_fails(tmp_path: Path) -> None:
    """Both count at once, though neither is committed: majorities of three and of five need not meet."""
    with stock(tmp_path, 3) as cluster:
        assert frozenset({1, 2, 3, 4, 5}) == two_nodes_are_added_at_once(cluster)


def test_s8_ours(tmp_path: Path) -> None:
    """One at a time."""
    with ours(tmp_path, 3) as cluster:
        assert frozenset({1, 2, 3, 4}) == two_nodes_are_added_at_once(cluster)


def the_leader_is_asked_to_remove_itself(cluster: Cluster) -> str:
    """What the user is told."""
    leader = cluster.lead()
    answers = ask(cluster, leader, leader, adding=False)
    cluster.settle(lambda: bool(answers))
    assert OutcomeKind.REFUSED is answers[0].kind
    assert cluster.founders == cluster.members(leader)
    return answers[0].detail


def test_s8_own_removal_stock_library_fails(tmp_path: Path) -> None:
    """It cannot, and answers with a number."""
    with stock(tmp_path, 3) as cluster:
        assert "6" == the_leader_is_asked_to_remove_itself(cluster)


def test_s8_own_removal_ours(tmp_path: Path) -> None:
    """It cannot either, and says how it is done."""
    with ours(tmp_path, 3) as cluster:
        assert "stop it first, then ask the next leader" in the_leader_is_asked_to_remove_itself(cluster)


def a_node_restarts_with_members_of_long_ago(cluster: Cluster) -> tuple[bool, list[bytes]]:
    """Whether two sides lead and acknowledge at once, and what was acknowledged and is not on both sides in the end.

    ``voter`` helps to commit the addition of 4 and is restarted before it knows that this is committed; ``stale`` was
    away all the time. Then 5 is added as well. Of five members ``voter`` and ``stale`` are not a majority.
    """
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(1.5)
    voter, stale = others(cluster, leader)
    cluster.crash(stale)
    boot_new(cluster, 4, cluster.founders)
    boot_new(cluster, 5, cluster.founders | {4})
    cluster.run(0.6)
    change(cluster, leader, 4)
    held = cluster.log_last(leader)
    cluster.settle(lambda: cluster.log_last(voter) == held)
    cluster.crash(voter)
    change(cluster, leader, 5)
    # The two come back with what their command lines always said, on the other side of a cut.
    for old in (voter, stale):
        for new in (leader, 4, 5):
            cluster.cut(old, new)
    for old in (voter, stale):
        cluster.boot(old)
    cluster.commit(leader, b"majority")
    split = cluster.run_until(lambda: cluster.claims(voter) or cluster.claims(stale), 10.0)
    if split:
        minority = voter if cluster.claims(voter) else stale
        cluster.propose(minority, b"minority")
        cluster.run_until(lambda: bool(acknowledged(cluster, [b"minority"])), 5.0)
    cluster.heal()
    cluster.run(20.0)
    told = acknowledged(cluster, [b"majority", b"minority"])
    return split, [command for command in told if any(command not in cluster.history(n) for n in (1, 2, 3, 4, 5))]


def test_s13_stock_library_fails(tmp_path: Path) -> None:
    """Two of five lead: each side acknowledges what the other has not, and one of both is lost."""
    with stock(tmp_path, 3) as cluster:
        split, gone = a_node_restarts_with_members_of_long_ago(cluster)
    assert split
    assert gone


def test_s13_ours(tmp_path: Path) -> None:
    """The newest members in the journal are in force, committed or not."""
    with ours(tmp_path, 3) as cluster:
        assert (False, []) == a_node_restarts_with_members_of_long_ago(cluster)


# --- two leaders, and leaders that come and go -----------------------------------------------------------------------


def seconds_with(cluster: Cluster, condition: Callable[[], bool], limit_s: float) -> float:
    """For how much of a time something holds, looked at every 20 ms."""
    turns = round(limit_s / 0.02)
    held = 0
    for _ in range(turns):
        cluster.run(0.02)
        held += condition()
    return held * 0.02


def two_claim(cluster: Cluster) -> bool:
    """Whether two nodes believe that they lead."""
    return sum(cluster.claims(node_id) for node_id in cluster.founders) > 1


def one_of_three_links_is_cut(cluster: Cluster) -> tuple[float, int]:
    """For how much of ten seconds two nodes claim to lead, and how many terms went by."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.run(0.5)
    term = cluster.term(leader)
    cluster.cut(leader, others(cluster, leader)[0])
    both_s = seconds_with(cluster, lambda: two_claim(cluster), 10.0)
    return both_s, max(cluster.term(node_id) for node_id in cluster.founders) - term


def test_one_cut_link_stock_library_fails(tmp_path: Path) -> None:
    """Two claim to lead for nearly all of the time."""
    with stock(tmp_path, 3) as cluster:
        both_s, terms = one_of_three_links_is_cut(cluster)
    assert both_s > 5.0
    assert terms >= 1


def test_one_cut_link_ours(tmp_path: Path) -> None:
    """Nothing changes: who hears the leader supports nobody else."""
    with ours(tmp_path, 3) as cluster:
        assert (0.0, 0) == one_of_three_links_is_cut(cluster)


def the_leader_is_cut_off(cluster: Cluster) -> float:
    """For how many of forty seconds it goes on to claim that it leads."""
    leader = cluster.lead()
    cluster.commit(leader, b"x")
    cluster.isolate(leader)
    return seconds_with(cluster, lambda: cluster.claims(leader), 40.0)


def test_isolated_leader_stock_library_fails(tmp_path: Path) -> None:
    """Half a minute, with the library's defaults."""
    with stock(tmp_path, 3) as cluster:
        assert the_leader_is_cut_off(cluster) > 25.0


def test_isolated_leader_ours(tmp_path: Path) -> None:
    """An election timeout; its lease is over earlier still."""
    with ours(tmp_path, 3) as cluster:
        assert the_leader_is_cut_off(cluster) < 1.0


def a_follower_is_cut_off_and_returns(cluster: Cluster) -> int:
    """How many terms go by."""
    leader = cluster.lead()
    cluster.commit(leader, *commands("x", 3))
    cluster.run(0.5)
    term = cluster.term(leader)
    cluster.isolate(others(cluster, leader)[0])
    cluster.run(3.0)
    cluster.heal()
    cluster.run(3.0)
    return max(cluster.term(node_id) for node_id in cluster.founders) - term


def test_no_pre_vote_stock_library_fails(tmp_path: Path) -> None:
    """It asks for votes nobody can hear, and its higher terms depose a leader that works."""
    with stock(tmp_path, 3) as cluster:
        assert a_follower_is_cut_off_and_returns(cluster) >= 1


def test_no_pre_vote_ours(tmp_path: Path) -> None:
    """It asks first whether it could win, and follows again."""
    with ours(tmp_path, 3) as cluster:
        assert 0 == a_follower_is_cut_off_and_returns(cluster)
