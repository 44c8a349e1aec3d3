"""Looks after the file share witness for a service: one thread that may hang as long as the share does.

It answers the newest question of the core and, in between, sees every few seconds whether the share can be reached.
What it finds goes into the inbox; it decides nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from clussvc.events import Event, WitnessSeen
from clussvc.membership.witness_watch import AskWitness, WitnessAnswered
from clussvc.model.errors import ClusterError
from clussvc.model.witness import Witness
from clussvc.quorum.devices import FileShareWitness, Writer, prepare_witness
from clussvc.quorum.stand_in import Decision

CHECK_S = 5.0
"""How often the share is looked at, and how long a stop waits for one that hangs."""


PREPARE_S = 10.0
"""How long an administrator waits for a share that does not answer."""


def prepare_in_time(
    path: str, token: str, *, cluster: str, name: str, nodes: Collection[str], writer: Writer, force: bool
) -> None:
    """See prepare_witness; a share that hangs is a ClusterError (``witness-refused``) as well."""
    outcome: list[ClusterError | None] = []

    def prepare() -> None:
        try:
            prepare_witness(path, token, cluster=cluster, name=name, nodes=nodes, writer=writer, force=force)
            outcome.append(None)
        except ClusterError as error:
            outcome.append(error)

    thread = threading.Thread(target=prepare, name="witness-new", daemon=True)
    thread.start()
    thread.join(PREPARE_S)
    if not outcome:
        raise ClusterError("witness-refused", f"{path} has not answered for {PREPARE_S:.0f} s; see to the share first")
    if outcome[0] is not None:
        raise outcome[0]


class WitnessKeeper:
    """One for a service. Every method may be called from any thread, and none waits for the share."""

    def __init__(self, cluster: str, writer: Writer, tell: Callable[[Event], None]) -> None:
        self._cluster = cluster
        self._writer = writer
        self._tell = tell
        self._wake = threading.Condition()
        self._witness: Witness | None = None
        self._question: AskWitness | None = None
        self._look = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def watch(self, witness: Witness | None) -> None:
        """See actions.WatchWitness."""
        with self._wake:
            self._witness, self._look = witness, True
            if witness is not None and self._thread.ident is None and not self._stopping:
                self._thread.start()
            self._wake.notify()

    def ask(self, question: AskWitness) -> None:
        """See the action."""
        with self._wake:
            self._question = question
            self._wake.notify()

    def stop(self) -> None:
        """End the thread. One that hangs with the share is left to the end of the process."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.ident is not None:
            self._thread.join(CHECK_S)

    def _run(self) -> None:
        while True:
            with self._wake:
                if not (self._stopping or self._question or self._look):
                    self._wake.wait(CHECK_S)
                if self._stopping:
                    return
                question, self._question, self._look = self._question, None, False
                witness = self._witness
            if question is not None:
                self._answer(question)
            elif witness is not None:
                self._tell(WitnessSeen(trouble=self._trouble_of(witness)))

    def _answer(self, question: AskWitness) -> None:
        share = FileShareWitness(question.witness, self._cluster, self._writer)
        decision, trouble = None, ""
        try:
            if question.drop is None:
                decision = share.read(question.version)
            else:
                wanted = Decision(version=question.version, voters=question.voters, dropped=question.drop)
                decision = share.decide(wanted)
        except ClusterError as error:
            trouble = error.message
        self._tell(WitnessAnswered(version=question.version, decision=decision, trouble=trouble))

    def _trouble_of(self, witness: Witness) -> str:
        try:
            FileShareWitness(witness, self._cluster, self._writer).check()
        except ClusterError as error:
            return error.message
        return ""
