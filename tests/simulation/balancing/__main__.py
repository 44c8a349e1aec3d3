"""``python -m tests.simulation.balancing``: tell one story, sweep over many, or try the mutations; see ``--help``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from tests.simulation.balancing.mutations import MUTATIONS, hunt, named
from tests.simulation.balancing.story import Ending, draw, tell


def main() -> int:
    """The command; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.balancing", description="Segments from a seed.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="tell this story")
    what.add_argument("--seeds", metavar="A..B", help="tell all these stories")
    what.add_argument("--mutations", action="store_true", help="break the product on purpose, and see it caught")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processes to use")
    arguments = parser.parse_args()
    if arguments.mutations:
        return _mutations(arguments.jobs)
    if arguments.seed is not None:
        ending = tell(draw(arguments.seed))
        print(f"seed {arguments.seed}: {ending.plot}", *ending.words, ending.what or "It ended well.", sep="\n")
        return bool(ending.rule)
    first, _, last = arguments.seeds.partition("..")
    return _sweep(range(int(first), int(last or first) + 1), arguments.jobs)


def _tell(seed: int) -> Ending:
    return tell(draw(seed))


def _sweep(seeds: range, jobs: int) -> int:
    began_s = time.monotonic()
    broken: Counter[str] = Counter()
    settled: dict[int, int] = {}
    with multiprocessing.Pool(jobs) as pool:
        for ending in pool.imap_unordered(_tell, seeds, chunksize=20):
            if ending.rule:
                broken[ending.rule] += 1
                print(f"seed {ending.plot.seed}: {ending.what}")
            settled[ending.plot.period_ms] = max(settled.get(ending.plot.period_ms, 0), ending.settled_ms)
    took_s = time.monotonic() - began_s
    print(
        f"{len(seeds)} stories in {took_s:.0f} s ({len(seeds) / took_s:.0f} a second); broken promises: {dict(broken)}"
    )
    for period_ms, slowest_ms in sorted(settled.items()):
        print(f"period {period_ms} ms: settled after at most {slowest_ms} ms")
    return bool(broken)


def _hunt(name: str) -> tuple[str, Ending | None]:
    return name, hunt(named(name))


def _mutations(jobs: int) -> int:
    missed = 0
    with multiprocessing.Pool(jobs) as pool:
        for name, ending in pool.imap(_hunt, [mutation.name for mutation in MUTATIONS]):
            missed += ending is None
            print(f"{name:32} {'not caught' if ending is None else f'seed {ending.plot.seed}: {ending.rule}'}")
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
