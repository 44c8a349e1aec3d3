"""How long a question of an administrator takes: ``python -m benchmarks.startup``.

``cluster group`` on a running cluster of three nodes, beside ``crm_mon -1`` and ``pcs status`` on one of Pacemaker, all
on machines made of namespaces: from the start of the program to its end, twenty times. Programs that are not installed
are skipped. Needs root.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.peers.clussvc import Clussvc
from benchmarks.peers.contender import Contender
from benchmarks.peers.pacemaker import Pacemaker
from tests.cluster.lab import Lab, Node, environment, eventually

RESULTS: Final = Path(__file__).with_name("results")
READY_LIMIT_S: Final = 120.0


def ask(node: Node, words: tuple[str, ...], times: int) -> dict[str, Any]:
    """Run a program so often; wall-clock and processor time of each, in milliseconds."""
    wall_ms, cpu_ms = [], []
    for _ in range(times + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin_s = time.perf_counter()
        done = subprocess.run(
            node.enter(*words), capture_output=True, check=False, env=environment(CLUSSVC_SOCKET=str(node.socket))
        )
        wall_ms.append((time.perf_counter() - begin_s) * 1000)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_ms.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
        assert done.returncode == 0, f"{words}: {done.stderr.decode()[:500]}"
    # The first one fills the caches.
    return {
        "program": " ".join((Path(words[0]).name, *words[1:])),
        "median_ms": round(statistics.median(wall_ms[1:]), 1),
        "min_ms": round(min(wall_ms[1:]), 1),
        "max_ms": round(max(wall_ms[1:]), 1),
        "cpu_ms": round(statistics.median(cpu_ms[1:]), 1),
    }


def measure(
    make: type[Clussvc] | type[Pacemaker], questions: list[tuple[str, ...]], times: int
) -> list[dict[str, Any]]:
    """All questions to one cluster."""
    temporary = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
    with temporary as folder, Lab(folder=Path(folder)) as lab:
        contender: Contender = Clussvc(lab, "lan") if make is Clussvc else Pacemaker(lab, None, "10s")
        contender.begin()
        eventually(contender.ready, f"{contender.name} is ready", timeout_s=READY_LIMIT_S)
        return [ask(lab[1], words, times) for words in questions]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="startup", description="How long a question takes.")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    own = str(Path(sys.executable).with_name("cluster"))
    found = measure(Clussvc, [(own, "group"), (own, "node"), (own, "res")], arguments.times)
    peers: list[tuple[str, ...]] = [words for words in (("crm_mon", "-1"), ("pcs", "status")) if shutil.which(words[0])]
    if peers and shutil.which("pacemakerd"):
        found += measure(Pacemaker, peers, arguments.times)
    else:
        print("Pacemaker: skipped, since it is not installed (Debian: pacemaker corosync pacemaker-cli-utils pcs)")
    print(f"{'program':<20} {'median ms':>10} {'min':>8} {'max':>8} {'cpu ms':>8}")
    for one in found:
        print(f"{one['program']:<20} {one['median_ms']:>10} {one['min_ms']:>8} {one['max_ms']:>8} {one['cpu_ms']:>8}")
    path = arguments.output or RESULTS / f"startup-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "programs": found}, indent=2) + "\n")
    print(f"\nEverything: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
