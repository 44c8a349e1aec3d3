"""Pacemaker on Corosync: a group of an IPaddr2 and the web server under an agent that is as cheap as one can be."""

from __future__ import annotations

import re
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from typing import Final

from benchmarks.peers.contender import (
    NETMASK_BITS,
    holder_of_the_address,
    own_folders,
    server_words,
)
from tests.cluster.lab import NETWORK, START_LIMIT_S, VIP, Lab, Node, environment, eventually

FOLDERS: Final = (
    "/var/lib/corosync",
    "/var/lib/pacemaker",
    "/var/log/corosync",
    "/var/log/pacemaker",
    "/etc/corosync",
)
FORM_LIMIT_S: Final = 120.0
QNETD_ADDRESS: Final = f"{NETWORK}.91"
QNETD = "mount -t tmpfs tmpfs /run && mkdir /run/corosync-qnetd && exec corosync-qnetd -f -s off"
"""With folders of its own, as it insists on fixed ones."""

COROSYNC = """totem {{
    version: 2
    cluster_name: lab
    transport: knet
    crypto_cipher: none
    crypto_hash: none
{timings}}}
nodelist {{
{nodes}
}}
quorum {{
    provider: corosync_votequorum
{device}}}
logging {{
    to_syslog: no
    to_stderr: no
    to_logfile: yes
    logfile: /var/log/corosync/corosync.log
}}
"""
DEVICE = f"""    device {{
        model: net
        votes: 1
        net {{
            host: {QNETD_ADDRESS}
            algorithm: ffsplit
            tls: off
        }}
    }}
"""
"""A third machine has the vote that decides between two halves (corosync-qdevice and corosync-qnetd)."""
TIMINGS = """    token: {token_ms}
    token_coefficient: 0
    consensus: {consensus_ms}
    token_retransmits_before_loss_const: 4
    interface {{
        linknumber: 0
        knet_ping_interval: 200
        knet_ping_timeout: 1000
        knet_pong_count: 1
    }}
"""
"""A low token alone would let knet, which derives its own timeouts from it, declare healthy links down."""

AGENT = """#!/bin/bash
# The web server for Pacemaker; no library is sourced, and looking whether it runs is one connection.
up() {{ (exec 3<>/dev/tcp/127.0.0.1/80) 2>/dev/null; }}
case $1 in
meta-data) cat <<X
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="web" version="1.0"><version>1.1</version>
<longdesc lang="en">web server</longdesc><shortdesc lang="en">web server</shortdesc><parameters/>
<actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="10s"/><action name="meta-data" timeout="5s"/></actions></resource-agent>
X
;;
monitor) up && exit 0; exit 7;;
start)
    up && exit 0
    setsid {server} </dev/null >/dev/null 2>&1 &
    echo $! > /run/web.pid
    for _ in $(seq 2000); do up && exit 0; sleep 0.01; done; exit 1;;
stop)
    [ -f /run/web.pid ] && kill -9 "$(cat /run/web.pid)" 2>/dev/null
    for _ in $(seq 2000); do up || {{ rm -f /run/web.pid; exit 0; }}; sleep 0.01; done; exit 1;;
*) exit 3;;
esac
"""

RESOURCES = """<resources><group id="g">
<primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2">
<instance_attributes id="vip-ia"><nvpair id="vip-ip" name="ip" value="{address}"/>
<nvpair id="vip-mask" name="cidr_netmask" value="{bits}"/><nvpair id="vip-nic" name="nic" value="eth0"/>
</instance_attributes>
<operations><op id="vip-mon" name="monitor" interval="{monitor}" timeout="20s"/></operations></primitive>
<primitive id="web" class="ocf" provider="lab" type="web">
<operations><op id="web-mon" name="monitor" interval="{monitor}" timeout="20s"/></operations></primitive>
</group></resources>"""


class Pacemaker:
    """``token_ms`` None: Corosync's own timings. Fencing is off, as no device of the lab's machines can be reached.

    ``qdevice``: for two machines; a third one, which runs nothing else, decides between them.
    """

    faults = frozenset({"crash", "cut", "mute", "server", "move"})

    def __init__(self, lab: Lab, token_ms: int | None, monitor: str, *, qdevice: bool = False) -> None:
        self.name = f"pacemaker, token {token_ms} ms" if token_ms else "pacemaker, default timings"
        self.name += f", monitor {monitor}{', two nodes with qdevice' if qdevice else ''}"
        self.phase_s = 2.0
        self.hold_s = 5.0 if token_ms else 15.0
        self._lab = lab
        self._token_ms = token_ms
        self._monitor = monitor
        self._qdevice = qdevice
        self._qnetd: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Configure and start; the resources come when all nodes are online."""
        agents = self._lab.folder / "agents" / "lab"
        agents.mkdir(parents=True)
        agent = agents / "web"
        agent.write_text(AGENT.format(server=" ".join(f"'{word}'" for word in server_words("WEB"))))
        agent.chmod(0o755)
        if self._qdevice:
            self._start_qnetd()
        for node in self._lab.nodes:
            self.restart(node)
        eventually(lambda: self._online() == len(self._lab.nodes), "all nodes are online", timeout_s=FORM_LIMIT_S)
        first = self._lab[1]
        self._must(first, "crm_attribute", "-n", "stonith-enabled", "-v", "false")
        self._must(first, "crm_attribute", "-t", "rsc_defaults", "-n", "resource-stickiness", "-v", "1000")
        resources = RESOURCES.format(address=VIP, bits=NETMASK_BITS, monitor=self._monitor)
        self._must(first, "cibadmin", "-o", "resources", "--replace", "-X", resources)

    def _start_qnetd(self) -> None:
        machine = self._lab.hold("qnetd")
        self._lab.plug("qn", machine, address=QNETD_ADDRESS, mac="02:77:00:00:00:c9")
        words = ("nsenter", "-t", str(machine.pid), "-n", "--", "unshare", "--mount", "sh", "-c", QNETD)
        with (self._lab.folder / "qnetd.out").open("ab") as log:
            self._qnetd = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), cwd="/"
            )

    def end(self) -> None:
        """The machine beside the others ends."""
        if self._qnetd is not None:
            self._qnetd.kill()
            self._qnetd.wait(START_LIMIT_S)

    def _must(self, node: Node, *words: str) -> str:
        done = node.run(*words)
        assert done.returncode == 0, f"{' '.join(words)} on {node.name}: {done.stdout}{done.stderr}"
        return done.stdout

    def restart(self, node: Node) -> None:
        """Folders of its own, the agent in its place, Corosync, Pacemaker."""
        own_folders(node, FOLDERS)
        for folder in ("/run/lock", "/run/crm", "/run/resource-agents", "/var/log/pacemaker", "/var/log/corosync"):
            node.run("mkdir", "-p", folder)
        for folder in ("blackbox", "cib", "cores", "pengine"):
            node.run("mkdir", "-p", f"/var/lib/pacemaker/{folder}")
        node.run("chown", "-R", "hacluster:haclient", "/var/lib/pacemaker", "/var/log/pacemaker", "/run/crm")
        node.run("mkdir", "-p", "/run/ocf", "/run/ocf-work")
        node.run("mount", "-t", "overlay", "overlay", "-o",
                 f"lowerdir={self._lab.folder}/agents:/usr/lib/ocf/resource.d", "/usr/lib/ocf/resource.d")  # fmt: skip
        (node.folder / "corosync.conf").write_text(self._corosync())
        node.run("cp", str(node.folder / "corosync.conf"), "/etc/corosync/corosync.conf")
        self._spawn(node, "corosync", "-f")
        eventually(
            lambda: node.run("corosync-cmapctl", "-g", "runtime.votequorum.this_node_id").returncode == 0,
            f"Corosync of {node.name} answers",
        )
        if self._qdevice:
            node.run("mkdir", "-p", "/run/corosync-qdevice")
            self._spawn(node, "corosync-qdevice", "-f")
            eventually(lambda: self._casts_its_vote(node), f"the qdevice of {node.name} votes", timeout_s=FORM_LIMIT_S)
        self._spawn(node, "pacemakerd", "-f")

    @staticmethod
    def _casts_its_vote(node: Node) -> bool:
        """Whether there is a vote more than there are nodes, as this one sees it."""
        said = dict(re.findall(r"^(Nodes|Total votes): +(\d+)", node.run("corosync-quorumtool", "-s").stdout, re.M))
        return len(said) == 2 and int(said["Total votes"]) == int(said["Nodes"]) + 1

    def _corosync(self) -> str:
        nodes = "\n".join(
            f"    node {{\n        nodeid: {node.number}\n        name: {node.name}\n"
            f"        ring0_addr: {node.address}\n    }}"
            for node in self._lab.nodes
        )
        timings = (
            TIMINGS.format(token_ms=self._token_ms, consensus_ms=self._token_ms * 6 // 5) if self._token_ms else ""
        )
        return COROSYNC.format(timings=timings, nodes=nodes, device=DEVICE if self._qdevice else "")

    def _spawn(self, node: Node, *words: str) -> None:
        with (node.folder / "daemons.out").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    node.enter(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), cwd="/"
                )
            )

    def _status(self) -> ElementTree.Element | None:
        for node in self._lab.nodes:
            if not node.up:
                continue
            done = node.run("crm_mon", "-1", "--output-as=xml")
            try:
                return ElementTree.fromstring(done.stdout)
            except ElementTree.ParseError:
                continue
        return None

    def _online(self) -> int:
        status = self._status()
        if status is None:
            return 0
        return sum(
            (node.get("online"), node.get("pending"), node.get("unclean")) == ("true", "false", "false")
            for node in status.findall("nodes/node")
        )

    def _idle(self) -> bool:
        status = self._status()
        found = status.find("summary/current_dc") if status is not None else None
        name = found.get("name") if found is not None else None
        if not name:
            return False
        return "S_IDLE" in self._lab.named(name).run("crmadmin", "-S", name).stdout

    def ready(self) -> bool:
        """All online, nothing under way, and the address where the server is said to be."""
        return self._online() == len(self._lab.nodes) and self._idle() and self.active() is not None

    def active(self) -> Node | None:
        """Where the server is started, if the address is there too."""
        status = self._status()
        for resource in status.iter("resource") if status is not None else ():
            if resource.get("id") == "web" and resource.get("role") == "Started":
                found = resource.find("node")
                name = found.get("name") if found is not None else None
                node = self._lab.named(name) if name else None
                return node if node is not None and node is holder_of_the_address(self._lab) else None
        return None

    def move(self, source: Node, target: Node) -> None:
        """The command of an administrator."""
        self._must(source, "crm_resource", "--move", "-r", "g", "--node", target.name)

    def after(self, node: Node) -> None:
        """Remove the constraint that a move leaves, and failures."""
        node.run("crm_resource", "--clear", "-r", "g")
        node.run("crm_resource", "--cleanup")
        time.sleep(0.5)

    def version(self) -> str:
        """As they say."""
        said = [
            subprocess.run([name, option], capture_output=True, text=True, check=False).stdout.splitlines()[0]
            for name, option in (("pacemakerd", "--version"), ("corosync", "-v"))
        ]
        return ", ".join(said)
