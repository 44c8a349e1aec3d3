"""Processes that die or hang: a server, a monitor, the service, all services, all machines."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.formation import GROUP, WEB_SERVER, WORKER, Cluster
from tests.cluster.lab import PREFIX, VIP, Node, eventually


@pytest.mark.parametrize("program", [WEB_SERVER, WORKER])
def test_a_process_that_dies_is_restarted_in_place(cluster: Cluster, program: Path) -> None:
    """The group stays where it is."""
    first = cluster.lab[1]
    before = cluster.process(first, program)
    assert before is not None
    os.kill(before, signal.SIGKILL)

    eventually(lambda: cluster.process(first, program) not in (None, before), "the process runs again")
    cluster.wait_group(first.name, on=cluster.lab[2])
    assert "Online" in cluster.command("res", on=cluster.lab[2])


def test_an_address_that_somebody_removes_comes_back(cluster: Cluster) -> None:
    """What stands on it is stopped first, all the way up, and started again after it."""
    first = cluster.lab[1]
    server, worker = cluster.process(first, WEB_SERVER), cluster.process(first, WORKER)
    done = first.run("ip", "address", "delete", f"{VIP}/{PREFIX}", "dev", "eth0")
    assert done.returncode == 0, done.stderr

    eventually(lambda: VIP in first.addresses(), "the address is there again")
    eventually(lambda: cluster.process(first, WORKER) not in (None, worker), "the application runs again")
    assert cluster.process(first, WEB_SERVER) != server
    cluster.wait_group(first.name, on=cluster.lab[2])


def test_a_monitor_that_dies_is_replaced(cluster: Cluster) -> None:
    """What it ran is ended and brought online again on the same node."""
    first = cluster.lab[1]
    monitor, worker = first.monitors(), cluster.process(first, WORKER)
    first.kill_monitor()

    eventually(lambda: first.monitors() and first.monitors() != monitor, "there is another monitor")
    eventually(lambda: cluster.process(first, WORKER) not in (None, worker), "the application runs again")
    cluster.wait_group(first.name, on=cluster.lab[2])


def test_a_monitor_that_hangs_is_replaced(cluster: Cluster) -> None:
    """A monitor that does not answer is as good as dead."""
    first = cluster.lab[1]
    (monitor,) = first.monitors()
    os.kill(monitor, signal.SIGSTOP)

    eventually(lambda: first.monitors() not in ([], [monitor]), "there is another monitor")
    cluster.owner(on=cluster.lab[2])
    cluster.wait_all_up()


def test_a_service_that_dies_takes_its_resources_with_it(cluster: Cluster) -> None:
    """The monitor outlives it only to end everything; the others take over; a new service rejoins."""
    first, second, _ = cluster.lab.nodes
    first.kill_service()
    cluster.wait_group(second.name, on=second)
    assert [] == cluster.traces(first)
    # The monitor says that it has let go; on a busy machine the silence may be long enough before that.
    events = cluster.command("events", "/limit:40", on=second)
    said = f"the service of {first.name} ended, and its resource monitors have terminated everything"
    assert said in events or "has heard nothing" in events
    eventually(lambda: not first.monitors(), "the monitor ends")

    first.wait_service_ended()
    first.start_service()
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)


def nothing_left(cluster: Cluster, node: Node) -> bool:
    """Whether the machine has let go of the whole group."""
    return not cluster.traces(node)


def test_the_state_outlives_the_death_of_all_services(cluster: Cluster) -> None:
    """kill -9 of every service at the same moment, right after an acknowledged change."""
    cluster.command("group", GROUP, "/prop", "FailoverThreshold=7", "Description=survives", on=cluster.lab[2])
    before = configuration(cluster)
    for node in cluster.lab.nodes:
        node.kill_service()
    for node in cluster.lab.nodes:
        node.wait_service_ended()
    for node in cluster.lab.nodes:
        eventually(partial(nothing_left, cluster, node), f"the monitor of {node.name} terminates everything")
    for node in cluster.lab.nodes:
        node.start_service()
    cluster.wait_all_up()
    cluster.owner(on=cluster.lab[1])

    assert before == configuration(cluster)
    assert "survives" in cluster.command("group", GROUP, "/prop")


def test_the_state_outlives_the_crash_of_all_machines(cluster: Cluster) -> None:
    """A power failure: the group comes back by itself."""
    cluster.command("group", "KEPT", "/create")
    before = configuration(cluster)
    for node in cluster.lab.nodes:
        node.crash()
    for node in cluster.lab.nodes:
        node.boot()
        node.start_service()
    cluster.wait_all_up()
    cluster.owner(on=cluster.lab[1])

    assert before == configuration(cluster)
    cluster.command("group", "KEPT", "/delete")


def test_a_second_service_on_the_same_data_is_refused(cluster: Cluster) -> None:
    """It says so, and the first one runs on."""
    first = cluster.lab[1]
    running = first.service()
    done = first.run(sys.executable, "-m", "clussvc.service.main", "run", "--config", str(first.config))

    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert running == first.service()
    cluster.wait_group(first.name, on=first)


def configuration(cluster: Cluster) -> list[Any]:
    """All properties of all objects."""
    first = cluster.lab[1]
    return [cluster.ask(kind, what, on=first) for kind in ("node", "group", "res") for what in ("/prop", "/priv")]


def shows(cluster: Cluster, node: Node, profile: str) -> bool:
    """Whether a node knows of the profile."""
    return profile in cluster.command("/prop", on=node)


def test_the_timing_profile_is_changed_while_everything_runs(cluster: Cluster) -> None:
    """Slower and faster again: the same processes serve, nobody is declared down, and nobody is elected anew.

    Nothing faster than ``loopback`` is tried, since other tests keep this machine busy.
    """
    first, second, _ = cluster.lab.nodes
    server, leader = cluster.process(first, WEB_SERVER), cluster.coordinator(first)
    for profile in ("wan", "loopback"):
        cluster.command("/prop", f"TimingProfile={profile}")
        for node in cluster.lab.nodes:
            eventually(partial(shows, cluster, node, profile), f"{node.name} has {profile}")
    # The last one is said to be acted by when the leases of the one before are over; until then voters cannot change.
    cluster.wait_all_up()
    cluster.wait_group(first.name, on=second)
    assert cluster.process(first, WEB_SERVER) == server, cluster.command("events", "/limit:40")
    assert cluster.coordinator(first) == leader
    assert "went down" not in cluster.command("events", "/limit:8")
