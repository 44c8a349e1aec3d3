"""The choice of the quorum."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.apply import apply
from clussvc.global_update.apply_member import set_voter
from clussvc.global_update.apply_quorum import check_quorum, set_quorum
from clussvc.global_update.outcome import Done
from clussvc.global_update.update import (
    Batch,
    NodeDown,
    NodeSettled,
    NodeUp,
    PauseNode,
    Proposal,
    SetClusterProperties,
    SetQuorum,
    SetVoter,
    Update,
)
from clussvc.model.config import Config
from clussvc.model.ids import NodeId, RequestId
from clussvc.model.quorum import Quorum, QuorumKind, slowest_silence_ms
from clussvc.model.reports import Report
from clussvc.model.settings import LAN, disk_timing
from tests.unit.groups.samples import cluster, node

ALONE = cluster(node(1))
DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600)


def test_a_local_quorum_and_a_majority_become_each_other() -> None:
    local = set_quorum(ALONE, SetQuorum(kind=QuorumKind.LOCAL))
    assert isinstance(local, Done)
    assert local.config.quorum.kind is QuorumKind.LOCAL
    back = set_quorum(local.config, SetQuorum(kind=QuorumKind.MAJORITY))
    assert isinstance(back, Done)
    assert back.config.quorum == ALONE.quorum
    assert set_quorum(ALONE, SetQuorum(kind=QuorumKind.MAJORITY)) == Done(config=ALONE)


@pytest.mark.parametrize(
    ("config", "update", "code", "words"),
    [
        (cluster(node(1), node(2)), SetQuorum(kind=QuorumKind.LOCAL), "quorum-change-refused", "evict NODE2"),
        (ALONE, SetQuorum(kind=QuorumKind.DISK), "quorum-change-refused", "another log"),
        (replace(ALONE, quorum=DISK), SetQuorum(kind=QuorumKind.LOCAL), "quorum-change-refused", "another log"),
        (ALONE, SetQuorum(quorum=replace(DISK, generation=2), voters_version=0), "stale", "changed meanwhile"),
        (ALONE, SetQuorum(quorum=replace(DISK, generation=1), voters_version=9), "stale", "changed meanwhile"),
        (ALONE, SetQuorum(quorum=Quorum(generation=1), voters_version=0), "quorum-change-refused", "the same one"),
        (ALONE, SetQuorum(quorum=replace(DISK, generation=1, disk="")), "bad-argument", "the identifier"),
        (
            replace(cluster(node(1), node(2), node(3, up=False)), quorum=DISK),
            SetQuorum(quorum=Quorum(kind=QuorumKind.LOCAL, generation=1)),
            "quorum-change-refused",
            "evict NODE2, NODE3",
        ),
        (
            replace(cluster(node(1), node(2, up=False), node(3, up=False)), quorum=DISK),
            SetQuorum(quorum=Quorum(generation=1)),
            "quorum-change-refused",
            "1 of 3 voters are up, which is no majority; start NODE2, NODE3",
        ),
        (
            cluster(replace(node(1), unsettled=True), node(2)),
            SetQuorum(quorum=replace(DISK, generation=1)),
            "quorum-changing",
            "NODE1",
        ),
        (ALONE, SetQuorum(max_log_kb=4_096), "bad-property", "no log on a disk"),
        (replace(ALONE, quorum=DISK), SetQuorum(max_log_kb=100), "bad-property", "outside 512"),
        (ALONE, SetQuorum(hold_ms=1_000), "bad-property", "nobody holds a majority node set"),
        (replace(ALONE, quorum=DISK), SetQuorum(hold_ms=99), "bad-property", "outside 100..20000"),
        (replace(ALONE, quorum=DISK), SetQuorum(hold_ms=20_001), "bad-property", "outside 100..20000"),
        (replace(ALONE, quorum=DISK), SetQuorum(hold_ms=-2), "bad-property", "no time"),
        (replace(ALONE, quorum=DISK), SetQuorum(max_log_kb=1_000_000), "bad-property", "room for a log of 6272 KB"),
    ],
)
def test_what_is_refused_says_why(config: object, update: SetQuorum, code: str, words: str) -> None:
    refused = set_quorum(config, update)  # type: ignore[arg-type]
    assert isinstance(refused, Report)
    assert (refused.code, words in refused.message) == (code, True), refused.message


def test_the_log_on_a_disk_may_grow() -> None:
    done = set_quorum(replace(ALONE, quorum=DISK), SetQuorum(max_log_kb=6_000))
    assert isinstance(done, Done)
    assert done.config.quorum == replace(DISK, max_log_kb=6_000)


def test_the_hold_of_a_disk_changes_the_leases_with_it() -> None:
    """Longer at once; after a change to a shorter one, who has not read of it is judged by the longest there can be."""
    before = replace(ALONE, quorum=DISK, timing=DISK.timing_of("lan"))
    longer = set_quorum(before, SetQuorum(hold_ms=2_000))
    assert isinstance(longer, Done)
    assert longer.config.timing.lease_ms == disk_timing(LAN, 2_000).lease_ms
    assert longer.config.voters_version == before.voters_version + 1
    assert longer.config.timing_version == before.timing_version
    assert "for 2000 ms at a time" in longer.records[0].message
    back = set_quorum(longer.config, SetQuorum(hold_ms=-1))
    assert isinstance(back, Done)
    assert (back.config.quorum, back.config.timing) == (DISK, before.timing)
    assert back.config.timing_version == longer.config.voters_version + 1
    assert slowest_silence_ms(back.config.quorum) >= longer.config.timing.silence_ms()


@pytest.mark.parametrize(
    "wrong",
    [{"disk": ""}, {"device": ""}, {"disk": "x" * 16}, {"hold_ms": 20}, {"hold_ms": 30_000}, {"device": "/" * 2_000}],
)
def test_a_quorum_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    assert check_quorum(DISK) is None
    assert check_quorum(replace(DISK, **wrong)) is not None  # type: ignore[arg-type]


def test_leases_on_a_disk_outlast_a_change_of_its_owner() -> None:
    """Who is granted a lease just before the owner dies hears the next owner in time."""
    timing = DISK.timing_of("lan")
    disk = disk_timing(LAN)
    assert timing.lease_ms == disk.lease_ms > disk.hold_ms + disk.suspect_ms
    assert replace(timing, lease_ms=LAN.lease_ms) == LAN
    assert Quorum().timing_of("lan") == LAN
    assert slowest_silence_ms(DISK) > slowest_silence_ms(Quorum())


def applied(config: Config, *updates: Update) -> Config:
    """The configuration after updates, none of which is refused."""
    for number, update in enumerate(updates):
        proposal = Proposal(request=RequestId(f"r{number}"), proposer=NodeId(1), at_ms=0, update=update)
        done = apply(replace(config, recent={}), proposal)
        assert done.refusal is None, done.refusal
        config = done.config
    return config


THREE = cluster(node(1), node(2), node(3, up=False))
TO_DISK = SetQuorum(quorum=replace(DISK, generation=1))


def test_those_who_are_up_when_a_majority_gives_way_are_unsettled() -> None:
    config = applied(THREE, TO_DISK)
    assert {each.id: each.unsettled for each in config.nodes.values()} == {1: True, 2: True, 3: False}
    assert config.quorum == replace(DISK, generation=1, former_silence_ms=0)
    assert config.timing == DISK.timing_of("lan")
    assert (config.voters_version, config.settling_version, config.timing_version) == (1, 1, 0)
    assert isinstance(set_voter(config, SetVoter(node=NodeId(3), voter=False, voters_version=1)), Report)


@pytest.mark.parametrize(
    "update",
    [
        NodeSettled(node=NodeId(2), incarnation=1, settling_version=1),
        NodeDown(node=NodeId(2), incarnation=1, voters_version=1, because="x"),
        NodeUp(node=NodeId(2), incarnation=1, boot=2, attempt=1),
    ],
)
def test_a_node_settles_by_its_word_its_end_or_its_return(update: Update) -> None:
    config = applied(THREE, TO_DISK, update)
    assert [each.unsettled for each in config.nodes.values()] == [True, False, False]


def test_a_word_about_another_change_settles_nobody() -> None:
    config = applied(THREE, TO_DISK)
    wrong = NodeSettled(node=NodeId(2), incarnation=1, settling_version=0)
    done = apply(config, Proposal(request=RequestId("x"), proposer=NodeId(1), at_ms=0, update=wrong))
    assert done.refusal is not None and done.refusal.code == "stale"


def test_away_from_a_disk_the_faster_leases_count_when_it_is_known() -> None:
    """Nobody is unsettled; but the slowest silence there can have been counts until a node says that it knows."""
    slow = replace(DISK, hold_ms=20_000)
    config = applied(
        replace(cluster(node(1), node(2)), quorum=slow, timing=slow.timing_of("lan")),
        SetQuorum(quorum=Quorum(generation=1)),
    )
    assert not any(each.unsettled for each in config.nodes.values())
    assert config.timing == LAN
    assert (config.timing_version, config.voters_version) == (1, 1)
    assert config.quorum.former_hold_ms == 20_000
    assert config.quorum.former_silence_ms == slow.timing_of("lan").silence_ms()
    assert slowest_silence_ms(config.quorum) == slowest_silence_ms(slow) > 20_000
    wan = applied(config, SetClusterProperties(common={"TimingProfile": "wan"}, quicker=True))
    assert wan.quorum.former_silence_ms == config.quorum.former_silence_ms
    lan = applied(wan, SetClusterProperties(common={"TimingProfile": "lan"}, quicker=True))
    assert (lan.quorum.former_silence_ms, lan.timing_version) == (0, 3)


def test_a_cut_is_an_entry_of_its_own() -> None:
    batch = Batch(updates=(TO_DISK, PauseNode(node=NodeId(1))))
    done = apply(THREE, Proposal(request=RequestId("x"), proposer=NodeId(1), at_ms=0, update=batch))
    assert done.refusal is not None and done.refusal.code == "quorum-in-batch"
    assert done.config.quorum == Quorum()


def test_the_log_of_a_majority_begins_anew_for_a_node_that_lost_its_part() -> None:
    """It is a cut like any other, but nobody acts by anything else than before."""
    before = cluster(node(1), node(2), node(3))
    wanted = Quorum(generation=1)
    done = set_quorum(before, SetQuorum(quorum=wanted, voters_version=before.voters_version, anew=True))
    assert isinstance(done, Done)
    after = done.config
    assert (after.quorum.kind, after.quorum.generation, after.timing) == (QuorumKind.MAJORITY, 1, before.timing)
    assert after.nodes == before.nodes
    assert "begins anew" in done.records[0].message
    disk = replace(before, quorum=DISK)
    for config, quorum in ((disk, replace(DISK, generation=1)), (before, replace(DISK, generation=1)), (disk, wanted)):
        refused = set_quorum(config, SetQuorum(quorum=quorum, voters_version=config.voters_version, anew=True))
        assert isinstance(refused, Report)
        assert refused.code == "quorum-change-refused"
