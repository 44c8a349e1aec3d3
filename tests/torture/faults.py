"""The nemesis: what is done to the machines, when, and for how long; all of it drawn from the seed.

Two lanes run at the same time: one for the network, one for everything else, so that a service may be killed while its
machine is cut off. Within a lane one fault follows the other, with rests between. Kinds come from a shuffled deck: each
occurs once before any occurs again. Now and then both lanes rest until the cluster has recovered, which it must do
within a stated time. Every fault is undone; only the restart of services is left to the keeper, as to systemd.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from tests.cluster.lab import Node
from tests.torture.machines import Keeper
from tests.torture.overlaps import Pause

LENGTH_S: Final = (1.0, 8.0)
"""How long a fault lasts that has a length."""
REST_S: Final = (2.0, 8.0)
"""Between two faults of a lane."""
RECOVERY_EVERY_S: Final = (20.0, 45.0)
"""How often the cluster is left alone until it has recovered."""
RECOVERY_LIMIT_S: Final = 90.0
"""How long that may take on a machine that is busy with other things; it takes a few seconds."""

Heal = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done."""

    kind: str
    what: str
    heal: Heal | None = None
    """None: it is over already."""


class Nemesis:
    """Begins and ends faults; to be asked often what is due."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        kinds: Sequence[str],
        chance: random.Random,
        recovered: Callable[[], str],
        say: Callable[[str], None],
    ) -> None:
        """``recovered`` says what is missing; empty when all is well."""
        assert set(kinds) <= set(KINDS), kinds
        self.counts: Counter[str] = Counter()
        self.pauses: list[Pause] = []
        self.recoveries_s: list[float] = []
        self.stuck: list[str] = []
        self._keeper = keeper
        self._chance = chance
        self._recovered = recovered
        self._say = say
        self._lanes = [
            _Lane(self, [kind for kind in kinds if kind in NETWORK]),
            _Lane(self, [kind for kind in kinds if kind not in NETWORK]),
        ]
        self._recover_at_s = time.monotonic() + chance.uniform(*RECOVERY_EVERY_S)
        self._recovering_since_s: float | None = None

    def tick(self) -> None:
        """Do what is due at this moment."""
        now_s = time.monotonic()
        if now_s >= self._recover_at_s:
            self._wait_for_recovery(now_s)
            return
        for lane in self._lanes:
            lane.tick(now_s)

    def _wait_for_recovery(self, now_s: float) -> None:
        """Nothing new begins, what goes on ends in its time; then the clock runs."""
        active = [lane for lane in self._lanes if lane.active]
        for lane in active:
            lane.tick(now_s)
        if active:
            return
        if self._recovering_since_s is None:
            self._recovering_since_s = now_s
        missing = self._recovered()
        taken_s = now_s - self._recovering_since_s
        if missing and taken_s <= RECOVERY_LIMIT_S:
            return
        if missing:
            self.stuck.append(f"not recovered {taken_s:.0f} s after the last fault: {missing}")
            self._say(self.stuck[-1])
        else:
            self.recoveries_s.append(taken_s)
        self._recovering_since_s = None
        self._recover_at_s = now_s + self._chance.uniform(*RECOVERY_EVERY_S)

    def stop(self) -> None:
        """End what goes on."""
        for lane in self._lanes:
            lane.heal()

    # --- what lanes ask for -----------------------------------------------------------------------------------------

    def begin(self, kind: str) -> Fault | None:
        """Do it now; None if there is nothing to do it to."""
        fault = KINDS[kind](self)
        if fault is not None:
            self.counts[kind] += 1
            self._say(f"{kind}: {fault.what}")
        return fault

    def length_s(self, limits: tuple[float, float]) -> float:
        return self._chance.uniform(*limits)

    def shuffled(self, kinds: Sequence[str]) -> list[str]:
        return self._chance.sample(kinds, len(kinds))

    def _nodes(self) -> list[Node]:
        return [node for node in self._keeper.lab.nodes if self._keeper.runs(node)]

    def _one(self) -> Node | None:
        nodes = self._nodes()
        return self._chance.choice(nodes) if nodes else None

    # --- processes and machines -------------------------------------------------------------------------------------

    def kill(self) -> Fault | None:
        return self._kill("kill", 1)

    def kill_some(self) -> Fault | None:
        return self._kill("kill-some", max(2, (len(self._keeper.lab.nodes) - 1) // 2))

    def kill_all(self) -> Fault | None:
        return self._kill("kill-all", len(self._keeper.lab.nodes))

    def _kill(self, kind: str, count: int) -> Fault | None:
        nodes = self._nodes()
        victims = self._chance.sample(nodes, min(count, len(nodes)))
        if not victims:
            return None
        self._keeper.kill_services(victims)
        return Fault(kind=kind, what=f"the services of {_named(victims)}")

    def crash(self) -> Fault | None:
        node = self._one()
        if node is None:
            return None
        self._keeper.crash(node)
        return Fault(kind="crash", what=f"power failure of {node.name}", heal=node.boot)

    def stop_service(self) -> Fault | None:
        node = self._one()
        pid = node.service() if node else None
        if node is None or pid is None:
            return None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
        return Fault(kind="stop", what=f"SIGSTOP of the service of {node.name}", heal=node.thaw)

    def pause(self) -> Fault | None:
        node = self._one()
        if node is None:
            return None
        from_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        node.freeze()

        def thaw() -> None:
            node.thaw()
            to_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.pauses.append(Pause(node=node.name, from_ns=from_ns, to_ns=to_ns))

        return Fault(kind="pause", what=f"{node.name} stands still as a whole", heal=thaw)

    def monitor_kill(self) -> Fault | None:
        node = self._one()
        monitors = node.monitors() if node else []
        if node is None or not monitors:
            return None
        with suppress(ProcessLookupError):
            os.kill(self._chance.choice(monitors), signal.SIGKILL)
        return Fault(kind="monitor-kill", what=f"a resource monitor of {node.name}")

    def full_disk(self) -> Fault | None:
        names = sorted(self._keeper.disks)
        if not names:
            return None
        name = self._chance.choice(names)
        disk = self._keeper.disks[name]
        disk.fill()
        return Fault(kind="full-disk", what=f"no byte is free on {name}", heal=disk.free)

    # --- the network ------------------------------------------------------------------------------------------------

    def partition(self) -> Fault | None:
        nodes = self._keeper.lab.nodes
        side = self._chance.sample(nodes, self._chance.randint(1, len(nodes) - 1))
        rest = [node for node in nodes if node not in side]
        pairs = [(one, other) for one in side for other in rest]
        both = pairs + [(other, one) for one, other in pairs]
        return self._lose("partition", both, f"{_named(side)} | {_named(rest)}")

    def one_way(self) -> Fault | None:
        node = self._chance.choice(self._keeper.lab.nodes)
        others = [other for other in self._keeper.lab.nodes if other is not node]
        some = self._chance.sample(others, self._chance.randint(1, len(others)))
        if self._chance.random() < 0.5:
            pairs, what = [(node, other) for other in some], f"{node.name} is not heard by {_named(some)}"
        else:
            pairs, what = [(other, node) for other in some], f"{node.name} does not hear {_named(some)}"
        return self._lose("one-way", pairs, what)

    def _lose(self, kind: str, pairs: Sequence[tuple[Node, Node]], what: str) -> Fault | None:
        lost = [(sender, receiver) for sender, receiver in pairs if sender.up]
        for sender, receiver in lost:
            self._keeper.lose(sender, receiver)

        def heal() -> None:
            for sender, receiver in lost:
                self._keeper.deliver(sender, receiver)

        return Fault(kind=kind, what=what, heal=heal) if lost else None


KINDS: Final[Mapping[str, Callable[[Nemesis], Fault | None]]] = {
    "kill": Nemesis.kill,
    "kill-some": Nemesis.kill_some,
    "kill-all": Nemesis.kill_all,
    "crash": Nemesis.crash,
    "stop": Nemesis.stop_service,
    "pause": Nemesis.pause,
    "partition": Nemesis.partition,
    "one-way": Nemesis.one_way,
    "full-disk": Nemesis.full_disk,
    "monitor-kill": Nemesis.monitor_kill,
}
"""All kinds of faults by their names."""

NETWORK: Final = frozenset({"partition", "one-way"})


class _Lane:
    """One fault after the other."""

    def __init__(self, nemesis: Nemesis, kinds: Sequence[str]) -> None:
        self._nemesis = nemesis
        self._kinds = kinds
        self._deck: Iterator[str] = iter(())
        self._fault: Fault | None = None
        self._next_s = time.monotonic() + nemesis.length_s(REST_S)

    @property
    def active(self) -> bool:
        """Whether a fault goes on."""
        return self._fault is not None

    def tick(self, now_s: float) -> None:
        """End or begin a fault, if it is time."""
        if not self._kinds or now_s < self._next_s:
            return
        if self._fault is not None:
            self.heal()
        else:
            fault = self._nemesis.begin(self._draw())
            if fault is not None and fault.heal is not None:
                self._fault = fault
                self._next_s = time.monotonic() + self._nemesis.length_s(LENGTH_S)
                return
        self._next_s = time.monotonic() + self._nemesis.length_s(REST_S)

    def heal(self) -> None:
        """End the fault, if one goes on."""
        fault, self._fault = self._fault, None
        if fault is not None and fault.heal is not None:
            fault.heal()

    def _draw(self) -> str:
        kind = next(self._deck, None)
        if kind is None:
            self._deck = iter(self._nemesis.shuffled(self._kinds))
            kind = next(self._deck)
        return kind


def _named(nodes: Sequence[Node]) -> str:
    return ", ".join(sorted(node.name for node in nodes))
