"""How long clients see nothing, beside other cluster services: ``python -m benchmarks.peers``.

Every contender keeps one address and one web server alive on three machines made of namespaces, or on two if a disk or
a third machine decides between them; one contender after the other, with the same faults, asked by the same client: a
new connection every 5 ms, which counts as answered if the answer came within a quarter of a second. The outage is the
longest gap between two answers that ends after the fault. Before each fault comes a random delay, so that faults meet
periodic timers at any phase.

| fault | what happens |
|---|---|
| crash | the active machine's switch port goes down, then every process on it is killed |
| leader | the same, to the machine that leads the log, which is made the active one before |
| cut | the active machine's switch port goes down; it sees its link go |
| mute | the switch forwards nothing from or to the active machine any more; it sees nothing. It heals later |
| server | the web server's process is killed |
| daemon | the cluster service's process is killed, and what it runs is left |
| move | a planned move to another machine |

Contenders that are not installed are skipped (Debian: pacemaker, corosync, resource-agents, pacemaker-cli-utils,
keepalived). Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from benchmarks.peers.clussvc import Clussvc
from benchmarks.peers.contender import Contender, server_of
from benchmarks.peers.keepalived import Keepalived
from benchmarks.peers.pacemaker import Pacemaker
from tests.cluster.lab import Lab, Node, Probe, eventually
from tests.cluster.probe import longest_gap

RESULTS: Final = Path(__file__).parent.parent / "results"
RATE_HZ: Final = 200
SETTLED_ANSWERS: Final = RATE_HZ
SETTLE_LIMIT_S: Final = 180.0
RETURN_S: Final = 3.0
"""How long one looks for a gap after everything is back."""

FAULTS: Final = ("crash", "leader", "cut", "mute", "server", "daemon", "move")

CONTENDERS: Final[dict[str, tuple[str, Callable[[Lab], Contender]]]] = {
    "clussvc-lan": ("", lambda lab: Clussvc(lab, "lan")),
    "clussvc-fast": ("", lambda lab: Clussvc(lab, "fast")),
    "clussvc-fast-address": ("", lambda lab: Clussvc(lab, "fast", alone=True)),
    "pacemaker-default": ("pacemakerd", lambda lab: Pacemaker(lab, None, "1s")),
    "pacemaker-tuned": ("pacemakerd", lambda lab: Pacemaker(lab, 300, "200ms")),
    "clussvc-disk": ("tgtd", lambda lab: Clussvc(lab, "lan", disk=True)),
    "pacemaker-qdevice": ("corosync-qdevice", lambda lab: Pacemaker(lab, None, "1s", qdevice=True)),
    "pacemaker-qdevice-tuned": ("corosync-qdevice", lambda lab: Pacemaker(lab, 300, "200ms", qdevice=True)),
    "keepalived-1": ("keepalived", lambda lab: Keepalived(lab, "1")),
    "keepalived-0.1": ("keepalived", lambda lab: Keepalived(lab, "0.1")),
}
"""Each with the program that must be there."""

TWO_NODES: Final = frozenset({"clussvc-disk", "pacemaker-qdevice", "pacemaker-qdevice-tuned"})
"""Contenders on two machines, and a third one that runs nothing but what decides between them; the rest has three."""

PACKAGES: Final = {
    "tgtd": "tgt libiscsi7",
    "corosync-qdevice": "pacemaker corosync corosync-qdevice corosync-qnetd resource-agents pacemaker-cli-utils",
    "pacemakerd": "pacemaker corosync resource-agents pacemaker-cli-utils",
    "keepalived": "keepalived",
}


class Round:
    """One fault and the way back from it."""

    def __init__(self, lab: Lab, contender: Contender, fault: str, chance: random.Random) -> None:
        self._lab = lab
        self._contender = contender
        self._fault = fault
        self._chance = chance

    def run(self) -> dict[str, Any]:
        """The figures, in seconds."""
        contender = self._contender
        self._ready()
        victim = self._victim()
        # A client for each round keeps the file that is read again and again short.
        probe = self._lab.probe(rate_hz=RATE_HZ)
        probe.wait_answered(since_s=time.monotonic(), answers=SETTLED_ANSWERS, timeout_s=SETTLE_LIMIT_S)
        time.sleep(self._chance.uniform(0, contender.phase_s))
        fault_s = time.monotonic()
        self._strike(victim)
        if self._fault == "move":
            # A move that is slow to begin must not be taken for one without a gap.
            eventually(
                lambda: contender.active() not in (None, victim), "the group has moved", timeout_s=SETTLE_LIMIT_S
            )
        probe.wait_answered(since_s=max(fault_s + 0.02, time.monotonic() - 1), answers=SETTLED_ANSWERS)
        over_s = time.monotonic()
        gap = longest_gap(probe.attempts(), since_s=fault_s, until_s=over_s)
        assert gap is not None
        time.sleep(max(0.0, fault_s + contender.hold_s - time.monotonic()) if self._fault in ("cut", "mute") else 0)
        return_s = self._come_back(victim, probe)
        probe.end()
        return {
            "fault": self._fault,
            "outage_s": round(gap.length_s, 4),
            "from": gap.before.node,
            "to": gap.after.node,
            "gap_on_return_s": round(return_s, 4),
        }

    def _ready(self) -> None:
        eventually(self._contender.ready, f"{self._contender.name} is ready", timeout_s=SETTLE_LIMIT_S)

    def _victim(self) -> Node:
        contender = self._contender
        victim = contender.active()
        assert victim is not None
        if self._fault == "leader":
            assert isinstance(contender, Clussvc)
            leader = contender.leader()
            assert leader is not None
            if leader is not victim:
                contender.move(victim, leader)
                self._ready()
            return leader
        return victim

    def _strike(self, victim: Node) -> None:
        match self._fault:
            case "crash" | "leader":
                victim.crash()
            case "cut":
                victim.cut()
            case "mute":
                victim.mute()
            case "server":
                pid = server_of(victim)
                assert pid is not None, f"the web server does not run on {victim.name}"
                os.kill(pid, signal.SIGKILL)
            case "daemon":
                assert isinstance(self._contender, Clussvc)
                self._contender.kill_daemon(victim)
            case "move":
                others = [node for node in self._lab.nodes if node is not victim]
                self._contender.move(victim, self._chance.choice(others))

    def _come_back(self, victim: Node, probe: Probe) -> float:
        """Undo the fault; the longest gap meanwhile."""
        back_s = time.monotonic()
        match self._fault:
            case "crash" | "leader":
                victim.boot()
                self._contender.restart(victim)
            case "cut" | "mute":
                victim.heal()
        self._contender.after(victim)
        self._ready()
        time.sleep(RETURN_S)
        probe.wait_answered(since_s=time.monotonic(), answers=SETTLED_ANSWERS, timeout_s=SETTLE_LIMIT_S)
        gap = longest_gap(probe.attempts(), since_s=back_s)
        assert gap is not None
        return gap.length_s


def measure(tag: str, faults: list[str], rounds: int, seed: int) -> list[dict[str, Any]]:
    """All rounds of one contender, the faults taking turns."""
    _, make = CONTENDERS[tag]
    found = []
    chance = random.Random(seed)
    nodes = 2 if tag in TWO_NODES else 3
    with (
        tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as name,
        Lab(folder=Path(name), nodes=nodes) as lab,
        contextlib.ExitStack() as ends,
    ):
        contender = make(lab)
        ends.callback(contender.end)
        contender.begin()
        for number in range(1, rounds + 1):
            for fault in faults:
                if fault not in contender.faults:
                    continue
                done = Round(lab, contender, fault, chance).run()
                found.append({"contender": contender.name, "tag": tag, "round": number, **done})
                print(
                    f"{contender.name:<40} {fault:<7} {done['outage_s']:8.3f} s  {done['from']} -> {done['to']}"
                    f"   on return {done['gap_on_return_s']:.3f} s",
                    flush=True,
                )
        for one in found:
            one["version"] = contender.version()
    return found


def table(rounds: list[dict[str, Any]]) -> str:
    """One line for each contender and fault."""
    lines = [
        "| contender | fault | n | min s | median s | max s | on return, max s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one["contender"] for one in rounds):
        for fault in FAULTS:
            mine = [one for one in rounds if one["contender"] == name and one["fault"] == fault]
            if mine:
                outages = [one["outage_s"] for one in mine]
                lines.append(
                    f"| {name} | {fault} | {len(mine)} | {min(outages):.3f} | {statistics.median(outages):.3f}"
                    f" | {max(outages):.3f} | {max(one['gap_on_return_s'] for one in mine):.3f} |"
                )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="peers", description="Outages beside other cluster services.")
    parser.add_argument("--contenders", type=lambda text: text.split(","), default=list(CONTENDERS))
    parser.add_argument("--faults", type=lambda text: text.split(","), default=list(FAULTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    for given, known in ((arguments.contenders, CONTENDERS), (arguments.faults, FAULTS)):
        if unknown := [one for one in given if one not in known]:
            parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    path = arguments.output or RESULTS / f"peers-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rounds: list[dict[str, Any]] = []
    for tag in arguments.contenders:
        program, _ = CONTENDERS[tag]
        if program and shutil.which(program) is None:
            print(f"{tag}: skipped, since {program} is not installed (Debian: {PACKAGES[program]})", flush=True)
            continue
        rounds += measure(tag, arguments.faults, arguments.rounds, arguments.seed)
        path.write_text(json.dumps({"machine": machine(), "rounds": rounds}, indent=2) + "\n")
    print(f"\n{table(rounds)}\n\nEvery round: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
