"""A pair of firewalls, load-balanced on both sides: the packets of either direction go through the same machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.cluster.farm import CLIENTS, MANY_ADDRESSES, ROUTE, SERVER, Farm
from tests.cluster.formation import Cluster
from tests.cluster.lab import NETWORK, OTHER_NETWORK, Lab, Node, environment, eventually

OUTSIDE: Final = f"{NETWORK}.210"
INSIDE: Final = f"{OTHER_NETWORK}.210"
SERVER_ADDRESS: Final = f"{OTHER_NETWORK}.100"
RULES: Final = """
table inet wall {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established counter accept
    iifname "eth0" ct state new tcp flags & (syn | ack) == syn counter accept
    counter drop
  }
}
"""
"""Lets connections in that begin outside, and of everything else only what belongs to one that this machine knows."""


pytestmark = pytest.mark.skipif(
    shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None,
    reason="nft is missing; see script/setup-system --tests",
)


class Pair:
    """Two firewalls between the client machine and a server."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.cluster = Cluster(lab)
        self.farm = Farm(self.cluster)
        self._server = lab.hold("server")
        lab.plug("ps", self._server, address=SERVER_ADDRESS, mac="02:77:00:00:01:ff", network=1)
        lab.holder_ip(self._server, f"route add {NETWORK}.0/24 via {INSIDE}", f"route add 10.79.0.0/16 via {INSIDE}")
        self._process = subprocess.Popen(
            ["nsenter", "-t", str(self._server.pid), "-n", "--", sys.executable, str(SERVER), "80"], env=environment()
        )

    def close(self) -> None:
        """End the server."""
        self._process.kill()
        self._process.wait()

    def set_up(self) -> None:
        """Form the cluster, make the walls and the two load-balanced sides."""
        lab, cluster = self.lab, self.cluster
        cluster.form("loopback")
        lab.client_ip(
            MANY_ADDRESSES,
            f"route add {OTHER_NETWORK}.0/24 via {OUTSIDE}",
        )
        for node in lab.nodes:
            lab.node_ip(node, ROUTE)
            self.wall(node)
        for name, address, master in (("OUT", OUTSIDE, 1), ("IN", INSIDE, 0)):
            self.farm.nlb(
                *("create", name, "/group:WALL", f"/ip:{address}", "/mask:24", "/hosts:NODE1,NODE2"),
                "/rule:All 0-65535 Both Multiple Single",
            )
            team = ("TeamID=wall", f"Master={master}", f"ReverseHash={1 - master}")
            cluster.command("res", name, "/priv", *team)
        cluster.command("group", "WALL", "/online", "/wait:60")

    def wall(self, node: Node) -> None:
        """Have a machine route, through a firewall that remembers connections."""
        done = node.run("sh", "-c", f"echo 1 > /proc/sys/net/ipv4/ip_forward && nft -f - <<'END'\n{RULES}\nEND")
        assert done.returncode == 0, done.stderr

    def passed(self, node: Node) -> int:
        """How many new connections a wall has let in."""
        shown = node.run("nft", "list", "chain", "inet", "wall", "forward").stdout
        line = next(line for line in shown.splitlines() if "ct state new" in line)
        words = line.split()
        return int(words[words.index("packets") + 1])

    def answers(self, count: int = 100) -> Counter[str | None]:
        """How many of so many clients had an answer of the server."""
        words = (sys.executable, str(CLIENTS), "connect", SERVER_ADDRESS, "80", str(count), "0", "3000")
        done = subprocess.run(
            self.lab.enter_client(*words),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return Counter("answered" if answer else None for answer in json.loads(done.stdout))


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[Pair]:
    """The pair, both sides online."""
    with Lab(folder=folder, nodes=2, networks=2) as lab:
        made = Pair(lab)
        try:
            made.set_up()
            yield made
        finally:
            made.close()


def test_both_directions_go_through_one_wall(pair: Pair) -> None:
    """Walls that know only what they saw begin let every connection through, and both of them have some."""
    eventually(lambda: pair.answers() == {"answered": 100}, "all clients reach the server through the walls")
    assert all(pair.passed(node) > 10 for node in pair.lab.nodes)


def test_a_wall_that_loses_one_side_leaves_both(pair: Pair) -> None:
    """The cable of the inner side is pulled on one machine: the other takes all, on both sides."""
    first, _ = pair.lab.nodes
    first.cut(1)
    try:
        eventually(lambda: pair.answers(40) == {"answered": 40}, "the other wall takes all")
        before = pair.passed(first)
        assert pair.answers() == {"answered": 100}
        assert pair.passed(first) == before
    finally:
        first.heal(1)
    passed = pair.passed(first)
    eventually(lambda: pair.answers() == {"answered": 100} and pair.passed(first) > passed, "both walls share again")


def test_one_side_offline_takes_the_other_along(pair: Pair) -> None:
    """A machine on which one member of the team is offline takes nothing on the other."""
    (inner,) = pair.cluster.ask("res", "IN", on=pair.lab[1])
    instance = next(one["name"] for one in inner["instances"] if one["node"] == "NODE2")
    pair.cluster.command("res", instance, "/offline", "/wait:30")
    eventually(lambda: pair.answers(40) == {"answered": 40}, "the other wall takes all")
    before = pair.passed(pair.lab[2])
    assert pair.answers() == {"answered": 100}
    assert pair.passed(pair.lab[2]) == before
    assert "it takes nothing" in pair.farm.nlb_output("diagnose", "OUT", on=pair.lab[2])
    pair.cluster.command("res", instance, "/online", "/wait:30")
    eventually(
        lambda: pair.answers() == {"answered": 100} and pair.passed(pair.lab[2]) > before, "both walls share again"
    )
