"""All objects of remote administration, by the names under which they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from clussvc.admin.balancing import NlbServant
from clussvc.admin.roles import Caller
from clussvc.admin.servant import Servant
from clussvc.admin.servants.cluster import ClusterServant
from clussvc.admin.servants.event_stream import EventStreamServant
from clussvc.admin.servants.fence import FenceServant
from clussvc.admin.servants.group import GroupServant
from clussvc.admin.servants.network import NetInterfaceServant, NetworkServant
from clussvc.admin.servants.node import NodeServant
from clussvc.admin.servants.resource import ResourceServant, ResourceTypeServant
from clussvc.ports import ClusterAccess

SERVANTS: Final[Mapping[str, type[Servant]]] = {
    "Cluster": ClusterServant,
    "Node": NodeServant,
    "Group": GroupServant,
    "Resource": ResourceServant,
    "ResourceType": ResourceTypeServant,
    "Fence": FenceServant,
    "Network": NetworkServant,
    "NetInterface": NetInterfaceServant,
    "EventStream": EventStreamServant,
    "Nlb": NlbServant,
}
"""The objects by the names under which they are registered."""


def make_servants(access: ClusterAccess, caller: Caller) -> dict[str, Servant]:
    """The objects for one connection."""
    return {name: kind(access, caller, SERVANTS) for name, kind in SERVANTS.items()}
