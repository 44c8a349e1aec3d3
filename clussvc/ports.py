"""The ports: what the assembly expects of each adapter, and what it offers to those that serve people.

An adapter touches one piece of the world and takes no decision. Each port has a contract suite in ``tests/adapters``
that runs on every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from clussvc.global_update.update import Update
from clussvc.membership.timing_advice import TimingMeasured
from clussvc.model.config import Config, FenceDevice
from clussvc.model.ids import NodeId, RequestId, ResourceId
from clussvc.model.quorum import Quorum
from clussvc.model.records import HistoryEntry
from clussvc.model.reports import Report
from clussvc.model.view import LiveView
from clussvc.nlb.filter_table import Decision, FilterTable, Flow, Reason
from clussvc.nlb.mac import Address
from clussvc.nlb.rule_counters import Packets


class Clock(Protocol):
    """Time, read by the assembly and handed to the ground floor as arguments."""

    def now_ms(self) -> int:
        """Milliseconds since boot (CLOCK_BOOTTIME); comparable only on the same machine and boot."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970, for people and for failure histories; never for safety."""


class ConfigStore(Protocol):
    """Keeps the committed configuration and the event history of one node. Not the source of truth: the log is."""

    def load(self) -> tuple[int, Config] | None:
        """The newest stored configuration with its log index; None for an empty store.

        Raises ClusterError(``database-damaged``) that names the file and the way out.
        """

    def save(self, index: int, config: Config, entries: Sequence[HistoryEntry]) -> None:
        """Store a configuration and the events up to its index in one transaction; older indexes are ignored."""

    def history(self, *, after: int, limit: int) -> list[HistoryEntry]:
        """Events with a cursor greater than ``after``, oldest first, at most ``limit`` (1..1000)."""

    def last_cursor(self) -> int:
        """The cursor of the newest event; 0 when there is none."""

    def close(self) -> None:
        """Release the file."""


class OutcomeKind(Enum):
    """What became of a proposal to the replicated log."""

    COMMITTED = "committed"
    REFUSED = "refused"
    """Certainly not applied, now and later."""
    UNKNOWN = "unknown"
    """May have been applied or may be applied yet; proposing the same request again is safe and tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Answer to a proposal; ``detail`` says why, for people."""

    kind: OutcomeKind
    result: bytes | None = None
    detail: str = ""


Done = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registrants:
    """Whom a device with persistent reservations knows."""

    keys: tuple[int, ...]
    holder: int
    """The key that holds a reservation of whatever type; 0: nobody does."""
    generation: int
    """Every change of registrations raises it."""

    @property
    def all(self) -> frozenset[int]:
        """Every key that means anything to the device."""
        return frozenset(self.keys) | ({self.holder} if self.holder else frozenset())


class QuorumDevice(Protocol):
    """A shared disk, as the quorum log sees it: sectors of 4096 bytes, and reservations where it has them.

    Every call blocks until the device has answered; one thread uses a device. Whatever fails raises ClusterError with
    one of the codes ``device-lost`` (it does not answer, or answers with an error; retryable), ``reservation-conflict``
    (the device itself refuses this node) and ``device-unsuitable`` (it can never be used like this).
    """

    @property
    def sectors(self) -> int:
        """Its size in sectors of 4096 bytes."""

    @property
    def reservations(self) -> bool:
        """Whether the device enforces SCSI-3 persistent reservations; if not, the calls below are never made."""

    def read(self, sector: int, count: int) -> bytes:
        """``count`` sectors from that one on, as the device has them now (no cache of this machine)."""

    def write(self, sector: int, data: bytes) -> None:
        """Write whole sectors; they are durable when this returns. After an error any of them may be written, or none,
        or become written later."""

    def register(self, key: int) -> None:
        """Make this node a registrant with that key (1..2**64-1), in place of any earlier key of it."""

    def reserve(self, key: int) -> None:
        """Take the reservation *Write Exclusive, Registrants Only* under the own key. Raises ``reservation-conflict``
        when another key holds it; harmless when this one does."""

    def preempt(self, key: int, victim: int) -> None:
        """Remove another key, whose every later write the device then refuses, and take over its reservation if it held
        one. Raises ``reservation-conflict`` when the own key or the victim is not registered."""

    def release(self, key: int) -> None:
        """Give the reservation back; the registration stays. Harmless when another key holds it."""

    def clear(self, key: int) -> None:
        """Remove all keys and the reservation, whoever holds it. Raises ``reservation-conflict`` when the own key is no
        registered one."""

    def unregister(self, key: int) -> None:
        """End the registration of the own key."""

    def resume(self, key: int) -> None:
        """Be the registrant again that this node was with that key before the device was opened anew; some devices take
        a new session for a stranger. Raises ``reservation-conflict`` when that key is registered no more: another node
        has taken over meanwhile, and nothing is changed."""

    def registrants(self) -> Registrants | None:
        """Who has registered with the device; None: it does not tell, or has no reservations."""

    def close(self) -> None:
        """Let go of the device; registration and reservation stay."""


class PacketFilter(Protocol):
    """Decides for the frames that one interface receives whether this host of a load-balanced cluster takes them.

    One thread uses it. Everything that fails raises ClusterError (see ``clussvc.nlb.filter.binding``), and then nothing
    has changed.
    """

    def load(self, table: FilterTable) -> None:
        """Decide by this table from now on; it replaces the former one whole."""

    def keep_until(self, boot_time_ms: int | None) -> None:
        """Accept nothing for the cluster after that moment of CLOCK_BOOTTIME, unless it is moved; None: no end."""

    def attach(self, interface: str, *, native: bool = False) -> None:
        """Begin to decide what that interface receives. A table must be loaded."""

    def detach(self) -> None:
        """Let the interface receive everything again. Harmless when not attached."""

    def attached(self) -> bool:
        """Whether it is on an interface that still exists."""

    def close(self) -> None:
        """Detach for good; harmless when repeated."""

    def counters(self) -> Mapping[Reason, int]:
        """Frames decided so far, by reason."""

    def packets(self) -> Mapping[str, Packets]:
        """Frames decided by each rule of the table, by its title, since it first came; the default rule's is
        ``Default``."""

    def flows(self, limit: int = 1000) -> tuple[Flow, ...]:
        """Connections and sessions that this host knows, at most ``limit``."""

    def occupied(self) -> Mapping[int, frozenset[int]]:
        """For each rule the buckets of which this host has connections; others are idle here."""

    def explain(
        self,
        *,
        client: Address,
        server: Address,
        protocol: int = 6,
        client_port: int = 0,
        server_port: int = 0,
        opens: bool = True,
    ) -> Decision:
        """What would become of such a packet, and why; nothing is noted or counted."""


class AgentParameters(Protocol):
    """What is used of an agent's metadata."""

    @property
    def parameters(self) -> frozenset[str]: ...

    @property
    def required(self) -> frozenset[str]: ...


class ClusterAccess(Protocol):
    """What the service offers to its administration: the only way in. Every call may come from any thread."""

    def config(self) -> Config:
        """The configuration at the newest index that this node has applied."""

    def view(self) -> LiveView:
        """What this node knows besides."""

    def execute(self, update: Update, *, request: RequestId | None = None, timeout_ms: int = 10_000) -> Report | None:
        """Propose a change and wait for its outcome: None when it was made, else the refusal.

        An outcome that stays unknown is the report ``outcome-unknown``; repeating the call with the same ``request``
        is safe. Without quorum the answer is the report ``no-quorum`` and nothing is proposed.
        """

    def history(self, *, after: int, limit: int, wait_ms: int = 0) -> list[HistoryEntry]:
        """Events after a cursor; waits up to ``wait_ms`` for the first one when there is none yet."""

    def wait_for_index(self, index: int, timeout_ms: int) -> bool:
        """Wait until this node has applied that index or more."""

    def make_join_token(self, *, node_name: str, valid_s: int) -> str | Report:
        """Make a one-time token in text form and commit its hash."""

    def make_admin_certificate(self, *, name: str, role: str) -> Mapping[str, str]:
        """PEM texts ``certificate``, ``key`` and ``ca`` for remote administration with that role."""

    def statistics(self) -> Mapping[str, int | str]:
        """Counters of the adapters, for diagnosis."""

    def measure_timing(self) -> TimingMeasured:
        """How late heartbeats and the core were at most since the last call."""

    def choose_quorum(self, *, place: str, max_log_kb: int, hold_ms: int, force: bool) -> Quorum:
        """The quorum that is asked for, for a running cluster: of the next generation, its disk prepared by this node;
        or the present one, if it is that already. ``place`` is ``majority``, ``local``, ``auto`` or where the disk is.

        Raises ClusterError when the disk cannot be used; a change that would be refused for another reason is said to
        be (``quorum-change-refused``) before anything is written."""

    def shortcomings(self) -> tuple[str, ...]:
        """What this node's machine does not permit its service, and what follows, in sentences."""

    def fence_agent(self, agent: str) -> AgentParameters:
        """What a fence agent on this node says of its parameters. Raises ClusterError."""

    def use_fence_device(self, device: FenceDevice, action: str, timeout_ms: int) -> None:
        """Have this node use a device now: ``monitor`` to see whether it answers, ``off`` to switch its node off (and
        on again later, if the device reboots). Waits for the outcome; raises ClusterError when it failed."""

    def ask_balancer(self, resource: ResourceId, question: Mapping[str, object]) -> Mapping[str, Any]:
        """Ask this node's host of a load-balanced cluster; the questions stand in :mod:`clussvc.service.balancer`.

        Raises ClusterError: ``balancer-not-here`` when the resource is not online on this node.
        """

    def prepare_witness(self, path: str, token: str, *, force: bool) -> None:
        """Make the folder of a file share witness, as this node sees the share, and try it. Raises ClusterError with
        the reason if it cannot be one; ``force``: also if it is not known that no node serves the share."""

    def node_id(self) -> NodeId:
        """Who this is."""

    def stop_service(self) -> None:
        """Begin an orderly stop of this node's service; returns at once."""
