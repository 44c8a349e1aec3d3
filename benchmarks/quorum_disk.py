"""Two nodes and a quorum disk: ``python -m benchmarks.quorum_disk [--disks file,iscsi,iscsi-sync] [--rounds 5]``.

For a file on shared storage (the on-disk lease), for an iSCSI disk of ``tgt`` (persistent reservations), and for one
whose target writes synchronously through to this machine's disk, with the default settings:

* how long one synchronous write of 4096 bytes takes by the product's own adapter, and a committed entry at the log
  itself, in turn (``benchmarks.disk_log``); how long a committed update takes for one client of the administration on
  the node that owns the disk, and on the other one;
* how long clients see nothing when the node with their group dies, which owns the disk or does not, and when the link
  between the nodes is cut at that node. ``--rounds 0`` leaves that out.

Needs root; iSCSI is skipped if ``tgt`` is not installed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.outage import SETTLED_ANSWERS, one_round
from benchmarks.updates import measure as measure_updates
from clussvc.quorum.disk_layout import DISK_BYTES_MIN, LAST_WORDS_MS
from tests.cluster.formation import GROUP, Cluster
from tests.cluster.lab import REPOSITORY, Lab, Node, environment
from tests.cluster.storage import Storage, can_serve

RESULTS: Final = Path(__file__).with_name("results")
ENTRIES: Final = 1_000
DISKS: Final = ("file", "iscsi", "iscsi-sync")
FAULTS: Final = ("crash", "cut")


def at_the_log(node: Node, place: str) -> dict[str, Any]:
    """What the disk and the log on it take, on a place of its own of the same kind: see benchmarks.disk_log."""
    words = (sys.executable, "-m", "benchmarks.disk_log", place, "--entries", str(ENTRIES))
    done = subprocess.run(
        node.enter("env", f"PYTHONPATH={REPOSITORY}", *words),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(disk: str, rounds: int, chance: random.Random) -> dict[str, Any]:
    """Everything for one kind of disk."""
    with (
        tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as name,
        Lab(folder=Path(name), nodes=2) as lab,
    ):
        storage = None
        if disk != "file":
            storage = Storage(lab, size_bytes=2 * DISK_BYTES_MIN, synchronous=disk == "iscsi-sync")
        try:
            return _measure(lab, disk, storage, rounds, chance)
        finally:
            if storage is not None:
                storage.close()


def _measure(lab: Lab, disk: str, storage: Storage | None, rounds: int, chance: random.Random) -> dict[str, Any]:
    cluster = Cluster(lab)
    place = storage.place if storage else str(lab.folder / "quorum.disk")
    cluster.form("lan", quorum=place)
    owner = lab.named(str(cluster.coordinator(lab[1])))
    other = next(node for node in lab.nodes if node is not owner)
    found: dict[str, Any] = {
        "log": at_the_log(owner, storage.add_disk() if storage else str(lab.folder / "scratch.disk")),
        "updates_on_owner": measure_updates("clussvc", owner, str(owner.socket), 1, 10.0),
        "updates_on_other": measure_updates("clussvc", other, str(other.socket), 1, 10.0),
    }
    print(f"{disk}: {json.dumps(found)}", flush=True)
    cluster.create_web_group(failback=True)
    # Nobody is to find that the group has failed over too often.
    cluster.command("group", GROUP, "/prop", "FailoverThreshold=1000")
    found["rounds"] = []
    for number in range(rounds):
        for fault in FAULTS:
            for owns in (True, False):
                cluster.put_in_order()
                _give_disk(cluster, owns)
                probe = lab.probe(rate_hz=SETTLED_ANSWERS)
                done = one_round(cluster, probe, fault, chance)
                probe.end()
                found["rounds"].append({"round": number + 1, "owns": owns, **done})
                print(f"{disk} round {number + 1} {fault} owns={owns}: {done['outage_s']:.3f} s", flush=True)
    return found


def _give_disk(cluster: Cluster, owns: bool) -> None:
    """Have NODE1, which runs the group, own the disk or not: the other one's service is started anew if need be."""
    first, second = cluster.lab.nodes
    wanted, unwanted = (first, second) if owns else (second, first)
    if str(cluster.coordinator(wanted)) == wanted.name:
        return
    unwanted.stop_service()
    unwanted.wait_service_ended()
    unwanted.start_service()
    cluster.wait_all_up()
    # A node that was started a moment ago waits before it writes on the disk; that is not what is measured here.
    time.sleep(LAST_WORDS_MS / 1000)
    if cluster.owner(on=first) is not first:
        cluster.command("group", GROUP, f"/moveto:{first.name}", "/wait:60")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="quorum_disk", description="Two nodes and a quorum disk.")
    parser.add_argument("--disks", type=lambda text: text.split(","), default=list(DISKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    disks = [disk for disk in arguments.disks if disk == "file" or can_serve()]
    chance = random.Random(arguments.seed)
    found = {"machine": machine(), "disks": {disk: measure(disk, arguments.rounds, chance) for disk in disks}}
    path = RESULTS / f"quorum-disk-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n")
    for disk, told in found["disks"].items():
        for fault in FAULTS:
            for owns in (True, False) if told["rounds"] else ():
                mine = [one["outage_s"] for one in told["rounds"] if (one["fault"], one["owns"]) == (fault, owns)]
                what = f"{disk} {fault} {'of the owner' if owns else 'of the other node'}"
                print(f"{what}: {min(mine):.3f} / {statistics.median(mine):.3f} / {max(mine):.3f} s")
    print(f"Every round: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
