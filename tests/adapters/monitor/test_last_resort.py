"""The monitor's own fence: what must be over a release budget after the lease, or else the machine is."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from clussvc.model.monitoring import DeadmanFired
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.kernel import boottime_ms
from clussvc.resources.monitor.last_resort import LastResort
from tests.adapters.monitor.conftest import COMMAND, Driver, marked, spec, wait_until

SLOW_END = """
import time
def online(resource):
    pass
def terminate(resource):
    time.sleep({seconds})
def offline(resource):
    pass
def looks_alive(resource):
    return True
is_alive = looks_alive
"""


def fenced_by(mark: Path, budget_ms: int) -> tuple[str, ...]:
    """A monitor that ends its machine by making a file."""
    return (*COMMAND, "--self-fence", f"touch {mark}", "--release-budget", str(budget_ms))


def script(folder: Path, seconds: float) -> str:
    path = folder / "slow.py"
    path.write_text(SLOW_END.format(seconds=seconds))
    return str(path)


def test_what_does_not_end_in_time_ends_the_machine(tmp_path: Path) -> None:
    """The lease is lost, and the termination takes longer than the release budget."""
    mark = tmp_path / "fenced"
    driver = Driver(tmp_path / "run", command=fenced_by(mark, 200)).start()
    try:
        slow = spec("slow", "Generic Script", ScriptFilepath=script(tmp_path, 3))
        assert driver.online(slow).state is ResourceState.ONLINE
        driver.starve()
        wait_until(mark.exists, "the machine to be ended")
        assert not any(isinstance(report, DeadmanFired) for report in driver.seen)
        driver.wait(DeadmanFired)
    finally:
        driver.finish()


def test_what_ends_in_time_ends_nothing_else(tmp_path: Path) -> None:
    mark = tmp_path / "fenced"
    driver = Driver(tmp_path / "run", command=fenced_by(mark, 30_000)).start()
    try:
        slow = spec("slow", "Generic Script", ScriptFilepath=script(tmp_path, 0.2))
        assert driver.online(slow).state is ResourceState.ONLINE
        driver.starve()
        assert driver.wait(DeadmanFired).left == ()
    finally:
        driver.finish()
    assert not mark.exists()


def test_a_dead_service_is_no_way_out(tmp_path: Path) -> None:
    """The service is killed; its monitor alone sees that what it runs does not end."""
    run, mark = tmp_path / "run", tmp_path / "fenced"
    program = f"""
import sys, time
from pathlib import Path
from clussvc.model.ids import ResourceId
from clussvc.model.monitoring import CommandRefused, LeaseExtended, TakeOffline
from clussvc.resources.monitor.kernel import boottime_ms
from tests.adapters.monitor.conftest import Driver, spec
from tests.adapters.monitor.test_last_resort import fenced_by
driver = Driver(Path({str(run)!r}), command=fenced_by(Path({str(mark)!r}), 200)).start()
driver.online(spec("slow", "Generic Script", ScriptFilepath={script(tmp_path, 8)!r}))
driver._feeding.clear()
driver.send(LeaseExtended(until_ms=boottime_ms() + 3_000))
driver.send(TakeOffline(resource=ResourceId("nobody"), epoch=1))
driver.wait(CommandRefused)
print("up", flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"up\n"
        service.kill()
        service.wait()
    # The lease goes on for three seconds at most, and the termination takes longer than that and the budget.
    wait_until(mark.exists, "the machine to be ended")
    wait_until(lambda: not marked(run), "the monitor to end")


class Watched:
    """A last resort that notes its use."""

    def __init__(self, budget_ms: int) -> None:
        self.used: list[str] = []
        self.over = threading.Event()
        self.resort = LastResort(self.used.append, lambda: budget_ms)
        self.resort.start(then=self.over.set)


def test_an_end_that_left_something_is_not_over() -> None:
    """Another attempt may yet succeed before the moment has come."""
    watched = Watched(100)
    number = watched.resort.begin(boottime_ms(), "a test")
    watched.resort.over(number, clean=False)
    assert watched.over.wait(20)
    assert watched.used == ["a test, and not everything was terminated 100 ms after the lease"]


def test_a_clean_end_settles_those_that_began_before() -> None:
    watched = Watched(300)
    watched.resort.begin(boottime_ms(), "first")
    second = watched.resort.begin(boottime_ms(), "second")
    third = watched.resort.begin(boottime_ms() + 100, "third")
    watched.resort.over(second, clean=True)
    assert watched.over.wait(20)
    assert [why.split(",")[0] for why in watched.used] == ["third"]
    watched.resort.over(third, clean=True)
