"""Mutations: the product broken on purpose, one rule after another, to see that the referee notices each.

A checker that never fails proves nothing. So each mutation here takes away one thing on which a promise rests, while
the program runs and never on disk, and tells stories until a promise is seen broken; it must be within a stated number
of seeds. The same stories must end well with the product as it is (the *control*), or the mutation proves nothing.

Most of what is taken away is caught by a second layer in the product as well (a monitor's deadman, a fuse in the
journal), which is what such layers are for. Where that layer would hide the mutation it is taken away too; the sentence
of the mutation says so.

Four weaknesses are no mutations here, since no story can show them as a broken rule:

* that monitors refuse older epochs guards against commands that arrive late, and in the simulator (as in the service)
  one pipe brings them in order;
* an election without a pre-vote, or while a leader is heard, only costs time: terms and logs decide who may lead;
* two majorities that do not overlap need two changes of the voters under way at once, and the coordinator makes one;
* a follower that confirms more than was compared has nothing more: an append reaches to the end of the leader's log,
  and with the first one of a term comes an entry of that term, so what a follower holds beyond it conflicts and is cut
  off. Only logs that differ by more than one batch (1280 KB) could show it, which no story fills.

``python -m tests.simulation --mutations`` prints the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec

from clussvc import codec
from clussvc import node as node_module
from clussvc.actions import Action, FenceSelf, Reply
from clussvc.events import CommandArrived, Event, ProposalFailed
from clussvc.global_update import apply as apply_module
from clussvc.global_update import apply_node, apply_ownership, eligibility, instances
from clussvc.global_update.outcome import Result, with_groups
from clussvc.global_update.raft import guard as guard_module
from clussvc.global_update.raft import wire
from clussvc.global_update.raft.entries import Entry
from clussvc.global_update.raft.guard import Guard
from clussvc.global_update.raft.journal import Journal, JournalIdentity
from clussvc.global_update.raft.storage import AppendFile
from clussvc.global_update.update import AssignGroup, GroupReleased, NodeDown, NodeUp
from clussvc.groups import machine as machine_module
from clussvc.groups.machine import GroupMachine, Step, _Support
from clussvc.groups.placement import Hosting
from clussvc.membership import regroup
from clussvc.membership.fencing import FenceOrder, Fencing, _Attempt
from clussvc.membership.heartbeat import Heard, HeartbeatTable, _Peer
from clussvc.membership.jury import Jury
from clussvc.model import reports
from clussvc.model.config import Config, Group, Node, Resource
from clussvc.model.ids import NodeId, RequestId, ResourceId
from clussvc.model.monitoring import EverythingTerminated
from clussvc.model.records import Record
from clussvc.model.reports import Report
from clussvc.model.settings import Timing
from clussvc.model.states import NodePhase, ResourceState
from clussvc.node import NodeCore
from clussvc.resources.machine import LocalResource
from clussvc.resources.monitors import MonitorPool
from tests.simulation import log_temptations, temptations
from tests.simulation.disk_mutations import DISK_MUTATIONS
from tests.simulation.faults import UNDRAWN
from tests.simulation.machine import Machine
from tests.simulation.monitors import SimMonitor
from tests.simulation.mutation import Mutation, broken_by
from tests.simulation.quorum_mutations import QUORUM_MUTATIONS
from tests.simulation.story import tell
from tests.simulation.temptations import (
    again_and_again,
    drawn,
    tempting,
    with_fence_devices,
    with_parallel_groups,
    with_separate_monitors,
)
from tests.simulation.witness_mutations import WITNESS_MUTATIONS
from tests.simulation.world import World

UNDRAWN.update(temptations.KINDS | log_temptations.KINDS)

CPU_S_MAX = 60.0
"""Processor time after which no further seed is tried for a mutation; it then counts as not caught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caught:
    """What became of a mutation. ``seed`` is 0 when nobody noticed it."""

    name: str
    seed: int
    rule: str
    what: str
    cpu_s: float


# --- leases (R2, R4) ----------------------------------------------------------------------------------------------


def _lease_without_end(table: HeartbeatTable, voters: frozenset[NodeId], now_ms: int) -> int:
    del voters
    return now_ms + table._timing.lease_ms


def _lease_of_any_voter(table: HeartbeatTable, voters: frozenset[NodeId], now_ms: int) -> int:
    del now_ms
    return max((table.lease_until_ms(voter) for voter in voters if voter != table._node), default=-1)


_take_lease = HeartbeatTable._take_lease


def _lease_from_reception(table: HeartbeatTable, peer: _Peer, heard: Heard) -> None:
    _take_lease(table, peer, replace(heard, acknowledged_ms=heard.received_ms) if heard.acknowledged_ms else heard)


_check_lease = NodeCore._check_lease
_check_membership = NodeCore._check_membership


def _lease_gap_while_asking(core: NodeCore, at_ms: int) -> None:
    if core._phase is not NodePhase.ASKING:
        _check_lease(core, at_ms)


def _go_on_when_the_lease_is_back(core: NodeCore) -> None:
    known = core._config.nodes.get(core._node) if core._config is not None else None
    if (
        core._phase is NodePhase.ASKING
        and known is not None
        and known.up
        and known.incarnation == core._incarnation
        and core._pool.clean
        and core._quorum_until_ms() > core._now_ms
    ):
        core._enter_membership(core._incarnation)
    _check_membership(core)


_handle = NodeCore.handle
_everything_terminated = NodeCore._everything_terminated


def _handle_without_fence(core: NodeCore, event: Event, *, now_ms: int, wall_ms: int) -> tuple[Action, ...]:
    actions = _handle(core, event, now_ms=now_ms, wall_ms=wall_ms)
    return tuple(action for action in actions if not isinstance(action, FenceSelf))


def _nothing_is_left(core: NodeCore, name: str, report: EverythingTerminated) -> None:
    _everything_terminated(core, name, replace(report, left=()))


# --- silences (R3) ------------------------------------------------------------------------------------------------


def _silence_of_one_voter(
    table: HeartbeatTable, node: NodeId, voters: frozenset[NodeId], now_ms: int, *, newborn_grace_ms: int
) -> int:
    intervals = table._silence_intervals(node, voters, now_ms, newborn_grace_ms)
    return max((end - start for start, end in intervals), default=0)


def _silences_at_different_times(
    table: HeartbeatTable, node: NodeId, voters: frozenset[NodeId], now_ms: int, *, newborn_grace_ms: int
) -> int:
    lengths = sorted(
        (end - start for start, end in table._silence_intervals(node, voters, now_ms, newborn_grace_ms)), reverse=True
    )
    needed = len(voters) // 2 + 1
    return lengths[needed - 1] if len(lengths) >= needed else 0


_take_silences = HeartbeatTable._take_silences


def _silence_until_reception(table: HeartbeatTable, peer: _Peer, heard: Heard) -> None:
    _take_silences(table, peer, replace(heard, acknowledged_ms=heard.received_ms))


def _silence_as_if_always_there(table: HeartbeatTable, peer: _Peer, heard: Heard) -> None:
    hearings = tuple(replace(each, silent_ms=each.silent_ms if each.seq else 60_000) for each in heard.heartbeat.heard)
    _take_silences(table, peer, replace(heard, heartbeat=replace(heard.heartbeat, heard=hearings)))


# --- ownership (R1) -----------------------------------------------------------------------------------------------

_node_up = apply_node.node_up
_node_down = apply_node.node_down
_assign_group = apply_ownership.assign_group
_group_released = apply_ownership.group_released
_step = GroupMachine.step


def _node_up_again(config: Config, update: NodeUp, at_ms: int) -> Result:
    node = config.nodes.get(update.node)
    if node is None:
        return _node_up(config, update, at_ms)
    forgetful = replace(config, nodes={**config.nodes, node.id: replace(node, boot=0, attempt=0)})
    return _node_up(forgetful, replace(update, incarnation=node.incarnation), at_ms)


def _node_down_of_any_incarnation(config: Config, update: NodeDown, at_ms: int) -> Result:
    node = config.nodes.get(update.node)
    return _node_down(config, replace(update, incarnation=node.incarnation) if node is not None else update, at_ms)


def _assign_what_is_owned(config: Config, update: AssignGroup, at_ms: int) -> Result:
    group = config.groups.get(update.group)
    if group is None:
        return _assign_group(config, update, at_ms)
    free = replace(config, groups={**config.groups, group.id: replace(group, released=True)})
    return _assign_group(free, replace(update, epoch=group.epoch), at_ms)


def _released_of_any_epoch(config: Config, update: GroupReleased) -> Result:
    group = config.groups.get(update.group)
    return _group_released(config, replace(update, epoch=group.epoch) if group is not None else update)


def _release_at_once(
    machine: GroupMachine,
    group: Group,
    resources: list[Resource],
    now_ms: int,
    *,
    ready: Callable[[ResourceId], bool],
) -> Step:
    step = _step(machine, group, resources, now_ms, ready=ready)
    step.released = step.released or group.move is not None
    return step


def _stopped_when_failed(local: LocalResource) -> bool:
    return local.state in (ResourceState.OFFLINE, ResourceState.FAILED)


def _no_provider_is_missing(missing: set[ResourceId], resources: list[Resource]) -> set[ResourceId]:
    del missing, resources
    return set()


def _certain_if_known_online(*, holds: bool, is_certain: bool) -> _Support:
    del is_certain
    return _Support(holds=holds, is_certain=holds)


# --- profiles -------------------------------------------------------------------------------------------------------


def _silence_of_the_newest(config: Config, table: HeartbeatTable, member: Node) -> int:
    del table, member
    return config.timing.silence_ms()


def _version_read(core: NodeCore) -> int:
    return core.config.voters_version if core.config is not None else 0


# --- wills ----------------------------------------------------------------------------------------------------------

_end_with_service = SimMonitor.end_with_service


def _say_first_end_later(monitor: SimMonitor) -> None:
    if not monitor.dead:
        monitor._environment.emptied(monitor.name)
    _end_with_service(monitor)


def _the_first_sends(world: World, machine: Machine, power: int, name: str) -> None:
    del name
    if machine.power == power:
        world.send_will(machine)


# --- applying -----------------------------------------------------------------------------------------------------


def _remember_nothing(config: Config, request: RequestId, refusal: Report | None) -> dict[RequestId, Report | None]:
    del config, request, refusal
    return {}


_encode_config = codec.encode_config


def _image_without_requests(config: Config) -> bytes:
    return _encode_config(replace(config, recent={}))


# --- answers to administrators ------------------------------------------------------------------------------------

_command_arrived = NodeCore._command_arrived
_proposal_failed = NodeCore._proposal_failed
_no_quorum = reports.no_quorum


def _answer_when_proposed(core: NodeCore, event: CommandArrived) -> None:
    _command_arrived(core, event)
    if core._commands.pop(event.request, None) is not None:
        core._out.append(Reply(request=event.request, refusal=None))


def _unknown_is_refused(detail: str) -> Report:
    return _no_quorum("of this cluster", detail)


# --- the log ------------------------------------------------------------------------------------------------------

_deliver_append = Guard._deliver_append
_receive_answer = Guard._receive_answer
_receive_vote_request = Guard._receive_vote_request
_receive_pre_vote = Guard._receive_pre_vote
_sync = Journal.sync
_load = Journal._load
_truncate_from = Journal._truncate_from


def _deliver_untrimmed(guard: Guard, sender: int, message: wire.Append, entries: list[Entry]) -> None:
    prev, prev_term = message.prev_index, message.prev_term
    journal = guard._journal
    if prev is None or prev_term is None or prev < journal.first_index or journal.term_at(prev) != prev_term:
        _deliver_append(guard, sender, message, entries)
        return
    assert guard._reply is not None
    guard._reply.verified = prev + len(entries)
    guard._deliver(
        sender,
        {
            "type": "append_entries",
            "term": message.term,
            "commit_index": min(message.commit, prev + len(entries)),
            "prevLogIdx": prev,
            "prevLogTerm": prev_term,
            "entries": entries,
        },
    )


def _truncate_without_fuse(journal: Journal, index: int) -> None:
    journal._floor = 0
    _truncate_from(journal, index)


def _commit_all_that_is_there(guard: Guard, sender: int, term: int) -> None:
    guard._deliver(
        sender,
        {
            "type": "append_entries",
            "term": term,
            "commit_index": guard._journal.last_index,
            "entries": [],
            "serialized": None,
        },
    )


def _answer_of_any_term(guard: Guard, sender: int, message: wire.Reply | wire.ChunkReply) -> None:
    term = max(message.term, guard._term)
    _receive_answer(guard, sender, msgspec.structs.replace(message, term=term))


def _vote_for_anybody(guard: Guard, sender: int, message: wire.VoteRequest) -> None:
    _receive_vote_request(guard, sender, msgspec.structs.replace(message, last_term=2**60, last_index=2**60))


def _encourage_anybody(guard: Guard, sender: int, message: wire.PreVote) -> None:
    _receive_pre_vote(guard, sender, msgspec.structs.replace(message, last_term=2**60, last_index=2**60))


class _NeverSynced:
    """A file whose content reaches the disk when the system likes."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def sync(self) -> None:
        """Not done."""

    def close(self) -> None:
        self._file.close()


def _sync_nothing(journal: Journal) -> bool:
    file, journal._file = journal._file, _NeverSynced(journal._file)
    try:
        return _sync(journal)
    finally:
        journal._file = file


def _load_without_vote(journal: Journal, data: bytes, expected: JournalIdentity) -> int:
    size = _load(journal, data, expected)
    journal._voted_for = None
    return size


def _load_term_of_entries(journal: Journal, data: bytes, expected: JournalIdentity) -> int:
    size = _load(journal, data, expected)
    journal._term, journal._voted_for = max(journal._term, journal.last_term), None
    return size


def _keep_term_in_memory(journal: Journal, term: int, voted_for: str | None) -> None:
    journal._term, journal._voted_for = term, voted_for


# --- fencing ------------------------------------------------------------------------------------------------------

_fence_ended = Fencing.ended


def _believe_failures(fencing: Fencing, ticket: int, *, off: bool, detail: str, now_ms: int) -> None:
    del off
    _fence_ended(fencing, ticket, off=True, detail=detail, now_ms=now_ms)


_fence_next = Fencing._next


def _fenced_by_the_order(
    fencing: Fencing, config: Config, table: HeartbeatTable, member: Node, attempt: _Attempt, now_ms: int
) -> FenceOrder | None:
    order = _fence_next(fencing, config, table, member, attempt, now_ms)
    if order is not None:
        _fence_ended(fencing, order.ticket, off=True, detail="", now_ms=now_ms)
    return order


_declare_down = regroup.declare_down


def _declare_down_by_silence(
    config: Config, table: HeartbeatTable, *, node: NodeId, jury: Jury, now_ms: int
) -> tuple[NodeDown, ...]:
    return _declare_down(replace(config, fencing_required=False), table, node=node, jury=jury, now_ms=now_ms)


# --- parallel groups ----------------------------------------------------------------------------------------------


def _remove_at_once(
    config: Config, pattern: Group, present: list[Group], count: int
) -> tuple[Config, tuple[Record, ...]]:
    chosen = sorted(present, key=lambda each: (each.owned is not None, -each.instance))[:count]
    freed = [replace(each, released=True) for each in chosen]
    return _remove(with_groups(config, freed), pattern, freed, len(freed))


_remove = instances._remove


# --- coming back --------------------------------------------------------------------------------------------------

_termination_failed = LocalResource.termination_failed


def _propose_once(core: NodeCore, event: ProposalFailed) -> None:
    outstanding = dict(core._outstanding)
    _proposal_failed(core, event)
    core._outstanding |= {key: found for key, found in outstanding.items() if found[0] == event.request}


def _terminate_once(local: LocalResource, detail: str, now_ms: int) -> None:
    _termination_failed(local, detail, now_ms)
    local.terminating, local.terminate_again_ms = True, None


# --- the table ----------------------------------------------------------------------------------------------------

_RUNS = frozenset({"R1", "R2", "one owner"})
"""However it begins, something runs where it must not."""

_CUTS = {"partition": 2.0, "isolation": 2.0, "one-way cut": 2.0, "cut links": 2.0, "swizzled links": 1.0}
_STOPS = {"stopped service": 2.0, "stalled core": 2.0, "crash": 1.0, "crash of a service": 1.0}
_WORK = {"administration": 6.0}
_POWER = {"crash": 2.0, "crash of several": 3.0, "crash while writing": 1.0}

_NO_LAST_RESORT = (SimMonitor, "_use_last_resort", lambda monitor: None)
"""It would hide what the service itself does not do."""

MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="lease without end",
        breaks="R2",
        what="A node takes its lease for running, and feeds its monitors, although nobody hears it.",
        caught_as=_RUNS,
        broken=broken_by((HeartbeatTable, "quorum_until_ms", _lease_without_end)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="lease of a minority",
        breaks="R2",
        what="One voter that hears a node is enough for its quorum, among five.",
        caught_as=_RUNS,
        broken=broken_by((HeartbeatTable, "quorum_until_ms", _lease_of_any_voter)),
        plot=drawn(nodes=5),
        seeds_max=10,
    ),
    Mutation(
        name="lease from reception",
        breaks="R2",
        what="An acknowledged heartbeat extends the lease from when the answer came, not from when it was sent.",
        caught_as=_RUNS,
        broken=broken_by((HeartbeatTable, "_take_lease", _lease_from_reception)),
        plot=again_and_again("one-way cut", every_ms=5_000, for_ms=(2_000, 3_000), picks={2: 0.6}),
        seeds_max=10,
    ),
    Mutation(
        name="lease that comes back",
        breaks="R2",
        what="A node that had lost its lease goes on as the same incarnation when the lease is back.",
        caught_as=_RUNS,
        broken=broken_by((NodeCore, "_check_membership", _go_on_when_the_lease_is_back)),
        plot=again_and_again("streams come back later", every_ms=4_000, for_ms=(1_050, 1_300)),
        seeds_max=10,
    ),
    Mutation(
        name="gap in the lease while asking",
        breaks="R2",
        what="An admission counts although the lease had a gap since it was asked for.",
        caught_as=_RUNS,
        broken=broken_by((NodeCore, "_check_lease", _lease_gap_while_asking)),
        plot=again_and_again("admission is read late", every_ms=4_500, for_ms=(300, 600)),
        seeds_max=10,
    ),
    Mutation(
        name="no deadman",
        breaks="R4",
        what="Monitors go on when the service that fed them stands still (in the simulated monitors).",
        caught_as=_RUNS,
        broken=broken_by((SimMonitor, "_fire", lambda monitor, until_ms: None)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="no fence",
        breaks="R4",
        what="A node that cannot terminate something does not fence itself, and neither do its monitors.",
        caught_as=_RUNS,
        broken=broken_by((NodeCore, "handle", _handle_without_fence), _NO_LAST_RESORT),
        plot=again_and_again("isolated with what cannot be killed", every_ms=4_000, for_ms=(1_000, 2_000)),
        seeds_max=10,
    ),
    Mutation(
        name="no last resort",
        breaks="R4",
        what="A monitor whose service is dead does not end its machine when what it runs does not end.",
        caught_as=_RUNS,
        broken=broken_by(_NO_LAST_RESORT),
        plot=again_and_again("killed with what cannot be killed", every_ms=4_000, for_ms=(2_000, 3_000)),
        seeds_max=10,
    ),
    Mutation(
        name="will before the end",
        breaks="R1",
        what="The monitors of a dead service say that nothing runs before they have terminated it.",
        caught_as=_RUNS,
        broken=broken_by((SimMonitor, "end_with_service", _say_first_end_later)),
        plot=tempting({"crash of a service": 1.0}),
        seeds_max=10,
    ),
    Mutation(
        name="will of the first monitor",
        breaks="R1",
        what="The first monitor that has terminated everything sends the will, and not the last.",
        caught_as=_RUNS,
        broken=broken_by((World, "_monitor_emptied", _the_first_sends)),
        plot=with_separate_monitors(tempting({"crash of a service": 1.0})),
        seeds_max=10,
    ),
    Mutation(
        name="what is left does not count",
        breaks="R4",
        what="A monitor that could not terminate everything is taken for clean, and has no last resort.",
        caught_as=_RUNS,
        broken=broken_by((NodeCore, "_everything_terminated", _nothing_is_left), _NO_LAST_RESORT),
        plot=again_and_again("isolated with what cannot be killed", every_ms=4_000, for_ms=(1_000, 2_000)),
        seeds_max=10,
    ),
    Mutation(
        name="any end of an agent counts",
        breaks="R1",
        what="A node counts as fenced when its fence agent has ended, whatever it said.",
        caught_as=_RUNS,
        broken=broken_by((Fencing, "ended", _believe_failures)),
        plot=with_fence_devices(again_and_again("stopped service and monitor", every_ms=4_000, for_ms=(2_000, 3_000))),
        seeds_max=10,
    ),
    Mutation(
        name="fenced without a device",
        breaks="R1",
        what="A node counts as fenced as soon as the order is given.",
        caught_as=_RUNS,
        broken=broken_by((Fencing, "_next", _fenced_by_the_order)),
        plot=with_fence_devices(again_and_again("stopped service and monitor", every_ms=4_000, for_ms=(2_000, 3_000))),
        seeds_max=10,
    ),
    Mutation(
        name="silence where fencing is required",
        breaks="R1",
        what="A silent node counts as down although it has to be fenced first.",
        caught_as=_RUNS,
        broken=broken_by((regroup, "declare_down", _declare_down_by_silence)),
        plot=with_fence_devices(again_and_again("stopped service and monitor", every_ms=4_000, for_ms=(2_000, 3_000))),
        seeds_max=10,
    ),
    Mutation(
        name="down after the lease",
        breaks="R3",
        what="A node is declared down when its lease must be over; the release budget is not waited for.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((Timing, "silence_ms", lambda timing: timing.lease_ms + 1)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="down after a moment",
        breaks="R3",
        what="A node is declared down after three tenths of the time.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((Timing, "silence_ms", lambda timing: 3 * (timing.lease_ms + timing.release_budget_ms) // 10)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="down by one voter",
        breaks="R3",
        what="The silence that one voter reports is enough to declare a node down.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((HeartbeatTable, "common_silence_ms", _silence_of_one_voter)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="judged by the newest profile",
        breaks="R3",
        what="A node that has not read of a faster profile is declared down by the silence of that one.",
        caught_as=_RUNS,
        broken=broken_by((regroup, "silence_needed_ms", _silence_of_the_newest)),
        plot=again_and_again("faster behind its back", every_ms=8_000, for_ms=(1_000, 2_000)),
        seeds_max=10,
    ),
    Mutation(
        name="faster at once",
        breaks="R3",
        what="A node says that it acts by a faster profile while leases of the former one run.",
        caught_as=_RUNS,
        broken=broken_by((NodeCore, "_version_said", property(_version_read))),
        plot=again_and_again("faster and then stopped", every_ms=6_000, for_ms=(1_000, 2_000)),
        seeds_max=20,
    ),
    Mutation(
        name="silences at different times",
        breaks="R3",
        what="The silences of a majority count although they were not at the same time.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((HeartbeatTable, "common_silence_ms", _silences_at_different_times)),
        plot=again_and_again("silences in turn", every_ms=5_000, for_ms=(1_600, 2_400)),
        seeds_max=20,
    ),
    Mutation(
        name="silence until reception",
        breaks="R3",
        what="A reported silence is taken to last until the report came, though it may have been written long before.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((HeartbeatTable, "_take_silences", _silence_until_reception)),
        plot=again_and_again("slow report", every_ms=4_500, for_ms=(850, 950)),
        seeds_max=10,
    ),
    Mutation(
        name="silence from before birth",
        breaks="R3",
        what="A service that was started anew reports that it has never heard the others, as if it had listened.",
        caught_as=frozenset({"R3"}),
        broken=broken_by((HeartbeatTable, "_take_silences", _silence_as_if_always_there)),
        plot=again_and_again("born into silence", every_ms=4_500, for_ms=(350, 550)),
        seeds_max=10,
    ),
    Mutation(
        name="asks before it is clean",
        breaks="R2",
        what="A node asks to be admitted anew while it still terminates what it ran.",
        caught_as=_RUNS,
        broken=broken_by((MonitorPool, "clean", property(lambda pool: True))),
        plot=drawn(),
        seeds_max=20,
    ),
    Mutation(
        name="released too early",
        breaks="R1",
        what="An owner says that it let a group go when it begins to stop it.",
        caught_as=_RUNS,
        broken=broken_by((GroupMachine, "step", _release_at_once)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="failed means stopped",
        breaks="R1",
        what="A failed resource counts as stopped before it was terminated.",
        caught_as=_RUNS,
        broken=broken_by((LocalResource, "stopped", property(_stopped_when_failed))),
        plot=drawn(),
        seeds_max=20,
    ),
    Mutation(
        name="admitted twice",
        breaks="R1",
        what="A request for admission that was granted is granted again when it reaches the log a second time.",
        caught_as=_RUNS,
        broken=broken_by((apply_node, "node_up", _node_up_again)),
        plot=tempting(
            {"isolation": 1.0, "move": 1.0}, rate_per_s=4.0, for_ms=(900, 1_500), throughout="late proposals"
        ),
        seeds_max=10,
    ),
    Mutation(
        name="death of any incarnation",
        breaks="R1",
        what="A declared death of an earlier incarnation ends the present one.",
        caught_as=_RUNS,
        broken=broken_by((apply_node, "node_down", _node_down_of_any_incarnation)),
        plot=tempting(
            {"isolation": 1.0, "move": 2.0}, rate_per_s=4.0, for_ms=(900, 1_500), throughout="late proposals"
        ),
        seeds_max=10,
    ),
    Mutation(
        name="assigned though owned",
        breaks="R1",
        what="A group is assigned on an epoch that is over, though it is not released.",
        caught_as=_RUNS,
        broken=broken_by((apply_ownership, "assign_group", _assign_what_is_owned)),
        plot=tempting(
            {"isolation": 1.0, "move": 1.0}, rate_per_s=4.0, for_ms=(900, 1_500), throughout="late proposals"
        ),
        seeds_max=10,
    ),
    Mutation(
        name="release of any epoch",
        breaks="R1",
        what="An owner's word that it let a group go counts for a later epoch as well.",
        caught_as=_RUNS,
        broken=broken_by((apply_ownership, "group_released", _released_of_any_epoch)),
        plot=tempting({"move": 1.0}, rate_per_s=4.0, for_ms=(900, 1_500), throughout="late proposals"),
        seeds_max=10,
    ),
    Mutation(
        name="start without provider",
        breaks="dependencies",
        what="A resource is started while one that it depends on is not online.",
        caught_as=frozenset({"dependencies"}),
        broken=broken_by((machine_module, "_above", _no_provider_is_missing)),
        plot=drawn(),
        seeds_max=10,
    ),
    Mutation(
        name="start on what a dead monitor ran",
        breaks="dependencies",
        what="A resource is started on one whose monitor has died, as long as nobody has said that it is gone.",
        caught_as=frozenset({"dependencies"}),
        broken=broken_by((machine_module, "_Support", _certain_if_known_online)),
        plot=with_separate_monitors(tempting({"killed monitor": 1.0})),
        seeds_max=20,
    ),
    Mutation(
        name="requests not remembered",
        breaks="applied once",
        what="A change that was proposed twice takes effect twice.",
        caught_as=frozenset({"applied once"}),
        broken=broken_by((apply_module, "_remember", _remember_nothing)),
        plot=drawn(log="raft"),
        seeds_max=30,
    ),
    Mutation(
        name="snapshot without requests",
        breaks="equal state",
        what="The image of the state leaves out which requests were applied.",
        caught_as=frozenset({"equal state"}),
        broken=broken_by((codec, "encode_config", _image_without_requests)),
        plot=drawn(log="raft"),
        seeds_max=30,
    ),
    Mutation(
        name="done when proposed",
        breaks="acknowledged",
        what="An administrator is told that a change is done when it is handed to the log.",
        caught_as=frozenset({"acknowledged"}),
        broken=broken_by((NodeCore, "_command_arrived", _answer_when_proposed)),
        plot=drawn(),
        seeds_max=5,
    ),
    Mutation(
        name="unknown means refused",
        breaks="acknowledged",
        what="An administrator is told that nothing was changed when nobody knows.",
        caught_as=frozenset({"acknowledged"}),
        broken=broken_by((reports, "outcome_unknown", _unknown_is_refused)),
        plot=drawn(log="raft"),
        seeds_max=30,
    ),
    Mutation(
        name="matching entries cut off",
        breaks="log",
        what="An append cuts off entries that match and follow it; the journal's fuse is taken out as well.",
        caught_as=frozenset({"one log", "acknowledged", "equal state"}),
        broken=broken_by(
            (Guard, "_deliver_append", _deliver_untrimmed), (Journal, "_truncate_from", _truncate_without_fuse)
        ),
        plot=again_and_again("power fails in a cut", every_ms=8_000, for_ms=(4_000, 5_000), log="raft"),
        seeds_max=20,
    ),
    Mutation(
        name="no sync before a reply",
        breaks="log",
        what="Messages leave before the journal has reached the disk.",
        caught_as=frozenset({"one log", "one leader", "acknowledged", "equal state"}),
        broken=broken_by((Journal, "sync", _sync_nothing)),
        plot=tempting(_POWER | _WORK, log="raft", for_ms=(100, 1_000)),
        seeds_max=30,
    ),
    Mutation(
        name="vote forgotten",
        breaks="log",
        what="A node does not know after a restart for whom it has voted in this term.",
        caught_as=frozenset({"one log", "one leader"}),
        broken=broken_by((Journal, "_load", _load_without_vote)),
        plot=again_and_again(
            "power fails after a vote", every_ms=8_000, for_ms=(4_000, 5_000), picks={2: 0.0}, log="raft"
        ),
        seeds_max=10,
    ),
    Mutation(
        name="term forgotten",
        breaks="log",
        what="A node has after a restart only the term of its newest entry.",
        caught_as=frozenset({"one log", "one leader"}),
        broken=broken_by((Journal, "_load", _load_term_of_entries), (Journal, "setCurrentTerm", _keep_term_in_memory)),
        plot=again_and_again(
            "power fails after a vote", every_ms=8_000, for_ms=(4_000, 5_000), picks={2: 1.0}, log="raft"
        ),
        seeds_max=10,
    ),
    Mutation(
        name="snapshot moves the commit",
        breaks="log",
        what="A piece of a snapshot commits whatever entries a node has (in pieces of 1 KB: one is not the whole).",
        caught_as=frozenset({"one log"}),
        broken=broken_by((Guard, "_deliver_alive", _commit_all_that_is_there), (guard_module, "CHUNK_BYTES", 1_024)),
        plot=again_and_again(
            "leader works alone", every_ms=8_000, for_ms=(4_000, 5_000), log="raft", compaction_entries=60
        ),
        seeds_max=20,
    ),
    Mutation(
        name="answers of any term",
        breaks="log",
        what="A leader counts answers that were given to it in an earlier term.",
        caught_as=frozenset({"one log", "acknowledged"}),
        broken=broken_by((Guard, "_receive_answer", _answer_of_any_term)),
        plot=again_and_again(
            "answer of a former term", every_ms=9_000, for_ms=(6_500, 7_000), log="raft", nodes=5, until_ms=14_000
        ),
        seeds_max=20,
    ),
    Mutation(
        name="votes for anybody",
        breaks="log",
        what="A candidate that lacks entries gets votes.",
        caught_as=frozenset({"one log", "acknowledged"}),
        broken=broken_by(
            (Guard, "_receive_vote_request", _vote_for_anybody), (Guard, "_receive_pre_vote", _encourage_anybody)
        ),
        plot=tempting(_CUTS | _POWER | _WORK, log="raft", for_ms=(100, 2_000)),
        seeds_max=30,
    ),
    Mutation(
        name="two instances on a node",
        breaks="one instance",
        what="Neither the planner nor the log minds whether a node has another instance of a parallel group.",
        caught_as=frozenset({"one instance"}),
        broken=broken_by(
            (eligibility, "occupied", lambda config, group, node_id: None),
            (Hosting, "occupied_by", lambda hosting, group, node: None),
        ),
        plot=with_parallel_groups(drawn()),
        seeds_max=10,
    ),
    Mutation(
        name="instances end unasked",
        breaks="R1",
        what="An instance too many disappears from the log although its owner has not let it go.",
        caught_as=_RUNS,
        broken=broken_by((instances, "_remove", _remove_at_once)),
        plot=with_parallel_groups(drawn()),
        seeds_max=20,
    ),
    Mutation(
        name="epochs of instances forgotten",
        breaks="R1",
        what="An instance that comes again begins with the epochs that it had before.",
        caught_as=_RUNS,
        broken=broken_by((instances, "_newest_epoch", lambda pattern, gone: pattern.epoch)),
        plot=with_parallel_groups(drawn()),
        seeds_max=20,
    ),
    Mutation(
        name="proposed once",
        breaks="coming back",
        what="What a service has proposed and what was lost is never proposed again.",
        caught_as=frozenset({"liveness"}),
        broken=broken_by(
            (NodeCore, "_proposal_failed", _propose_once), (node_module, "PROPOSAL_TIMEOUT_MS", 10_000_000)
        ),
        plot=drawn(),
        seeds_max=30,
    ),
    Mutation(
        name="terminated once",
        breaks="coming back",
        what="What could not be terminated is not terminated again.",
        caught_as=frozenset({"liveness"}),
        broken=broken_by((LocalResource, "termination_failed", _terminate_once)),
        plot=tempting({"unwilling resource": 3.0, "administration": 1.0}),
        seeds_max=30,
    ),
    *DISK_MUTATIONS,
    *WITNESS_MUTATIONS,
    *QUORUM_MUTATIONS,
)


# --- the command --------------------------------------------------------------------------------------------------


def named(name: str) -> Mutation:
    """The mutation of that name."""
    return next(mutation for mutation in MUTATIONS if mutation.name == name)


def hunt(name: str) -> Caught:
    """Tell stories of a broken product until a promise is seen broken."""
    mutation = named(name)
    begin_s = time.process_time()
    for seed in range(1, mutation.seeds_max + 1):
        with mutation.broken():
            ending = tell(mutation.plot(seed))
        if ending.rule in mutation.caught_as:
            passed_s = time.process_time() - begin_s
            return Caught(name=name, seed=seed, rule=ending.rule, what=ending.what.splitlines()[0], cpu_s=passed_s)
        if time.process_time() - begin_s > CPU_S_MAX:
            break
    return Caught(name=name, seed=0, rule="", what="", cpu_s=time.process_time() - begin_s)
