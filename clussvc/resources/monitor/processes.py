"""Processes of resources: started so that none can be lost, ended so that none is left.

Every process is started in a session of its own, with two markers in its environment that its descendants inherit:
``CLUSSVC_RESOURCE`` (the resource) and ``CLUSSVC_RUN`` (the run folder of the monitor). The tree of a resource is found
three ways, and all count: descendants of what was started, members of the sessions that were started, and holders of
the markers. Killing is repeated until a look at /proc finds none, so a process that forks meanwhile is found by the
next look. Signals go through pidfds, whose process has been checked to be the one that was seen.

A process that was started through ``start_process`` stays unreaped until its resource is terminated: as long as the
zombie holds its number, the session of that number can only be its own.

All processes are forked by one thread that lives as long as the monitor, since the parent-death signal which they get
is tied to the thread that forked them. It is set by setpriv(1); where that is missing, leftovers of a killed monitor
are found by their markers alone.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from clussvc.model.errors import ClusterError
from clussvc.resources.monitor.kernel import monotonic_ms

RESOURCE_MARKER: Final = "CLUSSVC_RESOURCE"
RUN_MARKER: Final = "CLUSSVC_RUN"
KILL_ROUND_MS: Final = 50
"""How long one round of killing waits for the processes to be gone before it looks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenProcess:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    session: int
    started: int
    """Clock ticks since boot; with the pid it names a process for ever."""
    dead: bool
    """A zombie: it runs no more and only waits to be reaped."""


def look() -> dict[int, SeenProcess]:
    """All processes there are, by pid."""
    seen = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            process = _look_at(int(name))
            if process is not None:
                seen[process.pid] = process
    return seen


def _look_at(pid: int) -> SeenProcess | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            text = stat.read(4096)
    except OSError:
        return None
    # The name of the program stands in parentheses and may hold anything, so fields are counted from the last one.
    fields = text[text.rfind(b")") + 2 :].split()
    if len(fields) < 20:
        return None
    return SeenProcess(
        pid=pid,
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        dead=fields[0] in (b"Z", b"X"),
    )


def started_at(pid: int) -> int | None:
    """When the process was started, in clock ticks since boot; None: there is none, or it is dead."""
    process = _look_at(pid)
    return None if process is None or process.dead else process.started


def has_markers(pid: int, markers: Sequence[bytes]) -> bool:
    """Whether each ``NAME=value`` stands in the environment that the process was started with."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as environ:
            text = b"".join(iter(lambda: environ.read(65536), b""))
    except OSError:
        return False
    entries = text.split(b"\0")
    return all(marker in entries for marker in markers)


def marker_of(pid: int, name: str) -> str | None:
    """The value of a marker in the environment of a process."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if entry.startswith(name.encode() + b"="):
                return os.fsdecode(entry[len(name) + 1 :])
    return None


def descendants(seen: Mapping[int, SeenProcess], roots: Iterable[int]) -> set[int]:
    """``roots`` and everything below them."""
    children: dict[int, list[int]] = {}
    for process in seen.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        pid = ahead.pop()
        if pid not in found:
            found.add(pid)
            ahead.extend(children.get(pid, ()))
    return found


def children_of_thread(native_id: int) -> set[int]:
    """What one thread of this process forked by itself and nobody has reaped; empty where the kernel does not tell."""
    # Read twice for every call of an entry point, and nearly always empty.
    try:
        listed = os.open(f"/proc/self/task/{native_id}/children", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        text = b""
        while chunk := os.read(listed, 1 << 16):
            text += chunk
        return {int(word) for word in text.split()}
    except (OSError, ValueError):
        return set()
    finally:
        os.close(listed)


Chooser = Callable[[Mapping[int, SeenProcess]], set[int]]


def tree_of(roots: Callable[[], Iterable[int]], *markers: str) -> Chooser:
    """Chooses the processes of one resource: below ``roots``, in a session of theirs, or carrying all the markers."""
    wanted = [os.fsencode(marker) for marker in markers]

    def choose(seen: Mapping[int, SeenProcess]) -> set[int]:
        started = set(roots())
        chosen = set(started)
        for process in seen.values():
            if process.session in started or (wanted and not process.dead and has_markers(process.pid, wanted)):
                chosen.add(process.pid)
        return descendants(seen, chosen)

    return choose


def everything_of(run_folder: str) -> Chooser:
    """Chooses all descendants of this process, and all that ever belonged to a monitor of that run folder."""
    wanted = [os.fsencode(f"{RUN_MARKER}={run_folder}")]

    def choose(seen: Mapping[int, SeenProcess]) -> set[int]:
        marked = {pid for pid, process in seen.items() if not process.dead and has_markers(pid, wanted)}
        return descendants(seen, {os.getpid(), *marked}) - {os.getpid()}

    return choose


def living(choose: Chooser) -> tuple[SeenProcess, ...]:
    """The chosen processes that run, this one never among them."""
    seen = look()
    return tuple(seen[pid] for pid in sorted(choose(seen)) if pid in seen and not seen[pid].dead and pid != os.getpid())


def send_signal(process: SeenProcess, number: int) -> int | None:
    """Signal exactly the process that was seen; a pidfd that becomes readable at its end, or None when it is gone.

    The caller closes the pidfd.
    """
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return None
    now = _look_at(process.pid)
    if now is None or now.started != process.started:
        os.close(pidfd)
        return None
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(pidfd, number)
    return pidfd


def kill_all(choose: Chooser, limit_ms: int) -> tuple[int, ...]:
    """Kill the chosen processes until none is found; the pids still there after ``limit_ms`` (normally none)."""
    deadline_ms = monotonic_ms() + limit_ms
    while True:
        found = living(choose)
        if not found:
            return ()
        pidfds = [pidfd for process in found if (pidfd := send_signal(process, signal.SIGKILL)) is not None]
        _wait_for_all(pidfds, KILL_ROUND_MS)
        if monotonic_ms() >= deadline_ms:
            return tuple(process.pid for process in living(choose))


def _wait_for_all(pidfds: list[int], limit_ms: int) -> None:
    """Wait until every pidfd is readable or the limit has passed, then close them all."""
    deadline_ms = monotonic_ms() + limit_ms
    poller = select.poll()
    waiting = set(pidfds)
    for pidfd in waiting:
        poller.register(pidfd, select.POLLIN)
    while waiting and (left_ms := deadline_ms - monotonic_ms()) > 0:
        for pidfd, _ in poller.poll(left_ms):
            poller.unregister(pidfd)
            waiting.discard(pidfd)
    for pidfd in pidfds:
        os.close(pidfd)


class ManagedProcess:
    """A process that was started for a resource. ``pidfd`` becomes readable when it ends."""

    def __init__(self, popen: subprocess.Popen[bytes], words: Sequence[str]) -> None:
        self._popen = popen
        self.pid = popen.pid
        self.words = tuple(words)
        self.pidfd = os.pidfd_open(popen.pid)

    @property
    def ended(self) -> int | None:
        """None while it runs; its exit status, or minus the signal that ended it. Does not reap it."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        try:
            status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return self._popen.returncode
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status

    def wait(self, limit_ms: int) -> int | None:
        """Wait for its end; None when the limit passed first."""
        if self.ended is None:
            poller = select.poll()
            poller.register(self.pidfd, select.POLLIN)
            poller.poll(max(limit_ms, 0))
        return self.ended

    def describe_end(self) -> str:
        """How it ended, for people."""
        status = self.ended
        if status is None:
            return f"process {self.pid} ({self.words[0]}) runs"
        if status >= 0:
            return f"process {self.pid} ({self.words[0]}) ended with exit status {status}"
        with contextlib.suppress(ValueError):
            return f"process {self.pid} ({self.words[0]}) was ended by {signal.Signals(-status).name}"
        return f"process {self.pid} ({self.words[0]}) was ended by signal {-status}"

    def reap(self) -> bool:
        """Take its exit status and give its number back; False while it still runs. The pidfd is closed."""
        if self._popen.poll() is None:
            return False
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnRequest:
    """What is to be started. ``allowed`` is asked under the lock of the gate."""

    words: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    output: IO[Any] | int
    allowed: Callable[[], bool]


class Spawner:
    """The thread that forks; see the module's docstring."""

    def __init__(self, gate_lock: threading.Lock) -> None:
        self._gate_lock = gate_lock
        self._requests: queue.SimpleQueue[tuple[SpawnRequest, Future[ManagedProcess]]] = queue.SimpleQueue()
        setpriv = shutil.which("setpriv")
        self._prefix = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
        self._thread = threading.Thread(target=self._work, name="spawner", daemon=True)

    def start(self) -> None:
        """Begin to serve requests."""
        self._thread.start()

    def spawn(self, request: SpawnRequest) -> ManagedProcess:
        """Start a process. Raises ClusterError: ``not-permitted``, ``program-not-found``, ``start-failed``."""
        answer: Future[ManagedProcess] = Future()
        self._requests.put((request, answer))
        return answer.result()

    def _work(self) -> None:
        while True:
            request, answer = self._requests.get()
            try:
                answer.set_result(self._spawn(request))
            except ClusterError as error:
                answer.set_exception(error)
            except (OSError, ValueError) as error:
                answer.set_exception(ClusterError("start-failed", f"cannot start {request.words[0]!r}: {error}"))

    def _spawn(self, request: SpawnRequest) -> ManagedProcess:
        program = shutil.which(request.words[0], path=request.environment.get("PATH"))
        if program is None:
            raise ClusterError(
                "program-not-found", f"there is no program {request.words[0]!r} that this node could start"
            )
        if not os.path.isdir(request.folder):
            raise ClusterError("folder-not-found", f"there is no folder {request.folder!r} on this node")
        with self._gate_lock:
            if not request.allowed():
                raise ClusterError(
                    "not-permitted",
                    "nothing may be started: the resource is being stopped or is not being brought online",
                )
            popen = subprocess.Popen(
                [*self._prefix, os.path.abspath(program), *request.words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=request.output,
                stderr=subprocess.STDOUT,
                cwd=request.folder,
                env=dict(request.environment),
                start_new_session=True,
                close_fds=True,
            )
        return ManagedProcess(popen, request.words)


class OrphanReaper:
    """Reaps adopted orphans: zombies outside the monitor's own session that nobody here waits for.

    A child in the monitor's session may have been started by a script that will ask for its exit status, so it is left
    alone; so is, once, every other one, in case its starter is about to ask.
    """

    def __init__(self) -> None:
        self._before: set[tuple[int, int]] = set()

    def sweep(self, tracked: Callable[[], set[int]]) -> None:
        """Call every few seconds. ``tracked`` gives the pids that have an owner."""
        own, session = os.getpid(), os.getsid(0)
        if not _any_child_ended():
            # So the whole of /proc need not be read.
            self._before = set()
            return
        zombies = {
            (process.pid, process.started)
            for process in look().values()
            if process.dead and process.parent == own and process.session != session
        }
        owned = tracked()
        for pid, started in zombies & self._before:
            if pid not in owned:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                zombies.discard((pid, started))
        self._before = zombies


def _any_child_ended() -> bool:
    """Whether this process has a zombie for a child."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
