"""Load balancing on four machines: real frames, real clients from hundreds of addresses, hosts that come and go."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.formation import Cluster
from tests.cluster.lab import NETWORK, Lab, Node, environment, eventually

VIP: Final = f"{NETWORK}.210"
DB_VIP: Final = f"{NETWORK}.220"
FARM: Final = "FARM"
SERVER: Final = Path(__file__).with_name("balanced_server.py")
CLIENTS: Final = Path(__file__).with_name("many_clients.py")
ADDRESSES: Final = 500
HOSTS: Final = ("NODE1", "NODE2", "NODE3")


class Farm:
    """A load-balanced cluster, its clients, and the program ``nlb``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.lab = cluster.lab

    def nlb(self, *words: str, on: Node | None = None) -> str:
        """What ``nlb`` prints on a node. Fails unless it succeeds."""
        done = subprocess.run(
            [sys.executable, "-m", "cluster_cli.nlb_main", *words],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
            cwd="/",
            env=environment(CLUSSVC_SOCKET=str((on or self.lab[1]).socket)),
        )
        assert done.returncode == 0, f"nlb {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def status(self, on: Node) -> dict[str, Any]:
        """``nlb query`` as data, as that node sees the hosts."""
        answer: dict[str, Any] = json.loads(self.nlb("query", FARM, "--output", "json", on=on))[0]
        return answer

    def states(self, on: Node) -> dict[str, str]:
        """The state of every host."""
        return {host["node"]: host["state"] for host in self.status(on)["hosts"]}

    def wait_converged(self, *names: str) -> None:
        """Wait until exactly these hosts share the clients, by the word of each of them."""

        def converged() -> bool:
            for name in names:
                hosts = {host["node"]: host for host in self.status(self.lab.named(name))["hosts"]}
                numbers = sorted(hosts[each]["id"] for each in names)
                if hosts[name]["state"] not in ("default", "converged") or hosts[name]["members"] != numbers:
                    return False
            return True

        eventually(converged, f"{names} converge: {[self.status(self.lab.named(name)) for name in names]}")

    def clients(self, what: str, *numbers: float, address: str = VIP) -> Any:
        """What clients on the client machine saw."""
        done = subprocess.run(
            self.lab.enter_client(sys.executable, str(CLIENTS), what, address, "80", *map(str, numbers)),
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        return json.loads(done.stdout)

    def answers(self, count: int = 200, first: int = 0) -> Counter[str | None]:
        """How many of so many clients, each with an address of its own, each host answered; None: nobody did."""
        return Counter(self.clients("connect", count, first))

    def drip(self, count: int, lines: int) -> Downloads:
        """So many downloads that are under way, each taking a twentieth of a second for each line."""
        return Downloads(self, count, lines)


class Downloads:
    """Downloads in a thread."""

    def __init__(self, farm: Farm, count: int, lines: int) -> None:
        self._lines = lines
        self._found: list[str | None] = []
        self._thread = threading.Thread(target=lambda: self._found.extend(farm.clients("drip", count, lines)))
        self._thread.start()
        time.sleep(0.5)

    def complete(self) -> Counter[str]:
        """Wait for their end: how many each host served. Fails if one was cut off, or changed hosts."""
        self._thread.join()
        served: Counter[str] = Counter()
        for body in self._found:
            assert body is not None, self._found
            names = [line.split()[0] for line in body.splitlines()]
            assert [names[0]] * self._lines == names
            served[names[0]] += 1
        return served


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[Farm]:
    """Three hosts of four nodes, with a web server that listens on all addresses."""
    with Lab(folder=folder, nodes=4) as lab:
        cluster = Cluster(lab)
        cluster.form("loopback")
        lab.client_ip(*(f"address add 10.79.{at // 250}.{at % 250 + 1}/32 dev lo" for at in range(ADDRESSES)))
        for node in lab.nodes:
            lab.node_ip(node, "route add 10.79.0.0/16 via " + f"{NETWORK}.100")
        farm = Farm(cluster)
        farm.nlb(
            *("create", FARM, f"/ip:{VIP}", "/mask:255.255.255.0", f"/hosts:{','.join(HOSTS)}"),
            "/rule:All 80 TCP Multiple None",
        )
        cluster.command(
            *("res", "Web", "/create", f"/group:{FARM}", "/type:Generic Application"),
            *("/priv", f"CommandLine={sys.executable} {SERVER} 80"),
        )
        # A connection whose client said its last word is remembered for a minute otherwise.
        cluster.command("res", FARM, "/priv", "TCPConnectionTimeout=2")
        cluster.command("group", FARM, "/online", "/wait:60")
        yield farm


@pytest.fixture
def farm(formed: Farm) -> Farm:
    """Three hosts that have converged."""
    formed.wait_converged(*HOSTS)
    return formed


def test_clients_are_spread_evenly(farm: Farm) -> None:
    """Every client is answered, by all hosts about alike: the share of each within four standard deviations."""
    answers = farm.answers(450)

    assert set(HOSTS) == set(answers), answers
    assert all(abs(answers[name] - 150) < 4 * (450 * (1 / 3) * (2 / 3)) ** 0.5 for name in HOSTS), answers


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


def test_a_killed_host_is_replaced_by_the_others(farm: Farm) -> None:
    """Its clients reach others at once, and the others' clients notice nothing; it comes back by itself."""
    process = next(one for one in farm.lab[3].processes() if one.runs("clussvc.service.balancer"))
    farm.cluster.command("res", f"{FARM}", "/prop", "RestartAction=0")
    subprocess.run(["kill", "-KILL", str(process.pid)], check=True)
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "the others take all")
    farm.cluster.command("res", f"{FARM}", "/prop", "RestartAction=2")
    farm.cluster.command("group", FARM, "/online")
    farm.wait_converged(*HOSTS)


def test_a_node_without_a_service_takes_nothing(farm: Farm) -> None:
    """A service that is stuck feeds no monitor, which ends the host; its clients reach the others."""
    farm.lab[3].freeze_service()
    try:
        eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "nobody reaches NODE3")
        gone = not any(one.runs("clussvc.service.balancer") for one in farm.lab[3].processes())
        assert gone
        assert VIP not in farm.lab[3].run("ip", "address", "show", "dev", "lo").stdout
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
    farm.lab[3].boot()
    farm.lab.node_ip(farm.lab[3], "route add 10.79.0.0/16 via " + f"{NETWORK}.100")
    farm.lab[3].start_service()
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


@pytest.mark.parametrize("mode", ["multicast", "igmp"])
def test_modes_with_a_multicast_address(farm: Farm, mode: str) -> None:
    """The link address is a multicast one; in the mode igmp a bridge that listens sends to the hosts alone."""
    farm.cluster.command("group", FARM, "/offline", "/wait:60")
    farm.cluster.command("res", FARM, "/priv", f"OperationMode={mode}")
    farm.cluster.command("group", FARM, "/online", "/wait:60")
    farm.wait_converged(*HOSTS)

    assert set(HOSTS) == set(farm.answers())
