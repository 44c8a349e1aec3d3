"""False deaths under full load: ``python -m benchmarks.load --profile fast --minutes 10``.

Three nodes on machines made of namespaces, a group online, and as many busy processes as this machine has cores, at
ordinary priority. Nobody fails, so every lost lease and every node that was declared down is a mistake; both are
counted from the nodes' own logs. A lease ends rightly when the machine itself stands still for so long, as virtual ones
do; that is measured beside. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.machine import machine
from benchmarks.peers.clussvc import Clussvc
from clussvc.model.settings import PROFILES
from tests.cluster.lab import Lab, eventually
from tests.cluster.probe import longest_gap

RESULTS: Final = Path(__file__).with_name("results")
LOOK_S: Final = 5.0
STANDSTILL_MS: Final = 20
METER: Final = f"""
import os, sys, time
os.sched_setaffinity(0, {{int(sys.argv[1])}})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
last = time.monotonic()
while True:
    time.sleep(0.002)
    now = time.monotonic()
    if (now - last) * 1000 > {STANDSTILL_MS}:
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        print(f"{{stamp}} processor {{sys.argv[1]}} did not run for {{(now - last) * 1000:.0f}} ms", flush=True)
    last = now
"""
"""Sees when a processor of a virtual machine is taken away: nothing else holds up the highest real-time priority."""
MISTAKES_KEPT: Final = 50


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="load", description="False deaths under full load.")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    cores = os.cpu_count() or 1
    temporary = tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True)
    with temporary as folder, Lab(folder=Path(folder)) as lab:
        contender = Clussvc(lab, arguments.profile)
        contender.begin()
        eventually(contender.ready, "the cluster is ready", timeout_s=120)
        starts = {node.name: len((node.data / "service.log").read_text()) for node in lab.nodes}
        busy = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _ in range(cores)]
        meters = [
            subprocess.Popen([sys.executable, "-I", "-S", "-c", METER, str(core)], stdout=subprocess.PIPE, text=True)
            for core in sorted(os.sched_getaffinity(0))
        ]
        probe = lab.probe(rate_hz=20)
        begin_s = time.monotonic()
        try:
            while time.monotonic() < begin_s + arguments.minutes * 60:
                time.sleep(LOOK_S)
        finally:
            for process in busy:
                process.kill()
            for meter in meters:
                meter.kill()
        standstills = [line for meter in meters for line in meter.communicate()[0].splitlines()]
        for process in busy:
            process.wait()
        gap = longest_gap(probe.end(), since_s=begin_s)
        logs = {node.name: (node.data / "service.log").read_text()[starts[node.name] :] for node in lab.nodes}
    lost = {name: text.count(" node.releasing ") for name, text in logs.items()}
    down = max(text.count(" node.down ") for text in logs.values())
    mistakes = [
        line
        for text in logs.values()
        for line in text.splitlines()
        if " node.releasing " in line or " node.down " in line
    ]
    result = {
        "profile": arguments.profile,
        "minutes": arguments.minutes,
        "busy_processes": cores,
        "leases_lost": lost,
        "declared_down": down,
        "mistakes": mistakes[:MISTAKES_KEPT],
        "standstills": standstills[:MISTAKES_KEPT],
        "longest_gap_s": round(gap.length_s, 3) if gap else None,
        "machine": machine(),
    }
    print(
        f"{arguments.profile}: {arguments.minutes:g} minutes, {cores} busy processes: {down} nodes declared down,"
        f" {sum(lost.values())} leases lost, the client's longest gap {result['longest_gap_s']} s;"
        f" {len(standstills)} times a processor did not run for more than {STANDSTILL_MS} ms"
    )
    path = arguments.output or RESULTS / f"load-{arguments.profile}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Everything: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
