"""By what a node acts while the quorum changes, and who may declare it down meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.membership.jury import Jury
from clussvc.membership.mandate import Mandate
from clussvc.membership.regroup import declare_down, settled, why_no_cut
from clussvc.model.config import Config, Node
from clussvc.model.ids import ClusterId, NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import LAN
from clussvc.quorum.disk_messages import Held, Lost
from tests.unit.membership.station import Station

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
ALL = frozenset({N1, N2, N3})
DISK = Quorum(kind=QuorumKind.DISK, device="/dev/sdb", disk="0" * 15 + "1", sectors=25_600, generation=1)
ON_DISK = DISK.timing_of("lan")
SUSPECT_MS = 250


def mandate(quorum: Quorum, *, now_ms: int = 0) -> Mandate:
    return Mandate(N1, quorum, suspect_ms=SUSPECT_MS, drift_ppm=1_000, now_ms=now_ms)


def changed(before: Mandate, quorum: Quorum, table: Station, now_ms: int, *, acts: bool = True) -> None:
    former = ON_DISK if before.hold is not None else LAN
    before.change(quorum, table, acts=acts, former=former, suspect_ms=SUSPECT_MS, now_ms=now_ms, first=False)


def held(until_ms: int) -> Held:
    return Held(epoch=1, until_ms=until_ms, before=None, before_over_ms=0)


def talk(one: Station, other: Station, now_ms: int, *, grants: bool = False, version: int = 1) -> None:
    """Each hears the other; ``other`` may grant a lease."""
    other.listen(one.say(now_ms), now_ms)
    one.listen(other.say(now_ms, grants=grants, voters_version=version), now_ms)


@pytest.fixture
def table() -> Station:
    return Station(N1, ALL)


def test_a_majority_counts_until_the_first_grant_and_never_again(table: Station) -> None:
    mine, other = mandate(Quorum()), Station(N2, ALL)
    talk(table, other, 100)
    assert mine.until_ms(table, ALL, 100) == 100 + LAN.lease_ms
    changed(mine, DISK, table, 120)
    assert mine.until_ms(table, ALL, 120) == 100 + LAN.lease_ms
    assert not mine.settles(table, ON_DISK, 130, acts=True)
    talk(table, other, 200, grants=True)
    assert mine.settles(table, ON_DISK, 200, acts=True)
    talk(table, other, 300)
    assert mine.until_ms(table, ALL, 300) == 200 + LAN.lease_ms == table.granted_until_ms()
    assert not mine.settled(200 + ON_DISK.silence_ms() - 1)
    assert mine.settled(200 + ON_DISK.silence_ms())


def test_the_owner_of_the_new_disk_acts_by_its_hold(table: Station) -> None:
    mine = mandate(Quorum())
    talk(table, Station(N2, ALL), 100)
    changed(mine, DISK, table, 100)
    assert mine.hold is not None
    mine.hold.take(held(300), table, 110)
    assert mine.settles(table, ON_DISK, 110, acts=True)
    assert mine.until_ms(table, ALL, 110) == 300


def test_who_does_not_act_keeps_nothing(table: Station) -> None:
    mine = mandate(Quorum())
    talk(table, Station(N2, ALL), 100)
    changed(mine, DISK, table, 100, acts=False)
    assert mine.until_ms(table, ALL, 100) <= 100
    assert mine.settled(100)


def test_the_last_grant_of_a_disk_that_is_left_runs_out(table: Station) -> None:
    mine, other = mandate(replace(DISK, generation=0)), Station(N2, ALL)
    talk(table, other, 100, grants=True)
    changed(mine, Quorum(generation=1, former_hold_ms=700), table, 120)
    talk(table, other, 200, grants=True)
    assert mine.bridge_until_ms == 100 + LAN.lease_ms
    assert mine.until_ms(table, ALL, 200) == 200 + LAN.lease_ms, "two of three have heard each other"
    assert mine.until_ms(table, frozenset({N1, N3, NodeId(4)}), 200) == 100 + LAN.lease_ms


def test_the_last_owner_goes_on_for_a_lease(table: Station) -> None:
    mine = mandate(replace(DISK, generation=0))
    assert mine.hold is not None
    mine.hold.take(held(700), table, 0)
    changed(mine, Quorum(generation=1, former_hold_ms=700), table, 100)
    assert mine.until_ms(table, ALL, 100) == 700 + ON_DISK.lease_ms
    # Whoever judges it has read of the change after it, and waits for a hold and for lease and budget from then on.
    judge = mandate(Quorum(generation=1, former_hold_ms=700), now_ms=100).jury(ALL)
    let_go_ms = judge.not_before_ms(N1, silence_ms=ON_DISK.silence_ms(), lease_ms=ON_DISK.lease_ms)
    assert let_go_ms > 700 + ON_DISK.lease_ms + ON_DISK.release_budget_ms


def test_an_owner_that_lost_the_disk_before_has_nothing_left(table: Station) -> None:
    mine = mandate(replace(DISK, generation=0))
    assert mine.hold is not None
    mine.hold.take(held(700), table, 0)
    mine.hold.take(Lost(because="x"), table, 50)
    changed(mine, Quorum(generation=1, former_hold_ms=700), table, 100)
    assert mine.until_ms(table, ALL, 100) <= 100


# --- who judges a node that is not settled --------------------------------------------------------------------------


def config(*, unsettled: bool, nodes: frozenset[NodeId] = ALL) -> Config:
    one = Node(id=N1, name="N", addresses=(), port=1, up=True, voter=True, incarnation=1, boot=1)
    each = {node: replace(one, id=node, name=f"N{node}", unsettled=unsettled and node != N1) for node in nodes}
    return Config(
        cluster=ClusterId("c"),
        name="C",
        timing=ON_DISK,
        quorum=DISK,
        voters_version=2,
        settling_version=2,
        nodes=each,
    )


def judged(known: Config, *, until_ms: int, third_hears: bool) -> list[NodeId]:
    """N1 owns the disk and hears N3, which may hear N2; who is declared down by the end."""
    judge, third, silent = Station(N1, known.nodes), Station(N3, known.nodes), Station(N2, known.nodes)
    jury = Jury(voters=frozenset({N1}), over_ms=0)
    found: list[NodeId] = []
    for now_ms in range(100, until_ms, 100):
        if third_hears:
            third.listen(silent.say(now_ms), now_ms)
        if N3 in known.nodes:
            talk(judge, third, now_ms, version=2)
        found = [down.node for down in declare_down(known, judge, node=N1, jury=jury, now_ms=now_ms)]
    return found


@pytest.mark.parametrize(
    ("unsettled", "third_hears", "nodes", "expected"),
    [
        (True, True, ALL, []),
        (True, False, ALL, [N2]),
        (False, True, ALL, [N2]),
        (True, False, frozenset({N1, N2}), [N2]),
    ],
    ids=["a voter hears it", "nobody hears it", "it is settled", "two nodes: its majority needs the owner"],
)
def test_who_may_act_by_a_majority_is_down_when_that_is_over_too(
    unsettled: bool, third_hears: bool, nodes: frozenset[NodeId], expected: list[NodeId]
) -> None:
    known = config(unsettled=unsettled, nodes=nodes)
    assert judged(known, until_ms=8_000, third_hears=third_hears) == expected


def test_a_node_is_settled_by_its_own_word_alone() -> None:
    known, judge, other = config(unsettled=True), Station(N1, ALL), Station(N2, ALL)
    talk(judge, other, 100, version=1)
    assert settled(known, judge, node=N1, said_version=2) == ()
    talk(judge, other, 200, version=2)
    assert [each.node for each in settled(known, judge, node=N1, said_version=2)] == [N2]
    restarted = replace(known.nodes[N2], boot=7)
    again = replace(known, nodes={**known.nodes, N2: restarted})
    assert settled(again, judge, node=N1, said_version=2) == ()


def test_nothing_is_cut_before_all_are_heard_and_know() -> None:
    known, judge = config(unsettled=False), Station(N1, ALL)
    others = Station(N2, ALL), Station(N3, ALL)

    def why(now_ms: int, *, to_majority: bool) -> str:
        return why_no_cut(known, judge, node=N1, said_version=2, to_majority=to_majority, now_ms=now_ms)

    assert "nothing is heard of N2" in why(100, to_majority=False)
    for other in others:
        talk(judge, other, 100, version=1)
    assert "N2 does not act by the newest" in why(100, to_majority=False)
    for other in others:
        talk(judge, other, 200, version=2)
    assert why(200, to_majority=False) == ""
    assert "N2 does not hear N3" in why(200, to_majority=True)
    talk(others[0], others[1], 250, version=2)
    for other in others:
        talk(judge, other, 300, version=2)
    assert why(300, to_majority=True) == ""
