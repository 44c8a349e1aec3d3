"""Leases and silences: the arithmetic on which rules R2 and R3 rest."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN
from clussvc.model.states import NodePhase
from tests.unit.membership.station import Station

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
VOTERS = frozenset((N1, N2, N3))


def table(node: NodeId, *, boot: int = 1) -> Station:
    return Station(node, VOTERS, boot=boot)


def beat(sender: Station, now_ms: int) -> bytes:
    return sender.say(now_ms)


def test_a_lease_runs_from_the_moment_of_sending() -> None:
    """Sent at 1000, acknowledged at 1300: the lease ends at 1500, not 1800."""
    one, two = table(N1), table(N2)
    two.listen(beat(one, 1_000), 1_100)
    one.listen(beat(two, 1_200), 1_300)

    assert one.lease_until_ms(N2) == 1_000 + LAN.lease_ms


def test_a_heartbeat_that_was_not_heard_gives_no_lease() -> None:
    """The peer says what it heard; an answer that names nothing brings nothing."""
    one, two = table(N1), table(N2)
    beat(one, 1_000)
    one.listen(beat(two, 1_200), 1_300)

    assert one.lease_until_ms(N2) == -1


def test_an_acknowledgement_of_an_earlier_boot_brings_nothing() -> None:
    """A process that was restarted has sent nothing that was heard."""
    old, new, two = table(N1), table(N1, boot=2), table(N2)
    two.listen(beat(old, 1_000), 1_001)
    beat(new, 1_002)
    new.listen(beat(two, 1_003), 1_004)

    assert new.lease_until_ms(N2) == -1


def test_old_and_repeated_heartbeats_are_ignored() -> None:
    """Datagrams may be repeated and may overtake each other."""
    one, two = table(N1), table(N2)
    first, second = beat(two, 1_000), beat(two, 1_100)

    assert one.listen(second, 1_101)
    assert not one.listen(first, 1_102)
    assert not one.listen(second, 1_103)
    assert one.silent_ms(N2, 1_201) == 100


def test_quorum_needs_a_majority_of_leases() -> None:
    """With three voters one peer's lease suffices, and it lasts as long as the longest of them."""
    one, two, three = table(N1), table(N2), table(N3)
    for peer, at_ms in ((two, 1_000), (three, 1_100)):
        peer.listen(beat(one, at_ms), at_ms + 1)
        one.listen(beat(peer, at_ms + 2), at_ms + 3)

    assert one.quorum_until_ms(VOTERS, 1_200) == 1_100 + LAN.lease_ms
    assert one.votes_held(VOTERS, 1_200) == 3
    assert one.votes_held(VOTERS, 1_550) == 2


def test_a_single_voter_always_holds_quorum() -> None:
    """One lease at a time, so that its deadman has something to be fed with."""
    assert table(N1).quorum_until_ms(frozenset((N1,)), 5_000) == 5_000 + LAN.lease_ms


def test_a_node_that_is_no_voter_needs_the_voters() -> None:
    """A joining node holds quorum through the others alone."""
    four, one = table(NodeId(4)), Station(N1, (NodeId(4),))
    one.listen(four.say(1_000, phase=NodePhase.ASKING, attempt=1), 1_001)
    four.listen(one.say(1_002), 1_003)

    assert four.quorum_until_ms(frozenset((N1,)), 1_100) == 1_000 + LAN.lease_ms
    assert four.quorum_until_ms(frozenset((N1, N2)), 1_100) == -1


def test_silences_that_do_not_overlap_prove_nothing() -> None:
    """N3 was silent for N2 first and for N1 later; it held its majority all the time and must not be declared down."""
    one, two, three = table(N1), table(N2), table(N3)
    one.listen(beat(three, 500), 501)
    two.listen(beat(one, 1_000), 1_001)
    # N2 reports one second of silence at 1010; afterwards it hears N3 again, but its next report is lost.
    one.listen(beat(two, 1_010), 1_011)
    one.listen(beat(three, 1_000), 1_001)

    assert one.common_silence_ms(N3, VOTERS, 2_011, newborn_grace_ms=0) < LAN.silence_ms()


def test_a_common_silence_of_a_majority_counts() -> None:
    """Both survivors have heard nothing since 1000; what N2 says is fresh."""
    one, two, three = table(N1), table(N2), table(N3)
    last = beat(three, 1_000)
    one.listen(last, 1_001)
    two.listen(last, 1_002)
    for now_ms in range(1_100, 1_900, 100):
        two.listen(beat(one, now_ms), now_ms + 1)
        one.listen(beat(two, now_ms + 2), now_ms + 3)

    silence_ms = one.common_silence_ms(N3, VOTERS, 1_803, newborn_grace_ms=0)
    assert 790 <= silence_ms <= 801


def test_a_silence_from_before_the_present_incarnation_proves_nothing() -> None:
    """N3 was off for long, came back and was admitted; what N2 said before must not be held against its new life."""
    one, two, three = table(N1), table(N2), table(N3)
    last = beat(three, 1_000)
    one.listen(last, 1_001)
    two.listen(last, 1_002)
    for now_ms in range(1_100, 3_000, 100):
        two.listen(beat(one, now_ms), now_ms + 1)
        one.listen(beat(two, now_ms + 2), now_ms + 3)
    assert one.common_silence_ms(N3, VOTERS, 2_999, newborn_grace_ms=0) > LAN.silence_ms()

    one.know_incarnation(N3, 2, 2_950)
    assert one.common_silence_ms(N3, VOTERS, 2_999, newborn_grace_ms=0) < 50
    one.know_incarnation(N3, 2, 2_999)
    for now_ms in range(3_000, 4_000, 100):
        two.listen(beat(one, now_ms), now_ms + 1)
        one.listen(beat(two, now_ms + 2), now_ms + 3)
    assert one.common_silence_ms(N3, VOTERS, 3_950, newborn_grace_ms=0) > LAN.silence_ms()


def test_a_report_whose_age_is_unknown_counts_for_nothing() -> None:
    """N2 acknowledges nothing of ours, so its report may have been on its way for ever."""
    one, two, three = table(N1), table(N2), table(N3)
    beat(two, 0)
    one.listen(beat(three, 0), 1)
    one.listen(beat(two, 9_000), 9_001)

    assert one.common_silence_ms(N3, VOTERS, 9_002, newborn_grace_ms=0) == 0


def test_a_newborn_coordinator_gives_the_others_time_to_appear() -> None:
    """Right after a start of the whole cluster nobody has been heard yet."""
    one, two = Station(N1, VOTERS, now_ms=10_000), Station(N2, VOTERS, now_ms=10_000)
    for now_ms in range(10_000, 12_100, 100):
        two.listen(beat(one, now_ms), now_ms + 1)
        one.listen(beat(two, now_ms + 2), now_ms + 3)

    assert one.common_silence_ms(N3, VOTERS, 12_003, newborn_grace_ms=3_000) == 0
    assert one.common_silence_ms(N3, VOTERS, 12_003, newborn_grace_ms=0) > LAN.silence_ms()


def test_a_node_that_was_forgotten_has_not_been_silent_before() -> None:
    """Node 1 gave a lease to node 3, forgot it (a log that is replayed begins with few members), and meets it again."""
    one, two, three = table(N1), table(N2), table(N3)
    for now_ms in range(1_000, 2_000, 100):
        for sender, others in ((one, (two, three)), (two, (one,)), (three, (one,))):
            heartbeat = beat(sender, now_ms)
            for other in others:
                other.listen(heartbeat, now_ms)
    assert three.lease_until_ms(N1) == 1_800 + LAN.lease_ms
    one.account((N2,), 1_999)
    one.account(VOTERS, 2_000)
    for now_ms in (2_000, 2_100, 2_200):
        two.listen(beat(one, now_ms), now_ms)
        one.listen(beat(two, now_ms), now_ms)

    for judge in (one, two):
        assert judge.common_silence_ms(N3, frozenset((N1,)), 2_200, newborn_grace_ms=0) <= 200


@given(
    steps=st.lists(
        st.tuples(st.sampled_from([N1, N2, N3]), st.integers(1, 300), st.sets(st.sampled_from([N1, N2, N3]))),
        max_size=120,
    )
)
@example(steps=[(N1, 201, set()), (N1, 300, set()), (N1, 300, set()), (N2, 1, set()), (N3, 1, {N1}), (N2, 1, {N1})])
def test_nobody_holds_quorum_after_a_majority_was_silent_together(
    steps: list[tuple[NodeId, int, set[NodeId]]],
) -> None:
    """The theorem at the head of the module, against any loss of any message.

    Whenever a table says that some node may be declared down, that node's own table says that it has held no quorum for
    at least the release budget. A node whose quorum comes back, or comes for the first time, acts only as another
    incarnation, and silences before that one was known say nothing of it.
    """
    tables = {node: table(node) for node in VOTERS}
    incarnations = dict.fromkeys(VOTERS, 0)
    holding: set[NodeId] = set()
    now_ms = 0
    for sender, pause_ms, lost in steps:
        now_ms += pause_ms
        holding = {node for node in holding if tables[node].quorum_until_ms(VOTERS, now_ms) > now_ms}
        heartbeat = beat(tables[sender], now_ms)
        for receiver in VOTERS - {sender} - lost:
            tables[receiver].listen(heartbeat, now_ms)
        for node in VOTERS - holding:
            if tables[node].quorum_until_ms(VOTERS, now_ms) > now_ms:
                holding.add(node)
                incarnations[node] += 1
                for other in VOTERS - {node}:
                    tables[other].know_incarnation(node, incarnations[node], now_ms)
        for judge in VOTERS:
            for judged in VOTERS - {judge}:
                silence_ms = tables[judge].common_silence_ms(judged, VOTERS, now_ms, newborn_grace_ms=0)
                if silence_ms >= LAN.silence_ms():
                    lost_at_ms = tables[judged].quorum_until_ms(VOTERS, now_ms)
                    assert lost_at_ms <= now_ms - LAN.release_budget_ms
