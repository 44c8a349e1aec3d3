"""The log: its lines, its bounds, and that it never gets in the way."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from clussvc.eventlog import log as eventlog
from clussvc.eventlog.log import EventLog, configure, record_to_log
from clussvc.model.errors import ClusterError
from clussvc.model.records import Record
from clussvc.model.reports import Severity

MOVED = Record(
    name="group.moved",
    message="Group 'web' moved from n1 to n2.",
    kind="group",
    object="web",
    event_id=1201,
    node="n2",
    because="its node went down",
)


class Gate(io.RawIOBase):
    """A stream that takes nothing until it is opened, as a hanging disk does."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.entered = threading.Event()
        self.opened = threading.Event()

    def write(self, data: Any) -> int:
        self.entered.set()
        assert self.opened.wait(60)
        self.lines.append(bytes(data))
        return len(data)


@pytest.fixture
def logs() -> Iterator[Callable[..., EventLog]]:
    made: list[EventLog] = []

    def make(path: Path | None, **given: Any) -> EventLog:
        given.setdefault("stream", io.BytesIO())
        made.append(configure(path, **given))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_line_names_time_level_event_and_fields(tmp_path: Path, logs: Callable[..., EventLog]) -> None:
    made = logs(tmp_path / "cluster.log", fields={"node": "n1"})
    structlog.get_logger().info("group.moved", group="web server", epoch=8, because='it said "no"\nand left')
    assert made.flush()
    line = (tmp_path / "cluster.log").read_text()
    at, rest = line.split(maxsplit=1)
    assert at.endswith("Z") and at[10] == "T"
    assert rest == 'info     group.moved node=n1 group="web server" epoch=8 because="it said \\"no\\"\\nand left"\n'


def test_json_lines_are_json(tmp_path: Path, logs: Callable[..., EventLog]) -> None:
    made = logs(tmp_path / "cluster.log", form="json")
    record_to_log(MOVED, cursor=12_001)
    assert made.flush()
    line = json.loads((tmp_path / "cluster.log").read_text())
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "event": "group.moved",
        "message": MOVED.message,
        "group": "web",
        "node": "n2",
        "because": MOVED.because,
        "event_id": 1201,
        "cursor": 12_001,
    }


@pytest.mark.parametrize(
    ("severity", "level"), [(Severity.INFORMATION, "info"), (Severity.WARNING, "warning"), (Severity.ERROR, "error")]
)
def test_severities_become_levels(logs: Callable[..., EventLog], severity: Severity, level: str) -> None:
    stream = io.BytesIO()
    made = logs(None, stream=stream)
    record_to_log(Record(name="x.y", message="m", kind="cluster", object="c", severity=severity))
    assert made.flush()
    assert f" {level} ".encode() in stream.getvalue()


def test_lower_levels_are_left_out(logs: Callable[..., EventLog]) -> None:
    stream = io.BytesIO()
    made = logs(None, stream=stream, level="warning")
    structlog.get_logger().info("not.this")
    structlog.get_logger().warning("but.this")
    assert made.flush()
    assert b"not.this" not in stream.getvalue()
    assert b"but.this" in stream.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", ["a\nb", "a\r\x1b[2Jb", "a\u2028b", "\ud800", "\x00", "é"])
def test_no_text_can_look_like_another_line(logs: Callable[..., EventLog], form: str, text: str) -> None:
    stream = io.BytesIO()
    made = logs(None, stream=stream, form=form)
    structlog.get_logger().info("event", value=text)
    assert made.flush()
    shown = stream.getvalue().decode()
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()


def test_long_values_and_lines_are_cut(logs: Callable[..., EventLog]) -> None:
    stream = io.BytesIO()
    made = logs(None, stream=stream)
    structlog.get_logger().info("long", value="x" * 1_000_000)
    structlog.get_logger().info("wide", **{f"field{n}": "é" * 4_000 for n in range(100)})
    assert made.flush()
    long, wide = stream.getvalue().splitlines()
    assert b"(1000000 characters)" in long
    assert len(long) < 5_000
    assert len(wide) < eventlog.LINE_BYTES_MAX


def test_two_files_of_bounded_size_are_kept(tmp_path: Path, logs: Callable[..., EventLog]) -> None:
    path = tmp_path / "cluster.log"
    made = logs(path, max_bytes=10_000)
    for number in range(1_000):
        structlog.get_logger().info("number", n=number)
    assert made.flush()
    old = path.with_name("cluster.log.1")
    assert {each.name for each in tmp_path.iterdir()} == {"cluster.log", "cluster.log.1"}
    assert path.stat().st_size <= 10_000
    assert old.stat().st_size <= 10_000
    kept = [int(line.rsplit("n=", 1)[1]) for line in (old.read_text() + path.read_text()).splitlines()]
    assert kept == list(range(1_000 - len(kept), 1_000))
    assert made.lines_lost == 0


def test_a_log_is_continued_after_a_restart(tmp_path: Path, logs: Callable[..., EventLog]) -> None:
    for word in ("first", "second"):
        made = logs(tmp_path / "cluster.log")
        structlog.get_logger().info(word)
        made.close()
    assert [line.split()[2] for line in (tmp_path / "cluster.log").read_text().splitlines()] == ["first", "second"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_hanging_disk_holds_nobody_up_and_loss_is_told(logs: Callable[..., EventLog], form: str) -> None:
    gate = Gate()
    made = logs(None, stream=gate, form=form)
    structlog.get_logger().info("first")
    assert gate.entered.wait(30)
    for number in range(eventlog.LINES_WAITING_MAX + 25):
        structlog.get_logger().info("more", n=number)
    assert made.lines_lost == 25
    assert not made.flush(0)
    gate.opened.set()
    assert made.flush(60)
    assert len(gate.lines) == 1 + eventlog.LINES_WAITING_MAX + 1
    told = gate.lines[-1].decode()
    if form == "json":
        assert json.loads(told)["count"] == 25
    assert "log.lines_dropped" in told and "25" in told


def test_a_critical_line_is_written_before_the_process_ends(tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib, structlog\n"
        "from clussvc.eventlog.log import configure\n"
        "configure(pathlib.Path(sys.argv[1]))\n"
        "structlog.get_logger().critical('service.dies', because='a test')\n"
        "os._exit(3)\n"
    )
    path = tmp_path / "cluster.log"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "service.dies" in path.read_text()
    assert "service.dies" in done.stderr


def test_libraries_are_heard(logs: Callable[..., EventLog]) -> None:
    stream = io.BytesIO()
    made = logs(None, stream=stream)
    library = logging.getLogger("some.library")
    library.info("not this")
    library.warning("bad %s", "thing")
    # Handed over directly, since pytest's own handler cannot bear it.
    bad = {"name": "x", "msg": "worse %d", "args": ("not a number",), "levelno": 50, "levelname": "CRITICAL"}
    eventlog._FromLibraries().handle(logging.makeLogRecord(bad))
    try:
        raise ValueError("inner")
    except ValueError:
        library.exception("failed")
    assert made.flush()
    first, second, third = stream.getvalue().decode().splitlines()
    assert 'library.said library=some.library message="bad thing"' in first
    assert "worse %d" in second
    assert "ValueError: inner" in third


def test_a_file_that_vanishes_with_its_folder_ends_nothing(tmp_path: Path, logs: Callable[..., EventLog]) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "cluster.log"
    made = logs(path, max_bytes=200)
    for _ in range(2):
        structlog.get_logger().info("before", filler="x" * 80)
    assert made.flush()
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()
    for _ in range(3):
        structlog.get_logger().info("lost", filler="x" * 80)
    assert made.flush()
    assert made.lines_lost >= 1
    folder.mkdir()
    structlog.get_logger().info("again")
    assert made.flush()
    assert "again" in path.read_text()


def test_a_log_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"cluster\.log") as caught:
        configure(tmp_path / "missing" / "cluster.log")
    assert caught.value.code == "log-unusable"
    with pytest.raises(ClusterError, match="choose one of"):
        configure(None, level="loud")
