"""The log of a cluster whose quorum changes while it runs: one log after the other, with one history.

What the assembly does in the service when the core says ChangeLog is done here in the same order: the beginning of the
new log is made durable, then that this machine takes part in it, then the new log is opened, and the old one is left
alone for a moment before it ends. What nodes of different generations say to each other passes through its real form.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from clussvc import codec
from clussvc.actions import AddLogMember, ChangeLog, ContestQuorum, Propose, RemoveLogMember, TellNews
from clussvc.events import PeerBehind, QuorumNews
from clussvc.global_update.raft.replicator import RaftSettings, beginning, decode_snapshot, encode_snapshot
from clussvc.global_update.update import Proposal
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.quorum.news import NewsPiece, NewsReader, Notice, pieces
from clussvc.quorum.stand_in import Decision
from tests.simulation.common_history import CommonHistory
from tests.simulation.disk_quorum_log import DiskQuorumLog, superblock
from tests.simulation.machine import Machine
from tests.simulation.raft_log import CLUSTER, RaftLog
from tests.simulation.shared_disk import SharedDisk

if TYPE_CHECKING:
    from tests.simulation.world import World

LINGERS_MS = 1_000
"""So long a log that was left goes on, so that others read of it what they lack."""
WORD_BYTES_MAX = 2 * 1024 * 1024
NOTICE_PAUSE_MS = 100
_HEAD = struct.Struct("<IB")
_LOG, _WORD = 0, 1


def log_frame(frame: bytes) -> bytes | None:
    """The frame of a log in what is sent between nodes; None: it is a word about the quorum."""
    _, form = _HEAD.unpack_from(frame)
    return frame[_HEAD.size :] if form == _LOG else None


class SwitchingLog:
    """See the module. Implements LogModel."""

    def __init__(self, world: World, quorum: Quorum, settings: RaftSettings) -> None:
        self.world = world
        self._settings = settings
        self.history = CommonHistory(world)
        self._first = quorum
        self._models: dict[int, RaftLog | DiskQuorumLog] = {}
        self.disks: dict[str, SharedDisk] = {}
        """Every disk that was prepared, by its identifier."""
        self._takes_part: dict[NodeId, Quorum] = {}
        """Durable: in the log of which quorum each machine takes part."""
        self._beginning: dict[NodeId, tuple[int, Config]] = {}
        """Durable: with what it began, if that log is on a disk."""
        self._lingering: dict[NodeId, int] = {}
        self._connected: set[tuple[NodeId, NodeId]] = set()
        self._readers: dict[NodeId, NewsReader] = {}
        self._noticed_us: dict[tuple[NodeId, NodeId], int] = {}
        self.changes = 0
        """How often a machine has changed its log."""
        if quorum.on_disk:
            self.prepare(quorum)
        self._model(quorum)

    # --- disks ------------------------------------------------------------------------------------------------------

    def prepare(self, quorum: Quorum) -> SharedDisk:
        """Make a disk the quorum disk of the cluster, before it is chosen."""
        disk = SharedDisk(self.world, superblock(quorum), reservations=quorum.reservations)
        self.disks[quorum.disk] = disk
        return disk

    @property
    def disk(self) -> SharedDisk | None:
        """The disk of the newest quorum that anybody has read of; None: it is none."""
        newest = max(self._takes_part.values(), key=lambda each: each.generation, default=self._first)
        return self.disks.get(newest.disk)

    def _model(self, quorum: Quorum) -> RaftLog | DiskQuorumLog:
        number = quorum.generation
        if number not in self._models:

            def send(sender: NodeId, receiver: NodeId, frame: bytes) -> None:
                self.world.network.send(sender, receiver, _HEAD.pack(number, _LOG) + frame)

            self._models[number] = (
                DiskQuorumLog(self.world, quorum, self.disks[quorum.disk], self.history, send)
                if quorum.on_disk
                else RaftLog(self.world, self._settings, self.history, number, send)
            )
        return self._models[number]

    def quorum_of(self, machine: Machine) -> Quorum:
        """The quorum in whose log the machine takes part; of a new one, that of the cluster when it joins."""
        newest = self.entries[-1][1] if self.entries else None
        known = newest is not None and newest.cluster and machine.id in newest.nodes
        return self._takes_part.setdefault(machine.id, newest.quorum if newest is not None and known else self._first)

    def begins_with(self, machine: Machine) -> tuple[int, Config] | None:
        """What a machine begins with whose database is of another generation than its log."""
        return self._beginning.get(machine.id) if self.quorum_of(machine).on_disk else None

    def _present(self, machine: Machine) -> RaftLog | DiskQuorumLog:
        return self._model(self.quorum_of(machine))

    # --- the port ---------------------------------------------------------------------------------------------------

    @property
    def entries(self) -> list[tuple[Proposal, Config | None, Report | None]]:
        """See LogModel."""
        return self.history.entries

    def boot(self, machine: Machine, *, members: frozenset[NodeId], joining: bool) -> None:
        """See LogModel."""
        self._readers[machine.id] = NewsReader()
        self._present(machine).boot(machine, members=members, joining=joining)

    def change(self, machine: Machine, action: ChangeLog) -> None:
        """Perform the action. Raises ClusterError or OSError when the new log cannot be begun."""
        former = self.quorum_of(machine)
        model = self._model(action.quorum)
        if isinstance(model, RaftLog):
            if action.beginning:
                snapshot = decode_snapshot(action.beginning, cluster_id=CLUSTER, source="the news")
            else:
                snapshot = beginning(
                    cluster_id=CLUSTER,
                    members=frozenset(map(int, action.config.voters)),
                    index=action.index,
                    image=codec.encode_config(action.config),
                )
            model.begin(machine, snapshot)
        else:
            folder = machine.disk.folder / f"log-{action.quorum.generation}"
            machine.disk.erase_folder(folder)
            machine.disk.write_synced(folder / "beginning", codec.encode_config(action.config))
            self._beginning[machine.id] = (action.index, action.config)
        self._takes_part[machine.id] = action.quorum
        self.changes += 1
        model.boot(machine, members=frozenset(action.config.nodes) | {machine.id}, joining=False)
        for other in self._peers_of(machine):
            model.link_changed(machine.id, other, True)
        self._notice(machine, self._peers_of(machine))
        self._lingering[machine.id] = former.generation
        generation = machine.generation

        def end() -> None:
            if machine.generation == generation and self._lingering.get(machine.id) == former.generation:
                del self._lingering[machine.id]
                self._models[former.generation].stop(machine)

        self.world.scheduler.later(LINGERS_MS, end)

    def stop(self, machine: Machine) -> None:
        """See LogModel."""
        for model in self._models.values():
            model.stop(machine)
        self._lingering.pop(machine.id, None)
        self._connected = {pair for pair in self._connected if pair[0] != machine.id}

    def erase(self, machine: Machine) -> None:
        """See LogModel."""
        for model in self._models.values():
            model.erase(machine)
        self._takes_part.pop(machine.id, None)
        self._beginning.pop(machine.id, None)

    def thawed(self, machine: Machine) -> None:
        """See LogModel."""
        for model in list(self._models.values()):
            model.thawed(machine)

    def network_changed(self) -> None:
        """See LogModel: the network itself tells what changed."""

    def leader(self) -> NodeId | None:
        """See LogModel."""
        # A machine that is about to join may be meant for a log that nobody has opened yet.
        begun = [each.generation for each in self._takes_part.values() if each.generation in self._models]
        return self._models[max(begun, default=self._first.generation)].leader()

    def propose(self, machine: Machine, action: Propose) -> None:
        """See LogModel."""
        self._present(machine).propose(machine, action)

    def set_timing(self, machine: Machine, timing: Timing) -> None:
        """See LogModel."""
        self._present(machine).set_timing(machine, timing)

    def contest(self, machine: Machine, action: ContestQuorum) -> None:
        """See LogModel."""
        self._present(machine).contest(machine, action)

    def give_back(self, machine: Machine) -> None:
        """See LogModel."""
        self._present(machine).give_back(machine)

    def forget_leader(self, machine: Machine, node: NodeId) -> None:
        """See LogModel."""
        self._present(machine).forget_leader(machine, node)

    def use_decision(self, machine: Machine, decision: Decision) -> None:
        """See LogModel."""
        self._present(machine).use_decision(machine, decision)

    def change_members(self, machine: Machine, action: AddLogMember | RemoveLogMember) -> None:
        """See LogModel."""
        self._present(machine).change_members(machine, action)

    # --- network ----------------------------------------------------------------------------------------------------

    def _peers_of(self, machine: Machine) -> list[NodeId]:
        return sorted(other for node, other in self._connected if node == machine.id)

    def link_changed(self, node: NodeId, other: NodeId, up: bool) -> None:
        """See LogModel."""
        machine = self.world.nodes[node]
        if up:
            self._connected.add((node, other))
        else:
            self._connected.discard((node, other))
            if node in self._readers:
                self._readers[node].forget(other)
        for model in self._at(machine):
            model.link_changed(node, other, up)
        if up and machine.awake:
            self._notice(machine, [other])

    def _at(self, machine: Machine) -> list[RaftLog | DiskQuorumLog]:
        """The log in which it takes part, and the one that it has just left."""
        lingers = self._lingering.get(machine.id)
        return [self._present(machine), *([self._models[lingers]] if lingers is not None else [])]

    def deliver(self, sender: NodeId, receiver: NodeId, frame: bytes) -> None:
        """See LogModel."""
        number, form = _HEAD.unpack_from(frame)
        body, machine = frame[_HEAD.size :], self.world.nodes[receiver]
        own = self.quorum_of(machine).generation
        if form == _WORD:
            self._heard(machine, sender, codec.decode_one_of(Notice | NewsPiece, body, WORD_BYTES_MAX))
            return
        if number in (own, self._lingering.get(receiver)):
            self._models[number].deliver(sender, receiver, body)
        if number < own and machine.awake:
            self.world.post(machine, PeerBehind(node=sender))
        elif number > own and machine.awake:
            self._notice(machine, [sender])

    def _say(self, machine: Machine, receiver: NodeId, word: Notice | NewsPiece) -> None:
        frame = _HEAD.pack(0, _WORD) + codec.encode_value(word, max_bytes=WORD_BYTES_MAX)
        self.world.network.send(machine.id, receiver, frame)

    def _notice(self, machine: Machine, receivers: list[NodeId]) -> None:
        now_us = self.world.scheduler.now_us
        for receiver in receivers:
            if now_us >= self._noticed_us.get((machine.id, receiver), 0):
                self._noticed_us[machine.id, receiver] = now_us + NOTICE_PAUSE_MS * 1000
                self._say(machine, receiver, Notice(generation=self.quorum_of(machine).generation))

    def _heard(self, machine: Machine, sender: NodeId, word: Notice | NewsPiece) -> None:
        if not machine.awake:
            return
        own = self.quorum_of(machine).generation
        if isinstance(word, Notice):
            if word.generation < own:
                self.world.post(machine, PeerBehind(node=sender))
            elif word.generation > own:
                self._notice(machine, [sender])
            return
        whole = self._readers[machine.id].take(sender, word)
        if whole is None or word.generation <= own:
            return
        image = decode_snapshot(whole, cluster_id=CLUSTER, source="the news").image if word.snapshot else whole
        config = self.history.config_at(word.index)
        if codec.decode_config(image) != config or config is None:
            raise ClusterError("malformed-configuration", f"n{sender} tells n{machine.id} of another state")
        self.world.post(machine, QuorumNews(index=word.index, config=config, beginning=whole if word.snapshot else b""))

    def tell_news(self, machine: Machine, action: TellNews) -> None:
        """Perform the action."""
        model, quorum = self._present(machine), self.quorum_of(machine)
        if isinstance(model, RaftLog):
            data = model.snapshot_of(machine)
            if data is None:
                return
            snapshot = decode_snapshot(data, cluster_id=CLUSTER, source="the node itself")
            data, index = encode_snapshot(snapshot), snapshot.applied
        else:
            data, index = codec.encode_config(action.config), action.index
        for piece in pieces(generation=quorum.generation, index=index, snapshot=isinstance(model, RaftLog), data=data):
            self._say(machine, action.node, piece)
