"""A cluster for the tests of administration: the real ``apply`` on a configuration in memory, and no machines.

``FakeAccess`` stands for the service behind its port. What coordinator and owners would do is done here at once, by
real updates: released groups are assigned to the first preferred owner that can take them, moves are carried out,
resources come online when they are wanted. ``hold`` leaves all that undone, ``failing`` names resources that fail
instead of coming online, and ``quorum`` False makes the node refuse as one without quorum does.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from clussvc.fencing.agents import AgentMetadata
from clussvc.global_update.apply import apply
from clussvc.global_update.eligibility import why_not
from clussvc.global_update.update import (
    AddJoinToken,
    AdmitNode,
    AssignGroup,
    FoundCluster,
    GroupReleased,
    NodeDown,
    NodeUp,
    Proposal,
    ReportInterfaces,
    ReportStates,
    ResourceStatus,
    SetVoter,
    Update,
)
from clussvc.membership.regroup import next_eviction
from clussvc.membership.timing_advice import TimingMeasured
from clussvc.model import reports
from clussvc.model.config import Config, FenceDevice, Group, Interface
from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.quorum import Quorum, QuorumKind
from clussvc.model.records import HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.states import MoveCause, NodePhase, ResourceState
from clussvc.model.view import LiveView, PeerView

START_MS = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC; every entry of the log is a second later than the one before."""
NODES = ("NODE1", "NODE2", "NODE3")


class FakeAccess:
    """Three nodes, all up; this is NODE1, which coordinates."""

    def __init__(self, name: str = "DEMO") -> None:
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)
        self._index = 0
        self._numbers = itertools.count(1)
        self._history: list[HistoryEntry] = []
        self._config: Config | None = None
        self.hold = False
        self.witnesses: list[tuple[str, str]] = []
        self.quorum = True
        self.failing: set[str] = set()
        self.occupied: set[str] = set()
        """Disks on which something lies."""
        self.executed: list[tuple[Update, RequestId | None]] = []
        self.balancer: dict[str, Mapping[str, Any]] = {}
        """What this node's host of a load-balanced cluster answers, by the question."""
        self.missing: tuple[str, ...] = ()
        """What this node's machine does not permit its service."""
        self.broken_devices: dict[str, str] = {}
        """Fence devices that do not work, and what they say."""
        self.liars: set[str] = set()
        """Fence devices that say that they have switched a node off, and have not."""
        self.switched: list[tuple[str, str]] = []
        """What was done with fence devices."""
        self._off: set[NodeId] = set()
        self.unknown_outcomes = 0
        """So many of the next changes are made but answered with ``outcome-unknown``."""
        self._found(name)

    # --- the port ---------------------------------------------------------------------------------------------------

    def config(self) -> Config:
        assert self._config is not None
        return self._config

    def view(self) -> LiveView:
        others = {
            NodeId(number): PeerView(silent_ms=5_000 if number in self._off else 20, lease_ms=480) for number in (2, 3)
        }
        return LiveView(
            node=NodeId(1),
            phase=NodePhase.MEMBER if self.quorum else NodePhase.RELEASING,
            incarnation=1,
            holds_quorum=self.quorum,
            quorum_lease_ms=480 if self.quorum else 0,
            votes_held=3 if self.quorum else 1,
            votes_needed=2,
            coordinator=NodeId(1) if self.quorum else None,
            index=self._index,
            peers=others,
            note="" if self.quorum else "NODE2 and NODE3 are not heard",
        )

    def execute(self, update: Update, *, request: RequestId | None = None, timeout_ms: int = 10_000) -> Report | None:
        with self._lock:
            self.executed.append((update, request))
            if not self.quorum:
                return reports.no_quorum("NODE1", "1 of 2 votes needed")
            refusal = self._propose(update, request)
            if refusal is None and not self.hold:
                self.settle()
            if self.unknown_outcomes:
                self.unknown_outcomes -= 1
                return reports.outcome_unknown("no majority answered in time")
            return refusal

    def history(self, *, after: int, limit: int, wait_ms: int = 0) -> list[HistoryEntry]:
        def found() -> list[HistoryEntry]:
            return [entry for entry in self._history if entry.cursor > after][:limit]

        with self._news:
            self._news.wait_for(found, timeout=wait_ms / 1000)
            return found()

    def wait_for_index(self, index: int, timeout_ms: int) -> bool:
        return self._index >= index

    def choose_quorum(self, *, place: str, max_log_kb: int, hold_ms: int, force: bool) -> Quorum:
        kinds = {"majority": QuorumKind.MAJORITY, "local": QuorumKind.LOCAL}
        quorum = Quorum(kind=kinds.get(place, QuorumKind.DISK), generation=self.config().quorum.generation + 1)
        if place in kinds:
            return quorum
        if place in self.occupied and not force:
            raise ClusterError("device-unsuitable", f"{place} holds ext4; use /force to overwrite it")
        return replace(quorum, device=place, disk="0" * 15 + "7", sectors=25_600, hold_ms=hold_ms)

    def make_join_token(self, *, node_name: str, valid_s: int) -> str | Report:
        secret = hashlib.sha256(f"secret of {node_name}".encode()).hexdigest()
        token = AddJoinToken(
            token=f"token-{node_name or 'any'}",
            secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
            expires_ms=self._now_ms() + valid_s * 1000,
            node_name=node_name,
            at_ms=self._now_ms(),
        )
        return self.execute(token) or f"clj1-{node_name or 'any'}"

    def make_admin_certificate(self, *, name: str, role: str) -> Mapping[str, str]:
        return {"certificate": f"certificate of {name}\n", "key": "key\n", "ca": f"authority for {role}\n"}

    def shortcomings(self) -> tuple[str, ...]:
        """What the story says."""
        return self.missing

    def measure_timing(self) -> TimingMeasured:
        """As if it had been quiet for a while."""
        return TimingMeasured(interval_ms=100, sender_late_ms=1, core_late_ms=3, gaps_ms={"NODE2": 104})

    def prepare_witness(self, path: str, token: str, *, force: bool) -> None:
        """Everything below /mnt is a share that no node serves."""
        if not path.startswith("/mnt/") and not force:
            raise ClusterError(
                "witness-refused",
                f"{path} lies on a file system of this machine alone (ext4), and a witness must outlive every node;"
                " choose another share, or use /force if you know better",
            )
        self.witnesses.append((path, token))

    def fence_agent(self, agent: str) -> AgentMetadata:
        """One agent is installed."""
        if agent != "fence_ipmilan":
            raise ClusterError("agent-not-found", f"there is no fence agent {agent!r} on this node")
        return AgentMetadata(
            description="IPMI",
            parameters=frozenset({"action", "ip", "username", "password", "plug"}),
            required=frozenset({"action", "ip"}),
            actions=frozenset({"on", "off", "reboot", "status", "monitor", "metadata"}),
        )

    def use_fence_device(self, device: FenceDevice, action: str, timeout_ms: int) -> None:
        """As the story says."""
        self.switched.append((device.name, action))
        if device.name in self.broken_devices:
            raise ClusterError("fence-failed", self.broken_devices[device.name])
        if action == "off" and device.name not in self.liars:
            self._off.add(device.node)

    def ask_balancer(self, resource: ResourceId, question: Mapping[str, object]) -> Mapping[str, Any]:
        """As the story says; the real answers come from a process that a fake has not."""
        answer = self.balancer.get(str(question["ask"]))
        if answer is None:
            name = self.config().resources[resource].name
            raise ClusterError("balancer-not-here", f"{name!r} is not online on NODE1")
        return answer

    def statistics(self) -> Mapping[str, int | str]:
        return {"executed": len(self.executed)}

    def node_id(self) -> NodeId:
        return NodeId(1)

    def stop_service(self) -> None:
        self.execute_all_down()

    # --- what the rest of the cluster does ----------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """The others declare a node down."""
        node = self.config().node_named(name)
        assert node is not None
        down = NodeDown(
            node=node.id,
            incarnation=node.incarnation,
            voters_version=self.config().voters_version,
            because="nobody heard it",
        )
        assert self._propose(down) is None
        self.settle()

    def add_network(self) -> None:
        """Every node has an address on one more network."""
        config = self.config()
        place = len(config.all_networks)
        nodes = {
            node.id: replace(node, addresses=(*node.addresses, f"10.0.{place}.{node.id}"))
            for node in config.nodes.values()
        }
        self._config = replace(config, nodes=nodes)

    def tell_interfaces(self, name: str, trouble: str, silent: tuple[str, ...] = ()) -> None:
        """A node tells of its interfaces: of the first the trouble, or whom it does not hear there."""
        config = self.config()
        node = config.node_named(name)
        assert node is not None
        missed = tuple(other.id for other in config.nodes.values() if other.name in silent)
        interfaces = tuple(
            Interface(
                position=place,
                address=address,
                prefix=24,
                adapter=f"eth{place}",
                trouble=trouble if not place else "",
                silent=missed if not place else (),
            )
            for place, address in enumerate(node.addresses)
        )
        self._must(ReportInterfaces(node=node.id, incarnation=node.incarnation, interfaces=interfaces))

    def settle(self) -> None:
        """Coordinator and owners do what there is to do, until nothing is left."""
        for _ in range(100):
            if not (self._evict() or self._hand_over() or self._assign() or self._report()):
                return
        raise AssertionError("the fake cluster does not come to rest")

    def _evict(self) -> bool:
        step = next_eviction(self.config())
        return step is not None and self._propose(step) is None

    def execute_all_down(self) -> None:
        """An orderly stop of this node."""

    # --- inside -----------------------------------------------------------------------------------------------------

    def _found(self, name: str) -> None:
        group = GroupId("cluster-group")
        self._must(
            FoundCluster(
                name=name,
                timing_profile="lan",
                node_name=NODES[0],
                addresses=("10.0.0.1",),
                port=7400,
                admin_port=7401,
                utc_offset_min=0,
                group=group,
            )
        )
        for number, node_name in enumerate(NODES[1:], start=2):
            expires_ms = self._now_ms() + 3_600_000
            self._must(
                AddJoinToken(token=f"t{number}", secret_sha256="0" * 64, expires_ms=expires_ms, at_ms=self._now_ms())
            )
            self._must(
                AdmitNode(
                    token=f"t{number}",
                    secret_sha256="0" * 64,
                    node_name=node_name,
                    addresses=(f"10.0.0.{number}",),
                    port=7400,
                    admin_port=7401,
                    at_ms=self._now_ms(),
                )
            )
        for number in (1, 2, 3):
            self._must(NodeUp(node=NodeId(number), incarnation=0, boot=1, attempt=1))
        for number in (2, 3):
            self._must(SetVoter(node=NodeId(number), voter=True, voters_version=self.config().voters_version))
        self.settle()

    def _now_ms(self) -> int:
        return START_MS + self._index * 1_000

    def _must(self, update: Update) -> None:
        refusal = self._propose(update)
        assert refusal is None, refusal

    def _propose(self, update: Update, request: RequestId | None = None) -> Report | None:
        with self._news:
            self._index += 1
            proposal = Proposal(
                request=request or RequestId(f"fake-{next(self._numbers)}"),
                proposer=NodeId(1),
                at_ms=self._now_ms(),
                update=update,
            )
            applied = apply(self._config, proposal)
            self._config = applied.config
            for position, record in enumerate(applied.records):
                cursor = self._index * 1_000 + position
                self._history.append(HistoryEntry(cursor=cursor, at_ms=proposal.at_ms, record=record))
            self._news.notify_all()
            return applied.refusal

    def _hand_over(self) -> bool:
        moving = [group for group in self.config().groups.values() if group.move is not None and not group.released]
        for group in moving:
            assert group.owner is not None
            self._must(GroupReleased(group=group.id, epoch=group.epoch, node=group.owner, because="handed over"))
        return bool(moving)

    def _assign(self) -> bool:
        did = False
        for known in list(self.config().groups):
            group = self.config().groups[known]
            target = self._target(group) if group.released else None
            if target is not None:
                self._must(
                    AssignGroup(group=group.id, epoch=group.epoch, to=target, because=self._because(group, target))
                )
                did = True
        return did

    def _target(self, group: Group) -> NodeId | None:
        config = self.config()
        able = [
            node.id for node in config.nodes.values() if not group.parallel and why_not(config, group, node.id) is None
        ]
        if group.move is not None and group.move.to in able:
            return group.move.to
        ranked = [node for node in group.preferred_owners if node in able] + able
        if group.move is not None and group.move.cause is MoveCause.ADMIN:
            ranked = [node for node in ranked if node != group.owner] + ranked
        return ranked[0] if ranked else None

    def _because(self, group: Group, target: NodeId) -> str:
        why = group.released_because or "it was new"
        return f"{why}; {self.config().node_name(target)} is the first node that can take it"

    def _report(self) -> bool:
        config = self.config()
        did = False
        for node in config.nodes.values():
            lines = [
                ResourceStatus(
                    resource=resource.id,
                    state=wanted,
                    detail="it was told to fail" if wanted is ResourceState.FAILED else "",
                )
                for resource in config.resources.values()
                if config.groups[resource.group].owned == node.id
                and resource.state is not (wanted := self._wanted(resource.name, online=resource.persistent_state))
            ]
            if lines and node.up:
                self._must(ReportStates(node=node.id, incarnation=node.incarnation, lines=tuple(lines)))
                did = True
        return did

    def _wanted(self, name: str, *, online: bool) -> ResourceState:
        if not online:
            return ResourceState.OFFLINE
        return ResourceState.FAILED if name in self.failing else ResourceState.ONLINE
