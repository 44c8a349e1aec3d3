"""Generic Script on a real monitor: success, failure, hang and stall; what a script sees and says."""

from __future__ import annotations

import http.client
import os
import signal
import socket
from pathlib import Path

import pytest

from clussvc.model.monitoring import (
    BringOnline,
    CloseResource,
    CommandRefused,
    LogLevel,
    OpenResource,
    PropertyChanged,
    ResourceLogged,
    ResourceReported,
    TakeOffline,
    TerminateResource,
)
from clussvc.model.states import ResourceState
from tests.adapters.monitor.conftest import Driver, alive, marked, read_pid, spec, wait_until

SCRIPTS = Path(__file__).parents[3] / "resource_scripts"

ALIVE = """
def looks_alive(resource):
    return True

def is_alive(resource):
    return True
"""


def script(folder: Path, text: str) -> str:
    """A script file with these functions and the two that must exist."""
    path = folder / "script.py"
    path.write_text(ALIVE + text)
    return str(path)


def test_template_lives_and_dies(driver: Driver, tmp_path: Path) -> None:
    """The script that teaches works; when its state vanishes the polls notice."""
    state = tmp_path / "state"
    res = spec("t", "Generic Script", ScriptFilepath=str(SCRIPTS / "template.py"), StateFile=str(state), DelayMs=300)
    assert ResourceState.ONLINE is driver.online(res).state
    progress = [report.detail for report in driver.seen if isinstance(report, ResourceReported)]
    assert {"checkpoint 1", "checkpoint 3"} <= set(progress)

    state.unlink()
    assert "is_alive says no" == driver.wait_state(res, ResourceState.FAILED).detail

    driver.send(TerminateResource(resource=res.resource, epoch=1))
    driver.wait_state(res, ResourceState.OFFLINE)
    assert ResourceState.ONLINE is driver.online(res, epoch=2).state
    driver.send(TakeOffline(resource=res.resource, epoch=2))
    assert "" == driver.wait_state(res, ResourceState.OFFLINE).detail
    assert not state.exists()


def test_failing_online_tells_why(driver: Driver) -> None:
    """The text of the exception and the line of the script reach the administrator."""
    res = spec("t", "Generic Script", ScriptFilepath=str(SCRIPTS / "template.py"), FailOn="online")

    failed = driver.online(res)

    assert ResourceState.FAILED is failed.state
    assert "online fails because FailOn says so" in failed.detail
    assert "template.py, line" in failed.detail


def test_failing_offline_ends_in_terminate(driver: Driver, tmp_path: Path) -> None:
    """The resource is offline all the same, and the report says what happened."""
    state = tmp_path / "state"
    res = spec(
        "t", "Generic Script", ScriptFilepath=str(SCRIPTS / "template.py"), FailOn="offline", StateFile=str(state)
    )
    driver.online(res)

    driver.send(TakeOffline(resource=res.resource, epoch=1))

    assert "terminated" in driver.wait_state(res, ResourceState.OFFLINE).detail
    assert not state.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def online(resource):\n    return 5\n", "returned 5"),
        ("def online(resource):\n    return False\n", "returned False"),
        ("def online(resource:\n", "not valid Python"),
        ("raise ValueError('at load')\n", "at load"),
        ("del is_alive\n", "does not define is_alive"),
        ("def online(resource):\n    raise SystemExit(3)\n", "exit"),
        ("def online(resource):\n    resource.NoSuch\n", "NoSuch"),
    ],
)
def test_bad_scripts_fail_with_the_reason(driver: Driver, tmp_path: Path, text: str, words: str) -> None:
    """Each kind of bad script is a failure of the resource, told in words; the monitor lives on."""
    failed = driver.online(spec("s", "Generic Script", ScriptFilepath=script(tmp_path, text)))

    assert ResourceState.FAILED is failed.state
    assert words in failed.detail


def test_properties_are_added_and_set(driver: Driver, tmp_path: Path) -> None:
    """What a script does to its properties is told to the cluster, and attribute access sees it."""
    text = """
def online(resource):
    resource.add_property("Count", 1)
    resource.add_property("count", 9)
    resource.Count = resource.count + 1
    resource.log_warning(f"{resource.name} {resource.properties['COUNT']}")
    resource.remove_property("Count")
"""
    assert (
        ResourceState.ONLINE is driver.online(spec("s", "Generic Script", ScriptFilepath=script(tmp_path, text))).state
    )

    changes = [(r.name, r.value) for r in driver.seen if isinstance(r, PropertyChanged)]
    assert [("Count", 1), ("Count", 2), ("Count", None)] == changes
    assert [("s 2", LogLevel.WARNING)] == [(r.text, r.level) for r in driver.seen if isinstance(r, ResourceLogged)]


def test_hang_in_online_disturbs_nobody(driver: Driver, tmp_path: Path) -> None:
    """A hung script fails after its pending timeout, is in hang mode, and another resource comes online meanwhile."""
    go = tmp_path / "go"
    hang = f"""
import time, os
def online(resource):
    while not os.path.exists({str(go)!r}):
        try:
            time.sleep(0.05)
        except BaseException:
            pass
"""
    stuck = spec("stuck", "Generic Script", ScriptFilepath=script(tmp_path, hang), pending_timeout_ms=700)
    other = spec("other", "Generic Application", CommandLine="sleep 1000")
    driver.send(OpenResource(spec=stuck))
    driver.send(BringOnline(resource=stuck.resource, epoch=1))
    assert ResourceState.ONLINE is driver.online(other).state

    failed = driver.wait_state(stuck, ResourceState.FAILED)
    assert failed.terminated and "1232" in failed.detail
    driver.send(BringOnline(resource=stuck.resource, epoch=1))
    assert "1233" in driver.wait_state(stuck, ResourceState.FAILED).detail

    go.touch()
    wait_until(lambda: driver.online(stuck).state is ResourceState.ONLINE, "hang mode ends")


def test_hung_child_of_a_script_is_killed(driver: Driver, tmp_path: Path) -> None:
    """A command that the script started by itself and waits for is killed by Terminate, so online returns."""
    text = f"""
import subprocess
def online(resource):
    subprocess.run(["sh", "-c", "echo $$ > {tmp_path}/pid; exec sleep 1000"])
"""
    res = spec("s", "Generic Script", ScriptFilepath=script(tmp_path, text))
    driver.send(OpenResource(spec=res))
    driver.send(BringOnline(resource=res.resource, epoch=1))
    child = read_pid(tmp_path / "pid")

    driver.send(TerminateResource(resource=res.resource, epoch=1))

    assert ResourceState.OFFLINE is driver.wait_state(res, ResourceState.OFFLINE, ResourceState.FAILED).state
    wait_until(lambda: not alive(child), "the child is dead")


def test_processes_started_without_help_belong_to_the_resource(driver: Driver, tmp_path: Path) -> None:
    """A script leaves processes of its own making; Terminate kills those of its resource, and of no other."""
    text = """
import subprocess
def online(resource):
    subprocess.Popen(["sh", "-c", f"echo $$ > {resource.Note}; exec sleep 1000"])
"""
    path = script(tmp_path, text)
    one, two = (
        spec(name, "Generic Script", ScriptFilepath=path, Note=str(tmp_path / name), looks_alive_interval_ms=0)
        for name in ("one", "two")
    )
    assert ResourceState.ONLINE is driver.online(one).state
    assert ResourceState.ONLINE is driver.online(two).state
    first, second = read_pid(tmp_path / "one"), read_pid(tmp_path / "two")

    driver.send(TerminateResource(resource=one.resource, epoch=1))

    driver.wait_state(one, ResourceState.OFFLINE)
    assert not alive(first)
    assert alive(second)


def test_progress_restarts_the_timeout(driver: Driver) -> None:
    """Online takes longer than the pending timeout, but is never silent for so long."""
    res = spec(
        "t", "Generic Script", ScriptFilepath=str(SCRIPTS / "template.py"), DelayMs=3000, pending_timeout_ms=1500
    )
    assert ResourceState.ONLINE is driver.online(res).state


def test_hung_poll_is_a_failure(driver: Driver) -> None:
    """is_alive that does not return is told as event 1232."""
    res = spec(
        "t",
        "Generic Script",
        ScriptFilepath=str(SCRIPTS / "template.py"),
        StallOn="looks_alive",
        pending_timeout_ms=500,
    )
    assert ResourceState.ONLINE is driver.online(res).state
    assert "1232" in driver.wait_state(res, ResourceState.FAILED).detail


def test_old_epochs_are_refused(driver: Driver) -> None:
    """An epoch older than the newest seen for the group is refused, also for another resource of that group."""
    one = spec("one", "Generic Application", CommandLine="sleep 1000")
    two = spec("two", "Generic Application", CommandLine="sleep 1000")
    driver.online(one, epoch=5)
    driver.send(OpenResource(spec=two))

    driver.send(BringOnline(resource=two.resource, epoch=4))
    assert "epoch 4 is older than epoch 5" in driver.wait(CommandRefused).why
    driver.send(TerminateResource(resource=one.resource, epoch=4))
    assert one.resource == driver.wait(CommandRefused).resource
    driver.send(BringOnline(resource=one.resource, epoch=6))
    assert (6, ResourceState.ONLINE) == _epoch_and_state(driver.wait_state(one, ResourceState.ONLINE))


def _epoch_and_state(report: ResourceReported) -> tuple[int, ResourceState]:
    return report.epoch, report.state


def test_unknown_resource_and_type(driver: Driver) -> None:
    """Commands for what is not open are refused; a type that is not installed is named."""
    res = spec("x", "Flux Capacitor")
    driver.send(BringOnline(resource=res.resource, epoch=1))
    assert "not open" in driver.wait(CommandRefused).why
    assert "'Flux Capacitor' is not installed" in driver.online(res).detail


def test_closed_resource_is_terminated_and_forgotten(driver: Driver, tmp_path: Path) -> None:
    """CloseResource ends what runs; afterwards the resource is unknown."""
    line = f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 1000'"
    app = spec("app", "Generic Application", CommandLine=line)
    driver.online(app)
    pid = read_pid(tmp_path / "pid")

    driver.send(CloseResource(resource=app.resource))

    driver.wait_state(app, ResourceState.OFFLINE)
    assert not alive(pid)
    driver.send(BringOnline(resource=app.resource, epoch=1))
    driver.wait(CommandRefused)


def test_web_server_serves_and_its_death_is_noticed(driver: Driver, tmp_path: Path) -> None:
    """The script serves files and says who it is; killing the server is noticed by event."""
    (tmp_path / "hello.txt").write_text("hello")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    web = spec(
        "web",
        "Generic Script",
        ScriptFilepath=str(SCRIPTS / "web_server.py"),
        Port=port,
        DocumentRoot=str(tmp_path),
        Address="127.0.0.1",
        looks_alive_interval_ms=0,
        is_alive_interval_ms=0,
    )
    report = driver.online(web)
    assert ResourceState.ONLINE is report.state, report
    assert f"{socket.gethostname()} web\n" == _fetch(port, "/whoami")
    assert "hello" == _fetch(port, "/hello.txt")

    server = next(pid for pid in marked(driver.folder) if _is_server(pid))
    os.kill(server, signal.SIGKILL)
    assert "SIGKILL" in driver.wait_state(web, ResourceState.FAILED).detail
    assert ResourceState.ONLINE is driver.online(web).state


def test_web_server_names_the_port_that_is_taken(driver: Driver) -> None:
    """Somebody else listens there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = str(SCRIPTS / "web_server.py")
        report = driver.online(spec("web", "Generic Script", ScriptFilepath=path, Port=port, Address="127.0.0.1"))

    assert ResourceState.FAILED is report.state
    assert f"port {port} on address 127.0.0.1 cannot be used: Address already in use" in report.detail


def _is_server(pid: int) -> bool:
    try:
        return b"web_server.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _fetch(port: int, path: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def test_odd_words_do_not_break_the_monitor(driver: Driver, tmp_path: Path) -> None:
    """Text that is no text, properties that are too long or of a strange kind, and a flood of log lines."""
    text = r"""
def online(resource):
    resource.log_error("lone \udc80 " + "x" * 100_000)
    for value in ("x" * 70_000, 2**40, 1.5, None, ["a", 3], "\udc80"):
        try:
            resource.add_property("P", value)
        except Exception:
            resource.remove_property("P")
        else:
            return f"{value!r} was taken"
    resource.add_property("P", ["a", "b"])
    for number in range(5000):
        resource.log_information(number)
    raise ValueError("\udc80")
"""
    failed = driver.online(spec("s", "Generic Script", ScriptFilepath=script(tmp_path, text)))

    assert "ValueError: \\udc80" in failed.detail
    assert [("a", "b")] == [r.value for r in driver.seen if isinstance(r, PropertyChanged)]
    assert driver.host.pid is not None
