"""Fencing: which nodes the coordinator has switched off, by which device, and what follows from the result.

Pure. A node is fenced when it is *suspected*: a majority has heard nothing of it for a whole lease, so that it must
have let go, or it is heard and says itself that it cannot let go. Its devices are tried one after the other, and again
after a pause when all have failed. A device that has done its work confirms the death, and nobody waits for the rest
of the silence (rule R1: a group changes hands when its owner was fenced).

Fencing never stands in the way of anything by itself: the silence of a node goes on being judged beside it (rule R3),
unless an administrator wants fencing to be required; and then the devices are tried for ever, and the word of an
administrator ends the wait. Two coordinators may fence one node at the same time; being switched off twice does no
harm.

The coordinator itself may be heard and unable to let go. Then the first of the other members has it fenced; its
silence is for the next coordinator to judge.

What a device says is not simply believed. A node that is heard after it was said to be off is not off, whoever says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from clussvc.global_update.update import FencingFailed, NodeFenced
from clussvc.membership.heartbeat import HeartbeatTable
from clussvc.membership.jury import Jury
from clussvc.membership.regroup import RESTART_GRACE_MS, proven_silence_ms, waiting_ms
from clussvc.model.config import Config, FenceDevice, Node
from clussvc.model.ids import FenceDeviceId, NodeId
from clussvc.model.states import NodePhase

RETRY_MS = 10_000
"""How long to wait after all devices of a node have failed before they are tried anew."""

LET_GO_GRACE_MS = 2_000
"""How much longer than its release budget a node that is heard may take to let go. It fences itself before, if it has
means of its own."""

IN_FLIGHT_MS = 200
"""What was sent before a node was switched off may be heard so long after that."""

WHY_LENGTH_MAX = 1_000
"""The longest reason that goes into the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceOrder:
    """Have this device switch the node off. ``ticket`` comes back with the result."""

    ticket: int
    device: FenceDevice
    why: str


@dataclass(slots=True)
class _Attempt:
    """What is under way against one incarnation of a node."""

    incarnation: int
    why: str
    tried: list[FenceDeviceId] = field(default_factory=list)
    ticket: int | None = None
    """The order whose result is awaited."""
    device: str = ""
    """The name of the device of that order, or of the one that did it."""
    off_ms: int | None = None
    """When the device said that the node is off."""
    failures: list[str] = field(default_factory=list)
    told: str = ""
    """The failure that has been proposed for the history."""
    again_ms: int | None = None


class Fencing:
    """The memory of one node that has others fenced; another one begins without any."""

    def __init__(self) -> None:
        self._attempts: dict[NodeId, _Attempt] = {}
        self._releasing: dict[NodeId, tuple[tuple[int, int], int]] = {}
        """Since when each node has said that it is releasing, with its boot and incarnation."""
        self._ticket = 0
        self._jury = Jury(voters=frozenset())

    def forget(self) -> None:
        """This node has nobody fenced any more; results of what it ordered are not waited for."""
        self._attempts.clear()
        self._releasing.clear()

    def step(
        self,
        config: Config,
        table: HeartbeatTable,
        *,
        node: NodeId,
        coordinator: NodeId | None,
        jury: Jury,
        now_ms: int,
    ) -> list[FenceOrder]:
        """Look at every node that ``node`` may have fenced, and say which devices are to begin now."""
        if not config.fence_devices:
            self.forget()
            return []
        for fenced in [known for known in self._attempts if not self._concerns(config, known)]:
            del self._attempts[fenced]
        self._jury = jury
        orders = []
        for member in _whom(config, node, coordinator):
            self._watch(member, table, now_ms)
            attempt = self._attempts.get(member.id)
            if attempt is None:
                why = self._suspicion(config, table, member, now_ms, silence=node == coordinator)
                if not why or not config.fence_devices_of(member.id):
                    continue
                attempt = self._attempts[member.id] = _Attempt(incarnation=member.incarnation, why=why)
            order = self._next(config, table, member, attempt, now_ms)
            if order is not None:
                orders.append(order)
        return orders

    def ended(self, ticket: int, *, off: bool, detail: str, now_ms: int) -> None:
        """The result of an order; one that nobody waits for is ignored."""
        for attempt in self._attempts.values():
            if attempt.ticket == ticket:
                attempt.ticket = None
                if off:
                    attempt.off_ms = now_ms
                else:
                    attempt.failures.append(f"{attempt.device}: {detail}")

    def updates(self, config: Config, table: HeartbeatTable, now_ms: int) -> list[NodeFenced | FencingFailed]:
        """What to propose now, until the log shows it."""
        found: list[NodeFenced | FencingFailed] = []
        for node, attempt in self._attempts.items():
            member = config.nodes.get(node)
            if member is None:
                continue
            if attempt.off_ms is not None and self._silent(table, member, config.timing.lease_ms, now_ms):
                because = f"fence device {attempt.device} switched it off, since {attempt.why}"
                found.append(NodeFenced(node=node, incarnation=attempt.incarnation, because=because))
            if attempt.told and attempt.told != member.fence_failure:
                found.append(FencingFailed(node=node, incarnation=attempt.incarnation, because=attempt.told))
        return found

    # --- parts ------------------------------------------------------------------------------------------------------

    def _concerns(self, config: Config, node: NodeId) -> bool:
        """Whether what was begun against a node is still about the incarnation that is up."""
        member = config.nodes.get(node)
        return member is not None and member.up and member.incarnation == self._attempts[node].incarnation

    def _watch(self, member: Node, table: HeartbeatTable, now_ms: int) -> None:
        heartbeat = table.last(member.id)
        if heartbeat is None or heartbeat.phase is not NodePhase.RELEASING:
            self._releasing.pop(member.id, None)
            return
        life = heartbeat.boot, heartbeat.incarnation
        if self._releasing.get(member.id, (None, 0))[0] != life:
            self._releasing[member.id] = life, now_ms

    def _suspicion(
        self, config: Config, table: HeartbeatTable, member: Node, now_ms: int, *, silence: bool = True
    ) -> str:
        """Why the node should be switched off; empty if it should not. ``silence``: whether it may be for that."""
        timing = config.timing
        limit_ms = timing.lease_ms + 1 + timing.lease_ms * timing.drift_ppm // 1_000_000
        silence_ms = proven_silence_ms(config, table, member, self._jury, now_ms)
        if silence and silence_ms >= limit_ms:
            who = "the owner of the quorum disk" if config.quorum.on_disk else "a majority of the voters"
            return f"{who} had heard nothing from it for {silence_ms} ms"
        silent_ms = table.silent_ms(member.id, now_ms)
        if silent_ms is None or silent_ms > timing.lease_ms:
            return ""
        if member.id in self._releasing:
            stuck_ms = now_ms - self._releasing[member.id][1]
            if stuck_ms > timing.release_budget_ms + LET_GO_GRACE_MS:
                return f"it had not terminated its resources after {stuck_ms} ms"
        waits_ms = waiting_ms(table, member, now_ms)
        if waits_ms >= RESTART_GRACE_MS:
            return f"its service had not cleaned up {waits_ms} ms after its start"
        return ""

    def _next(
        self, config: Config, table: HeartbeatTable, member: Node, attempt: _Attempt, now_ms: int
    ) -> FenceOrder | None:
        """The next device, if it is time for one."""
        if attempt.off_ms is not None and self._heard_after(table, member, attempt.off_ms):
            # It lies, or switches another machine off.
            attempt.failures.append(f"{attempt.device}: it said that {member.name} is off, but {member.name} was heard")
            attempt.off_ms = None
        if attempt.ticket is not None or attempt.off_ms is not None:
            return None
        devices = config.fence_devices_of(member.id)
        if attempt.again_ms is not None:
            if now_ms < attempt.again_ms:
                return None
            if not (why := self._suspicion(config, table, member, now_ms)):
                # It has recovered by itself.
                del self._attempts[member.id]
                return None
            attempt.again_ms, attempt.why = None, why
            attempt.tried.clear()
            attempt.failures.clear()
        left = [device for device in devices if device.id not in attempt.tried]
        if not left:
            failures = "; ".join(attempt.failures) or "it has no fence device any more"
            attempt.told = failures[:WHY_LENGTH_MAX]
            attempt.again_ms = now_ms + RETRY_MS
            return None
        self._ticket += 1
        attempt.tried.append(left[0].id)
        attempt.ticket, attempt.device = self._ticket, left[0].name
        return FenceOrder(ticket=self._ticket, device=left[0], why=attempt.why)

    @staticmethod
    def _heard_after(table: HeartbeatTable, member: Node, off_ms: int) -> bool:
        """Whether this boot of the node was heard when it should have been off for long."""
        heartbeat, quiet_from_ms = table.last(member.id), table.quiet_from_ms(member.id)
        if heartbeat is None or quiet_from_ms is None or heartbeat.boot > member.boot:
            return False
        return quiet_from_ms > off_ms + IN_FLIGHT_MS

    @staticmethod
    def _silent(table: HeartbeatTable, member: Node, lease_ms: int, now_ms: int) -> bool:
        """Whether nothing contradicts a device. A node that was heard shortly before must fall silent first; one that
        was fenced for its silence has done so."""
        heartbeat, quiet_from_ms = table.last(member.id), table.quiet_from_ms(member.id)
        if heartbeat is None or quiet_from_ms is None or heartbeat.boot > member.boot:
            return True
        return now_ms - quiet_from_ms >= lease_ms


def _whom(config: Config, node: NodeId, coordinator: NodeId | None) -> list[Node]:
    """The nodes that this one may have fenced: all others, or the coordinator if this is the first other member."""
    up = [member for member in config.nodes.values() if member.up]
    if node == coordinator:
        return [member for member in up if member.id != node]
    first = min((member.id for member in up if member.id != coordinator), default=None)
    return [member for member in up if member.id == coordinator] if node == first else []


def parameters_of(device: FenceDevice, action: str, node: str) -> Mapping[str, str]:
    """What an agent reads on its standard input (fence-agents: FenceAgentAPI)."""
    given = {name: str(value) for name, value in device.private.items()}
    return {"nodename": node, **given, "action": action}
