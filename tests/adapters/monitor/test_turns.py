"""Calls take turns: a few begin at the same time, and one that hangs delays the others for a moment only."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from clussvc.model.ids import ResourceId
from clussvc.model.monitoring import BringOnline, CommandRefused, OpenResource, ResourceReported, TakeOffline
from clussvc.model.states import ResourceState
from clussvc.resources.monitor.turns import Turns
from clussvc.resources.monitor.workers import POLLS_AT_ONCE, STARTS_AT_ONCE, Done
from tests.adapters.monitor.conftest import Driver, spec, wait_until
from tests.adapters.monitor.test_generic_script import script


class Waiting:
    """Stands for a call, of which turns only want to know which one it is."""


def test_turns_come_in_order_and_few_at_once() -> None:
    """The next one begins when one is over."""
    turns: Turns[Waiting] = Turns(at_once=2, young_ms=100)
    first, second, third = calls = [Waiting() for _ in range(3)]
    for call in calls:
        turns.wait(call)

    assert [first, second, None] == [turns.next(10) for _ in range(3)]
    turns.over(second)
    assert third is turns.next(20)
    assert turns.look_ms is None


def test_a_call_that_takes_long_is_not_counted_any_more() -> None:
    """Its place is free when it is no longer young, and not a second time when it returns."""
    turns: Turns[Waiting] = Turns(at_once=1, young_ms=100)
    slow, second, third = calls = [Waiting() for _ in range(3)]
    for call in calls:
        turns.wait(call)

    assert slow is turns.next(10)
    assert 110 == turns.look_ms
    assert turns.next(109) is None
    assert second is turns.next(110)
    turns.over(slow)
    assert turns.next(111) is None
    turns.over(second)
    assert third is turns.next(112)


def test_a_call_that_waits_can_be_withdrawn() -> None:
    """One that had its turn cannot."""
    turns: Turns[Waiting] = Turns(at_once=1, young_ms=100)
    first, second = Waiting(), Waiting()
    turns.wait(first)
    turns.wait(second)
    assert first is turns.next(0)

    assert turns.withdraw(second)
    assert not turns.withdraw(second)
    assert not turns.withdraw(first)
    turns.over(first)
    assert turns.next(1) is None


def test_done_is_an_event() -> None:
    """Seen by those who come later and by those who wait."""
    done = Done()
    assert not done.is_set()
    assert not done.wait(0.01)
    waiter = threading.Thread(target=done.wait, args=(20,))
    waiter.start()
    done.set()
    waiter.join(20)

    assert not waiter.is_alive()
    assert done.is_set()
    assert done.wait(0)


def test_many_at_once_do_not_make_a_thread_each(driver: Driver, tmp_path: Path) -> None:
    """Three hundred come online; never more workers than turns, however long the queue is."""
    path = script(tmp_path, "def online(resource):\n    sum(range(20_000))\n")
    many = [spec(f"r{number}", "Generic Script", ScriptFilepath=path) for number in range(300)]
    for one in many:
        driver.send(OpenResource(spec=one))
        driver.send(BringOnline(resource=one.resource, epoch=1))
    online: set[ResourceId] = set()
    most = 0
    while len(online) < len(many):
        report = driver.wait(ResourceReported, lambda report: report.state is ResourceState.ONLINE)
        online.add(report.resource)
        most = max(most, len(os.listdir(f"/proc/{driver.host.pid}/task")))

    # Besides: main, deadman, scheduler, spawner and one for housekeeping. Workers whose call was no longer young, on a
    # machine that is busy, have let others begin; there are a few of these at most.
    assert most <= 2 * (STARTS_AT_ONCE + POLLS_AT_ONCE) + 5


def test_more_hang_than_have_turns_and_the_next_is_served(driver: Driver, tmp_path: Path) -> None:
    """Each with its own worker: nobody waits for what hangs."""
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        Path(script(tmp_path, "")).read_text() + "import time\ndef online(resource):\n    time.sleep(60)\n"
    )
    for number in range(2 * STARTS_AT_ONCE):
        one = spec(f"h{number}", "Generic Script", ScriptFilepath=str(stuck), pending_timeout_ms=60_000)
        driver.send(OpenResource(spec=one))
        driver.send(BringOnline(resource=one.resource, epoch=1))

    assert ResourceState.ONLINE is driver.online(spec("r", "Generic Script", ScriptFilepath=script(tmp_path, ""))).state


def test_what_waits_for_its_turn_is_called_off_at_once(driver: Driver, tmp_path: Path) -> None:
    """Taken offline again before it began, a resource is offline without its online ever having run."""
    ran, may = tmp_path / "ran", tmp_path / "may"
    path = script(
        tmp_path,
        f"import time, pathlib\ndef online(resource):\n    while not pathlib.Path({str(may)!r}).exists():\n"
        f"        time.sleep(0.01)\n    pathlib.Path({str(ran)!r}).open('a').write(resource.name + '\\n')\n",
    )
    many = [spec(f"r{number:03}", "Generic Script", ScriptFilepath=path) for number in range(6 * STARTS_AT_ONCE)]
    for one in many:
        driver.send(OpenResource(spec=one))
        driver.send(BringOnline(resource=one.resource, epoch=1))
    for one in many:
        driver.send(TakeOffline(resource=one.resource, epoch=2))
    offline: set[ResourceId] = set()
    while len(offline) < len(many):
        report = driver.wait(ResourceReported, lambda report: report.state is ResourceState.OFFLINE)
        assert report.epoch == 2
        offline.add(report.resource)

    # Those that had begun were aborted while they waited.
    may.touch()
    assert not ran.exists()
    assert [] == [seen for seen in driver.seen if isinstance(seen, CommandRefused)]
    driver.send(BringOnline(resource=many[-1].resource, epoch=3))
    assert ResourceState.ONLINE is driver.wait_state(many[-1], ResourceState.ONLINE, ResourceState.FAILED).state
    wait_until(ran.exists, "it runs when it is wanted")
