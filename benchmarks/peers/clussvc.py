"""This cluster service as a contender, with a web server that it starts, or with the address alone."""

from __future__ import annotations

import subprocess

from benchmarks.peers.contender import NETMASK_BITS, WEB_SERVER, server_of, server_words
from clussvc import __version__
from clussvc.quorum.disk_layout import DISK_BYTES_MIN
from tests.cluster.formation import Cluster
from tests.cluster.lab import VIP, Lab, Node, environment
from tests.cluster.storage import Storage

GROUP = "WEB"


class Clussvc:
    """An IP Address and a Generic Script in one group, with a timing profile.

    With ``disk`` the quorum is an iSCSI disk with reservations, on a machine beside the others.

    With the address ``alone`` the group is just that, and the server runs on every machine all the time, as it does
    beside keepalived.
    """

    phase_s = 1.0
    hold_s = 3.0

    def __init__(self, lab: Lab, profile: str, *, alone: bool = False, disk: bool = False) -> None:
        self.name = f"clussvc {profile}{', address alone' if alone else ''}"
        self.name += f", {len(lab.nodes)} nodes with a quorum disk" if disk else ""
        self._disk = disk
        self._storage: Storage | None = None
        faults = {"crash", "cut", "mute", "daemon", "move", "leader"}
        self.faults = frozenset(faults if alone else faults | {"server"})
        self._lab = lab
        self._profile = profile
        self._alone = alone
        self._cluster = Cluster(lab)
        self._servers: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Form the cluster and bring the group online."""
        cluster = self._cluster
        if self._disk:
            self._storage = Storage(self._lab, size_bytes=2 * DISK_BYTES_MIN)
        cluster.form(self._profile, quorum=self._storage.place if self._storage else "majority")
        cluster.command("group", GROUP, "/create")
        private = (f"Address={VIP}", f"SubnetMask={NETMASK_BITS}")
        cluster.command("res", "IP", "/create", f"/group:{GROUP}", "/type:IP Address", "/priv", *private)
        if self._alone:
            for node in self._lab.nodes:
                self._serve(node)
        else:
            private = (f"ScriptFilepath={WEB_SERVER}", "Port=80:dword")
            cluster.command("res", "WEB", "/create", f"/group:{GROUP}", "/type:Generic Script", "/priv", *private)
            cluster.command("res", "WEB", "/adddep:IP")
        cluster.command("group", GROUP, "/online:NODE1", "/wait:60")

    def _serve(self, node: Node) -> None:
        self._servers.append(
            subprocess.Popen(
                node.enter(*server_words(GROUP)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
                cwd="/",
            )
        )

    def ready(self) -> bool:
        """Every node up, by the word of each."""
        nodes = self._lab.nodes
        if self._alone and not all(node.up and server_of(node) for node in nodes):
            return False
        if not all(node.up and node.service() is not None and self._cluster.takes_part(node) for node in nodes):
            return False
        return set(self._cluster.node_states(nodes[0]).values()) == {"Up"} and self.active() is not None

    def active(self) -> Node | None:
        """The owner of the group, if it is online."""
        for node in self._lab.nodes:
            if node.up and self._cluster.takes_part(node):
                group = self._cluster.group(GROUP, on=node)
                return self._lab.named(group.node) if group is not None and group.state == "Online" else None
        return None

    def leader(self) -> Node | None:
        """The node that leads the log."""
        for node in self._lab.nodes:
            if node.up and (name := self._cluster.coordinator(node)):
                return self._lab.named(name)
        return None

    def restart(self, node: Node) -> None:
        """Start the service of a machine that was booted."""
        if self._alone:
            self._serve(node)
        node.start_service()

    def kill_daemon(self, node: Node) -> None:
        """Kill the service; its monitors live."""
        node.kill_service()

    def move(self, source: Node, target: Node) -> None:
        """The command of an administrator."""
        self._cluster.command("group", GROUP, f"/moveto:{target.name}", "/wait:60", on=source)

    def after(self, node: Node) -> None:
        """A service that was killed is started again, as systemd would."""
        if node.up and node.service() is None:
            node.start_service()

    def end(self) -> None:
        """The machine with the disk ends."""
        if self._storage is not None:
            self._storage.close()

    def version(self) -> str:
        """As ``cluster /version`` says."""
        return f"clussvc {__version__}"
