"""What the last monitor of a dead service says to the others, with real processes, sockets and signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clussvc.service.last_will import Service, execute_will, write_will
from clussvc.service.leftovers import monitors_with_leftovers, note_occupied
from tests.adapters.monitor.conftest import alive, marked, read_pid, wait_until

WILL = b"nothing of incarnation 7 runs any more"
WAIT_S = 20.0

SERVICE = """
import sys, time
from pathlib import Path
from clussvc.service.leftovers import note_occupied
from tests.adapters.monitor.conftest import Driver, spec
run = Path(sys.argv[1])
for name in ("", "own"):
    note_occupied(run, name)
    driver = Driver(run / (name or "default")).start()
    line = f"sh -c 'echo $$ > {run}/pid-{name or 'default'}; exec sleep 1000'"
    driver.online(spec(f"app {name}", "Generic Application", CommandLine=line))
    print(driver.host.pid, flush=True)
time.sleep(1000)
"""


class Dying:
    """A process that is the service of two monitors, each of which runs an application; and the ear of a peer."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.ear.bind(("127.0.0.1", 0))
        self.ear.settimeout(WAIT_S)
        run.mkdir()
        write_will(run, WILL, (("127.0.0.1", self.ear.getsockname()[1]),))
        self.process = subprocess.Popen([sys.executable, "-c", SERVICE, str(run)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.monitors = [int(self.process.stdout.readline()) for _ in range(2)]
        self.applications = [read_pid(run / f"pid-{name}") for name in ("default", "own")]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def nothing_is_said(self) -> bool:
        """As far as has come until now."""
        self.ear.setblocking(False)
        try:
            self.ear.recv(1_000)
        except BlockingIOError:
            return True
        finally:
            self.ear.settimeout(WAIT_S)
        return False

    def all_gone(self) -> bool:
        return not any(marked(self.run / name) for name in ("default", "own"))


@pytest.fixture
def dying(tmp_path: Path) -> Iterator[Dying]:
    made = Dying(tmp_path / "run")
    yield made
    for pid in made.monitors:
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
    made.kill()
    assert made.process.stdout is not None
    made.process.stdout.close()
    wait_until(made.all_gone, "everything to end")
    made.ear.close()


def test_a_killed_service_has_its_will_sent_when_nothing_runs(dying: Dying) -> None:
    """By its last monitor, more than once, since datagrams may be lost."""
    dying.kill()
    assert dying.ear.recv(1_000) == WILL
    assert not any(alive(pid) for pid in dying.applications)
    assert monitors_with_leftovers(dying.run) == ()
    assert dying.ear.recv(1_000) == WILL


def test_a_monitor_that_stands_still_keeps_the_will_unsent(dying: Dying) -> None:
    """What it started runs on; when it goes on and has ended that, the will is sent."""
    os.kill(dying.monitors[1], signal.SIGSTOP)
    dying.kill()
    wait_until(lambda: not alive(dying.monitors[0]), "the other monitor to end")
    assert alive(dying.applications[1])
    assert monitors_with_leftovers(dying.run) == ("own",)
    assert dying.nothing_is_said()

    os.kill(dying.monitors[1], signal.SIGCONT)
    assert dying.ear.recv(1_000) == WILL
    assert not alive(dying.applications[1])


def test_a_monitor_that_was_killed_keeps_the_will_unsent(dying: Dying) -> None:
    """Nobody knows what it left; the others wait for the silence of the node."""
    os.kill(dying.monitors[1], signal.SIGSTOP)
    dying.kill()
    os.kill(dying.monitors[1], signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in dying.monitors), "both monitors to end")
    assert monitors_with_leftovers(dying.run) == ("own",)
    assert dying.nothing_is_said()
    os.kill(dying.applications[1], signal.SIGKILL)


def test_a_service_that_lives_has_no_will_sent(tmp_path: Path) -> None:
    """Whatever else holds, and also when it closes the connection to its monitor."""
    ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with ear:
        ear.bind(("127.0.0.1", 0))
        write_will(tmp_path, WILL, (("127.0.0.1", ear.getsockname()[1]),))
        assert not Service().is_dead()
        assert not execute_will(tmp_path, Service())


def test_a_will_is_no_more_readable_than_a_key(tmp_path: Path) -> None:
    """It may be used by nobody before it is true."""
    write_will(tmp_path, WILL, ())
    write_will(tmp_path, WILL, ())
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("will.json", 0o600)]


class Dead(Service):
    """A service of which that is known."""

    def is_dead(self) -> bool:
        return True


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"datagram": "zz", "targets": []}', '{"datagram": "00"}', '{"datagram": "00", "targets": [1]}'],
)
def test_a_will_that_cannot_be_read_is_not_sent(tmp_path: Path, content: str) -> None:
    """Nor one that is not there."""
    assert not execute_will(tmp_path, Dead())
    (tmp_path / "will.json").write_text(content)
    assert not execute_will(tmp_path, Dead())


def test_a_monitor_that_may_have_left_something_keeps_the_will_unsent(tmp_path: Path) -> None:
    write_will(tmp_path, WILL, ())
    assert execute_will(tmp_path, Dead())
    note_occupied(tmp_path, "own")
    assert not execute_will(tmp_path, Dead())
