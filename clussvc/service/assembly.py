"""Puts one node together: which adapter feeds the core with what, and which one performs which action."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from clussvc import codec
from clussvc.actions import (
    AddLogMember,
    ChangeLog,
    CommandMonitor,
    ContestQuorum,
    FenceNode,
    FenceSelf,
    ForgetLeader,
    GiveQuorumBack,
    LeaveWill,
    Note,
    PeerAddress,
    PingNetworks,
    Propose,
    RemoveLogMember,
    SetPeers,
    StartMonitor,
    StopMonitor,
    TellNews,
    UseDecision,
    UseQuorum,
    UseTiming,
    Vouch,
    WatchWitness,
)
from clussvc.admin.server import AdminServer, TlsSettings
from clussvc.comms.authority import Authority, KeyPair, client_context, fingerprint, server_context
from clussvc.comms.heartbeats import PHASES, HeartbeatNetwork
from clussvc.comms.interfaces import InterfaceWatcher
from clussvc.comms.stream_tcp import StreamCallbacks, StreamTransport
from clussvc.comms.token import JoinToken, make_token, new_secret, secret_sha256
from clussvc.comms.wire import Kind
from clussvc.configdb.store import SqliteConfigStore
from clussvc.eventlog.log import record_to_log
from clussvc.events import (
    Committed,
    ConfigInstalled,
    InterfacesSeen,
    LeadershipChanged,
    MonitorSaid,
    OfLog,
    ProposalFailed,
    ProposalFate,
)
from clussvc.fencing.agents import AgentMetadata, read_metadata
from clussvc.global_update.disk.disk_thread import DiskLogThread
from clussvc.global_update.raft.replicator import (
    SNAPSHOT_NAME,
    DiskStorage,
    RaftSettings,
    RaftThread,
    begin,
    beginning,
    decode_snapshot,
    encode_snapshot,
)
from clussvc.global_update.update import AddJoinToken
from clussvc.membership.timing_advice import TimingMeasured
from clussvc.membership.witness_watch import AskWitness
from clussvc.model.config import Config, FenceDevice
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId, RequestId, ResourceId
from clussvc.model.monitoring import MonitorDied, MonitorReport
from clussvc.model.quorum import Quorum
from clussvc.model.records import HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.settings import PROFILES, disk_timing
from clussvc.model.states import NodePhase
from clussvc.native import Heartbeats
from clussvc.node import NodeCore
from clussvc.ports import Outcome, OutcomeKind
from clussvc.quorum.devices import Writer
from clussvc.resources.monitor.host import MonitorHost
from clussvc.resources.monitors import DEFAULT_MONITOR
from clussvc.service.balancers import Balancers
from clussvc.service.engines import DiskEngine, Engine, LostLogEngine, NoEngine, RaftEngine
from clussvc.service.fences import Fences
from clussvc.service.joining import Doorkeeper
from clussvc.service.last_will import write_will
from clussvc.service.leftovers import monitor_folder, monitors_with_leftovers, note_empty, note_occupied
from clussvc.service.lifecycle import BEGINNING_NAME, Birth, next_boot, read_beginning, write_birth
from clussvc.service.log_diagnosis import diagnose_disk, diagnose_journal
from clussvc.service.logs import LogMakers, Logs
from clussvc.service.monitor_hosts import MonitorHosts
from clussvc.service.priority import REALTIME_BELOW_MS, change_priority, take_priority
from clussvc.service.quorum_choice import Wanted, choose_on_running, opener
from clussvc.service.replicated_state import ReplicatedState
from clussvc.service.runtime import Inbox, Runtime, SystemClock
from clussvc.service.settings_file import NodeFile
from clussvc.service.switches import GROUP_EVENTS, Switches
from clussvc.service.witness import WitnessKeeper, prepare_in_time

MONITOR_STOP_MS = 5_000
JOIN_CONTACTS_MAX = 8
"""How many members are named in a token."""

log = structlog.get_logger()


class Node(Runtime):
    """One node, whole: the runtime with all its adapters."""

    def __init__(self, file: NodeFile, birth: Birth, switches: Switches | None = None, lost_log: str = "") -> None:
        """Open everything; nothing is sent or started yet. ``lost_log``: why this node's part of the log cannot be
        used, if it is to wait for another one. Raises ClusterError that names what is wrong."""
        self._lost_log = lost_log
        self._file = file
        self._switches = switches or Switches()
        self._clock_ = SystemClock()
        self._birth = birth
        self._birth_lock = threading.Lock()
        inbox = Inbox()
        store = SqliteConfigStore(file.database)
        stored = store.load()
        own = stored[1].nodes.get(NodeId(file.node_id)) if stored else None
        boot = self._boot = next_boot(file, own.boot if own else 0)
        if stored is None or stored[1].quorum.generation != birth.quorum.generation:
            # The database is a copy: of the log before, or of one that this node has not begun to take part in.
            stored = read_beginning(file, birth.quorum)
        config: Config | None = stored[1] if stored else None
        quorum = config.quorum if config else birth.quorum
        timing = config.timing if config else quorum.timing_of(birth.profile)
        core = NodeCore(
            node=NodeId(file.node_id),
            boot=boot,
            timing=timing,
            peers=_first_peers(birth, config, file.node_id),
            index=stored[0] if stored else 0,
            config=config,
            now_ms=self._clock_.now_ms(),
            quorum=quorum,
            found=(RequestId(file.cluster_id), birth.found) if birth.found else None,
            leftovers=monitors_with_leftovers(file.run),
        )
        super().__init__(
            core=core,
            inbox=inbox,
            clock=self._clock_,
            store=store,
            log_record=self._log_entry,
            take_heartbeats=lambda: self._heartbeats.take(),
        )
        self._authority = Authority(
            cluster_id=file.cluster_id,
            pair=KeyPair(certificate=_read(file.keys / "ca.pem"), key=_read(file.keys / "ca.key")),
        )
        self._monitors = MonitorHosts(self._make_monitor, self._said, stop_ms=MONITOR_STOP_MS)
        self._watched: tuple[object, ...] = ()
        self._has_lease_to_lose = False
        self._will = b""
        self._will_goes_to: tuple[tuple[str, int], ...] = ()
        self._shortcomings: tuple[str, ...] = ()
        self.evicted_because = ""
        """Who says that the cluster has evicted this node; empty: nobody. Then what makes it a node is of no use."""
        self._peer_addresses: dict[NodeId, tuple[tuple[str, int], ...]] = {}
        self._timing = timing
        self._fences = Fences(file.self_fence, self._clock_, inbox.put)
        self._witness_writer = Writer(node=NodeId(file.node_id), boot=boot)
        self._witness = WitnessKeeper(file.cluster_id, self._witness_writer, inbox.put)
        self._open_network(boot)
        self._logs = Logs(
            self._open_first_log(stored, quorum),
            quorum,
            cluster_id=file.cluster_id,
            makers=LogMakers(begin=self._begin_log, discard=self._discard_log, snapshot=self._snapshot_of_log),
            send=lambda node, kind, payload: _ignore(self._streams.send(node, kind, payload)),
            tell=inbox.put,
            die=self.die,
        )
        self._open_administration()
        self.performs(
            {
                SetPeers: self._set_peers,
                PingNetworks: lambda action: self._interfaces.ping(action.targets),
                Vouch: self._vouch,
                UseTiming: self._use_timing,
                UseQuorum: lambda action: self._logs.use_quorum(action.quorum),
                ChangeLog: self._logs.change,
                TellNews: self._logs.tell_news,
                LeaveWill: self._leave_will,
                ForgetLeader: lambda action: self._logs.forget_leader(int(action.node)),
                ContestQuorum: self._logs.contest,
                GiveQuorumBack: lambda action: self._logs.give_back(),
                Propose: self._propose,
                AddLogMember: self._change_log_members,
                RemoveLogMember: self._change_log_members,
                AskWitness: self._witness.ask,
                WatchWitness: lambda action: self._witness.watch(action.witness),
                UseDecision: self._logs.use_decision,
                StartMonitor: self._start_monitor,
                StopMonitor: self._stop_monitor,
                CommandMonitor: self._command_monitor,
                Note: self._note,
                FenceSelf: lambda action: self._fences.fence_self(action.why),
                FenceNode: self._fence_node,
            }
        )

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open_network(self, boot: int) -> None:
        file = self._file
        listen = tuple((address, file.port) for address in file.addresses)
        tls = {
            "certificate": str(file.keys / "node.pem"),
            "key": str(file.keys / "node.key"),
            "authority": str(file.keys / "ca.pem"),
        }
        heartbeat_key = _read(file.keys / "heartbeat.key")
        server_tls, client_tls = _tls(tls)
        doorkeeper = Doorkeeper(access=self, authority=self._authority, heartbeat_key=heartbeat_key, clock=self._clock_)

        async def on_join(request: bytes) -> bytes:
            return await asyncio.to_thread(doorkeeper.answer, request)

        self._balancers = Balancers(self, file.run, heartbeat_key)
        self._native = Heartbeats(file.node_id, boot, heartbeat_key)
        self._heartbeats = HeartbeatNetwork(
            native=self._native, cluster_id=file.cluster_id, listen=listen, on_news=self._inbox.nudge
        )
        self._interfaces = InterfaceWatcher(
            addresses=file.addresses,
            ages=lambda: self._heartbeats.ages(self._clock_.now_ms()),
            tell=self._see_interfaces,
            lost_ms=self._timing.lease_ms,
        )
        self._streams = StreamTransport(
            node_id=file.node_id,
            cluster_id=file.cluster_id,
            listen=listen,
            server_tls=server_tls,
            client_tls=client_tls,
            authority=self._authority.pair.certificate,
            callbacks=StreamCallbacks(
                on_message=lambda sender, kind, payload: self._logs.receive(sender, kind, payload),
                on_connected=lambda node: self._logs.peer_connected(node),
                on_disconnected=lambda node: self._logs.peer_disconnected(node),
                on_join=on_join,
                is_evicted=self._has_evicted,
                on_evicted=lambda node: self._evicted_according_to(f"node {node}"),
            ),
        )

    def _open_first_log(self, stored: tuple[int, Config] | None, quorum: Quorum) -> Engine:
        """The log in which this node took part when it ended last."""
        birth = self._birth
        if self._switches.watches_only:
            return self._no_engine(quorum, stored)
        if self._lost_log:
            return LostLogEngine(stored[0] if stored else 0, self._lost_log)
        if quorum.on_disk:
            engine = self._open_disk_log(quorum, stored, reset_log=self._switches.resetquorumlog)
        else:
            members = frozenset(birth.members)
            engine = self._open_raft(quorum, members, first_boot=not birth.log_made, joining=birth.joining)
        if not birth.log_made:
            self._change_birth(replace(birth, log_made=True))
        return engine

    def _no_engine(self, quorum: Quorum, stored: tuple[int, Config] | None) -> Engine:
        file = self._file
        index, config = stored or (0, None)
        diagnosis = ""
        if self._switches.noquorumlogging and quorum.on_disk:
            diagnosis = diagnose_disk(opener(file, quorum), quorum, file.cluster_id, config)
        elif self._switches.noquorumlogging:
            diagnosis = diagnose_journal(file.log_folder(quorum.generation), file.cluster_id, file.node_id)
        return NoEngine(index, self._switches.watches_only, diagnosis)

    def _begin_log(self, action: ChangeLog) -> Engine:
        """Runs on a thread of its own: make the beginning of another log durable, then that this node takes part in it;
        then open it. After a crash before that the node finds the change again in the log that it has left."""
        file, quorum = self._file, action.quorum
        folder = file.log_folder(quorum.generation)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)
        snapshot = (
            decode_snapshot(action.beginning, cluster_id=file.cluster_id, source="from another node")
            if action.beginning
            else beginning(
                cluster_id=file.cluster_id,
                members=frozenset(map(int, action.config.voters)),
                index=action.index,
                image=codec.encode_config(action.config),
            )
        )
        if quorum.on_disk:
            DiskStorage().replace(folder / BEGINNING_NAME, encode_snapshot(snapshot))
            engine = self._open_disk_log(quorum, (action.index, action.config))
        else:
            members, begun = begin(folder, DiskStorage(), snapshot, node_id=file.node_id)
            engine = self._open_raft(quorum, members, first_boot=True, joining=not begun, begun=begun)
        with self._birth_lock:
            self._change_birth(replace(self._birth, quorum=quorum, log_made=True))
        self._lost_log = ""
        return engine

    def _discard_log(self, generation: int) -> None:
        shutil.rmtree(self._file.log_folder(generation), ignore_errors=True)

    def _snapshot_of_log(self, generation: int) -> bytes | None:
        return DiskStorage().read(self._file.log_folder(generation) / SNAPSHOT_NAME)

    def _open_raft(
        self, quorum: Quorum, members: frozenset[int], *, first_boot: bool, joining: bool, begun: bool = False
    ) -> Engine:
        file, timing, generation = self._file, self._timing, quorum.generation
        settings = RaftSettings(heartbeat_ms=timing.raft_heartbeat_ms, election_timeout_ms=timing.raft_election_ms)
        folder = file.log_folder(generation)
        folder.mkdir(mode=0o700, exist_ok=True)

        def leader_changed(leader: int | None, leads: bool, members: frozenset[int]) -> None:
            self._leader_changed(generation, leader, leads, members)

        raft = RaftThread(
            node_id=file.node_id,
            cluster_id=file.cluster_id,
            members=members,
            folder=folder,
            first_boot=first_boot,
            joining=joining,
            begun=begun,
            state_machine=ReplicatedState(self._inbox.put, generation=generation),
            settings=settings,
            send=lambda node, frame: self._logs.send_frame(generation, Kind.RAFT, node, frame),
            on_fatal=self._log_failed,
            on_leader_changed=lambda leader, leads: leader_changed(leader, leads, raft.members),
        )
        return RaftEngine(raft, leader_changed)

    def _open_disk_log(self, quorum: Quorum, stored: tuple[int, Config] | None, *, reset_log: bool = False) -> Engine:
        file, generation = self._file, quorum.generation
        index, config = stored or (0, None)
        timing = disk_timing(PROFILES[self._timing.profile], quorum.hold_ms)
        disk = DiskLogThread(
            node_id=file.node_id,
            cluster_id=file.cluster_id,
            boot=self._boot,
            quorum=quorum,
            timing=timing,
            open_device=opener(file, quorum),
            state_machine=ReplicatedState(self._inbox.put, config, generation=generation),
            index=index,
            send=lambda node, frame: self._logs.send_frame(generation, Kind.DISK_LOG, node, frame),
            tell=lambda event: self._inbox.put(OfLog(generation=generation, event=event)),
            on_leader_changed=lambda leader, leads: self._leader_changed(generation, leader, leads, frozenset()),
            on_fatal=self._log_failed,
            reset_log=reset_log,
        )
        return DiskEngine(disk, quorum, self._timing)

    def _change_birth(self, birth: Birth) -> None:
        self._birth = birth
        write_birth(self._file, birth)

    def _log_failed(self, error: Exception) -> None:
        self.die(f"the replicated log cannot go on: {error}")

    def _open_administration(self) -> None:
        file = self._file
        tls = None
        if file.admin_port:
            tls = TlsSettings(
                host=file.addresses[0],
                port=file.admin_port,
                certificate=file.keys / "node.pem",
                key=file.keys / "node.key",
                authority=file.keys / "ca.pem",
            )
        file.socket.parent.mkdir(parents=True, exist_ok=True)
        self._admin = AdminServer(self, file.socket, tls)

    # --- the life of the service ------------------------------------------------------------------------------------

    def serve(self) -> str:
        """Run until the service stops; says why it stopped. Raises ClusterError if it cannot start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop_service())
        # A start has much to compute and no lease to lose; real-time priority comes with the first one.
        self._shortcomings = take_priority(max(self._timing.lease_ms, REALTIME_BELOW_MS))
        if self._switches.watches_only:
            # Who is heard would be admitted by the others, and given groups.
            self._shortcomings += (self._logs.trouble,)
        else:
            self._start_network()
            self._shortcomings += (self._logs.trouble,) if self._lost_log else ()
        self._shortcomings += self._fences.open(self._timing)
        for shortcoming in self._shortcomings:
            log.warning("service.shortcoming", because=shortcoming)
        self._logs.start()
        self._admin.start()
        self._balancers.start()
        config = self._core.config
        if config is not None and NodeId(self._file.node_id) in config.evicted:
            self._evicted_according_to("the log")
        log.info("service.started", node=self._file.node, cluster=self._file.cluster, pid=os.getpid())
        try:
            self.run()
        finally:
            self._close()
        if self._core.holds_nothing:
            for name in monitors_with_leftovers(self._file.run):
                note_empty(self._file.run, name)
        return self.stopped_because

    def _start_network(self) -> None:
        self._streams.start()
        self._heartbeats.start()
        self._interfaces.start()
        if self._heartbeats.without_realtime:
            self._shortcomings += (
                f"the heartbeat thread has no real-time priority ({self._heartbeats.without_realtime}), so a busy"
                " machine may make the node look dead; give the service CAP_SYS_NICE",
            )

    def _close(self) -> None:
        self._admin.stop()
        self._balancers.stop()
        self._monitors.close()
        self._fences.stop(disarm=self._core.holds_nothing)
        self._logs.stop()
        self._witness.stop()
        self._interfaces.stop()
        self._streams.stop()
        self._heartbeats.stop()
        self._store.close()

    # --- the network ------------------------------------------------------------------------------------------------

    def _vouch(self, action: Vouch) -> None:
        if self._lost_log:
            # Who is heard is admitted, and given groups; this node would not even read of it.
            return
        self._fences.vouch(action.until_ms)
        if not self._has_lease_to_lose and action.phase is not NodePhase.STARTING:
            self._has_lease_to_lose = True
            self._keep_on_time()
        if self._watched != (action.watched, action.watch_ms):
            self._watched = action.watched, action.watch_ms
            self._native.watch(action.watched, action.watch_ms)
        self._native.vouch(
            until_ms=action.until_ms,
            grants_until_ms=action.grants_until_ms,
            interval_ms=action.interval_ms,
            phase=PHASES.index(action.phase),
            attempt=action.attempt,
            incarnation=action.incarnation,
            index=action.index,
            voters_version=action.voters_version,
            at_once=action.at_once,
            probe=action.probe,
        )

    def _set_peers(self, action: SetPeers) -> None:
        if self._switches.watches_only:
            return
        self._remember_members(action)
        addresses = {
            node: tuple((address, peer.port) for address in peer.addresses) for node, peer in action.peers.items()
        }
        self._peer_addresses = addresses
        self._heartbeats.set_peers(addresses, self._clock_.now_ms(), action.internal)
        self._streams.set_peers({int(node): _in_use(where, action.internal) for node, where in addresses.items()})
        self._will_goes_to = tuple(where for each in addresses.values() for where in each)
        self._write_will()

    def _see_interfaces(self, seen: InterfacesSeen) -> None:
        self._inbox.put(seen)
        troubled = {place for place, link in seen.links.items() if link.trouble}
        self._streams.avoid(
            {
                int(node): frozenset(
                    address
                    for place, address in enumerate(where)
                    if place in troubled or (node, place) not in seen.heard
                )
                for node, where in self._peer_addresses.items()
            }
        )

    def _use_timing(self, action: UseTiming) -> None:
        timing = self._timing = action.timing
        self._interfaces.use_timing(timing.lease_ms)
        self._logs.use_timing(timing)
        if self._has_lease_to_lose:
            self._keep_on_time()

    def _keep_on_time(self) -> None:
        for shortcoming in change_priority(self._timing.lease_ms):
            if shortcoming not in self._shortcomings:
                self._shortcomings += (shortcoming,)
                log.warning("service.shortcoming", because=shortcoming)

    def _leave_will(self, action: LeaveWill) -> None:
        self._will = self._native.compose_will(action.incarnation)
        self._write_will()

    def _write_will(self) -> None:
        if not self._will:
            return
        try:
            write_will(self._file.run, self._will, self._will_goes_to)
        except OSError as error:
            # Then the others wait for this node's silence when the service dies.
            log.warning("will.unwritten", because=error.strerror)

    def _remember_members(self, action: SetPeers) -> None:
        """Keep in birth.json whom to ask, for a start without the database; the log makes that anew."""
        file = self._file
        members = {file.node_id: (file.node, file.addresses, file.port)} | {
            int(node): (peer.name, peer.addresses, peer.port) for node, peer in action.peers.items()
        }
        with self._birth_lock:
            if action.peers and members != self._birth.members:
                self._change_birth(replace(self._birth, members=members))

    # --- the log ----------------------------------------------------------------------------------------------------

    def _propose(self, action: Propose) -> None:
        request, generation = action.proposal.request, self._logs.quorum.generation

        def failed(fate: ProposalFate, detail: str) -> None:
            event = ProposalFailed(request=request, fate=fate, detail=detail)
            self._inbox.put(OfLog(generation=generation, event=event))

        def done(outcome: Outcome) -> None:
            # A committed proposal comes back through the log itself.
            if outcome.kind is not OutcomeKind.COMMITTED:
                fate = ProposalFate.NOT_APPLIED if outcome.kind is OutcomeKind.REFUSED else ProposalFate.UNKNOWN
                failed(fate, outcome.detail)

        try:
            command = codec.encode_proposal(action.proposal)
        except ClusterError as error:
            failed(ProposalFate.NOT_APPLIED, error.message)
            return
        self._logs.propose(command, action.timeout_ms / 1000, done)

    def _leader_changed(self, generation: int, leader: int | None, leads: bool, members: frozenset[int]) -> None:
        taking_part = frozenset(map(NodeId, members))
        event = LeadershipChanged(leader=NodeId(leader) if leader else None, leads=leads, members=taking_part)
        self._inbox.put(OfLog(generation=generation, event=event))

    def _change_log_members(self, action: AddLogMember | RemoveLogMember) -> None:
        what = "log.add-member" if isinstance(action, AddLogMember) else "log.remove-member"

        def done(outcome: Outcome) -> None:
            log.info(what, node=action.node, outcome=outcome.kind.value, detail=outcome.detail)

        self._logs.change_members(action, done)

    # --- monitors ---------------------------------------------------------------------------------------------------

    def _make_monitor(self, name: str) -> MonitorHost:
        return MonitorHost(
            (
                *(sys.executable, "-m", "clussvc.service.monitor_main"),
                *("--parallel-starts", str(self._file.parallel_starts)),
                *("--release-budget", str(self._timing.release_budget_ms)),
                *(word for means in self._file.self_fence for word in ("--self-fence", means)),
            ),
            monitor_folder(self._file.run, name),
            lambda report: self._said(name, report),
        )

    def _said(self, name: str, report: MonitorReport) -> None:
        self._inbox.put(MonitorSaid(monitor=name, report=report))

    def _start_monitor(self, action: StartMonitor) -> None:
        try:
            note_occupied(self._file.run, action.monitor)
        except OSError as error:
            self._said(action.monitor, MonitorDied(why=f"its folder cannot be written: {error}"))
            return
        self._monitors.start(action.monitor)

    def _stop_monitor(self, action: StopMonitor) -> None:
        note_empty(self._file.run, action.monitor)
        self._monitors.stop(action.monitor)

    def _command_monitor(self, action: CommandMonitor) -> None:
        self._monitors.send(action.monitor, action.command)

    # --- eviction ---------------------------------------------------------------------------------------------------

    def _has_evicted(self, node: int) -> bool:
        """Numbers of nodes are never given again, so this stays true; but only a node that may act speaks for all."""
        config = self._core.config
        return config is not None and NodeId(node) in config.evicted and self._view.holds_quorum

    def _remember(self, event: Committed | ConfigInstalled) -> None:
        super()._remember(event)
        if NodeId(self._file.node_id) in event.config.evicted:
            self._evicted_according_to("the log")

    def _evicted_according_to(self, whom: str) -> None:
        """May be called from any thread."""
        if self._view.phase is NodePhase.MEMBER or self._switches.watches_only or self.evicted_because:
            # Nobody evicts a member; whoever says so speaks of another history of the cluster.
            return
        self.evicted_because = f"this node was evicted from the cluster {self._file.cluster} ({whom} says so)"
        log.warning("node.was-evicted", because=self.evicted_because)
        self.stop_service()

    # --- the rest ---------------------------------------------------------------------------------------------------

    def _log_entry(self, entry: HistoryEntry) -> None:
        if not (self._switches.nogroupinfoevtlogging and entry.record.name in GROUP_EVENTS):
            record_to_log(entry.record, cursor=entry.cursor)

    def _note(self, action: Note) -> None:
        record_to_log(action.record)

    def _fence_node(self, action: FenceNode) -> None:
        self._fences.fence_node(action.order, self.config().node_name(action.order.device.node))

    def fence_agent(self, agent: str) -> AgentMetadata:
        """See ports.ClusterAccess."""
        return read_metadata(agent)

    def use_fence_device(self, device: FenceDevice, action: str, timeout_ms: int) -> None:
        """See ports.ClusterAccess."""
        node = self.config().node_name(device.node)
        if action == "monitor":
            self._fences.ask(device, node, timeout_ms=timeout_ms)
            return
        self._fences.switch_off(device, node, timeout_ms=timeout_ms)
        threading.Thread(target=self._fences.switch_on_again, args=(device, node), name="fence-on", daemon=True).start()

    def make_join_token(self, *, node_name: str, valid_s: int) -> str | Report:
        """See ports.ClusterAccess."""
        token_id, secret = new_secret()
        now_ms = self._clock_.wall_ms()
        update = AddJoinToken(
            token=token_id,
            secret_sha256=secret_sha256(secret),
            expires_ms=now_ms + valid_s * 1000,
            node_name=node_name,
            at_ms=now_ms,
        )
        refusal = self.execute(update)
        if refusal is not None:
            return refusal
        config = self.config()
        up_first = sorted(config.nodes.values(), key=lambda node: (not node.up, node.id))
        contacts = [(address, node.port) for node in up_first for address in node.addresses][:JOIN_CONTACTS_MAX]
        return make_token(
            JoinToken(
                cluster=config.name,
                contacts=tuple(contacts),
                authority_sha256=fingerprint(self._authority.pair.certificate),
                id=token_id,
                secret=secret,
                expires_ms=update.expires_ms,
            )
        )

    def make_admin_certificate(self, *, name: str, role: str) -> Mapping[str, str]:
        """See ports.ClusterAccess."""
        pair = self._authority.issue_administrator(name=name, role=role)
        return {
            "certificate": pair.certificate.decode(),
            "key": pair.key.decode(),
            "ca": self._authority.pair.certificate.decode(),
        }

    def ask_balancer(self, resource: ResourceId, question: Mapping[str, object]) -> Mapping[str, Any]:
        """See ports.ClusterAccess."""
        return self._balancers.ask(resource, question)

    def choose_quorum(self, *, place: str, max_log_kb: int, hold_ms: int, force: bool) -> Quorum:
        """See ports.ClusterAccess."""
        config, index = self.config(), self._core.index
        return choose_on_running(
            Wanted(place=place, max_log_kb=max_log_kb, hold_ms=max(0, hold_ms), force=force),
            self._file,
            config,
            base_index=index,
        )

    def shortcomings(self) -> tuple[str, ...]:
        """See ports.ClusterAccess."""
        return self._shortcomings

    def prepare_witness(self, path: str, token: str, *, force: bool) -> None:
        """See ports.ClusterAccess."""
        nodes = [each for node in self.config().nodes.values() for each in (node.name, *node.addresses)]
        file, writer = self._file, self._witness_writer
        try:
            prepare_in_time(
                path, token, cluster=file.cluster_id, name=file.cluster, nodes=nodes, writer=writer, force=force
            )
        except ClusterError as error:
            log.warning("witness.refused", path=path, because=error.message, event_id=1559)
            raise

    def measure_timing(self) -> TimingMeasured:
        """See ports.ClusterAccess."""
        late_ms, gaps = self._native.measure()
        core_late_ms, self._late_max_ms = self._late_max_ms, 0
        config = self.config()
        return TimingMeasured(
            interval_ms=config.timing.heartbeat_interval_ms,
            sender_late_ms=late_ms,
            core_late_ms=core_late_ms,
            gaps_ms={config.node_name(NodeId(node)): gap_ms for node, gap_ms in sorted(gaps.items())},
        )

    def statistics(self) -> Mapping[str, int | str]:
        """See ports.ClusterAccess."""
        streams = self._streams.statistics()
        return {
            **{f"heartbeats_{name}": count for name, count in self._heartbeats.statistics().items()},
            **{f"streams_{name}": count for name, count in streams.counts.items()},
            "streams_connected_to": ",".join(map(str, streams.connected)),
            **{f"streams_trouble_node_{node}": why for node, why in streams.troubles.items()},
            "log_applied_index": self._logs.applied_index,
            "quorum_trouble": self._logs.trouble,
            "default_monitor": str(self._monitors.pid(DEFAULT_MONITOR) or ""),
        }


def _first_peers(birth: Birth, config: Config | None, own: int) -> dict[NodeId, PeerAddress]:
    """Whom to talk to before the log has been read."""
    if config is not None:
        return {
            node.id: PeerAddress(name=node.name, addresses=node.addresses, port=node.port)
            for node in config.nodes.values()
            if node.id != own
        }
    return {
        NodeId(node): PeerAddress(name=name, addresses=addresses, port=port)
        for node, (name, addresses, port) in birth.members.items()
        if node != own
    }


def _in_use(where: tuple[tuple[str, int], ...], internal: tuple[int, ...] | None) -> tuple[tuple[str, int], ...]:
    """The addresses of a peer that streams use, best first. Without any on an internal network all of them are better
    than none."""
    wanted = tuple(where[place] for place in internal or () if place < len(where))
    return wanted or where


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ClusterError(
            "key-missing",
            f"cannot read {path}: {error.strerror}; restore the folder {path.parent} from a backup, or have this node"
            " evicted on another one, clean it up ('cluster node /forcecleanup'), and join again",
        ) from error


def _tls(tls: Mapping[str, str]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    for path in tls.values():
        _read(Path(path))
    try:
        return server_context(**tls, require_client=False), client_context(**tls)
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            "key-damaged",
            f"the certificates or keys in {Path(tls['key']).parent} cannot be used ({error}); restore the folder from a"
            " backup, or have this node evicted on another, clean it up ('cluster node /forcecleanup'), and join anew",
        ) from error


def _ignore(_queued: bool) -> None:
    """The log's protocol repeats what could not be queued."""
