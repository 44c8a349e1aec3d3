"""The one small TOML file from which a node boots; everything else lives in the configuration database.

```toml
cluster = "PAYROLL"          # name of the cluster, for messages; the identifier decides
cluster_id = "c3f0..."
node = "NODE1"
node_id = 1
addresses = ["10.0.0.1"]     # one for each network that carries heartbeats
port = 3343                  # heartbeats (UDP) and streams (TCP)
admin_port = 3344            # remote administration (TCP, mutual TLS); 0 for none
data = "/var/lib/clussvc"
socket = "/run/clussvc/admin.sock"
parallel_starts = 16         # resources that one monitor starts or stops at the same time
self_fence = ["watchdog", "sysrq"]  # how to end this machine when resources cannot be terminated in time
quorum_device = "/dev/sdc"   # where this node finds the quorum disk, if not under the name that the cluster knows
```
"""

from __future__ import annotations

import ipaddress
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clussvc.model.errors import ClusterError

DEFAULT_FILE = Path("/etc/clussvc/node.toml")
DEFAULT_DATA = Path("/var/lib/clussvc")
DEFAULT_SOCKET = Path("/run/clussvc/admin.sock")
DEFAULT_PORT = 3343
DEFAULT_ADMIN_PORT = 3344
DEFAULT_PARALLEL_STARTS = 16
PARALLEL_STARTS_MAX = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFile:
    """The values of the file, checked."""

    cluster: str
    cluster_id: str
    node: str
    node_id: int
    addresses: tuple[str, ...]
    port: int
    admin_port: int
    data: Path
    socket: Path
    parallel_starts: int = DEFAULT_PARALLEL_STARTS
    """How many entry points one monitor has begin together, 1..1000; see ``resources.monitor.turns``."""
    quorum_device: str = ""
    """Where this node finds the quorum disk, if not under the name that the cluster knows."""
    self_fence: tuple[str, ...] = ()
    """How the node ends its machine; see ``clussvc.fencing.means``. The file may also hold one text, or "none"."""

    @property
    def keys(self) -> Path:
        """Folder of the certificates and keys."""
        return self.data / "keys"

    @property
    def database(self) -> Path:
        """The configuration database."""
        return self.data / "cluster.db"

    def log_folder(self, generation: int) -> Path:
        """Folder of the log of that generation of the quorum: journal and snapshot, or with what the node began to
        follow the log on a quorum disk."""
        return self.data / (f"log-{generation}" if generation else "log")

    @property
    def run(self) -> Path:
        """Folder where the monitors keep what they must clean up."""
        return self.data / "run"


def cleanup_mark(path: Path) -> Path:
    """Beside the node file: while this is there the node is being cleaned up, and nothing else is done with it."""
    return path.with_name(f"{path.name}.cleanup")


def refuse_half_cleaned(path: Path) -> None:
    """Raise ClusterError(``cleanup-unfinished``) if a clean-up of this node was begun and has not ended."""
    if cleanup_mark(path).exists():
        raise ClusterError(
            "cleanup-unfinished",
            "a clean-up of this node was begun, and what is left of the node is of no use any more. Finish it with"
            f" 'cluster node /forcecleanup' (or 'clussvc forcecleanup --config {path}'); then this machine can join a"
            " cluster",
        )


def read_node_file(path: Path) -> NodeFile:
    """Read and check the file.

    Raises ClusterError(``node-file-missing``, ``node-file-bad``) that names the file, the key and what is expected,
    and ``cleanup-unfinished``.
    """
    refuse_half_cleaned(path)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ClusterError(
            "node-file-missing",
            f"{path} does not exist: this machine is no member of a cluster. Form one with"
            " 'cluster NAME /create /ipaddr:ADDRESS', or join one with 'cluster /join:TOKEN'",
        ) from None
    except OSError as error:
        raise ClusterError("node-file-bad", f"cannot read {path}: {error.strerror}") from error
    try:
        values = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError("node-file-bad", f"{path} is not valid TOML: {error}") from error
    return _check(path, values)


def _check(path: Path, values: dict[str, Any]) -> NodeFile:
    def get(key: str, kind: type, default: object = None) -> Any:
        value = values.pop(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ClusterError("node-file-bad", f"{path}: {key} must be a {kind.__name__}, not {value!r}")
        return value

    addresses = get("addresses", list)
    try:
        checked = tuple(str(ipaddress.ip_address(address)) for address in addresses)
    except ValueError as error:
        raise ClusterError("node-file-bad", f"{path}: addresses: {error}") from error
    file = NodeFile(
        cluster=get("cluster", str),
        cluster_id=get("cluster_id", str),
        node=get("node", str),
        node_id=get("node_id", int),
        addresses=checked,
        port=get("port", int, DEFAULT_PORT),
        admin_port=get("admin_port", int, DEFAULT_ADMIN_PORT),
        data=Path(get("data", str, str(DEFAULT_DATA))),
        socket=Path(get("socket", str, str(DEFAULT_SOCKET))),
        parallel_starts=get("parallel_starts", int, DEFAULT_PARALLEL_STARTS),
        self_fence=_texts(path, "self_fence", values.pop("self_fence", [])),
        quorum_device=get("quorum_device", str, ""),
    )
    if values:
        raise ClusterError("node-file-bad", f"{path}: unknown key {', '.join(sorted(values))}; remove it")
    if not file.addresses:
        raise ClusterError("node-file-bad", f"{path}: addresses is empty; name at least one address of this machine")
    if file.node_id < 1:
        raise ClusterError("node-file-bad", f"{path}: node_id is {file.node_id}; node numbers start at 1")
    if not 1 <= file.parallel_starts <= PARALLEL_STARTS_MAX:
        raise ClusterError(
            "node-file-bad",
            f"{path}: parallel_starts is {file.parallel_starts}; it must lie in 1..{PARALLEL_STARTS_MAX}",
        )
    for key, port, least in (("port", file.port, 1), ("admin_port", file.admin_port, 0)):
        if not least <= port <= 65_535:
            raise ClusterError("node-file-bad", f"{path}: {key} is {port}; it must lie in {least}..65535")
    return file


def _texts(path: Path, key: str, value: object) -> tuple[str, ...]:
    """A list of texts, or a single one."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise ClusterError("node-file-bad", f"{path}: {key} must be a list of texts, not {value!r}")
    return tuple(each for each in texts if each != "none")


def write_node_file(path: Path, file: NodeFile) -> None:
    """Write the file whole or not at all, readable by its owner."""
    lines = [
        f"cluster = {json.dumps(file.cluster)}",
        f"cluster_id = {json.dumps(file.cluster_id)}",
        f"node = {json.dumps(file.node)}",
        f"node_id = {file.node_id}",
        f"addresses = {json.dumps(list(file.addresses))}",
        f"port = {file.port}",
        f"admin_port = {file.admin_port}",
        f"data = {json.dumps(str(file.data))}",
        f"socket = {json.dumps(str(file.socket))}",
        f"parallel_starts = {file.parallel_starts}",
        f"self_fence = {json.dumps(list(file.self_fence))}",
        *([f"quorum_device = {json.dumps(file.quorum_device)}"] if file.quorum_device else []),
    ]
    write_whole(path, ("\n".join(lines) + "\n").encode(), mode=0o600)


def write_whole(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file durably: a new file, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(new, path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise ClusterError("write-failed", f"cannot write {path}: {error.strerror}") from error
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
