"""Load balancing at its bounds on three machines: 960 buckets, as many virtual addresses and rules as there may be, and
two load-balanced clusters on two adapters of the same hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from clussvc.nlb.parameters import VIPS_MAX
from clussvc.nlb.port_rule import RULES_MAX
from tests.cluster.farm import FARM, MANY_ADDRESSES, VIP, Farm, open_farm
from tests.cluster.lab import NETWORK, OTHER_NETWORK, Holder, Lab, eventually

HOSTS: Final = ("NODE1", "NODE2", "NODE3")
FURTHER: Final = tuple(f"{NETWORK}.{number}" for number in range(120, 120 + VIPS_MAX))
SITES: Final = FURTHER[: RULES_MAX - 1]
"""The addresses with a rule of their own; the others have that for all addresses."""
SIDE: Final = "SIDE"
SIDE_VIP: Final = f"{OTHER_NETWORK}.210"
SIDE_CLIENT: Final = f"{OTHER_NETWORK}.100"
SIDE_FIRST: Final = 32_000
"""The number of the first of its clients; their addresses begin with 10.79.128.0."""


def site_rule(number: int, address: str) -> str:
    """Every third site has one host, which is not the same for all; every third is shared evenly, or by weights."""
    return f"{address} 80 TCP {('Single', 'Multiple None', 'Multiple Single 30')[number % 3]}"


def host_text(number: int) -> str:
    """In a site with one host, the host with the number of the site, counted round, comes first."""
    words = [f"NODE{number} priority={number}"]
    for site, address in enumerate(SITES):
        if site % 3 == 0:
            words.append(f"handling:{address}:80={(number - 1 - site // 3) % 3 + 1}")
    return " ".join(words)


def first_host(site: int) -> str:
    """Who serves a site with one host."""
    return HOSTS[site // 3 % 3]


@pytest.fixture(scope="module")
def formed(folder: Path) -> Iterator[tuple[Farm, Holder]]:
    """Three hosts with two adapters, and a further client on the second network."""
    with Lab(folder=folder, nodes=3, networks=2) as lab:
        farm = open_farm(lab, "loopback", HOSTS)
        client = lab.hold("side")
        lab.plug("ps", client, address=SIDE_CLIENT, mac="02:77:00:00:01:ff", network=1)
        lab.holder_ip(client, MANY_ADDRESSES)
        yield farm, client


@pytest.fixture
def farm(formed: tuple[Farm, Holder]) -> Farm:
    """Three hosts that have converged."""
    formed[0].wait_converged(*HOSTS)
    return formed[0]


def shares(farm: Farm, name: str = FARM) -> dict[str, dict[str, int]]:
    """How many buckets each host has in each rule, as NODE1 sees it."""
    found: dict[str, dict[str, int]] = {}
    answer: list[dict[str, Any]] = json.loads(farm.nlb("queryport", "80", name, "--output", "json"))
    for rule in answer[0]["rules"]:
        found[rule["title"]] = {host["node"]: host["buckets"] for host in rule["hosts"]}
    return found


def test_all_addresses_and_rules_with_960_buckets(farm: Farm) -> None:
    """Taken over while the cluster runs: each site follows its own rule, and the shares are exact."""
    rules = [*(site_rule(number, address) for number, address in enumerate(SITES)), "All 80 TCP Multiple None"]
    farm.cluster.command(
        *("res", FARM, "/priv", "BucketCount=960"),
        f"VirtualIPAddresses={','.join(f'{address}/24' for address in FURTHER)}",
        f"PortRules={','.join(rules)}",
        f"HostParameters={','.join(host_text(number) for number in (1, 2, 3))}",
    )
    farm.wait_converged(*HOSTS)
    eventually(lambda: len(shares(farm)) == RULES_MAX, "the rules are taken over")
    farm.wait_converged(*HOSTS)

    found = shares(farm)
    for site, address in enumerate(SITES):
        expected = {name: 960 * (name == first_host(site)) if site % 3 == 0 else 320 for name in HOSTS}
        assert expected == found[f"{address} 80-80 TCP"], address
    for site in (0, 3, 6):
        assert {first_host(site)} == set(farm.answers(30, address=SITES[site]))
    for address in (VIP, SITES[1], SITES[-2], FURTHER[-1]):
        assert set(HOSTS) == set(farm.answers(60, address=address)), address


def test_one_more_is_refused(farm: Farm) -> None:
    """Of addresses, and of rules; nothing is changed."""
    one_more = f"{NETWORK}.{120 + VIPS_MAX}/24"
    addresses = ",".join([*(f"{address}/24" for address in FURTHER), one_more])
    refused = farm.lab[1].cluster("res", FARM, "/priv", f"VirtualIPAddresses={addresses}")
    assert refused.returncode != 0
    assert f"There are {VIPS_MAX + 1} further virtual addresses; a cluster has at most {VIPS_MAX}" in refused.stderr
    rules = ",".join(f"All {number} TCP Single" for number in range(RULES_MAX + 1))
    refused = farm.lab[1].cluster("res", FARM, "/priv", f"PortRules={rules}")
    assert f"There are {RULES_MAX + 1} port rules; a cluster has at most {RULES_MAX}" in refused.stderr
    assert RULES_MAX == len(shares(farm))


def test_a_host_dies_and_960_buckets_move_exactly(farm: Farm) -> None:
    """Those of the others stay where they are; its sites with one host go to the next; it gets all back."""
    farm.lab[3].crash()
    eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "the others take all")
    found = shares(farm)
    assert {"NODE1": 480, "NODE2": 480, "NODE3": 0} == found["All 80-80 TCP"]
    assert 960 == max(found[f"{SITES[6]} 80-80 TCP"].values())
    assert {"NODE1"} == set(farm.answers(20, address=SITES[6]))
    farm.restart(farm.lab[3])
    farm.wait_converged(*HOSTS)
    assert {"NODE3"} == set(farm.answers(20, address=SITES[6]))


def test_addresses_go_with_their_rules(farm: Farm) -> None:
    """In one change, while the hosts still decide by the former rules; no host is lost over it."""
    before = [farm.host_process(node) for node in farm.lab.nodes]
    few = SITES[:4]
    farm.cluster.command(
        *("res", FARM, "/priv", f"VirtualIPAddresses={','.join(f'{address}/24' for address in few)}"),
        f"PortRules={few[1]} 80 TCP Multiple,All 80 TCP Multiple None",
        f"HostParameters={','.join(f'NODE{number} priority={number}' for number in (1, 2, 3))}",
    )
    eventually(lambda: len(shares(farm)) == 2, "the rules are not gone")
    farm.wait_converged(*HOSTS)
    assert set(HOSTS) == set(farm.answers(60, address=few[0]))
    assert before == [farm.host_process(node) for node in farm.lab.nodes]


def test_a_host_that_the_switch_lets_nothing_through_to_leaves(farm: Farm) -> None:
    """It is up, sends, and is heard, but hears neither hosts nor clients: the others serve all until it hears again."""

    def let_through(word: str) -> None:
        flags = (part for kind in ("flood", "mcast_flood", "bcast_flood") for part in (kind, word))
        farm.lab.on_switch("bridge", "link", "set", "dev", farm.lab[3].port, *flags)

    before = farm.host_process(farm.lab[3])
    let_through("off")
    try:
        eventually(lambda: set(farm.answers(60)) == {"NODE1", "NODE2"}, "the others take all")
        assert {"NODE1", "NODE2"} == set(farm.answers(200))
        (here,) = (host for host in farm.status(farm.lab[3])["hosts"] if host["node"] == "NODE3")
        assert "it may be deaf" in here["because"], here
    finally:
        let_through("on")
    farm.wait_converged(*HOSTS)
    assert set(HOSTS) == set(farm.answers(60))
    assert before == farm.host_process(farm.lab[3])


def test_another_cluster_on_another_adapter(formed: tuple[Farm, Holder], farm: Farm) -> None:
    """With its own hosts, rules and mode; what is commanded to one does not concern the other."""
    farm.nlb(
        *("create", SIDE, f"/ip:{SIDE_VIP}", "/mask:24", "/mode:multicast", "/hosts:NODE1,NODE2,NODE3"),
        "/rule:All 80 TCP Multiple None",
    )
    for node in farm.lab.nodes:
        farm.lab.node_ip(node, f"route replace 10.79.128.0/17 via {SIDE_CLIENT}")
    farm.cluster.command("group", SIDE, "/online", "/wait:60")
    side = Farm(farm.cluster, client=formed[1], name=SIDE)
    side.wait_converged(*HOSTS)
    assert set(HOSTS) == set(side.answers(60, SIDE_FIRST, SIDE_VIP))

    farm.nlb("stop", f"{SIDE_VIP}:NODE2")
    side.wait_converged("NODE1", "NODE3")
    assert {"NODE1", "NODE3"} == set(side.answers(60, SIDE_FIRST, SIDE_VIP))
    assert set(HOSTS) == set(farm.answers(60))
    farm.nlb("start", f"{SIDE_VIP}:NODE2")
    side.wait_converged(*HOSTS)
    assert set(HOSTS) == set(side.answers(60, SIDE_FIRST, SIDE_VIP))
