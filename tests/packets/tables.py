"""Tables of the packet filter for tests."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import BucketMap, empty_map, next_map
from clussvc.nlb.filter_table import FilterTable, RuleBuckets, all_to
from clussvc.nlb.port_rule import FilteringMode, PortRule, parse_rules
from tests.packets.frames import CLUSTER_MAC, OWN_MAC

SEED = bytes(range(16))


def shared_by(hosts: int, buckets: int = 60) -> BucketMap:
    """The map of so many equal hosts."""
    return next_map(empty_map(buckets), {HostId(host): 50 for host in range(1, hosts + 1)})


def rules_of(*texts: str) -> tuple[PortRule, ...]:
    """Port rules from their texts, in canonical order."""
    rules, problems = parse_rules(texts)
    assert not problems, problems
    return rules


def table(*texts: str, host: int = 1, hosts: int = 2, buckets: int = 60, **changes: Any) -> FilterTable:
    """What ``host`` decides from in a cluster of so many equal hosts with these rules. Host 1 is the default host, and
    takes what a single host takes."""
    rules = rules_of(*texts) if texts else (PortRule(),)
    shares = RuleBuckets(owners=shared_by(hosts, buckets))
    given: dict[str, Any] = {
        "seed": SEED,
        "buckets": buckets,
        "host": HostId(host),
        "running": True,
        "vips": (ip_address("192.0.2.10"), ip_address("2001:db8::10")),
        "dedicated": (ip_address("192.0.2.1"),),
        "rules": rules,
        "rule_buckets": tuple(shares if rule.mode is FilteringMode.MULTIPLE else all_to(1, buckets) for rule in rules),
        "default": all_to(1, buckets),
        "cluster_mac": CLUSTER_MAC,
        "own_mac": OWN_MAC,
    }
    return FilterTable(**{**given, **changes})
