"""Fence agents as real processes: good ones, and all the bad ones that a night may bring."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clussvc.fencing.agents import (
    OUTPUT_BYTES_MAX,
    ask_monitor,
    find_agent,
    read_metadata,
    run_agent,
    switch_off,
    switch_on,
)
from clussvc.model.errors import ClusterError

METADATA = """<?xml version="1.0" ?>
<resource-agent name="fence_test" shortdesc="A test">
<parameters>
<parameter name="action" unique="0" required="1"><content type="string" default="reboot" /></parameter>
<parameter name="ip" unique="0" required="1"><content type="string" /></parameter>
<parameter name="plug" unique="0" required="0"><content type="string" /></parameter>
</parameters>
<actions><action name="on" /><action name="off" /><action name="status" /><action name="metadata" /></actions>
</resource-agent>
"""

GOOD = """
while IFS= read -r line; do
    echo "$line" >> "$0.heard"
    case "$line" in action=*) action=${line#action=};; esac
done
case "$action" in
    off) echo off > "$0.power";;
    on) echo on > "$0.power";;
    status) [ "$(cat "$0.power" 2>/dev/null)" = off ] && exit 2; exit 0;;
    metadata) cat "$0.xml";;
esac
"""

Maker = Callable[[str], str]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes an agent and gives its path."""

    def made(body: str) -> str:
        path = tmp_path / "fence_test"
        path.write_text(f"#!/bin/sh\n{body}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "fence_test.xml").write_text(METADATA)
        return str(path)

    return made


def test_parameters_come_line_by_line(make: Maker) -> None:
    agent = make(GOOD)
    run_agent(agent, {"ip": "192.0.2.1", "password": "a=b c", "action": "on"}, timeout_ms=10_000)
    assert Path(f"{agent}.heard").read_text() == "ip=192.0.2.1\npassword=a=b c\naction=on\n"


def test_off_is_asked_for_afterwards(make: Maker) -> None:
    agent = make(GOOD)
    switch_off(agent, {"ip": "x"}, timeout_ms=10_000, verify=True)
    heard = Path(f"{agent}.heard").read_text().split()
    assert heard == ["ip=x", "action=off", "ip=x", "action=status"]
    switch_on(agent, {}, timeout_ms=10_000)
    assert Path(f"{agent}.power").read_text() == "on\n"
    ask_monitor(agent, {}, timeout_ms=10_000)


def test_metadata(make: Maker) -> None:
    known = read_metadata(make(GOOD))
    assert known.description == "A test"
    assert known.required == {"action", "ip"}
    assert known.parameters == {"action", "ip", "plug"}
    assert "status" in known.actions


def failure_of(call: Callable[[], object]) -> ClusterError:
    with pytest.raises(ClusterError) as caught:
        call()
    return caught.value


def test_an_agent_that_fails_says_why(make: Maker) -> None:
    agent = make('echo "noise" ; echo "Unable to connect/login to fencing device" >&2; exit 1')
    for call in (
        lambda: switch_off(agent, {}, timeout_ms=10_000, verify=True),
        lambda: switch_on(agent, {}, timeout_ms=10_000),
        lambda: ask_monitor(agent, {}, timeout_ms=10_000),
    ):
        error = failure_of(call)
        assert error.code == "fence-failed"
        assert "exit status 1: Unable to connect/login to fencing device" in error.message


def test_an_agent_that_lies_is_asked_until_its_time_is_over(make: Maker) -> None:
    """It says that it has switched the machine off, and its status says that the machine is on."""
    agent = make("exit 0")
    error = failure_of(lambda: switch_off(agent, {}, timeout_ms=500, verify=True))
    assert error.code == "fence-failed"
    assert "its status does not say so" in error.message
    switch_off(agent, {}, timeout_ms=500, verify=False)


def test_an_agent_that_hangs_is_killed_with_what_it_started(make: Maker, tmp_path: Path) -> None:
    agent = make(f"sleep 600 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; wait")
    error = failure_of(lambda: run_agent(agent, {"action": "off"}, timeout_ms=700))
    assert error.code == "agent-timeout"
    for name in ("self", "child"):
        pid = int((tmp_path / name).read_text())
        end_s = time.monotonic() + 10
        while alive(pid):
            assert time.monotonic() < end_s, f"process {pid} was left"
            time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_agent_that_leaves_a_child_with_its_output_is_not_waited_for(make: Maker) -> None:
    began_s = time.monotonic()
    run = run_agent(make("sleep 600 & exit 0"), {}, timeout_ms=60_000)
    assert run.status == 0
    assert time.monotonic() - began_s < 30


def test_an_agent_that_never_stops_talking_costs_no_more_than_its_time(make: Maker) -> None:
    assert failure_of(lambda: run_agent(make("exec yes"), {}, timeout_ms=500)).code == "agent-timeout"
    run = run_agent(make("head -c 3000000 /dev/zero; exit 3"), {}, timeout_ms=30_000)
    assert run.status == 3
    assert len(run.output) <= OUTPUT_BYTES_MAX


def test_an_agent_that_does_not_read(make: Maker) -> None:
    """More parameters than a pipe holds; it must end by its own will, not by ours."""
    many = {f"p{number}": "x" * 1_000 for number in range(200)}
    assert run_agent(make("exec 0<&-; sleep 0.1; exit 4"), many, timeout_ms=30_000).status == 4


def test_an_agent_that_is_missing_or_no_program(tmp_path: Path) -> None:
    assert failure_of(lambda: find_agent("fence_that_nobody_has")).code == "agent-not-found"
    assert failure_of(lambda: run_agent(str(tmp_path), {}, timeout_ms=1_000)).code == "agent-not-found"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("exit 1", "does not tell its parameters"),
        ("echo hello", "prints no metadata in XML"),
        ("echo '<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>'", "document type"),
        ("printf '<a'; head -c 500000 /dev/zero", "prints no metadata in XML"),
    ],
)
def test_bad_metadata(make: Maker, body: str, says: str) -> None:
    error = failure_of(lambda: read_metadata(make(body)))
    assert error.code == "agent-failed"
    assert says in error.message


def test_an_agent_has_no_special_priority(make: Maker) -> None:
    """The service may run with a real-time priority."""
    agent = make("chrt -p $$; exit 0")
    run = run_agent(agent, {}, timeout_ms=10_000)
    assert "SCHED_OTHER" in run.output
    assert os.sched_getscheduler(0) in (os.SCHED_OTHER, os.SCHED_BATCH)


@pytest.mark.skipif(shutil.which("fence_dummy", path="/usr/sbin") is None, reason="fence-agents is not installed")
def test_an_agent_of_the_collection(tmp_path: Path) -> None:
    """The one that writes into a file instead of switching anything."""
    known = read_metadata("fence_dummy", timeout_ms=60_000)
    assert {"action", "status_file"} <= known.parameters
    device = {"status_file": str(tmp_path / "status"), "type": "file", "nodename": "N2"}
    switch_on("fence_dummy", device, timeout_ms=60_000)
    switch_off("fence_dummy", device, timeout_ms=60_000, verify=True)
    ask_monitor("fence_dummy", device, timeout_ms=60_000)
