"""Heartbeats in bytes: there and back, refused when forged or damaged, and read by a packet analyser field by field."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.ids import HostId
from clussvc.nlb.bucket_map import BUCKETS_LARGE, empty_map, next_map, own_bits
from clussvc.nlb.heartbeat import (
    DEFAULT_SLOT,
    ETHERTYPE,
    MEMBERSHIP_BYTES,
    SLOTS,
    HostName,
    MapPart,
    MembershipHeartbeat,
    Refused,
    State,
    TeamWord,
    all_groups,
    bits_of_groups,
    decode,
    decode_extended,
    encode,
    encode_maps,
    encode_name,
    frame,
    group_bits,
    map_word,
    words,
)

KEY = bytes(range(32))
CLUSTER = IPv4Address("192.0.2.10").packed
U16, U32, U64 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)


def row(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, ...]]:
    """A number for every slot, mostly the same."""
    return st.builds(lambda common, first, last: (first, *(common,) * (SLOTS - 2), last), numbers, numbers, numbers)


HOSTS = st.integers(1, 32).map(HostId)
HEARTBEATS = st.builds(
    MembershipHeartbeat,
    host=HOSTS,
    cluster=st.just(CLUSTER),
    dip=st.builds(IPv4Address, U32),
    default_host=st.integers(0, 32),
    state=st.sampled_from(State),
    rules=st.integers(0, 32),
    host_code=U32,
    packets=U32,
    team=st.builds(
        TeamWord,
        active=st.booleans(),
        master=st.booleans(),
        reverse=st.booleans(),
        participants=st.integers(0, 31),
        xor_of_addresses=U16,
    ),
    members=st.frozensets(HOSTS),
    codes=row(U32),
    current=row(U64),
    new=row(U64),
    idle=row(U64),
    ready=row(U64),
    weights=row(st.integers(0, 100)),
    generation=U32,
    boot=st.integers(1, 2**64 - 1),
    seq=st.integers(1, 2**32 - 1),
    draining=st.booleans(),
    agreement=U64,
    table_code=U32,
    buckets=st.integers(1, 2**16 - 1),
)
SAMPLE = MembershipHeartbeat(
    host=HostId(3),
    cluster=CLUSTER,
    dip=IPv4Address("192.0.2.3"),
    default_host=1,
    state=State.STABLE,
    rules=2,
    host_code=0xDEADBEEF,
    packets=12_345,
    team=TeamWord(active=True, reverse=True, participants=2, xor_of_addresses=0x1234),
    members=frozenset({HostId(1), HostId(3), HostId(32)}),
    codes=words([11, 12], 13),
    current=words([0x0FFF_FFFF_FFFF_FFFF, 1], 2),
    new=words([3, 4], 5),
    idle=words([6, 7], 8),
    ready=words([9, 10], 14),
    weights=words([50, 2], 3),
    generation=7,
    boot=1_767_225_600_000,
    seq=99,
    agreement=2**63 + 1,
    table_code=21,
)


@given(heartbeat=HEARTBEATS)
def test_a_heartbeat_arrives_as_it_was_sent(heartbeat: MembershipHeartbeat) -> None:
    """In 1496 bytes, whatever its values; bytes that a driver appends do no harm."""
    payload = encode(heartbeat, KEY)

    assert len(payload) == MEMBERSHIP_BYTES
    assert heartbeat == decode(payload, KEY, CLUSTER) == decode(payload + bytes(4), KEY, CLUSTER)


@given(at=st.integers(0, MEMBERSHIP_BYTES - 1), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed(at: int, bit: int) -> None:
    """Wherever it is; nothing of the rest is believed."""
    payload = bytearray(encode(SAMPLE, KEY))
    payload[at] ^= 1 << bit

    expected = Refused.SIGNATURE if at < 4 else Refused.FOREIGN if 12 <= at < 16 else Refused.FORGED
    assert decode(bytes(payload), KEY, CLUSTER) is expected


@given(junk=st.binary(max_size=1_600))
def test_junk_is_refused(junk: bytes) -> None:
    """Nothing raises, with a known signature in front or without."""
    for payload in (junk, b"\xbf\x01\xde\xc0" + junk, encode(SAMPLE, KEY)[:40] + junk):
        assert isinstance(decode(payload, KEY, CLUSTER), Refused)
        assert isinstance(decode_extended(payload, KEY, CLUSTER), Refused)
    assert isinstance(decode_extended(b"\xc0\x01\xde\xc0" + junk, KEY, CLUSTER), Refused)


@pytest.mark.parametrize("size", [0, 19, 20, 44, 1_495, 1_501])
def test_the_length_is_looked_at(size: int) -> None:
    """Truncated and overlong payloads."""
    payload = (encode(SAMPLE, KEY) + bytes(10))[:size]

    assert decode(payload, KEY, CLUSTER) is Refused.LENGTH


def test_who_has_another_key() -> None:
    """Is a forger; who has another cluster address is a stranger, whatever the key."""
    assert decode(encode(SAMPLE, b"another key of 32 bytes, or more"), KEY, CLUSTER) is Refused.FORGED
    foreign = replace(SAMPLE, cluster=IPv4Address("192.0.2.99").packed)
    assert decode(encode(foreign, KEY), KEY, CLUSTER) is Refused.FOREIGN


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SAMPLE, host=HostId(0)),
        replace(SAMPLE, host=HostId(33)),
        replace(SAMPLE, default_host=33),
        replace(SAMPLE, rules=33),
        replace(SAMPLE, weights=words([101], 1)),
        replace(SAMPLE, boot=0),
        replace(SAMPLE, seq=0),
        replace(SAMPLE, buckets=0),
    ],
)
def test_impossible_values(wrong: MembershipHeartbeat) -> None:
    """Even of one who knows the key."""
    assert decode(encode(wrong, KEY), KEY, CLUSTER) is Refused.VALUES


# --- extended heartbeats --------------------------------------------------------------------------------------------


@given(name=st.text(st.characters(codec="ascii", categories=("L", "N", "P")), max_size=64))
def test_a_name_arrives(name: str) -> None:
    """Whatever a host may be called."""
    said = HostName(host=HostId(2), cluster=CLUSTER, dip=IPv4Address("192.0.2.2"), name=name, boot=5, seq=6)

    assert said == decode_extended(encode_name(said, KEY), KEY, CLUSTER)


@pytest.mark.parametrize("buckets", [60, BUCKETS_LARGE, 4_096])
def test_maps_arrive(buckets: int) -> None:
    """All slots, in as many frames as it takes."""
    owners = next_map(empty_map(buckets), {HostId(1): 50, HostId(2): 20})
    bits = {slot: own_bits(owners, HostId(1 + slot % 2)) for slot in range(SLOTS)}
    said = MapPart(host=HostId(2), cluster=CLUSTER, dip=IPv4Address(0), boot=5, seq=6, buckets=buckets, bits=bits)
    heard: dict[int, int] = {}
    for payload in encode_maps(said, KEY):
        assert len(payload) <= 1_500
        part = decode_extended(payload, KEY, CLUSTER)
        assert isinstance(part, MapPart)
        heard |= part.bits

    assert heard == bits


@given(at=st.integers(0, 2_000), bit=st.integers(0, 7), which=st.booleans())
def test_a_changed_bit_of_an_extended_heartbeat(at: int, bit: int, which: bool) -> None:
    """Is noticed as well."""
    name = HostName(host=HostId(2), cluster=CLUSTER, dip=IPv4Address(0), name="n2", boot=5, seq=6)
    maps = MapPart(host=HostId(2), cluster=CLUSTER, dip=IPv4Address(0), boot=5, seq=6, buckets=60, bits={0: 7})
    payload = bytearray(encode_name(name, KEY) if which else encode_maps(maps, KEY)[0])
    payload[at % len(payload)] ^= 1 << bit

    assert isinstance(decode_extended(bytes(payload), KEY, CLUSTER), Refused)


@given(bits=st.integers(0, 2**960 - 1))
def test_groups_cover_what_they_stand_for(bits: int) -> None:
    """A bucket lies in its group; a group has sixteen buckets. Of sixty buckets each is a group."""
    groups = group_bits(bits, BUCKETS_LARGE)

    assert groups <= all_groups(BUCKETS_LARGE) == 2**60 - 1
    assert bits & ~bits_of_groups(groups, BUCKETS_LARGE) == 0
    assert groups == group_bits(bits_of_groups(groups, BUCKETS_LARGE), BUCKETS_LARGE)
    small = bits & all_groups(60)
    assert small == group_bits(small, 60) == bits_of_groups(small, 60) == map_word(small, 60)


def test_a_map_word_tells_maps_apart() -> None:
    """A digest where the bits do not fit; nothing is nothing."""
    assert map_word(0, BUCKETS_LARGE) == 0
    assert len({map_word(1 << bucket, BUCKETS_LARGE) for bucket in range(BUCKETS_LARGE)}) == BUCKETS_LARGE


# --- what a packet analyser sees ------------------------------------------------------------------------------------

needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None, reason="tshark is missing; see script/setup-system --tests"
)


def capture(path: Path, payloads: list[bytes]) -> Path:
    """A capture file with these frames."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1))
        for payload in payloads:
            data = frame(b"\xff" * 6, b"\x02\x03\xc0\x00\x02\x0a", payload)
            file.write(struct.pack("<IIII", 0, 0, len(data), len(data)) + data)
    return path


def fields(path: Path, *names: str) -> list[list[str]]:
    """Fields of every frame as the analyser prints them."""
    command = ["tshark", "-r", str(path), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,"]
    done = subprocess.run(
        [*command, *(word for name in names for word in ("-e", name))], capture_output=True, text=True, check=True
    )
    return [line.split("\t") for line in done.stdout.splitlines()]


@needs_tshark
def test_the_analyser_reads_every_field(tmp_path: Path) -> None:
    """Without complaint, as sent, at the published places."""
    file = capture(tmp_path / "beat.pcap", [encode(SAMPLE, KEY)])
    (seen,) = fields(
        file, "eth.type", "_ws.malformed", "msnlb.signature", "msnlb.version", "msnlb.unique_host_id",
        "msnlb.cluster_ip",
        "msnlb.host_ip", "msnlb.my_host_ip", "msnlb.default_host_ip", "msnlb.convergence_state",
        "msnlb.number_of_port_rules", "msnlb.unique_host_code", "msnlb.packets_handled", "msnlb.teamingcfg.active",
        "msnlb.teamingcfg.master", "msnlb.teamingcfg.hashing", "msnlb.teamingcfg.number_of_participants",
        "msnlb.teamingcfg.xorclusterip", "msnlb.portruleconfiguration.data", "msnlb.currentmap.data",
        "msnlb.newmap.data",
        "msnlb.idlemap.data", "msnlb.readymap.data", "msnlb.loadweights.data",
    )  # fmt: skip
    numbers = [int(each, 0) for each in (*seen[:1], *seen[2:5], *seen[7:13])]

    assert seen[1] == ""
    assert numbers == [ETHERTYPE, 0xC0DE01BF, 0x0204, 3, 3, 1, State.STABLE, 2, 0xDEADBEEF, 12_345]
    assert seen[5:7] == ["192.0.2.10", "192.0.2.3"]
    assert [int(each, 0) for each in seen[13:18]] == [1, 0, 1, 2, 0x1234]
    for column, row_sent in enumerate(
        (SAMPLE.codes, SAMPLE.current, SAMPLE.new, SAMPLE.idle, SAMPLE.ready, SAMPLE.weights), 18
    ):
        assert row_sent == tuple(int(each, 0) for each in seen[column].split(","))
        assert row_sent[DEFAULT_SLOT] != 0


@needs_tshark
def test_the_analyser_reads_extended_heartbeats(tmp_path: Path) -> None:
    """The name as published, and our item as one that it does not know."""
    name = HostName(host=HostId(2), cluster=CLUSTER, dip=IPv4Address("192.0.2.2"), name="node-two", boot=5, seq=6)
    maps = MapPart(
        host=HostId(2), cluster=CLUSTER, dip=IPv4Address(0), boot=5, seq=6, buckets=960, bits={0: 1, 32: 2**959}
    )
    file = capture(tmp_path / "extended.pcap", [encode_name(name, KEY), *encode_maps(maps, KEY)])
    first, second = fields(
        file, "_ws.malformed", "msnlb.signature", "msnlb.unique_host_id", "msnlb.host_name", "msnlb.extended_hb.unknown"
    )

    assert (first[0], second[0]) == ("", "")
    assert [int(first[1], 0), int(second[1], 0)] == [0xC0DE01C0] * 2
    assert first[2:4] == ["2", "node-two"]
    assert first[4] and second[4]
