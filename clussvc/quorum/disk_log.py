"""The log on a quorum disk: one node's part, without a device, a clock or a socket.

What the device answers, what other nodes say and the time go in; what is to be done comes out of :meth:`take`. At most
one request to the device is under way. Longer courses of action (watching, contesting, taking over, appending,
replacing the log by an image) are *tasks*, written as generators that yield requests and are sent the answers; the most
urgent one goes first, so the owner's renewal overtakes everything else.

```
               contest won                    log read, own image written
  FOLLOWING ----------------> TAKING_OVER ---------------------------------> OWNER
      ^                            |                                            |
      +---- hold over, overtaken, refused by the device, given back ------------+
```

Invariants:

* an entry is applied, answered and sent to others only after the device has said that it is durable, and only while the
  owner's hold runs at that moment. What was written and is not answered so may or may not come to be: it is unknown;
* a hold is counted from the moment at which the request to write the slot was given away, and it counts only when a
  reading begun after that writing has shown no contest for a later epoch;
* the log goes on only where it was read to its end: a damaged one is never taken over;
* the log has a last entry when the cluster changes to another quorum: whoever has applied it *retires* (owns, grants,
  appends, applies and contests no more); if it held the disk it gives it free (docs/decisions/0020);
* every node applies every entry, in order, without gaps; an owner whose log is shorter than what another node has
  applied has lost acknowledged entries, and whoever notices stops.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, unique
from typing import TYPE_CHECKING, assert_never

from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import NODE_NUMBER_MAX
from clussvc.model.settings import DiskTiming
from clussvc.quorum import arbitration, disk_layout
from clussvc.quorum.arbitration import Watch
from clussvc.quorum.disk_layout import (
    BATCH_BYTES_MAX,
    BATCH_SECTORS_MAX,
    FIRST_SLOT_SECTOR,
    GHOST_MS,
    LAST_WORDS_MS,
    SECTOR_BYTES,
    SLOT_COPIES,
    LogDamaged,
    LogPlace,
    Slot,
    Superblock,
)
from clussvc.quorum.disk_messages import (
    Answer,
    Clear,
    DiskAction,
    DiskFailed,
    DiskRequest,
    Done,
    Entries,
    Fate,
    Forward,
    GiveWay,
    Have,
    Held,
    Image,
    Leading,
    LogMessage,
    Lost,
    OwnerKnown,
    Perform,
    Preempt,
    Read,
    Register,
    Release,
    Reserve,
    Send,
    StateMachine,
    Trouble,
    Write,
)

if TYPE_CHECKING:
    import random

CHUNK_SECTORS = 256
"""Images and logs are read and written in pieces of 1 MiB, so that the owner's renewal need not wait for long."""
QUEUE_MAX = 4_096
"""Commands that may wait to be written, and proposals of this node that may wait for the owner."""
KEPT_ENTRIES_MAX = 5_000
KEPT_BYTES_MAX = 32 * 1024 * 1024
"""Entries kept for nodes that lag behind; who lags more gets an image."""
WINDOW_ENTRIES = 2_000
"""Entries sent to a node that has not confirmed them."""
MESSAGE_BYTES_MAX = 1024 * 1024
"""Of entries or image in one message, but for a single command that is longer."""
SPEAK_MS = 500
"""How often the owner tells everybody that it is, if there is nothing else to say."""
HOPELESS_MS = 10_000
"""Pause after a log that could not be taken over."""
UNSUITABLE_MS = 1_000
"""Pause after a disk was found that is not the cluster's, or cannot be used."""
RESET_LEAP = 1_000_000
"""By how much the index grows when a damaged log is given up: more than any node can have applied besides."""
RETRY_MS = 50
"""Pause after the device has failed."""
LEFT = "the cluster has another quorum now"


@dataclass(frozen=True, slots=True)
class _Say:
    """Write this node's slot. The changes are made when the device is asked, since tasks overtake each other."""

    change: Callable[[Slot], Slot]


_Request = DiskRequest | _Say
Task = Generator[_Request, bytes, None]


_BY_FORCE = "go on with another quorum by force: 'clussvc run /forcequorum:NODE,...'"


@unique
class Role(Enum):
    """What this node is to the disk."""

    FOLLOWING = "following"
    TAKING_OVER = "taking over"
    OWNER = "owner"


class _Withdrawn(Exception):
    """The contest ends here; whoever is chosen, this node goes on watching."""


@dataclass(slots=True)
class _Waiting:
    """A command that waits to be written, or for the owner's answer."""

    command: bytes
    done: Done
    deadline_ms: int
    sent: bool = False
    index: int = 0
    """Committed at this index, which this node has not applied yet; 0: nothing is known."""


@dataclass(slots=True)
class _Follower:
    """What the owner knows of another node that is connected."""

    confirmed: int = -1
    """The last index it has said to have applied; -1: it has said nothing yet."""
    sent: int = 0
    sent_ms: int = 0


@dataclass(slots=True)
class _Running:
    """A task and the request that it waits for."""

    priority: int
    task: Task
    request: _Request | None = None
    not_before_ms: int = 0


@dataclass(slots=True)
class _Receiving:
    """An image on its way to this node."""

    epoch: int
    index: int
    total: int
    pieces: list[bytes] = field(default_factory=list)


def _log_sectors(log_bytes_max: int) -> int:
    """Room for two of the longest batches at least."""
    return max(2 * BATCH_SECTORS_MAX, log_bytes_max // SECTOR_BYTES)


class QuorumDiskLog:
    """See the module. Not thread-safe: one thread owns it. ``now_ms`` never goes back."""

    def __init__(
        self,
        *,
        node: NodeId,
        boot: int,
        key: int,
        superblock: Superblock,
        timing: DiskTiming,
        state: StateMachine,
        index: int,
        log_bytes_max: int,
        rng: random.Random,
        now_ms: int,
        reset_log: bool = False,
    ) -> None:
        """``key``: of persistent reservations; 0 when the device has none. ``index``: what ``state`` holds already.
        ``reset_log``: if the log turns out to be damaged, go on with ``state``."""
        self._reset_wanted = reset_log
        self._retired = False
        self._claimed_ms = -1
        """When this node has claimed the disk last."""
        assert 1 <= node <= NODE_NUMBER_MAX
        self._node = node
        self._boot = boot
        self._key = key
        self._block = superblock
        self._timing = timing
        self._state = state
        self._index = index
        self._log_sectors = _log_sectors(log_bytes_max)
        self._rng = rng
        self._now_ms = now_ms
        self._out: list[DiskAction] = []
        self._running: list[_Running] = []
        self._busy: _Running | None = None
        self._trouble = ("", "")

        self._role = Role.FOLLOWING
        self._mine: Slot | None = None
        """This node's slot as the disk has it, or will have it when the write under way is done; None: not read yet."""
        self._last_words_ms = now_ms + LAST_WORDS_MS if boot > 1 else now_ms
        """Until then a write of an earlier life of this node may take effect."""
        self._newest_copy = 0
        self._doubtful: dict[int, int] = {}
        """Copies into which a write that was not answered may yet go, until then."""
        self._copy_under_way: int | None = None
        self._watch = Watch(node, timing.hold_ms, timing.drift_ppm)
        self._registered = False
        self._contest_wanted = False
        self._client_networks = 1
        self._next_look_ms = now_ms
        self._yielding = False

        self._epoch = 0
        self._hold_until_ms = -1
        self._bound_until_ms = -1
        """When the last hold ended, or would have; until then this node may have granted leases."""
        self._before: NodeId | None = None
        self._before_over_ms = 0
        self._next_renew_ms = 0
        self._slots_before: arbitration.Slots = {}
        self._gave_way_to: NodeId | None = None
        self._place: LogPlace | None = None
        self._position = 0
        self._queue: deque[_Waiting] = deque()
        self._writing: list[_Waiting] = []
        self._switch_due = False

        self._leader: NodeId | None = None
        self._leader_epoch = 0
        self._connected: dict[NodeId, _Follower] = {}
        self._kept: deque[bytes] = deque()
        """The last entries applied, of which the newest has the index ``_index``."""
        self._kept_bytes = 0
        self._next_speech_ms = 0
        self._receiving: _Receiving | None = None
        self._requests = 0
        self._forwarded: dict[int, _Waiting] = {}

    # --- what goes in -----------------------------------------------------------------------------------------------

    def answered(self, answer: bytes | DiskFailed, *, now_ms: int) -> None:
        """What the device says to the request under way; empty for everything but a read."""
        self._turn(now_ms)
        running, self._busy = self._busy, None
        assert running is not None, "nothing was asked"
        if self._copy_under_way is not None:
            self._slot_answered(self._copy_under_way, answer)
            self._copy_under_way = None
        if isinstance(answer, DiskFailed):
            self._say_trouble(answer.code, answer.detail)
        else:
            self._say_trouble("", "")
        self._advance(running, answer)
        self._pump()

    def tick(self, *, now_ms: int) -> None:
        """Time has passed."""
        self._turn(now_ms)
        self._pump()

    def contest(self, *, wanted: bool, client_networks: int, now_ms: int) -> None:
        """Whether this node is to look after the disk, since it does not hear the owner, and to take it if it can;
        and how many networks of clients work here."""
        self._turn(now_ms)
        if wanted and not self._contest_wanted:
            self._next_look_ms = now_ms
        self._contest_wanted, self._client_networks = wanted, client_networks
        self._pump()

    def give_back(self, *, now_ms: int) -> None:
        """This node holds nothing and grants nothing any more: let another one have the disk."""
        self._turn(now_ms)
        if self._role is not Role.FOLLOWING:
            self._yielding = True
            self._next_renew_ms = now_ms
        self._pump()

    def set_log_bytes(self, log_bytes_max: int, *, now_ms: int) -> None:
        """Let the log grow so far from now on before an image replaces it."""
        self._turn(now_ms)
        self._log_sectors = _log_sectors(log_bytes_max)
        self._pump()

    def set_timing(self, timing: DiskTiming, *, now_ms: int) -> None:
        """Use other timings from now on; a hold that runs keeps its end."""
        self._turn(now_ms)
        self._timing = timing
        self._pump()

    def propose(self, command: bytes, *, timeout_ms: int, done: Done, now_ms: int) -> None:
        """Have a command appended; ``done`` is told what became of it."""
        self._turn(now_ms)
        waiting = _Waiting(command=command, done=done, deadline_ms=now_ms + timeout_ms)
        if self._retired:
            done(Fate.NOT_APPLIED, LEFT)
        elif disk_layout.batch_room([command]) > BATCH_BYTES_MAX:
            done(Fate.NOT_APPLIED, f"a command of {len(command)} bytes is too long for the log")
        elif self._role is Role.OWNER:
            self._enqueue(waiting)
        elif self._leader is None or self._leader not in self._connected:
            done(Fate.NOT_APPLIED, "no owner of the quorum disk is known")
        elif len(self._forwarded) >= QUEUE_MAX:
            done(Fate.NOT_APPLIED, "too many proposals of this node wait already")
        else:
            self._requests += 1
            waiting.sent = True
            self._forwarded[self._requests] = waiting
            self._send(self._leader, Forward(boot=self._boot, request=self._requests, command=command))
        self._pump()

    def peer_connected(self, node: NodeId, *, now_ms: int) -> None:
        """Another node can be reached."""
        self._turn(now_ms)
        if self._retired:
            return
        self._connected[node] = _Follower()
        if self._role is Role.OWNER:
            self._send(node, Leading(epoch=self._epoch, index=self._index))
        self._pump()

    def peer_disconnected(self, node: NodeId, *, now_ms: int) -> None:
        """Another node cannot be reached any more."""
        self._turn(now_ms)
        self._connected.pop(node, None)
        if node == self._leader:
            self._follow(None, self._leader_epoch)
        self._pump()

    def received(self, sender: NodeId, message: LogMessage, *, now_ms: int) -> None:
        """Another node says something; ``sender`` is authenticated."""
        self._turn(now_ms)
        if self._retired and not isinstance(message, Forward):
            return
        match message:
            case Leading():
                self._led(sender, message.epoch)
            case Entries():
                self._take_entries(sender, message)
            case Image():
                self._take_image(sender, message)
            case Have():
                self._confirmed(sender, message)
            case Forward():
                self._take_forward(sender, message)
            case Answer():
                self._take_answer(message)
            case _:
                assert_never(message)
        self._pump()

    # --- what comes out ---------------------------------------------------------------------------------------------

    def take(self) -> list[DiskAction]:
        """What is to be done, in order."""
        out, self._out = self._out, []
        return out

    @property
    def deadline_ms(self) -> int:
        """When the next :meth:`tick` is due."""
        times = [self._now_ms + 1_000]
        if self._role is not Role.FOLLOWING:
            times += [self._hold_until_ms, self._next_renew_ms, self._next_speech_ms]
        elif self._contest_wanted and not self._retired:
            times.append(self._next_look_ms)
        times += [running.not_before_ms for running in self._running if running.not_before_ms > self._now_ms]
        times += [waiting.deadline_ms for waiting in self._forwarded.values()]
        times += [waiting.deadline_ms for waiting in self._queue]
        return max(self._now_ms + 1, min(times))

    @property
    def role(self) -> Role:
        """What this node is to the disk now."""
        return self._role

    @property
    def epoch(self) -> int:
        """The ownership under which this node acts, or did last."""
        return self._epoch

    @property
    def index(self) -> int:
        """The last entry that this node has applied."""
        return self._index

    @property
    def finished(self) -> bool:
        """Whether the last entry is applied, and nothing is left to be done."""
        return self._retired and not self._running

    @property
    def leader(self) -> NodeId | None:
        """Who owns the disk, as far as is known."""
        return self._leader

    # --- time and tasks ---------------------------------------------------------------------------------------------

    def _turn(self, now_ms: int) -> None:
        """Time passes before everything else: a hold that is over is over."""
        assert now_ms >= self._now_ms, (now_ms, self._now_ms)
        self._now_ms = now_ms
        if self._role is not Role.FOLLOWING and now_ms >= self._hold_until_ms:
            self._lose("the quorum disk did not answer in time, so this node's hold on it has ended")
        for request in [request for request, each in self._forwarded.items() if now_ms >= each.deadline_ms]:
            waiting = self._forwarded.pop(request)
            if waiting.index:
                waiting.done(Fate.COMMITTED, "committed; this node lags behind")
            else:
                waiting.done(Fate.UNKNOWN, "the owner of the quorum disk has not answered in time")
        while self._queue and now_ms >= self._queue[0].deadline_ms:
            self._queue.popleft().done(Fate.NOT_APPLIED, "the quorum disk has not answered in time")

    def _pump(self) -> None:
        """Begin what is due, and give the device its next request."""
        self._begin_due()
        if self._role is Role.OWNER:
            self._serve_followers()
        while self._busy is None:
            ready = [each for each in self._running if each.request is not None and each.not_before_ms <= self._now_ms]
            if not ready:
                return
            running = min(ready, key=lambda each: each.priority)
            request = running.request
            assert request is not None
            if isinstance(request, _Say):
                self._copy_under_way = self._usable_copy()
                if self._copy_under_way is None:
                    running.not_before_ms = max(self._last_words_ms, min(self._doubtful.values(), default=0))
                    continue
                request = self._written(request, self._copy_under_way)
            running.request, self._busy = None, running
            self._out.append(Perform(request=request))

    def _begin_due(self) -> None:
        if self._retired:
            return
        under_way = {running.priority for running in self._running}
        if self._role is Role.FOLLOWING:
            if self._contest_wanted and not under_way and self._now_ms >= self._next_look_ms:
                self._next_look_ms = self._now_ms + self._timing.poll_ms
                self._begin(2, self._look())
            return
        if 0 not in under_way and self._now_ms >= self._next_renew_ms:
            self._begin(0, self._renew())
        if self._role is Role.OWNER and 1 not in under_way and (self._queue or self._switch_due):
            self._begin(1, self._write_log())

    def _begin(self, priority: int, task: Task) -> None:
        running = _Running(priority=priority, task=task)
        self._running.append(running)
        self._advance(running, None)

    def _advance(self, running: _Running, answer: bytes | DiskFailed | None) -> None:
        """Let a task go on to its next request, or to its end."""
        if running not in self._running and answer is not None:
            # It was given up while its request was under way.
            return
        try:
            if isinstance(answer, DiskFailed):
                running.request = running.task.throw(answer)
                running.not_before_ms = self._now_ms + RETRY_MS
            elif answer is None:
                running.request = next(running.task)
            else:
                running.request = running.task.send(answer)
        except (StopIteration, _Withdrawn):
            self._end(running)
        except DiskFailed as failure:
            self._end(running)
            if failure.code == "reservation-conflict":
                self._registered = False
                if self._role is not Role.FOLLOWING:
                    self._lose(f"the quorum disk refuses this node: {failure.detail}")
            elif failure.code != "device-lost":
                # It is another disk, or a damaged one, and each look opens it anew.
                self._next_look_ms = self._now_ms + UNSUITABLE_MS
        except ClusterError as error:
            # The log cannot be taken over, or not be written any more: another node may fare better.
            self._end(running)
            self._say_trouble(error.code, error.message)
            self._next_look_ms = self._now_ms + HOPELESS_MS
            if error.code == "device-unsuitable" and self._role is not Role.FOLLOWING:
                # It is another one's disk by now; not even this node's slot may be written there.
                self._lose(error.message)
            self._yielding = self._role is not Role.FOLLOWING

    def _end(self, running: _Running) -> None:
        if running in self._running:
            self._running.remove(running)

    def _say_trouble(self, code: str, detail: str) -> None:
        if (code, detail) != self._trouble:
            self._trouble = code, detail
            self._out.append(Trouble(code=code, detail=detail))

    # --- reading and writing slots ----------------------------------------------------------------------------------

    def _read_slots(self, nodes: int = NODE_NUMBER_MAX) -> Generator[_Request, bytes, arbitration.Slots]:
        """The slots of that many nodes. Whoever contests reads all there can be."""
        data = b""
        wanted = FIRST_SLOT_SECTOR + nodes * SLOT_COPIES
        while len(data) < wanted * SECTOR_BYTES:
            done = len(data) // SECTOR_BYTES
            data += yield Read(sector=done, count=min(CHUNK_SECTORS, wanted - done))
        if not self._is_ours(data[:SECTOR_BYTES]):
            # A disk that was left, or given up, may be prepared for something else while this node does not know.
            raise ClusterError(
                "device-unsuitable",
                "the quorum disk was prepared anew, for another cluster or another quorum. Start any other node, from"
                f" which this one learns where the quorum is now; if there is none, {_BY_FORCE}; if this node is to"
                " leave its cluster, 'cluster node /forcecleanup'",
            )
        data = data[FIRST_SLOT_SECTOR * SECTOR_BYTES :]
        if self._mine is None:
            self._begin_slot(disk_layout.decode_copies(data, self._node, self._block.disk))
        return disk_layout.decode_slots(data, self._block.disk)

    def _is_ours(self, first: bytes) -> bool:
        try:
            block = disk_layout.decode_superblock(first)
        except ClusterError:
            if self._reset_wanted:
                # It is written anew with the first writing; see DeviceWorker.
                return True
            raise
        return block is not None and block.disk == self._block.disk

    def _begin_slot(self, copies: Sequence[Slot | None]) -> None:
        """What an earlier life of this node has said still binds it."""
        newest = disk_layout.newest_copy(copies)
        said = copies[newest] if newest is not None else None
        self._mine = replace(said or Slot(node=self._node), boot=self._boot, wants=False, held=False)
        self._newest_copy = newest if newest is not None else SLOT_COPIES - 1

    def _say(self, change: Callable[[Slot], Slot]) -> Task:
        yield _Say(change)

    def _usable_copy(self) -> int | None:
        """Where this node's slot can be written now: not over its newest words, if there is another place.

        Nowhere, while the last words of an earlier life may be on their way.
        """
        if self._now_ms < self._last_words_ms:
            return None
        usable = [number for number in range(SLOT_COPIES) if self._doubtful.get(number, -1) <= self._now_ms]
        others = [number for number in usable if number != self._newest_copy]
        return min(others or usable, key=lambda number: (number - self._newest_copy) % SLOT_COPIES, default=None)

    def _slot_answered(self, copy: int, answer: bytes | DiskFailed) -> None:
        if not isinstance(answer, DiskFailed):
            self._newest_copy = copy
        elif answer.code == "device-lost":
            self._doubtful[copy] = self._now_ms + GHOST_MS

    def _written(self, say: _Say, copy: int) -> Write:
        """The slot as it is to be written. It counts as said from now on, whatever the device answers."""
        assert self._mine is not None
        changed = say.change(self._mine)
        if self._role is Role.FOLLOWING and self._now_ms >= self._bound_until_ms and changed.epoch == self._mine.epoch:
            # Others need not wait for the end of a hold that is over; they would, as long as this slot moves.
            changed = replace(changed, held=False)
        # What monitors were told by a lease that was granted before the claim may run on beyond a hold.
        lasting_ms = self._timing.lease_ms - (self._now_ms - self._claimed_ms) if self._claimed_ms >= 0 else 0
        self._mine = replace(
            changed,
            counter=changed.counter + 1,
            key=self._key,
            # A hold that runs keeps its end when the timings become shorter, and others wait for what they read here.
            hold_ms=max(
                self._timing.hold_ms,
                lasting_ms,
                self._hold_until_ms - self._now_ms,
                self._bound_until_ms - self._now_ms,
            ),
            client_networks=self._client_networks,
        )
        data = disk_layout.encode_slot(self._mine, self._block.disk)
        return Write(sector=disk_layout.slot_sector(self._node, copy), data=data)

    # --- watching and contesting ------------------------------------------------------------------------------------

    def _look(self) -> Task:
        """Look at the slots once; contest, or say what this node wants."""
        slots = yield from self._read_slots()
        assert self._mine is not None
        self._watch.see(slots, self._now_ms)
        owner = self._watch.owner
        if self._watch.may_contest(self._now_ms, client_networks=self._client_networks):
            yield from self._contest(slots)
        elif owner is not None and owner.node != self._node and owner.held:
            yield from self._register()
            yield from self._say(lambda mine: replace(mine, wants=True))

    def _register(self) -> Task:
        """Who was preempted is no registrant any more and could write nothing."""
        if self._key and not self._registered:
            yield Register(key=self._key)
            self._registered = True

    def _contest(self, slots: arbitration.Slots) -> Task:
        """See :mod:`clussvc.quorum.arbitration`."""
        assert self._mine is not None
        if self._watch.owner is None and self._index < self._block.base_index:
            self._say_trouble(
                "quorum-behind",
                "the quorum disk is empty, and this node lacks entries to begin its log. Start a node that was up when"
                f" this disk was chosen; if there is none any more, {_BY_FORCE}",
            )
            return
        yield from self._register()
        epoch = arbitration.epoch_to_contest(slots, given_up=self._watch.given_up)
        ballot = arbitration.next_ballot(slots, self._node, epoch)
        if self._mine.contested != epoch:
            self._mine = replace(self._mine, accepted=0, choice=None)
        yield from self._say(lambda mine: replace(mine, wants=True, contested=epoch, ballot=ballot))
        slots = yield from self._read_slots()
        self._check_contest(slots, epoch, ballot)
        choice = arbitration.choice_of(slots, self._node, epoch)
        yield from self._say(lambda mine: replace(mine, accepted=ballot, choice=choice))
        slots = yield from self._read_slots()
        self._check_contest(slots, epoch, ballot)
        if choice != self._node:
            self._watch.chosen(epoch, self._now_ms)
            return
        yield from self._claim(slots, epoch)

    def _check_contest(self, slots: arbitration.Slots, epoch: int, ballot: int) -> None:
        moved = self._watch.see(slots, self._now_ms)
        if moved or not self._contest_wanted or arbitration.overtaken(slots, self._node, epoch):
            raise _Withdrawn
        if arbitration.outvoted(slots, self._node, epoch, ballot):
            # Two that always begin at the same time would always outvote each other.
            self._next_look_ms = self._now_ms + self._rng.randint(1, 2 * self._timing.poll_ms)
            raise _Withdrawn

    def _claim(self, slots: arbitration.Slots, epoch: int) -> Task:
        """This node is chosen: shut the owner before it out, say that the disk is taken, and read the log."""
        former = self._watch.owner
        over_ms = self._watch.over_ms()
        if self._key:
            yield from self._reserve(former, slots)
        began_ms, hold_ms, pair = self._now_ms, self._timing.hold_ms, arbitration.pair_for(slots)
        self._claimed_ms = began_ms
        yield from self._say(lambda mine: replace(mine, wants=False, epoch=epoch, held=True, pair=pair))
        said_ms = self._said_hold_ms
        slots = yield from self._read_slots()
        if arbitration.overtaken(slots, self._node, epoch):
            raise _Withdrawn
        self._role, self._epoch = Role.TAKING_OVER, epoch
        self._hold_until_ms = began_ms + min(hold_ms, said_ms)
        self._next_renew_ms = began_ms + self._timing.renew_ms
        self._before = former.node if former is not None else None
        self._before_over_ms = over_ms
        self._slots_before, self._gave_way_to, self._yielding = {}, None, False
        try:
            yield from self._take_over(arbitration.log_of(slots))
        except (DiskFailed, _Withdrawn):
            # Give it back at the next renewal; somebody else may fare better with it.
            if self._role is Role.TAKING_OVER:
                self._yielding = True
            raise

    def _reserve(self, former: Slot | None, slots: arbitration.Slots) -> Task:
        """Have the device refuse every write of the owner before."""
        if former is not None and former.key not in (0, self._key):
            yield from self._preempt(former.key)
        try:
            # Harmless when preempting has brought the reservation already.
            yield Reserve(key=self._key)
            return
        except DiskFailed as failure:
            if failure.code != "reservation-conflict":
                raise
        # Held by a node that was chosen and has never said so; who is preempted needlessly registers again.
        for slot in slots.values():
            if slot.key not in (0, self._key):
                yield from self._preempt(slot.key)
        try:
            yield Reserve(key=self._key)
        except DiskFailed as failure:
            if failure.code != "reservation-conflict":
                raise
            # By a key that no slot names, or by an earlier session of this very node, whose registration the device
            # keeps apart. Only the node that was chosen comes here, and the hold of the one before is over.
            yield Clear(key=self._key)
            yield Register(key=self._key)
            yield Reserve(key=self._key)

    def _preempt(self, victim: int) -> Task:
        try:
            yield Preempt(key=self._key, victim=victim)
        except DiskFailed as failure:
            # The victim is not registered any more, such as after a loss of power of the device.
            if failure.code != "reservation-conflict":
                raise

    # --- taking over ------------------------------------------------------------------------------------------------

    def _take_over(self, place: LogPlace | None) -> Task:
        if place is not None:
            try:
                yield from self._read_image(place)
                yield from self._replay(place)
            except ClusterError as error:
                if error.code != "quorum-damaged" or not self._reset_wanted:
                    raise
                self._begin_anew(place)
        self._reset_wanted = False
        if self._retired:
            # The cluster has another quorum, of which this node has just read.
            self._retire()
            return
        assert self._mine is not None
        yield from self._write_image(generation=0, area=2 * self._mine.pair)
        if self._role is not Role.TAKING_OVER:
            return
        self._role = Role.OWNER
        self._leader, self._leader_epoch = self._node, self._epoch
        self._receiving = None
        self._fail_forwarded("the owner of the quorum disk has changed")
        for follower in self._connected.values():
            follower.confirmed, follower.sent = -1, 0
        self._next_speech_ms = self._now_ms
        self._out.append(OwnerKnown(node=self._node))
        self._say_held()

    def _begin_anew(self, place: LogPlace) -> None:
        """An administrator has said so: what this node has goes on, and what the damaged log had besides is given up.

        The index leaps, so that every other node takes the image, whatever it has applied.
        """
        image = self._state.snapshot()
        if not image:
            raise ClusterError(
                "quorum-damaged",
                "this node has no configuration from which the log on the quorum disk could be made anew; start another"
                " node with --resetquorumlog",
            )
        self._index = max(place.tail_index, place.image_index, self._index) + RESET_LEAP
        self._state.restore(self._index, image)
        self._kept.clear()
        self._kept_bytes = 0

    def _read_image(self, place: LogPlace) -> Task:
        if place.image_index <= self._index:
            return
        start = disk_layout.area_start(self._block, place.area)
        image = b""
        while len(image) < place.image_bytes:
            done = len(image) // SECTOR_BYTES
            count = min(CHUNK_SECTORS, place.log_start - done)
            image += yield Read(sector=start + done, count=count)
        image = image[: place.image_bytes]
        if disk_layout.crc(image) != place.image_crc:
            self._damaged("the image of the configuration is damaged (its checksum differs)")
        self._state.restore(place.image_index, image)
        self._index = place.image_index
        self._kept.clear()
        self._kept_bytes = 0

    def _replay(self, place: LogPlace) -> Task:
        """Read the log to its end, and apply every entry that this node has not applied yet."""
        start = disk_layout.area_start(self._block, place.area) + place.log_start
        room = self._block.area_sectors - place.log_start
        position, index, data = 0, place.image_index, b""
        commands: list[bytes] = []
        doubtful = b""
        while True:
            found = disk_layout.decode_batch(data, place, position)
            if isinstance(found, int):
                count = min(max(found, CHUNK_SECTORS), room - position)
                if count * SECTOR_BYTES <= len(data):
                    break
                data = yield Read(sector=start + position, count=count)
                continue
            if found is None:
                break
            if found.first_index != index + 1:
                self._damaged(f"entry {found.first_index} follows entry {index}")
            commands += found.commands
            index += len(found.commands)
            if position + found.sectors > place.tail:
                doubtful += data[: found.sectors * SECTOR_BYTES]
            position += found.sectors
            data = data[found.sectors * SECTOR_BYTES :]
        count = min(BATCH_SECTORS_MAX + 1, room - position)
        data = (yield Read(sector=start + position, count=count)) if count else b""
        try:
            disk_layout.check_end(data, place, position)
        except LogDamaged as damage:
            self._damaged(str(damage))
        if index < self._index:
            self._damaged(f"the log ends at entry {index}, and this node has applied entry {self._index}")
        # What can be read need not be durable. Before anybody acts on the last entries they are written once more.
        first = position - len(doubtful) // SECTOR_BYTES
        for at in range(0, len(doubtful), CHUNK_SECTORS * SECTOR_BYTES):
            piece = doubtful[at : at + CHUNK_SECTORS * SECTOR_BYTES]
            yield Write(sector=start + first + at // SECTOR_BYTES, data=piece)
        for number, command in enumerate(commands, place.image_index + 1):
            if number > self._index and not self._retired:
                self._apply(number, command)

    def _damaged(self, what: str) -> None:
        raise ClusterError(
            "quorum-damaged",
            f"the log on the quorum disk cannot be taken over: {what}. Have a node start with --resetquorumlog, which"
            f" makes it anew from that node's own configuration, or {_BY_FORCE}",
        )

    def _write_image(self, *, generation: int, area: int) -> Task:
        """Write the whole state into an area, and say in the slot that the log goes on behind it."""
        image, index = self._state.snapshot(), self._index
        place = LogPlace(
            disk=self._block.disk,
            epoch=self._epoch,
            generation=generation,
            area=area,
            image_bytes=len(image),
            image_crc=disk_layout.crc(image),
            image_index=index,
            tail_index=index,
        )
        least = place.log_start + 2 * BATCH_SECTORS_MAX
        if least > self._block.area_sectors:
            raise ClusterError(
                "quorum-full",
                f"the configuration has {len(image)} bytes and does not fit onto the quorum disk; choose a larger"
                " one: 'cluster /quorum /path:PLACE'",
            )
        start = disk_layout.area_start(self._block, area)
        padded = image.ljust(place.log_start * SECTOR_BYTES, b"\0")
        for at in range(0, len(padded), CHUNK_SECTORS * SECTOR_BYTES):
            data = padded[at : at + CHUNK_SECTORS * SECTOR_BYTES]
            yield from self._insist(Write(sector=start + at // SECTOR_BYTES, data=data))
        while True:
            try:
                yield from self._say(lambda mine: replace(mine, log=place))
                break
            except DiskFailed as failure:
                self._unless_lost(failure)
        self._place, self._position = place, 0

    def _insist(self, request: DiskRequest) -> Task:
        """Ask until the device does it, or the hold ends."""
        while True:
            try:
                yield request
                return
            except DiskFailed as failure:
                self._unless_lost(failure)

    def _unless_lost(self, failure: DiskFailed) -> None:
        if failure.code != "device-lost" or self._role is Role.FOLLOWING:
            raise failure

    # --- owning -----------------------------------------------------------------------------------------------------

    def _renew(self) -> Task:
        """Defend: write the slot, look at the others'."""
        began_ms, epoch, hold_ms = self._now_ms, self._epoch, self._timing.hold_ms
        self._next_renew_ms = began_ms + self._timing.renew_ms
        if self._yielding:
            yield from self._say(lambda mine: replace(mine, held=False, wants=False))
            if self._key:
                yield Release(key=self._key)
            self._lose("it was given back")
            return
        try:
            yield from self._say(self._with_tail)
            said_ms = self._said_hold_ms
            slots = yield from self._read_slots(min(NODE_NUMBER_MAX, max(self._state.highest_node, self._node)))
        except DiskFailed as failure:
            if failure.code == "device-lost":
                self._next_renew_ms = self._now_ms + RETRY_MS
            raise
        if arbitration.overtaken(slots, self._node, epoch):
            self._lose("another node contests the quorum disk, since it has not seen this one renew its hold")
            return
        self._hold_until_ms = max(self._hold_until_ms, began_ms + min(hold_ms, said_ms))
        if self._role is Role.OWNER:
            self._say_held()
            self._consider_giving_way(slots)

    @property
    def _said_hold_ms(self) -> int:
        """How long this node's slot tells others to wait; the timings may have changed since a task began."""
        assert self._mine is not None
        return self._mine.hold_ms

    def _with_tail(self, mine: Slot) -> Slot:
        """How much of the log is durable for certain."""
        if self._role is not Role.OWNER or self._place is None:
            return mine
        return replace(mine, log=replace(self._place, tail=self._position, tail_index=self._index))

    def _consider_giving_way(self, slots: arbitration.Slots) -> None:
        better = arbitration.wishes_to_serve(slots, self._slots_before, self._node)
        self._slots_before = slots
        if self._client_networks:
            better = None
        if better is not None and better != self._gave_way_to:
            self._out.append(GiveWay(to=better))
        self._gave_way_to = better

    def _say_held(self) -> None:
        self._out.append(
            Held(
                epoch=self._epoch,
                until_ms=self._hold_until_ms,
                before=self._before,
                before_over_ms=self._before_over_ms,
            )
        )

    def _lose(self, because: str) -> None:
        was_owner = self._role is Role.OWNER
        self._role = Role.FOLLOWING
        self._bound_until_ms, self._hold_until_ms = self._hold_until_ms, -1
        self._yielding = self._switch_due = False
        timing = self._timing
        self._watch = Watch(self._node, timing.hold_ms, timing.drift_ppm, given_up=self._watch.given_up)
        self._next_look_ms = max(self._next_look_ms, self._now_ms + self._timing.poll_ms)
        # The answer to the request under way, if there is one, reaches nobody any more.
        self._running.clear()
        writing, self._writing = self._writing, []
        queue, self._queue = self._queue, deque()
        for waiting in writing:
            waiting.done(Fate.UNKNOWN, because)
        for waiting in queue:
            waiting.done(Fate.NOT_APPLIED, because)
        if was_owner:
            self._follow(None, self._leader_epoch)
            self._out.append(Lost(because=because))

    def _enqueue(self, waiting: _Waiting) -> None:
        if len(self._queue) >= QUEUE_MAX:
            waiting.done(Fate.NOT_APPLIED, "too many commands wait for the quorum disk already")
        else:
            self._queue.append(waiting)

    def _write_log(self) -> Task:
        """Append what waits, in one batch; before that, replace the log by an image if it is full."""
        assert self._place is not None
        commands: list[bytes] = []
        for waiting in self._queue:
            if commands and disk_layout.batch_room([*commands, waiting.command]) > BATCH_BYTES_MAX:
                break
            commands.append(waiting.command)
        room = min(self._log_sectors, self._block.area_sectors - self._place.log_start)
        if self._switch_due or self._position + disk_layout.batch_sectors(commands) > room:
            self._switch_due = False
            # The other area of the pair.
            yield from self._write_image(generation=self._place.generation + 1, area=self._place.area ^ 1)
            return
        self._writing = [self._queue.popleft() for _ in commands]
        first = self._index + 1
        data = disk_layout.encode_batch(self._place, self._position, first, commands)
        start = disk_layout.area_start(self._block, self._place.area) + self._place.log_start + self._position
        yield from self._insist(Write(sector=start, data=data))
        # The hold was checked when the answer came in; if it had ended this task would have been given up.
        assert self._role is Role.OWNER
        self._position += len(data) // SECTOR_BYTES
        written, self._writing = self._writing, []
        for number, waiting in enumerate(written):
            if self._retired:
                waiting.done(Fate.NOT_APPLIED, LEFT)
                continue
            self._apply(first + number, waiting.command)
            waiting.index = first + number
            waiting.done(Fate.COMMITTED, "")
        if self._retired:
            self._retire()

    def _apply(self, index: int, command: bytes) -> None:
        assert index == self._index + 1, (index, self._index)
        self._state.apply(index, command)
        self._retired = self._state.retired
        self._index = index
        self._kept.append(command)
        self._kept_bytes += len(command)
        while len(self._kept) > KEPT_ENTRIES_MAX or self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= len(self._kept.popleft())
        for request in [request for request, each in self._forwarded.items() if 0 < each.index <= index]:
            self._forwarded.pop(request).done(Fate.COMMITTED, "")

    # --- the end of the log -----------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """The last entry is applied. The others have it from here, from nodes that act by the new quorum already, or
        from the disk itself, which stays as it is."""
        held = self._role is not Role.FOLLOWING
        if self._role is Role.OWNER:
            for node, follower in self._connected.items():
                if follower.confirmed >= 0:
                    self._send_entries(node, follower)
        if held:
            self._lose(LEFT)
            self._begin(0, self._leave())
        self._follow(None, self._leader_epoch)

    def _leave(self) -> Task:
        """Say that the disk is free; if that fails, whoever wants it has to use force."""
        yield from self._say(lambda mine: replace(mine, held=False, wants=False))
        data = yield Read(sector=0, count=1)
        block = disk_layout.decode_superblock(data)
        if block is not None and block.disk == self._block.disk:
            yield Write(sector=0, data=disk_layout.encode_superblock(replace(block, left=True)))
        if self._key:
            yield Clear(key=self._key)

    # --- the owner and the others -----------------------------------------------------------------------------------

    def _send(self, node: NodeId, message: LogMessage) -> None:
        self._out.append(Send(node=node, message=message))

    def _serve_followers(self) -> None:
        speak = self._now_ms >= self._next_speech_ms
        if speak:
            self._next_speech_ms = self._now_ms + SPEAK_MS
        for node, follower in self._connected.items():
            if follower.confirmed >= 0:
                self._send_entries(node, follower)
            if speak:
                self._send(node, Leading(epoch=self._epoch, index=self._index))

    def _send_entries(self, node: NodeId, follower: _Follower) -> None:
        first_kept = self._index - len(self._kept) + 1
        while follower.sent < self._index and follower.sent - follower.confirmed < WINDOW_ENTRIES:
            first = follower.sent + 1
            if first < first_kept:
                self._send_image(node, follower)
                continue
            commands: list[bytes] = []
            size = 0
            for offset in range(first - first_kept, len(self._kept)):
                command = self._kept[offset]
                if commands and size + len(command) > MESSAGE_BYTES_MAX:
                    break
                commands.append(command)
                size += len(command)
            self._send(node, Entries(epoch=self._epoch, first_index=first, commands=tuple(commands)))
            follower.sent, follower.sent_ms = follower.sent + len(commands), self._now_ms

    def _send_image(self, node: NodeId, follower: _Follower) -> None:
        image = self._state.snapshot()
        total = max(1, -(-len(image) // MESSAGE_BYTES_MAX))
        for number in range(total):
            piece = image[number * MESSAGE_BYTES_MAX : (number + 1) * MESSAGE_BYTES_MAX]
            message = Image(epoch=self._epoch, index=self._index, number=number, total=total, data=piece)
            self._send(node, message)
        follower.sent, follower.sent_ms = self._index, self._now_ms

    def _confirmed(self, sender: NodeId, have: Have) -> None:
        follower = self._connected.get(sender)
        if self._role is not Role.OWNER or follower is None or have.epoch != self._epoch:
            return
        if have.index > self._index:
            raise ClusterError(
                "quorum-damaged",
                f"node {sender} has applied entry {have.index}, and the log on the quorum disk ends at {self._index}:"
                " acknowledged entries are lost. Have the node that knows most start with --resetquorumlog",
            )
        if follower.confirmed < 0 or (have.index < follower.sent and self._now_ms - follower.sent_ms >= SPEAK_MS):
            # Nothing is known to be on its way: go on from where the node is.
            follower.sent = have.index
        follower.confirmed = have.index

    def _take_forward(self, sender: NodeId, forward: Forward) -> None:
        def done(fate: Fate, detail: str) -> None:
            answer = Answer(boot=forward.boot, request=forward.request, fate=fate, index=waiting.index, detail=detail)
            self._send(sender, answer)

        waiting = _Waiting(command=forward.command, done=done, deadline_ms=self._now_ms + 10_000)
        if self._role is not Role.OWNER:
            done(Fate.NOT_APPLIED, "this node does not own the quorum disk")
        elif disk_layout.batch_room([forward.command]) > BATCH_BYTES_MAX:
            done(Fate.NOT_APPLIED, "the command is too long for the log")
        else:
            self._enqueue(waiting)

    # --- following --------------------------------------------------------------------------------------------------

    def _led(self, sender: NodeId, epoch: int) -> bool:
        """The sender says that it is the owner; False if a later one is known."""
        if epoch < self._leader_epoch or (self._role is Role.OWNER and epoch <= self._epoch):
            return False
        if self._role is not Role.FOLLOWING and epoch > self._epoch:
            self._lose("another node owns the quorum disk")
        self._follow(sender, epoch)
        self._send(sender, Have(epoch=epoch, index=self._index))
        return True

    def _follow(self, leader: NodeId | None, epoch: int) -> None:
        if (leader, epoch) == (self._leader, self._leader_epoch):
            return
        self._fail_forwarded("the owner of the quorum disk has changed, or cannot be reached")
        self._leader, self._leader_epoch = leader, epoch
        self._receiving = None
        self._out.append(OwnerKnown(node=leader))

    def _fail_forwarded(self, why: str) -> None:
        forwarded, self._forwarded = self._forwarded, {}
        for waiting in forwarded.values():
            if waiting.index:
                waiting.done(Fate.COMMITTED, "committed; this node lags behind")
            else:
                waiting.done(Fate.UNKNOWN, why)

    def _take_entries(self, sender: NodeId, entries: Entries) -> None:
        if self._leads_us(sender, entries.epoch) and entries.first_index <= self._index + 1:
            for number, command in enumerate(entries.commands):
                if entries.first_index + number == self._index + 1 and not self._retired:
                    self._apply(self._index + 1, command)
            self._send(sender, Have(epoch=entries.epoch, index=self._index))
            if self._retired:
                self._retire()

    def _leads_us(self, sender: NodeId, epoch: int) -> bool:
        return (sender, epoch) == (self._leader, self._leader_epoch) or self._led(sender, epoch)

    def _take_image(self, sender: NodeId, image: Image) -> None:
        if not self._leads_us(sender, image.epoch):
            return
        if image.number == 0:
            self._receiving = _Receiving(epoch=image.epoch, index=image.index, total=image.total)
        receiving = self._receiving
        if receiving is None or (receiving.epoch, receiving.index, len(receiving.pieces)) != (
            image.epoch,
            image.index,
            image.number,
        ):
            self._receiving = None
            return
        receiving.pieces.append(image.data)
        if len(receiving.pieces) < receiving.total:
            return
        self._receiving = None
        if image.index > self._index:
            self._state.restore(image.index, b"".join(receiving.pieces))
            self._index = image.index
            self._kept.clear()
            self._kept_bytes = 0
        self._send(sender, Have(epoch=image.epoch, index=self._index))

    def _take_answer(self, answer: Answer) -> None:
        waiting = self._forwarded.get(answer.request)
        if answer.boot != self._boot or waiting is None:
            return
        if answer.fate is Fate.COMMITTED and answer.index > self._index:
            waiting.index = answer.index
            return
        del self._forwarded[answer.request]
        waiting.done(answer.fate, answer.detail)
