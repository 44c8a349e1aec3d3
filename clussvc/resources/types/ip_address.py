"""IP Address: an IPv4 address that is on one node's interface while its group is there.

Online asks the network whether somebody has the address, adds it, and announces it so that neighbours and switches
send to this node at once. What is added is written down first, so that a later monitor can take it away. A link that
goes down, or somebody deleting the address, is told by the kernel and is a failure in the same moment.

The address has a short lifetime in the kernel, which this process extends again and again. So it goes away by itself
when nobody is left who could remove it: a monitor that was killed together with its service, or a machine whose
processes are frozen while its kernel still answers for the address. A node that takes over asks again until it is gone.

An address of a subnet that the interface has already becomes a secondary one. The interface is told to promote
secondary addresses, or deleting the first of several cluster addresses would silently delete the others.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final

from clussvc.model.errors import ClusterError
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo, check_private, prefix_length
from clussvc.resources.types import arp, rtnetlink
from clussvc.resources.types.base import Resource, ResourceType, text_property
from clussvc.resources.types.rtnetlink import Address, Link

LIFETIME_S: Final = 3
"""How long the kernel keeps the address of a monitor that runs no more; whole seconds are what it counts in."""
EXTENSION_INTERVAL_S: Final = 0.5
"""Six extensions fit into a lifetime, so that a busy machine does not lose an address that it may have."""
DUPLICATE_PAUSE_S: Final = 0.1
CONFLICT_WINDOW_S: Final = 10.0
"""For so long after it was added somebody else's claims to an address count (DEFEND_INTERVAL of RFC 5227)."""
LISTENING_PAUSE_S: Final = 0.2
"""How soon the listener notices that the address is to go."""
DUPLICATE_PATIENCE_S: Final = LIFETIME_S + 2.0
"""How long a duplicate is asked for again: the last owner's kernel removes it soon after its lifetime."""


class IPAddress(ResourceType):
    """Private properties: Address, SubnetMask, Network, DuplicateCheck."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["IP Address"]

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._held: Address | None = None
        self._link: Link | None = None
        self._announcing_again = threading.Event()
        self._extended_s = 0.0
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
        threading.Thread(target=self._extend, name="extender", daemon=True).start()
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

    def network_healed(self) -> None:
        """Announce the address again, several times, to hosts that could not hear it before."""
        link = self._link
        if link is not None and link.speaks_arp and not self._announcing_again.is_set():
            self._announcing_again.set()
            threading.Thread(target=self._announce_after_healing, args=(link,), name="announcer", daemon=True).start()

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
            give_up_s = time.monotonic() + DUPLICATE_PATIENCE_S
            while (holder := arp.find_duplicate(link.name, link.hardware, address)) is not None:
                if time.monotonic() < give_up_s and not self._quiet.wait(DUPLICATE_PAUSE_S):
                    continue
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
            self._link = link
            self._held = wanted
            try:
                rtnetlink.add_address(wanted, lifetime_s=LIFETIME_S)
                self._extended_s = time.clock_gettime(time.CLOCK_BOOTTIME)
            except OSError as error:
                self._held = None
                self.resource.forget()
                raise ClusterError(
                    "address-not-added", f"{wanted.address} cannot be added to {link.name}: {error.strerror}"
                ) from error

    def _extend(self) -> None:
        """Extend the lifetime until the address is taken away, and never after it may have run out.

        A machine that was frozen must not bring an address back that another node has by now.
        """
        while not self._quiet.wait(EXTENSION_INTERVAL_S):
            with self._lock:
                held, now_s = self._held, time.clock_gettime(time.CLOCK_BOOTTIME)
                if held is None or now_s - self._extended_s >= LIFETIME_S:
                    return
                # An address that somebody removed is reported by the kernel's event, not put back here.
                with contextlib.suppress(OSError):
                    if held in rtnetlink.addresses():
                        rtnetlink.extend_address(held, lifetime_s=LIFETIME_S)
                        self._extended_s = now_s

    def _announce_again(self, link: Link, address: ipaddress.IPv4Address) -> None:
        """Announce the address again, and ask and listen whether somebody else claims it: as in RFC 5227, section 2.4,
        the first claim is answered, a second one gives the address up."""
        begin_s = time.monotonic()
        due_s = [begin_s + delay_s for delay_s in arp.ANNOUNCEMENT_DELAYS_S[1:]]
        checks = self.resource.properties.get("DuplicateCheck") != 0
        claims = 0
        # A link that goes down meanwhile is reported by the kernel's event.
        with contextlib.suppress(OSError), arp.Listener(link.name, link.hardware, address) as listener:
            while (now_s := time.monotonic()) < begin_s + CONFLICT_WINDOW_S:
                until_s = due_s[0] if due_s else begin_s + CONFLICT_WINDOW_S
                other = listener.wait(min(until_s - now_s, LISTENING_PAUSE_S))
                if self._quiet.is_set():
                    return
                claimed = other is not None and checks
                claims += claimed
                if claims > 1:
                    self._stop_watching()
                    self.resource.failed(f"{address} is used by another host on {link.name} (hardware address {other})")
                    return
                due = bool(due_s) and time.monotonic() >= due_s[0]
                if claimed or due:
                    due_s = due_s[1:] if due else due_s
                    arp.announce(link.name, link.hardware, address)
                    listener.probe()

    def _announce_after_healing(self, link: Link) -> None:
        begin_s = time.monotonic()
        for delay_s in arp.ANNOUNCEMENT_DELAYS_S:
            if self._quiet.wait(max(0.0, begin_s + delay_s - time.monotonic())):
                return
            if delay_s == arp.ANNOUNCEMENT_DELAYS_S[-1]:
                # What heals from now on is worth a series of its own.
                self._announcing_again.clear()
            with self._lock:
                held = self._held
            # A link that goes down meanwhile is reported by the kernel's event.
            with contextlib.suppress(OSError):
                if held is not None:
                    arp.announce(link.name, link.hardware, held.address)

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
            return f"the network interface {self._link.name if self._link else held.index} is gone"
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
