"""One test for each known hole of the library, driven through real nodes: the guard closes it."""

from __future__ import annotations

import pytest

from clussvc.global_update.raft import wire
from clussvc.global_update.raft.entries import NO_OPERATION, command_entry_bytes
from clussvc.global_update.raft.raft_node import JOURNAL_NAME, SNAPSHOT_NAME
from clussvc.global_update.raft.replicator import Outcome, OutcomeKind, RaftSettings
from clussvc.model.errors import ClusterError
from tests.adapters.raft.conftest import MakeWorld
from tests.adapters.raft.world import World

SMALL_LOG = RaftSettings(election_timeout_ms=300, heartbeat_ms=60, compaction_entries=25)


def commands(name: str, count: int) -> list[bytes]:
    """Distinct commands."""
    return [f"{name} {number}".encode() for number in range(count)]


def others(world: World, *nodes: int) -> list[int]:
    """The founders but these."""
    return sorted(world.founders - set(nodes))


def test_a_cluster_elects_commits_and_agrees(make_world: MakeWorld) -> None:
    """Three and five nodes and one: a leader, commands from every node, equal histories."""
    for size in (1, 3, 5):
        world = make_world(size)
        world.lead()
        for node_id in world.founders:
            world.commit(node_id, *commands(f"from {node_id}", 10))
        world.converge()


def test_one_node_leads_at_once(make_world: MakeWorld) -> None:
    """Alone there is nobody to wait for, at the first boot and later, and its log is there again."""
    world = make_world(1)
    before = world.now_s
    world.lead()
    assert world.now_s - before < 0.1
    world.commit(1, *commands("x", 30))
    world.crash(1)
    world.boot(1)
    before = world.now_s
    world.lead()
    assert world.now_s - before < 0.1
    assert commands("x", 30) == world.history(1)


def test_s1_isolated_leader_acknowledges_nothing(make_world: MakeWorld) -> None:
    """The majority goes on and compacts; the old leader's own commands are unknown, never falsely committed."""
    world = make_world(3, settings=SMALL_LOG)
    old = world.lead()
    world.commit(old, *commands("before", 5))
    world.isolate(old)
    lost = commands("isolated", 10)
    for command in lost:
        world.propose(old, command, timeout_s=0.2)
    world.run(2.0)
    assert all(world.outcomes[command].kind is OutcomeKind.UNKNOWN for command in lost)
    new = world.lead()
    assert new != old
    world.commit(new, *commands("majority", 200))
    world.heal()
    world.settle(lambda: commands("majority", 200)[-1] in world.history(old))
    assert world.node(old).statistics().snapshots_installed >= 1
    assert not set(lost) & set(world.acknowledged)
    world.converge()


def test_s2_crash_between_snapshot_and_trim_keeps_the_log(make_world: MakeWorld) -> None:
    """All nodes lose power at each point around compaction; nothing acknowledged is lost."""
    for operations in range(8):
        world = make_world(3, seed=operations, settings=SMALL_LOG)
        leader = world.lead()
        world.commit(leader, *commands("first", 23))
        for machine in world.machines.values():
            machine.disk.operations_left = operations
        for command in commands("second", 30):
            if world.machines[leader].node is not None:
                world.propose(leader, command, timeout_s=0.5)
            world.run(0.01)
        for node_id, _ in world.up():
            world.crash(node_id)
        world.converge()


def test_s3_repeated_appends_never_shorten_a_log(make_world: MakeWorld) -> None:
    """Every append is delivered again later, out of order; a follower's log only grows and keeps its promises."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    kept: list[bytes] = []

    def keep(sender: int, receiver: int, frame: bytes) -> bool:
        if (sender, receiver) == (leader, follower) and isinstance(wire.decode(frame), wire.Append):
            kept.append(frame)
        return True

    world.tap = keep
    for command in commands("x", 40):
        world.commit(leader, command)
    last = world.node(follower).statistics().log_last
    assert len(kept) > 40
    for frame in list(kept):
        world.inject(leader, follower, frame)
        world.run(0.002)
        assert world.node(follower).statistics().log_last >= last
    world.converge()


def test_s7_damaged_snapshot_stops_the_node(make_world: MakeWorld) -> None:
    """A node whose snapshot cannot be read, or is gone, refuses to start instead of leading with an empty state."""
    world = make_world(3, settings=SMALL_LOG)
    leader = world.lead()
    world.commit(leader, *commands("x", 100))
    world.run(0.2)
    victim = others(world, leader)[0]
    assert world.node(victim).statistics().snapshots_written >= 1
    world.crash(victim)
    path = world.machines[victim].folder / SNAPSHOT_NAME
    good = path.read_bytes()
    path.write_bytes(good[:-3] + b"xyz")
    with pytest.raises(ClusterError, match="snapshot-damaged"):
        world.boot(victim)
    path.unlink()
    with pytest.raises(ClusterError, match="snapshot-missing"):
        world.boot(victim)
    path.write_bytes(good)
    (world.machines[victim].folder / JOURNAL_NAME).unlink()
    with pytest.raises(ClusterError, match="journal-missing"):
        world.boot(victim)


def test_s9_reply_of_an_older_term_counts_for_nothing(make_world: MakeWorld) -> None:
    """An answer to a former leadership commits nothing; one of a newer term ends the leadership."""
    world = make_world(3)
    leader = world.lead()
    world.commit(leader, b"x")
    a, b = others(world, leader)
    world.network.cut |= {(a, leader), (b, leader)}
    world.propose(leader, b"not replicated", timeout_s=0.1)
    world.run(0.02)
    term = world.node(leader).statistics().term
    commit = world.node(leader).statistics().commit_index
    world.network.cut.clear()
    world.tap = lambda sender, receiver, frame: False
    world.frames.clear()
    for peer in (a, b):
        world.inject(peer, leader, wire.encode(wire.Reply(term - 1, 1_000, False, True, world.now_s)))
    world.run(0.05)
    assert commit == world.node(leader).statistics().commit_index
    world.inject(a, leader, wire.encode(wire.Reply(term + 5, 1, False, False, world.now_s)))
    world.run(0.01)
    assert not world.node(leader).statistics().is_leader
    assert term + 5 == world.node(leader).statistics().term


def test_s10_late_answer_of_an_earlier_life_completes_nothing(make_world: MakeWorld) -> None:
    """Request numbers start again after a restart; the answer to the former process is dropped."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    answers: list[bytes] = []

    def hold(sender: int, receiver: int, frame: bytes) -> bool:
        answer = (sender, receiver) == (leader, follower) and isinstance(wire.decode(frame), wire.ForwardReply)
        if answer:
            answers.append(frame)
        return not answer

    world.tap = hold
    world.propose(follower, b"first life", timeout_s=0.3)
    world.run(0.1)
    assert answers
    world.crash(follower)
    world.boot(follower)
    world.run(0.2)
    world.tap = lambda sender, receiver, frame: (sender, receiver) != (follower, leader)
    world.propose(follower, b"second life", timeout_s=0.5)
    world.run(0.1)
    for frame in answers:
        world.inject(leader, follower, frame)
    world.run(1.0)
    assert world.outcomes[b"second life"].kind is not OutcomeKind.COMMITTED
    assert b"second life" not in world.history(leader)


def test_s11_one_vote_counts_once(make_world: MakeWorld) -> None:
    """In a cluster of five a candidate with one vote, delivered five times, does not lead."""
    world = make_world(5)

    def only_pre_votes(sender: int, receiver: int, frame: bytes) -> bool:
        return isinstance(wire.decode(frame), wire.PreVote | wire.PreVoteReply)

    world.tap = only_pre_votes
    world.settle(lambda: any(node.statistics().term > 0 for _, node in world.up()))
    candidate, node = next((node_id, node) for node_id, node in world.up() if node.statistics().term > 0)
    world.tap = lambda sender, receiver, frame: False
    world.frames.clear()
    voter = others(world, candidate)[0]
    for _ in range(5):
        world.inject(voter, candidate, wire.encode(wire.VoteReply(node.statistics().term)))
    world.inject(99, candidate, wire.encode(wire.VoteReply(node.statistics().term)))
    world.run(0.01)
    assert not node.statistics().is_leader
    assert ("second vote of one voter", 4) in node.statistics().drops
    world.inject(others(world, candidate)[1], candidate, wire.encode(wire.VoteReply(node.statistics().term)))
    world.run(0.01)
    assert node.statistics().is_leader


def test_s12_a_lagging_peer_is_not_flooded(make_world: MakeWorld) -> None:
    """A snapshot of many pieces travels with few pieces in flight, survives losses, and the lease holds meanwhile."""
    world = make_world(3, settings=SMALL_LOG)
    leader = world.lead()
    lagging = others(world, leader)[0]
    world.isolate(lagging)
    big = [b"%d " % number + b"x" * 200_000 for number in range(40)]
    world.commit(leader, *big)
    chunks = 0

    def count(sender: int, receiver: int, frame: bytes) -> bool:
        nonlocal chunks
        if isinstance(wire.decode(frame), wire.Chunk):
            chunks += 1
            return chunks % 5 != 0
        return True

    world.tap = count
    world.heal()
    before = world.sent
    world.settle(lambda: big[-1] in world.history(lagging), 60.0)
    assert leader == world.holder()
    assert 12 <= chunks < 100
    assert world.sent - before < 3_000
    world.tap = lambda sender, receiver, frame: True
    world.converge()


def test_snapshot_answer_lost_is_asked_again(make_world: MakeWorld) -> None:
    """When only the word that a snapshot is installed gets lost, the transfer does not hang."""
    world = make_world(3, settings=SMALL_LOG)
    leader = world.lead()
    lagging = others(world, leader)[0]
    world.isolate(lagging)
    world.commit(leader, *commands("x", 100))
    lost = 0

    def lose(sender: int, receiver: int, frame: bytes) -> bool:
        nonlocal lost
        message = wire.decode(frame)
        if sender == lagging and isinstance(message, wire.Reply) and message.success and lost < 1:
            lost += 1
            return False
        return True

    world.tap = lose
    world.heal()
    world.settle(lambda: len(world.history(lagging)) == 100, 10.0)
    world.commit(leader, b"after")
    world.settle(lambda: b"after" in world.history(lagging), 10.0)
    assert 1 == lost


def change(world: World, node_id: int, *, add: int | None = None, remove: int | None = None) -> Outcome:
    """Change the members on a node and wait."""
    outcomes: list[Outcome] = []
    if add is not None:
        world.node(node_id).add_member(add, outcomes.append)
    if remove is not None:
        world.node(node_id).remove_member(remove, outcomes.append)
    world.machines[node_id].wake_s = world.now_s
    world.settle(lambda: bool(outcomes))
    return outcomes[0]


def test_members_come_and_go(make_world: MakeWorld) -> None:
    """One node becomes three, then two; snapshots carry the members, and restarts find them."""
    world = make_world(1, settings=SMALL_LOG)
    leader = world.lead()
    world.commit(1, *commands("alone", 40))
    for node_id in (2, 3):
        world.boot(node_id, world.node(1).members | {node_id}, joining=True)
        assert OutcomeKind.COMMITTED is change(world, leader, add=node_id).kind
        world.commit(node_id, *commands(f"by {node_id}", 40))
    assert frozenset({1, 2, 3}) == world.node(3).members
    for node_id in (1, 2, 3):
        world.crash(node_id)
    world.converge()
    leader = world.lead()
    gone = next(node_id for node_id in (2, 3) if node_id != leader)
    assert OutcomeKind.COMMITTED is change(world, leader, remove=gone).kind
    world.crash(gone)
    del world.machines[gone]
    world.commit(leader, *commands("two", 40))
    rest = sorted({1, 2, 3} - {gone})
    for node_id in rest:
        world.crash(node_id)
    world.converge()
    assert frozenset(rest) == world.node(rest[0]).members == world.node(rest[1]).members


def test_membership_is_gated(make_world: MakeWorld) -> None:
    """One change at a time, by a settled leader, of a node that answers; every refusal says why."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    assert f"ask node {leader}" in change(world, follower, add=4).detail
    assert "not connected" in change(world, leader, add=4).detail
    assert "cannot add or remove itself" in change(world, leader, remove=leader).detail
    assert "not a member" in change(world, leader, remove=7).detail
    assert "member already" in change(world, leader, add=follower).detail
    world.boot(4, world.founders | {4}, joining=True)
    world.boot(5, world.founders | {5}, joining=True)
    first: list[Outcome] = []
    second: list[Outcome] = []
    world.node(leader).add_member(4, first.append)
    world.node(leader).add_member(5, second.append)
    assert "under way" in second[0].detail
    world.machines[leader].wake_s = world.now_s
    world.settle(lambda: bool(first))
    assert OutcomeKind.COMMITTED is first[0].kind


def test_s13_uncommitted_change_is_in_force_after_a_restart(make_world: MakeWorld) -> None:
    """The newest membership entry of the log counts, committed or not, before and after the restart."""
    world = make_world(3)
    leader = world.lead()
    world.boot(4, world.founders | {4}, joining=True)
    world.run(0.2)
    world.network.cut |= {(node_id, leader) for node_id in (*others(world, leader), 4)}
    world.node(leader).add_member(4, lambda outcome: None)
    world.machines[leader].wake_s = world.now_s
    world.run(0.05)
    assert frozenset({1, 2, 3, 4}) == world.node(leader).members
    world.crash(leader)
    world.boot(leader)
    assert frozenset({1, 2, 3, 4}) == world.node(leader).members


def test_a_replayed_change_does_not_undo_a_later_one(make_world: MakeWorld) -> None:
    """A follower that applies an old addition after it has read the removal keeps to the removal."""
    world = make_world(3)
    leader = world.lead()
    world.boot(4, world.founders | {4}, joining=True)
    follower = others(world, leader)[0]
    world.isolate(follower)
    world.network.cut -= {(4, leader), (leader, 4)}
    assert OutcomeKind.COMMITTED is change(world, leader, add=4).kind
    assert OutcomeKind.COMMITTED is change(world, leader, remove=4).kind
    world.crash(4)
    del world.machines[4]
    world.heal()
    world.converge()
    assert world.founders == world.node(follower).members


def test_isolated_leader_yields_and_the_lease_is_one(make_world: MakeWorld) -> None:
    """Cut off, it loses the lease before another gains one, and steps down; a follower cut off changes nothing."""
    world = make_world(3)
    old = world.lead()
    world.isolate(old)
    world.settle(lambda: world.holder() is None, 1.0)
    new = world.lead()
    assert new != old
    world.settle(lambda: not world.node(old).statistics().is_leader)
    world.heal()
    world.run(1.0)
    assert new == world.holder()
    term = world.node(new).statistics().term
    cut_off = others(world, new)[0]
    world.isolate(cut_off)
    world.run(30.0)
    world.heal()
    world.run(2.0)
    assert (new, term) == (world.holder(), world.node(new).statistics().term)


def test_one_cut_link_changes_no_leader(make_world: MakeWorld) -> None:
    """A follower that misses the leader, but whose peer hears it, gets no votes."""
    world = make_world(3)
    leader = world.lead()
    term = world.node(leader).statistics().term
    a = others(world, leader)[0]
    world.network.cut |= {(a, leader), (leader, a)}
    world.run(60.0)
    assert (leader, term) == (world.holder(), world.node(leader).statistics().term)


def test_refusals_are_certain(make_world: MakeWorld) -> None:
    """Too large, too many, no leader, stopped: refused with the reason, and never applied."""
    world = make_world(3, settings=RaftSettings(pending_max=5, command_bytes_max=100))
    world.propose(1, b"x" * 101)
    assert "at most 100" in world.outcomes[b"x" * 101].detail
    for command in commands("full", 6):
        world.propose(1, command, timeout_s=0.01)
    assert "waiting already" in world.outcomes[b"full 5"].detail
    world.run(0.02)
    assert "no leader" in world.outcomes[b"full 0"].detail
    assert {OutcomeKind.REFUSED} == {outcome.kind for outcome in world.outcomes.values()}
    world.converge()
    assert not set(commands("full", 6)) & set(world.history(1))


def test_a_forwarded_command_survives_the_leader(make_world: MakeWorld) -> None:
    """It is sent again to the next leader and takes effect once."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    world.tap = lambda sender, receiver, frame: not isinstance(wire.decode(frame), wire.ForwardReply)
    world.propose(follower, b"survivor", timeout_s=10.0)
    world.run(0.05)
    world.tap = lambda sender, receiver, frame: True
    world.crash(leader)
    world.settle(lambda: b"survivor" in world.outcomes)
    assert OutcomeKind.COMMITTED is world.outcomes[b"survivor"].kind
    world.converge()
    assert 1 == world.history(follower).count(b"survivor")


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x01",
        b"\x02\x91\xa1n",
        b"\x01\xff\xff",
        b"\x80\x02cos\nsystem\n.",
        wire.encode(wire.Newer(3))[:-1],
        b"\x01" + b"\x92\xa1n\xff",
        wire.encode(wire.Append(9, 9, 5, 9, ((NO_OPERATION, 7, 9),), 0.0)),
        wire.encode(wire.Append(9, 9, 5, 9, ((NO_OPERATION, 6, 8),), 0.0)),
    ],
)
def test_broken_frames_are_dropped(make_world: MakeWorld, frame: bytes) -> None:
    """They are counted, and nothing else happens."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    world.inject(leader, follower, frame)
    world.run(0.1)
    assert ("unreadable frame", 1) in world.node(follower).statistics().drops
    assert leader == world.holder()


def test_harmful_entries_are_dropped(make_world: MakeWorld) -> None:
    """A frame with an entry that unpickling would run does not reach the library."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    world.commit(leader, b"x")
    world.run(0.2)
    statistics = world.node(follower).statistics()
    evil = ((b"\x00cos\nsystem\n(S'true'\ntR.", statistics.log_last + 1, statistics.term),)
    append = wire.Append(statistics.term, statistics.commit_index, statistics.log_last, statistics.term, evil, 0.0)
    world.inject(leader, follower, wire.encode(append))
    world.run(0.2)
    assert ("entry refused", 1) in world.node(follower).statistics().drops
    assert statistics.log_last == world.node(follower).statistics().log_last


def test_a_stale_leader_is_told(make_world: MakeWorld) -> None:
    """It gets the newer term as an answer and steps down at once."""
    world = make_world(3)
    leader = world.lead()
    follower = others(world, leader)[0]
    term = world.node(leader).statistics().term
    answers: list[wire.Message] = []

    def watch(sender: int, receiver: int, frame: bytes) -> bool:
        answers.append(wire.decode(frame))
        return True

    world.tap = watch
    entries = ((command_entry_bytes(b"old"), 3, term - 1),)
    world.inject(leader, follower, wire.encode(wire.Append(term - 1, 0, 2, term - 1, entries, 0.0)))
    world.run(0.01)
    assert wire.Newer(term) in answers


def test_nobody_waits_for_a_leader_that_is_certainly_dead(make_world: MakeWorld) -> None:
    """Those who know it elect at once, well within the time for which a leader that is only silent is kept to."""
    world = make_world(3)
    old = world.lead()
    world.commit(old, *commands("x", 3))
    world.converge()
    world.crash(old)
    before = world.now_s
    for node in others(world, old):
        world.forget_leader(node, old)
    assert world.lead() != old
    assert world.now_s - before < 0.1


def test_a_leader_that_one_node_forgets_goes_on(make_world: MakeWorld) -> None:
    """A mistake of one costs nothing: the others keep to the leader they hear."""
    world = make_world(3)
    old = world.lead()
    elections = sum(world.node(node).statistics().elections_started for node in world.founders)
    for node in (*others(world, old)[:1], old):
        world.forget_leader(node, old)
    world.run(2.0)
    assert world.lead() == old
    now = sum(world.node(node).statistics().elections_started for node in world.founders)
    assert now == elections


def test_a_lost_connection_to_the_leader_hastens_the_election(make_world: MakeWorld) -> None:
    """All that is saved is the time between the shortest and the longest patience: nobody votes earlier."""
    patience_s = RaftSettings().election_timeout_ms / 1_000
    for seed in range(5):
        world = make_world(3, seed=seed)
        old = world.lead()
        world.converge()
        before = world.now_s
        world.crash(old)
        assert world.lead() != old
        assert 0.5 * patience_s < world.now_s - before < 1.3 * patience_s


def test_other_times_hold_from_then_on(make_world: MakeWorld) -> None:
    """Slower ones: the leader that speaks seldom is kept. Faster ones: a dead leader is replaced sooner."""
    world = make_world(3)
    old = world.lead()
    for heartbeat_ms, election_ms in ((500, 3_000), (25, 100)):
        for node in (old, *others(world, old)):
            world.node(node).set_timing(heartbeat_ms=heartbeat_ms, election_timeout_ms=election_ms)
            world.machines[node].wake_s = world.now_s
        elections = sum(world.node(node).statistics().elections_started for node in world.founders)
        sent = world.sent
        world.run(10.0)
        assert world.lead() == old
        assert sum(world.node(node).statistics().elections_started for node in world.founders) == elections
        # Two followers, each asked and answering.
        assert 0.8 < (world.sent - sent) / (4 * 10_000 / heartbeat_ms) < 1.3
        world.commit(old, *commands(f"every {heartbeat_ms}", 3))
    world.converge()
    before = world.now_s
    world.crash(old)
    world.lead()
    assert world.now_s - before < 0.3


def test_other_times_are_checked(make_world: MakeWorld) -> None:
    world = make_world(1)
    with pytest.raises(ValueError, match="at least 4 x"):
        world.node(1).set_timing(heartbeat_ms=100, election_timeout_ms=300)
