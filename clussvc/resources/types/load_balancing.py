"""Network Load Balancing: this node is a host of a load-balanced cluster while its instance of the resource is online.

Online starts the *host process* (``clussvc.service.balancer``) and waits until it takes part: the service has told it
what it must know, its filter is attached to the adapter, and it has heard or missed the other hosts. The process holds
all that makes the machine a host in ways that end with it: its filter by a descriptor, link addresses and groups by
sockets, virtual addresses by a lifetime of three seconds. What does not end by itself, settings of the kernel for the
adapter, is written down first and undone here.

Offline drains the host first if ``DrainSeconds`` says so; then it has the process say goodbye, whereupon the others
take its share at once. Terminate kills it; then the others notice its silence, or are told by the cluster that the node
is down.

It may be in a group of its own or beside other resources, and is meant for a parallel group: one instance on each node.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, ClassVar, Final

from clussvc.model.errors import ClusterError
from clussvc.nlb.card import card
from clussvc.nlb.instance import Instance, read_instance
from clussvc.nlb.mac import OperationMode
from clussvc.resources.type_info import BUILTIN_TYPES, ResourceTypeInfo, check_private
from clussvc.resources.types.balancer_socket import Connection
from clussvc.resources.types.base import Process, Resource, ResourceType

LOOK_S: Final = 0.05
"""How often online looks whether the host process is ready."""
DRAIN_LOOK_S: Final = 0.2
GOODBYE_MS: Final = 2_000
"""How long the host process may take to say goodbye; it takes a few milliseconds."""
HOST_PROCESS: Final = "clussvc.service.balancer"


class NetworkLoadBalancing(ResourceType):
    """Private properties: ClusterIPAddress, PortRules, HostParameters and those of nlb params; see the type's table."""

    info: ClassVar[ResourceTypeInfo] = BUILTIN_TYPES["Network Load Balancing"]

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource)
        self._process: Process | None = None
        self._made: dict[str, Any] | None = None

    def online(self) -> None:
        """Prepare the adapter, start the host process, and wait until it takes part."""
        instance = self._instance()
        node = self.resource.node_name
        host = instance.host(node)
        if host is None:
            raise ClusterError(
                "not-a-host",
                f"{node} is not named in HostParameters; 'nlb addhost {self.resource.name} {node}' makes it a host",
            )
        link = card.find_link(instance.interface_on(node), instance.address)
        multicast = instance.cluster.mode is not OperationMode.UNICAST
        settings = card.settings_for(link.name, multicast=multicast)
        if instance.cluster.mode is OperationMode.IGMP:
            settings |= card.igmp_setting(link.name, instance.cluster.igmp_version)
        self._made = {
            "interface": link.name,
            "settings": card.read_settings(settings),
            "vips": [str(vip) for vip in instance.cluster.all_vips],
        }
        self.resource.remember(self._made)
        card.write_settings(settings)
        self._process = self.resource.start_process(
            [sys.executable, "-m", HOST_PROCESS, "--resource", self.resource.id, "--interface", link.name]
        )
        self._wait_until_ready()

    def offline(self) -> None:
        """Drain, if that is wished; say goodbye; then undo."""
        with contextlib.suppress(ClusterError):
            # One that does not answer has nothing to drain.
            self._drain()
        self.resource.stop_processes(min(self.resource.pending_timeout_ms, GOODBYE_MS))
        self._undo()

    def terminate(self) -> None:
        """End the process and undo; what the process held ends with it."""
        self.resource.stop_processes(0)
        self._undo()

    def looks_alive(self) -> bool:
        """Whether the host process runs."""
        return self._process is not None and self._process.ended is None

    def is_alive(self) -> bool:
        """Whether the host process answers and its filter is attached."""
        if self._process is not None and self._process.ended is not None:
            self.resource.log_error(self._process.describe_end())
            return False
        trouble = self._trouble()
        if trouble:
            self.resource.log_error(trouble)
        return not trouble

    @classmethod
    def clean(cls, record: Mapping[str, Any]) -> None:
        """Undo what a dead monitor had made; its processes have been killed."""
        _undo(record)

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _instance(self) -> Instance:
        values = {name: self.resource.properties[name] for name in self.resource.properties}
        instance, problems = read_instance(values)
        wrong = check_private(self.info, values) or problems
        if instance is None or wrong:
            raise ClusterError("bad-property", "; ".join(wrong))
        return instance

    def _wait_until_ready(self) -> None:
        give_up_s = time.monotonic() + self.resource.pending_timeout_ms / 1000
        step, why = 0, "it has not started"
        while time.monotonic() < give_up_s:
            if self._process is not None and self._process.ended is not None:
                raise ClusterError("host-ended", f"the host process did not start: {self._last_words()}")
            with contextlib.suppress(ClusterError):
                status = self._ask()
                if status.get("ready"):
                    return
                why = str(status.get("waits_for", why))
            step += 1
            if step % 20 == 0:
                self.resource.report_progress(step)
            time.sleep(LOOK_S)
        raise ClusterError("host-not-ready", f"the host process does not take part: {why}", retryable=True)

    def _drain(self) -> None:
        """Wait until open connections have ended, or for as long as the property DrainSeconds says."""
        give_up_s = time.monotonic() + float(self._ask("drain").get("limit_s", 0))
        step = 0
        while time.monotonic() < give_up_s and not self._ask().get("drained"):
            step += 1
            self.resource.report_progress(step)
            time.sleep(DRAIN_LOOK_S)

    def _trouble(self) -> str:
        try:
            status = self._ask()
        except ClusterError as error:
            return error.message
        return str(status.get("trouble", ""))

    def _ask(self, what: str = "health") -> dict[str, Any]:
        connection = Connection(run_folder_of_node(self.resource), self.resource.id)
        try:
            return connection.ask({"ask": what})
        finally:
            connection.close()

    def _last_words(self) -> str:
        assert self._process is not None
        return f"{self._process.describe_end()}; the log of the resource in the run folder has its words"

    def _undo(self) -> None:
        self._process = None
        made, self._made = self._made, None
        if made is not None:
            _undo(made)
            self.resource.forget()


def run_folder_of_node(resource: Resource) -> Path:
    """Where host processes of this node listen: the folder that holds the run folders of the monitors."""
    return resource.run_folder.parent


def _undo(record: Mapping[str, Any]) -> None:
    card.drop_addresses(ip_address(vip) for vip in record["vips"])
    card.write_settings(record["settings"])
