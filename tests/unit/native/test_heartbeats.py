"""The core of the heartbeats in C, driven by hand: equal to its twin in Python; what it drops, counts and answers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clussvc.native import Heartbeats
from tests.unit.native.twin import CONTENT, HEADER, HEARING, Twin, signed

KEY = b"k" * 16
MEMBER = 2
DROPS = (
    "too_short",
    "too_long",
    "foreign",
    "wrong_key_number",
    "forged",
    "malformed",
    "stranger",
    "replayed",
)


def heartbeats(node: int = 1, *, boot: int = 1, peers: tuple[int, ...] = (2, 3)) -> Heartbeats:
    made = Heartbeats(node, boot, KEY)
    made.set_peers(peers, 0)
    return made


def vouch(native: Heartbeats, until_ms: int = 10**9, **changed: int) -> None:
    words = {"phase": MEMBER, "attempt": 0, "incarnation": 1, "index": 7, "voters_version": 1} | changed
    native.vouch(
        until_ms=until_ms,
        grants_until_ms=changed.get("grants_until_ms", 0),
        interval_ms=100,
        phase=words["phase"],
        attempt=words["attempt"],
        incarnation=words["incarnation"],
        index=words["index"],
        voters_version=words["voters_version"],
        at_once=False,
        probe=bool(changed.get("probe")),
    )


def datagram(seq: int, *, sender: int = 2, boot: int = 1, body: bytes | None = None, key: bytes = KEY) -> bytes:
    """A heartbeat of that node, authentic under the key."""
    head = HEADER.pack(b"CLHB", 2, 0, sender, boot, 1, seq)
    return signed(key, head + (CONTENT.pack(MEMBER, 0, 0, 7, 1, 0) if body is None else body))


def dropped(native: Heartbeats) -> dict[str, int]:
    counts = native.statistics()
    return {name: counts[f"dropped.{name}"] for name in DROPS if counts[f"dropped.{name}"]}


# --- against the twin -------------------------------------------------------------------------------------------------

steps = st.one_of(
    st.tuples(st.just("say"), st.sampled_from([1, 2, 3]), st.integers(0, 400), st.booleans()),
    st.tuples(st.just("deliver"), st.sampled_from([1, 2, 3]), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("peers"), st.sampled_from([1, 2, 3]), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("will"), st.sampled_from([1, 2, 3]), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("bend"), st.sampled_from([1, 2, 3]), st.integers(0, 10**6), st.booleans()),
)


@settings(max_examples=300, deadline=None)
@given(script=st.lists(steps, max_size=60), phases=st.lists(st.integers(0, 5), min_size=1))
def test_the_core_is_its_twin(script: list[tuple[str, int, int, bool]], phases: list[int]) -> None:
    """Byte by byte what is said, word by word what is heard, whatever is lost, doubled, late or bent."""
    others = {node: tuple(peer for peer in (1, 2, 3) if peer != node) for node in (1, 2, 3)}
    natives = {node: heartbeats(node, boot=node, peers=others[node]) for node in others}
    twins = {node: Twin(node=node, boot=node, key=KEY) for node in others}
    for node, twin in twins.items():
        twin.set_peers(others[node], 0)
    said: list[bytes] = []
    now_ms, phase = 0, itertools.cycle(phases)
    for what, node, number, flag in script:
        now_ms += number % 50
        native, twin = natives[node], twins[node]
        if what == "say":
            words = {"phase": next(phase), "attempt": number, "incarnation": node, "index": number, "voters_version": 3}
            until_ms = now_ms + (1 if flag else 0)
            grants_until_ms = now_ms + number % 3 - 1
            vouch(native, until_ms, **words, probe=flag, grants_until_ms=grants_until_ms)
            twin.vouched = (until_ms, grants_until_ms, words["phase"], number, node, number, 3)
            twin.probe = flag
            data = native.compose(now_ms)
            assert data == twin.compose(now_ms)
            said += [data] if data else []
        elif what == "will":
            data = native.compose_will(number)
            assert data == twin.compose_will(number)
            said.append(data)
        elif what == "peers":
            native.set_peers(others[node][:number], now_ms)
            twin.set_peers(others[node][:number], now_ms)
        elif said:
            data = said[-1 - number % len(said)]
            if what == "bend":
                changed = bytearray(data)
                changed[number % len(data)] ^= 1 << number % 8
                data = bytes(changed) if flag else signed(KEY, bytes(changed[:-16]))
            outcome, _, answer = native.receive(data, now_ms, number % 8, flag)
            assert (outcome, answer) == twin.receive(data, now_ms, number % 8, flag)
            if number % 3:
                assert native.take() == twin.take()
    for node in others:
        assert natives[node].take() == twins[node].take()


def test_a_will_is_the_last_word_of_its_boot_and_no_sign_of_life() -> None:
    """It is news; no silence ends with it, nothing of that boot is heard after it, and the next boot is."""
    mine, peer, reborn = heartbeats(1), heartbeats(2, peers=(1, 3)), heartbeats(2, boot=2, peers=(1, 3))
    vouch(peer)
    vouch(reborn)
    vouch(mine)
    mine.receive(peer.compose(100), 100)
    will, late = peer.compose_will(7), peer.compose(150)

    assert mine.receive(will, 200) == ("received", True, False)
    assert mine.receive(will, 210)[0] == "duplicate"
    assert mine.receive(late, 220)[0] == "dropped.replayed"
    heard = mine.take()[-1]
    assert (heard[2:7], heard[11]) == ((2, 1, 2**64 - 1, 7, 5), ())
    assert mine.ages(300)[2][0] == 200
    (silent_ms,) = [entry[3] for entry in heard_by(mine, 300) if entry[0] == 2]
    assert silent_ms == 200
    assert mine.receive(reborn.compose(400), 400)[0] == "received"


def heard_by(native: Heartbeats, now_ms: int) -> list[tuple[int, int, int, int]]:
    """What it says in its heartbeats of the others."""
    third = heartbeats(3, peers=(1, 2))
    third.receive(native.compose(now_ms), now_ms)
    return list(third.take()[-1][11])


# --- what is said -----------------------------------------------------------------------------------------------------


def test_nothing_is_said_for_a_core_that_does_not_vouch() -> None:
    """Never before the first word, and not after the last one has run out."""
    native = heartbeats()
    assert native.compose(0) == b""
    vouch(native, until_ms=500)

    assert native.compose(499)
    assert native.compose(500) == b""


def test_a_probe_is_asked_once_and_answered() -> None:
    """The next heartbeat after it is an ordinary one."""
    one, two = heartbeats(1), heartbeats(2, peers=(1, 3))
    vouch(one, probe=1)

    assert two.receive(one.compose(10), 11)[2]
    assert not two.receive(one.compose(20), 21)[2]


def test_an_acknowledgement_names_the_moment_of_sending() -> None:
    """Of the newest heartbeat that the peer had heard, as long as it is remembered."""
    one, two = heartbeats(1), heartbeats(2, peers=(1, 3))
    vouch(one)
    vouch(two)
    two.receive(one.compose(10), 30)
    one.receive(two.compose(40), 60)
    for now_ms in range(100, 100 + 256):
        one.compose(now_ms)
    one.receive(two.compose(400), 401)

    assert [(received_ms, acknowledged_ms) for received_ms, acknowledged_ms, *_ in one.take()] == [(60, 10), (401, -1)]


# --- what is heard ----------------------------------------------------------------------------------------------------

ODD = [
    (b"", "too_short"),
    (bytes(66), "too_short"),
    (bytes(2_000), "too_long"),
    (bytes(100), "foreign"),
    (datagram(1)[:4] + b"\x01" + datagram(1)[5:], "foreign"),
    (datagram(1)[:5] + b"\x01" + datagram(1)[6:], "wrong_key_number"),
    (datagram(1, key=b"o" * 16), "forged"),
    (datagram(1)[:-1] + b"\x00", "forged"),
    (datagram(1, sender=9), "stranger"),
    (datagram(1, sender=1), "stranger"),
    (datagram(1, body=CONTENT.pack(6, 0, 0, 0, 0, 0)), "malformed"),
    (datagram(1, body=CONTENT.pack(MEMBER, 0, 0, 0, 0, 65) + bytes(HEARING.size)), "malformed"),
    (datagram(1, body=CONTENT.pack(MEMBER, 0, 0, 0, 0, 2) + bytes(HEARING.size)), "malformed"),
    (datagram(1, body=CONTENT.pack(MEMBER, 0, 0, 0, 0, 0) + b"x"), "malformed"),
]


@pytest.mark.parametrize(("data", "reason"), ODD, ids=[f"{n}-{reason}" for n, (_, reason) in enumerate(ODD)])
def test_other_datagrams_are_dropped_and_counted_by_reason(data: bytes, reason: str) -> None:
    """Short, long, foreign, forged, a stranger's, senseless; nothing of them is heard."""
    native = heartbeats()

    assert native.receive(data, 5) == (f"dropped.{reason}", False, False)
    assert dropped(native) == {reason: 1}
    assert native.take() == []
    assert native.ages(10) == {}


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_changed_bit_passes(position: int, bit: int) -> None:
    """Whatever is changed, the tag does not fit any more, or the datagram is not ours at all."""
    data = bytearray(datagram(9))
    data[position % len(data)] ^= 1 << bit
    native = heartbeats()

    assert native.receive(bytes(data), 5)[0].startswith("dropped.")
    assert native.take() == []


def test_replays_and_doubles_are_told_apart() -> None:
    """Equal, older, and of an earlier life; the same on another network is no attack."""
    native = heartbeats()
    outcomes = [native.receive(datagram(seq, boot=boot), 5, 1)[0] for boot, seq in ((2, 5), (2, 5), (2, 4), (1, 900))]

    assert outcomes == ["received", "duplicate", "dropped.replayed", "dropped.replayed"]
    assert native.receive(datagram(1, boot=3), 6)[0] == "received"


def test_a_node_that_left_and_came_back_cannot_be_replayed() -> None:
    """What it has sent before stays refused."""
    native = heartbeats()
    native.receive(datagram(5), 1)
    native.set_peers((3,), 2)
    assert native.receive(datagram(6), 3)[0] == "dropped.stranger"
    native.set_peers((2, 3), 4)

    assert native.receive(datagram(5), 5)[0] == "duplicate"
    assert native.receive(datagram(6), 6)[0] == "received"


def test_a_core_that_takes_nothing_loses_the_oldest() -> None:
    """The queue has a bound; what falls out of it is counted."""
    native = heartbeats(peers=tuple(range(2, 66)))
    hearings = b"".join(HEARING.pack(node, 1, 1, 0, 0) for node in range(64))
    for seq in range(1, 1_001):
        native.receive(datagram(seq, body=CONTENT.pack(MEMBER, 0, 0, 7, 1, 64) + hearings), seq)
    taken = [entry[4] for entry in native.take()]

    assert taken == list(range(1_001 - len(taken), 1_001))
    assert native.statistics()["overflowed"] == 1_000 - len(taken) > 0


# --- what is news -----------------------------------------------------------------------------------------------------


def test_a_change_is_news_and_the_same_once_more_is_not() -> None:
    """A new boot, another phase, a request for admission; the index moves all the time."""
    one, two = heartbeats(1), heartbeats(2, peers=(1, 3))
    news = []
    for words in (
        {},
        {},
        {"phase": 1},
        {"phase": 1},
        {"attempt": 2, "phase": 1},
        {"index": 9, "attempt": 2, "phase": 1},
    ):
        vouch(two, **words)
        news.append(one.receive(two.compose(1), 2)[1])

    assert news == [True, False, True, False, True, False]


def test_the_silence_of_a_watched_node_is_news_when_both_have_noticed_it() -> None:
    """A coordinator looks at once when a peer confirms what it sees itself."""
    one, two, three = heartbeats(1), heartbeats(2, peers=(1, 3)), heartbeats(3, peers=(1, 2))
    for native in (one, two, three):
        vouch(native)
    last = three.compose(0)
    one.receive(last, 1)
    two.receive(last, 1)
    one.receive(two.compose(2), 3)
    assert not one.receive(two.compose(600), 601)[1]
    one.watch((3,), 500)
    assert not one.receive(two.compose(500), 501)[1]

    assert one.receive(two.compose(502), 602)[1]


def test_sixty_four_nodes_fit_into_one_packet() -> None:
    """The largest cluster's heartbeat, on the smallest link that IPv6 allows."""
    native = heartbeats(peers=tuple(range(2, 66)))
    vouch(native)

    assert len(native.compose(1)) <= 1_232
    with pytest.raises(ValueError, match="64"):
        native.set_peers(tuple(range(2, 67)), 2)
