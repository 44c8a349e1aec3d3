"""How long clients see nothing: rounds of faults against three nodes on machines made of namespaces.

``python -m benchmarks.outage [--profile lan] [--rounds 5] [--faults crash,cut,...]`` prints, for each fault, the
shortest, median and longest client-visible outage, and writes every round into ``benchmarks/results/``. A client opens
a new connection every 5 ms; the outage is the longest gap between two of its answers that ends after the fault. Before
each fault comes a random delay, so that faults meet periodic timers at any phase. Needs root, or
``unshare --user --map-root-user``.

| fault | what happens |
|---|---|
| crash | the owner's switch port goes down, then every process on it is killed |
| cut | the owner's switch port goes down; it sees its link go |
| mute | the switch forwards nothing from or to the owner any more; it sees nothing |
| daemon | the owner's cluster service is killed (SIGKILL) |
| monitor | the owner's resource monitor is killed; everything restarts in place |
| server | the web server's process is killed; it restarts in place |
| move | the group is moved in order, with ``cluster group WEB /moveto`` |
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from clussvc.model.settings import PROFILES
from tests.cluster.formation import GROUP, WEB_SERVER, Cluster
from tests.cluster.lab import Lab, Probe
from tests.cluster.probe import longest_gap

RESULTS: Final = Path(__file__).with_name("results")
RATE_HZ: Final = 200
SETTLED_ANSWERS: Final = RATE_HZ
"""A second of answers without a failure counts as the end of an outage."""


def crash(cluster: Cluster) -> None:
    """See the table above."""
    cluster.lab[1].crash()


def cut(cluster: Cluster) -> None:
    """See the table above."""
    cluster.lab[1].cut()


def mute(cluster: Cluster) -> None:
    """See the table above."""
    cluster.lab[1].mute()


def daemon(cluster: Cluster) -> None:
    """See the table above."""
    cluster.lab[1].kill_service()


def monitor(cluster: Cluster) -> None:
    """See the table above."""
    cluster.lab[1].kill_monitor()


def server(cluster: Cluster) -> None:
    """See the table above."""
    pid = cluster.process(cluster.lab[1], WEB_SERVER)
    assert pid is not None, "the web server does not run on NODE1"
    os.kill(pid, 9)


def move(cluster: Cluster) -> None:
    """See the table above."""
    cluster.command("group", GROUP, "/moveto:NODE2", "/wait:60")


FAULTS: Final[dict[str, Callable[[Cluster], None]]] = {
    fault.__name__: fault for fault in (crash, cut, mute, daemon, monitor, server, move)
}


def one_round(cluster: Cluster, probe: Probe, fault: str, chance: random.Random) -> dict[str, Any]:
    """One fault and the way back from it; the times in seconds."""
    cluster.put_in_order()
    ready_s = time.monotonic()
    probe.wait_answered(since_s=ready_s, answers=SETTLED_ANSWERS)
    time.sleep(chance.uniform(0, 1))
    fault_s = time.monotonic()
    FAULTS[fault](cluster)
    probe.wait_answered(since_s=fault_s + 0.02, answers=SETTLED_ANSWERS)
    over_s = time.monotonic()
    gap = longest_gap(probe.attempts(), since_s=fault_s, until_s=over_s)
    cluster.put_in_order()
    probe.wait_answered(since_s=time.monotonic(), answers=SETTLED_ANSWERS)
    back = longest_gap(probe.attempts(), since_s=over_s)
    assert gap is not None
    assert back is not None
    return {
        "fault": fault,
        "outage_s": round(gap.length_s, 4),
        "from": gap.before.node,
        "to": gap.after.node,
        "gap_on_return_s": round(back.length_s, 4),
        "load": os.getloadavg()[0],
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rounds, the faults taking turns."""
    rounds = []
    chance = random.Random(arguments.seed)
    folder = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
    with folder, Lab(folder=Path(folder.name)) as lab:
        cluster = Cluster(lab)
        cluster.form(arguments.profile)
        cluster.create_web_group(failback=True)
        for number in range(arguments.rounds):
            for fault in arguments.faults:
                # A client for each round keeps the file that is read again and again short.
                probe = lab.probe(rate_hz=RATE_HZ)
                done = one_round(cluster, probe, fault, chance)
                probe.end()
                rounds.append({"round": number + 1, **done})
                print(
                    f"round {number + 1} {fault:<8} {done['outage_s']:7.3f} s  {done['from']} -> {done['to']}"
                    f"   on return {done['gap_on_return_s']:.3f} s",
                    flush=True,
                )
        cluster.check_worker()
    return rounds


def table(rounds: list[dict[str, Any]], faults: list[str]) -> str:
    """The figures, one line for each fault."""
    lines = ["| fault | n | min s | median s | max s | on return, max s |", "|---|---|---|---|---|---|"]
    for fault in faults:
        mine = [one for one in rounds if one["fault"] == fault]
        outages = [one["outage_s"] for one in mine]
        lines.append(
            f"| {fault} | {len(mine)} | {min(outages):.3f} | {statistics.median(outages):.3f} | {max(outages):.3f}"
            f" | {max(one['gap_on_return_s'] for one in mine):.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="outage", description="How long clients see nothing.")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--faults", type=lambda text: text.split(","), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if unknown := [fault for fault in arguments.faults if fault not in FAULTS]:
        parser.error(f"unknown fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    rounds = measure(arguments)
    print(f"\nprofile {arguments.profile}\n\n{table(rounds, arguments.faults)}")
    path = arguments.output or RESULTS / f"outage-{arguments.profile}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    path.write_text(json.dumps({"profile": arguments.profile, "machine": machine, "rounds": rounds}, indent=2) + "\n")
    print(f"\nEvery round: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
