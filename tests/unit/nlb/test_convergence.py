"""The convergence machine of one host, beside real ones on a wire that delivers everything at once."""

from __future__ import annotations

from dataclasses import replace

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import BUCKETS_LARGE, counts
from clussvc.nlb.convergence import Convergence
from clussvc.nlb.heartbeat import Refused, TeamWord
from clussvc.nlb.messages import (
    ClientsHeard,
    ConnectionsReported,
    Control,
    HeartbeatHeard,
    HeartbeatRefused,
    HostsOnline,
    LinkChanged,
    NodesUp,
    ParametersChanged,
    ProbesAnswered,
    QuorumChanged,
    ResourcesOnline,
    RuleControl,
    Status,
    TeamChanged,
    Tick,
)
from clussvc.nlb.parameters import HostParameters, RuleNumber
from clussvc.nlb.port_rule import RuleScope, parse_rules
from tests.unit.nlb.wire import RULES, Wire, settled


def test_hosts_listen_and_then_share() -> None:
    """Nobody takes anything before he has listened for the detection time; then each has its part."""
    wire = Wire(1, 2, 3)
    wire.run(400)
    assert not any(table.active for table in wire.tables.values())

    wire.run(200)
    assert {number: wire.owned(number) for number in (1, 2, 3)} == {1: 20, 2: 20, 3: 20}
    assert wire.states() == {1: "converged as DEFAULT", 2: "converged", 3: "converged"}
    assert wire.said(29) == ["Host 1 converged as DEFAULT host with hosts 2, 3 as part of the cluster."]


def test_a_joiner_does_not_wait() -> None:
    """It gets its share at once, and nothing moves between the others."""
    wire = settled(1, 2)
    before = wire.tables[1].slots[1].owners
    wire.add(3)
    wire.run(50)

    after = wire.tables[1].slots[1].owners
    assert wire.state(3) == "converged"
    assert counts(after) == {1: 20, 2: 20, 3: 20}
    assert all(new in (old, 3) for old, new in zip(before, after, strict=True))


def test_a_silent_death_costs_the_detection_time() -> None:
    """Only the dead host's clients wait, and no longer than half a second and a little."""
    wire = settled(1, 2, 3)
    before = wire.tables[1].slots[1].owners
    wire.remove(3)
    wire.run(390)
    assert wire.tables[1].slots[1].owners == before

    wire.run(200)
    after = wire.tables[1].slots[1].owners
    assert counts(after) == {1: 30, 2: 30}
    assert all(new == old or old == 3 for old, new in zip(before, after, strict=True))


def test_a_declared_death_costs_nothing() -> None:
    """The cluster says so, and the hosts converge in the same moment."""
    wire = settled(1, 2, 3)
    wire.remove(3)
    for number in (1, 2):
        wire.tell(number, NodesUp(hosts=frozenset({HostId(1), HostId(2)})))
    wire.run(10)

    assert {number: wire.owned(number) for number in (1, 2)} == {1: 30, 2: 30}


def test_who_stops_says_so() -> None:
    """Nobody waits for its silence, and it takes nothing."""
    wire = settled(1, 2)
    assert wire.control(2, Control.STOP) is Status.OK
    wire.run(10)

    assert (wire.owned(1), wire.tables[2].active, wire.state(2)) == (60, False, "stopped")
    assert wire.control(2, Control.STOP) is Status.ALREADY
    assert wire.control(2, Control.START) is Status.OK
    wire.run(100)
    assert wire.owned(2) == 30


def test_without_quorum_a_host_takes_nothing() -> None:
    """At once; with it, it joins again."""
    wire = settled(1, 2)
    wire.tell(1, QuorumChanged(held=False))
    wire.run(10)
    assert (wire.tables[1].active, wire.owned(2), wire.state(1)) == (False, 60, "stopped")

    wire.tell(1, QuorumChanged(held=True))
    wire.run(100)
    assert (wire.owned(1), wire.owned(2), wire.state(1)) == (30, 30, "converged as DEFAULT")


def test_without_a_link() -> None:
    """The same, under another name."""
    wire = settled(1, 2)
    wire.tell(2, LinkChanged(up=False))

    assert (wire.tables[2].active, wire.state(2)) == (False, "media disconnected")


def test_suspended_means_deaf_to_commands() -> None:
    """But for resume, which does not start."""
    wire = settled(1)
    assert wire.control(1, Control.SUSPEND) is Status.OK
    assert [wire.control(1, what) for what in (Control.START, Control.STOP, Control.SUSPEND)] == [
        Status.SUSPENDED, Status.SUSPENDED, Status.ALREADY,
    ]  # fmt: skip
    assert wire.control_rules(1, RuleControl.DRAIN, RuleScope(port=80)) is Status.SUSPENDED
    assert wire.control(1, Control.RESUME) is Status.OK
    assert wire.state(1) == "stopped"
    assert wire.control(1, Control.RESUME) is Status.ALREADY


def test_draining_waits_for_connections() -> None:
    """No new clients, the default host's part included; the host stops when the last connection has ended."""
    wire = settled(1, 2)
    held = (0, 0b101, 0, 0)
    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=2, buckets=held))
    assert wire.control(1, Control.DRAINSTOP) is Status.OK
    wire.run(50)
    assert (wire.state(1), wire.owned(1), wire.owned(2), wire.owned(2, slot=3)) == ("draining", 0, 60, 60)
    assert wire.control(1, Control.DRAINSTOP) is Status.ALREADY

    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=2, buckets=held))
    wire.run(200)
    assert wire.tables[1].slots[1].kept == 0b101
    assert wire.tables[2].slots[1].dirty == 0b101
    assert wire.state(1) == "draining"

    wire.tell(1, ConnectionsReported(number=wire.tables[1].number, total=0, buckets=(0, 0, 0, 0)))
    wire.run(50)
    assert (wire.state(1), wire.tables[2].slots[1].dirty) == ("stopped", 0)


def test_draining_can_be_interrupted() -> None:
    """By start; the status says that it was."""
    wire = settled(1, 2)
    wire.control(2, Control.DRAINSTOP)
    wire.run(50)

    assert wire.control(2, Control.START) is Status.DRAIN_STOP
    wire.run(50)
    assert wire.owned(2) == 30
    assert wire.said(45) == ["Draining of connections on host 2 was interrupted by start."]


def test_rules_are_controlled_one_by_one() -> None:
    """Drained: no new traffic; disabled: none at all; each on that host alone."""
    wire = settled(1, 2)
    scope = RuleScope(port=80)
    assert wire.control_rules(1, RuleControl.DRAIN, scope) is Status.OK
    wire.run(50)
    assert (wire.owned(1), wire.owned(2), wire.owned(1, slot=2)) == (0, 60, 30)
    assert wire.passing(1) == "draining"

    assert wire.control_rules(1, RuleControl.DISABLE, scope) is Status.OK
    assert wire.passing(1) == "disabled"
    assert wire.control_rules(1, RuleControl.DISABLE, scope) is Status.ALREADY
    assert wire.control_rules(1, RuleControl.ENABLE, RuleScope(port=81)) is Status.NOT_FOUND
    assert wire.control_rules(1, RuleControl.ENABLE, RuleScope()) is Status.OK
    wire.run(50)
    assert wire.owned(1) == 30


def test_a_rule_is_drained_while_its_resource_is_not_online() -> None:
    """Whatever the case of its name; and it comes back."""
    wire = settled(1, 2)
    wire.tell(2, ResourcesOnline(names=frozenset()))
    wire.run(50)
    assert (wire.owned(2, slot=2), wire.owned(1, slot=2), wire.owned(2)) == (0, 60, 30)

    wire.tell(2, ResourcesOnline(names=frozenset({"Web"})))
    wire.run(50)
    assert wire.owned(2, slot=2) == 30


def test_a_rule_is_drained_while_its_probe_is_not_answered() -> None:
    """On that host alone; nothing else moves, and its share comes back."""
    rules, _ = parse_rules(["All 80 TCP Multiple", "All 443 TCP Multiple probe=tcp"])
    wire = Wire(1, 2, rules=rules)
    wire.run(600)
    assert (wire.owned(1, slot=1), wire.owned(2, slot=1), wire.owned(2, slot=0)) == (0, 0, 30)
    for number in (1, 2):
        wire.tell(number, ProbesAnswered(titles=frozenset({"All 443-443 TCP"})))
    wire.run(50)
    assert (wire.owned(1, slot=1), wire.owned(2, slot=1)) == (30, 30)
    wire.tell(2, ProbesAnswered(titles=frozenset()))
    wire.run(50)
    assert (wire.owned(2, slot=1), wire.owned(1, slot=1), wire.owned(2, slot=0)) == (0, 60, 30)


def with_log(*numbers: int) -> Wire:
    """Hosts that have converged, and that all share by the cluster's log."""
    wire = settled(*numbers)
    everybody = frozenset(map(HostId, numbers))
    for number in numbers:
        wire.tell(number, NodesUp(hosts=everybody))
        wire.tell(number, HostsOnline(hosts=everybody))
    return wire


def test_a_deaf_host_does_not_take_everything_from_those_who_hear_it() -> None:
    """It waits as long as the detection takes, and leaves; the others serve all; it comes back when it hears again."""
    wire = with_log(1, 2, 3)
    wire.lost = lambda sender, receiver, said: receiver == 1
    wire.run(900)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (20, 20, 20)
    assert "hears neither a client nor hosts 2, 3" in wire.hosts[1].view(wire.now_ms).because
    wire.run(200)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (0, 30, 30)
    assert "stopped" == wire.state(1)
    assert any("nor hosts 2, 3, online by the cluster's log" in text for text in wire.said(6))

    wire.run(10_000)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (0, 30, 30)
    wire.lost = None
    wire.run(300)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (20, 20, 20)


def test_a_fault_in_one_direction_is_named() -> None:
    """By everybody who hears both; they go on with the former map. It is no finding while it may be a lost frame."""
    wire = settled(1, 2, 3)
    wire.lost = lambda sender, receiver, said: (sender, receiver) == (3, 1)
    wire.run(2_000)
    assert not any(wire.hosts[number].view(wire.now_ms).hindrances for number in (1, 2, 3))
    wire.run(2_000)
    for number in (2, 3):
        (sentence,) = wire.hosts[number].view(wire.now_ms).hindrances
        assert sentence.startswith("Host 1 does not hear host 3")
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (20, 20, 20)
    wire.lost = None
    wire.run(200)
    assert not any(wire.hosts[number].view(wire.now_ms).hindrances for number in (1, 2, 3))


def test_a_host_that_hears_clients_is_not_deaf() -> None:
    """It takes all as soon as one is heard; what came before the silence could be noticed says nothing."""
    wire = with_log(1, 2)
    wire.tell(1, ClientsHeard())
    wire.remove(2)
    wire.run(600)
    assert wire.hosts[1].is_in_doubt
    assert wire.owned(1) == 30
    wire.tell(1, ClientsHeard())
    assert wire.owned(1) == 60
    wire.run(10_000)
    assert wire.owned(1) == 60, "once it has taken all it stays, with clients or without"


def test_a_client_calls_back_a_host_that_took_itself_for_deaf() -> None:
    """It listens for other hosts first, as every host that starts."""
    wire = with_log(1, 2)
    wire.remove(2)
    wire.run(1_200)
    assert "stopped" == wire.state(1)
    wire.tell(1, ClientsHeard())
    wire.run(400)
    assert wire.owned(1) == 0
    wire.run(200)
    assert wire.owned(1) == 60


def test_the_log_says_that_nobody_is_left() -> None:
    """Then no sign is needed: the other's resource has failed, its node is down, or somebody stopped it."""
    for news in (HostsOnline(hosts=frozenset({HostId(1)})), NodesUp(hosts=frozenset({HostId(1)}))):
        wire = with_log(1, 2)
        wire.remove(2)
        wire.run(600)
        assert wire.owned(1) == 30
        wire.tell(1, news)
        assert wire.owned(1) == 60


def test_a_host_that_said_goodbye_is_not_missed() -> None:
    """Whatever the log says of it."""
    wire = with_log(1, 2)
    assert wire.control(2, Control.STOP) is Status.OK
    wire.run(5_000)
    assert wire.owned(1) == 60


def test_a_deaf_host_that_starts_takes_nothing() -> None:
    """It would found a cluster of its own, to which the others yield."""
    wire = settled(1, 2)
    wire.lost = lambda sender, receiver, said: receiver == 3
    wire.add(3)
    wire.tell(3, HostsOnline(hosts=frozenset(map(HostId, (1, 2, 3)))))
    wire.run(1_100)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (30, 30, 0)
    assert "stopped" == wire.state(3)


def test_a_bucket_is_taken_only_when_it_was_let_go() -> None:
    """The gainer waits for the word of the former owner, however long that takes."""
    wire = settled(1, 2)
    wire.lost = lambda sender, receiver, said: (sender, receiver) == (2, 3) and said.generation == 2
    wire.add(3)
    wire.run(20)
    former = wire.tables[2].slots[1].owners
    waiting = [bucket for bucket, owner in enumerate(former) if owner == 3]
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (20, 20, 10)
    assert sum(wire.tables[3].slots[1].owners[bucket] == 2 for bucket in waiting) == 10

    wire.lost = None
    wire.run(100)
    assert (wire.owned(1), wire.owned(2), wire.owned(3)) == (20, 20, 20)


def test_a_host_that_was_silent_has_lost_its_map() -> None:
    """It must have stopped when others can think that it is dead: two lost heartbeats before their limit."""
    wire = settled(1)
    late_ms = wire.valid_until_ms[1] + 1
    assert late_ms - wire.now_ms <= 300
    wire.now_ms = late_ms
    wire.tell(1, Tick())

    assert not wire.tables[1].active
    assert any("sent no heartbeat for 299 ms" in note.message for _, note in wire.notes)


def test_forged_frames_are_counted() -> None:
    """And noted once."""
    wire = settled(1)
    for _ in range(3):
        wire.tell(1, HeartbeatRefused(reason=Refused.FORGED))

    assert wire.hosts[1].view(wire.now_ms).counters["frames refused: authentication failed"] == 3
    assert sum("refuses load-balancing frames" in note.message for _, note in wire.notes) == 1


def test_old_heartbeats_do_not_count() -> None:
    """A replayed one is no sign of life, not even of a host that is gone."""
    wire = settled(1, 2)
    beat = wire.hosts[2]._heartbeat(wire.hosts[2]._statement())
    wire.remove(2)
    wire.run(700)
    assert wire.owned(1) == 60

    for seq in (1, 2, 3):
        wire.tell(1, HeartbeatHeard(heartbeat=replace(beat, seq=seq)))
    assert wire.state(1) == "converged as DEFAULT"
    assert wire.hosts[1].view(wire.now_ms).counters["heartbeats that were old"] == 3


def test_many_buckets_travel_apart() -> None:
    """With 960 buckets a joiner learns who owns which from further frames."""
    wire = settled(1, 2, buckets=BUCKETS_LARGE)
    assert (wire.owned(1), wire.owned(2)) == (480, 480)
    wire.add(3)
    wire.run(100)

    assert [wire.owned(number) for number in (1, 2, 3)] == [320, 320, 320]


# --- misconfiguration -----------------------------------------------------------------------------------------------


def test_a_host_with_other_rules_is_not_admitted() -> None:
    """The others go on, with all that may happen to them; both sides name the rule."""
    wire = settled(1, 2)
    other = parse_rules(["All 25 TCP Single", "All 80 TCP Multiple Network", "All 443 TCP Multiple None 30"])[0]
    wire.add(3, cluster=replace(wire.cluster, rules=other))
    wire.run(1_000)

    assert (wire.state(1), wire.state(2), wire.state(3)) == ("converged as DEFAULT", "converged", "converging")
    assert wire.tables[3].active is False
    assert all("differ in port rule 'All 80-80 TCP'" in message for message in wire.said(67))
    assert {number for number, note in wire.notes if note.event_id == 67} == {1, 2, 3}
    wire.remove(2)
    wire.run(700)
    assert wire.owned(1) == 60

    wire.tell(3, ParametersChanged(cluster=wire.cluster, host=HostParameters(node="n3", host=HostId(3))))
    wire.run(100)
    assert wire.owned(3) == 30


def test_another_number_of_rules() -> None:
    """Has an event of its own."""
    wire = settled(1)
    wire.add(2, cluster=replace(wire.cluster, rules=RULES[:2]))
    wire.run(1_000)

    assert "conflicting numbers of port rules, 3 and 2" in wire.said(67)[0]
    assert wire.hosts[1].view(wire.now_ms).findings[0].cause.value == 5


def test_another_mode_or_number_of_buckets() -> None:
    """Is told as a difference of the cluster's parameters."""
    wire = settled(1)
    wire.add(2, cluster=replace(wire.cluster, bucket_count=BUCKETS_LARGE))
    wire.run(1_000)

    assert "differ in operation mode, virtual addresses, network address, BucketCount" in wire.said(67)[0]
    assert wire.state(2) == "converging"


def test_two_hosts_with_one_host_id() -> None:
    """The one that balances goes on; the other one never does. A third one names both."""
    wire = settled(1, 2)
    wire.add(2, code=99, key=22)
    wire.run(1_000)

    assert (wire.state(1), wire.state(2), wire.state(22)) == ("converged as DEFAULT", "converged", "converging")
    assert wire.tables[22].active is False
    assert len(wire.said(17)) == 3
    assert any("mac2 " in message and "mac22 " in message for message in wire.said(17))


def test_differing_hosts_without_a_map_do_not_found_two_clusters() -> None:
    """Nobody can say who is right, so nobody takes anything until they are equal."""
    wire = Wire(1)
    wire.add(2, cluster=replace(wire.cluster, rules=RULES[:2]))
    wire.run(3_000)
    assert wire.states() == {1: "converging", 2: "converging"}

    wire.tell(2, ParametersChanged(cluster=wire.cluster, host=HostParameters(node="n2", host=HostId(2))))
    wire.run(200)
    assert (wire.owned(1), wire.owned(2)) == (30, 30)


def test_one_handling_priority_for_two() -> None:
    """Event 20; the newcomer is not admitted, and comes in when it has a priority of its own."""
    wire = settled(1)
    scope = RuleScope(port=25)
    same = HostParameters(node="n2", host=HostId(2), handling=(RuleNumber(scope=scope, number=1),))
    wire.hosts[2] = Convergence(cluster=wire.cluster, host=same, host_code=2, boot=5, quorum=True)
    wire.tell(2, Tick())
    wire.run(1_000)
    assert (wire.state(1), wire.state(2)) == ("converged as DEFAULT", "converging")
    assert "the same handling priority 1 in port rule 'All 25-25 TCP'" in wire.said(20)[0]

    wire.tell(2, ParametersChanged(cluster=wire.cluster, host=replace(same, handling=())))
    wire.run(50)
    assert (wire.owned(1), wire.owned(2)) == (30, 30)


def test_an_inactive_team_takes_nothing() -> None:
    """A host whose team is not complete gives up its part, and says why."""
    wire = settled(1, 2)
    team = TeamWord(participants=2, xor_of_addresses=7, active=True)
    for number in (1, 2):
        wire.tell(number, TeamChanged(team=team))
    wire.run(100)
    assert (wire.owned(1), wire.owned(2)) == (30, 30)

    wire.tell(2, TeamChanged(team=replace(team, active=False)))
    wire.run(700)
    assert wire.tables[2].active is False
    assert wire.owned(1) == 60
    assert "team of host 2 is inactive" in wire.hosts[2].view(wire.now_ms).because


def test_the_history_tells_what_happened() -> None:
    """Bounded, with times, states and reasons."""
    wire = settled(1, 2)
    wire.remove(2)
    wire.run(700)
    view = wire.hosts[1].view(wire.now_ms)

    assert [line.state for line in view.history] == ["converging", "converged", "converging", "converged"]
    assert view.history[2].because == "host 2 left or cannot be heard"
    assert view.history[3].hosts == (1,)
    assert view.convergences == 2
