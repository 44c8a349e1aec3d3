"""Giving a node up on the node itself (MSCS: forced cleanup), whatever its cluster thinks, and without any cluster.

Nothing but this machine is touched. What resources left running here is terminated first, as a start would do. Then:

======================== =============================================================================================
after this step          a crash leaves a machine that
======================== =============================================================================================
``mark``                 refuses everything but to be cleaned (``cleanup-unfinished``), as long as the mark is there
``node file``            the same
``birth certificate``    the same; and were a node file put back, no service would start without this one
each file and folder     the same, with less of the log, the keys, the database; nobody takes part with half of them
``mark removed``         is no node, and can become one
======================== =============================================================================================

So each step may be repeated, and a clean-up that was interrupted is finished by another one.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import queue
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clussvc.configdb.store import SqliteConfigStore
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.monitoring import EverythingTerminated, MonitorDied, MonitorReport, TerminateEverything
from clussvc.quorum.majority import is_majority
from clussvc.resources.monitor.host import MonitorHost
from clussvc.service.leftovers import monitor_folder, monitors_with_leftovers, note_empty
from clussvc.service.lifecycle import (
    earlier_monitors,
    end_monitors_of_earlier_life,
    read_birth,
    service_lock,
)
from clussvc.service.settings_file import (
    DEFAULT_DATA,
    DEFAULT_FILE,
    NodeFile,
    cleanup_mark,
    read_node_file,
    write_whole,
)

WAIT_S: Final = 10.0
"""How long monitors of a service that is gone may take to end by themselves."""
WAIT_S_MAX: Final = 86_400.0
TERMINATE_S: Final = 60.0
"""How long a monitor may take to terminate what was left. Each of its own steps takes a few seconds at most."""
LOOK_S: Final = 0.1
STOP_MS: Final = 5_000

BIRTH: Final = "birth.json"
KEPT: Final = re.compile(r"service\.log.*|lock")
"""The service's own log tells what has happened, and holds no secret. The lock holds nothing: were it removed, another
process could lock a new one while this clean-up still holds the old one."""
OWN: Final = re.compile(
    r"birth\.json|keys|log(-\d+)?|cluster\.db(-wal|-shm|-journal)?|run|boot|\.(birth\.json|boot)\.new"
)
"""What a node makes in its data folder. Whatever else lies there is somebody else's, and stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleaned:
    """What a clean-up did."""

    node: str
    """Its name; empty if nobody knows it any more, or if the machine was no node."""
    removed: tuple[Path, ...]
    remains: tuple[str, ...]
    """What of the node is left, here and elsewhere, in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be cleaned. It is written down first, since the files from which it comes are removed."""

    node: str
    data: Path
    socket: Path | None
    remains: tuple[str, ...]


def force_cleanup(
    path: Path,
    *,
    data: Path | None = None,
    name: str = "",
    wait_s: float = WAIT_S,
    reached: Callable[[str], None] = lambda step: None,
) -> Cleaned:
    """Remove all that makes this machine a node; safe to repeat, and to be interrupted at any point.

    ``path`` is the node file. ``data`` names the data folder if that file is missing or unreadable. ``name``: only if
    this is the node of that name. ``reached`` is told of each step that was taken.

    Raises ClusterError: ``service-runs``, ``another-node``, ``data-unknown``, ``resources-left`` (nothing was removed),
    ``cleanup-failed`` (what the system did not let us remove; to be repeated).
    """
    plan = _plan(path, data)
    own_name = plan.node if plan is not None else ""
    _refuse_another(name, own_name)
    if plan is None:
        return Cleaned(node="", removed=(), remains=())
    with _alone(plan):
        _end_resources(plan.data / "run", wait_s)
        reached("resources")
        removed = tuple(_remove(path, plan, reached))
    return Cleaned(node=plan.node, removed=removed, remains=(*plan.remains, *_left_here(plan)))


# --- what is to be cleaned --------------------------------------------------------------------------------------------


def _plan(path: Path, data: Path | None) -> _Plan | None:
    mark = cleanup_mark(path)
    if mark.exists():
        return _read_mark(mark)
    if not path.exists():
        if data is None and path == DEFAULT_FILE:
            data = DEFAULT_DATA
        if data is None or not _own_files(data):
            return None
        return _Plan(node="", data=data.resolve(), socket=None, remains=(_UNKNOWN,))
    try:
        file = read_node_file(path)
    except ClusterError as error:
        if data is None:
            raise ClusterError(
                "data-unknown",
                f"{error.message}. So it is not known where the data of this node is; name the folder:"
                f" clussvc forcecleanup --config {path} --data {DEFAULT_DATA}",
            ) from error
        return _Plan(node="", data=data.resolve(), socket=None, remains=(_UNKNOWN,))
    if data is not None and data.resolve() != file.data:
        raise ClusterError("data-unknown", f"{path} says that the data of this node is in {file.data}, not in {data}")
    return _Plan(node=file.node, data=file.data, socket=file.socket, remains=tuple(_elsewhere(file)))


def _read_mark(mark: Path) -> _Plan:
    try:
        noted = json.loads(mark.read_bytes())
        socket = noted["socket"]
        return _Plan(
            node=noted["node"],
            data=Path(noted["data"]),
            socket=Path(socket) if socket else None,
            remains=tuple(noted["remains"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(
            "data-unknown",
            f"{mark}, which notes what is being cleaned up, cannot be read ({error}). Remove it, and repeat this with"
            f" the data folder of the node: clussvc forcecleanup --data {DEFAULT_DATA}",
        ) from error


def _written(plan: _Plan) -> bytes:
    noted = {
        "node": plan.node,
        "data": str(plan.data),
        "socket": str(plan.socket) if plan.socket is not None else "",
        "remains": plan.remains,
    }
    return json.dumps(noted, indent=2).encode()


def _refuse_another(wanted: str, own: str) -> None:
    here = own or platform.node().split(".")[0]
    if wanted and wanted.casefold() != here.casefold():
        whose = f"this machine is node {own}" if own else f"this machine is {here}, and does not know of such a node"
        raise ClusterError(
            "another-node",
            f"{wanted} cannot be cleaned up from here: {whose}, and nobody but a node itself can reach its files. Give"
            f" 'cluster node /forcecleanup' on {wanted} itself; a cluster is rid of it by"
            f" 'cluster node {wanted} /evict'",
        )


def _own_files(data: Path) -> list[Path]:
    """What lies in the data folder and is a node's, the birth certificate first."""
    try:
        found = [entry for entry in data.iterdir() if OWN.fullmatch(entry.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ClusterError("cleanup-failed", f"cannot read {data}: {error.strerror}") from error
    return sorted(found, key=lambda entry: (entry.name != BIRTH, entry.name))


# --- nobody else, and nothing that runs -------------------------------------------------------------------------------


@contextlib.contextmanager
def _alone(plan: _Plan) -> Iterator[None]:
    if not plan.data.is_dir():
        # Where there is no data there is no service either.
        yield
        return
    try:
        with service_lock(plan.data):
            yield
    except ClusterError as error:
        if error.code != "already-running":
            raise
        raise ClusterError(
            "service-runs",
            f"the cluster service runs on this node and works with {plan.data}, or another clean-up does, so nothing"
            " was removed. Stop it first: 'cluster node /stop', or 'systemctl stop clussvc' if it does not answer",
        ) from error


def _end_resources(run: Path, wait_s: float) -> None:
    """The monitors of a service that is gone terminate what they run and end. Who does not is killed, and what it has
    left is terminated by another one in its place, as at any start of the service.

    Raises ClusterError(``resources-left``).
    """
    deadline_s = time.monotonic() + wait_s
    while earlier_monitors(run) and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
    end_monitors_of_earlier_life(run)
    for monitor in monitors_with_leftovers(run):
        if trouble := _terminated(monitor_folder(run, monitor)):
            raise ClusterError(
                "resources-left",
                f"resources that this node ran may still run on this machine ({trouble}), so nothing was removed. End"
                " them, or restart the machine, and repeat this",
            )
        note_empty(run, monitor)


def _terminated(folder: Path) -> str:
    """Terminate what a monitor with this folder has left; what could not be, in words."""
    reports: queue.SimpleQueue[MonitorReport] = queue.SimpleQueue()
    host = MonitorHost((sys.executable, "-m", "clussvc.service.monitor_main"), folder, reports.put)
    try:
        host.start()
        host.send(TerminateEverything(ticket=1, why="the node is cleaned up"))
        deadline_s = time.monotonic() + TERMINATE_S
        while True:
            match reports.get(timeout=max(deadline_s - time.monotonic(), 0)):
                case EverythingTerminated(left=left):
                    return f"what is left of {', '.join(left)} cannot be ended" if left else ""
                case MonitorDied(why=why):
                    return why
    except queue.Empty:
        return f"they were not terminated within {TERMINATE_S:g} s"
    except ClusterError as error:
        return error.message
    finally:
        host.stop(STOP_MS)


# --- the steps --------------------------------------------------------------------------------------------------------


def _remove(path: Path, plan: _Plan, reached: Callable[[str], None]) -> Iterator[Path]:
    """See the table of the module. Yields what was there and is gone."""
    mark = cleanup_mark(path)
    write_whole(mark, _written(plan), mode=0o600)
    reached("mark")
    if _gone(path):
        yield path
    reached("node file")
    # Its place may hold what a write left that was interrupted.
    _gone(path.with_name(f".{path.name}.new"))
    for entry in _own_files(plan.data):
        if _gone(entry):
            yield entry
        reached(entry.name)
    if plan.socket is not None and _is_socket(plan.socket) and _gone(plan.socket):
        yield plan.socket
    reached("socket")
    _gone(mark)
    reached("mark removed")


def _gone(path: Path) -> bool:
    """Remove a file or folder durably; False: it was not there."""
    try:
        if not os.path.lexists(path):
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        _sync(path.parent)
    except OSError as error:
        raise ClusterError(
            "cleanup-failed",
            f"cannot remove {path}: {error.strerror}. Mend that, and repeat this: no service starts here before",
        ) from error
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


# --- what remains -----------------------------------------------------------------------------------------------------

_UNKNOWN: Final = (
    "Of which cluster this machine was a node is not known. If its other nodes still count it as one of them, have one"
    " of them evict it: cluster node NAME /evict."
)


def _elsewhere(file: NodeFile) -> Iterator[str]:
    """What of the node is left elsewhere, as far as it knows."""
    config = _last_known(file)
    others = _others(file, config)
    if not others:
        yield f"The cluster {file.cluster} had no other node, so it is gone."
    elif config is not None and NodeId(file.node_id) not in config.nodes:
        yield f"{', '.join(others)} evicted {file.node} before."
    else:
        yield (
            f"{', '.join(others)} may still count {file.node} as a node of the cluster {file.cluster}. If so, have one"
            f" of them evict it: cluster node {file.node} /evict."
        )
        if config is not None:
            yield from _too_few(config, NodeId(file.node_id))
    if config is None:
        return
    if config.quorum.on_disk:
        yield (
            f"On the quorum disk {config.quorum.device} nothing was changed. The slot of {file.node} there keeps nobody"
            " from owning the disk" + ("." if others else "; another cluster takes the disk with /force.")
        )
    if config.witness.chosen:
        yield f"In the folder of the witness, {config.witness.path}, nothing was changed."


def _too_few(config: Config, own: NodeId) -> Iterator[str]:
    """Whether the others need this node's vote to do anything, as far as it knows."""
    others = config.voters - {own}
    if config.quorum.replicated and others and not is_majority(others, config.voters):
        names = ",".join(config.node_name(node) for node in sorted(others))
        yield (
            f"The vote of {config.node_name(own)} is gone, and without it {names} may be no majority. If so, and no"
            f" witness breaks the tie, the way on is by force: clussvc run /forcequorum:{names}."
        )


def _last_known(file: NodeFile) -> Config | None:
    """What the copy of the configuration says; None if there is none, or it cannot be read."""
    if not file.database.exists():
        return None
    with contextlib.suppress(ClusterError):
        store = SqliteConfigStore(file.database)
        try:
            stored = store.load()
        finally:
            store.close()
        return stored[1] if stored is not None else None
    return None


def _others(file: NodeFile, config: Config | None) -> list[str]:
    if config is not None:
        return [node.name for number, node in sorted(config.nodes.items()) if number != file.node_id]
    with contextlib.suppress(ClusterError):
        birth = read_birth(file)
        # A node that has taken part in the log may have met others since then.
        if not birth.log_made or len(birth.members) > 1:
            return [name for number, (name, _, _) in sorted(birth.members.items()) if number != file.node_id]
    return ["Its other nodes"]


def _left_here(plan: _Plan) -> Iterator[str]:
    if not plan.data.is_dir():
        return
    left = sorted(entry.name for entry in plan.data.iterdir() if entry.name != "lock")
    if left:
        yield f"In {plan.data} these are left: {', '.join(left)}."
