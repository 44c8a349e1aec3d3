"""What the processes of a machine of the lab use: CPU time, memory, files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster.lab import Node

SERVICE: Final = "clussvc.service.main"
MONITOR: Final = "clussvc.service.monitor_main"
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Of all processes of one machine at one moment."""

    cpu_s: Mapping[str, float]
    """User and system time by kind of process: service, monitor, other."""
    pss_mib: Mapping[str, float]
    """Proportional set size: what is shared counts in parts."""
    processes: int
    threads: int

    @property
    def cpu_total_s(self) -> float:
        """Of all its processes."""
        return sum(self.cpu_s.values())

    @property
    def pss_total_mib(self) -> float:
        """Of all its processes."""
        return sum(self.pss_mib.values())


def usage_of(node: Node) -> Usage:
    """Look now."""
    cpu: dict[str, float] = {}
    pss: dict[str, float] = {}
    count = threads = 0
    for process in node.processes():
        kind = "service" if process.runs(SERVICE) else "monitor" if process.runs(MONITOR) else "other"
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            cpu[kind] = cpu.get(kind, 0) + (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
            threads += int(fields[17])
            pss[kind] = pss.get(kind, 0) + _pss_kib(process.pid) / 1024
            count += 1
    return Usage(cpu_s=cpu, pss_mib=pss, processes=count, threads=threads)


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def thread_times(node: Node) -> dict[str, float]:
    """CPU seconds of each thread of the service and its monitors, by kind of process and name of thread."""
    found: dict[str, float] = {}
    for process in node.processes():
        kind = "service" if process.runs(SERVICE) else "monitor" if process.runs(MONITOR) else "other"
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{process.pid}/task").iterdir():
                head, _, tail = (task / "stat").read_text().rpartition(")")
                fields = tail.split()
                # Python 3.11 gives threads no names in the kernel, so that most carry the name of the program.
                name = f"{kind} {head.partition('(')[2]} {'main' if task.name == str(process.pid) else task.name}"
                found[name] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


def file_sizes(node: Node) -> dict[str, int]:
    """Bytes of the files in the data folder that grow."""
    sizes: dict[str, int] = {}
    for path in sorted(node.data.rglob("*")):
        kind = path.suffix.lstrip(".") or path.name
        with contextlib.suppress(OSError):
            if path.is_file() and (path.parent == node.data or path.parent.name == "log"):
                sizes[path.name] = sizes.get(path.name, 0) + path.stat().st_size
            elif path.is_file():
                sizes[f"run/*.{kind}"] = sizes.get(f"run/*.{kind}", 0) + path.stat().st_size
    return sizes
