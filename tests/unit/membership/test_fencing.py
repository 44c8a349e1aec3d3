"""When a node is switched off, by which device, and what is believed of the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clussvc.global_update.update import FencingFailed, NodeFenced
from clussvc.membership.fencing import IN_FLIGHT_MS, LET_GO_GRACE_MS, RETRY_MS, FenceOrder, Fencing, parameters_of
from clussvc.membership.jury import Jury
from clussvc.membership.regroup import RESTART_GRACE_MS, declare_down
from clussvc.model.config import Config, FenceDevice, Node
from clussvc.model.ids import ClusterId, FenceDeviceId, NodeId
from clussvc.model.settings import LAN
from clussvc.model.states import NodePhase
from tests.unit.membership.station import Station

N1, N2, N3 = NodeId(1), NodeId(2), NodeId(3)
STEP_MS = 20
LEASE_MS = LAN.lease_ms + 2


def device(name: str, *, order: int = 100, node: NodeId = N3) -> FenceDevice:
    return FenceDevice(id=FenceDeviceId(name), name=name, node=node, agent=f"fence_{name}", order=order)


def configured(*devices: FenceDevice, required: bool = False) -> Config:
    """Three nodes that are up and vote; N3 is the one to be fenced."""
    one = Node(id=N1, name="N", addresses=(), port=1, up=True, voter=True, incarnation=4, boot=1)
    nodes = {node: replace(one, id=node, name=f"N{node}") for node in (N1, N2, N3)}
    return Config(
        cluster=ClusterId("c"),
        name="C",
        timing=LAN,
        voters_version=3,
        nodes=nodes,
        fence_devices={each.id: each for each in devices},
        fencing_required=required,
    )


class Room:
    """N1 coordinates, N2 helps it, and N3 speaks only when it is told to."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stations = {node: Station(node, (N1, N2, N3)) for node in (N1, N2, N3)}
        self.fencing = Fencing()
        self.acting = N1
        self.now_ms = 0
        self.orders: list[FenceOrder] = []

    @property
    def judge(self) -> Station:
        return self.stations[N1]

    def run(self, for_ms: int, *, phase: NodePhase | None = None) -> list[FenceOrder]:
        """Time passes; N3 says ``phase`` with every beat, or nothing. What is ordered in that time."""
        found = []
        until_ms = self.now_ms + for_ms
        while self.now_ms < until_ms:
            self.now_ms += STEP_MS
            for speaker in (N1, N2) if phase is None else (N1, N2, N3):
                said = NodePhase.MEMBER if speaker != N3 or phase is None else phase
                beat = self.stations[speaker].say(self.now_ms, phase=said)
                for other in (N1, N2, N3):
                    if other != speaker:
                        self.stations[other].listen(beat, self.now_ms)
            found += self.fencing.step(
                self.config,
                self.stations[self.acting],
                node=self.acting,
                coordinator=N1,
                jury=Jury(voters=self.config.voters),
                now_ms=self.now_ms,
            )
        self.orders += found
        return found

    def end(self, *, off: bool, detail: str = "it said no") -> None:
        """The newest order has ended."""
        self.fencing.ended(self.orders[-1].ticket, off=off, detail=detail, now_ms=self.now_ms)

    def updates(self) -> list[NodeFenced | FencingFailed]:
        return self.fencing.updates(self.config, self.judge, self.now_ms)

    def takes_note(self) -> None:
        """What is proposed is committed."""
        for update in self.updates():
            node = self.config.nodes[update.node]
            after = replace(node, up=False)
            if isinstance(update, FencingFailed):
                after = replace(node, fence_failure=update.because)
            self.config = replace(self.config, nodes={**self.config.nodes, node.id: after})


def heard(*devices: FenceDevice, required: bool = False) -> Room:
    room = Room(configured(*devices, required=required))
    assert room.run(2_000, phase=NodePhase.MEMBER) == []
    return room


def test_a_silent_node_is_fenced_after_a_lease_and_not_before() -> None:
    room = heard(device("ipmi"))
    assert room.run(LAN.lease_ms - STEP_MS) == []
    (order,) = room.run(4 * STEP_MS)
    assert order.device.name == "ipmi"
    assert "a majority of the voters had heard nothing" in order.why


def test_without_a_device_nobody_is_fenced() -> None:
    room = heard(device("ipmi", node=N2))
    assert room.run(5_000) == []
    assert room.updates() == []


def test_a_coordinator_does_not_fence_itself() -> None:
    """It would be the last thing that it does, and nobody would be told."""
    room = heard(device("ipmi", node=N1))
    assert room.run(5_000) == []


@pytest.mark.parametrize(("acting", "fences"), [(N2, True), (N3, False)])
def test_a_coordinator_that_cannot_let_go_is_fenced_by_the_first_other_member(acting: NodeId, fences: bool) -> None:
    room = heard(device("ipmi", node=N1))
    room.acting = acting
    limit_ms = LAN.release_budget_ms + LET_GO_GRACE_MS
    until_ms = room.now_ms + limit_ms + 3 * STEP_MS
    found = []
    while room.now_ms < until_ms:
        room.now_ms += STEP_MS
        beat = room.stations[N1].say(room.now_ms, phase=NodePhase.RELEASING)
        room.stations[acting].listen(beat, room.now_ms)
        found += room.fencing.step(
            room.config,
            room.stations[acting],
            node=acting,
            coordinator=N1,
            jury=Jury(voters=room.config.voters),
            now_ms=room.now_ms,
        )
    assert [order.device.name for order in found] == (["ipmi"] if fences else [])


def test_the_silence_of_a_coordinator_is_for_the_next_one_to_judge() -> None:
    room = heard(device("ipmi", node=N1))
    room.acting = N2
    assert room.run(0) == []
    for _ in range(100):
        room.now_ms += STEP_MS
        beat = room.stations[N3].say(room.now_ms)
        room.stations[N2].listen(beat, room.now_ms)
        assert (
            room.fencing.step(
                room.config,
                room.stations[N2],
                node=N2,
                coordinator=N1,
                jury=Jury(voters=room.config.voters),
                now_ms=room.now_ms,
            )
            == []
        )


def test_what_was_switched_off_is_down_at_once() -> None:
    room = heard(device("ipmi"))
    room.run(LEASE_MS + STEP_MS)
    assert room.updates() == []
    room.end(off=True)
    (fenced,) = room.updates()
    assert isinstance(fenced, NodeFenced)
    assert (fenced.node, fenced.incarnation) == (N3, 4)
    assert "fence device ipmi switched it off" in fenced.because
    room.takes_note()
    assert room.run(1_000) == []
    assert room.updates() == []


def test_devices_are_tried_in_their_order() -> None:
    room = heard(device("pdu", order=200), device("ipmi", order=100), device("other", order=200))
    room.run(LEASE_MS + STEP_MS)
    tried = [room.orders[-1].device.name]
    for _ in range(2):
        room.end(off=False)
        room.run(STEP_MS)
        tried.append(room.orders[-1].device.name)
    assert tried == ["ipmi", "pdu", "other"]


def test_when_all_devices_fail_it_is_told_once_and_tried_again() -> None:
    room = heard(device("ipmi"), device("pdu"))
    room.run(LEASE_MS + STEP_MS)
    room.end(off=False, detail="no answer")
    room.run(STEP_MS)
    room.end(off=False, detail="wrong password")
    room.run(STEP_MS)
    (failed,) = room.updates()
    assert isinstance(failed, FencingFailed)
    assert failed.because == "ipmi: no answer; pdu: wrong password"
    room.takes_note()
    assert room.updates() == []
    assert room.run(RETRY_MS - 2 * STEP_MS) == []
    assert [order.device.name for order in room.run(4 * STEP_MS)] == ["ipmi"]


def test_a_node_that_has_recovered_is_not_tried_again() -> None:
    room = heard(device("ipmi"))
    room.run(LEASE_MS + STEP_MS)
    room.end(off=False)
    assert room.run(2 * RETRY_MS, phase=NodePhase.MEMBER) == []


def test_a_device_that_lies_is_not_believed() -> None:
    """The node is heard under the same boot after it was said to be off; the next device is tried."""
    room = heard(device("liar"), device("pdu"))
    room.run(LEASE_MS + STEP_MS)
    room.run(STEP_MS, phase=NodePhase.MEMBER)
    room.end(off=True)
    assert room.run(IN_FLIGHT_MS + 3 * STEP_MS, phase=NodePhase.MEMBER)[0].device.name == "pdu"
    assert room.updates() == []
    room.end(off=False)
    room.run(STEP_MS)
    (failed,) = room.updates()
    assert "it said that N3 is off, but N3 was heard" in failed.because


def test_what_was_on_its_way_accuses_nobody() -> None:
    """A datagram may be older than the end of its sender."""
    room = heard(device("ipmi"))
    room.run(LEASE_MS + STEP_MS)
    room.end(off=True)
    room.run(2 * STEP_MS, phase=NodePhase.MEMBER)
    assert room.updates() == []
    room.run(LAN.lease_ms - STEP_MS)
    assert room.updates() == []
    room.run(STEP_MS)
    assert [type(update) for update in room.updates()] == [NodeFenced]


def test_a_node_that_cannot_let_go_is_fenced_though_it_is_heard() -> None:
    """It says that it is releasing, for longer than it may take."""
    room = heard(device("ipmi"))
    assert room.run(LAN.release_budget_ms + LET_GO_GRACE_MS - STEP_MS, phase=NodePhase.RELEASING) == []
    (order,) = room.run(3 * STEP_MS, phase=NodePhase.RELEASING)
    assert "had not terminated its resources" in order.why


def test_a_node_that_lets_go_again_and_again_is_not_fenced() -> None:
    room = heard(device("ipmi"))
    for _ in range(5):
        assert room.run(LAN.release_budget_ms + LET_GO_GRACE_MS // 2, phase=NodePhase.RELEASING) == []
        assert room.run(STEP_MS, phase=NodePhase.ASKING) == []


def test_a_new_service_that_cannot_clean_up_is_fenced() -> None:
    room = heard(device("ipmi"))
    room.stations[N3] = Station(N3, (N1, N2), boot=2)
    assert room.run(RESTART_GRACE_MS - STEP_MS, phase=NodePhase.STARTING) == []
    (order,) = room.run(3 * STEP_MS, phase=NodePhase.STARTING)
    assert "had not cleaned up" in order.why


@pytest.mark.parametrize("required", [False, True])
def test_silence_alone_counts_unless_fencing_is_required(required: bool) -> None:
    room = heard(device("ipmi"), required=required)
    room.run(2 * LAN.silence_ms())
    down = declare_down(room.config, room.judge, node=N1, jury=Jury(voters=room.config.voters), now_ms=room.now_ms)
    assert [each.node for each in down] == ([] if required else [N3])


def test_required_fencing_needs_a_device() -> None:
    """A node that nothing can switch off would be waited for for ever."""
    room = heard(device("ipmi", node=N2), required=True)
    room.run(2 * LAN.silence_ms())
    assert [
        each.node
        for each in declare_down(
            room.config, room.judge, node=N1, jury=Jury(voters=room.config.voters), now_ms=room.now_ms
        )
    ] == [N3]


def test_results_of_an_earlier_time_as_coordinator_are_ignored() -> None:
    room = heard(device("ipmi"))
    room.run(LEASE_MS + STEP_MS)
    room.fencing.forget()
    room.end(off=True)
    assert room.updates() == []
    assert [order.device.name for order in room.run(STEP_MS)] == ["ipmi"]


def test_what_an_agent_is_told() -> None:
    """The cluster's own word comes last, so that no parameter stands in its place."""
    made = replace(device("ipmi"), private={"ip": "192.0.2.9", "lanplus": 1})
    assert parameters_of(made, "off", "N3") == {"nodename": "N3", "ip": "192.0.2.9", "lanplus": "1", "action": "off"}
