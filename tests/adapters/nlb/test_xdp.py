"""The filter in the kernel: what it takes, that it comes and goes cleanly, and whom it meets on an interface."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from ipaddress import ip_address

import pytest

from clussvc.model.errors import ClusterError
from clussvc.model.ids import HostId
from clussvc.nlb.filter import binding
from clussvc.nlb.filter.binding import XdpFilter
from clussvc.nlb.filter.netlink import xdp_programs
from clussvc.nlb.filter_table import FlowState, FlowTimes, Reason, RuleBuckets, Verdict, all_to
from tests.adapters.nlb.conftest import Wire
from tests.packets.frames import ACK, CLUSTER_MAC, FIN, OWN_MAC, RST, SYN, Packet
from tests.packets.tables import table


def boot_time_ms() -> int:
    """The clock of deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def test_accepted_frames_get_the_own_link_address(kernel_filter: XdpFilter) -> None:
    """Two hosts, a hundred clients: the kernel lets through what host 1 owns, readdressed, and drops the rest."""
    kernel_filter.load(table())
    passed = 0
    for port in range(100):
        frame = Packet(source_port=1024 + port, source=f"198.51.100.{port + 1}").frame()
        through, _, after = kernel_filter.test_run(frame)
        assert after == ((OWN_MAC + frame[6:]) if through else frame)
        passed += through

    counters = kernel_filter.counters()
    assert counters[Reason.BUCKET_OWNER] == passed
    assert counters[Reason.OTHER_BUCKET] == 100 - passed
    assert 30 < passed < 70


def test_a_new_table_is_in_force_when_the_call_returns(kernel_filter: XdpFilter) -> None:
    """Also the one without rules that a filter has before its first table."""
    frame = Packet().frame()
    assert kernel_filter.test_run(frame)[0]
    assert kernel_filter.counters()[Reason.OTHER_ADDRESS] == 1

    for running in (True, False, True):
        kernel_filter.load(table(hosts=1, running=running))
        assert kernel_filter.test_run(frame)[0] is running


def test_tables_are_replaced_whole_while_frames_arrive(kernel_filter: XdpFilter) -> None:
    """A thread lets the kernel decide one frame after the other while tables come and go: every one is decided by one
    of the tables, none by a mixture. (In one host 1 owns everything, in the other it is stopped.)"""
    owning, stopped = table(hosts=1), table(hosts=1, running=False)
    kernel_filter.load(owning)
    frame = Packet(protocol=17).frame()
    ended = threading.Event()

    def arrive() -> None:
        while not ended.is_set():
            kernel_filter.test_run(frame, 20_000)

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        for _ in range(40):
            for current, reason in ((stopped, Reason.STOPPED), (owning, Reason.BUCKET_OWNER)):
                kernel_filter.load(current)
                before, deadline_s = kernel_filter.counters()[reason], time.monotonic() + 60
                while kernel_filter.counters()[reason] == before:
                    assert time.monotonic() < deadline_s, "no frame arrives"
    finally:
        ended.set()
        thread.join()

    counted = {reason: count for reason, count in kernel_filter.counters().items() if count}
    assert set(counted) == {Reason.BUCKET_OWNER, Reason.STOPPED}


def test_connections_are_known_and_outlive_a_move(kernel_filter: XdpFilter) -> None:
    """Opened, used, then the bucket goes to host 2: the connection stays, a new one does not come."""
    connection = Packet()
    kernel_filter.load(table(hosts=1))
    assert kernel_filter.test_run(connection.frame())[0]
    assert [FlowState.OPENING] == [flow.state for flow in kernel_filter.flows()]
    assert kernel_filter.test_run(connection.but(flags=ACK).frame())[0]
    (flow,) = kernel_filter.flows()
    assert (flow.client, flow.client_port, flow.server_port) == (ip_address("198.51.100.7"), 40_000, 80)
    assert flow.state is FlowState.OPEN
    (bucket,) = kernel_filter.occupied()[0]

    moved = table(hosts=1, rule_buckets=(RuleBuckets(owners=(2,) * 60),))
    kernel_filter.load(moved)
    asked = {"client": flow.client, "client_port": 40_000, "server": flow.server, "server_port": 80}
    decision = kernel_filter.explain(**asked, opens=False)  # type: ignore[arg-type]
    assert (decision.verdict, decision.reason) == (Verdict.ACCEPT, Reason.KNOWN_CONNECTION)
    assert decision.bucket == bucket and decision.owner == 2
    assert kernel_filter.test_run(connection.but(flags=ACK).frame())[0]
    assert not kernel_filter.test_run(connection.but(flags=ACK, source_port=41_000).frame())[0]
    assert not kernel_filter.test_run(connection.frame())[0]

    # The SYN has ended it here: its client begins anew at host 2.
    assert not kernel_filter.flows()
    assert not kernel_filter.test_run(connection.but(flags=ACK).frame())[0]


def test_connections_without_a_socket_are_forgotten(
    kernel_filter: XdpFilter, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody listens here at port 8080, and has one of the two connections that the filter knows of it: the other is
    forgotten, once it is silent for long enough. One to a port at which nobody listens stays."""
    monkeypatch.setattr(binding, "_SILENT_MS", -60_000)  # So those are silent already that were noted just now.
    subprocess.run(["ip", "address", "add", "192.0.2.10/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "address", "add", "2001:db8::10/128", "dev", "lo", "nodad"], check=True)
    kernel_filter.load(table(hosts=1))
    for family, address in ((socket.AF_INET, "192.0.2.10"), (socket.AF_INET6, "2001:db8::10")):
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.bind((address, 8080))
            server.listen()
            with socket.create_connection((address, 8080)) as client, server.accept()[0]:
                there, here = client.getpeername(), client.getsockname()
                live = Packet(source=here[0], target=there[0], source_port=here[1], target_port=8080, flags=ACK)
                for packet in (live, live.but(source_port=1), live.but(target_port=9090)):
                    assert kernel_filter.test_run(packet.frame())[0]

                assert kernel_filter.forget_lost() == 1
                left = {(flow.client_port, flow.server_port) for flow in kernel_filter.flows()}
                assert {(here[1], 8080), (here[1], 9090)} <= left
                assert (1, 8080) not in left
                monkeypatch.setattr(binding, "_SILENT_MS", 5_000)
                kernel_filter.test_run(live.but(source_port=2).frame())
                assert kernel_filter.forget_lost() == 0
                monkeypatch.setattr(binding, "_SILENT_MS", -60_000)
                assert kernel_filter.forget_lost() == 1
    assert wire.inside


def test_a_flood_pushes_out_only_what_is_opening(kernel_filter: XdpFilter) -> None:
    """More SYNs than there is room for, of both families: the newest are known, the oldest are not, and the connection
    that was open before is known as ever."""
    kernel_filter.load(table(hosts=1))
    old = Packet(source="192.0.2.200")
    opened = [old, old.but(source="2001:db8::200", target="2001:db8::10")]
    for packet in opened:
        for each in (packet, packet.but(flags=ACK)):
            assert kernel_filter.test_run(each.frame())[0]
    flood = [
        opened[number % 2].but(source=("198.51.100.7", "2001:db8::7")[number % 2], source_port=1024 + number)
        for number in range(40_000)
    ]
    for packet in flood:
        assert kernel_filter.test_run(packet.frame())[0]

    known = {
        (str(flow.client), flow.client_port) for flow in kernel_filter.flows(100_000) if flow.state is FlowState.OPENING
    }
    assert 14_000 < len(known) <= 16_384
    assert known <= {(packet.source, packet.source_port) for packet in flood}
    assert known >= {(packet.source, packet.source_port) for packet in flood[-1000:]}
    gone = [packet for packet in flood[:4000] if (packet.source, packet.source_port) not in known]
    assert len(gone) > 3600
    moved = table(hosts=1, rule_buckets=(RuleBuckets(owners=(2,) * 60),))
    kernel_filter.load(moved)
    for packet in (*opened, *flood[-100:]):
        assert kernel_filter.test_run(packet.but(flags=ACK).frame())[0]
    for packet in gone[:100]:
        assert not kernel_filter.test_run(packet.but(flags=ACK).frame())[0]


def test_as_many_connections_are_kept_as_were_asked_for(kernel_filter: XdpFilter) -> None:
    """But for the few whose set was full; and a table that is full keeps the newest."""
    del kernel_filter  # Only for its skipping.
    small = XdpFilter(flows_max=1024)
    try:
        small.load(table(hosts=1))
        for first, port in enumerate(range(1024, 1024 + 8192, 1024)):
            packets = [Packet(source_port=port + number) for number in range(1024)]
            for packet in packets:
                for each in (packet, packet.but(flags=ACK)):
                    assert small.test_run(each.frame())[0]
            known = {flow.client_port for flow in small.flows(100_000)}
            assert len(known) <= 2048
            if first == 0:
                assert len(known) > 1000
            # A hundredth of all connections has been pushed out by one that is younger than a thousand others.
            assert len(known & {packet.source_port for packet in packets}) > 1000
    finally:
        small.close()


def test_what_a_connection_does_is_noted_in_its_place(kernel_filter: XdpFilter) -> None:
    """Packets after a while make it young again, a FIN makes it one that ends, an RST ends it."""
    kernel_filter.load(table(hosts=1, times=FlowTimes(touch_ms=10)))
    connection = Packet()
    for flags in (SYN, ACK):
        kernel_filter.test_run(connection.but(flags=flags).frame())
    deadline_s = time.monotonic() + 60
    while kernel_filter.flows()[0].idle_ms < 100:
        assert time.monotonic() < deadline_s
    aged_ms = kernel_filter.flows()[0].idle_ms
    kernel_filter.test_run(connection.but(flags=ACK).frame())
    (flow,) = kernel_filter.flows()
    assert flow.idle_ms < aged_ms and flow.state is FlowState.OPEN

    for flags in (FIN | ACK, ACK):
        kernel_filter.test_run(connection.but(flags=flags).frame())
        assert [FlowState.CLOSING] == [flow.state for flow in kernel_filter.flows()]
    kernel_filter.test_run(connection.but(flags=RST).frame())
    assert not kernel_filter.flows()


def test_a_stopped_host_forgets_its_connections(kernel_filter: XdpFilter) -> None:
    """What it knew before must not come back to life when it starts again."""
    kernel_filter.load(table(hosts=1))
    for port in range(50):
        kernel_filter.test_run(Packet(source_port=5000 + port).frame())
        kernel_filter.test_run(Packet(source_port=5000 + port, flags=ACK).frame())
    assert len(kernel_filter.flows()) == 50

    kernel_filter.load(table(hosts=1, running=False))

    assert not kernel_filter.flows()
    assert not kernel_filter.test_run(Packet(source_port=5000, flags=ACK).frame())[0]


def test_the_deadman_ends_what_is_accepted(kernel_filter: XdpFilter) -> None:
    """Nothing for the cluster after that moment, connections included, until it is moved; other traffic passes."""
    kernel_filter.load(table(hosts=1))
    connection, foreign = Packet(), Packet(target="192.0.2.77")
    assert kernel_filter.test_run(connection.frame())[0]

    kernel_filter.keep_until(boot_time_ms() + 60_000)
    assert kernel_filter.test_run(connection.but(flags=ACK).frame())[0]
    kernel_filter.keep_until(boot_time_ms() - 1)
    deadline_s = time.monotonic() + 10
    while kernel_filter.test_run(connection.but(flags=ACK).frame())[0]:
        # The tick in which it was set has to end.
        assert time.monotonic() < deadline_s
    assert not kernel_filter.test_run(Packet(source_port=5000).frame())[0]
    assert kernel_filter.counters()[Reason.STOPPED] >= 2
    assert kernel_filter.test_run(foreign.frame())[0]

    kernel_filter.keep_until(None)
    assert kernel_filter.test_run(connection.but(flags=ACK).frame())[0]


def test_members_of_a_team_share_what_they_know(kernel_filter: XdpFilter) -> None:
    """The outer side sees the client open a connection; the inner side then knows the answers that come back, although
    another host still has connections of the bucket."""
    inner = XdpFilter(sharing=kernel_filter)
    try:
        dirty = RuleBuckets(owners=(1,) * 60, dirty=frozenset(range(60)))
        kernel_filter.load(table(hosts=1, transit=True, rule_buckets=(dirty,)))
        inner.load(table(hosts=1, transit=True, reverse=True, rule_buckets=(dirty,)))
        out = Packet(target="203.0.113.80")
        back = Packet(source="203.0.113.80", source_port=80, target="198.51.100.7", target_port=40_000, flags=ACK | 2)
        assert not inner.test_run(back.frame())[0]
        assert kernel_filter.test_run(out.frame())[0]

        assert inner.test_run(back.frame())[0]
    finally:
        inner.close()


def test_frames_arrive_or_not(kernel_filter: XdpFilter, wire: Wire) -> None:
    """Real frames over a wire: only those of this host's buckets are received, with the own link address."""
    kernel_filter.load(table())
    kernel_filter.attach(wire.inside)
    assert kernel_filter.attached()
    packets = [Packet(source=f"198.51.100.{number}") for number in range(1, 41)]
    asked = [
        kernel_filter.explain(client=ip_address(p.source), server=ip_address(p.target), client_port=1, server_port=80)
        for p in packets
    ]
    wanted = [p.frame() for p, answer in zip(packets, asked, strict=True) if answer.verdict is Verdict.ACCEPT]

    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as receiver:
        receiver.bind((wire.inside, 0))
        receiver.settimeout(10)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((wire.outside, 0))
            for packet in packets:
                sender.send(packet.frame())
        received = [receiver.recv(2048) for _ in wanted]

    assert received == [OWN_MAC + frame[6:] for frame in wanted]
    kernel_filter.detach()
    assert not kernel_filter.attached()
    assert not xdp_programs(socket.if_nametoindex(wire.inside))


def test_two_filters_do_not_share_an_interface(kernel_filter: XdpFilter, wire: Wire) -> None:
    """The second is refused with the name of the first; when the first is gone, the second gets in."""
    kernel_filter.load(table())
    kernel_filter.attach(wire.inside)
    second = XdpFilter()
    try:
        second.load(table())
        with pytest.raises(ClusterError) as refused:
            second.attach(wire.inside)
        assert refused.value.code == "interface-taken"
        number, name = kernel_filter.identity()
        assert f"{name} (number {number}, generic)" in refused.value.message
        assert f"ip link set dev {wire.inside} xdp off" in refused.value.message

        kernel_filter.close()
        second.attach(wire.inside)
        assert second.attached()
    finally:
        second.close()


def test_native_mode(kernel_filter: XdpFilter, wire: Wire) -> None:
    """In the driver: virtual pairs can, as long as link addresses stay."""
    kernel_filter.load(table(hosts=1, own_mac=None))
    kernel_filter.attach(wire.inside, native=True)

    assert [mode for _, mode in xdp_programs(socket.if_nametoindex(wire.inside))] == ["native"]


def test_a_crashed_process_leaves_nothing(kernel_filter: XdpFilter, wire: Wire) -> None:
    """The process that attached a filter is killed: the interface is free again."""
    del kernel_filter  # Only for its skipping.
    program = (
        "import sys, time\n"
        "from clussvc.nlb.filter.binding import XdpFilter\n"
        "from tests.packets.tables import table\n"
        "f = XdpFilter(); f.load(table()); f.attach(sys.argv[1])\n"
        "print('attached', flush=True); time.sleep(600)\n"
    )
    index = socket.if_nametoindex(wire.inside)
    with subprocess.Popen(
        [sys.executable, "-c", program, wire.inside], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "attached\n"
            assert len(xdp_programs(index)) == 1
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    # The kernel frees a link after a grace period, so not quite at once.
    until = time.monotonic() + 30
    while xdp_programs(index) and time.monotonic() < until:
        time.sleep(0.01)
    assert not xdp_programs(index)


def test_an_interface_that_vanishes_is_noticed(kernel_filter: XdpFilter, wire: Wire) -> None:
    """As when somebody unplugs it; there is nothing to be attached to any more."""
    from tests.adapters.nlb.conftest import ip

    ip("link", "add", "brief", "type", "veth", "peer", "name", "other")
    kernel_filter.load(table())
    kernel_filter.attach("brief")
    ip("link", "del", "brief")

    assert not kernel_filter.attached()
    kernel_filter.detach()
    kernel_filter.attach(wire.inside)
    assert kernel_filter.attached()


def test_bad_words_are_refused(kernel_filter: XdpFilter) -> None:
    """An interface that is not there, a table that cannot be, a filter that is closed; each with a reason."""
    kernel_filter.load(table())
    with pytest.raises(ClusterError, match="There is no interface nowhere0"):
        kernel_filter.attach("nowhere0")
    with pytest.raises(ClusterError, match=r"An? .*owner that is no host|has an owner that is no host"):
        kernel_filter.load(table(default=all_to(33, 60)))
    with pytest.raises(ClusterError, match="1024 to"):
        XdpFilter(flows_max=1)
    assert kernel_filter.test_run(Packet(target="192.0.2.99").frame())[0]
    kernel_filter.close()
    with pytest.raises(ClusterError) as refused:
        kernel_filter.load(table(host=HostId(2)))
    assert refused.value.code == "filter-closed"
    assert CLUSTER_MAC != OWN_MAC
