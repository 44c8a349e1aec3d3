"""Adapters of the port QuorumDevice: block devices, iSCSI LUNs, files on shared storage; and the file share witness."""

from clussvc.quorum.devices.facts import DeviceFacts, candidates, examine
from clussvc.quorum.devices.file_share_witness import FileShareWitness, Writer
from clussvc.quorum.devices.file_share_witness import prepare as prepare_witness
from clussvc.quorum.devices.opening import device_opener, is_of_a_type, open_device
from clussvc.quorum.devices.shared_file import create_file

__all__ = [
    "DeviceFacts",
    "FileShareWitness",
    "Writer",
    "candidates",
    "create_file",
    "device_opener",
    "examine",
    "is_of_a_type",
    "open_device",
    "prepare_witness",
]
