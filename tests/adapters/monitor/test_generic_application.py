"""Generic Application on a real monitor: start, crash, graceful and forced stop, whole trees."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from clussvc.model.monitoring import MonitorDied, TakeOffline, TerminateResource
from clussvc.model.states import ResourceState
from tests.adapters.monitor.conftest import Driver, alive, read_pid, spec, wait_until

DOUBLE_FORK = """
import os, sys, time
if os.fork():
    open(sys.argv[1] + '/main', 'w').write(str(os.getpid()))
    time.sleep(1000)
os.setsid()
if os.fork():
    os._exit(0)
open(sys.argv[1] + '/daemon', 'w').write(str(os.getpid()))
time.sleep(1000)
"""


def test_crash_is_noticed_by_event(driver: Driver, tmp_path: Path) -> None:
    """No poll is set up at all, and still the death of the process is reported."""
    line = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000'"
    app = spec("app", "generic application", CommandLine=line, looks_alive_interval_ms=0, is_alive_interval_ms=0)
    assert ResourceState.ONLINE is driver.online(app).state

    os.kill(read_pid(tmp_path / "pid"), signal.SIGKILL)

    failed = driver.wait_state(app, ResourceState.FAILED)
    assert "SIGKILL" in failed.detail
    assert 1 == failed.epoch


def test_an_instance_knows_where_and_which_it_is(driver: Driver, tmp_path: Path) -> None:
    """A program of a parallel group can tell itself apart from its brothers."""
    line = f"sh -c 'echo $CLUSSVC_NODE $CLUSSVC_INSTANCE > {tmp_path}/told; exec sleep 1000'"
    app = replace(spec("app#2", "Generic Application", CommandLine=line), node_name="NODE3", instance=2)
    assert ResourceState.ONLINE is driver.online(app).state
    wait_until(lambda: (tmp_path / "told").exists() and "NODE3 2\n" == (tmp_path / "told").read_text(), "it has told")


def test_whole_tree_is_killed(driver: Driver, tmp_path: Path) -> None:
    """A daemon that forked twice and left the session dies with its resource."""
    program = tmp_path / "double_fork.py"
    program.write_text(DOUBLE_FORK)
    app = spec("app", "Generic Application", CommandLine=f"{sys.executable} {program} {tmp_path}")
    assert ResourceState.ONLINE is driver.online(app).state
    main, daemon = read_pid(tmp_path / "main"), read_pid(tmp_path / "daemon")

    driver.send(TerminateResource(resource=app.resource, epoch=1))

    assert ResourceState.OFFLINE is driver.wait_state(app, ResourceState.OFFLINE, ResourceState.FAILED).state
    assert not alive(main) and not alive(daemon)
    wait_until(lambda: not Path(f"/proc/{daemon}").exists(), "the adopted orphan is reaped")


def test_offline_lets_it_end_by_itself(driver: Driver, tmp_path: Path) -> None:
    """SIGTERM comes first, and a program that heeds it is not killed."""
    note = tmp_path / "note"
    app = spec(
        "app",
        "Generic Application",
        CommandLine=f"sh -c 'trap \"echo bye > {note}; exit 0\" TERM; echo up > {note}; while :; do sleep 0.05; done'",
    )
    assert ResourceState.ONLINE is driver.online(app).state
    wait_until(lambda: note.exists() and note.read_text() == "up\n", "the program is up")

    driver.send(TakeOffline(resource=app.resource, epoch=1))

    assert "" == driver.wait_state(app, ResourceState.OFFLINE, ResourceState.FAILED).detail
    assert "bye\n" == note.read_text()


def test_missing_program_fails_with_its_name(driver: Driver) -> None:
    """The report says what cannot be found."""
    failed = driver.online(spec("app", "Generic Application", CommandLine="/no/such/program --x"))

    assert ResourceState.FAILED is failed.state
    assert "/no/such/program" in failed.detail


def test_monitor_is_killed_and_the_next_one_sweeps(driver: Driver, tmp_path: Path) -> None:
    """kill -9 of the monitor: its death is told once, and nothing of its resources outlives the next one's start."""
    program = tmp_path / "double_fork.py"
    program.write_text(DOUBLE_FORK)
    app = spec("app", "Generic Application", CommandLine=f"{sys.executable} {program} {tmp_path}")
    driver.online(app)
    main, daemon = read_pid(tmp_path / "main"), read_pid(tmp_path / "daemon")
    pid = driver.host.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    assert "signal 9" in driver.wait(MonitorDied).why
    driver.start()
    assert not alive(main) and not alive(daemon)
    assert ResourceState.ONLINE is driver.online(app, epoch=2).state
