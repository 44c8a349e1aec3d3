"""``python -m tests.simulation``: tell one story, or sweep over many; see ``--help``."""

from __future__ import annotations

import argparse
import concurrent.futures
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator

from tests.simulation.shrink import shrink
from tests.simulation.story import TIE_BREAKERS, Ending, draw_plot, tell

WORDS_SHOWN = 110


def main() -> int:
    """The command; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Whole clusters from a seed.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="tell this story; its trace hash is the last line")
    what.add_argument("--seeds", metavar="A..B", help="tell all these stories")
    what.add_argument("--mutations", action="store_true", help="break the product on purpose, and see it caught")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use (default 1)")
    parser.add_argument("--nodes", type=int, help="cluster size instead of the one that the seed draws")
    parser.add_argument(
        "--log",
        choices=("raft", "ordered", "disk-reservations", "disk-leases", *TIE_BREAKERS),
        help="log instead of the one that the seed draws",
    )
    parser.add_argument("--minutes", type=float, help="stop a sweep after so long")
    parser.add_argument("--shrink", action="store_true", help="look for a shorter story that fails the same way")
    parser.add_argument("--steps", action="store_true", help="print the steps of the story")
    arguments = parser.parse_args()
    if arguments.mutations:
        from tests.simulation.mutation_table import report

        return report(jobs=arguments.jobs)
    if arguments.seed is not None:
        return _one(arguments)
    return _sweep(arguments)


def _one(arguments: argparse.Namespace) -> int:
    plot = draw_plot(arguments.seed, nodes=arguments.nodes, log=arguments.log)
    print(f"seed {plot.seed}: {plot}")
    if arguments.steps:
        print("\n".join(f"  {step}" for step in plot.steps))
    ending = tell(plot)
    if ending.rule:
        _print_failure(ending)
        if arguments.shrink:
            shorter = shrink(ending)
            print(f"\nshrunk from {len(plot.steps)} to {len(shorter.plot.steps)} steps:")
            print("\n".join(f"  {step}" for step in shorter.plot.steps))
            _print_failure(shorter)
    else:
        counted = ", ".join(f"{count} {what}" for what, count in sorted(ending.counts.items()))
        print(f"seed {plot.seed} ended well after {ending.cluster_ms / 1000:.1f} s of cluster time: {counted}")
    print(ending.trace_hash)
    return 1 if ending.rule else 0


def _print_failure(ending: Ending) -> None:
    print(f"\nseed {ending.plot.seed} broke the rule '{ending.rule}': {ending.what.splitlines()[0]}\n")
    print("\n".join(ending.words[-WORDS_SHOWN:]))


def _tell_seed(task: tuple[int, int | None, str | None]) -> Ending:
    seed, nodes, log = task
    # A story makes much and keeps little; what it leaves is swept when it is over.
    gc.disable()
    gc.collect()
    return tell(draw_plot(seed, nodes=nodes, log=log))


def _sweep(arguments: argparse.Namespace) -> int:
    first, _, last = arguments.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    started_s, cpu_s = time.monotonic(), 0.0
    until_s = started_s + arguments.minutes * 60 if arguments.minutes else float("inf")
    totals: Counter[str] = Counter()
    failures: list[Ending] = []
    told = 0
    cluster_ms = 0
    for ending in _endings(seeds, arguments, until_s):
        told += 1
        cluster_ms += ending.cluster_ms
        totals.update(ending.counts)
        if ending.rule:
            failures.append(ending)
            print(f"seed {ending.plot.seed} ({ending.plot}) broke '{ending.rule}': {ending.what.splitlines()[0]}")
        if told % 500 == 0:
            print(f"... {told} stories, {cluster_ms // 1000} s of cluster time, {len(failures)} failed", flush=True)
    passed_s = time.monotonic() - started_s
    times = os.times()
    cpu_s = times.user + times.system + times.children_user + times.children_system
    print(
        f"{told} stories, {cluster_ms / 1000:.0f} s of cluster time in {passed_s:.0f} s"
        f" ({cpu_s:.0f} s of processor time: {cluster_ms / 1000 / max(cpu_s, 0.001):.0f} x real time on one core);"
        f" {len(failures)} failed"
    )
    print(", ".join(f"{count} {what}" for what, count in sorted(totals.items())))
    for failure in failures[:1]:
        _print_failure(failure)
    return 1 if failures or not told else 0


def _endings(seeds: range, arguments: argparse.Namespace, until_s: float) -> Iterator[Ending]:
    tasks = ((seed, arguments.nodes, arguments.log) for seed in seeds)
    if arguments.jobs == 1:
        for task in tasks:
            if time.monotonic() > until_s:
                return
            yield _tell_seed(task)
        return
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        waiting: set[concurrent.futures.Future[Ending]] = set()
        for task in tasks:
            if time.monotonic() > until_s:
                break
            waiting.add(pool.submit(_tell_seed, task))
            if len(waiting) >= 2 * arguments.jobs:
                done, waiting = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in concurrent.futures.as_completed(waiting))


if __name__ == "__main__":
    sys.exit(main())
