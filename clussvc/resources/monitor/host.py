"""The service's end of a resource monitor: starts the process, talks to it, notices when it dies or hangs.

One thread does all input and output; ``send`` only queues. The monitor is deliberately not tied to the life of the
service: when the service dies the connection closes, and the monitor terminates its resources before it ends.

A monitor counts as hung when it has not answered a ping for ``hang_ms`` (it may be stopped by a signal) or when it
does not read its commands; it is then killed. Its death, however it came, is reported exactly once as MonitorDied,
with the resource whose entry point was running when there was only one. Afterwards ``start`` may be called again;
whether and when is the service's decision. The new monitor finds leftovers of the old one when it is told
TerminateEverything, provided that it is given the same run folder; two living monitors never share one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from clussvc.model.errors import ClusterError
from clussvc.model.monitoring import LeaseExtended, MonitorCommand, MonitorDied, MonitorReport
from clussvc.resources.monitor.kernel import boottime_ms, monotonic_ms
from clussvc.resources.monitor.lease_word import LeaseWord, make_lease_memory
from clussvc.resources.monitor.protocol import HUNG_STATUS, FrameReader, Ping, Pong, command_codec, report_codec
from clussvc.resources.monitor.workers import CallBoard

COMMANDS_MAX: Final = 20_000
"""Commands that wait to be read by the monitor; beyond it the monitor counts as stuck."""
LOG_BYTES_MAX: Final = 1 << 20
PINGS_PER_HANG: Final = 4
"""Pings within ``hang_ms``, so that one that is late means nothing."""
HANG_UP_MS: Final = 500
"""How long a monitor that has closed its connection may take to end."""
START_FACTOR: Final = 10
"""How many times longer the first answer may take: the interpreter has to start first."""

_log = logging.getLogger(__name__)


class MonitorHost:
    """One monitor process at a time. All methods may be called from any thread.

    ``command`` is the program and its first arguments; ``--fd N --lease-fd M --run-folder P`` is appended.
    ``on_report`` is called in the host's own thread, one report at a time, and should return quickly.
    """

    def __init__(
        self,
        command: Sequence[str],
        run_folder: Path,
        on_report: Callable[[MonitorReport], None],
        *,
        hang_ms: int = 2_000,
    ) -> None:
        self._command = tuple(command)
        self._run_folder = run_folder.resolve()
        self._on_report = on_report
        self._hang_ms = hang_ms
        self._lock = threading.Lock()
        self._life: _Life | None = None

    @property
    def pid(self) -> int | None:
        """The monitor process that runs now."""
        life = self._life
        return life.process.pid if life is not None else None

    def start(self) -> None:
        """Start a monitor process; MonitorStarted follows.

        Raises ClusterError: ``monitor-runs`` when there is one, ``monitor-start-failed`` when the system refuses.
        """
        with self._lock:
            if self._life is not None:
                raise ClusterError("monitor-runs", f"the resource monitor of {self._run_folder} runs already")
            self._life = _Life(self._command, self._run_folder, self._hang_ms, self._on_report, self._ended)
        self._life.thread.start()

    def send(self, command: MonitorCommand) -> None:
        """Queue a command; never waits. Without a living monitor the command is dropped: MonitorDied was reported.

        Raises ClusterError(``message-too-large``).
        """
        life = self._life
        if life is not None:
            life.send(command)

    def stop(self, timeout_ms: int) -> bool:
        """Have the monitor terminate everything and end; kill it after ``timeout_ms``. No MonitorDied is reported.

        True: it ended by itself, with nothing left running. Not to be called from ``on_report``.
        """
        life = self._life
        if life is None:
            return True
        return life.stop(timeout_ms)

    def _ended(self, life: _Life) -> None:
        with self._lock:
            if self._life is life:
                self._life = None


class _Life:
    """One monitor process from start to end."""

    def __init__(
        self,
        command: Sequence[str],
        run_folder: Path,
        hang_ms: int,
        on_report: Callable[[MonitorReport], None],
        ended: Callable[[_Life], None],
    ) -> None:
        self._run_folder = run_folder
        self._hang_ms = hang_ms
        self._on_report = on_report
        self._ended = ended
        self._lock = threading.Lock()
        self._outbox: deque[bytes] = deque()
        self._encode = command_codec().encode
        self._decode = report_codec().decode
        self._frames = FrameReader()
        self._stopping = False
        self._killed_because = ""
        self._answered = False
        self._unanswered = 0
        self._pings = 0
        self._open = True
        self._gone = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._gaps = 0
        self._lease_until_ms = -1
        lease_memory = make_lease_memory()
        try:
            self._lease_word = LeaseWord(lease_memory)
            with theirs:
                self.process = _start(command, run_folder, theirs, lease_memory)
        except OSError as error:
            self._connection.close()
            self._selector.close()
            os.close(self._wake)
            raise ClusterError(
                "monitor-start-failed", f"the resource monitor {command[0]!r} cannot be started: {error}"
            ) from error
        finally:
            os.close(lease_memory)
        self._pidfd = os.pidfd_open(self.process.pid)
        self._connection.setblocking(False)
        self.thread = threading.Thread(target=self._serve, name=f"monitor-{self.process.pid}", daemon=True)

    def send(self, message: MonitorCommand | Ping) -> None:
        """Queue a message and wake the thread; most extensions of the lease are no more than a word in memory."""
        if isinstance(message, LeaseExtended) and self._fed(message.until_ms, message.budget_ms):
            return
        frame = self._encode(message)
        with self._lock:
            if self._gone.is_set() or self._stopping:
                return
            full = len(self._outbox) >= COMMANDS_MAX
            if not full:
                self._outbox.append(frame)
        if full:
            self._kill(f"it has left {COMMANDS_MAX} commands unread")
        self._ring()

    def _fed(self, until_ms: int, budget_ms: int) -> bool:
        """Write the lease down; False when the monitor must be told as well, since its timer has to be set."""
        with self._lock:
            gap = boottime_ms() >= self._lease_until_ms
            shorter = until_ms < self._lease_until_ms
            self._gaps += gap
            self._lease_until_ms = until_ms
            if budget_ms:
                self._lease_word.budget_ms = budget_ms
            self._lease_word.write(self._gaps, until_ms)
        return not gap and not shorter

    def stop(self, timeout_ms: int) -> bool:
        """See MonitorHost."""
        with self._lock:
            self._stopping = True
        self._ring()
        if not self._gone.wait(timeout_ms / 1000):
            self._kill("it did not stop in time")
            self._gone.wait(10)
        return self.process.returncode == 0

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _kill(self, why: str) -> None:
        if not self._killed_because:
            self._killed_because = why
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    # --- the thread -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._selector.register(self._pidfd, selectors.EVENT_READ)
        self._selector.register(self._connection, selectors.EVENT_READ)
        period_ms = max(self._hang_ms // PINGS_PER_HANG, 1)
        ping_ms = monotonic_ms() + period_ms
        over = False
        while not over:
            for key, events in self._selector.select(max(ping_ms - monotonic_ms(), 0) / 1000):
                if key.fileobj is self._connection:
                    self._transfer(events)
                elif key.fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                else:
                    over = True
            self._write()
            if monotonic_ms() >= ping_ms:
                ping_ms = monotonic_ms() + period_ms
                self._check_pulse()
        self._bury()

    def _transfer(self, events: int) -> None:
        if not events & selectors.EVENT_READ:
            return
        try:
            chunk = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if chunk:
            self._hear(chunk)
        else:
            self._hang_up()
            if not self._stopping and not self._ends_within(HANG_UP_MS):
                self._kill("it closed its connection")

    def _ends_within(self, limit_ms: int) -> bool:
        """A dying process closes its files before its end is told, so an end of the stream alone accuses nobody."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(limit_ms))

    def _hear(self, chunk: bytes) -> None:
        try:
            for body in self._frames.feed(chunk):
                message = self._decode(body)
                self._answered, self._unanswered = True, 0
                if not isinstance(message, Pong):
                    self._on_report(message)
        except ClusterError as error:
            self._kill(error.message)
            self._hang_up()

    def _write(self) -> None:
        if not self._open:
            return
        if self._stopping:
            # Closing for writing alone lets the last reports come through.
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            return
        with self._lock:
            while self._outbox:
                try:
                    sent = self._connection.send(self._outbox[0])
                except BlockingIOError:
                    break
                except OSError:
                    self._outbox.clear()  # It is dead or dying, which its pidfd will tell.
                    break
                if sent < len(self._outbox[0]):
                    self._outbox[0] = self._outbox[0][sent:]
                    break
                self._outbox.popleft()
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outbox else 0)
        if self._selector.get_key(self._connection).events != events:
            self._selector.modify(self._connection, events)

    def _check_pulse(self) -> None:
        if self._stopping:
            return
        # Unanswered pings are counted, not time: a service that was itself stopped for a while would otherwise kill a
        # healthy monitor. A monitor that is just starting is given longer.
        allowed = PINGS_PER_HANG if self._answered else PINGS_PER_HANG * START_FACTOR
        if self._unanswered > allowed:
            self._kill(f"it has not answered for {self._hang_ms} ms")
        self._unanswered += 1
        self._pings += 1
        self.send(Ping(number=self._pings))

    def _hang_up(self) -> None:
        if self._open:
            self._open = False
            self._selector.unregister(self._connection)
            self._connection.close()

    def _bury(self) -> None:
        """The process has ended: read what it still said, reap it, tell."""
        status = self.process.wait()
        while self._open:
            self._transfer(selectors.EVENT_READ)
            with contextlib.suppress(BlockingIOError):
                if self._open and not self._connection.recv(1, socket.MSG_PEEK):
                    self._hang_up()
                continue
            break
        self._hang_up()
        with self._lock:
            asked = self._stopping
            self._outbox.clear()
        self._ended(self)
        self._gone.set()
        self._selector.close()
        os.close(self._pidfd)
        os.close(self._wake)
        if not asked:
            self._on_report(self._obituary(status))

    def _obituary(self, status: int) -> MonitorDied:
        running = CallBoard.read(self._run_folder / "calls")
        how = f"ended with exit status {status}" if status >= 0 else f"was ended by signal {-status}"
        if status == HUNG_STATUS:
            how = "ended itself to stop an online that hung while everything had to be terminated"
        why = f"the resource monitor (process {self.process.pid}) {how}"
        if self._killed_because:
            why = f"the resource monitor (process {self.process.pid}) was killed because {self._killed_because}"
        if running:
            why += f"; entry points were running of {', '.join(running)}"
        _log.warning("%s", why)
        return MonitorDied(why=why, culprit=running[0] if len(running) == 1 else None)


def _start(
    command: Sequence[str], run_folder: Path, connection: socket.socket, lease_memory: int
) -> subprocess.Popen[bytes]:
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = run_folder / "monitor.log"
    with contextlib.suppress(FileNotFoundError):
        if log_path.stat().st_size > LOG_BYTES_MAX:
            log_path.replace(run_folder / "monitor.log.1")
    with contextlib.suppress(FileNotFoundError):
        (run_folder / "calls").unlink()
    fd = connection.fileno()
    with open(log_path, "ab") as log:
        return subprocess.Popen(
            [*command, "--fd", str(fd), "--lease-fd", str(lease_memory), "--run-folder", str(run_folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "CLUSSVC_RUN": str(run_folder)},
            pass_fds=(fd, lease_memory),
            start_new_session=True,
            close_fds=True,
        )
