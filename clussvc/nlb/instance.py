"""All that the private properties of a resource *Network Load Balancing* say: parameters, adapters, and commands.

Parameters and port rules are those of :mod:`clussvc.nlb.parameters`. Besides there are

* ``Interface``, the adapter on every host, and ``HostInterfaces``, one string ``NODE ADAPTER`` for each host that has
  another; empty: the adapter with an address in the subnet of the cluster;
* ``FilterMode``, how the packet filter is attached to the adapter (:class:`FilterMode`);
* ``HostStates``, what administrators commanded (:mod:`clussvc.nlb.control`).

The properties are replicated, so all hosts read the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from ipaddress import ip_address
from typing import Final

from clussvc.model.monitoring import PropertyValue
from clussvc.nlb.control import HostWish, Wishes, parse_wishes
from clussvc.nlb.mac import Address
from clussvc.nlb.parameters import ClusterParameters, HostParameters, HostState, read_parameters

TYPE_NAME = "Network Load Balancing"
"""The name of the resource type."""
PROFILE_PERIODS_MS: Final = {"fast": 25}
"""Milliseconds between two heartbeats where the cluster's timing profile asks for another default than 100: with
``fast`` a silent host counts as dead after 125 ms, since its clients are to be served again within 0.3 s."""


@unique
class FilterMode(Enum):
    """Where the packet filter sees the frames of an adapter."""

    AUTO = "auto"
    """The way that was tried on all kinds of adapters, which is the generic one. It never turns to the native mode by
    itself, since a driver may take the filter and then not do with the frames what it should."""
    GENERIC = "generic"
    """In the kernel, which every adapter can do."""
    NATIVE = "native"
    """In the adapter's driver: cheaper, where the driver can do it. Elsewhere the resource does not come online."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One load-balanced cluster, complete and valid."""

    cluster: ClusterParameters
    hosts: tuple[HostParameters, ...]
    """By number."""
    interface: str = ""
    interfaces: Mapping[str, str] = field(default_factory=dict)
    """By the name of the node in small letters."""
    wishes: Mapping[str, Wishes] = field(default_factory=dict)
    """Likewise."""
    filter_mode: FilterMode = FilterMode.AUTO

    @property
    def address(self) -> Address:
        """The primary virtual address, by which people name the cluster."""
        return self.cluster.address.address

    def host(self, node: str) -> HostParameters | None:
        """The host on that node."""
        return next((host for host in self.hosts if host.node.casefold() == node.casefold()), None)

    def wishes_for(self, node: str) -> Wishes:
        """What administrators want of the host on that node: what they commanded, or what its parameters say."""
        commanded = self.wishes.get(node.casefold())
        if commanded is not None:
            return commanded
        host = self.host(node)
        return Wishes(host=_INITIAL[host.initial]) if host is not None else Wishes()

    def interface_on(self, node: str) -> str:
        """The adapter that is named for a node; empty: it is to be found by its address."""
        return self.interfaces.get(node.casefold(), self.interface)


def with_profile(values: Mapping[str, PropertyValue], profile: str) -> Mapping[str, PropertyValue]:
    """The properties that were set, with what follows from the cluster's timing profile where nothing was."""
    period_ms = PROFILE_PERIODS_MS.get(profile)
    if period_ms is None or "AliveMsgPeriod" in values:
        return values
    return {**values, "AliveMsgPeriod": period_ms}


def read_instance(values: Mapping[str, PropertyValue]) -> tuple[Instance | None, tuple[str, ...]]:
    """What private properties mean, and all that is wrong with them, in sentences; None unless all is well."""
    balancing, problems = read_parameters(values)
    wrong = list(problems)
    interface = str(values.get("Interface", "")).strip()
    if interface and not _ADAPTER.fullmatch(interface):
        wrong.append(f"Interface is {interface!r}, which cannot be the name of a network interface.")
    interfaces = {}
    for text in _texts(values, "HostInterfaces"):
        words = text.split()
        if len(words) != 2 or not _ADAPTER.fullmatch(words[1]):
            wrong.append(f"HostInterfaces has {text!r}; write NODE ADAPTER, such as 'NODE1 eth1'.")
        else:
            interfaces[words[0].casefold()] = words[1]
    filter_word = str(values.get("FilterMode", FilterMode.AUTO.value)).strip().casefold()
    filter_mode = next((mode for mode in FilterMode if mode.value == filter_word), None)
    if filter_mode is None:
        wrong.append(f"FilterMode is {values['FilterMode']!r}; give auto, generic or native.")
    if balancing is not None:
        wrong += _not_done(balancing.cluster)
    wishes, bad_wishes = parse_wishes(_texts(values, "HostStates"))
    wrong += bad_wishes
    if balancing is None or filter_mode is None or wrong:
        return None, tuple(wrong)
    return (
        Instance(
            cluster=balancing.cluster,
            hosts=tuple(sorted(balancing.hosts, key=lambda host: (host.host, host.node))),
            interface=interface,
            interfaces=interfaces,
            wishes={node.casefold(): wish for node, wish in wishes.items()},
            filter_mode=filter_mode,
        ),
        (),
    )


def _not_done(cluster: ClusterParameters) -> list[str]:
    """What can be said and is not done here; to accept it silently would be a lie."""
    found = [
        f"Port rule '{rule.title}': clients are not remembered after their last connection; leave timeout= out."
        for rule in cluster.rules
        if rule.timeout_min
    ]
    if not cluster.mask_source_mac:
        found.append("MaskSourceMAC is 0; hosts never send from the shared link address here, so leave it 1.")
    return found


_INITIAL = {
    HostState.STARTED: HostWish.STARTED,
    HostState.STOPPED: HostWish.STOPPED,
    HostState.SUSPENDED: HostWish.SUSPENDED,
}

_ADAPTER = re.compile(r"[^\s/]{1,15}")


def team_id(values: Mapping[str, PropertyValue]) -> str:
    """The team that properties name; empty: none."""
    return str(values.get("TeamID", "")).strip().casefold()


def claimed_addresses(values: Mapping[str, PropertyValue], *, primary: bool = False) -> frozenset[Address]:
    """The virtual addresses in properties that may be incomplete or wrong otherwise; or the primary one alone."""
    further = () if primary else _texts(values, "VirtualIPAddresses")
    texts = (str(values.get("ClusterIPAddress", "")), *further)
    found = set()
    for text in texts:
        try:
            found.add(ip_address(text.strip().split("/")[0]))
        except ValueError:
            continue
    return frozenset(found)


def digest(values: Mapping[str, PropertyValue]) -> str:
    """Tells whether two sets of complete private properties are the same."""
    return hashlib.blake2b(repr(sorted(values.items())).encode(), digest_size=8).hexdigest()


def _texts(values: Mapping[str, PropertyValue], name: str) -> tuple[str, ...]:
    value = values.get(name, ())
    return value if isinstance(value, tuple) else ()
