"""Fence agents: programs that switch a machine off, as the fence-agents collection makes them.

The interface (ClusterLabs/fence-agents, ``doc/FenceAgentAPI.md``): parameters come on the standard input, one
``name=value`` in a line; the exit status of ``on``, ``off``, ``reboot`` and ``monitor`` is 0 when it was done; that of
``status`` is 0 for a machine that is on and 2 for one that is off; ``metadata`` prints XML.

Each run is a process in a session of its own. It is killed with everything that it started when its time is over, and
what it prints is kept up to a limit and otherwise thrown away, so a program that hangs or never ends talking costs no
more than its time.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Final

from clussvc.model.errors import ClusterError

OUTPUT_BYTES_MAX: Final = 256 * 1024
"""What is kept of each stream; the metadata of the largest agents have about 40 KB."""
DETAIL_LENGTH_MAX: Final = 300
SEARCHED: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin:/usr/local/bin"
"""Where agents are looked for after the service's own path."""
STATUS_PAUSE_S: Final = 0.2
"""Pause between two questions whether a machine is off yet."""
OFF: Final = 2
"""The exit status of ``status`` for a machine that is off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """How one run ended."""

    status: int
    """The exit status; negative: the signal that ended it."""
    output: str
    errors: str

    @property
    def detail(self) -> str:
        """What it said last, in one line; for people."""
        lines = [line.strip() for line in (self.errors or self.output).splitlines() if line.strip()]
        said = lines[-1][:DETAIL_LENGTH_MAX] if lines else "it said nothing"
        ended = f"exit status {self.status}" if self.status >= 0 else f"ended by signal {-self.status}"
        return f"{ended}: {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentMetadata:
    """What an agent says of itself."""

    description: str
    parameters: frozenset[str]
    required: frozenset[str]
    actions: frozenset[str]


def find_agent(agent: str) -> str:
    """The whole path of an agent.

    Raises ClusterError(``agent-not-found``).
    """
    path = shutil.which(agent, path=os.pathsep.join((os.environ.get("PATH", ""), SEARCHED)))
    if path is None:
        raise ClusterError(
            "agent-not-found",
            f"there is no fence agent {agent!r} on this node; install it (package fence-agents) or give its whole path",
        )
    return path


def run_agent(agent: str, parameters: Mapping[str, str], *, timeout_ms: int) -> AgentRun:
    """Run an agent to its end.

    Raises ClusterError: ``agent-not-found``; ``agent-failed`` when the system refuses to start it; ``agent-timeout``.
    """
    path = find_agent(agent)
    given = "".join(f"{name}={value}\n" for name, value in parameters.items()).encode("utf-8", "surrogateescape")
    # The service may run with real-time priority; what it starts must not.
    ordinary = shutil.which("chrt")
    words = [ordinary, "--other", "0", path] if ordinary else [path]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            close_fds=True,
        )
    except OSError as error:
        raise ClusterError("agent-failed", f"fence agent {path} cannot be started: {error.strerror}") from error
    try:
        output, errors, ended = _converse(process, given, time.monotonic() + timeout_ms / 1000)
    finally:
        # Also what it left behind: a fence agent has nothing to do after its end.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
    if not ended:
        raise ClusterError("agent-timeout", f"fence agent {agent} did not end within {timeout_ms} ms and was killed")
    return AgentRun(status=status, output=output, errors=errors)


def _converse(process: subprocess.Popen[bytes], given: bytes, end_s: float) -> tuple[str, str, bool]:
    """Feed and read until the process ends or its time is over; what it said, and whether it ended."""
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None
    assert stdout is not None
    assert stderr is not None
    kept: dict[int, bytearray] = {stdout.fileno(): bytearray(), stderr.fileno(): bytearray()}
    for stream in (stdin, stdout, stderr):
        os.set_blocking(stream.fileno(), False)
    pidfd, feeding = os.pidfd_open(process.pid), stdin.fileno()
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    for number in kept:
        poller.register(number, select.POLLIN)
    poller.register(feeding, select.POLLOUT)
    ended = False
    try:
        while not ended and (left_s := end_s - time.monotonic()) > 0:
            for number, _ in poller.poll(max(1, int(left_s * 1000))):
                if number == pidfd:
                    ended = True
                elif number == feeding:
                    given = _feed(stdin, given)
                    if not given:
                        poller.unregister(number)
                        stdin.close()
                elif not _drain(number, kept[number]):
                    poller.unregister(number)
    finally:
        os.close(pidfd)
    for number, held in kept.items():
        _drain(number, held)
    said = [bytes(held).decode("utf-8", "replace") for held in kept.values()]
    return said[0], said[1], ended


def _feed(stdin: IO[bytes], given: bytes) -> bytes:
    """Write what the pipe takes; what is left, nothing if the other end is closed."""
    try:
        return given[os.write(stdin.fileno(), given) :]
    except BlockingIOError:
        return given
    except OSError:
        return b""


def _drain(number: int, held: bytearray) -> bool:
    """Read what is there, and keep it up to the limit; False at the end of the stream."""
    for _ in range(64):
        try:
            chunk = os.read(number, 1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not chunk:
            return False
        held += chunk[: OUTPUT_BYTES_MAX - len(held)]
    return True


def read_metadata(agent: str, *, timeout_ms: int = 10_000) -> AgentMetadata:
    """Ask an agent for its parameters and actions.

    Raises ClusterError as :func:`run_agent`, and ``agent-failed`` when what it prints are no metadata.
    """
    run = run_agent(agent, {"action": "metadata"}, timeout_ms=timeout_ms)
    if run.status != 0:
        raise ClusterError("agent-failed", f"fence agent {agent} does not tell its parameters ({run.detail})")
    if "<!ENTITY" in run.output or "<!DOCTYPE" in run.output:
        # Entities that contain each other could fill the memory.
        raise ClusterError(
            "agent-failed", f"fence agent {agent} prints metadata with a document type; that is not read"
        )
    try:
        root = ElementTree.fromstring(run.output)  # noqa: S314 -- no document type, bounded, and root's own program
    except ElementTree.ParseError as error:
        raise ClusterError("agent-failed", f"fence agent {agent} prints no metadata in XML ({error})") from error
    parameters = root.findall("./parameters/parameter")
    return AgentMetadata(
        description=root.get("shortdesc", ""),
        parameters=frozenset(each.get("name", "") for each in parameters),
        required=frozenset(each.get("name", "") for each in parameters if each.get("required") == "1"),
        actions=frozenset(each.get("name", "") for each in root.findall("./actions/action")),
    )


def switch_off(agent: str, parameters: Mapping[str, str], *, timeout_ms: int, verify: bool) -> None:
    """Have a machine switched off, and with ``verify`` make sure that the agent's own status says so afterwards.

    ``parameters`` are those of the device; the action is added here. Raises ClusterError as :func:`run_agent`, and
    ``fence-failed`` when the agent says no or the machine is not off in time.
    """
    end_s = time.monotonic() + timeout_ms / 1000
    run = run_agent(agent, {**parameters, "action": "off"}, timeout_ms=timeout_ms)
    if run.status != 0:
        raise ClusterError("fence-failed", f"fence agent {agent} could not switch it off ({run.detail})")
    while verify:
        run = run_agent(agent, {**parameters, "action": "status"}, timeout_ms=timeout_ms)
        if run.status == OFF:
            return
        if time.monotonic() + STATUS_PAUSE_S >= end_s:
            raise ClusterError(
                "fence-failed",
                f"fence agent {agent} said that it switched it off, but its status does not say so ({run.detail})",
            )
        time.sleep(STATUS_PAUSE_S)


def switch_on(agent: str, parameters: Mapping[str, str], *, timeout_ms: int) -> None:
    """Have a machine switched on. Raises ClusterError as :func:`switch_off`."""
    run = run_agent(agent, {**parameters, "action": "on"}, timeout_ms=timeout_ms)
    if run.status != 0:
        raise ClusterError("fence-failed", f"fence agent {agent} could not switch it on again ({run.detail})")


def ask_monitor(agent: str, parameters: Mapping[str, str], *, timeout_ms: int) -> None:
    """See whether a device answers (action ``monitor``); nothing is switched. Raises ClusterError as above."""
    run = run_agent(agent, {**parameters, "action": "monitor"}, timeout_ms=timeout_ms)
    if run.status != 0:
        raise ClusterError("fence-failed", f"fence agent {agent} cannot reach its device ({run.detail})")
