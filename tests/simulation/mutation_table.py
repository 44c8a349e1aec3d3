"""The table of mutations: each is hunted until it is caught, and the story that caught it is told again unbroken."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing

from tests.simulation.mutations import MUTATIONS, Caught, hunt, named
from tests.simulation.story import tell


def report(*, jobs: int) -> int:
    """Print a line for each mutation; 1 if one was not caught, or if its story fails with the product as it is."""
    failed = 0
    print(f"{'mutation':<32} {'breaks':<14} {'seed':>4} {'of':>4} {'cpu s':>6}  caught by")
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for caught, control in pool.map(_hunt, [mutation.name for mutation in MUTATIONS]):
            mutation = named(caught.name)
            if not caught.seed:
                verdict = "NOT CAUGHT"
            elif control:
                verdict = f"NOTHING PROVED: the same story breaks {control!r} without the mutation"
            else:
                verdict = f"{caught.rule}: {caught.what}"
            failed += not caught.seed or bool(control)
            print(
                f"{mutation.name:<32} {mutation.breaks:<14} {caught.seed or '-':>4} {mutation.seeds_max:>4}"
                f" {caught.cpu_s:>6.1f}  {verdict}",
                flush=True,
            )
    print(f"{len(MUTATIONS) - failed} of {len(MUTATIONS)} mutations caught")
    return 1 if failed else 0


def _hunt(name: str) -> tuple[Caught, str]:
    """The mutation's end, and the rule that its story breaks without it (none, it is to be hoped)."""
    logging.disable(logging.CRITICAL)
    caught = hunt(name)
    return caught, tell(named(name).plot(caught.seed)).rule if caught.seed else ""
