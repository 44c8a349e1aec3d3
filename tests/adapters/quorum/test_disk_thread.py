"""The log on a quorum disk on real threads: a proposal and an answer of the device may be made by whoever has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.global_update.disk.disk_thread import DiskLogThread
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.settings import LAN, disk_timing
from clussvc.ports import Outcome, OutcomeKind
from clussvc.quorum.devices.shared_file import SharedFile, create_file
from clussvc.quorum.disk_layout import DISK_BYTES_MIN, SECTOR_BYTES, Superblock, encode_superblock, used_sectors
from clussvc.quorum.disk_messages import GiveWay, Held, Lost

LIMIT_S = 20.0
CLUSTER = "c" * 32
SECTORS = used_sectors(DISK_BYTES_MIN // SECTOR_BYTES)
QUORUM = Quorum(kind=QuorumKind.DISK, device="x", disk=f"{7:016x}", sectors=SECTORS)


class Gate(SharedFile):
    """A file that answers nothing while the gate is closed."""

    open: threading.Event

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        assert self.open.wait(LIMIT_S)
        super().write(sector, data)


class Entries:
    """Counts, and sees that nobody else is at it."""

    retired = False

    highest_node = 1

    def __init__(self) -> None:
        self.applied: list[bytes] = []
        self.busy = threading.Lock()
        self.fail_on = b""

    def apply(self, index: int, command: bytes) -> bytes:
        """See StateMachine."""
        assert self.busy.acquire(blocking=False), "two let the log act at the same time"
        self.applied.append(command)
        time.sleep(0)
        self.busy.release()
        if command == self.fail_on:
            raise RuntimeError("a broken invariant")
        return b""

    def snapshot(self) -> bytes:
        """See StateMachine."""
        return b"all"

    def restore(self, index: int, image: bytes) -> None:
        """See StateMachine."""


class Member:
    """The owner of the disk."""

    def __init__(self, path: Path) -> None:
        create_file(str(path), SECTORS * SECTOR_BYTES)
        self.gate = threading.Event()
        self.gate.set()
        self.entries = Entries()
        self.owns, self.lost, self.failed = threading.Event(), threading.Event(), threading.Event()
        self.errors: list[Exception] = []
        self._path = path
        block = Superblock(cluster=CLUSTER, cluster_name="C", disk=7, sectors=SECTORS, prepared_ms=0)
        device = self.device()
        device.write(0, encode_superblock(block))
        device.close()
        self.log = DiskLogThread(
            node_id=1,
            cluster_id=CLUSTER,
            boot=1,
            quorum=QUORUM,
            timing=disk_timing(LAN),
            open_device=self.device,
            state_machine=self.entries,
            index=0,
            send=lambda node, frame: None,
            tell=self.told,
            on_leader_changed=lambda leader, leads: None,
            on_fatal=self.fatal,
        )
        self.log.start()
        self.log.contest(wanted=True, client_networks=1)
        assert self.owns.wait(LIMIT_S)

    def device(self) -> Gate:
        """The disk."""
        gate = Gate(str(self._path))
        gate.open = self.gate
        return gate

    def told(self, what: Held | Lost | GiveWay) -> None:
        """What the core would hear."""
        if isinstance(what, Held):
            self.owns.set()
        elif isinstance(what, Lost):
            self.lost.set()

    def fatal(self, error: Exception) -> None:
        """The process would end."""
        self.errors.append(error)
        self.failed.set()

    def propose(self, command: bytes, timeout_s: float = LIMIT_S) -> list[Outcome]:
        """Its outcome, when there is one."""
        outcomes: list[Outcome] = []
        self.log.propose(command, timeout_s, outcomes.append)
        return outcomes


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Member]:
    made = Member(tmp_path / "disk")
    yield made
    made.gate.set()
    made.log.stop()


def wait_for(outcomes: list[Outcome]) -> Outcome:
    end_s = time.monotonic() + LIMIT_S
    while not outcomes:
        assert time.monotonic() < end_s, "no outcome"
        time.sleep(0.002)
    assert len(outcomes) == 1
    return outcomes[0]


def test_many_proposers_and_one_order(owner: Member) -> None:
    """Every proposal is answered once, every entry is there once, and the log acts for one at a time."""
    found: list[Outcome] = []

    def client(name: int) -> None:
        for number in range(50):
            found.append(wait_for(owner.propose(b"%d.%d" % (name, number))))

    clients = [threading.Thread(target=client, args=(name,)) for name in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(LIMIT_S)
    assert [OutcomeKind.COMMITTED] * 400 == [outcome.kind for outcome in found]
    assert 400 == len(owner.entries.applied) == len(set(owner.entries.applied))
    for name in range(8):
        mine = [command for command in owner.entries.applied if command.startswith(b"%d." % name)]
        assert [b"%d.%d" % (name, number) for number in range(50)] == mine
    assert not owner.errors


def test_a_device_that_hangs_holds_up_no_proposer_and_no_clock(owner: Member) -> None:
    """The hold ends on time, though the thread of the device is not back; what was under way is unknown."""
    owner.gate.clear()
    first = owner.propose(b"first")
    second = owner.propose(b"second")
    assert owner.lost.wait(LIMIT_S)
    # The renewal may have been under way before the first was written; then that never came to be.
    assert wait_for(first).kind in (OutcomeKind.UNKNOWN, OutcomeKind.REFUSED)
    assert OutcomeKind.REFUSED is wait_for(second).kind
    owner.gate.set()
    owner.owns.clear()
    assert owner.owns.wait(LIMIT_S), "it takes the disk again"
    assert OutcomeKind.COMMITTED is wait_for(owner.propose(b"third")).kind


def test_a_failure_on_any_thread_ends_the_log(owner: Member) -> None:
    """Entries are applied on the thread of the device; what happens there is not lost with it."""
    owner.entries.fail_on = b"bad"
    owner.propose(b"bad")
    assert owner.failed.wait(LIMIT_S)
    assert "a broken invariant" in str(owner.errors[0])
    assert OutcomeKind.REFUSED is wait_for(owner.propose(b"next")).kind


def test_it_ends_while_the_device_hangs(owner: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clussvc.global_update.disk.device_worker.STOP_TIMEOUT_S", 0.2)
    owner.gate.clear()
    owner.propose(b"first")
    owner.log.stop()
    assert OutcomeKind.REFUSED is wait_for(owner.propose(b"second")).kind
