"""Which addresses the resources of the cluster claim, and that no address is claimed in two ways.

An address of an *IP Address* resource belongs to one node at a time, a virtual address of *Network Load Balancing* to
all its hosts at once. One and the same address cannot be both, nor belong to two load-balanced clusters, nor be the own
address of a node: the two would answer for it with different link addresses. So a value that leads there is refused
when it is set, by the node that applies it, with the names of both.
"""

from __future__ import annotations

from ipaddress import ip_address

from clussvc.model.config import Config, Resource
from clussvc.model.reports import Report
from clussvc.nlb.instance import TYPE_NAME, claimed_addresses
from clussvc.nlb.mac import Address

_IP_ADDRESS = "IP Address"
_STATUS_DUPLICATE_ADDRESS = 5057
"""ERROR_CLUSTER_IPADDR_IN_USE: the cluster IP address is already in use."""


def check_addresses(config: Config, resource: Resource) -> Report | None:
    """Why the resource, as it is to be, cannot have its addresses; None: it can, or it has none."""
    mine = _claimed(resource)
    if not mine:
        return None
    balancing = resource.type == TYPE_NAME
    for other in config.resources.values():
        concerned = other.type == TYPE_NAME or (balancing and other.type == _IP_ADDRESS)
        # The copies in the instances of a parallel group have all from their pattern.
        if not concerned or other.id == resource.id or other.instance_of is not None:
            continue
        both = mine & _claimed(other)
        if both:
            return _claimed_twice(
                min(both, key=str), resource, f"resource {other.name!r}, which is of type {other.type}"
            )
    if balancing:
        for node in config.nodes.values():
            own = mine & {_address(text) for text in node.addresses}
            if own:
                return _claimed_twice(min(own, key=str), resource, f"node {node.name}, whose own address it is")
    return None


def _claimed(resource: Resource) -> frozenset[Address | None]:
    """The addresses of a resource that can be understood so far."""
    if resource.type == _IP_ADDRESS:
        return frozenset({_address(str(resource.private.get("Address", "")).strip())}) - {None}
    return claimed_addresses(resource.private) if resource.type == TYPE_NAME else frozenset()


def _address(text: str) -> Address | None:
    try:
        return ip_address(text.split("%")[0])
    except ValueError:
        return None


def _claimed_twice(address: object, resource: Resource, other: str) -> Report:
    return Report(
        code="address-in-use",
        status=_STATUS_DUPLICATE_ADDRESS,
        message=f"Resource {resource.name!r} cannot have the address {address}: it belongs to {other}. A virtual"
        " address of a load-balanced cluster is on all its hosts and can be nothing else; choose another address for"
        " one of them. Nothing was changed.",
    )
