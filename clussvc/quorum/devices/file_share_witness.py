"""The file share witness: a folder on a share with a register for each version of the voters, each written once.

```
PATH/clussvc-witness/cluster.json          whose witness this is; a second cluster is refused
PATH/clussvc-witness/TOKEN/                made when this witness was chosen; the configuration knows the token
PATH/clussvc-witness/TOKEN/decision-17     whose vote was dropped for version 17
```

A decision is written whole under a name of its own, synced, and then linked to its own name. ``link`` fails if the name
exists, on the server and whatever a client has in its cache, so the first one wins and stands for ever; a request that
takes effect late finds the name taken or takes it, and both are right (docs/decisions/0023). Nothing is renewed, and no
clock is read.

Everything happens in the folder that was opened once for a question, so a share that is mounted or unmounted in
between cannot make two folders look like one. The folder of the token is made when the witness is chosen, and never by
a node that is about to decide: an empty mount point has none.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.witness import Witness
from clussvc.quorum.devices.facts import file_system_of, mount_source_of
from clussvc.quorum.stand_in import Decision

FOLDER = "clussvc-witness"
OWNER = "cluster.json"
CONTENT_BYTES_MAX = 4_096
VOTERS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Who writes; names files that nobody else writes."""

    node: NodeId
    boot: int


class FileShareWitness:
    """One witness as this node sees it. Every method may block for as long as the share does."""

    def __init__(self, witness: Witness, cluster: str, writer: Writer) -> None:
        self._folder = Path(witness.path) / FOLDER
        self._token = witness.token
        self._cluster = cluster
        self._writer = writer
        self._written = 0

    def check(self) -> None:
        """See whether the witness can be reached and is the one that was chosen; raises ClusterError
        (``witness-lost``). What this node began to write and gave up is removed: nothing of it is on its way now."""
        with self._opened() as folder:
            for name in os.listdir(folder):
                if name.startswith(f".decision-{self._writer.node}-"):
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)

    def read(self, version: int) -> Decision | None:
        """What was decided for a version, if anything was; or ClusterError (``witness-lost``, ``witness-damaged``)."""
        with self._opened() as folder:
            return self._read(folder, version)

    def decide(self, wanted: Decision) -> Decision:
        """What is decided for that version from now on: this, or what was decided before. Raises as :meth:`read`;
        then nobody knows whether it was decided, or will be."""
        with self._opened() as folder:
            found = self._read(folder, wanted.version)
            if found is not None:
                return found
            self._written += 1
            name = f".decision-{self._writer.node}-{self._writer.boot}-{self._written}"
            _write(folder, name, _encoded(wanted))
            try:
                os.link(name, _name(wanted.version), src_dir_fd=folder, dst_dir_fd=folder)
            except FileExistsError:
                # Another node was first, or this one was and has not heard the answer.
                pass
            finally:
                os.unlink(name, dir_fd=folder)
            os.fsync(folder)
            found = self._read(folder, wanted.version)
            if found is None:
                raise ClusterError("witness-lost", f"{self._folder} does not show what was written there")
            return found

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder of the token, as a file descriptor."""
        try:
            folder = os.open(self._folder / self._token, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                told = _content(folder, "identity")
                if told is None or told.get("cluster") != self._cluster or told.get("token") != self._token:
                    raise ClusterError("witness-lost", f"{self._folder / self._token} belongs to something else")
                yield folder
            finally:
                os.close(folder)
        except FileNotFoundError as error:
            raise ClusterError(
                "witness-lost",
                f"there is no witness of this cluster in {self._folder.parent}; is the share mounted there?",
            ) from error
        except OSError as error:
            raise ClusterError(
                "witness-lost", f"{self._folder.parent} does not answer: {error.strerror or error}"
            ) from error

    def _read(self, folder: int, version: int) -> Decision | None:
        told = _content(folder, _name(version))
        if told is None:
            return None
        decision = _decision_of(told)
        if decision is None or decision.version != version:
            raise ClusterError(
                "witness-damaged",
                f"{self._folder / self._token / _name(version)} is no decision that this service wrote; nobody can"
                " break this tie. Have a majority of the nodes up, and choose the witness anew",
            )
        return decision


def prepare(
    path: str, token: str, *, cluster: str, name: str, nodes: Collection[str], writer: Writer, force: bool
) -> Witness:
    """Make the folder of a witness at ``path``, and try what it has to be able to do. ``nodes``: addresses and names of
    the cluster's nodes, none of which may serve the share. ``force``: also where it cannot be told who serves it, or
    where a node does. Raises ClusterError (``witness-refused``), with the reason."""
    where = Path(path)
    if not where.is_absolute():
        raise ClusterError("witness-refused", f"{path} is no absolute path; every node must find it under one name")
    if not where.is_dir():
        raise ClusterError("witness-refused", f"{path} is no folder on this node; mount the share first")
    if not force and (why := hosted_by(path, nodes)):
        raise ClusterError("witness-refused", f"{path} {why}; choose another share, or use /force if you know better")
    witness = Witness(path=path, token=token)
    try:
        folder = where / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        _claim(folder, cluster, name)
        (folder / token).mkdir(mode=0o700, exist_ok=True)
        opened = os.open(folder / token, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _content(opened, "identity") is None:
                _write(opened, "identity", _sealed({"cluster": cluster, "token": token}))
            _try_links(opened)
            os.fsync(opened)
        finally:
            os.close(opened)
    except ClusterError:
        raise
    except OSError as error:
        raise ClusterError(
            "witness-refused", f"{path} cannot be written as a witness must be: {error.strerror or error}"
        ) from error
    FileShareWitness(witness, cluster, writer).check()
    return witness


def _claim(folder: Path, cluster: str, name: str) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        told = _content(opened, OWNER)
        if told is None:
            _write(opened, OWNER, _sealed({"cluster": cluster, "name": name}))
            told = _content(opened, OWNER)
        if told is None or told.get("cluster") != cluster:
            other = told.get("name") if told else "another cluster"
            raise ClusterError(
                "witness-refused",
                f"{folder} is the witness of cluster {other}; choose another folder of the share for each cluster",
            )
    finally:
        os.close(opened)


def _try_links(folder: int) -> None:
    """A second link to one name must be refused, or two nodes could decide."""
    _write(folder, "trial", b"")
    try:
        os.link("trial", "trial-link", src_dir_fd=folder, dst_dir_fd=folder)
        try:
            os.link("trial", "trial-link", src_dir_fd=folder, dst_dir_fd=folder)
        except FileExistsError:
            return
        raise OSError(errno.EOPNOTSUPP, "a second file may take a name that exists")
    finally:
        for name in ("trial", "trial-link"):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)


def hosted_by(path: str, nodes: Collection[str]) -> str:
    """Why this is not a share that somebody else serves; empty if it is one."""
    system = file_system_of(path)
    source = mount_source_of(path)
    if not system.shared:
        kind = system.kind or "an unknown file system"
        return f"lies on a file system of this machine alone ({kind}), and a witness must outlive every node"
    server = server_of(source)
    if not server:
        return f"is mounted from {source!r}, of which nobody can tell who serves it"
    ours = {node.casefold() for node in nodes}
    addresses = _addresses_of(server)
    if found := sorted({server.casefold(), *addresses} & ours):
        return f"is served by a node of this cluster ({found[0]}), with which it would be lost"
    if found := sorted(filter(_is_own, addresses)):
        return f"is served by this node itself ({found[0]}), with which it would be lost"
    return ""


def server_of(source: str) -> str:
    """The server in what the kernel calls the source of a mount: ``SERVER:/PATH`` or ``//SERVER/PATH``."""
    if source.startswith("//"):
        return source[2:].partition("/")[0]
    servers, colon, _ = source.rpartition(":/")
    server = servers.partition(",")[0].partition("@")[0] if colon else ""
    if server.startswith("["):
        return server[1:].partition("]")[0]
    return server.partition(":")[0] if server.count(":") == 1 else server


def _addresses_of(server: str) -> set[str]:
    try:
        return {str(each[4][0]).casefold() for each in socket.getaddrinfo(server, None)}
    except OSError:
        return set()


def _is_own(address: str) -> bool:
    """Whether this machine has the address, as one of its nets or on a loopback."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


# --- files ------------------------------------------------------------------------------------------------------------


def _name(version: int) -> str:
    return f"decision-{version}"


def _write(folder: int, name: str, data: bytes) -> None:
    """A new file, whole and durable when this returns."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _content(folder: int, name: str) -> dict[str, Any] | None:
    """What stands in a file; None if there is none. What is damaged has nothing in it."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        data = os.read(file, CONTENT_BYTES_MAX)
    finally:
        os.close(file)
    text, _, seal = data.rpartition(b"\n")
    if seal != b"%08x" % zlib.crc32(text):
        return {}
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _sealed(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, sort_keys=True).encode()
    return text + b"\n%08x" % zlib.crc32(text)


def _encoded(decision: Decision) -> bytes:
    return _sealed({"version": decision.version, "voters": sorted(decision.voters), "dropped": decision.dropped})


def _decision_of(told: dict[str, Any]) -> Decision | None:
    version, voters, dropped = told.get("version"), told.get("voters"), told.get("dropped")
    if type(version) is not int or type(dropped) is not int or not isinstance(voters, list):
        return None
    if any(type(voter) is not int for voter in voters) or dropped not in voters or len(voters) % 2:
        return None
    if not 2 <= len(set(voters)) == len(voters) <= VOTERS_MAX:
        return None
    return Decision(version=version, voters=frozenset(map(NodeId, voters)), dropped=NodeId(dropped))
