"""How long a committed entry takes on a quorum disk, at the log itself: ``python -m benchmarks.disk_log PLACE``.

One node owns the disk at ``PLACE`` (a new file, a device, ``iscsi://HOST/TARGET/LUN``; what lies there is overwritten)
and proposes one entry of 300 bytes after the other. Measured is the time from the proposal, made on another thread as
the service makes it, to the moment at which the log says that the entry is committed; that is what the benchmarks of
Raft libraries measure too. In turn with that, in the same process, one synchronous write of 4096 bytes through the same
adapter to the last sector of the same disk. What commands see comes on top: see ``benchmarks.quorum_disk``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

from clussvc.global_update.disk.disk_thread import DiskLogThread
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.model.settings import LAN, disk_timing
from clussvc.ports import Outcome, OutcomeKind, QuorumDevice
from clussvc.quorum.devices import open_device
from clussvc.quorum.disk_layout import SECTOR_BYTES
from clussvc.service.quorum_choice import Wanted, initiator_name, prepare
from clussvc.service.settings_file import NodeFile

COMMAND: Final = bytes(300)
TURN: Final = 100
"""So many entries, then so many writes, and again."""
STRANGER: Final = 0xBE << 40
"""The key of the session that writes besides the log."""
CLIENTS: Final = 16
"""How many wait at the same time, where it is measured how much fits into a second."""


class _State:
    """Nothing is kept; the log alone is measured."""

    retired = False

    highest_node = 2

    def apply(self, index: int, command: bytes) -> bytes:
        """See StateMachine."""
        return b""

    def snapshot(self) -> bytes:
        """See StateMachine."""
        return b"nothing"

    def restore(self, index: int, image: bytes) -> None:
        """See StateMachine."""


def spread(taken_ms: list[float]) -> dict[str, float]:
    """Median, nineteen twentieths, most; in milliseconds."""
    ordered = sorted(taken_ms)
    most = {"median_ms": statistics.median(ordered), "p95_ms": ordered[len(ordered) * 95 // 100], "max_ms": ordered[-1]}
    return {name: round(value, 3) for name, value in most.items()}


def _node_file(folder: Path) -> NodeFile:
    return NodeFile(
        cluster="BENCH",
        cluster_id="b" * 32,
        node="NODE1",
        node_id=1,
        addresses=("127.0.0.1",),
        port=3343,
        admin_port=0,
        data=folder,
        socket=folder / "admin.sock",
    )


def _entry(log: DiskLogThread) -> float:
    """Milliseconds until one entry is committed."""
    done, ended_s = threading.Event(), 0.0

    def answered(outcome: Outcome) -> None:
        nonlocal ended_s
        ended_s = time.perf_counter()
        assert outcome.kind is OutcomeKind.COMMITTED, outcome
        done.set()

    begin_s = time.perf_counter()
    log.propose(COMMAND, 10.0, answered)
    assert done.wait(20)
    return (ended_s - begin_s) * 1000


def _write(device: QuorumDevice) -> float:
    sector = device.sectors - 1
    begin_s = time.perf_counter()
    device.write(sector, bytes(SECTOR_BYTES))
    return (time.perf_counter() - begin_s) * 1000


def _per_second(log: DiskLogThread, seconds: float) -> float:
    """Entries in a second when many wait."""
    counts = [0] * CLIENTS
    end_s = time.perf_counter() + seconds

    def client(number: int) -> None:
        while time.perf_counter() < end_s:
            _entry(log)
            counts[number] += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def measure(place: str, entries: int) -> dict[str, Any]:
    """Everything for one disk."""
    with tempfile.TemporaryDirectory() as name:
        file = _node_file(Path(name))
        quorum: Quorum = prepare(Wanted(force=True), place, file, base_index=0, generation=0)
        held = threading.Event()
        log = DiskLogThread(
            node_id=NodeId(1),
            cluster_id=file.cluster_id,
            boot=1,
            quorum=quorum,
            timing=disk_timing(LAN),
            open_device=lambda: open_device(place, initiator=initiator_name(file), timeout_ms=5_000),
            state_machine=_State(),
            index=0,
            send=lambda node, frame: None,
            tell=lambda _: held.set(),
            on_leader_changed=lambda leader, leads: None,
            on_fatal=lambda error: print(f"the log failed: {error}"),
        )
        log.start()
        log.contest(wanted=True, client_networks=1)
        assert held.wait(20), "nobody owns the disk"
        device = open_device(place, initiator=initiator_name(file), timeout_ms=5_000)
        if quorum.reservations:
            # The disk is reserved for registrants, and this session is another one than that of the log.
            device.register(STRANGER)
        taken: list[float] = []
        writes: list[float] = []
        for _ in range(20):
            _entry(log), _write(device)
        while len(taken) < entries:
            taken += [_entry(log) for _ in range(TURN)]
            writes += [_write(device) for _ in range(TURN)]
        found: dict[str, Any] = {
            "write": spread(writes),
            "entry": spread(taken),
            "entries_per_s": round(_per_second(log, 3.0)),
        }
        if quorum.reservations:
            device.unregister(STRANGER)
        device.close()
        log.give_back()
        log.stop()
    ratio = statistics.median(taken) / statistics.median(writes)
    return found | {"ratio": round(ratio, 2)}


def main() -> int:
    """Measure and print, as JSON."""
    parser = argparse.ArgumentParser(prog="disk_log", description="Committed entries on a quorum disk.")
    parser.add_argument("place")
    parser.add_argument("--entries", type=int, default=1_000)
    arguments = parser.parse_args()
    with contextlib.suppress(PermissionError):
        # Other work on this machine would make both figures those of its scheduler: a thread that has waited for the
        # disk then waits for a processor.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print(json.dumps(measure(arguments.place, arguments.entries)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
