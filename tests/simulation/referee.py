"""The referee: knows what is really so on every machine, and compares it with what was promised, after every event.

It believes nobody. What runs is read from the monitors, what was heard from the network, and the rules are worked out
anew from that, without the code that is under test:

* **one owner** -- nothing of a group runs on two machines, cut-off ones included;
* **one instance** -- a machine has at most one instance of a parallel group, in the log and in what runs;
* **R1** -- an epoch has one owner; a group changes hands only when it was released, and when the log says that it is
  released, or that a node is down, nothing of it runs there any more; a start is backed by an assignment in the log;
* **R2, R4** -- nothing runs longer than the release budget after the moment when the node can last have known a
  majority that heard it;
* **R3** -- who proposes that a node is down is right: a majority has truly heard nothing of it for long enough;
* **changes of the quorum** -- a node may act by what any quorum that it can know of gave it; it may be declared down
  only when all of that is over;
* **the log** -- one entry at one index everywhere, the same state after it, acknowledged changes in it once, and none
  of which somebody was told that nothing was changed;
* **dependencies** -- a resource starts only above providers that are online.

Faults beyond what the promise assumes *excuse* a machine: both its processes stopped while its resources run on,
unless the others must fence it before they take over; or a clock that drifts beyond the budget. What is excused is
told in ``docs/safety.md``.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from clussvc.global_update.update import Batch, NodeDown, NodeUp, Proposal, Update
from clussvc.model.config import Config, Node
from clussvc.model.ids import GroupId, NodeId, RequestId, ResourceId
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.quorum.majority import is_majority
from clussvc.quorum.stand_in import Decision

HEARD_KEPT = 200
"""How many receptions are remembered for each pair of nodes."""

SLACK_MS = 60
"""How long ending a machine, a deadman's timer and the referee's own rounding may take beyond the budget."""

ASKED_ONCE_MS = 10_000
"""Nobody asks for the same change a second time so soon after the first, unless the answer was "unknown"."""


class Violation(AssertionError):
    """A promise was broken."""

    def __init__(self, rule: str, what: str) -> None:
        super().__init__(f"{rule}: {what}")
        self.rule = rule
        self.what = what


class Watched(Protocol):
    """What the referee looks at on a machine."""

    id: NodeId

    def all_running(self) -> dict[ResourceId, int]:
        """All that runs now, with its epoch."""

    def all_online(self) -> set[ResourceId]:
        """All of it that is online, with no transition under way."""

    @property
    def config(self) -> Config | None:
        """What its service has read from the log."""

    @property
    def excused(self) -> bool:
        """Whether something beyond the assumptions happened to it."""


@dataclass
class _Truth:
    """What the referee remembers of one machine. Times in microseconds of the world."""

    heard_by: dict[NodeId, int] = field(default_factory=dict)
    """When the newest heartbeat that each other node has received was sent."""
    boot_heard: dict[NodeId, int] = field(default_factory=dict)
    """Of which boot that was."""
    hears_us: dict[tuple[NodeId, int], deque[int]] = field(default_factory=dict)
    """When each other node has received one of each boot, newest last."""
    first_us: dict[tuple[NodeId, int], int] = field(default_factory=dict)
    """When each other node has received the first one of each boot."""
    voters: frozenset[NodeId] = frozenset()
    electorates: tuple[frozenset[NodeId], ...] = ()
    voters_since_us: int = 0
    timing: Timing | None = None
    """By which it acted when it was looked at last."""
    slower: tuple[tuple[Timing, int], ...] = ()
    """After a change to a faster one, leases of the slower kind run out until then; there may have been several."""
    holds_us: dict[int, int] = field(default_factory=dict)
    """Where the quorum is a disk: until when its process holds it, and grants leases, for each generation."""
    fed_us: dict[int, int] = field(default_factory=dict)
    """Until when its monitors may go on by that hold, whatever becomes of the process."""
    generation: int = 0
    """Of the quorum by which it acted when it was looked at last."""
    changed_us: int = -(10**15)
    """When it was seen first to act by that."""
    granted_us: dict[int, int] = field(default_factory=dict)
    """When the newest heartbeat of each of its boots was sent that an owner has heard while it was one."""

    @property
    def fed_until_us(self) -> int:
        """Until when its monitors may go on by its hold of any quorum disk."""
        return max(self.fed_us.values(), default=-1)

    @property
    def holds_until_us(self) -> int:
        """Until when its process holds any quorum disk."""
        return max(self.holds_us.values(), default=-1)


class Referee:
    """One for a world. ``timing`` is asked for whenever it is needed, since it can be changed."""

    def __init__(
        self,
        machines: Callable[[], Iterable[Watched]],
        now_us: Callable[[], int],
        timing: Callable[[], Timing],
    ) -> None:
        self._machines = machines
        self._now_us = now_us
        self._timing = timing
        self._truth: dict[NodeId, _Truth] = {}
        self._owner_of: dict[tuple[GroupId, int], NodeId] = {}
        self._groups: dict[ResourceId, GroupId] = {}
        self._patterns: dict[GroupId, GroupId] = {}
        """The parallel group of each instance that there ever was."""
        self._moved_from: dict[ResourceId, tuple[NodeId, int]] = {}
        """The owner and the epoch of the group that a resource was in before it was moved to another one."""
        self._committed: dict[RequestId, int] = {}
        self.acknowledged: dict[RequestId, int] = {}
        self._asked_us: dict[RequestId, int] = {}
        self._admission_us: dict[tuple[NodeId, int, int], int] = {}
        """When somebody first proposed to admit a node, for each of its boots and attempts."""
        self._wills: set[tuple[NodeId, int]] = set()
        """The incarnations that are over by their own will."""
        self._answered: set[RequestId] = set()
        self._made: set[RequestId] = set()
        """Changes in the log that were not refused there."""
        self._denied: set[RequestId] = set()
        """Changes of which somebody was told that they certainly were not made."""
        self.witness: Mapping[int, Decision] = {}
        """What truly stands on the share of the witness, by the version of the voters."""
        self._newest_config: Config | None = None
        """The configuration before the newest entry."""
        self.newest = 0
        """The newest index that any machine has applied."""
        self.lenient_until_us = -1
        """Until then clocks are, or were, beyond the drift that is allowed for."""
        self.counts: Counter[str] = Counter()

    @property
    def strict(self) -> bool:
        """Whether the assumptions about clocks hold now."""
        return self._now_us() > self.lenient_until_us

    # --- what happens -----------------------------------------------------------------------------------------------

    def heartbeat_received(self, sender: NodeId, receiver: NodeId, boot: int, sent_us: int) -> None:
        """A heartbeat reached the other node's service."""
        truth = self._truth.setdefault(sender, _Truth())
        if sent_us <= truth.heard_by.get(receiver, -1):
            # A double, or one that was overtaken, proves nothing that was not known.
            return
        truth.heard_by[receiver] = sent_us
        truth.boot_heard[receiver] = boot
        owner = self._truth.get(receiver)
        if owner is not None and owner.holds_until_us > self._now_us():
            truth.granted_us[boot] = max(truth.granted_us.get(boot, -1), sent_us)
        truth.first_us.setdefault((receiver, boot), self._now_us())
        truth.hears_us.setdefault((receiver, boot), deque(maxlen=HEARD_KEPT)).append(self._now_us())

    def held(self, machine: Watched, until_us: int, generation: int = 0) -> None:
        """The log of a machine says that it owns the quorum disk of that generation until then."""
        now_us = self._now_us()
        for other in self._machines():
            truth = self._truth.get(other.id)
            if truth is None or other.id == machine.id or not self.strict:
                continue
            if truth.holds_us.get(generation, -1) > now_us and until_us > now_us:
                raise Violation("one owner of the disk", f"n{machine.id} and n{other.id} own the quorum disk at once")
        owner = self._truth.setdefault(machine.id, _Truth())
        owner.holds_us[generation] = until_us
        owner.fed_us[generation] = max(until_us, owner.fed_us.get(generation, -1))
        for truth in self._truth.values():
            # What it had heard before it became owner it grants with its first word.
            if machine.id in truth.heard_by:
                boot = truth.boot_heard[machine.id]
                truth.granted_us[boot] = max(truth.granted_us.get(boot, -1), truth.heard_by[machine.id])

    def hold_ended(self, machine: Watched, generation: int = 0, *, gave_back: bool = False) -> None:
        """It has given the disk back, or its process is gone."""
        truth = self._truth.get(machine.id)
        if truth is not None and generation in truth.holds_us:
            truth.holds_us[generation] = min(truth.holds_us[generation], self._now_us())
            if gave_back and not machine.all_running():
                # Who gives the disk back holds nothing any more, and its monitors can begin nothing by themselves.
                truth.fed_us[generation] = min(truth.fed_us[generation], self._now_us())

    def starts(self, machine: Watched, resource: ResourceId, epoch: int) -> None:
        """Something begins to run."""
        self.counts["starts"] += 1
        config = machine.config
        known = config.resources.get(resource) if config is not None else None
        # A command may wait in a monitor that stands still, and the resource be deleted or moved meanwhile.
        home = known.group if known is not None else self._groups.get(resource)
        group = config.groups.get(home) if config is not None and home is not None else None
        if (
            home is not None
            and config is not None
            and group is None
            and self._owner_of.get((home, epoch)) == machine.id
        ):
            # It waited while its group was deleted; nobody else had that epoch or will have it.
            self._check_alone(machine, resource, home)
            return
        if config is None or group is None:
            raise Violation("R1", f"n{machine.id} starts {resource}, of which it has read nothing in the log")
        # A command that waited in a monitor that stood still may be older than a move between groups of its node.
        moved = group.epoch != epoch and self._moved_from.get(resource) == (machine.id, epoch)
        if group.owner != machine.id or group.released or not (group.epoch == epoch or moved):
            raise Violation(
                "R1",
                f"n{machine.id} starts {resource} under epoch {epoch}; by the log as it has read it, group {group.id}"
                f" has epoch {group.epoch} and {'no owner' if group.released else f'the owner n{group.owner}'}",
            )
        if not moved and self._owner_of.get((group.id, epoch), machine.id) != machine.id:
            raise Violation("R1", f"n{machine.id} starts {resource} under epoch {epoch}, which is another node's")
        online = machine.all_online()
        for provider in known.depends_on if known is not None else ():
            if provider not in online:
                raise Violation("dependencies", f"n{machine.id} starts {resource} while {provider} is not online")
        self._groups[resource] = group.id
        self._check_alone(machine, resource, group.id)

    def _check_alone(self, machine: Watched, resource: ResourceId, group: GroupId) -> None:
        """Nothing of the group runs on another machine, and no other instance of its parallel group on this one."""
        for running in machine.all_running() if group in self._patterns and not self._excused(machine) else ():
            other_group = self._groups.get(running)
            if other_group == group or other_group is None:
                continue
            if self._patterns.get(other_group) == self._patterns[group]:
                raise Violation(
                    "one instance", f"n{machine.id} starts {resource} of {group} while {running} of {other_group} runs"
                )
        for other in self._machines():
            if other.id == machine.id or self._excused(other) or self._excused(machine) or not self.strict:
                continue
            for running in other.all_running():
                if self._groups.get(running) == group:
                    raise Violation(
                        "one owner", f"group {group} runs on n{other.id} ({running}) and n{machine.id} ({resource})"
                    )

    def _excused(self, machine: Watched) -> bool:
        """Whether its resources may run beside those of a new owner, as far as the assumptions go; not if the others
        have to switch it off before they take over."""
        config = self._newest_config
        fenced = config is not None and config.fencing_required and bool(config.fence_devices_of(machine.id))
        return machine.excused and not fenced

    def will_sent(self, machine: Watched, incarnation: int) -> None:
        """The last monitor of a dead service says on its behalf that the incarnation is over and nothing runs."""
        self.counts["wills"] += 1
        running = machine.all_running()
        if running:
            raise Violation(
                "R1", f"the will of n{machine.id} says that nothing runs, but {', '.join(sorted(running))} does"
            )
        self._wills.add((machine.id, incarnation))

    def proposes(self, machine: Watched, proposal: Proposal) -> None:
        """A service hands something to the log."""
        for update in _updates(proposal):
            if isinstance(update, NodeUp):
                self._admission_us.setdefault((update.node, update.boot, update.attempt), self._now_us())
            if isinstance(update, NodeDown) and not update.stopped:
                self._check_silence(machine, update)

    def asked(self, request: RequestId) -> None:
        """An administrator asks for a change; the node that is asked may stand still, and take it up much later."""
        self._asked_us.setdefault(request, self._now_us())

    def replied(self, request: RequestId, refusal: Report | None) -> None:
        """An administrator was answered."""
        first = request not in self._answered
        self._answered.add(request)
        if refusal is not None:
            self.counts["unknown" if refusal.code == "outcome-unknown" else "refused"] += 1
            if refusal.code == "no-quorum" and first:
                self._deny(request)
            return
        self.counts["acknowledged"] += 1
        index = self._committed.get(request)
        if index is None:
            raise Violation("acknowledged", f"change {request} was acknowledged and is not in the log")
        self.acknowledged[request] = index

    def _deny(self, request: RequestId) -> None:
        """Somebody was told that nothing was changed. Who asks a second time is told of that attempt only, and the
        first one may have been made; nobody asks again as soon as this."""
        asked_us = self._asked_us.get(request)
        if asked_us is None or self._now_us() - asked_us > ASKED_ONCE_MS * 1000:
            return
        if request in self._made:
            raise Violation("acknowledged", f"change {request} was said not to be made, and is in the log")
        self._denied.add(request)

    def committed(self, index: int, proposal: Proposal, before: Config | None, after: Config) -> None:
        """Somebody is the first to apply this entry."""
        self.newest = max(self.newest, index)
        self._newest_config = before
        self.counts["entries"] += 1
        if proposal.request in self._committed:
            if before is not None and after is not before:
                raise Violation("applied once", f"change {proposal.request} was applied again at {index}")
            return
        self._committed[proposal.request] = index
        if after.recent.get(proposal.request) is None:
            self._made.add(proposal.request)
            if proposal.request in self._denied:
                raise Violation("acknowledged", f"change {proposal.request} was made after the word that it was not")
        if before is None:
            return
        if after.resources is not before.resources:
            # A resource that was moved to another group is that group's from now on, wherever it runs.
            for resource in after.resources.values():
                former = before.groups.get(self._groups.get(resource.id, resource.group))
                if former is not None and former.id != resource.group and former.owner is not None:
                    self._moved_from[resource.id] = former.owner, former.epoch
                self._groups[resource.id] = resource.group
        if after.groups is not before.groups:
            self._check_instances(before, after)
        for group in after.groups.values():
            earlier = before.groups.get(group.id)
            if earlier is group:
                continue
            if earlier is None and group.instance_of is None:
                # An administrator here may use the name of a deleted group again (the product's are random): it is
                # another group, and its epochs begin anew, and so do those of its instances.
                self._owner_of = {
                    key: owner
                    for key, owner in self._owner_of.items()
                    if key[0] != group.id and self._patterns.get(key[0]) != group.id
                }
            self._check_hand_over(group.id, before, after)
        for node in before.nodes.values():
            later = after.nodes.get(node.id)
            ended = later is None or not later.up or later.incarnation != node.incarnation
            if node.up and ended and not _confirmed(proposal, node.id):
                self._check_nothing_runs(node.id, f"the log says that the former incarnation of n{node.id} is over")

    def _check_instances(self, before: Config, after: Config) -> None:
        """Of a parallel group a node owns one instance at most; one that is gone had been let go."""
        owned: set[tuple[GroupId, NodeId]] = set()
        for group in after.groups.values():
            if group.instance_of is None:
                continue
            self._patterns[group.id] = group.instance_of
            if group.owner is not None and not group.released:
                if (group.instance_of, group.owner) in owned:
                    raise Violation("one instance", f"n{group.owner} owns two instances of {group.instance_of}")
                owned.add((group.instance_of, group.owner))
        for group in before.groups.values():
            if group.instance_of is not None and group.id not in after.groups and group.owner is not None:
                self._check_nothing_runs(group.owner, f"the instance {group.id} is gone from the log", group.id)

    # --- looking ----------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Everything that time alone can break; asked for again and again."""
        if not self.strict:
            return
        for machine in self._machines():
            # A lease that was counted while nothing ran yet counts all the same, and one from before it was looked at.
            self._timings_of(machine, self._truth.setdefault(machine.id, _Truth()))
            running = machine.all_running()
            if running and not machine.excused:
                self._check_lease(machine, running)

    def _check_lease(self, machine: Watched, running: dict[ResourceId, int]) -> None:
        config = machine.config
        truth = self._truth.setdefault(machine.id, _Truth())
        now_us = self._now_us()
        if config is not None and self._electorates(config) != truth.electorates:
            truth.voters, truth.voters_since_us = config.voters, now_us
            truth.electorates = self._electorates(config)
        if not truth.voters or config is None:
            return
        if config.quorum.generation != truth.generation:
            truth.generation, truth.changed_us = config.quorum.generation, now_us
        by_majority, by_grants = self._lost_majority(machine, truth), ""
        if config.quorum.on_disk or config.quorum.former_hold_ms:
            by_grants = self._lost_grants(machine, truth, config)
            me = config.nodes.get(machine.id)
            if config.quorum.on_disk and (me is None or not me.unsettled):
                # A majority's leases let it go on only after the change from that majority.
                by_majority = by_grants
        else:
            by_grants = by_majority
        if by_majority and by_grants:
            why = by_grants if config.quorum.on_disk else by_majority
            raise Violation("R2", f"n{machine.id} still runs {', '.join(sorted(running))} {why}")

    def _lost_majority(self, machine: Watched, truth: _Truth) -> str:
        """Since when no majority lets it act, in words; empty if one does."""
        now_us = self._now_us()
        # The most that this node can know: what the others have really received, as if every answer had arrived.
        last_us = truth.voters_since_us
        for electorate in truth.electorates:
            sent = [truth.heard_by.get(voter, -1) if voter != machine.id else now_us for voter in electorate]
            last_us = max(last_us, sorted(sent, reverse=True)[len(electorate) // 2])
        allowed_ms = max(
            (timing.lease_ms + timing.release_budget_ms) * (1 + timing.drift_ppm / 1e6) + SLACK_MS
            for timing in self._timings_of(machine, truth)
        )
        if now_us - last_us > allowed_ms * 1000:
            return f"{(now_us - last_us) // 1000} ms after a majority last heard it"
        return ""

    def _electorates(self, config: Config) -> tuple[frozenset[NodeId], ...]:
        """Of which sets a majority may be counted by who has read this configuration."""
        decision = self.witness.get(config.voters_version) if config.witness_open else None
        return (config.voters,) if decision is None else (config.voters, config.voters - {decision.dropped})

    def _lost_grants(self, machine: Watched, truth: _Truth, config: Config) -> str:
        """Since when no owner of a quorum disk lets it act, in words; empty if one does."""
        now_us, granted_us = self._now_us(), max(truth.granted_us.values(), default=-1)
        present = config.quorum.generation
        for timing in self._timings_of(machine, truth):
            budget_us = timing.release_budget_ms * 1000 * (1 + timing.drift_ppm / 1e6)
            lease_us = timing.lease_ms * 1000 * (1 + timing.drift_ppm / 1e6)
            over_us = max(granted_us + lease_us, truth.fed_us.get(present, -1))
            # The last owner of a disk that was left goes on for a lease.
            over_us = max([over_us, *(until + lease_us for each, until in truth.fed_us.items() if each < present)])
            if now_us <= over_us + budget_us + SLACK_MS * 1000:
                return ""
        return (
            f"{(now_us - granted_us) // 1000} ms after an owner of the quorum disk last heard it, and"
            f" {(now_us - truth.fed_until_us) // 1000} ms after its own hold"
        )

    def _timings_of(self, machine: Watched, truth: _Truth) -> list[Timing]:
        """By which the leases of a machine may have been counted that run now."""
        now = machine.config.timing if machine.config is not None else self._timing()
        before = truth.timing or now
        if now.quicker_than(before):
            former_ms = machine.config.quorum.former_hold_ms if machine.config is not None else 0
            lasting_ms = before.silence_ms() + former_ms + SLACK_MS
            truth.slower = (*truth.slower, (before, self._now_us() + lasting_ms * 1000))
        truth.timing = now
        truth.slower = tuple((slower, until_us) for slower, until_us in truth.slower if self._now_us() < until_us)
        return [now, *(slower for slower, _ in truth.slower)]

    def _check_silence(self, machine: Watched, update: NodeDown) -> None:
        config = machine.config
        victim = config.nodes.get(update.node) if config is not None else None
        if config is None or victim is None or not self.strict or victim.incarnation != update.incarnation:
            return
        if config.voters_version != update.voters_version or (victim.id, victim.incarnation) in self._wills:
            return
        timing = config.timing
        least_us = int((timing.lease_ms + timing.release_budget_ms) * 1000 * (1 - timing.drift_ppm / 1e6)) - 2_000
        truth = self._truth.setdefault(update.node, _Truth())
        if config.quorum.on_disk or config.quorum.former_hold_ms:
            self._check_let_go(machine, update.node, truth, victim.boot, timing, config.quorum.generation)
        if config.quorum.on_disk and not victim.unsettled:
            return
        if any(self._silent_for(electorate, victim, least_us) for electorate in self._electorates(config)):
            return
        raise Violation(
            "R3",
            f"n{machine.id} declares n{update.node} down, although no majority of {sorted(config.voters)} has heard"
            f" nothing of it for {least_us // 1000} ms at the same time",
        )

    def _silent_for(self, voters: frozenset[NodeId], victim: Node, least_us: int) -> bool:
        """Whether a majority of these voters has heard nothing of a node at the same time for so long."""
        truth = self._truth.setdefault(victim.id, _Truth())
        others = [voter for voter in voters if voter != victim.id]
        times = {voter: truth.hears_us.get((voter, victim.boot), ()) for voter in others}
        # A silence may have ended meanwhile, so every moment after which one can have begun is tried. One that was over
        # when this incarnation asked to be admitted proves nothing of it. It asked when a majority had heard it, and
        # shortly before somebody proposed to admit it.
        firsts = sorted(
            truth.first_us[voter, victim.boot] for voter in others if (voter, victim.boot) in truth.first_us
        )
        asked_us = self._admission_us.get((victim.id, victim.boot, victim.attempt), 0) - least_us
        asked_us = max([asked_us, *firsts[: len(voters) // 2]])
        for start_us in sorted({0, *(time_us for known in times.values() for time_us in known)}):
            end_us = max(start_us + least_us, asked_us)
            quiet = {voter for voter, known in times.items() if _heard_nothing(known, start_us, end_us)}
            blocked = victim.unsettled and not is_majority(voters - quiet, voters)
            if end_us <= self._now_us() and (blocked or is_majority(quiet, set(voters))):
                return True
        return False

    def _check_let_go(
        self, machine: Watched, node: NodeId, truth: _Truth, boot: int, timing: Timing, present: int
    ) -> None:
        """Nobody declares a node down that may act by a grant, or by its own hold of a disk."""
        factor = 1 - timing.drift_ppm / 1e6
        lease_us, budget_us = timing.lease_ms * factor * 1000, timing.release_budget_ms * factor * 1000
        granted_us = truth.granted_us.get(boot, -1)
        for other in self._machines():
            if other.id == node and other.config is not None and other.config.quorum.generation < present:
                # It counts by the timing that it has read of.
                lease_us = max(lease_us, other.config.timing.lease_ms * factor * 1000)
        over_us = max(granted_us + lease_us, truth.fed_us.get(present, -1))
        over_us = max([over_us, *(until + lease_us for each, until in truth.fed_us.items() if each < present)])
        if self._now_us() < over_us + budget_us - 2_000:
            raise Violation("R3", f"n{machine.id} declares n{node} down, which may still act")

    def _check_hand_over(self, group_id: GroupId, before: Config, after: Config) -> None:
        earlier, group = before.groups.get(group_id), after.groups[group_id]
        if group.owner is not None and not group.released:
            first = self._owner_of.setdefault((group_id, group.epoch), group.owner)
            if first != group.owner:
                raise Violation("R1", f"epoch {group.epoch} of group {group_id} belongs to n{first} and n{group.owner}")
        if earlier is None:
            return
        if group.epoch < earlier.epoch:
            raise Violation("R1", f"the epoch of group {group_id} went back from {earlier.epoch} to {group.epoch}")
        changed_hands = group.owner != earlier.owner or group.epoch != earlier.epoch
        if changed_hands and not earlier.released and earlier.owner is not None:
            owner = before.nodes.get(earlier.owner)
            later = after.nodes.get(earlier.owner)
            over = owner is None or later is None or not later.up or later.incarnation != owner.incarnation
            if not over:
                raise Violation("R1", f"group {group_id} was assigned anew before n{earlier.owner} had released it")
        if group.released and not earlier.released and earlier.owner is not None:
            self._check_nothing_runs(earlier.owner, f"the log says that n{earlier.owner} released {group_id}", group_id)

    def _check_nothing_runs(self, node: NodeId, why: str, group: GroupId | None = None) -> None:
        if not self.strict:
            return
        for machine in self._machines():
            if machine.id != node or self._excused(machine):
                continue
            left = [r for r in machine.all_running() if group is None or self._groups.get(r) == group]
            if left:
                raise Violation("R1", f"{why}, but {', '.join(sorted(left))} still runs there")


def _heard_nothing(known: Sequence[int], start_us: int, end_us: int) -> bool:
    """Whether none of these receptions lies in between; of what is too old to be remembered nothing is believed."""
    if len(known) == HEARD_KEPT and start_us < known[0]:
        return False
    return not any(start_us < time_us <= end_us for time_us in known)


def _updates(proposal: Proposal) -> tuple[Update, ...]:
    update = proposal.update
    return update.updates if isinstance(update, Batch) else (update,)


def _confirmed(proposal: Proposal, node: NodeId) -> bool:
    """Whether an administrator vouched for the death; nobody can check such a word."""
    return any(
        getattr(update, "node", None) == node and type(update).__name__ == "ConfirmNodeDown"
        for update in _updates(proposal)
    )
