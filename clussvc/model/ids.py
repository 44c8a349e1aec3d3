"""Identifiers: distinct types, so that a group can never be passed where a resource is meant.

Objects are known to programs by an identifier that never changes and to people by a name that may. Node numbers are
given in the order of joining, start at 1 and are never used again within one cluster; they order nodes wherever MSCS
orders by installation (Microsoft KB 299631).
"""

from __future__ import annotations

from typing import NewType

ClusterId = NewType("ClusterId", str)
NodeId = NewType("NodeId", int)
GroupId = NewType("GroupId", str)
ResourceId = NewType("ResourceId", str)
RequestId = NewType("RequestId", str)
FenceDeviceId = NewType("FenceDeviceId", str)
NetworkId = NewType("NetworkId", str)
HostId = NewType("HostId", int)
"""The priority of a host within one load-balanced cluster, 1..32; the lowest one that lives is the default host."""

NODES_MAX = 64
NAME_LENGTH_MAX = 255
