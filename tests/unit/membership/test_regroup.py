"""When a node whose service was started anew counts as down although it is heard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.apply import apply
from clussvc.global_update.update import NodeDown, NodeUp, Proposal
from clussvc.membership.jury import Jury
from clussvc.membership.regroup import RESTART_GRACE_MS, admit, declare_down
from clussvc.model.config import Config, Node
from clussvc.model.ids import ClusterId, NodeId, RequestId
from clussvc.model.quorum import Quorum, slowest_silence_ms
from clussvc.model.settings import LAN
from clussvc.model.states import NodePhase
from tests.unit.membership.station import Station

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
LIMIT_MS = RESTART_GRACE_MS + LAN.silence_ms()
STEP_MS = LAN.heartbeat_interval_ms


def three_nodes() -> Config:
    """All up, each in its first incarnation of boot 1."""
    one = Node(id=N1, name="N", addresses=(), port=1, up=True, voter=True, incarnation=4, boot=1)
    nodes = {node: replace(one, id=node, name=f"N{node}") for node in (N1, N2, N3)}
    return Config(cluster=ClusterId("c"), name="C", timing=LAN, voters_version=3, nodes=nodes)


class Hearing:
    """N1 coordinates and hears N3 every heartbeat; N2 does so, too."""

    def __init__(self) -> None:
        self.config = three_nodes()
        self.judge = Station(N1, (N2, N3))
        self.now_ms = 0

    def hear(self, speaker: Station, phase: NodePhase, *, attempt: int = 0, for_ms: int) -> list[NodeDown]:
        """N3 speaks so for a while; who is declared down in that time."""
        found: list[NodeDown] = []
        until_ms = self.now_ms + for_ms
        while self.now_ms < until_ms:
            self.now_ms += STEP_MS
            beat = speaker.say(self.now_ms, phase=phase, attempt=attempt, voters_version=3)
            self.judge.listen(beat, self.now_ms)
            found += declare_down(
                self.config, self.judge, node=N1, jury=Jury(voters=self.config.voters), now_ms=self.now_ms
            )
        return found


@pytest.fixture
def hearing() -> Hearing:
    made = Hearing()
    assert made.hear(speaker(1), NodePhase.MEMBER, for_ms=1_000) == []
    return made


def speaker(boot: int) -> Station:
    return Station(N3, (N1,), boot=boot)


@pytest.mark.parametrize("phase", [NodePhase.STARTING, NodePhase.ASKING])
def test_a_new_boot_that_does_not_ask_ends_the_old_incarnation(hearing: Hearing, phase: NodePhase) -> None:
    """After the time in which it cleans up or fences itself, and lease and release budget; not a moment earlier."""
    new = speaker(2)
    assert hearing.hear(new, phase, for_ms=LIMIT_MS - STEP_MS) == []
    found = hearing.hear(new, phase, for_ms=3 * STEP_MS)

    assert {(down.node, down.incarnation, down.stopped) for down in found} == {(N3, 4, False)}


def test_each_new_boot_has_the_whole_time(hearing: Hearing) -> None:
    """It counts its own from its own start."""
    assert hearing.hear(speaker(2), NodePhase.STARTING, for_ms=LIMIT_MS - STEP_MS) == []

    assert hearing.hear(speaker(3), NodePhase.STARTING, for_ms=LIMIT_MS - STEP_MS) == []


def test_the_admitted_boot_is_not_judged_by_its_phase(hearing: Hearing) -> None:
    """A node that releases and asks again under the same boot ends its incarnation itself."""
    same = speaker(1)
    hearing.hear(same, NodePhase.MEMBER, for_ms=STEP_MS)
    speaking = speaker(1)
    for _ in range(100):
        speaking.say(0)

    assert hearing.hear(speaking, NodePhase.ASKING, for_ms=2 * LIMIT_MS) == []


def test_a_node_that_asks_is_admitted_instead(hearing: Hearing) -> None:
    """And its groups come back in place."""
    new = speaker(2)
    assert hearing.hear(new, NodePhase.ASKING, attempt=1, for_ms=2 * LIMIT_MS) == []

    ups = admit(hearing.config, hearing.judge, node=N1, own=None, now_ms=hearing.now_ms, wall_ms=0)
    assert [(up.node, up.boot, up.attempt) for up in ups] == [(N3, 2, 1)]


def test_a_death_and_a_later_admission_of_the_same_boot_come_in_order(hearing: Hearing) -> None:
    """Whichever of the two is applied first, the other is right or is refused."""
    new = speaker(2)
    down = hearing.hear(new, NodePhase.STARTING, for_ms=LIMIT_MS + STEP_MS)[0]
    hearing.hear(new, NodePhase.ASKING, attempt=1, for_ms=STEP_MS)
    (up,) = admit(hearing.config, hearing.judge, node=N1, own=None, now_ms=hearing.now_ms, wall_ms=0)

    assert outcome(hearing.config, down, up) == ([None, None], True)
    assert outcome(hearing.config, up, down) == ([None, "stale"], True)


def outcome(config: Config, *updates: NodeDown | NodeUp) -> tuple[list[str | None], bool]:
    """What each update is answered with, and whether N3 is up at the end."""
    codes: list[str | None] = []
    config = replace(config)
    for number, update in enumerate(updates):
        proposal = Proposal(request=RequestId(f"r{number}"), proposer=N1, at_ms=0, update=update)
        applied = apply(config, proposal)
        config = applied.config
        codes.append(applied.refusal.code if applied.refusal else None)
    return codes, config.nodes[N3].up


def will(boot: int, incarnation: int) -> bytes:
    """What the last monitor of N3 sends when its service of that boot is dead."""
    return speaker(boot).native.compose_will(incarnation)


def test_a_last_will_ends_the_incarnation_at_once(hearing: Hearing) -> None:
    """Long before any silence would; also where fencing is required, since nothing is left to be switched off."""
    hearing.judge.listen(will(1, 4), hearing.now_ms)
    required = replace(hearing.config, fencing_required=True)
    for config in (hearing.config, required):
        (down,) = declare_down(config, hearing.judge, node=N1, jury=Jury(voters=config.voters), now_ms=hearing.now_ms)
        assert (down.node, down.incarnation, down.stopped) == (N3, 4, False)
        assert "monitors have terminated everything" in down.because


@pytest.mark.parametrize(("boot", "incarnation"), [(1, 3), (1, 5), (2, 4)])
def test_a_last_will_of_another_incarnation_says_nothing_of_this_one(
    hearing: Hearing, boot: int, incarnation: int
) -> None:
    """One of an earlier incarnation may come late, and one of a later boot before the log tells of it."""
    hearing.judge.listen(will(boot, incarnation), hearing.now_ms)
    assert (
        declare_down(
            hearing.config, hearing.judge, node=N1, jury=Jury(voters=hearing.config.voters), now_ms=hearing.now_ms
        )
        == ()
    )


def test_a_new_boot_makes_the_will_of_the_old_one_void(hearing: Hearing) -> None:
    """A node that came back is judged by what it says now, though the coordinator had no time to believe the will."""
    hearing.judge.listen(will(1, 4), hearing.now_ms)
    assert hearing.hear(speaker(2), NodePhase.ASKING, attempt=1, for_ms=STEP_MS) == []


def test_a_last_will_is_no_sign_of_life(hearing: Hearing) -> None:
    """It neither ends a silence nor gives a lease."""
    silent_ms = hearing.judge.silent_ms(N3, hearing.now_ms + 70)
    lease_until_ms = hearing.judge.lease_until_ms(N3)
    hearing.judge.listen(will(1, 4), hearing.now_ms + 50)
    assert hearing.judge.silent_ms(N3, hearing.now_ms + 70) == silent_ms == 70
    assert hearing.judge.lease_until_ms(N3) == lease_until_ms


@pytest.mark.parametrize(("version_heard", "limit_ms"), [(3, slowest_silence_ms(Quorum())), (4, LAN.silence_ms())])
def test_a_node_that_may_act_by_a_slower_profile_is_waited_for(
    hearing: Hearing, version_heard: int, limit_ms: int
) -> None:
    """As long as by the slowest; what counts is which version it said when it was heard last."""
    beat = speaker(1)
    for _ in range(20):
        hearing.now_ms += STEP_MS
        data = beat.say(hearing.now_ms, voters_version=version_heard)
        hearing.judge.listen(data, hearing.now_ms)
    nodes = {node: replace(known, voter=node == N1) for node, known in hearing.config.nodes.items()}
    hearing.config = replace(hearing.config, nodes=nodes, voters_version=4, timing_version=4)
    heard_ms = hearing.now_ms

    def down(after_ms: int) -> bool:
        return bool(
            declare_down(
                hearing.config,
                hearing.judge,
                node=N1,
                jury=Jury(voters=hearing.config.voters),
                now_ms=heard_ms + after_ms,
            )
        )

    assert not down(limit_ms - 1)
    assert down(limit_ms)
