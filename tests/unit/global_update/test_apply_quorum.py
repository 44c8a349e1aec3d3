"""The choice of the quorum."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.apply_quorum import check_quorum, set_quorum
from clussvc.global_update.outcome import Done
from clussvc.global_update.update import SetQuorum
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
        (ALONE, SetQuorum(kind=QuorumKind.DISK), "quorum-change-refused", "create the cluster with it"),
        (replace(ALONE, quorum=DISK), SetQuorum(kind=QuorumKind.LOCAL), "quorum-change-refused", "another one"),
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
