"""The lab itself: what is called a crash, a cut cable or a frozen machine must be one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import WEB_SERVER
from tests.cluster.lab import REPOSITORY, Lab, Node, Probe, environment, eventually, processes_in
from tests.cluster.probe import settled


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[Lab]:
    """Two machines."""
    with Lab(folder=folder, nodes=2) as made:
        yield made


@pytest.fixture
def probe(lab: Lab) -> Iterator[Probe]:
    """A client that asks the web server which is started on NODE1."""
    node = lab[1]
    if not node.up:
        node.boot()
    serve(node)
    made = lab.probe(address=node.address)
    made.wait_answered(since_s=0)
    yield made
    made.end()
    if node.up:
        node.crash()


def serve(node: Node) -> None:
    """Start a web server that ends with the machine."""
    words = node.enter(sys.executable, "-I", "-S", str(WEB_SERVER), "", "80", "", "alone")
    node._services.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, env=environment()))


def silent(probe: Probe, since_s: float) -> bool:
    """Whether many attempts were made since then and none that began since then was answered."""
    attempts = [attempt for attempt in probe.attempts() if attempt.begun_s > since_s]
    return len(attempts) > 20 and not any(attempt.answer for attempt in attempts)


def test_a_crash_ends_every_process_and_keeps_the_folder(lab: Lab, probe: Probe) -> None:
    """The machine comes back with its address and its data, and with nothing running."""
    node = lab[1]
    (node.folder / "kept").write_text("data")
    before = {one.pid for one in node.processes()}
    fault_s = time.monotonic()
    node.crash()

    assert before and not any(os.path.exists(f"/proc/{pid}") for pid in before)
    eventually(lambda: silent(probe, fault_s + 0.5), "the client is answered no more")

    node.boot()

    assert ([node.address], []) == (node.addresses(), node.processes())
    assert node.run("cat", str(node.folder / "kept")).stdout == "data"
    assert node.run("hostname").stdout.strip() == node.name


@pytest.mark.parametrize(("way", "carrier"), [("cut", False), ("mute", True)])
def test_a_machine_without_network_lives_on(lab: Lab, probe: Probe, way: str, carrier: bool) -> None:
    """A pulled cable is seen by the machine; a silent switch is not."""
    node = lab[1]
    before = node.processes()
    fault_s = time.monotonic()
    getattr(node, way)()

    eventually(lambda: silent(probe, fault_s + 0.5), "the client is answered no more")
    assert before == node.processes()
    assert ("NO-CARRIER" not in node.run("ip", "link", "show", "eth0").stdout) is carrier

    healed_s = time.monotonic()
    node.heal()
    probe.wait_answered(since_s=healed_s)


def test_a_frozen_machine_goes_on_where_it_was(lab: Lab, probe: Probe) -> None:
    """Its processes are the same ones afterwards."""
    node = lab[1]
    before = node.processes()
    fault_s = time.monotonic()
    node.freeze()
    eventually(lambda: silent(probe, fault_s + 0.5), "the client is answered no more")

    thawed_s = time.monotonic()
    node.thaw()

    probe.wait_answered(since_s=thawed_s)
    assert before == node.processes()


def test_the_client_asks_anew_while_earlier_attempts_wait(lab: Lab, probe: Probe) -> None:
    """Attempts overlap: otherwise an outage would be measured with the resolution of their limit."""
    node = lab[1]
    fault_s = time.monotonic()
    node.mute()
    eventually(lambda: silent(probe, fault_s + 0.5), "the client is answered no more")
    node.heal()

    attempts = [attempt for attempt in probe.attempts() if attempt.begun_s > fault_s]
    waiting = max(
        sum(1 for other in attempts if other.begun_s <= one.begun_s < other.ended_s) for one in attempts
    )  # Counts the attempt itself.
    assert waiting > 5
    assert not settled(attempts, since_s=fault_s, answers=len(attempts))


def test_nothing_shows_in_the_callers_network(lab: Lab) -> None:
    """No interface of the lab has a place or a name outside of it."""
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True, text=True).stdout)

    assert not {"br0", "pc", "p1", "p2"} & {link["ifname"] for link in links}
    assert lab[2].addresses() == ["10.77.0.12"]


def test_a_lab_that_is_killed_leaves_nothing(folder: Path) -> None:
    """Not even frozen processes, nor those that have a session of their own."""
    program = (
        "import json, pathlib, subprocess, sys, time\n"
        "from tests.cluster.lab import Lab\n"
        "lab = Lab(folder=pathlib.Path(sys.argv[1]), nodes=2)\n"
        "for node in lab.nodes: subprocess.Popen(node.enter('setsid', 'sleep', '1000'))\n"
        "while not all(node.processes() for node in lab.nodes): time.sleep(0.01)\n"
        "lab[1].freeze()\n"
        "print(json.dumps(sorted(lab._seen)), flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "killed")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as made:
        try:
            assert made.stdout is not None
            namespaces = frozenset(json.loads(made.stdout.readline()))
            assert len(processes_in(namespaces)) >= 6
        finally:
            made.send_signal(signal.SIGKILL)

    eventually(lambda: not processes_in(namespaces), f"nothing is left in {sorted(namespaces)}")
