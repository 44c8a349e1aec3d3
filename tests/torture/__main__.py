"""``python -m tests.torture`` (or ``script/torture``, which sets everything up): torture a cluster, and judge.

Five machines, each with namespaces of its own, form a cluster. Clients read and change registers and lists through
Pyro5 on any node; an administrator moves groups; each group of another kind has a resource that records when it is
online. Meanwhile services are killed and stopped, machines crash and stand still, lines are cut, disks fill up. At the
end everything is healed, all nodes must agree, and the histories are checked: every register linearizable, nothing
acknowledged lost, nothing made twice, no resource online twice. The exit code is 1 if any promise was broken or
anything happened that should not; then the histories and logs are kept.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.text import Text

from clussvc.model.settings import PROFILES
from tests.cluster.lab import Lab, LabError
from tests.torture.faults import KINDS
from tests.torture.result import show
from tests.torture.run import SMALL_DISKS, Plan, Run, small_disks

KEPT = ("*.txt", "*.jsonl", "n*/service.out", "n*/data/service.log*")
"""What is worth keeping of a run, below its folder."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="torture", description="Torture a cluster on this machine, and judge it.")
    parser.add_argument("--minutes", type=float, default=30.0, help="for how long (default: 30)")
    parser.add_argument("--nodes", type=int, default=5, help="machines, 3 to 9 (default: 5)")
    parser.add_argument("--clients", type=int, default=24, help="clients at once, 1 to 28 (default: 24)")
    parser.add_argument("--seed", type=int, help="draws faults and operations (default: a new one)")
    parser.add_argument("--faults", default=",".join(KINDS), help="kinds of faults, with commas (default: all)")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="lan", help="timing profile (default: lan)")
    parser.add_argument("--keep-histories", type=Path, metavar="DIR", help="keep histories and logs here in any case")
    arguments = parser.parse_args(words)
    arguments.kinds = tuple(kind for kind in arguments.faults.split(",") if kind)
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"--faults: there is no {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    if not 3 <= arguments.nodes <= 9:
        parser.error("--nodes must lie in 3..9")
    # A node serves 64 connections; each client uses two, and the harness some more.
    if not 1 <= arguments.clients <= 28:
        parser.error("--clients must lie in 1..28")
    if not 0 < arguments.minutes <= 7 * 24 * 60:
        parser.error("--minutes must be more than 0 and at most a week")
    return arguments


def torture(arguments: argparse.Namespace, folder: Path, console: Console) -> bool:
    """The run in that folder; whether every promise was kept."""
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1_000_000)
    begun_s = time.monotonic()

    def say(text: str) -> None:
        console.print(Text(f"{time.monotonic() - begun_s:7.1f} s  {text}"), soft_wrap=True)

    say(f"seed {seed}")
    plan = Plan(
        seconds=arguments.minutes * 60,
        nodes=arguments.nodes,
        clients=arguments.clients,
        seed=seed,
        kinds=arguments.kinds,
        profile=arguments.profile,
    )
    with small_disks(folder, SMALL_DISKS) as disks:
        # What somebody interrupted has shown nothing, and is not kept unless that was asked for.
        worth_keeping = arguments.keep_histories is not None
        try:
            with Lab(folder=folder, nodes=plan.nodes) as lab:
                try:
                    result = Run(plan, lab, disks, say).whole()
                except Exception:
                    worth_keeping = True
                    raise
                show(console, result)
                worth_keeping = worth_keeping or not result.good
                return result.good
        finally:
            if worth_keeping:
                kept = keep(folder, arguments.keep_histories)
                console.print(f"seed {seed}; histories and logs are in {kept}", soft_wrap=True)


def keep(folder: Path, where: Path | None) -> str:
    """Copy what is worth keeping; the answer is the place."""
    place = where or Path(tempfile.mkdtemp(prefix="torture-", dir=os.environ.get("TORTURE_KEEP")))
    place.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in folder.glob(pattern):
            target = place / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    return str(place)


def _ended(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """0: every promise was kept. 1: one was not, or the run could not be made. 130 or so: interrupted."""
    arguments = parse()
    signal.signal(signal.SIGTERM, _ended)
    signal.signal(signal.SIGHUP, _ended)
    console = Console(highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="lab-"))
    try:
        return 0 if torture(arguments, folder, console) else 1
    except (LabError, AssertionError, subprocess.SubprocessError, OSError) as problem:
        console.print(f"The run could not be made: {problem}", style="bold red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted; everything is taken down.")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
