"""What the private properties of the resource mean beside parameters: adapters, wishes; what is refused."""

from __future__ import annotations

import pytest

from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.control import HostWish, RuleWish, Wishes
from clussvc.nlb.instance import claimed_addresses, digest, read_instance, team_id
from clussvc.resources.type_info import BUILTIN_TYPES, check_private, complete_private

INFO = BUILTIN_TYPES["Network Load Balancing"]


def values(**more: PropertyValue) -> dict[str, PropertyValue]:
    given: dict[str, PropertyValue] = {
        "ClusterIPAddress": "192.0.2.10",
        "HostParameters": ("NODE2 priority=2 state=stopped", "NODE1 priority=1"),
    }
    return complete_private(INFO, given | more)


def test_hosts_adapters_and_wishes() -> None:
    """Hosts by number, names in any case; a host that nobody commanded is as its parameters say."""
    instance, problems = read_instance(
        values(
            Interface="eth0",
            HostInterfaces=("node2 eth1",),
            HostStates=("NODE1 drainstop", 'NODE1 drain "All 80-80 TCP"'),
        )
    )

    assert () == problems
    assert instance is not None
    assert ["NODE1", "NODE2"] == [host.node for host in instance.hosts]
    assert ("eth0", "eth1") == (instance.interface_on("NODE1"), instance.interface_on("NODE2"))
    wished = Wishes(host=HostWish.DRAINING, rules={"All 80-80 TCP": RuleWish.DRAINING})
    assert wished == instance.wishes_for("node1")
    assert HostWish.STOPPED is instance.wishes_for("NODE2").host
    assert HostWish.STARTED is instance.wishes_for("NODE9").host
    assert None is instance.host("NODE9")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"Interface": "eth 0"}, "Interface is 'eth 0'"),
        ({"HostInterfaces": ("NODE1",)}, "HostInterfaces has 'NODE1'"),
        ({"FilterMode": "fast"}, "FilterMode is 'fast'; give auto, generic or native"),
        ({"HostStates": ("NODE1 explode",)}, "'NODE1 explode'"),
        ({"PortRules": ("All 80 TCP Multiple Single Equal timeout=20",)}, "timeout"),
        ({"MaskSourceMAC": 0}, "MaskSourceMAC"),
        ({"ClusterIPAddress": "224.0.0.1"}, "224.0.0.1"),
        ({"PortRules": ("All 80 TCP Multiple", "All 80 Both Single")}, "overlap"),
    ],
)
def test_what_is_wrong_is_named(more: dict[str, PropertyValue], says: str) -> None:
    """By the table of types too, with which every change is checked; then there is no instance."""
    instance, problems = read_instance(values(**more))

    assert None is instance
    assert says in " ".join(problems)
    assert says in " ".join(check_private(INFO, values(**more)))


def test_addresses_are_found_in_what_is_incomplete() -> None:
    """Two resources are compared before either is complete."""
    given: dict[str, PropertyValue] = {
        "ClusterIPAddress": "192.0.2.10",
        "VirtualIPAddresses": ("192.0.2.11/24", "nonsense"),
    }

    assert {"192.0.2.10", "192.0.2.11"} == {str(each) for each in claimed_addresses(given)}
    assert {"192.0.2.10"} == {str(each) for each in claimed_addresses(given, primary=True)}
    assert "wall" == team_id({"TeamID": " Wall "})


def test_a_digest_tells_versions_apart() -> None:
    """Whatever the order of the properties."""
    one = values(ClusterName="a")
    assert digest(one) == digest(dict(reversed(one.items())))
    assert digest(one) != digest(values(ClusterName="b"))
