"""What clients of a load-balanced cluster see when a host is killed: ``python -m benchmarks.nlb [--profile lan]``.

Four machines made of namespaces, each a host; a client machine on the same bridge. Clients ask again and again, each
from an address of its own; the fault comes after a second or two of that. Two sorts of clients ask at the same time:

* *impatient* ones give an attempt up after 50 ms and try anew. Of those that the host had before the fault, the outage
  is the longest time between two answers that ends after it, whoever gave the second;
* *patient* ones wait up to a second for each answer. A lost packet of theirs is sent again by TCP after 200 ms or more
  (a first one after a second), so among clients of the other hosts an attempt without an answer is *lost*, and one that
  took a fifth of a second or more is *late*: a packet may have been lost, or the machine was busy.

| fault | what happens |
|---|---|
| crash | the machine's switch port goes down, then every process on it is killed |
| process | the host process alone is killed (SIGKILL); its monitor restarts it |
| stop | ``nlb stop`` on that host |

``--profile fast`` uses the timing profile ``fast`` and heartbeats of 25 ms in place of 100. Needs root, or
``unshare --user --map-root-user``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from benchmarks.machine import machine
from tests.cluster.farm import VIP, Farm, open_farm
from tests.cluster.lab import Lab, eventually

RESULTS: Final = Path(__file__).with_name("results")
IMPATIENT, PATIENT = 40, 40
ROUND_S: Final = 5.0
FAULT_AFTER_S: Final = 1.5
PROFILES: Final = ("fast", "lan", "loopback")

Attempt = tuple[int, float, float, str | None]


def crash(farm: Farm) -> None:
    """See the table above."""
    farm.lab[3].crash()


def process(farm: Farm) -> None:
    """See the table above."""
    os.kill(farm.host_process(farm.lab[3]), signal.SIGKILL)


def stop(farm: Farm) -> None:
    """See the table above."""
    farm.nlb("stop", f"{VIP}:NODE3")


FAULTS: Final[dict[str, Callable[[Farm], None]]] = {fault.__name__: fault for fault in (crash, process, stop)}


def mend(farm: Farm, fault: str) -> None:
    """Undo the fault."""
    if fault == "crash":
        farm.restart(farm.lab[3])
    elif fault == "stop":
        farm.nlb("start", f"{VIP}:NODE3")
    farm.wait_converged("NODE1", "NODE2", "NODE3", "NODE4")


def one_round(farm: Farm, fault: str, chance: random.Random) -> dict[str, Any]:
    """One fault; the times in seconds."""
    seen: dict[str, list[Attempt]] = {}

    def ask(sort: str, count: int, first: int, limit_ms: int) -> None:
        seen[sort] = [tuple(one) for one in farm.clients("steady", count, ROUND_S, limit_ms, first)]

    threads = [
        threading.Thread(target=ask, args=("impatient", IMPATIENT, 0, 50)),
        threading.Thread(target=ask, args=("patient", PATIENT, 100, 1000)),
    ]
    for thread in threads:
        thread.start()
    time.sleep(FAULT_AFTER_S + chance.uniform(0, 0.5))
    fault_s = time.monotonic()
    FAULTS[fault](farm)
    done_s = time.monotonic()
    for thread in threads:
        thread.join()
    outages = [
        outage for outage in (_outage(seen["impatient"], client, fault_s) for client in range(IMPATIENT)) if outage
    ]
    unaffected, lost, late = _losses(seen["patient"], fault_s)
    return {
        "fault": fault,
        "command_s": round(done_s - fault_s, 3),
        "clients_of_the_host": len(outages),
        "outage_max_s": round(max(outages), 3),
        "outage_median_s": round(statistics.median(outages), 3),
        "unaffected_clients": unaffected,
        "unaffected_attempts_lost": lost,
        "unaffected_attempts_late": late,
        "load": os.getloadavg()[0],
    }


def _outage(attempts: list[Attempt], client: int, fault_s: float) -> float | None:
    """How long a client of NODE3 had no answer; None: it was none of its clients."""
    answered = [
        (start_s + took_s, answer.strip())
        for number, start_s, took_s, answer in attempts
        if number == client and answer
    ]
    before = [name for end_s, name in answered if end_s < fault_s]
    if before[-1:] != ["NODE3"]:
        return None
    ends = [end_s for end_s, _ in answered]
    return max(later - earlier for earlier, later in pairwise(ends) if later >= fault_s)


def _losses(attempts: list[Attempt], fault_s: float) -> tuple[int, int, int]:
    """How many patient clients other hosts had, and how many of their attempts were lost, and late."""
    clients = {number for number, *_ in attempts}
    served = {
        number: next(
            (
                (answer or "").strip()
                for n, start_s, took_s, answer in reversed(attempts)
                if n == number and start_s + took_s < fault_s
            ),
            "",
        )
        for number in clients
    }
    others = {number for number, name in served.items() if name and name != "NODE3"}
    mine = [(answer, took_s) for number, _, took_s, answer in attempts if number in others]
    lost = sum(answer is None for answer, _ in mine)
    return len(others), lost, sum(answer is not None and took_s >= 0.2 for answer, took_s in mine)


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rounds, the faults taking turns."""
    rounds = []
    chance = random.Random(arguments.seed)
    with (
        tempfile.TemporaryDirectory(prefix="lab-", ignore_cleanup_errors=True) as folder,
        Lab(folder=Path(folder), nodes=4) as lab,
    ):
        farm = open_farm(lab, arguments.profile, ("NODE1", "NODE2", "NODE3", "NODE4"), affinity="Single")
        farm.wait_converged("NODE1", "NODE2", "NODE3", "NODE4")
        for number in range(arguments.rounds):
            for fault in arguments.faults:
                done = one_round(farm, fault, chance)
                mend(farm, fault)
                eventually(lambda: None not in farm.answers(100), "everybody is answered")
                rounds.append({"round": number + 1, **done})
                print(json.dumps(rounds[-1]), flush=True)
    return rounds


def table(rounds: list[dict[str, Any]], faults: list[str]) -> str:
    """The figures, one line for each fault."""
    lines = [
        "| fault | rounds | clients of the host | outage, median s | outage, max s | others' lost | others' late |",
        "|---|---|---|---|---|---|---|",
    ]
    for fault in faults:
        mine = [one for one in rounds if one["fault"] == fault]
        lines.append(
            f"| {fault} | {len(mine)} | {sum(one['clients_of_the_host'] for one in mine)}"
            f" | {statistics.median(one['outage_median_s'] for one in mine):.3f}"
            f" | {max(one['outage_max_s'] for one in mine):.3f}"
            f" | {sum(one['unaffected_attempts_lost'] for one in mine)}"
            f" | {sum(one['unaffected_attempts_late'] for one in mine)} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="nlb", description="What clients see when a load-balancing host is killed.")
    parser.add_argument("--profile", choices=PROFILES, default="lan")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--faults", type=lambda text: text.split(","), default=list(FAULTS))
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if unknown := [fault for fault in arguments.faults if fault not in FAULTS]:
        parser.error(f"unknown fault {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    rounds = measure(arguments)
    print(f"\nprofile {arguments.profile}\n\n{table(rounds, arguments.faults)}")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"nlb-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"profile": arguments.profile, "machine": machine(), "rounds": rounds}, indent=2) + "\n")
    print(f"\nEvery round: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
