"""Mutations of clusters with a witness, or with dynamic votes; see :mod:`tests.simulation.mutations`."""

from __future__ import annotations

from dataclasses import replace

from clussvc.global_update.raft.guard import Guard
from clussvc.membership.witness_watch import WitnessAnswered, WitnessWatch
from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.quorum.stand_in import Decision
from tests.simulation.faults import WITNESS_KINDS
from tests.simulation.mutation import Mutation, broken_by
from tests.simulation.temptations import tempting

_HALVES = {"half lost": 3.0, "isolation": 1.0, "one-way cut": 0.5, "crash": 1.0, "administration": 3.0}
_ALL = dict.fromkeys(WITNESS_KINDS, 1.0) | _HALVES
_RUNS = frozenset({"R1", "R2", "R3", "one owner"})
_LOST = frozenset({"one log", "one leader", "acknowledged", "equal state", "applied once", "no exception"})

_answered = WitnessWatch.answered


def _believes_its_own_wish(watch: WitnessWatch, event: WitnessAnswered, now_ms: int) -> Decision | None:
    asked = watch._asked
    if asked is not None and asked.drop is not None and event.decision is not None:
        event = replace(event, decision=replace(event.decision, dropped=asked.drop))
    return _answered(watch, event, now_ms)


def _a_decision_for_ever(watch: WitnessWatch, config: Config | None) -> NodeId | None:
    decision = watch._decision
    return decision.dropped if config is not None and decision is not None else None


def _nobody_is_needed(guard: Guard, synced: int) -> int:
    return synced


WITNESS_MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        name="everybody's own decision",
        breaks="R2",
        what="A node that asks the witness believes what it wished, whatever was decided before.",
        caught_as=_RUNS | _LOST,
        broken=broken_by((WitnessWatch, "answered", _believes_its_own_wish)),
        plot=tempting(_ALL, log="witness", nodes=2, for_ms=(300, 4_000)),
        seeds_max=20,
    ),
    Mutation(
        name="a decision for ever",
        breaks="R2",
        what="What the witness has decided for one version of the voters counts for later ones.",
        caught_as=_RUNS | _LOST,
        broken=broken_by((WitnessWatch, "dropped", _a_decision_for_ever)),
        plot=tempting(_ALL, log="witness", nodes=2, for_ms=(300, 4_000)),
        seeds_max=20,
    ),
    Mutation(
        name="a stand-in that is never asked",
        breaks="the log",
        what="The stand-in confirms whatever the leader has, though no majority of an electorate has it.",
        caught_as=_LOST | _RUNS,
        broken=broken_by((Guard, "_matched_by_a_majority", _nobody_is_needed)),
        plot=tempting(_ALL, log="witness", nodes=4, for_ms=(300, 4_000)),
        seeds_max=30,
    ),
)
