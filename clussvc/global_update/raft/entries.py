"""The entries of the log as the library encodes them: made, checked and read without unpickling anything.

The library keeps a command as one type byte and a pickle, and unpickles it when it applies it. So nothing may enter
our log that we could not have written ourselves: a received entry is parsed by hand and then compared, byte for byte,
with the encoding this node would have produced. What passes is known to be harmless, whoever sent it.

====  ===========  =====================================================
type  meaning      payload
====  ===========  =====================================================
0     command      ``(method id, (text,))``, the text being Latin-1 bytes
1     no operation none
2     membership   ``["add" | "rem", node, node]``
3     code version never used, refused
====  ===========  =====================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pysyncobj.pickle as library_pickle

Entry = tuple[bytes, int, int]
"""Command bytes, index, term: the library's own shape, which it compares with ``==``."""

NO_OPERATION = b"\x01"
_COMMAND = 0
_MEMBERSHIP = 2
_COMMAND_HEAD = re.compile(rb"\x00\x80\x02K\x00X(.{4})", re.DOTALL)
_MEMBERSHIP_HEAD = re.compile(
    rb"\x02\x80\x02\]q\x00\(X\x03\x00\x00\x00(add|rem)q\x01X.\x00\x00\x00([0-9]{1,9})q\x02", re.DOTALL
)


class PeerArgument:
    """Stands for a node inside a membership entry; its pickle is a plain text, so that no class of ours is named."""

    def __init__(self, node: str) -> None:
        self._node = node

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (self._node,)


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipChange:
    """One membership entry of the log."""

    index: int
    adding: bool
    node_id: int


def command_text(command: bytes) -> str:
    """The argument handed to the library: protocol 2 has no bytes, and Latin-1 maps each byte to one character."""
    return command.decode("latin-1")


def command_entry_bytes(command: bytes) -> bytes:
    """The encoding of a command as the library makes it."""
    return bytes([_COMMAND]) + bytes(library_pickle.dumps((0, (command_text(command),))))


def command_of(entry: Entry) -> bytes | None:
    """The command that an entry holds, if it holds one; the entry has passed :func:`entry_problem` before."""
    match = _COMMAND_HEAD.match(entry[0])
    if match is None:
        return None
    text = entry[0][match.end() : match.end() + int.from_bytes(match[1], "little")].decode()
    return text.encode("latin-1")


def membership_entry_bytes(*, adding: bool, node_id: int) -> bytes:
    """The encoding of a membership change as the library makes it."""
    # One text object in both places: the pickler refers back to what it has seen, and the library's does the same.
    node = str(node_id)
    request = ["add" if adding else "rem", node, PeerArgument(node)]
    return bytes([_MEMBERSHIP]) + bytes(library_pickle.dumps(request))


def membership_change(entry: Entry) -> MembershipChange | None:
    """The membership change an entry holds, if it holds one; the entry has passed :func:`entry_problem` before."""
    if entry[0][:1] != b"\x02":
        return None
    match = _MEMBERSHIP_HEAD.match(entry[0])
    assert match is not None, f"membership entry {entry[1]} was let in unchecked"
    return MembershipChange(index=entry[1], adding=match[1] == b"add", node_id=int(match[2]))


def entry_problem(command: bytes, *, command_bytes_max: int) -> str | None:
    """Why these bytes must not enter the log; None when they may."""
    if command == NO_OPERATION:
        return None
    match command[:1]:
        case b"\x00":
            return _command_problem(command, command_bytes_max)
        case b"\x02":
            return _membership_problem(command)
        case other:
            return f"entry type {other.hex() or 'missing'} is not accepted"


def _command_problem(command: bytes, command_bytes_max: int) -> str | None:
    match = _COMMAND_HEAD.match(command)
    if match is None:
        return "a command entry is not in the expected form"
    try:
        text = command[match.end() : match.end() + int.from_bytes(match[1], "little")].decode()
        payload = text.encode("latin-1")
    except UnicodeError:
        return "a command entry holds text that is not ours"
    if len(payload) > command_bytes_max:
        return f"a command of {len(payload)} bytes exceeds the limit of {command_bytes_max}"
    return None if command_entry_bytes(payload) == command else "a command entry has unexpected bytes"


def _membership_problem(command: bytes) -> str | None:
    match = _MEMBERSHIP_HEAD.match(command)
    if match is None:
        return "a membership entry is not in the expected form"
    expected = membership_entry_bytes(adding=match[1] == b"add", node_id=int(match[2]))
    return None if expected == command else "a membership entry has unexpected bytes"
