"""IP Address: an IPv4 address that is on one node's interface while its group is there.

Online asks the network whether somebody has the address, adds it, and announces it so that neighbours and switches
send to this node at once. What is added is written down first, so that a later monitor can take it away. A link that
goes down, or somebody deleting the address, is told by the kernel and is a failure in the same moment.

An address of a subnet that the interface has already becomes a secondary one. The interface is told to promote
secondary addresses, or deleting the first of several cluster addresses would silently delete the others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from clussvc.model.errors import ClusterError
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo, check_private, prefix_length
from clussvc.resources.types import arp, rtnetlink
from clussvc.resources.types.base import Resource, ResourceType, text_property
from clussvc.resources.types.rtnetlink import Address, Link


class IPAddress(ResourceType):
    """Private properties: Address, SubnetMask, Network, DuplicateCheck."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["IP Address"]

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._held: Address | None = None
        self._link_name = ""
        self._changes: socket.socket | None = None
        self._lock = threading.Lock()
        self._quiet = threading.Event()

    def online(self) -> None:
        """Check, add, announce."""
        self._check_properties()
        address = ipaddress.IPv4Address(text_property(self.resource, "Address"))
        prefix = prefix_length(text_property(self.resource, "SubnetMask"))
        assert prefix is not None, "the properties have been checked"
        link = self._find_link(address)
        self._check_free(address, link)
        self._watch()
        self._add(Address(index=link.index, address=address, prefix=prefix), link)
        if link.speaks_arp:
            arp.announce(link.name, link.hardware, address)
            threading.Thread(target=self._announce_again, args=(link, address), name="announcer", daemon=True).start()

    def offline(self) -> None:
        """Take the address away."""
        self._remove()

    def terminate(self) -> None:
        """Take the address away; it is the same work."""
        self._remove()

    def close(self) -> None:
        """Nothing is held after offline or terminate; this is for the case that neither came."""
        self._stop_watching()

    def looks_alive(self) -> bool:
        """Whether the address is there and the link works."""
        return self._trouble() is None

    def is_alive(self) -> bool:
        """Whether the address is there and the link works; says why not."""
        trouble = self._trouble()
        if trouble is not None:
            self.resource.log_error(trouble)
        return trouble is None

    @classmethod
    def clean(cls, record: Mapping[str, Any]) -> None:
        """Take away an address that a dead monitor had added."""
        link = next((link for link in rtnetlink.links() if link.name == record["interface"]), None)
        if link is not None:
            address = ipaddress.IPv4Address(record["address"])
            rtnetlink.delete_address(Address(index=link.index, address=address, prefix=int(record["prefix"])))

    # --- steps of online ------------------------------------------------------------------------------------------

    def _check_properties(self) -> None:
        values = {name: self.resource.properties[name] for name in self.resource.properties}
        problems = check_private(self.info, values)
        if problems:
            raise ClusterError("bad-property", "; ".join(problems))

    def _find_link(self, address: ipaddress.IPv4Address) -> Link:
        """The interface that is named, or the one whose subnet holds the address; the narrowest subnet wins."""
        links = rtnetlink.links()
        wanted = text_property(self.resource, "Network")
        if wanted:
            link = next((link for link in links if link.name == wanted), None)
            if link is None:
                names = ", ".join(link.name for link in links)
                raise ClusterError("no-interface", f"this node has no network interface {wanted!r}; it has: {names}")
        else:
            fitting = [
                known
                for known in rtnetlink.addresses()
                if address in ipaddress.IPv4Network((known.address, known.prefix), strict=False)
            ]
            best = max(fitting, key=lambda known: known.prefix, default=None)
            link = next((link for link in links if best is not None and link.index == best.index), None)
            if link is None:
                raise ClusterError(
                    "no-interface",
                    f"no network interface of this node has an address in the subnet of {address}:"
                    " name the interface in the property Network, or give the node an address there",
                )
        if not link.works:
            raise ClusterError("link-down", f"the network interface {link.name} is down", retryable=True)
        return link

    def _check_free(self, address: ipaddress.IPv4Address, link: Link) -> None:
        names = {other.index: other.name for other in rtnetlink.links()}
        for known in rtnetlink.addresses():
            if known.address == address:
                raise ClusterError(
                    "address-in-use",
                    f"{address} is configured on {names.get(known.index)} of this node already, not by this resource;"
                    " remove it there, the cluster will add it where the group is",
                )
        if link.speaks_arp and self.resource.properties.get("DuplicateCheck") != 0:
            holder = arp.find_duplicate(link.name, link.hardware, address)
            if holder is not None:
                raise ClusterError(
                    "address-in-use",
                    f"{address} is used by another host on {link.name} (hardware address {holder})",
                    retryable=True,
                )

    def _add(self, wanted: Address, link: Link) -> None:
        with contextlib.suppress(OSError):
            setting = Path(f"/proc/sys/net/ipv4/conf/{link.name}/promote_secondaries")
            if setting.read_text().strip() == "0":
                setting.write_text("1")
        with self._lock:
            self.resource.remember({"interface": link.name, "address": str(wanted.address), "prefix": wanted.prefix})
            self._link_name = link.name
            self._held = wanted
            try:
                rtnetlink.add_address(wanted)
            except OSError as error:
                self._held = None
                self.resource.forget()
                raise ClusterError(
                    "address-not-added", f"{wanted.address} cannot be added to {link.name}: {error.strerror}"
                ) from error

    def _announce_again(self, link: Link, address: ipaddress.IPv4Address) -> None:
        waited_s = 0.0
        for delay_s in arp.ANNOUNCEMENT_DELAYS_S[1:]:
            if self._quiet.wait(delay_s - waited_s):
                return
            waited_s = delay_s
            # A link that went down meanwhile is reported by the kernel's event.
            with contextlib.suppress(OSError):
                arp.announce(link.name, link.hardware, address)

    # --- the rest -------------------------------------------------------------------------------------------------

    def _remove(self) -> None:
        self._quiet.set()
        self._stop_watching()
        with self._lock:
            held = self._held
            if held is not None:
                rtnetlink.delete_address(held)
                self._held = None
                self.resource.forget()

    def _trouble(self) -> str | None:
        """What is wrong; None: nothing."""
        held = self._held
        if held is None:
            return "the address is not held"
        link = next((link for link in rtnetlink.links() if link.index == held.index), None)
        if link is None:
            return f"the network interface {self._link_name} is gone"
        if not link.works:
            return f"the network interface {link.name} is down or has lost its carrier"
        if held not in rtnetlink.addresses():
            return f"{held.address} was removed from {link.name} by somebody else"
        return None

    def _watch(self) -> None:
        # Opened before the address is added, so that no change is missed.
        changes = rtnetlink.open_changes()
        self._changes = changes

        def changed() -> None:
            rtnetlink.drain_changes(changes)
            if self._held is None or self._quiet.is_set():
                return
            trouble = self._trouble()
            if trouble is not None and not self._quiet.is_set():
                self._stop_watching()
                self.resource.failed(trouble)

        self.resource.watch_fd(changes.fileno(), changed)

    def _stop_watching(self) -> None:
        changes, self._changes = self._changes, None
        if changes is not None:
            self.resource.unwatch_fd(changes.fileno())
            changes.close()
