"""Nodes that cannot let go, and what ends them: fence agents that switch real (namespace) machines off.

The agents run on the nodes and reach the *power strip* through files in a folder, as a real one would be reached by a
network of its own: an agent asks for something, and the strip, a thread of the test, does it.
"""

from __future__ import annotations

import os
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.formation import GROUP, Cluster, GroupState
from tests.cluster.lab import Node, eventually

AGENT = r"""#!/bin/sh
# A fence agent of the tests; plug is the folder of the power strip, and ip the machine.
while IFS= read -r line; do
    case "$line" in
        action=*) action=${line#action=};;
        plug=*) plug=${line#plug=};;
        ip=*) machine=${line#ip=};;
    esac
done
[ -e "$plug/broken" ] && { echo "the power strip does not answer" >&2; exit 1; }
case "$action" in
    off) echo x > "$plug/$machine.ask"
        while [ "$(cat "$plug/$machine.state" 2>/dev/null)" != off ]; do sleep 0.05; done;;
    on) rm -f "$plug/$machine.state";;
    status) [ "$(cat "$plug/$machine.state" 2>/dev/null)" = off ] && exit 2; exit 0;;
    metadata) cat <<XML
<?xml version="1.0" ?>
<resource-agent name="fence_strip" shortdesc="Power strip of the tests">
<parameters>
<parameter name="action" required="1" /><parameter name="plug" required="1" /><parameter name="ip" required="1" />
</parameters>
<actions><action name="off" /><action name="on" /><action name="status" /><action name="metadata" /></actions>
</resource-agent>
XML
    ;;
esac
"""


class PowerStrip:
    """Switches machines of the lab off when an agent asks."""

    def __init__(self, cluster: Cluster) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="strip-", dir=cluster.lab.folder))
        self.agent = self.folder / "fence_strip"
        self.agent.write_text(AGENT)
        self.agent.chmod(self.agent.stat().st_mode | stat.S_IXUSR)
        self.switched: list[str] = []
        self._nodes = cluster.lab.nodes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._over.wait(0.02):
            for node in self._nodes:
                ask = self.folder / f"{node.name}.ask"
                if not ask.exists():
                    continue
                ask.unlink()
                if node.up:
                    node.crash()
                    self.switched.append(node.name)
                (self.folder / f"{node.name}.state").write_text("off\n")

    def breaks(self) -> None:
        """No agent gets an answer from now on."""
        (self.folder / "broken").touch()

    def close(self) -> None:
        """Pull its own plug."""
        self._over.set()
        self._thread.join()


@pytest.fixture
def strip(cluster: Cluster) -> Iterator[PowerStrip]:
    """Every node is plugged in, and has to be fenced when it is silent."""
    made = PowerStrip(cluster)
    for node in cluster.lab.nodes:
        cluster.command(
            *("fence", f"STRIP {node.name}", "/create", f"/node:{node.name}", f"/agent:{made.agent}"),
            *("/prop", "Timeout=15000", "/priv", f"plug={made.folder}", f"ip={node.name}"),
        )
    cluster.command("/prop", "FencingRequired=1")
    yield made
    made.close()
    up = next(node for node in cluster.lab.nodes if node.service() is not None)
    for node in cluster.lab.nodes:
        cluster.command("fence", f"STRIP {node.name}", "/delete", on=up)
    cluster.command("/prop", "FencingRequired=0", on=up)


def stop_processes(node: Node) -> None:
    """Service and monitors are stopped; what they started runs on, and nobody on the machine can end it."""
    node.freeze_service()
    for monitor in node.monitors():
        os.kill(monitor, signal.SIGSTOP)


def test_what_nobody_on_its_machine_can_end_is_ended_before_it_runs_elsewhere(
    cluster: Cluster, strip: PowerStrip
) -> None:
    """The application counts on without its monitor; the fixture looks afterwards whether two ever counted at once."""
    first, second, _ = cluster.lab.nodes
    stop_processes(first)
    cluster.wait_group(second.name, on=second)
    assert strip.switched == [first.name]
    assert "fence device STRIP NODE1 switched it off" in cluster.command("events", on=second)


def test_fencing_by_hand(cluster: Cluster, strip: PowerStrip) -> None:
    """The node is healthy; its groups move at once."""
    first, second, _ = cluster.lab.nodes
    assert "answers to node 'NODE2'" in cluster.command("fence", "STRIP NODE1", "/test", on=second)
    cluster.command("node", first.name, "/fence", on=second)
    assert strip.switched == [first.name]
    cluster.wait_group(second.name, on=second)


def test_when_no_device_works_it_is_said_and_a_word_ends_the_wait(cluster: Cluster, strip: PowerStrip) -> None:
    """Required fencing fails: nothing moves until an administrator confirms."""
    first, second, third = cluster.lab.nodes
    strip.breaks()
    first.crash()

    def said() -> bool:
        return "could not be fenced" in second.cluster("node").stderr

    eventually(said, "the failure is shown by 'cluster node'", timeout_s=60)
    shown = second.cluster("node").stderr
    assert "the power strip does not answer" in shown
    assert "cluster node NODE1 /confirmdown" in shown
    time.sleep(2)
    assert cluster.group(on=second) == GroupState(node=first.name, state="Online"), f"{GROUP} moved"
    cluster.command("node", first.name, "/confirmdown", on=third)
    cluster.wait_group(second.name, on=second)
    (strip.folder / "broken").unlink()


def test_a_node_that_cannot_open_its_watchdog_says_so(cluster: Cluster) -> None:
    """At its start and in the list of nodes; the service runs all the same."""
    third = cluster.lab[3]
    written = third.config.read_text()
    third.config.write_text(written.replace("self_fence = []", 'self_fence = ["watchdog:/dev/no-watchdog", "sysrq"]'))
    assert third.config.read_text() != written
    try:
        third.stop_service()
        third.wait_service_ended()
        third.start_service()
        cluster.wait_all_up()
        shown = third.cluster("node").stderr
        assert "self-fencing by the watchdog /dev/no-watchdog is not to be relied on" in shown
        assert "load its driver" in shown
    finally:
        third.config.write_text(written)
        third.stop_service()
        third.wait_service_ended()
