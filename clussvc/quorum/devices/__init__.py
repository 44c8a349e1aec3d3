"""Adapters of the port QuorumDevice: block devices, iSCSI LUNs, files on shared storage."""

from clussvc.quorum.devices.facts import DeviceFacts, candidates, examine
from clussvc.quorum.devices.opening import open_device
from clussvc.quorum.devices.shared_file import create_file

__all__ = ["DeviceFacts", "candidates", "create_file", "examine", "open_device"]
