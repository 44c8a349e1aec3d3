"""What a resource type holds of its resource: the hand through which it acts.

Everything that a type makes goes through here, so that it can be ended whatever the type does: starting a process and
writing a record are refused when the resource is being stopped, under the same lock under which the stop is declared.
Calls that stop something (offline, terminate, close) may run commands at any time; what these leave is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from clussvc.model.errors import ClusterError
from clussvc.model.ids import NAME_LENGTH_MAX, ResourceId
from clussvc.model.monitoring import LogLevel, PropertyValue, ResourceSpec
from clussvc.model.settings import PROPERTY_BYTES_MAX
from clussvc.model.states import StateChangeReason
from clussvc.resources.monitor.deadman import StartGate
from clussvc.resources.monitor.kernel import monotonic_ms
from clussvc.resources.monitor.processes import (
    RESOURCE_MARKER,
    RUN_MARKER,
    Chooser,
    ManagedProcess,
    Spawner,
    SpawnRequest,
    kill_all,
    living,
    send_signal,
    started_at,
    tree_of,
)
from clussvc.resources.monitor.records import Record, RecordBook
from clussvc.resources.monitor.workers import Call, CallKind, CallPool

OUTPUT_BYTES_MAX: Final = 65_536
"""How much of the output of a command is kept."""
LOG_TEXT_MAX: Final = 4_096
LOG_FILE_BYTES_MAX: Final = 1 << 20
"""The file with the output of a resource's processes is cut when it has grown beyond this."""
LOG_FILE_KEPT_BYTES: Final = 1 << 16
PROPERTIES_MAX: Final = 256

_STOPPING: Final = frozenset({CallKind.OFFLINE, CallKind.TERMINATE, CallKind.CLOSE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A command that was run to its end."""

    status: int
    output: str


class HandleSink:
    """What a handle tells the monitor; every method may be called from any thread and returns at once."""

    def logged(self, resource: ResourceId, level: LogLevel, text: str) -> None:
        """Text for the cluster log."""
        raise NotImplementedError

    def progressed(self, resource: ResourceId, checkpoint: int) -> None:
        """A changed checkpoint."""
        raise NotImplementedError

    def failed(self, resource: ResourceId, run: int, why: str) -> None:
        """The resource failed during its run of that number."""
        raise NotImplementedError

    def property_changed(self, resource: ResourceId, name: str, value: PropertyValue | None) -> None:
        """A private property was set, or removed."""
        raise NotImplementedError

    def watch(self, resource: ResourceId, fd: int, handler: Callable[[], None] | None) -> None:
        """Call ``handler`` when ``fd`` is readable; None ends that. Ending waits until the handler does not run."""
        raise NotImplementedError


class PropertyBag:
    """Private properties by name, whatever the case of its letters; changes are reported to the cluster."""

    def __init__(
        self, values: Mapping[str, PropertyValue], changed: Callable[[str, PropertyValue | None], None]
    ) -> None:
        self._values = dict(values)
        self._names = {name.casefold(): name for name in values}
        self._changed = changed

    def __getitem__(self, name: str) -> PropertyValue:
        return self._values[self._names[name.casefold()]]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.casefold() in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._values))

    def get(self, name: str, default: PropertyValue | None = None) -> PropertyValue | None:
        """The value, or ``default`` when there is none."""
        known = self._names.get(name.casefold())
        return default if known is None else self._values[known]

    def __setitem__(self, name: str, value: PropertyValue) -> None:
        value = _checked_value(name, value)
        if not 0 < len(name) <= NAME_LENGTH_MAX or not name.isprintable():
            raise ClusterError("bad-property", f"{plain_text(name)!r} cannot be the name of a property")
        if name not in self and len(self._values) >= PROPERTIES_MAX:
            raise ClusterError("too-many-properties", f"a resource has at most {PROPERTIES_MAX} private properties")
        known = self._names.setdefault(name.casefold(), name)
        if self._values.get(known) != value:
            self._values[known] = value
            self._changed(known, value)

    def __delitem__(self, name: str) -> None:
        known = self._names.pop(name.casefold())
        del self._values[known]
        self._changed(known, None)


def plain_text(text: object) -> str:
    """Whatever a type says, as a text of bounded length that can be sent."""
    return str(text)[:LOG_TEXT_MAX].encode("utf-8", "backslashreplace").decode()


def _checked_value(name: str, value: Any) -> PropertyValue:
    """Scripts are not type-checked, so what they set is looked at here."""
    if isinstance(value, bool):
        value = int(value)
    if isinstance(value, int) and -(2**31) <= value < 2**32:
        return value
    if isinstance(value, list):
        value = tuple(value)
    texts = value if isinstance(value, tuple) else (value,)
    if all(isinstance(item, str) for item in texts):
        try:
            size = sum(len(item.encode("utf-8")) + 1 for item in texts)
        except UnicodeEncodeError as error:
            raise ClusterError(
                "bad-property", f"property {name} holds what is not valid text: {error.reason}"
            ) from error
        if size > PROPERTY_BYTES_MAX:
            raise ClusterError(
                "property-too-long",
                f"property {name} would take {size} bytes; at most {PROPERTY_BYTES_MAX} are allowed",
            )
        return tuple(texts) if isinstance(value, tuple) else str(value)
    raise ClusterError("bad-property", f"property {name} cannot be {value!r}: use a number, a text or a list of texts")


class ResourceHandle:
    """One resource, as its type sees it; the interface is described at ``clussvc.resources.types.base.Resource``."""

    def __init__(
        self,
        spec: ResourceSpec,
        *,
        run_folder: Path,
        sink: HandleSink,
        gate: StartGate,
        spawner: Spawner,
        pool: CallPool,
        records: RecordBook,
    ) -> None:
        self.spec = spec
        self._run_folder = run_folder
        self._sink = sink
        self._gate = gate
        self._spawner = spawner
        self._pool = pool
        self._records = records
        self._permit: int | None = None
        self._run = 0
        self._checkpoint: int | None = None
        self._processes: dict[int, ManagedProcess] = {}
        self._fds: set[int] = set()
        self._adopted: dict[int, int] = {}
        """Processes that entry points forked by themselves: pid and time of start."""
        self.call: Call | None = None
        """The call that runs now, set by the monitor: what its thread forked belongs to the resource."""
        self._lock = threading.Lock()
        self.reason = StateChangeReason.UNKNOWN
        self.properties = self._bag(spec)

    # --- for the monitor ------------------------------------------------------------------------------------------

    def begin(self, spec: ResourceSpec, permit: int, reason: StateChangeReason) -> None:
        """A new run starts: things may be started under ``permit``, with the properties of now."""
        self.spec = spec
        self.properties = self._bag(spec)
        self.reason = reason
        self._checkpoint = None
        with self._gate.lock:
            self._run += 1
            self._permit = permit

    @property
    def run_number(self) -> int:
        """Which run this is; a failure that is told late is recognised by it."""
        return self._run

    def end(self) -> None:
        """From now on nothing is started."""
        with self._gate.lock:
            self._permit = None

    def renew(self, spec: ResourceSpec) -> None:
        """Take over changed properties while nothing runs."""
        self.spec = spec
        self.properties = self._bag(spec)

    def kill_processes(self, limit_ms: int) -> tuple[int, ...]:
        """Kill the whole tree; the pids that could not be killed, normally none. Ended processes are reaped."""
        left = kill_all(self._tree(), limit_ms)
        self.reap_ended()
        return left

    def reap_ended(self) -> None:
        """Give back the numbers of processes that have ended. Not while the resource is to notice their end."""
        with self._lock:
            ended = [process for process in self._processes.values() if process.ended is not None]
        for process in ended:
            self.unwatch_fd(process.pidfd)
            with self._lock:
                if process.reap():
                    self._processes.pop(process.pid, None)

    def adopt(self, pids: set[int]) -> None:
        """These belong to the resource, though they were started without its help."""
        with self._lock:
            found = {pid: started_at(pid) for pid in self._adopted.keys() | pids}
            self._adopted = {
                pid: started
                for pid, started in found.items()
                if started is not None and self._adopted.get(pid, started) == started
            }

    def tracked(self) -> set[int]:
        """The pids that are not to be reaped by anybody else."""
        with self._lock:
            return set(self._processes)

    def cut_log(self) -> None:
        """Keep the end of an output file that has grown too long. Writers append, so they go on at the new end."""
        path = self._log_path()
        with contextlib.suppress(OSError):
            if path.stat().st_size > LOG_FILE_BYTES_MAX:
                with open(path, "r+b") as log:
                    log.seek(-LOG_FILE_KEPT_BYTES, os.SEEK_END)
                    path.with_suffix(".log.1").write_bytes(log.read())
                    log.truncate(0)

    # --- for the type ---------------------------------------------------------------------------------------------

    @property
    def id(self) -> ResourceId:
        """See the interface."""
        return self.spec.resource

    @property
    def name(self) -> str:
        """See the interface."""
        return self.spec.name

    @property
    def group_name(self) -> str:
        """See the interface."""
        return self.spec.group_name

    @property
    def node_name(self) -> str:
        """The name of the node on which it runs."""
        return self.spec.node_name

    @property
    def instance(self) -> int:
        """The number of its instance of a parallel group; 0: its group runs on one node."""
        return self.spec.instance

    @property
    def base_name(self) -> str:
        """The name without the number of the instance."""
        return self.spec.base_name or self.spec.name

    @property
    def run_folder(self) -> Path:
        """See the interface."""
        return self._run_folder

    @property
    def pending_timeout_ms(self) -> int:
        """See the interface."""
        return self.spec.pending_timeout_ms

    def log_information(self, text: str) -> None:
        """See the interface."""
        self._sink.logged(self.id, LogLevel.INFORMATION, plain_text(text))

    def log_warning(self, text: str) -> None:
        """See the interface."""
        self._sink.logged(self.id, LogLevel.WARNING, plain_text(text))

    def log_error(self, text: str) -> None:
        """See the interface."""
        self._sink.logged(self.id, LogLevel.ERROR, plain_text(text))

    def report_progress(self, checkpoint: int) -> None:
        """See the interface."""
        if checkpoint != self._checkpoint:
            self._checkpoint = checkpoint
            self._sink.progressed(self.id, checkpoint)

    def failed(self, why: str) -> None:
        """See the interface."""
        self._sink.failed(self.id, self._run, plain_text(why))

    def start_process(
        self,
        words: Sequence[str],
        *,
        folder: str = "/",
        environment: Mapping[str, str] | None = None,
        essential: bool = True,
    ) -> ManagedProcess:
        """See the interface."""
        run = self._run
        path = self._log_path()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path, "ab") as log:
            process = self._spawn(words, folder, environment, log.fileno())

        def ended() -> None:
            self.unwatch_fd(process.pidfd)
            if essential:
                self._sink.failed(self.id, run, process.describe_end())

        self.watch_fd(process.pidfd, ended)
        return process

    def run(self, words: Sequence[str], *, limit_ms: int = 30_000, folder: str = "/") -> Finished:
        """See the interface."""
        # A file and not a pipe: a daemon that the command leaves behind would hold a pipe open for ever.
        with tempfile.TemporaryFile() as output:
            process = self._spawn(words, folder, None, output.fileno())
            try:
                status = process.wait(limit_ms)
                if status is None:
                    raise ClusterError(
                        "command-stuck", f"{words[0]} did not end within {limit_ms} ms and was killed", retryable=True
                    )
            finally:
                self._end_command(process)
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - OUTPUT_BYTES_MAX))
            return Finished(status=status, output=output.read().decode(errors="replace").strip())

    def stop_processes(self, grace_ms: int) -> None:
        """See the interface."""
        tree = self._tree()
        for process in living(tree):
            pidfd = send_signal(process, signal.SIGTERM)
            if pidfd is not None:
                os.close(pidfd)
        deadline_ms = monotonic_ms() + grace_ms
        while (found := living(tree)) and (left_ms := deadline_ms - monotonic_ms()) > 0:
            pidfd = send_signal(found[0], 0)
            if pidfd is not None:
                poller = select.poll()
                poller.register(pidfd, select.POLLIN)
                poller.poll(left_ms)
                os.close(pidfd)
        self.kill_processes(limit_ms=5_000)

    def watch_fd(self, fd: int, handler: Callable[[], None]) -> None:
        """See the interface."""
        self._fds.add(fd)
        self._sink.watch(self.id, fd, handler)

    def unwatch_fd(self, fd: int) -> None:
        """See the interface."""
        if fd in self._fds:
            self._fds.discard(fd)
            self._sink.watch(self.id, fd, None)

    def remember(self, record: Mapping[str, Any]) -> None:
        """See the interface."""
        with self._gate.lock:
            if not self._may_start():
                raise ClusterError(
                    "not-permitted", f"the resource {self.name!r} is being stopped and may not make anything any more"
                )
            self._records.write(Record(resource=self.id, type=self.spec.type, made=record))

    def forget(self) -> None:
        """See the interface."""
        self._records.erase(self.id)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _bag(self, spec: ResourceSpec) -> PropertyBag:
        return PropertyBag(spec.private, lambda name, value: self._sink.property_changed(self.id, name, value))

    def _may_start(self) -> bool:
        """Whether the calling thread may start something. The caller holds the lock of the gate."""
        call = self._pool.current()
        if call is not None and call.kind in _STOPPING:
            return True
        return (call is None or not call.aborted) and self._gate.valid(self._permit)

    def _spawn(
        self, words: Sequence[str], folder: str, environment: Mapping[str, str] | None, output: int
    ) -> ManagedProcess:
        if isinstance(words, str) or not words:
            raise ClusterError("bad-command", f"a command is a list of words, not {words!r}")
        call = self._pool.current()
        stopping = call is not None and call.kind in _STOPPING
        aborted = call.aborted if call is not None else False
        process = self._spawner.spawn(
            SpawnRequest(
                words=[str(word) for word in words],
                folder=folder,
                environment=self._environment(environment),
                output=output,
                allowed=lambda: stopping or (not aborted and self._gate.valid(self._permit)),
            )
        )
        with self._lock:
            self._processes[process.pid] = process
        return process

    def _end_command(self, process: ManagedProcess) -> None:
        """A command has ended, or is made to: with its session, though not with daemons that left it."""
        if process.ended is None:
            kill_all(tree_of(lambda: (process.pid,)), limit_ms=1_000)
        with self._lock:
            if process.reap():
                self._processes.pop(process.pid, None)

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        environment = {**os.environ, **(more or {})}
        environment[RESOURCE_MARKER] = self.id
        environment[RUN_MARKER] = str(self._run_folder)
        environment["CLUSSVC_NODE"] = self.spec.node_name
        environment["CLUSSVC_INSTANCE"] = str(self.spec.instance or "")
        if self.spec.network_name:
            environment["HOSTNAME"] = environment["COMPUTERNAME"] = self.spec.network_name
        return environment

    def _tree(self) -> Chooser:
        # The resource alone would not do: several nodes of one cluster may live on one machine for a trial.
        return tree_of(self._roots, f"{RESOURCE_MARKER}={self.id}", f"{RUN_MARKER}={self._run_folder}")

    def _roots(self) -> set[int]:
        call = self.call
        forked = call.forked() if call is not None and not call.finished.is_set() else set()
        with self._lock:
            adopted = {pid for pid, started in self._adopted.items() if started_at(pid) == started}
        return self.tracked() | adopted | forked

    def _log_path(self) -> Path:
        return self._run_folder / "log" / f"{quote(self.id, safe='')}.log"
