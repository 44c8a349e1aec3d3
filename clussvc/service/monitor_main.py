"""The process of a resource monitor: ``python -m clussvc.service.monitor_main --fd N --run-folder P``.

Started by the service with one end of a socket pair. Little is imported here, since every node runs at least one of
these; the built-in resource types come in beside the start, so that no failover waits for them.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path

from clussvc.fencing.means import Means, parse_means, use_means
from clussvc.resources.monitor.last_resort import LastResort
from clussvc.resources.monitor.lease_word import LeaseWord
from clussvc.resources.monitor.runner import Monitor
from clussvc.resources.monitor.workers import STARTS_AT_ONCE
from clussvc.resources.types.base import TypeCatalogue
from clussvc.service.last_will import Service, execute_will
from clussvc.service.leftovers import note_empty
from clussvc.service.priority import give_priority_back


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a monitor until its service is gone. 0: nothing was left running; 3: something was."""
    parser = argparse.ArgumentParser(prog="clussvc-monitor", description="Resource monitor; started by clussvc.")
    parser.add_argument("--fd", type=int, required=True, help="inherited end of the socket pair to the service")
    parser.add_argument("--lease-fd", type=int, help="inherited memory in which the service writes the lease")
    parser.add_argument("--run-folder", type=Path, required=True, help="folder of this monitor alone")
    parser.add_argument(
        "--parallel-starts", type=int, default=STARTS_AT_ONCE, help="entry points that begin at the same time"
    )
    parser.add_argument(
        "--self-fence", action="append", default=[], help="a means to end this machine when resources do not end"
    )
    parser.add_argument(
        "--release-budget", type=int, default=0, help="how long ending everything may take at first, in ms"
    )
    options = parser.parse_args(arguments)
    service = Service()
    give_priority_back()
    faulthandler.enable(file=sys.stderr, all_threads=True)
    if os.readlink("/proc/self") != str(os.getpid()):
        print(
            "the /proc of another PID namespace is mounted; mount the own one, or processes cannot be found",
            file=sys.stderr,
        )
        return 2
    # The service ends this process by closing the connection; a Ctrl-C in its terminal must not come first.
    # Handlers and not SIG_IGN, which the processes of resources would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.set_inheritable(options.fd, False)
    lease_word = None
    if options.lease_fd is not None:
        lease_word = LeaseWord(options.lease_fd)
        os.close(options.lease_fd)
    run_folder: Path = options.run_folder.resolve()
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    catalogue = TypeCatalogue()
    threading.Thread(target=catalogue.preload, name="preload", daemon=True).start()
    with socket.socket(fileno=options.fd) as connection:
        monitor = Monitor(
            connection,
            run_folder,
            catalogue,
            lease_word=lease_word,
            starts_at_once=options.parallel_starts,
            last_resort=_last_resort(parse_means(options.self_fence), options.release_budget, lease_word),
        )
        try:
            status = monitor.run()
            if status == 0 and monitor.service_died:
                note_empty(run_folder.parent, run_folder.name)
                execute_will(run_folder.parent, service)
        except BaseException:  # noqa: BLE001 -- the process ends right below
            traceback.print_exc()
            monitor.end_after_crash()
            status = 70
    # Threads that hang must not hold the process.
    sys.stderr.flush()
    os._exit(status)


def _last_resort(means: tuple[Means, ...], budget_ms: int, word: LeaseWord | None) -> LastResort | None:
    """The end of this machine by the means of the node file; None if it has none. Feeding a watchdog is the service's,
    and a service that is gone feeds none."""
    means = tuple(each for each in means if each.kind != "watchdog")
    if not means:
        return None

    def fence(why: str) -> None:
        print(f"the resource monitor ends this machine: {why}", file=sys.stderr, flush=True)
        use_means(means, expire_watchdog=lambda: None, told=lambda one, what: print(f"{one}: {what}", file=sys.stderr))
        sys.stderr.flush()

    return LastResort(fence, lambda: (word.budget_ms if word is not None else 0) or budget_ms)


if __name__ == "__main__":
    sys.exit(main())
