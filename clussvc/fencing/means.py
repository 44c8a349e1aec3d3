"""How a machine ends itself when something on it cannot be terminated in time (rule R4).

The node file lists the means under ``self_fence``; all of them are used, one shortly after the other, since nobody can
say beforehand which of them still works on a machine in that state:

| entry | what it does |
|---|---|
| ``sysrq`` | resets the machine at once, without writing anything back (the kernel's sysrq ``b``) |
| ``watchdog[:DEVICE[:SECONDS]]`` | a watchdog is fed no longer; it also ends a machine whose service hangs |
| anything else | a command line for the shell |
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clussvc.fencing.watchdog import DEFAULT_DEVICE, DEFAULT_TIMEOUT_S, TIMEOUT_S_MAX
from clussvc.model.errors import ClusterError

SYSRQ: Final = Path("/proc/sysrq-trigger")
PAUSE_S: Final = 1.0
"""How long a means may take to have its effect before the next one is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """One entry of the list, understood."""

    kind: str
    """``sysrq``, ``watchdog`` or ``command``."""
    command: str = ""
    device: Path = DEFAULT_DEVICE
    timeout_s: int = DEFAULT_TIMEOUT_S

    def __str__(self) -> str:
        return {"command": f"the command {self.command!r}", "watchdog": f"the watchdog {self.device}"}.get(
            self.kind, self.kind
        )


def parse_means(entries: Sequence[str]) -> tuple[Means, ...]:
    """Understand the entries of ``self_fence``.

    Raises ClusterError(``self-fence-bad``) that names the entry.
    """
    found = [_parse(entry.strip()) for entry in entries if entry.strip() not in ("", "none")]
    if sum(means.kind == "watchdog" for means in found) > 1:
        raise ClusterError("self-fence-bad", "self_fence names two watchdogs; a node feeds one")
    return tuple(found)


def _parse(entry: str) -> Means:
    if entry == "sysrq":
        return Means(kind="sysrq")
    word, _, rest = entry.partition(":")
    if word != "watchdog":
        return Means(kind="command", command=entry)
    device, _, seconds = rest.partition(":")
    timeout_s = int(seconds) if seconds.isdecimal() else 0 if seconds else DEFAULT_TIMEOUT_S
    if not 1 <= timeout_s <= TIMEOUT_S_MAX or (device and not device.startswith("/")):
        raise ClusterError(
            "self-fence-bad",
            f"self_fence: {entry!r} is not watchdog, watchdog:/dev/DEVICE or watchdog:/dev/DEVICE:SECONDS with"
            f" 1 to {TIMEOUT_S_MAX} seconds",
        )
    return Means(kind="watchdog", device=Path(device) if device else DEFAULT_DEVICE, timeout_s=timeout_s)


def problem_of(means: Means, *, sysrq: Path = SYSRQ) -> str:
    """Why a means cannot work on this machine, as far as that can be seen; empty if it can. Watchdogs are not looked at
    here, since opening one arms it."""
    if means.kind == "sysrq" and not os.access(sysrq, os.W_OK):
        return f"{sysrq} cannot be written; the service needs to be root, in a system that has it"
    if means.kind == "command":
        try:
            words = list(shlex.shlex(means.command, posix=True, punctuation_chars=True))
        except ValueError as error:
            return f"the shell will not understand it ({error})"
        if words and "=" not in words[0] and shutil.which(words[0]) is None and words[0] not in _BUILT_IN:
            return f"there is no program {words[0]!r}"
    return ""


def _run(command: str) -> None:
    """The administrator's own command line, run as written; however long it takes, nobody waits for it."""
    subprocess.run(command, shell=True, start_new_session=True, check=False)  # noqa: S602


_BUILT_IN: Final = frozenset({"exec", "echo", "kill", "exit", "ulimit", "cd", "(", "{", "[", ":", ".", "if", "for"})
"""What a command line may begin with besides programs."""


def use_means(
    means: Sequence[Means],
    *,
    expire_watchdog: Callable[[], None],
    told: Callable[[str, str], None],
    sysrq: Path = SYSRQ,
    pause_s: float = PAUSE_S,
) -> None:
    """End this machine. Returns only if nothing of it has worked, or works later.

    ``told(means, outcome)`` hears of each. The watchdog comes first whatever the order, since it takes its time.
    """
    for each in sorted(means, key=lambda one: one.kind != "watchdog"):
        try:
            if each.kind == "watchdog":
                expire_watchdog()
                told(str(each), "it is not fed any more")
                continue
            if each.kind == "sysrq":
                trigger = os.open(sysrq, os.O_WRONLY | os.O_CLOEXEC)
                os.write(trigger, b"b")
                os.close(trigger)
            else:
                threading.Thread(target=_run, args=(each.command,), name="self-fence-command", daemon=True).start()
            told(str(each), "it was used")
        except OSError as error:
            told(str(each), f"it failed: {error.strerror}")
            continue
        time.sleep(pause_s)
