"""All objects of remote administration, by the names under which they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from clussvc.admin.balancing import NlbServant
from clussvc.admin.roles import Caller
from clussvc.admin.servant import (
    ClusterServant,
    EventStreamServant,
    FenceServant,
    GroupServant,
    NetInterfaceServant,
    NetworkServant,
    NodeServant,
    ResourceServant,
    ResourceTypeServant,
    Servant,
)
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
    return {name: kind(access, caller) for name, kind in SERVANTS.items()}
