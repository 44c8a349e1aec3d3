"""Frames between service and monitor: everything that is sent is understood, everything else is refused."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, ResourceId
from clussvc.model.monitoring import (
    BringOnline,
    EverythingTerminated,
    LogLevel,
    MonitorCommand,
    MonitorDied,
    MonitorReport,
    OpenResource,
    PropertyChanged,
    ResourceLogged,
    ResourceReported,
    ResourceSpec,
)
from clussvc.model.states import ResourceState, StateChangeReason
from clussvc.resources.monitor.protocol import FRAME_BYTES_MAX, FrameReader, Ping, Pong, command_codec, report_codec

RES = ResourceId("r")
SPEC = ResourceSpec(
    resource=RES,
    name="ü",
    type="IP Address",
    group=GroupId("g"),
    group_name="G",
    private={"A": 2**32 - 1, "B": "x", "C": ("p", "q"), "D": ()},
)
COMMANDS: list[MonitorCommand | Ping] = [
    OpenResource(spec=SPEC),
    BringOnline(resource=RES, epoch=2**40, reason=StateChangeReason.FAILOVER),
    Ping(number=3),
]
REPORTS: list[MonitorReport | Pong] = [
    ResourceReported(resource=RES, epoch=1, state=ResourceState.ONLINE_PENDING, detail="checkpoint 1"),
    ResourceLogged(resource=RES, level=LogLevel.SEVERE, text="\x00é"),
    PropertyChanged(resource=RES, name="Port", value=None),
    EverythingTerminated(ticket=9, left=(RES,)),
    MonitorDied(why="x"),
    Pong(number=3),
]


def bodies(stream: bytes, cut: int) -> list[bytes]:
    """What a reader makes of a stream that arrives in pieces."""
    reader = FrameReader()
    return [body for at in range(0, len(stream), cut) for body in reader.feed(stream[at : at + cut])]


@given(st.integers(1, 300))
def test_what_is_sent_arrives(cut: int) -> None:
    """In order and equal, however the stream is cut."""
    down, up = command_codec(), report_codec()
    assert COMMANDS == [down.decode(body) for body in bodies(b"".join(map(down.encode, COMMANDS)), cut)]
    assert REPORTS == [up.decode(body) for body in bodies(b"".join(map(up.encode, REPORTS)), cut)]


@given(st.binary(max_size=200))
def test_garbage_is_refused(body: bytes) -> None:
    """Random bytes never raise anything but the error of the protocol."""
    with pytest.raises(ClusterError) as caught:
        command_codec().decode(body)
    assert ("monitor-protocol", True) == (caught.value.code, caught.value.remote)


def test_a_report_is_no_command() -> None:
    """Each side may say only its own words."""
    frame = report_codec().encode(MonitorDied(why="x"))
    with pytest.raises(ClusterError, match="unknown message 'MonitorDied'"):
        command_codec().decode(frame[4:])


def test_length_is_bounded_both_ways() -> None:
    """Too long a message is refused before it is sent, and before it is read."""
    with pytest.raises(ClusterError) as caught:
        report_codec().encode(MonitorDied(why="x" * FRAME_BYTES_MAX))
    assert "message-too-large" == caught.value.code
    with pytest.raises(ClusterError, match="announced"):
        list(FrameReader().feed(struct.pack(">I", FRAME_BYTES_MAX + 1)))
