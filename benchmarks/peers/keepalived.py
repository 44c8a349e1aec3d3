"""keepalived (VRRP version 3): the server runs on every machine, the address follows VRRP."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from benchmarks.peers.contender import (
    NETMASK_BITS,
    holder_of_the_address,
    own_folders,
    processes_named,
    server_of,
    server_words,
)
from tests.cluster.lab import VIP, Lab, Node, environment

CONFIGURATION = """global_defs {{
    router_id {name}
    vrrp_version 3
    script_user root
    vrrp_garp_master_refresh 0
}}
vrrp_script answers {{
    script "{check}"
    interval 1
    timeout 1
    fall 1
    rise 1
}}
vrrp_instance WEB {{
    state BACKUP
    nopreempt
    interface eth0
    virtual_router_id 77
    priority {priority}
    advert_int {advert_s}
    virtual_ipaddress {{
        {address}/{bits} dev eth0
    }}
    track_script {{
        answers
    }}
}}
"""
CHECK = "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/80\n"


class Keepalived:
    """One instance, the address and a script that looks whether the server answers."""

    faults = frozenset({"crash", "cut", "mute", "server", "move"})
    phase_s = 1.5
    hold_s = 6.0

    def __init__(self, lab: Lab, advert_s: str) -> None:
        self.name = f"keepalived {advert_s} s"
        self._lab = lab
        self._advert_s = advert_s
        self._processes: list[subprocess.Popen[bytes]] = []

    def begin(self) -> None:
        """Write the configurations and start everything."""
        check = self._lab.folder / "answers"
        check.write_text(CHECK)
        check.chmod(0o755)
        for node in self._lab.nodes:
            self._configuration(node).write_text(
                CONFIGURATION.format(
                    name=node.name,
                    check=check,
                    priority=150 - 10 * node.number,
                    advert_s=self._advert_s,
                    address=VIP,
                    bits=NETMASK_BITS,
                )
            )
            self.restart(node)

    @staticmethod
    def _configuration(node: Node) -> Path:
        return node.folder / "keepalived.conf"

    def _spawn(self, node: Node, *words: str) -> None:
        with (node.folder / "daemons.out").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    node.enter(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(), cwd="/"
                )
            )

    def ready(self) -> bool:
        """keepalived and the server on every machine, the address on one."""
        running = all(node.up and processes_named(node, "keepalived") and server_of(node) for node in self._lab.nodes)
        return running and holder_of_the_address(self._lab) is not None

    def active(self) -> Node | None:
        """Who has the address."""
        return holder_of_the_address(self._lab)

    def restart(self, node: Node) -> None:
        """The server first, then keepalived."""
        own_folders(node, ())
        self.after(node)

    def move(self, source: Node, target: Node) -> None:
        """It knows no move; the planned hand-over is an orderly stop."""
        del target
        for pid in processes_named(source, "keepalived"):
            os.kill(pid, signal.SIGTERM)

    def after(self, node: Node) -> None:
        """Start what does not run."""
        if server_of(node) is None:
            self._spawn(node, *server_words("WEB"))
        if not processes_named(node, "keepalived"):
            self._spawn(node, "keepalived", "-n", "-l", "-f", str(self._configuration(node)))

    def end(self) -> None:
        """Nothing runs beside the machines."""

    def version(self) -> str:
        """As it says."""
        done = subprocess.run(["keepalived", "--version"], capture_output=True, text=True, check=False)
        return (done.stderr or done.stdout).splitlines()[0]
