"""What there is to see of this node's own addresses: links, addresses, ping targets, and who is heard where.

The kernel tells of changes of links and addresses in the moment they happen (docs/decisions/0007); how long ago each
peer was heard at each address is looked up in the heartbeat extension a few times in a second. The core is told only
when something of it has changed, so a quiet network costs it nothing. Nothing is decided here: whether a change
matters, and what follows, is for the core and the log.

An address that the kernel never had (it may be local by a route alone) and one of the loopback are taken to work; for
these the heartbeats alone tell.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from clussvc.comms.ping import Pinger
from clussvc.events import InterfacesSeen
from clussvc.membership.connectivity import LinkSeen
from clussvc.model.ids import NodeId
from clussvc.resources.types import rtnetlink
from clussvc.resources.types.rtnetlink import Link, OwnAddress

LOOK_INTERVAL_S: Final = 0.25
"""How often the ages of heartbeats are looked at; links need no looking."""
LINKS_INTERVAL_S: Final = 5.0
"""How often links are looked at all the same, should a message of the kernel have been lost."""

log = structlog.get_logger()


class InterfaceWatcher:
    """Watches the node's addresses on a thread of its own; ``start`` and ``stop`` may be called once each."""

    def __init__(
        self,
        *,
        addresses: tuple[str, ...],
        ages: Callable[[], Mapping[int, list[int]]],
        tell: Callable[[InterfacesSeen], None],
        lost_ms: int,
    ) -> None:
        """``ages``: for each peer, the milliseconds since it was heard at each of the addresses, or -1; who was not
        heard for ``lost_ms`` is not heard there. ``tell`` is called on the thread of this object."""
        self._addresses = addresses
        self._ages = ages
        self._tell = tell
        self._lost_ms = lost_ms
        self._known: set[int] = set()
        """The places of addresses that the kernel has had at some time."""
        self._links: dict[int, LinkSeen] = {}
        self._last: InterfacesSeen | None = None
        self._targets: Mapping[int, tuple[str, ...]] = {}
        self._pinger = Pinger()
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="interfaces", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join(5)
        os.close(self._wake)

    def use_timing(self, lost_ms: int) -> None:
        """From now on a peer counts as not heard after so long."""
        self._lost_ms = lost_ms

    def ping(self, targets: Mapping[int, tuple[str, ...]]) -> None:
        """What must answer on which network from now on, by the places of addresses."""
        self._targets = dict(targets)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            changes = rtnetlink.open_changes()
        except OSError as error:
            log.warning("interfaces.unwatched", because=error.strerror)
            return
        poll = select.poll()
        poll.register(changes, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        links_due_s = 0.0
        with changes, contextlib.closing(self._pinger):
            while not self._stopping:
                for fd in self._pinger.filenos():
                    poll.register(fd, select.POLLIN)
                ready = {fd for fd, _ in poll.poll(LOOK_INTERVAL_S * 1000)}
                if changes.fileno() in ready:
                    rtnetlink.drain_changes(changes)
                    links_due_s = 0.0
                now_s = time.monotonic()
                if now_s >= links_due_s:
                    links_due_s = now_s + LINKS_INTERVAL_S
                    self._look_at_links()
                for fd in self._pinger.filenos():
                    with contextlib.suppress(KeyError):
                        poll.unregister(fd)
                self._pinger.step(self._sources(), now_s)
                if not self._stopping:
                    self._tell_changes(now_s)

    def _look_at_links(self) -> None:
        try:
            links = {link.index: link for link in rtnetlink.links()}
            addresses = rtnetlink.own_addresses()
        except OSError as error:
            log.warning("interfaces.unknown", because=error.strerror)
            return
        for place, address in enumerate(self._addresses):
            seen = self._see(place, address, links, addresses)
            if seen is not None:
                self._links[place] = seen

    def _see(self, place: int, address: str, links: Mapping[int, Link], addresses: list[OwnAddress]) -> LinkSeen | None:
        """What the kernel says of one address; None: nothing."""
        plain, _, scope = address.partition("%")
        try:
            wanted = ipaddress.ip_address(plain)
        except ValueError:
            return None
        if wanted.is_loopback or wanted.is_unspecified:
            return None
        found = next((each for each in addresses if each.address == wanted and _is_on(each, scope, links)), None)
        before = self._links.get(place)
        if found is None:
            if place not in self._known or before is None:
                return None
            trouble = f"{address} was removed from {before.adapter}"
            return LinkSeen(prefix=before.prefix, adapter=before.adapter, trouble=trouble)
        self._known.add(place)
        link = links.get(found.index)
        name = link.name if link is not None else ""
        trouble = "" if link is not None and link.works else f"the link {name} is down or has no carrier"
        if found.duplicate and not trouble:
            trouble = f"another host of the network has the address {address}"
        return LinkSeen(prefix=found.prefix, adapter=name, trouble=trouble)

    def _sources(self) -> dict[int, tuple[str, str, tuple[str, ...]]]:
        """Where to ping from: the node's own address, its interface, and the targets, for the links that work."""
        found = {}
        for place, targets in self._targets.items():
            link = self._links.get(place)
            if targets and place < len(self._addresses) and not (link is not None and link.trouble):
                found[place] = (self._addresses[place], link.adapter if link is not None else "", targets)
        return found

    def _tell_changes(self, now_s: float) -> None:
        links = dict(self._links)
        for place, targets in self._pinger.silent(now_s).items():
            link = links.get(place, LinkSeen())
            if not link.trouble:
                trouble = f"no ping target answers ({', '.join(targets)})"
                links[place] = LinkSeen(prefix=link.prefix, adapter=link.adapter, trouble=trouble)
        heard = frozenset(
            (NodeId(node), place)
            for node, ages in self._ages().items()
            for place, age_ms in enumerate(ages[: len(self._addresses)])
            if 0 <= age_ms <= self._lost_ms
        )
        seen = InterfacesSeen(links=links, heard=heard)
        if seen != self._last:
            self._last = seen
            self._tell(seen)


def _is_on(found: OwnAddress, scope: str, links: Mapping[int, Link]) -> bool:
    """Whether an address is that of the interface that was named, by its name or its number; every one without a
    name. A link-local address may be the same on several interfaces."""
    link = links.get(found.index)
    return not scope or scope == str(found.index) or (link is not None and link.name == scope)
