"""The deadman and the end of everything, with real processes: lost lease, dead service, stopped or broken monitor."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from clussvc.model.errors import ClusterError
from clussvc.model.ids import ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    CommandRefused,
    DeadmanFired,
    EverythingTerminated,
    LeaseExtended,
    MonitorDied,
    OpenResource,
    TerminateEverything,
)
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.host import COMMANDS_MAX
from clussvc.resources.monitor.kernel import boottime_ms
from clussvc.resources.monitor.protocol import command_codec
from tests.adapters.monitor.conftest import COMMAND, Driver, alive, marked, read_pid, spec, wait_until

HANG_HARD = """
import time
def online(resource):
    resource.start_process(["sh", "-c", "echo $$ > {folder}/pid; exec sleep 1000"])
    while True:
        try:
            time.sleep(0.01)
        except BaseException:
            pass
def looks_alive(resource):
    return True
is_alive = looks_alive
"""


def sleeper(folder: Path, name: str = "app") -> str:
    """A command line that writes its pid and sleeps."""
    return f"sh -c 'echo $$ > {folder}/{name}; exec sleep 1000'"


def test_nothing_starts_without_a_lease(tmp_path: Path) -> None:
    """Before the first LeaseExtended, and with one that has ended, BringOnline is refused."""
    driver = Driver(tmp_path / "run").start(lease=False)
    try:
        app = spec("app", "Generic Application", CommandLine="sleep 1000")
        driver.send(OpenResource(spec=app))
        driver.send(BringOnline(resource=app.resource, epoch=1))
        assert "no lease" in driver.wait(CommandRefused).why
        driver.send(LeaseExtended(until_ms=boottime_ms() - 10))
        driver.wait(DeadmanFired)
        driver.send(BringOnline(resource=app.resource, epoch=1))
        assert "no lease" in driver.wait(CommandRefused).why
        driver.feed()
        driver.send(TerminateEverything(ticket=1, why="heard"))
        driver.wait(EverythingTerminated)
        assert ResourceState.ONLINE is driver.online(app).state
    finally:
        driver.finish()


def test_lost_lease_ends_everything(driver: Driver, tmp_path: Path) -> None:
    """Processes are gone when the deadman reports, states are told, and a new lease permits again."""
    app = spec("app", "Generic Application", CommandLine=sleeper(tmp_path))
    driver.online(app)
    pid = read_pid(tmp_path / "app")

    driver.starve()

    assert "lease" in driver.wait_state(app, ResourceState.OFFLINE).detail
    fired = driver.wait(DeadmanFired)
    assert () == fired.left
    assert fired.lease_ended_ms <= boottime_ms()
    assert not alive(pid)
    driver.feed()
    driver.send(TerminateEverything(ticket=1, why="heard"))
    driver.wait(EverythingTerminated)
    assert ResourceState.ONLINE is driver.online(app, epoch=2).state


def test_what_was_commanded_before_the_service_knew_of_the_end_is_refused(driver: Driver, tmp_path: Path) -> None:
    """A start that was on its way relies on what the deadman has ended meanwhile; a new lease does not make it good."""
    address, app = (
        spec(name, "Generic Application", CommandLine=sleeper(tmp_path, name)) for name in ("address", "app")
    )
    driver.online(address)
    driver.send(OpenResource(spec=app))
    driver.starve()
    driver.wait(DeadmanFired)
    driver.feed()

    driver.send(BringOnline(resource=app.resource, epoch=1))
    refused = driver.wait(CommandRefused)
    assert (refused.resource, refused.ending) == (app.resource, True)
    assert not (tmp_path / "app").exists()

    driver.send(TerminateEverything(ticket=1, why="heard"))
    driver.wait(EverythingTerminated)
    assert ResourceState.ONLINE is driver.online(app).state


def test_lost_lease_ends_a_hung_online_with_its_monitor(driver: Driver, tmp_path: Path) -> None:
    """Nobody can vouch for code that hangs: when everything is gone the monitor ends too, and names the culprit."""
    path = tmp_path / "hang.py"
    path.write_text(HANG_HARD.format(folder=tmp_path))
    stuck = spec("stuck", "Generic Script", ScriptFilepath=str(path))
    app = spec("app", "Generic Application", CommandLine=sleeper(tmp_path))
    driver.send(OpenResource(spec=stuck))
    driver.send(BringOnline(resource=stuck.resource, epoch=1))
    driver.online(app)
    pids = [read_pid(tmp_path / "pid"), read_pid(tmp_path / "app")]

    driver.starve()

    died = driver.wait(MonitorDied)
    assert stuck.resource == died.culprit
    assert "hung" in died.why
    assert not any(map(alive, pids))
    driver.start()
    assert ResourceState.ONLINE is driver.online(app, epoch=2).state


def test_terminate_everything_answers_its_ticket(driver: Driver, tmp_path: Path) -> None:
    """Everything is gone when the answer comes, and things can be started again."""
    app = spec("app", "Generic Application", CommandLine=sleeper(tmp_path))
    driver.online(app)
    pid = read_pid(tmp_path / "app")

    driver.send(TerminateEverything(ticket=42, why="a test"))

    assert EverythingTerminated(ticket=42, left=()) == driver.wait(EverythingTerminated)
    assert not alive(pid)
    assert ResourceState.ONLINE is driver.online(app).state


def test_a_new_monitor_ends_by_itself_what_one_before_it_left(driver: Driver, tmp_path: Path) -> None:
    """Without being asked: the service may stand still at that moment, and nobody's lease is behind what runs."""
    # A child dies with the monitor; what the child has started does not.
    line = f"sh -c 'sleep 1000 & echo $! > {tmp_path}/app; wait'"
    driver.online(spec("app", "Generic Application", CommandLine=line))
    pid = read_pid(tmp_path / "app")
    assert driver.host.pid is not None
    os.kill(driver.host.pid, signal.SIGKILL)
    driver.wait(MonitorDied)
    assert alive(pid)

    driver.host.start()
    wait_until(lambda: not alive(pid), "the new monitor has not ended what the dead one had left")


def test_dead_service_ends_everything(tmp_path: Path) -> None:
    """The service is killed: its monitor terminates the resources and ends by itself."""
    run = tmp_path / "run"
    program = f"""
import sys, time
from pathlib import Path
from tests.adapters.monitor.conftest import Driver, spec
driver = Driver(Path({str(run)!r})).start()
driver.online(spec("app", "Generic Application", CommandLine={sleeper(tmp_path)!r}))
print("up", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert b"up\n" == service.stdout.readline()
        pid = read_pid(tmp_path / "app")
        assert alive(pid)
        service.kill()
        service.wait()
        wait_until(lambda: not alive(pid) and not marked(run), "resource and monitor are gone")


def test_stopped_monitor_is_noticed_and_killed(tmp_path: Path) -> None:
    """A monitor that is stopped by a signal does not answer; it is killed, and what it ran can be swept."""
    driver = Driver(tmp_path / "run", hang_ms=400).start()
    try:
        app = spec("app", "Generic Application", CommandLine=sleeper(tmp_path))
        driver.online(app)
        pid = read_pid(tmp_path / "app")
        monitor = driver.host.pid
        assert monitor is not None
        os.kill(monitor, signal.SIGSTOP)

        assert "has not answered" in driver.wait(MonitorDied).why
        driver.start()
        assert not alive(pid)
    finally:
        driver.finish()


def test_monitor_that_does_not_read_is_killed(tmp_path: Path) -> None:
    """Commands are bounded: when too many are unread the monitor counts as stuck, long before a ping is missed."""
    driver = Driver(tmp_path / "run", hang_ms=600_000).start()
    try:
        monitor = driver.host.pid
        assert monitor is not None
        os.kill(monitor, signal.SIGSTOP)
        for _ in range(3 * COMMANDS_MAX):
            driver.send(LeaseExtended(until_ms=1))
        assert "commands unread" in driver.wait(MonitorDied).why
        driver.start()
    finally:
        driver.finish()


def test_culprit_of_a_crash_is_named(driver: Driver, tmp_path: Path) -> None:
    """A script that brings the monitor down is told by name."""
    path = tmp_path / "crash.py"
    path.write_text(
        "import os\ndef online(resource):\n    os.abort()\ndef looks_alive(resource):\n    return True\n"
        "is_alive = looks_alive\n"
    )
    bad = spec("bad", "Generic Script", ScriptFilepath=str(path))
    driver.send(OpenResource(spec=bad))
    driver.send(BringOnline(resource=bad.resource, epoch=1))

    died = driver.wait(MonitorDied)

    assert ResourceId("bad") == died.culprit
    assert "signal 6" in died.why
    driver.start()


def test_garbage_from_the_service_ends_the_monitor(tmp_path: Path) -> None:
    """A monitor that hears nonsense trusts its service no more: it ends everything and leaves."""
    for garbage in (struct.pack(">I", 1 << 30), struct.pack(">I", 3) + b"\xc1\xc1\xc1", _foreign()):
        ours, theirs = socket.socketpair()
        with ours:
            fd = theirs.fileno()
            words = [*COMMAND, "--fd", str(fd), "--run-folder", str(tmp_path / "run")]
            with theirs:
                monitor = subprocess.Popen(words, pass_fds=(fd,), start_new_session=True)
            with monitor:
                ours.sendall(garbage)
                assert 0 == monitor.wait(timeout=20)


def _foreign() -> bytes:
    """A frame of a class that a service may not send."""
    frame = command_codec().encode(LeaseExtended(until_ms=1))
    return frame.replace(b"LeaseExtended", b"MonitorStarte")


def test_monitor_that_cannot_start_is_told(tmp_path: Path) -> None:
    """A program that does not exist is an error of start; one that ends at once is told as a death."""
    with pytest.raises(ClusterError) as caught:
        Driver(tmp_path / "run", command=("/no/such/monitor",)).host.start()
    assert "monitor-start-failed" == caught.value.code
    driver = Driver(tmp_path / "run", command=("false",))
    driver.host.start()
    assert "exit status 1" in driver.wait(MonitorDied).why
    assert driver.host.pid is None
