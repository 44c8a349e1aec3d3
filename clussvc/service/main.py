"""The program ``clussvc``: run the service, create a cluster, join one, give a node up."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clussvc.model.errors import ClusterError
from clussvc.model.quorum import QuorumKind
from clussvc.service.settings_file import (
    DEFAULT_ADMIN_PORT,
    DEFAULT_DATA,
    DEFAULT_FILE,
    DEFAULT_PORT,
    DEFAULT_SOCKET,
    NodeFile,
    read_node_file,
)
from clussvc.service.switches import Switches, spelled_out

if TYPE_CHECKING:
    from clussvc.service.lifecycle import Birth

LEVELS = {"0": "critical", "1": "error", "2": "warning", "3": "debug"}
"""The numbers of MSCS: nothing, errors, warnings as well, everything."""
BROKEN_INVARIANT = 70
"""Exit code of a service that ended itself (EX_SOFTWARE of sysexits)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done or stopped in order, 1 an error that was explained, 2 bad arguments, 70 a broken invariant."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        options = _parser().parse_args(spelled_out(words) if words[:1] == ["run"] else words)
        return int(options.run(options))
    except ClusterError as error:
        print(f"clussvc: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clussvc", description="The cluster service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the service of this node in the foreground")
    run.add_argument("--config", type=Path, default=DEFAULT_FILE, help=f"node file (default {DEFAULT_FILE})")
    run.add_argument("--loglevel", default="info", choices=(*LEVELS, *LEVELS.values()), help="0 to 3, or a word")
    run.add_argument("--debug", action="store_true", help="the same as --loglevel debug")
    for name, does in (
        ("fixquorum", "show what this node has stored, and take no part in the cluster"),
        ("noquorumlogging", "as fixquorum, and say what can be read of the log, which is not written to"),
        ("resetquorumlog", "make a damaged log on the quorum disk anew from what this node has stored"),
        ("nogroupinfoevtlogging", "log nothing when groups come online or go offline"),
        ("norepevtlogging", "changes nothing: no node sends its service log to others"),
    ):
        run.add_argument(f"--{name}", action="store_true", help=does)
    run.add_argument(
        "--forcequorum",
        default="",
        metavar="NODE,NODE,...",
        help="go on with these nodes alone, though they are no majority; start each of them with the same list, and no"
        " other node",
    )
    run.set_defaults(run=_run)

    create = commands.add_parser("create", help="make this machine the first node of a new cluster")
    create.add_argument("--cluster", required=True, help="name of the cluster")
    create.add_argument("--profile", default="lan", help="timing profile: lan, fast, wan or loopback")
    create.add_argument(
        "--quorum",
        default="auto",
        metavar="QUORUM",
        help="majority, local, or the place of a quorum disk (a device, a file on a share, iscsi://HOST/TARGET/LUN, or"
        " TYPE://ARGUMENT of a quorum-capable type); by default the smallest shared disk over 50 MB that is free, else"
        " local",
    )
    create.add_argument("--max-log-size", type=int, default=0, metavar="KB", help="of a quorum disk")
    create.add_argument("--force", action="store_true", help="overwrite what lies on the quorum disk")
    create.set_defaults(run=_create)

    join = commands.add_parser("join", help="make this machine a node of an existing cluster")
    join.add_argument("token", help="one-time token from 'cluster /addnodes:NAME'")
    join.set_defaults(run=_join)

    clean = commands.add_parser("forcecleanup", help="make this machine no node any more, whatever its cluster thinks")
    clean.add_argument("--config", type=Path, default=DEFAULT_FILE)
    clean.add_argument("--data", type=Path, help="the data folder, if the node file is missing or cannot be read")
    clean.add_argument("--node", default="", help="do it only if this machine is that node")
    clean.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="how long resource monitors of a service that is gone may take to end by themselves",
    )
    clean.set_defaults(run=_force_cleanup)

    for command in (create, join):
        command.add_argument("--node", default=platform.node().split(".")[0], help="name of this node")
        command.add_argument(
            "--address", action="append", required=True, help="address of this machine; once for each network"
        )
        command.add_argument("--port", type=int, default=DEFAULT_PORT)
        command.add_argument("--admin-port", type=int, default=DEFAULT_ADMIN_PORT)
        command.add_argument("--config", type=Path, default=DEFAULT_FILE)
        command.add_argument("--data", type=Path, default=DEFAULT_DATA)
        command.add_argument("--socket", type=Path, default=DEFAULT_SOCKET)
        command.add_argument(
            "--self-fence",
            action="append",
            default=[],
            metavar="MEANS",
            help="how to end this machine when resources cannot be terminated in time: sysrq,"
            " watchdog[:DEVICE[:SECONDS]] or a command; may be given several times",
        )
    return parser


def _run(options: argparse.Namespace) -> int:
    from clussvc.eventlog.log import configure
    from clussvc.service.assembly import Node
    from clussvc.service.lifecycle import end_monitors_of_earlier_life, read_birth, service_lock

    file = read_node_file(options.config)
    read_birth(file)
    level = "debug" if options.debug else LEVELS.get(options.loglevel, options.loglevel)
    switches = Switches(
        fixquorum=options.fixquorum,
        noquorumlogging=options.noquorumlogging,
        resetquorumlog=options.resetquorumlog,
        forcequorum=tuple(filter(None, (name.strip() for name in options.forcequorum.split(",")))),
        nogroupinfoevtlogging=options.nogroupinfoevtlogging,
        norepevtlogging=options.norepevtlogging,
    )
    switches.validate()
    threading.excepthook = _die_with_thread
    with service_lock(file.data):
        # Between the first look and the lock the node may have been cleaned up, and have become another one.
        file = read_node_file(options.config)
        birth = read_birth(file)
        events = configure(file.data / "service.log", level=level, fields={"cluster": file.cluster, "node": file.node})
        try:
            import structlog

            log = structlog.get_logger()
            for why in switches.without_effect:
                log.info("service.switch", because=why)
            ended = end_monitors_of_earlier_life(file.run)
            if ended:
                log.warning("service.leftovers", monitors=ended)
            try:
                birth, lost_log = _prepared(file, birth, switches)
                node = Node(file, birth, switches, lost_log)
                why = node.serve()
            except ClusterError as error:
                log.critical("service.refused", because=error.message, code=error.code)
                raise
            except Exception:
                # The loop's own thread met a broken invariant. What could be ended in order has been ended.
                log.critical("service.dies", because="the loop ended with an exception", exc_info=True)
                return BROKEN_INVARIANT
            log.info("service.stopped", because=node.evicted_because or why)
        finally:
            events.close()
    if node.evicted_because:
        print(f"clussvc: {node.evicted_because}, and cleans itself up", file=sys.stderr)
        _clean_up(options.config)
    return 0


def _prepared(file: NodeFile, birth: Birth, switches: Switches) -> tuple[Birth, str]:
    """What switches do before the service itself starts; and why its log cannot be used, if it is to start without."""
    from clussvc.service.forced_start import force_quorum, reset_log

    lost_log = ""
    if switches.resetquorumlog:
        birth, lost_log = reset_log(file, birth)
    if switches.forcequorum:
        birth = force_quorum(file, birth, switches.forcequorum)
    return birth, lost_log


def _die_with_thread(ended: threading.ExceptHookArgs) -> None:
    """A thread of the service died of an exception: the process must not live on without it.

    Half a service (no heartbeats, or no streams) would look alive to itself. The others take over from a dead one.
    """
    import structlog

    name = ended.thread.name if ended.thread else "a thread"
    trace = "".join(traceback.format_exception(ended.exc_type, ended.exc_value, ended.exc_traceback))
    structlog.get_logger().critical("service.dies", because=f"{name} ended with an exception", exception=trace)
    os._exit(BROKEN_INVARIANT)


def _node_file(options: argparse.Namespace, *, cluster: str, cluster_id: str, node_id: int) -> NodeFile:
    import ipaddress

    try:
        addresses = tuple(str(ipaddress.ip_address(address)) for address in options.address)
    except ValueError as error:
        raise ClusterError("bad-address", f"--address: {error}") from error
    return NodeFile(
        cluster=cluster,
        cluster_id=cluster_id,
        node=options.node,
        node_id=node_id,
        addresses=addresses,
        port=options.port,
        admin_port=options.admin_port,
        data=options.data.resolve(),
        socket=options.socket.resolve(),
        self_fence=tuple(options.self_fence),
    )


def _create(options: argparse.Namespace) -> int:
    from clussvc.quorum.devices import examine
    from clussvc.service.lifecycle import create_cluster, new_cluster_id
    from clussvc.service.quorum_choice import Wanted

    file = _node_file(options, cluster=options.cluster, cluster_id=new_cluster_id(), node_id=1)
    wanted = Wanted(place=options.quorum, max_log_kb=options.max_log_size, force=options.force)
    quorum = create_cluster(options.config, file, profile=options.profile, wanted=wanted)
    where = f" on {quorum.device}" if quorum.on_disk else ""
    print(f"Cluster {file.cluster} is created with a {quorum.kind.value}{where}; {file.node} is its first node.")
    if quorum.on_disk:
        for hint in examine(quorum.device).hints:
            print(f"About the quorum disk: {hint}.")
    if quorum.kind is QuorumKind.LOCAL:
        print("No other node can join before the quorum is changed: cluster /quorum:majority")
    print("Start the service of this node with:")
    print(f"  clussvc run --config {options.config}")
    return 0


def _join(options: argparse.Namespace) -> int:
    from clussvc.service.lifecycle import join_cluster

    file = _node_file(options, cluster="", cluster_id="", node_id=1)
    joined = join_cluster(options.config, options.token, file)
    print(
        f"{joined.node} is admitted to the cluster {joined.cluster} as node {joined.node_id}. Start its service with:"
    )
    print(f"  clussvc run --config {options.config}")
    return 0


def _force_cleanup(options: argparse.Namespace) -> int:
    from clussvc.service.cleanup import WAIT_S_MAX

    wait_s: float | None = options.wait
    if wait_s is not None and not 0 <= wait_s <= WAIT_S_MAX:
        raise ClusterError("bad-argument", f"--wait is {wait_s:g}; it must lie in 0..{WAIT_S_MAX:g}")
    data = options.data.resolve() if options.data is not None else None
    _clean_up(options.config, data=data, name=options.node, wait_s=wait_s)
    return 0


def _clean_up(config: Path, *, data: Path | None = None, name: str = "", wait_s: float | None = None) -> None:
    from clussvc.service.cleanup import WAIT_S, force_cleanup

    wait_s = WAIT_S if wait_s is None else wait_s
    cleaned = force_cleanup(config.absolute(), data=data, name=name, wait_s=wait_s)
    if not cleaned.removed:
        print("Nothing of a cluster was found on this machine, and nothing was removed.")
    for path in cleaned.removed:
        print(f"Removed {path}")
    for sentence in cleaned.remains:
        print(sentence)
    if cleaned.removed:
        print(f"{cleaned.node or 'This machine'} is no node any more, and can be made one of any cluster.")


if __name__ == "__main__":
    sys.exit(main())
