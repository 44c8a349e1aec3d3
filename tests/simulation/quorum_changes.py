"""Changes of the quorum in a simulated cluster: what an administrator gives, and the service does first."""

from __future__ import annotations

from collections.abc import Generator

from clussvc.global_update.update import SetQuorum, Update
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.reports import Report
from clussvc.quorum.disk_layout import DISK_BYTES_MIN, SECTOR_BYTES
from tests.simulation.switching_log import SwitchingLog
from tests.simulation.world import World

MAJORITY, RESERVATIONS, LEASES, LOCAL = "majority", "reservations", "leases", "local"
KINDS = (MAJORITY, RESERVATIONS, LEASES)


def prepared(world: World, kind: str, node: NodeId) -> SetQuorum:
    """Another quorum for the cluster, by what the service on that node has read; its disk is prepared."""
    log = world.log
    assert isinstance(log, SwitchingLog)
    machine = world.nodes.get(node)
    core = machine.core if machine is not None else None
    config = core.config if core is not None and core.config is not None else world.config
    generation = config.quorum.generation + 1
    if kind in (MAJORITY, LOCAL):
        wanted = QuorumKind.LOCAL if kind == LOCAL else QuorumKind.MAJORITY
        return SetQuorum(quorum=Quorum(kind=wanted, generation=generation), voters_version=config.voters_version)
    quorum = Quorum(
        kind=QuorumKind.DISK,
        device=f"/dev/simulated{len(log.disks)}",
        disk=f"{len(log.disks) + 100:016x}",
        sectors=2 * DISK_BYTES_MIN // SECTOR_BYTES,
        reservations=kind == RESERVATIONS,
        base_index=core.index if core is not None else 0,
        generation=generation,
    )
    log.prepare(quorum)
    return SetQuorum(quorum=quorum, voters_version=config.voters_version)


def change_quorum(world: World, kind: str, node: NodeId) -> Generator[Update, Report | None, None]:
    """The script of an administrator who asks that node for it."""
    yield prepared(world, kind, node)


def change(world: World, kind: str, *, on: str | None = None) -> Report | None:
    """Give the command and wait for its outcome."""
    machine = world.node(on) if on else world.nodes[world.leader or NodeId(1)]
    return world.do(prepared(world, kind, machine.id), on=machine.name)


def run_events(world: World, count: int) -> None:
    """Let so many things happen."""
    for _ in range(count):
        world.scheduler.step(until_us=world.scheduler.now_us + 10_000_000)
        world.events += 1
