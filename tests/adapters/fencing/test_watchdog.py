"""The watchdog through its real calls, on a stand-in that is preloaded into a process of its own (``stand_in.c``)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clussvc.fencing.watchdog import Watchdog
from clussvc.model.errors import ClusterError

SOURCE = Path(__file__).with_name("stand_in.c")
RESET = 99
"""The exit status of a program that the stand-in has reset."""

PROGRAM = """
import sys, time, pathlib
from clussvc.fencing.watchdog import Watchdog, WatchdogFeeder
class Clock:
    def now_ms(self):
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
clock = Clock()
watchdog = Watchdog(pathlib.Path(sys.argv[1]), timeout_s=int(sys.argv[2]))
print(watchdog.identity, watchdog.timeout_s, watchdog.outlives_its_feeder, flush=True)
feeder = WatchdogFeeder(watchdog, clock)
feeder.start()
"""


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed; script/setup-system installs one"
    library = tmp_path_factory.mktemp("watchdog") / "stand_in.so"
    words = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-Wall",
        "-Werror",
        "-o",
        str(library),
        str(SOURCE),
        "-ldl",
        "-pthread",
    ]
    subprocess.run(words, check=True, timeout=120)
    return library


class Machine:
    """A program with a watchdog."""

    def __init__(self, stand_in: Path, folder: Path, ending: str, *, timeout_s: int = 1) -> None:
        self.device, self.log = folder / "watchdog", folder / "log"
        self.device.touch()
        environment = {
            **os.environ,
            "LD_PRELOAD": str(stand_in),
            "WATCHDOG_FILE": str(self.device),
            "WATCHDOG_LOG": str(self.log),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM + ending, str(self.device), str(timeout_s)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, list[str]]:
        """Its exit status, what it said, and what happened to its watchdog."""
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output.strip(), self.log.read_text().split("\n")[:-1]


def test_a_core_that_vouches_keeps_the_machine_alive(stand_in: Path, tmp_path: Path) -> None:
    """For three times its time-out; then everything is over in order, and it is disarmed."""
    ending = (
        "for _ in range(60):\n    feeder.vouch(clock.now_ms() + 500)\n    time.sleep(0.05)\n"
        "feeder.stop(disarm=True)\ntime.sleep(2)"
    )
    status, said, log = Machine(stand_in, tmp_path, ending).end()
    assert status == 0
    assert said == "stand-in 1 True"
    assert log.count("fed") >= 6
    assert log[-1] == "disarmed"


def test_a_core_that_stands_still_is_reset(stand_in: Path, tmp_path: Path) -> None:
    """The process lives, and its feeding thread with it; what it feeds for does not."""
    ending = "feeder.vouch(clock.now_ms() + 200)\ntime.sleep(60)"
    status, _, log = Machine(stand_in, tmp_path, ending).end()
    assert status == RESET
    assert log[-1] == "reset"


def test_a_machine_that_is_to_end_is_reset_soon(stand_in: Path, tmp_path: Path) -> None:
    """Although the core goes on to vouch."""
    ending = "feeder.vouch(clock.now_ms() + 600_000)\nfeeder.expire()\ntime.sleep(60)"
    began_s = time.monotonic()
    status, _, log = Machine(stand_in, tmp_path, ending, timeout_s=30).end()
    assert status == RESET
    assert "time-out 1" in log
    assert time.monotonic() - began_s < 25


def test_a_service_that_leaves_something_does_not_disarm_it(stand_in: Path, tmp_path: Path) -> None:
    ending = "feeder.vouch(clock.now_ms() + 600_000)\nfeeder.stop(disarm=False)\ntime.sleep(60)"
    status, _, log = Machine(stand_in, tmp_path, ending).end()
    assert status == RESET
    assert "disarmed" not in log


def test_a_device_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot be opened") as caught:
        Watchdog(tmp_path / "nothing")
    assert caught.value.code == "watchdog-unusable"
    ordinary = tmp_path / "file"
    ordinary.touch()
    with pytest.raises(ClusterError, match="like a watchdog"):
        Watchdog(ordinary)


def test_a_time_out_that_the_driver_refuses(stand_in: Path, tmp_path: Path) -> None:
    """And it is disarmed again: opening it has armed it."""
    machine = Machine(stand_in, tmp_path, "", timeout_s=1_000)
    status, _, log = machine.end()
    assert status == 1
    assert log == ["disarmed"]
