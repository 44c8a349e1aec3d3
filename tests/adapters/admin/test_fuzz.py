"""Whatever is written to the administration socket: its connection ends, it is counted, and others are answered."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clussvc.admin.client import connect
from clussvc.admin.wire import MESSAGE_BYTES_MAX, SERIALIZER_ID
from tests.adapters.admin.conftest import Place

TIMEOUT_S = 30.0
HEAD = struct.Struct("!4sHBBHHII16sHH")
INVOKE = 4
FUZZ = settings(
    max_examples=60,
    deadline=None,
    # The server is the same for all examples on purpose: what one leaves behind would be met by the next.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def message(content: bytes, *, kind: int = INVOKE, flags: int = 0, size: int | None = None, notes: int = 0) -> bytes:
    """A message of the protocol; ``size`` and ``notes`` are the lengths that its head claims."""
    length = len(content) if size is None else size
    return HEAD.pack(b"PYRO", 502, kind, SERIALIZER_ID, flags, 1, length, notes, bytes(16), 0, 0x4DC5) + content


HONEST = message(json.dumps({"object": "Cluster", "method": "status", "params": [], "kwargs": {}}).encode())


def said(place: Place, data: bytes) -> bytes:
    """What the service answers to these bytes until it closes the connection, which it must do."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.settimeout(TIMEOUT_S)
        client.connect(place.socket)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while piece := client.recv(65_536):
            answer += piece
    return answer


def is_harmless(place: Place, data: bytes, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the answer tells nothing of our files and lines, and no exception was met that nobody had expected."""
    # What earlier examples have brought about is theirs.
    caplog.clear()
    answer = said(place, data)
    # The library's answers have a field for the lines of a traceback; it must be empty.
    bare = answer.replace(b'"_pyroTraceback": []', b"")
    return b"Traceback" not in bare and b".py" not in bare and "connection-defect" not in caplog.text


def test_an_honest_question_is_answered(place: Place) -> None:
    """So that the changed ones below are near to something that works."""
    assert b"DEMO" in said(place, HONEST)


@FUZZ
@given(data=st.binary(max_size=300))
def test_any_bytes(place: Place, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    """Forty of them or more cannot be a head, and are counted."""
    before = place.server.statistics()["admin_unix_bad_messages"]
    assert is_harmless(place, data, caplog)
    assert place.server.statistics()["admin_unix_bad_messages"] - before == (len(data) >= HEAD.size)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
questions = st.fixed_dictionaries(
    {},
    optional={
        "object": st.sampled_from(["Cluster", "Node", "Pyro.Daemon"]) | anything,
        "method": st.sampled_from(["status", "get_metadata", "evict", "__class__", "_access"]) | anything,
        "params": anything,
        "kwargs": anything,
        "more": anything,
    },
)


@FUZZ
@given(question=questions | anything)
def test_any_question(place: Place, caplog: pytest.LogCaptureFixture, question: object) -> None:
    """JSON of any shape."""
    assert is_harmless(place, message(json.dumps(question).encode()), caplog)


@FUZZ
@given(content=st.binary(max_size=200), kind=st.integers(0, 9), flags=st.integers(0, 2**10))
def test_a_fitting_head_and_any_content(
    place: Place, caplog: pytest.LogCaptureFixture, content: bytes, kind: int, flags: int
) -> None:
    """Of any kind, with any flags."""
    assert is_harmless(place, message(content, kind=kind, flags=flags), caplog)


@FUZZ
@given(at=st.integers(0, len(HONEST) - 1), change=st.integers(1, 255))
def test_a_changed_byte(place: Place, caplog: pytest.LogCaptureFixture, at: int, change: int) -> None:
    """In the head or in the content of an honest question."""
    data = bytearray(HONEST)
    data[at] ^= change
    assert is_harmless(place, bytes(data), caplog)


@FUZZ
@given(size=st.integers(0, 2**32 - 1), notes=st.integers(0, 2**32 - 1), content=st.binary(max_size=60))
def test_lying_lengths(place: Place, caplog: pytest.LogCaptureFixture, size: int, notes: int, content: bytes) -> None:
    """What is beyond the limit is counted and not waited for."""
    before = place.server.statistics()["admin_unix_bad_messages"]
    assert is_harmless(place, message(content, size=size, notes=notes), caplog)
    if size + notes > MESSAGE_BYTES_MAX:
        assert before + 1 == place.server.statistics()["admin_unix_bad_messages"]


def test_an_annotation_whose_name_is_not_text(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Found by the test above: a bad message like others, and no defect of ours."""
    before = place.server.statistics()["admin_unix_bad_messages"]
    assert is_harmless(place, message(b"\xe2\x28\xa1\x00\x00\x00\x00\x00", size=0, notes=8), caplog)
    assert place.server.statistics()["admin_unix_bad_messages"] == before + 1


@pytest.mark.parametrize("size", [MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX + 1, 2**31, 2**32 - 1])
def test_a_lying_length_takes_no_more_than_the_limit(place: Place, size: int) -> None:
    """One message of the longest kind, and nothing beyond it."""
    tracemalloc.start()
    try:
        said(place, message(b"x", size=size))
        assert tracemalloc.get_traced_memory()[1] < MESSAGE_BYTES_MAX + 2_000_000
    finally:
        tracemalloc.stop()


def test_afterwards_it_serves(place: Place) -> None:
    """One server that has had all kinds of nonsense answers an honest client as before."""
    for data in (b"", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", HONEST[:20], HONEST[:50], b"\xff" * 5_000):
        said(place, data)
    with connect(socket_path=place.socket) as client:
        assert "DEMO" == client.call("Cluster", "status")["name"]
