"""The contract of the port ``PacketFilter``, on the filter in the kernel and on the fake."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from clussvc.model.errors import ClusterError
from clussvc.nlb.filter.binding import XdpFilter
from clussvc.nlb.filter_table import Reason, RuleBuckets, Verdict, all_to
from clussvc.nlb.rule_counters import Packets
from clussvc.ports import PacketFilter
from tests.adapters.nlb.conftest import Wire
from tests.adapters.nlb.fake import FakeFilter
from tests.packets.frames import ACK, FIN, RST, Packet
from tests.packets.tables import table

Subject = tuple[PacketFilter, Callable[[bytes], bool], str]
"""The filter, a way in for frames, and an interface that exists."""


@pytest.fixture(params=["kernel", "fake"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if request.param == "fake":
        fake = FakeFilter({"inside"})
        yield fake, fake.receive, "inside"
        return
    real: XdpFilter = request.getfixturevalue("kernel_filter")
    wire: Wire = request.getfixturevalue("wire")
    yield real, lambda frame: real.test_run(frame)[0], wire.inside


def test_it_is_attached_between_attach_and_detach(subject: Subject) -> None:
    """Also when it is told twice to detach, and again afterwards."""
    subject_filter, _, interface = subject
    subject_filter.load(table())
    assert not subject_filter.attached()
    for _ in range(2):
        subject_filter.attach(interface)
        assert subject_filter.attached()
        subject_filter.detach()
        subject_filter.detach()
        assert not subject_filter.attached()


def test_an_unknown_interface_changes_nothing(subject: Subject) -> None:
    subject_filter, receive, interface = subject
    subject_filter.load(table(hosts=1))
    with pytest.raises(ClusterError) as refused:
        subject_filter.attach("nowhere0")
    assert refused.value.code == "interface-missing"
    assert receive(Packet().frame())
    subject_filter.attach(interface)
    assert subject_filter.attached()


def test_a_table_that_cannot_be_changes_nothing(subject: Subject) -> None:
    """All that is wrong is said at once, and the former table goes on deciding."""
    subject_filter, receive, _ = subject
    subject_filter.load(table(hosts=1))
    bad = table(default=all_to(33, 60), seed=b"short", vips=(ip_address("192.0.2.10"),) * 2)
    with pytest.raises(ClusterError) as refused:
        subject_filter.load(bad)
    assert refused.value.code == "filter-table-invalid"
    for word in ("owner that is no host", "seed of the hash has 5 bytes", "192.0.2.10 is given twice"):
        assert word in refused.value.message
    assert receive(Packet().frame())


def test_frames_are_counted_by_reason(subject: Subject) -> None:
    subject_filter, receive, _ = subject
    subject_filter.load(table(hosts=1))
    for _ in range(3):
        assert receive(Packet(target="192.0.2.77").frame())
    assert not receive(Packet().frame()[:40])
    subject_filter.load(table(hosts=1, running=False))
    assert not receive(Packet().frame())

    counters = subject_filter.counters()
    assert {reason: count for reason, count in counters.items() if count} == {
        Reason.OTHER_ADDRESS: 3,
        Reason.MALFORMED: 1,
        Reason.STOPPED: 1,
    }
    assert set(counters) == set(Reason)


def test_the_deadman_ends_what_is_accepted(subject: Subject) -> None:
    """From that moment on nothing for the cluster, until it is moved; what is for others passes."""
    subject_filter, receive, _ = subject
    subject_filter.load(table(hosts=1))
    now_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
    subject_filter.keep_until(now_ms + 600_000)
    assert receive(Packet().frame())
    subject_filter.keep_until(now_ms - 1_000)
    deadline_s = time.monotonic() + 10
    while receive(Packet().frame()):
        assert time.monotonic() < deadline_s  # The tick in which it was set has to end.
    assert receive(Packet(target="192.0.2.77").frame())
    assert subject_filter.counters()[Reason.STOPPED] == 1
    subject_filter.keep_until(None)
    assert receive(Packet().frame())


def test_buckets_with_connections_are_occupied(subject: Subject) -> None:
    """From the first packet on, until a reset, wherever the bucket is by then."""
    subject_filter, receive, _ = subject
    subject_filter.load(table("All 80 TCP Multiple None", hosts=1))
    assert not subject_filter.occupied()
    asked = {"client": ip_address("198.51.100.7"), "server": ip_address("192.0.2.10"), "server_port": 80}
    buckets = {}
    for port in (1000, 2000):
        assert receive(Packet(source_port=port).frame())
        buckets[port] = subject_filter.explain(**asked, client_port=port).bucket  # type: ignore[arg-type]
    receive(Packet(target_port=25).frame())  # Of the default rule.
    moved = table("All 80 TCP Multiple None", hosts=1, rule_buckets=(RuleBuckets(owners=(2,) * 60),))
    subject_filter.load(moved)
    occupied = subject_filter.occupied()
    assert occupied[0] == frozenset(buckets.values())
    assert len(occupied[32]) == 1

    assert receive(Packet(source_port=1000, flags=FIN | ACK).frame())
    assert subject_filter.occupied()[0] == frozenset(buckets.values())
    assert receive(Packet(source_port=1000, flags=RST).frame())
    assert receive(Packet(source_port=2000, flags=RST).frame())
    assert 0 not in subject_filter.occupied()


def test_explaining_notes_nothing(subject: Subject) -> None:
    subject_filter, receive, _ = subject
    subject_filter.load(table(hosts=1))
    asked = {
        "client": ip_address("198.51.100.7"),
        "server": ip_address("192.0.2.10"),
        "client_port": 40_000,
        "server_port": 80,
    }
    for opens in (True, False):
        decision = subject_filter.explain(**asked, opens=opens)  # type: ignore[arg-type]
        assert (decision.verdict, decision.reason) == (Verdict.ACCEPT, Reason.BUCKET_OWNER)
    assert not subject_filter.flows()
    assert not any(subject_filter.counters().values())

    receive(Packet().frame())
    decision = subject_filter.explain(**asked, opens=False)  # type: ignore[arg-type]
    assert decision.reason is Reason.KNOWN_CONNECTION
    assert "The connection is open on this host." in decision.because(table(hosts=1))


def test_nothing_works_on_a_closed_filter(subject: Subject) -> None:
    subject_filter, _, interface = subject
    subject_filter.load(table())
    subject_filter.attach(interface)
    subject_filter.close()
    subject_filter.close()
    for call in (
        lambda: subject_filter.load(table()),
        lambda: subject_filter.attach(interface),
        subject_filter.attached,
        subject_filter.counters,
        subject_filter.flows,
        subject_filter.occupied,
    ):
        with pytest.raises(ClusterError) as refused:
            call()
        assert refused.value.code == "filter-closed"


def test_packets_are_counted_by_rule(subject: Subject) -> None:
    """Accepted and dropped, TCP and UDP apart, also what the deadman drops; what needs no rule is in none."""
    subject_filter, receive, _ = subject
    subject_filter.load(table("All 80 TCP Multiple Single", "All 53 UDP Single", filter_icmp=True))
    taken = 0
    for number in range(1, 41):
        client = Packet(source=f"198.51.100.{number}")
        taken += receive(client.frame())
    assert receive(client.but(protocol=17, target_port=53).frame())
    assert receive(client.but(target_port=443).frame())
    receive(client.but(target="192.0.2.99").frame())

    assert 0 < taken < 40
    assert subject_filter.packets() == {
        "All 80-80 TCP": Packets(accepted=taken, dropped=40 - taken),
        "All 53-53 UDP": Packets(accepted=1),
        "Default": Packets(accepted=1),
    }
    subject_filter.keep_until(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000 - 1000)
    deadline_s = time.monotonic() + 10
    while receive(client.but(target_port=443).frame()):
        assert time.monotonic() < deadline_s
    assert subject_filter.packets()["Default"].dropped >= 1


def test_rules_that_come_and_go_leave_the_counts_of_others(subject: Subject) -> None:
    """One that comes before them, one that goes, all of them while the host is stopped; other owners, another mode.
    Other ports make another rule."""
    subject_filter, receive, _ = subject
    packet = Packet(target_port=443)
    subject_filter.load(table("All 80 TCP Multiple Single", "All 443 TCP Multiple Single", hosts=1))
    assert receive(packet.frame())
    for texts, changes in (
        (("All 25 TCP Single", "All 80 TCP Single", "All 443 TCP Multiple Single"), {}),
        (("All 443 TCP Multiple None",), {"rule_buckets": (all_to(2, 60),)}),
        (("All 25 TCP Single",), {"running": False}),
        (("All 25 TCP Single", "All 443 TCP Disabled"), {}),
    ):
        subject_filter.load(table(*texts, hosts=1, **changes))
        receive(packet.frame())

    assert subject_filter.packets() == {
        "All 25-25 TCP": Packets(),
        "All 443-443 TCP": Packets(accepted=2, dropped=2),
        "Default": Packets(),
    }
    subject_filter.load(table("All 443-444 TCP Multiple Single", hosts=1))
    assert subject_filter.packets() == {"All 443-444 TCP": Packets(), "Default": Packets()}
