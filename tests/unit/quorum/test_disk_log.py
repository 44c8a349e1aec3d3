"""The log on a quorum disk: stories, and many seeds of a rough world."""

from __future__ import annotations

import dataclasses
import random

import pytest

from clussvc.model.ids import NodeId
from clussvc.model.settings import LAN, disk_timing
from clussvc.quorum import disk_layout
from clussvc.quorum.arbitration import log_of
from clussvc.quorum.disk_layout import (
    FIRST_SLOT_SECTOR,
    GHOST_MS,
    LAST_WORDS_MS,
    SECTOR_BYTES,
    SLOT_SECTORS,
    Superblock,
)
from clussvc.quorum.disk_log import QuorumDiskLog
from clussvc.quorum.disk_messages import DiskFailed, DiskRequest, Perform, Write
from tests.unit.quorum.disk_world import TIMING, DiskWorld, Node, State

BOTH = pytest.mark.parametrize("reservations", [True, False], ids=["reservations", "leases"])


def settled(world: DiskWorld, limit_ms: int = 10_000) -> int:
    """Run until somebody owns the disk and every node that runs has all entries; says who owns it."""
    end = world.now_ms + limit_ms
    while world.now_ms < end:
        world.run(50)
        owner = world.owner()
        if owner is None:
            continue
        running = [node for node in world.nodes.values() if node.log is not None and node.id not in world.blind]
        if all(node.state.commands == owner.state.commands for node in running):
            return owner.id
    each = [(node.id, node.log and (node.log.role, node.log.index), node.troubles) for node in world.nodes.values()]
    raise AssertionError(f"the cluster does not settle: {each}")


@BOTH
def test_one_of_the_nodes_takes_an_empty_disk(reservations: bool) -> None:
    world = DiskWorld(1, 3, reservations=reservations)
    owner = settled(world)
    world.propose(owner, b"a")
    world.propose(owner % 3 + 1, b"b")
    world.run(1_000)
    settled(world)
    assert sorted(world.acknowledged) == [b"a", b"b"]
    world.check()
    assert len(world.owners) == 1


@BOTH
def test_the_next_owner_goes_on_where_the_last_one_was(reservations: bool) -> None:
    """Within a hold and a little more; what was acknowledged is there."""
    world = DiskWorld(2, 2, reservations=reservations)
    first = settled(world)
    for number in range(20):
        world.propose(first, b"entry %d" % number)
    world.run(500)
    assert len(world.acknowledged) == 20
    world.nodes[first].crash()
    crashed_ms = world.now_ms
    assert settled(world) != first
    assert world.now_ms - crashed_ms <= TIMING.hold_ms + TIMING.poll_ms + 200
    world.check()
    world.nodes[first].start()
    world.run(2_000)
    assert settled(world) != first
    world.check()


@BOTH
def test_an_owner_that_is_given_up_is_followed_at_once(reservations: bool) -> None:
    world = DiskWorld(3, 2, reservations=reservations)
    first = settled(world)
    world.nodes[first].act(lambda log: log.give_back(now_ms=world.now_ms))
    world.nodes[first].leader = None
    start_ms = world.now_ms
    while world.owner() is None or world.owner() is world.nodes[first]:
        world.run(10)
        assert world.now_ms - start_ms < TIMING.hold_ms


@BOTH
def test_a_full_log_is_replaced_by_an_image(reservations: bool) -> None:
    """Every node has everything, also one that was away and one that begins anew."""
    world = DiskWorld(4, 3, reservations=reservations, log_bytes_max=1)
    owner = settled(world)
    away = owner % 3 + 1
    world.nodes[away].crash()
    for number in range(2_000):
        world.propose(owner, b"entry %d" % number)
        world.run(5)
    world.run(2_000)
    assert len(world.acknowledged) == 2_000
    place = world.nodes[owner].log._place  # type: ignore[union-attr]
    assert place is not None
    assert place.generation > 0
    world.nodes[away].start()
    settled(world)
    world.nodes[owner].crash()
    settled(world)
    world.check()


@BOTH
def test_a_disk_that_stalls_for_less_than_a_hold_does_no_harm(reservations: bool) -> None:
    world = DiskWorld(5, 2, reservations=reservations)
    owner = settled(world)
    world.nodes[owner].stalled_until_ms = world.now_ms + TIMING.hold_ms // 2
    world.propose(owner, b"x")
    world.run(2_000)
    assert world.acknowledged == [b"x"]
    assert len(world.owners) == 1


@BOTH
def test_a_disk_that_stalls_for_longer_costs_the_ownership(reservations: bool) -> None:
    """What was asked meanwhile is unknown, and nobody takes it for committed; another node takes over."""
    world = DiskWorld(6, 2, reservations=reservations)
    owner = settled(world)
    world.nodes[owner].stalled_until_ms = world.now_ms + 3 * TIMING.hold_ms
    world.propose(owner, b"x")
    world.run(TIMING.hold_ms + 5)
    assert world.nodes[owner].held is None
    assert not world.acknowledged
    assert settled(world) != owner
    world.run(10_000)
    world.check()


@BOTH
def test_a_node_alone_takes_its_disk_again(reservations: bool) -> None:
    """After a stall, and after a restart; nobody else is there to do it."""
    world = DiskWorld(12, 1, reservations=reservations)
    assert settled(world) == 1
    world.propose(1, b"before")
    world.run(100)
    world.nodes[1].stalled_until_ms = world.now_ms + 5_000
    world.run(5_100)
    start_ms = world.now_ms
    assert settled(world) == 1
    assert world.now_ms - start_ms < 3 * TIMING.hold_ms
    world.nodes[1].crash()
    world.nodes[1].start()
    start_ms = world.now_ms
    assert settled(world) == 1
    # It waits until nothing of its earlier life can be on its way.
    assert LAST_WORDS_MS <= world.now_ms - start_ms < LAST_WORDS_MS + 3 * TIMING.hold_ms
    assert world.acknowledged == [b"before"]
    world.check()


@BOTH
def test_the_disk_lost_by_the_owner_alone(reservations: bool) -> None:
    world = DiskWorld(7, 3, reservations=reservations)
    owner = settled(world)
    world.blind.add(owner)
    world.run(TIMING.hold_ms + 5)
    assert world.nodes[owner].held is None
    assert settled(world) != owner
    assert world.nodes[owner].troubles
    world.blind.clear()
    world.run(2_000)
    settled(world)
    world.check()


@BOTH
def test_the_disk_lost_by_all_and_back(reservations: bool) -> None:
    world = DiskWorld(8, 3, reservations=reservations)
    settled(world)
    world.blind |= {1, 2, 3}
    world.run(5_000)
    assert world.owner() is None
    world.blind.clear()
    settled(world)
    world.check()


@BOTH
def test_the_better_connected_node_gets_the_disk(reservations: bool) -> None:
    """Two nodes, the link between them cut: the owner without clients gives way, and does not fight for it."""
    world = DiskWorld(9, 2, reservations=reservations)
    owner = settled(world)
    other = 3 - owner
    world.cut_link(1, 2)
    world.run(3_000)
    assert world.owner() is world.nodes[owner], "the owner has clients too, so it stays"
    world.nodes[owner].clients = 0
    world.run(2_000)
    assert world.owner() is world.nodes[other]
    assert world.nodes[owner].gave_way == [other]
    world.run(5_000)
    assert world.owner() is world.nodes[other]
    world.check()


@BOTH
def test_an_owner_without_clients_stays_when_nobody_else_has_any(reservations: bool) -> None:
    world = DiskWorld(10, 2, reservations=reservations)
    owner = settled(world)
    for node in world.nodes.values():
        node.clients = 0
    world.cut_link(1, 2)
    world.run(5_000)
    assert world.owner() is world.nodes[owner]


def test_a_preempted_owner_is_refused_by_the_device() -> None:
    """It stood still while it wrote; the device refuses the rest."""
    world = DiskWorld(11, 2, reservations=True)
    owner = settled(world)
    world.nodes[owner].frozen_until_ms = world.now_ms + 5_000
    world.run(3_000)
    assert world.owner() is world.nodes[3 - owner]
    assert owner not in world.disk.registered
    world.run(4_000)
    settled(world)
    world.check()


@BOTH
@pytest.mark.parametrize("seed", range(20))
def test_many_seeds(seed: int, reservations: bool) -> None:
    rough_story(seed, reservations=reservations)


def rough_story(seed: int, *, reservations: bool) -> DiskWorld:
    """Faults of all kinds for half a minute, then peace."""
    world = DiskWorld(seed, 2 + seed % 4, reservations=reservations, log_bytes_max=1 if seed % 3 else 4096 * 1024)
    chance = world.random
    count = 0
    for _ in range(60):
        world.run(chance.randint(50, 900))
        numbers = sorted(world.nodes)
        number = chance.choice(numbers)
        node = world.nodes[number]
        match chance.randrange(9):
            case 0:
                if node.log is None:
                    node.start()
                else:
                    node.crash()
            case 1:
                node.stalled_until_ms = world.now_ms + chance.randint(10, 3_000)
            case 2:
                node.frozen_until_ms = world.now_ms + chance.randint(10, 3_000)
            case 3:
                other = chance.choice(numbers)
                if other != number:
                    world.cut_link(number, other)
            case 4:
                world.mend()
            case 5:
                world.blind ^= {number}
            case 6:
                node.clients = chance.choice((0, 1, 2))
            case _:
                for each in numbers:
                    if world.nodes[each].log is None and chance.random() < 0.5:
                        world.nodes[each].start()
        for each in numbers:
            for _ in range(chance.choice((0, 1, 5))):
                count += 1
                world.propose(each, b"command %d %s" % (count, b"x" * chance.choice((1, 100, 9_000))))
    world.mend()
    world.blind.clear()
    for node in world.nodes.values():
        node.clients = 1
        if node.log is None:
            node.start()
    world.run(4_000)
    settled(world)
    world.check()
    return world


def test_an_old_word_never_takes_the_place_of_a_newer_one() -> None:
    """A write of the slot is not answered in time, and takes effect when the node has long written newer ones."""
    world = DiskWorld(13, 2, reservations=False)
    owner = settled(world)
    late: list[Write] = []
    ask = world.ask_disk

    def lose_one(node: Node, log: QuorumDiskLog, request: DiskRequest) -> None:
        if late or node.id != owner or not isinstance(request, Write) or request.sector > SLOT_SECTORS:
            ask(node, log, request)
            return
        late.append(request)
        lost = DiskFailed(code="device-lost", detail="no answer")
        world.later(20, lambda: node.act(lambda log: log.answered(lost, now_ms=world.now_ms)))

    world.ask_disk = lose_one  # type: ignore[method-assign]
    world.run(TIMING.renew_ms + 100)
    (write,) = late
    before = world.disk.sectors.get(write.sector)
    # So many renewals that every copy but that one has been used again and again.
    world.run(GHOST_MS - 2 * TIMING.renew_ms)
    assert settled(world) == owner
    assert world.disk.sectors.get(write.sector) == before
    slots = disk_layout.decode_slots(world.disk.read(FIRST_SLOT_SECTOR, SLOT_SECTORS), world.block.disk)
    world.disk.put(owner, write.sector, write.data)
    assert slots == disk_layout.decode_slots(world.disk.read(FIRST_SLOT_SECTOR, SLOT_SECTORS), world.block.disk)
    world.run(2 * GHOST_MS)
    assert world.disk.sectors[write.sector] != write.data


@BOTH
def test_a_damaged_log_is_given_up_only_when_somebody_says_so(reservations: bool) -> None:
    """Nobody takes it over; then one node is told to go on with what it has, and all others become like it."""
    world = DiskWorld(14, 3, reservations=reservations)
    owner = settled(world)
    for number in range(50):
        world.propose(owner, b"entry %d" % number)
        world.run(20)
    world.run(1_000)
    settled(world)
    for node in world.nodes.values():
        node.crash()
    place = log_of(disk_layout.decode_slots(world.disk.read(FIRST_SLOT_SECTOR, SLOT_SECTORS), world.block.disk))
    assert place is not None
    damaged = disk_layout.area_start(world.block, place.area) + place.log_start + 20
    world.disk.sectors[damaged] = bytes(SECTOR_BYTES)
    # What the node with the oldest state has is what goes on.
    chosen = world.nodes[owner % 3 + 1]
    chosen.state.commands = chosen.state.commands[:10]
    for node in world.nodes.values():
        node.state.commands = node.state.commands[:10]
        node.start()
    world.run(20_000)
    assert all(node.held is None for node in world.nodes.values())
    said = [text for node in world.nodes.values() for code, text in node.troubles if code == "quorum-damaged"]
    assert said and all("--resetquorumlog" in text and "/forcequorum:NODE,..." in text for text in said)

    chosen.crash()
    chosen.start(reset_log=True)
    world.run(30_000)
    assert world.owner() is not None
    world.propose(chosen.id, b"after")
    world.run(2_000)
    assert {tuple(node.state.commands) for node in world.nodes.values()} == {
        (*(b"entry %d" % number for number in range(10)), b"after")
    }


@pytest.mark.parametrize("after_ms", range(0, 500, 50))
def test_a_hold_that_runs_keeps_its_end_when_holds_become_shorter(after_ms: int) -> None:
    """The owner renews by the shorter timing and then stalls: others wait for what it held before all the same."""
    slow, quick = disk_timing(LAN, 1_000), disk_timing(LAN, 100)
    world = DiskWorld(7, 2, reservations=False)
    for node in world.nodes.values():
        node.act(lambda log: log.set_timing(slow, now_ms=world.now_ms))
    world.run(2_000)
    first = settled(world)
    for node in world.nodes.values():
        node.act(lambda log: log.set_timing(quick, now_ms=world.now_ms))
    world.run(after_ms)
    world.cut_link(1, 2)
    world.nodes[first].stalled_until_ms = world.now_ms + 3_000
    start_ms = world.now_ms
    # The world itself sees that no two own the disk.
    while (owner := world.owner()) is None or owner.id == first:
        world.run(1)
        assert world.now_ms < start_ms + slow.hold_ms + 500
    world.check()


# --- the end of a log ------------------------------------------------------------------------------------------------


@BOTH
def test_nothing_comes_behind_the_last_entry(reservations: bool) -> None:
    """The owner gives the disk free and says so on it; nobody owns it again, and all have the same entries, also a node
    that was down meanwhile and finds the end alone."""
    world = DiskWorld(11, 3, reservations=reservations)
    owner = settled(world)
    away = owner % 3 + 1
    world.nodes[away].crash()
    for command in (b"a", b"the last one", b"b", b"c"):
        world.propose(owner, command)
    world.run(500)
    assert world.owner() is None
    assert world.acknowledged == [b"a", b"the last one"]
    assert world.refused == {b"b", b"c"}
    block = disk_layout.decode_superblock(world.disk.sectors[0])
    assert block is not None and block.left
    assert not world.disk.registered
    owners = list(world.owners)
    for node in world.nodes.values():
        if node.log is not None:
            assert node.log.finished
            world.propose(node.id, b"d")
            node.crash()
    world.nodes[away].start()
    world.run(LAST_WORDS_MS + 3_000)
    assert world.nodes[away].state.commands == [b"a", b"the last one"]
    assert world.nodes[away].log.finished  # type: ignore[union-attr]
    assert world.owners == owners
    assert world.refused == {b"b", b"c", b"d"}


@BOTH
def test_a_disk_that_was_prepared_anew_is_touched_by_nobody_who_knows_the_old_one(reservations: bool) -> None:
    """It may hold the log of another cluster by now. An owner lets go at once."""
    world = DiskWorld(12, 2, reservations=reservations)
    settled(world)
    fresh = dataclasses.replace(world.block, disk=8)
    before = {0: disk_layout.encode_superblock(fresh)}
    world.run(100)
    world.disk.sectors.clear()
    world.disk.sectors.update(before)
    world.run(10_000)
    # One write of an owner may have been on its way; whoever looked since has written nothing.
    written = set(world.disk.sectors) - set(before)
    assert len(written) <= 1
    assert world.owner() is None
    for node in world.nodes.values():
        words = ("prepared anew", "Start any other node", "/forcequorum:NODE,...", "cluster node /forcecleanup")
        assert all(word in node.troubles[-1][1] for word in words)


@pytest.mark.parametrize(
    ("code", "most"), [("device-unsuitable", 11), ("quorum-damaged", 11), ("device-lost", 200)], ids=str
)
def test_a_disk_that_is_another_one_is_looked_at_now_and_then(code: str, most: int) -> None:
    """Each look opens it anew, which costs a session; one that does not answer may be back at any moment."""
    log = QuorumDiskLog(
        node=NodeId(1),
        boot=1,
        key=0,
        superblock=Superblock(cluster="c", cluster_name="C", disk=7, sectors=12_800, prepared_ms=0),
        timing=TIMING,
        state=State(1),
        index=0,
        log_bytes_max=1 << 20,
        rng=random.Random(1),
        now_ms=0,
    )
    log.contest(wanted=True, client_networks=1, now_ms=0)
    looks = 0
    for now_ms in range(0, 10_000, 10):
        log.tick(now_ms=now_ms)
        for action in log.take():
            if isinstance(action, Perform):
                looks += 1
                log.answered(DiskFailed(code=code, detail="it is another one"), now_ms=now_ms)
    assert most // 2 <= looks <= most


@BOTH
def test_a_node_that_lacks_the_beginning_says_who_has_it(reservations: bool) -> None:
    """The log on an empty disk goes on where the log before it ended; who had not read that far cannot begin it."""
    world = DiskWorld(13, 2, reservations=reservations)
    world.block = dataclasses.replace(world.block, base_index=5)
    world.disk.sectors[0] = disk_layout.encode_superblock(world.block)
    for node in world.nodes.values():
        node.crash()
        node.start()
    world.run(20_000)
    assert world.owner() is None
    for node in world.nodes.values():
        code, text = node.troubles[-1]
        assert code == "quorum-behind"
        assert "Start a node that was up when this disk was chosen" in text and "/forcequorum:NODE,..." in text
