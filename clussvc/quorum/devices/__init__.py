"""Adapters of the port QuorumDevice: block devices, iSCSI LUNs, files on shared storage."""

from clussvc.quorum.devices.facts import DeviceFacts, candidates, examine
from clussvc.quorum.devices.opening import device_opener, is_of_a_type, open_device
from clussvc.quorum.devices.shared_file import create_file

__all__ = ["DeviceFacts", "candidates", "create_file", "device_opener", "examine", "is_of_a_type", "open_device"]
