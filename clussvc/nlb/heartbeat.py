"""Heartbeats of load balancing in bytes: the published frames, with our words where the original keeps its own
reserved.

A frame of EtherType 0x886F carries a *membership heartbeat* of exactly 1496 bytes, or an *extended heartbeat* of any
length, both behind a common header. Packet analysers decode all of it. The layout (offsets in bytes, little-endian but
for the addresses):

| offset | what | offset | what |
|---|---|---|---|
| 0 | signature | 32 | packets handled |
| 4 | version, 0x0204 | 36 | team |
| 8 | host id | 40 | *members, as bits: bit 0 is host 1* |
| 12 | cluster address | 44 | 33 codes of port rules |
| 16 | dedicated address | 176 | 33 current maps of 8 bytes |
| 20 | host id, 16 bits | 440 | 33 new maps |
| 22 | default host, 16 bits | 704 | 33 idle maps |
| 24 | convergence state, 16 bits | 968 | 33 ready maps |
| 26 | number of port rules, 16 bits | 1232 | 33 load weights |
| 28 | host code | 1364 | 33 *reserved words, see below* |

The words in italics are ours. The reserved ones hold: a mark, the generation of the adopted map, the sender's boot (8
bytes) and sequence number, flags, the agreement (8 bytes), the code of the adopted rules, the number of buckets;
then nothing; and in the last four an **authentication code** over the whole payload (keyed BLAKE2b, 128 bits). A
payload whose code is not right is forged, whatever else it says, and is refused before anything else is believed.

What the published numbers mean where nobody has said it: both host ids count from 1, 0 is none; places 0..n-1 of the
33 are the port rules in canonical order, and the last is the default rule, whose code covers the cluster's parameters;
the states are those of :class:`State`.

**Maps.** A map word holds a bitmap of buckets if the cluster has 64 of them or fewer, and a 64-bit digest of the bitmap
otherwise. The bitmaps themselves then travel in extended heartbeats (an item of a type that analysers show as
unknown), in as many parts as they need; a receiver keeps what it has heard and looks it up by its digest. The words for
idle and ready buckets always are bitmaps, of 60 groups of neighbouring buckets if need be.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum, unique
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Final

from clussvc.model.ids import HostId
from clussvc.nlb.port_rule import HOSTS_MAX, RULES_MAX

ETHERTYPE: Final = 0x886F
MEMBERSHIP: Final = 0xC0DE01BF
EXTENDED: Final = 0xC0DE01C0
VERSION: Final = 0x0204
SLOTS: Final = RULES_MAX + 1
"""Places for port rules, and one for the default rule."""
DEFAULT_SLOT: Final = RULES_MAX
MEMBERSHIP_BYTES: Final = 1_496
PAYLOAD_BYTES_MAX: Final = 1_500
MAP_BITS: Final = 64
GROUPS: Final = 60
"""Into so many groups of neighbours buckets are gathered where a word says something of each of more than 64."""
KEY_BYTES_MIN: Final = 16
KEY_BYTES_MAX: Final = 64
HOST_NAME_LENGTH_MAX: Final = 255

NO_ADDRESS: Final = IPv4Address(0)

_MARK: Final = 0x314E4C43
"""The bytes CLN1: the first reserved word of this form."""
_CODE_BYTES: Final = 16
_HEADER: Final = struct.Struct("<III4s4s")
_MEMBERSHIP: Final = struct.Struct("<III4s4sHHHHIIII33I33Q33Q33Q33Q33I" + "IIQIIQII" + "76s16s")
_EXTENDED: Final = struct.Struct("<BBHI" + "QIHH")
"""Of our own item: its type, length and reserved fields; then boot, sequence number, the part's number, of how many."""
_ITEM_NAME: Final = 1
_ITEM_OURS: Final = 0x43
_NAME_ITEM: Final = struct.Struct("<BBHI")
_NAME_PADDING: Final = 6
_SLOTS_PER_PART: Final = 11

assert _MEMBERSHIP.size == MEMBERSHIP_BYTES


class State(IntEnum):
    """The numbers of the convergence state on the wire."""

    LEAVING = 0
    """The host has given up everything and says so; it sends no more heartbeats after a few of these."""
    CONVERGING = 1
    STABLE = 2
    """The host sees all members announce the agreement that it announces."""
    CONVERGED = 3


@unique
class Refused(Enum):
    """Why a payload was not accepted; each reason has a counter."""

    LENGTH = "wrong length"
    SIGNATURE = "unknown signature"
    FORGED = "authentication failed"
    FOREIGN = "another cluster"
    VALUES = "impossible values"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamWord:
    """What a heartbeat says of a bi-directional affinity team."""

    active: bool = False
    master: bool = False
    reverse: bool = False
    participants: int = 0
    """0..31."""
    xor_of_addresses: int = 0
    """Of the low 16 bits of every participant's cluster address."""

    @property
    def word(self) -> int:
        """As it is sent."""
        bits = int(self.active) | int(self.master) << 1 | int(self.reverse) << 2
        return bits | self.participants << 3 | self.xor_of_addresses << 8

    @staticmethod
    def of(word: int) -> TeamWord:
        """As it is received."""
        return TeamWord(
            active=bool(word & 1),
            master=bool(word & 2),
            reverse=bool(word & 4),
            participants=word >> 3 & 31,
            xor_of_addresses=word >> 8 & 0xFFFF,
        )


_ZEROS: Final = (0,) * SLOTS


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipHeartbeat:
    """What a host says of itself, several times a second. The tuples have one number for each of the 33 slots."""

    host: HostId
    cluster: bytes
    """Four octets of the primary address; see :func:`~clussvc.nlb.mac.address_octets`."""
    dip: IPv4Address = NO_ADDRESS
    default_host: int = 0
    """As the sender sees it; 0: none yet."""
    state: State = State.CONVERGING
    rules: int = 0
    """The number of port rules, 0..32."""
    host_code: int = 0
    """32 bits that belong to the machine: another one with the same host id has another one."""
    packets: int = 0
    """Accepted so far, modulo 2^32."""
    team: TeamWord = TeamWord()
    members: frozenset[HostId] = frozenset()
    """Those with whom the sender converges, or has converged; itself included."""
    codes: tuple[int, ...] = _ZEROS
    current: tuple[int, ...] = _ZEROS
    """Map words: what the sender owns by the map it has adopted."""
    new: tuple[int, ...] = _ZEROS
    """Map words: what it will own when this convergence ends."""
    idle: tuple[int, ...] = _ZEROS
    """Groups that hold no connection of the sender in buckets that it does not own."""
    ready: tuple[int, ...] = _ZEROS
    """Groups in which the sender takes no bucket that it has lost. Since all lost ones are given up at once when a map
    is adopted, it is told by the generation as well."""
    weights: tuple[int, ...] = _ZEROS
    """Of rules with many hosts, 0..100; of those with one host, the handling priority 1..32; 0: takes nothing new."""
    generation: int = 0
    """Of the adopted map; grows with each; 0: the sender has none."""
    boot: int = 0
    """Grows with each start of the sender."""
    seq: int = 0
    """Grows with each heartbeat of a boot."""
    draining: bool = False
    """The sender will stop when its connections have ended."""
    agreement: int = 0
    """64 bits that are equal if hosts would adopt the same next map; once converged, those of the adopted one."""
    table_code: int = 0
    """32 bits that are equal if hosts decide by the same rules at present; 0: the sender decides by none."""
    buckets: int = 60


def encode(heartbeat: MembershipHeartbeat, key: bytes) -> bytes:
    """The payload of 1496 bytes."""
    members = sum(1 << (member - 1) for member in heartbeat.members)
    body = _MEMBERSHIP.pack(
        MEMBERSHIP, VERSION, heartbeat.host, heartbeat.cluster, heartbeat.dip.packed,
        heartbeat.host, heartbeat.default_host, heartbeat.state, heartbeat.rules,
        heartbeat.host_code, heartbeat.packets & 0xFFFFFFFF, heartbeat.team.word, members,
        *heartbeat.codes, *heartbeat.current, *heartbeat.new, *heartbeat.idle, *heartbeat.ready, *heartbeat.weights,
        _MARK, heartbeat.generation, heartbeat.boot, heartbeat.seq, int(heartbeat.draining),
        heartbeat.agreement, heartbeat.table_code, heartbeat.buckets,
        b"", b"",
    )  # fmt: skip
    return _signed(body, key)


def decode(payload: bytes, key: bytes, cluster: bytes) -> MembershipHeartbeat | Refused:
    """The membership heartbeat that a payload means, if it is one of this cluster's. Nothing raises.

    Bytes behind the 1496 are padding and are passed over. The cluster's address is looked at first, so that another
    cluster's heartbeats do not count as forged; then authentication, then values.
    """
    if len(payload) < _HEADER.size:
        return Refused.LENGTH
    if payload[:4] != MEMBERSHIP.to_bytes(4, "little"):
        return Refused.SIGNATURE
    if not MEMBERSHIP_BYTES <= len(payload) <= PAYLOAD_BYTES_MAX:
        return Refused.LENGTH
    payload = payload[:MEMBERSHIP_BYTES]
    if payload[12:16] != cluster:
        return Refused.FOREIGN
    if not _is_signed(payload, key):
        return Refused.FORGED
    (
        _, version, host, address, dip, same_host, default_host, state, rules, host_code, packets, team, members,
        *words, mark, generation, boot, seq, flags, agreement, table_code, buckets, _, _,
    ) = _MEMBERSHIP.unpack(payload)  # fmt: skip
    possible = (
        version >> 8 == VERSION >> 8 and mark == _MARK and 1 <= host <= HOSTS_MAX and same_host == host
        and default_host <= HOSTS_MAX and state <= max(State) and rules <= RULES_MAX and flags <= 1
        and 1 <= buckets <= 0xFFFF and boot > 0 and seq > 0
    )  # fmt: skip
    rows = [tuple(words[at : at + SLOTS]) for at in range(0, len(words), SLOTS)]
    codes, current, new, idle, ready, weights = rows
    if not possible or max(weights) > 100:
        return Refused.VALUES
    return MembershipHeartbeat(
        host=HostId(host),
        cluster=address,
        dip=IPv4Address(dip),
        default_host=default_host,
        state=State(state),
        rules=rules,
        host_code=host_code,
        packets=packets,
        team=TeamWord.of(team),
        members=_members(members),
        codes=codes,
        current=current,
        new=new,
        idle=idle,
        ready=ready,
        weights=weights,
        generation=generation,
        boot=boot,
        seq=seq,
        draining=bool(flags),
        agreement=agreement,
        table_code=table_code,
        buckets=buckets,
    )


@lru_cache(maxsize=64)
def _members(bits: int) -> frozenset[HostId]:
    return frozenset(HostId(number + 1) for number in range(HOSTS_MAX) if bits >> number & 1)


# --- maps that do not fit into a word -------------------------------------------------------------------------------


def map_word(bits: int, buckets: int) -> int:
    """The word that stands for a bitmap of so many buckets: itself, or its digest, which is never 0 unless it is
    empty."""
    if buckets <= MAP_BITS or bits == 0:
        return bits
    return _digest(bits, buckets)


@lru_cache(maxsize=4_096)
def _digest(bits: int, buckets: int) -> int:
    data = bits.to_bytes((buckets + 7) // 8, "little")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"nlb map").digest(), "little") or 1


def group_bits(bits: int, buckets: int) -> int:
    """The groups in which any bucket of a bitmap lies."""
    if buckets <= MAP_BITS:
        return bits
    size = -(-buckets // GROUPS)
    mask = (1 << size) - 1
    return sum(1 << group for group in range(GROUPS) if bits >> (group * size) & mask)


def bits_of_groups(groups: int, buckets: int) -> int:
    """All buckets of the groups."""
    if buckets <= MAP_BITS:
        return groups & (1 << buckets) - 1
    size = -(-buckets // GROUPS)
    mask = (1 << size) - 1
    bits = sum(mask << (group * size) for group in range(GROUPS) if groups >> group & 1)
    return bits & (1 << buckets) - 1


def all_groups(buckets: int) -> int:
    """The word in which every group is set."""
    return (1 << min(buckets, GROUPS if buckets > MAP_BITS else buckets)) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostName:
    """An extended heartbeat with the name of a host, for tools that list hosts."""

    host: HostId
    cluster: bytes
    dip: IPv4Address
    name: str
    boot: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPart:
    """An extended heartbeat with the bitmaps behind the map words of some slots."""

    host: HostId
    cluster: bytes
    dip: IPv4Address
    boot: int
    seq: int
    buckets: int
    bits: Mapping[int, int]
    """Bitmaps by slot."""


def encode_name(said: HostName, key: bytes) -> bytes:
    """The payload: the published item with the name, then ours, which analysers show as unknown."""
    name = said.name[:HOST_NAME_LENGTH_MAX].encode("utf-16-le", errors="replace") + b"\0\0" + bytes(_NAME_PADDING)
    units = -(-(_NAME_ITEM.size + len(name)) // 8)
    return _signed(
        _HEADER.pack(EXTENDED, VERSION, said.host, said.cluster, said.dip.packed)
        + _NAME_ITEM.pack(_ITEM_NAME, units, 0, 0)
        + name
        + _EXTENDED.pack(_ITEM_OURS, 0, 0, 0, said.boot, said.seq, 0, 0)
        + bytes(_CODE_BYTES),
        key,
    )


def encode_maps(said: MapPart, key: bytes) -> list[bytes]:
    """The payloads, as many as are needed: eleven slots of 960 buckets go into each."""
    size = (said.buckets + 7) // 8
    slots = sorted(said.bits)
    per_part = min(_SLOTS_PER_PART, (MEMBERSHIP_BYTES - _HEADER.size - _EXTENDED.size - _CODE_BYTES) // (size + 1))
    payloads = []
    for at in range(0, len(slots), per_part):
        some = slots[at : at + per_part]
        payloads.append(
            _signed(
                _HEADER.pack(EXTENDED, VERSION, said.host, said.cluster, said.dip.packed)
                + _EXTENDED.pack(_ITEM_OURS, 0, 0, 0, said.boot, said.seq, said.buckets, len(some))
                + b"".join(bytes((slot,)) + said.bits[slot].to_bytes(size, "little") for slot in some)
                + bytes(_CODE_BYTES),
                key,
            )
        )
    return payloads


def decode_extended(payload: bytes, key: bytes, cluster: bytes) -> HostName | MapPart | Refused:
    """The extended heartbeat that a payload means. Nothing raises."""
    if not _HEADER.size + _EXTENDED.size + _CODE_BYTES <= len(payload) <= PAYLOAD_BYTES_MAX:
        return Refused.LENGTH
    if payload[:4] != EXTENDED.to_bytes(4, "little"):
        return Refused.SIGNATURE
    if payload[12:16] != cluster:
        return Refused.FOREIGN
    if not _is_signed(payload, key):
        return Refused.FORGED
    _, version, host, _, dip = _HEADER.unpack_from(payload)
    if version >> 8 != VERSION >> 8 or not 1 <= host <= HOSTS_MAX:
        return Refused.VALUES
    at, end = _HEADER.size, len(payload) - _CODE_BYTES
    name = None
    if payload[at] == _ITEM_NAME:
        at += _NAME_ITEM.size
        stop = next((here for here in range(at, end - 1, 2) if payload[here : here + 2] == b"\0\0"), None)
        if stop is None or (stop - at) // 2 > HOST_NAME_LENGTH_MAX:
            return Refused.VALUES
        name = payload[at:stop].decode("utf-16-le", errors="replace")
        at = stop + 2 + _NAME_PADDING
    if at + _EXTENDED.size > end or payload[at] != _ITEM_OURS:
        return Refused.VALUES
    _, _, _, _, boot, seq, buckets, slots = _EXTENDED.unpack_from(payload, at)
    at += _EXTENDED.size
    address = IPv4Address(dip)
    if name is not None:
        if at != end or not name.isprintable():
            return Refused.VALUES
        return HostName(host=HostId(host), cluster=cluster, dip=address, name=name, boot=boot, seq=seq)
    size = (buckets + 7) // 8
    if buckets == 0 or at + slots * (size + 1) != end:
        return Refused.VALUES
    bits: dict[int, int] = {}
    for _ in range(slots):
        bits[payload[at]] = int.from_bytes(payload[at + 1 : at + 1 + size], "little")
        at += size + 1
    if len(bits) != slots or any(slot >= SLOTS or each >> buckets for slot, each in bits.items()):
        return Refused.VALUES
    return MapPart(host=HostId(host), cluster=cluster, dip=address, boot=boot, seq=seq, buckets=buckets, bits=bits)


# --- frames and authentication --------------------------------------------------------------------------------------


def frame(destination: bytes, source: bytes, payload: bytes) -> bytes:
    """The Ethernet frame, without its check sequence."""
    return destination + source + ETHERTYPE.to_bytes(2, "big") + payload


def valid_key(key: bytes) -> bool:
    """Whether the length of a key is 16..64 bytes."""
    return KEY_BYTES_MIN <= len(key) <= KEY_BYTES_MAX


def _code(body: bytes, key: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=_CODE_BYTES, key=key, person=b"nlb heartbeat").digest()


def _signed(body: bytes, key: bytes) -> bytes:
    """The last 16 bytes become the code of all that stands before them."""
    assert valid_key(key), f"a key of {len(key)} bytes"
    return body[:-_CODE_BYTES] + _code(body[:-_CODE_BYTES], key)


def _is_signed(payload: bytes, key: bytes) -> bool:
    return hmac.compare_digest(payload[-_CODE_BYTES:], _code(payload[:-_CODE_BYTES], key))


def words(values: Sequence[int], default: int) -> tuple[int, ...]:
    """The 33 words of a heartbeat: those of the port rules in order, nothing, and the default rule's in the last
    place."""
    return (*values, *(0,) * (DEFAULT_SLOT - len(values)), default)
