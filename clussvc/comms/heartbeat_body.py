"""The body of a heartbeat as bytes: compact, of fixed layout, so that 64 nodes fit into one datagram.

The header around it (magic, version, sender, boot, incarnation, sequence number) and the authentication are
:mod:`clussvc.comms.wire`'s. Little-endian:

```
  u8 phase   u32 attempt   u64 index   u32 voters version   u8 count
  count times:  u16 node   u32 boot   u32 sequence number   u32 silent_ms
```
"""

from __future__ import annotations

import struct

from clussvc.membership.heartbeat import Hearing, Heartbeat
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NODES_MAX, NodeId
from clussvc.model.states import NodePhase

_HEAD = struct.Struct("<BIQIB")
_HEARING = struct.Struct("<HIII")
_PHASES = tuple(NodePhase)
_U32_MAX = 2**32 - 1

BODY_BYTES_MAX = _HEAD.size + NODES_MAX * _HEARING.size


def encode_body(heartbeat: Heartbeat) -> bytes:
    """The body of a heartbeat; its header fields are left to the caller.

    Silences beyond 49 days are written as 49 days, which only makes them shorter than they are.
    """
    assert len(heartbeat.heard) <= NODES_MAX
    parts = [
        _HEAD.pack(
            _PHASES.index(heartbeat.phase),
            heartbeat.attempt,
            heartbeat.index,
            heartbeat.voters_version,
            len(heartbeat.heard),
        )
    ]
    parts += [
        _HEARING.pack(hearing.node, hearing.boot, hearing.seq, min(hearing.silent_ms, _U32_MAX))
        for hearing in heartbeat.heard
    ]
    return b"".join(parts)


def decode_body(body: bytes, *, sender: NodeId, boot: int, seq: int, incarnation: int) -> Heartbeat:
    """A heartbeat from its body and the header fields.

    Raises ClusterError(``malformed-heartbeat``) for anything that :func:`encode_body` does not write.
    """
    if len(body) < _HEAD.size:
        raise _malformed("it is too short")
    phase, attempt, index, voters_version, count = _HEAD.unpack_from(body)
    if phase >= len(_PHASES) or count > NODES_MAX:
        raise _malformed("a field is out of range")
    if len(body) != _HEAD.size + count * _HEARING.size:
        raise _malformed("its length does not fit its count")
    heard = tuple(
        Hearing(node=NodeId(node), boot=heard_boot, seq=heard_seq, silent_ms=silent_ms)
        for node, heard_boot, heard_seq, silent_ms in _HEARING.iter_unpack(body[_HEAD.size :])
    )
    return Heartbeat(
        sender=sender,
        boot=boot,
        seq=seq,
        incarnation=incarnation,
        phase=_PHASES[phase],
        attempt=attempt,
        index=index,
        voters_version=voters_version,
        heard=heard,
    )


def _malformed(why: str) -> ClusterError:
    return ClusterError("malformed-heartbeat", f"a heartbeat was dropped: {why}", remote=True)
