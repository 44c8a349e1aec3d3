"""One run: form the cluster, let clients work and the nemesis rage, heal, wait, and judge."""

from __future__ import annotations

import random
import re
import sys
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from tests.cluster.formation import STEP_LIMIT_S, Cluster
from tests.cluster.lab import Lab, Node, eventually
from tests.torture import witness
from tests.torture.appends import check_appends
from tests.torture.clients import Administrator, Asker, Client
from tests.torture.faults import RECOVERY_LIMIT_S, Nemesis
from tests.torture.history import Kind, Operation, write_history
from tests.torture.machines import Keeper, SmallDisk
from tests.torture.observer import Observer
from tests.torture.overlaps import check_overlaps, read_lines
from tests.torture.registers import Verdict, check_register
from tests.torture.result import Result

GROUPS: Final = 12
"""Groups of registers and lists: enough that few clients meet in one, so that its history can be checked."""
WITNESSES_PER_NODE: Final = 1
SMALL_DISKS: Final = 2
"""Machines with a file system of their own in memory, which can be filled. The others keep a real disk's fsync."""
TICK_S: Final = 0.05
TELL_EVERY_S: Final = 15.0
AGREE_LIMIT_S: Final = 30.0
DEFECT: Final = re.compile(r"admin\.(?:defect|connection-defect)|Traceback \(most recent call last\)")
"""In the output of a service: a defect that somebody caught."""
SHOWN_MAX: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for."""

    seconds: float
    nodes: int
    clients: int
    seed: int
    kinds: Sequence[str]
    profile: str


class Run:
    """The parts of one run, in the thread that owns the lab."""

    def __init__(self, plan: Plan, lab: Lab, disks: dict[str, SmallDisk], say: Callable[[str], None]) -> None:
        self._plan = plan
        self._lab = lab
        self._say = say
        self._chance = random.Random(plan.seed)
        self._sockets = {node.name: str(node.socket) for node in lab.nodes}
        self._observer = Observer(self._sockets)
        self._keeper = Keeper(lab, disks, random.Random(self._chance.random()))
        self._data = [f"DATA{number}" for number in range(1, GROUPS + 1)]
        self._witnesses = [f"WITNESS{number}" for number in range(1, WITNESSES_PER_NODE * plan.nodes + 1)]
        self.witness_file = lab.folder / "witness.txt"
        self.history_file = lab.folder / "history.jsonl"
        self._findings: list[str] = []
        self._stop = threading.Event()
        self._askers: list[Asker] = []

    def whole(self) -> Result:
        """Everything, in order."""
        self._form()
        nemesis = Nemesis(
            self._keeper,
            kinds=self._plan.kinds,
            chance=random.Random(self._chance.random()),
            recovered=lambda: self._observer.missing(self._witnesses),
            say=self._say,
        )
        begun_s = time.monotonic()
        self._make_askers()
        try:
            self._rage(nemesis, begun_s)
        finally:
            self._stop.set()
            seconds = time.monotonic() - begun_s
            nemesis.stop()
        self._come_to_rest(nemesis)
        final = self._final_lists()
        self._observer.close()
        return self._judge(nemesis, seconds, final)

    # --- forming ----------------------------------------------------------------------------------------------------

    def _form(self) -> None:
        cluster = Cluster(self._lab)
        self._say(f"{self._plan.nodes} machines form a cluster (timing profile {self._plan.profile!r})")
        cluster.form(self._plan.profile)
        for group in self._data:
            cluster.command("group", group, "/create")
        for number, group in enumerate(self._witnesses):
            self._make_witness(cluster, group, self._lab.nodes[number % len(self._lab.nodes)])
        missing = ""

        def whole() -> bool:
            nonlocal missing
            missing = self._observer.missing(self._witnesses)
            return not missing

        eventually(whole, "the cluster is whole before the first fault", timeout_s=STEP_LIMIT_S)

    def _make_witness(self, cluster: Cluster, group: str, home: Node) -> None:
        """A group that may fail over as often as it must, with one resource that may be restarted as often."""
        resource = f"{group} Program"
        program = f"{sys.executable} -I -S {witness.__file__} {self.witness_file} {group}"
        for words in (
            ("group", group, "/create"),
            ("group", group, "/prop", "FailoverThreshold=1000000"),
            ("res", resource, "/create", f"/group:{group}", "/type:Generic Application"),
            ("res", resource, "/priv", f"CommandLine={program}"),
            ("res", resource, "/prop", "RestartThreshold=1000000"),
            ("group", group, f"/online:{home.name}"),
        ):
            cluster.command(*words)

    # --- the run ----------------------------------------------------------------------------------------------------

    def _make_askers(self) -> None:
        run, numbers = uuid.uuid4().hex[:12], count(1)
        for number in range(1, self._plan.clients + 2):
            common: dict[str, Any] = {
                "sockets": self._sockets,
                "chance": random.Random(self._chance.random()),
                "numbers": numbers,
                "stop": self._stop,
                "run": run,
            }
            if number <= self._plan.clients:
                self._askers.append(Client(number, groups=self._data, **common))
            else:
                self._askers.append(Administrator(number, groups=self._witnesses, **common))
        for asker in self._askers:
            asker.start()

    def _rage(self, nemesis: Nemesis, begun_s: float) -> None:
        tell_s = begun_s + TELL_EVERY_S
        while (now_s := time.monotonic()) < begun_s + self._plan.seconds:
            self._keeper.tick()
            nemesis.tick()
            if now_s >= tell_s:
                tell_s = now_s + TELL_EVERY_S
                count_ = sum(len(asker.history) for asker in self._askers)
                self._say(f"{count_} operations, {sum(nemesis.counts.values())} faults")
            if nemesis.stuck:
                break
            time.sleep(TICK_S)

    def _come_to_rest(self, nemesis: Nemesis) -> None:
        """Everything is healed, the clients end, and the cluster must become whole and of one mind."""
        self._say("everything is healed; the cluster comes to rest")
        self._keeper.heal_all()
        for asker in self._askers:
            self._keeper.wait(lambda asker=asker: not asker.is_alive(), 60)  # type: ignore[misc]
            if asker.is_alive():
                self._findings.append(f"{asker.name} did not end: it still waits for an answer")
        missing = ""

        def whole() -> bool:
            nonlocal missing
            missing = self._observer.missing(self._witnesses)
            return not missing

        begun_s = time.monotonic()
        if self._keeper.wait(whole, RECOVERY_LIMIT_S):
            nemesis.recoveries_s.append(time.monotonic() - begun_s)
        else:
            self._findings.append(f"not whole {RECOVERY_LIMIT_S:.0f} s after everything was healed: {missing}")
        shown: dict[str, str] = {}

        def agree() -> bool:
            shown.update(self._observer.fingerprints())
            return len(set(shown.values())) == 1

        if not self._keeper.wait(agree, AGREE_LIMIT_S):
            self._findings.append(f"the nodes' configurations differ: {shown}")

    def _final_lists(self) -> dict[str, str | None]:
        """The lists as all nodes show them; a node that differs is a finding, and so is one that never answers.

        A busy machine may cost a node its quorum for a moment; such an answer is asked for again.
        """
        seen: dict[str, dict[str, str | None]] = {}
        why: dict[str, str] = {}

        def answered() -> bool:
            for node in self._sockets:
                if node in seen:
                    continue
                try:
                    seen[node] = self._observer.lists(node, self._data)
                except Exception as problem:  # noqa: BLE001 (whatever keeps a node from answering is told)
                    why[node] = str(problem)
            return len(seen) == len(self._sockets)

        if not self._keeper.wait(answered, AGREE_LIMIT_S):
            silent = [node for node in self._sockets if node not in seen]
            self._findings += [f"{node} does not show its lists: {why.get(node, 'no answer')}" for node in silent]
        first = next(iter(seen.values()), {})
        self._findings += [f"{node} shows other lists than the first node" for node, it in seen.items() if it != first]
        return first

    # --- judging ----------------------------------------------------------------------------------------------------

    def _judge(self, nemesis: Nemesis, seconds: float, final: dict[str, str | None]) -> Result:
        self._say("the histories are checked")
        operations = sorted((one for asker in self._askers for one in asker.history), key=lambda one: one.number)
        write_history(self.history_file, operations)
        self._findings += nemesis.stuck
        self._findings += _some([line for asker in self._askers for line in asker.strange])
        for end in self._keeper.ends:
            if not end.because:
                self._findings.append(f"the service of {end.node} ended of itself with code {end.code}")
        for node in self._lab.nodes:
            self._findings += _defects(node)
        return Result(
            seconds=seconds,
            operations=operations,
            faults=nemesis.counts,
            registers=list(check_registers(operations)),
            appended=check_appends(operations, final),
            witnessed=check_overlaps(read_lines(self.witness_file), nemesis.pauses),
            recoveries_s=nemesis.recoveries_s,
            ends=Counter(end.because or "unexplained" for end in self._keeper.ends),
            findings=self._findings,
        )


def check_registers(operations: Iterable[Operation]) -> Iterator[Verdict]:
    """Each register by itself: descriptions of groups begin empty, segments of lists do not exist."""
    by_key: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        if operation.kind is not Kind.MOVE:
            by_key[operation.key].append(operation)
    for key, history in sorted(by_key.items()):
        yield check_register(key, history, initial=None if "/" in key else "")


@contextmanager
def small_disks(folder: Path, count_: int) -> Iterator[dict[str, SmallDisk]]:
    """File systems for the data folders of the last machines; made before the machines, gone after them."""
    disks: dict[str, SmallDisk] = {}
    try:
        for number in range(1, count_ + 1):
            disks[f"NODE{number}"] = SmallDisk(folder / f"n{number}" / "data")
        yield disks
    finally:
        for disk in disks.values():
            disk.unmount()


def _some(lines: list[str]) -> list[str]:
    more = [f"... and {len(lines) - SHOWN_MAX} more answers like these"] if len(lines) > SHOWN_MAX else []
    return lines[:SHOWN_MAX] + more


def _defects(node: Node) -> list[str]:
    """Defects that the service itself noted. (What ended it is told by its end; full disks are a fault.)"""
    lines = node.log.read_text(errors="replace").splitlines() if node.log.exists() else []
    found = [line for line in lines if DEFECT.search(line) and "No space left on device" not in line]
    return _some([f"{node.name} logged: {line[:500]}" for line in found])
