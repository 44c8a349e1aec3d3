"""Load balancing on four machines: real frames, real clients from thousands of addresses, hosts that come and go."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.farm import FARM, HOST_PROCESS, VIP, Farm, open_farm
from tests.cluster.lab import NETWORK, Lab, eventually

GROUP: Final = "239.255.0.210"
"""That of the address of the cluster in the mode igmp."""
VIP6: Final = "fd00:77::210"
DB_VIP: Final = f"{NETWORK}.220"
needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="tshark is missing; see script/setup-system --tests"
)
HOSTS: Final = ("NODE1", "NODE2", "NODE3")
CLIENTS: Final = 6_000


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Farm]:
    """Three hosts of four nodes."""
    with Lab(folder=folder, nodes=4) as lab:
        yield open_farm(lab, "loopback", HOSTS)


@pytest.fixture
def farm(formed: Farm) -> Farm:
    """Three hosts that have converged."""
    formed.wait_converged(*HOSTS)
    return formed


def test_clients_are_spread_evenly(farm: Farm) -> None:
    """Every client is answered, by all hosts about alike: the share of each within four standard deviations. Every host
    has counted the packets that it took and those that it left to others."""
    answers = farm.answers(CLIENTS)

    assert set(HOSTS) == set(answers), answers
    assert all(abs(answers[name] - CLIENTS / 3) < 4 * (CLIENTS * (1 / 3) * (2 / 3)) ** 0.5 for name in HOSTS), answers
    for number, name in enumerate(HOSTS, 1):
        said = farm.nlb("queryport", "80", on=farm.lab[number])
        counted = re.search(r"^  Packets: Accepted=(\d+), Dropped=(\d+)$", said, re.MULTILINE)
        assert counted is not None, said
        assert int(counted[1]) > answers[name] and int(counted[2]) > CLIENTS - answers[name], said


def test_weights_are_followed(farm: Farm) -> None:
    """One host with a fifth of the weight of each other; then with none, and it gets nobody."""
    farm.nlb("weight", FARM, "NODE3", "80", "10")
    eventually(lambda: 0.03 < farm.answers(300)["NODE3"] / 300 < 0.17, "NODE3 has an eleventh")
    farm.nlb("weight", FARM, "NODE3", "80", "0")
    eventually(lambda: farm.answers()["NODE3"] == 0, "NODE3 has nothing")
    farm.nlb("weight", FARM, "NODE3", "80", "equal")
    eventually(lambda: farm.answers()["NODE3"] > 30, "NODE3 has its share again")


def test_a_host_drains_for_maintenance(farm: Farm) -> None:
    """Its downloads go on while new clients go to the others; then it stops, and nobody was cut off."""
    downloads = farm.drip(30, 80)
    farm.nlb("drainstop", f"{VIP}:NODE2")
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE3"}, "new clients avoid NODE2")
    assert "draining" == farm.states(farm.lab[2])["NODE2"]
    assert set(HOSTS) == set(downloads.complete())
    eventually(lambda: farm.states(farm.lab[2])["NODE2"] == "stopped", "NODE2 stops when it has been drained")

    downloads = farm.drip(30, 40)
    farm.nlb("start", f"{VIP}:NODE2")
    farm.wait_converged(*HOSTS)
    # Established downloads survive a join.
    assert {"NODE1", "NODE3"} == set(downloads.complete())
    assert set(HOSTS) == set(farm.answers())


def test_going_offline_waits_for_open_connections(farm: Farm) -> None:
    """With DrainSeconds: the resource is offline when the downloads have ended, and none was cut off."""
    farm.cluster.command("res", FARM, "/priv", "DrainSeconds=60")
    (pattern,) = farm.cluster.ask("res", FARM, on=farm.lab[1])
    instance = next(one["name"] for one in pattern["instances"] if one["node"] == "NODE2")
    downloads = farm.drip(30, 40)
    farm.cluster.command("res", instance, "/offline", "/wait:60")
    assert "NODE2" not in farm.answers(60)
    assert set(HOSTS) == set(downloads.complete())
    farm.cluster.command("res", FARM, "/priv", "DrainSeconds=0")
    farm.cluster.command("res", instance, "/online", "/wait:30")


def test_one_rule_is_drained_where_its_resource_is_not_online(farm: Farm) -> None:
    """A dead server is no black hole: its host gets no clients until the server is back."""
    farm.nlb("rule", FARM, "set", "All 80 TCP Multiple None", "/resource:Web")
    assert set(HOSTS) == set(farm.answers())
    (web,) = farm.cluster.ask("res", "Web", on=farm.lab[1])
    instance = next(one["name"] for one in web["instances"] if one["node"] == "NODE2")
    farm.cluster.command("res", instance, "/offline", "/wait:30")
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE3"}, "clients avoid NODE2")
    said = farm.nlb("queryport", "80", on=farm.lab[2])
    assert "rule is draining" in said
    assert "not online on this node" in said
    farm.cluster.command("res", instance, "/online", "/wait:30")
    eventually(lambda: set(farm.answers(60)) == set(HOSTS), "NODE2 has clients again")


def test_one_rule_is_drained_where_its_server_does_not_answer(farm: Farm) -> None:
    """The same without a resource: the host asks its server, and clients notice nothing while it is asked first."""
    farm.nlb("rule", FARM, "set", "All 80 TCP Multiple None interval=200", "/probe:tcp")
    assert set(HOSTS) == set(farm.answers())
    (web,) = farm.cluster.ask("res", "Web", on=farm.lab[1])
    instance = next(one["name"] for one in web["instances"] if one["node"] == "NODE2")
    farm.cluster.command("res", instance, "/offline", "/wait:30")
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE3"}, "clients avoid NODE2")
    assert "Its probe fails on this node: the connection is refused." in farm.nlb("queryport", "80", on=farm.lab[2])
    farm.cluster.command("res", instance, "/online", "/wait:30")
    eventually(lambda: set(farm.answers(60)) == set(HOSTS), "NODE2 has clients again")
    farm.nlb("rule", FARM, "set", "All 80 TCP Multiple None")


def test_a_killed_host_is_replaced_by_the_others(farm: Farm) -> None:
    """Its clients reach others at once, and the others' clients notice nothing; it comes back by itself."""
    farm.cluster.command("res", f"{FARM}", "/prop", "RestartAction=0")
    os.kill(farm.host_process(farm.lab[3]), signal.SIGKILL)
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "the others take all")
    farm.cluster.command("res", f"{FARM}", "/prop", "RestartAction=2")
    farm.cluster.command("group", FARM, "/online")
    farm.wait_converged(*HOSTS)


def test_a_node_without_a_service_takes_nothing(farm: Farm) -> None:
    """A service that is stuck feeds no monitor, which ends the host; its clients reach the others."""
    farm.lab[3].freeze_service()
    try:
        eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "nobody reaches NODE3")
        gone = not any(one.runs(HOST_PROCESS) for one in farm.lab[3].processes())
        assert gone
        assert VIP not in farm.lab[3].run("ip", "address", "show", "dev", "lo").stdout
    finally:
        farm.lab[3].thaw()
    farm.wait_converged(*HOSTS)


def test_a_machine_that_is_frozen_as_a_whole_lets_go(farm: Farm) -> None:
    """Its kernel would go on accepting with nobody to tell it: its virtual address runs out by itself."""
    farm.lab[3].freeze()
    try:
        eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "nobody reaches NODE3")
    finally:
        farm.lab[3].thaw()
    farm.wait_converged(*HOSTS)


def test_a_machine_dies_and_another_one_joins(farm: Farm) -> None:
    """The dead one's clients are served, and a fourth node becomes a host with one command."""
    farm.lab[3].crash()
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "the others take all")
    farm.nlb("addhost", FARM, "NODE4")
    farm.wait_converged("NODE1", "NODE2", "NODE4")
    assert {"NODE1", "NODE2", "NODE4"} == set(farm.answers())
    farm.nlb("removehost", FARM, "NODE4")
    farm.restart(farm.lab[3])
    farm.wait_converged(*HOSTS)
    assert set(HOSTS) == set(farm.answers())


def test_both_tiers_share_the_nodes(farm: Farm) -> None:
    """A failover address beside the load-balanced one, and never the same."""
    farm.cluster.command("group", "DB", "/create")
    farm.cluster.command(
        *("res", "DB IP", "/create", "/group:DB", "/type:IP Address"),
        *("/priv", f"Address={DB_VIP}", "SubnetMask=255.255.255.0"),
    )
    farm.cluster.command("group", "DB", "/online:NODE1", "/wait:60")
    assert {"NODE1"} == set(farm.clients("connect", 20, 0, address=DB_VIP))
    farm.cluster.command("group", "DB", "/moveto:NODE2", "/wait:60")
    assert {"NODE2"} == set(farm.clients("connect", 20, 0, address=DB_VIP))
    assert set(HOSTS) == set(farm.answers())
    refused = farm.lab[1].cluster("res", "DB IP", "/priv", f"Address={VIP}")
    assert refused.returncode == 5057 & 0xFF
    assert FARM in refused.stderr
    farm.cluster.command("group", "DB", "/offline", "/wait:60")


def test_a_virtual_address_of_ipv6_is_added(farm: Farm) -> None:
    """While the cluster runs: every host answers neighbour solicitations for it, and they share its clients."""
    farm.lab.client_ip("address add fd00:77::100/64 dev eth0 nodad")
    for node in farm.lab.nodes:
        farm.lab.node_ip(node, f"address add fd00:77::{node.number}/64 dev eth0 nodad")
    farm.cluster.command("res", FARM, "/priv", f"VirtualIPAddresses={VIP6}/64")
    farm.wait_converged(*HOSTS)

    eventually(lambda: set(farm.answers(60, address=VIP6)) == set(HOSTS), "all hosts have clients over IPv6")
    assert set(HOSTS) == set(farm.answers())


@needs_tshark
def test_heartbeats_have_the_published_form(farm: Farm) -> None:
    """An analyser that hears them on a machine that is no host decodes all of them, and finds all hosts."""
    fields = ("msnlb.unique_host_id", "msnlb.cluster_ip", "msnlb.number_of_port_rules", "_ws.malformed")
    heard = farm.capture("NODE4", "ether proto 0x886f", *fields, frames=30)
    membership = [line for line in heard if line[2]]

    assert {("1", VIP, "1", ""), ("2", VIP, "1", ""), ("3", VIP, "1", "")} == set(map(tuple, membership))
    assert not any(line[3] for line in heard)


def test_multicast(farm: Farm) -> None:
    """The link address of the cluster is a multicast one; everything else is the same."""
    farm.change_mode("multicast")
    farm.wait_converged(*HOSTS)

    assert set(HOSTS) == set(farm.answers())


@needs_tshark
def test_a_bridge_that_snoops_sends_to_the_hosts_alone(farm: Farm) -> None:
    """Every host joins the group; a machine that is no host receives no frame of the clients."""
    farm.change_mode("igmp")
    farm.wait_converged(*HOSTS)
    farm.lab.snoop()
    eventually(lambda: {"p1", "p2", "p3"} == farm.lab.members(GROUP), "the hosts have joined")
    for node in farm.lab.nodes[:3]:
        # A bridge of this kernel looks IPv4 frames up by their address, which is no group's; see the documentation.
        farm.lab.on_switch("bridge", "link", "set", "dev", node.port, "mcast_router", "2")
    # Until its first queries are over a bridge floods.
    eventually(lambda: farm.foreign_frames("NODE4") == 0, "the bridge sends to members alone", timeout_s=60)

    assert set(HOSTS) == set(farm.answers())
    assert 0 == farm.foreign_frames("NODE4")
    assert farm.foreign_frames("NODE1") >= 20


@needs_tshark
def test_hosts_join_in_the_version_that_was_asked_for(farm: Farm) -> None:
    """The answers of a host to the queries of the bridge, which asks since the test before, are those of version 1."""
    farm.change_mode("igmp", "IGMPVersion=1")
    farm.wait_converged(*HOSTS)
    said = farm.capture("NODE1", f"igmp and src host {farm.lab[1].address}", "igmp.type", frames=1)

    assert ["0x12"] == [types.split(",")[0] for (types,) in said]
