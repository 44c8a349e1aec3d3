"""A small iSCSI target with peculiarities that can be chosen, spoken to by the real library.

It keeps what was written and neither forced nor flushed in a *cache*, which ``lose_power`` empties, so a test sees
whether something was durable. It serves one LUN, one command at a time, and takes whole transfers as immediate data.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

from tests.adapters.quorum.reservations import CONFLICT, GOOD, Reservations

BLOCK_BYTES: Final = 512
NAME: Final = "iqn.2026-11.test:odd"
CHECK: Final = 0x02
BUSY: Final = 0x08
UNKNOWN_COMMAND, BAD_FIELD, BEHIND_THE_END = (5, 0x2000), (5, 0x2400), (5, 0x2100)
POWER_ON = (6, 0x2900)
LOGIN, LOGIN_ANSWER, COMMAND, ANSWER, DATA_IN, LOGOUT, LOGOUT_ANSWER = 0x03, 0x23, 0x01, 0x21, 0x25, 0x06, 0x26


@dataclass(slots=True, kw_only=True)
class Oddities:
    """How it differs from a good one."""

    told_fua: bool | None = True
    """What MODE SENSE says; None: it does not know the command."""
    obeys_fua: bool = True
    write_back: bool = True
    flushes: tuple[int, ...] = (0x91, 0x35)
    """Which forms of SYNCHRONIZE CACHE it knows."""
    reservations: bool = True
    strangers: bool = False
    """Every session is another initiator, as with tgt; a good target goes by the initiator's name and number."""
    senses: list[tuple[int, int]] = field(default_factory=list)
    """What it has to say before it does the next commands (sense key; code and qualifier)."""
    busy: int = 0
    """So many of the next commands are answered with BUSY."""


class OddTarget:
    """Serves until ``close``."""

    def __init__(self, oddities: Oddities, *, size_bytes: int) -> None:
        self.odd = oddities
        self.medium = bytearray(size_bytes)
        self.cache: dict[int, bytes] = {}
        self.reservations = Reservations()
        self.asked: list[int] = []
        """Operation codes of all commands."""
        self.names: set[tuple[str, bytes]] = set()
        """Initiators that have logged in: name and number."""
        self._lock = threading.Lock()
        self._sessions: dict[Hashable, socket.socket] = {}
        self._count = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def place(self) -> str:
        """Where initiators find it."""
        return f"iscsi://127.0.0.1:{self._listener.getsockname()[1]}/{NAME}/0"

    def lose_power(self) -> None:
        """What was only in the cache is gone."""
        with self._lock:
            self.cache.clear()

    def drop_sessions(self) -> None:
        """End every session, as a cable would that was pulled and put back."""
        for session in list(self._sessions.values()):
            _end(session)

    def close(self) -> None:
        """End all sessions."""
        # A thread in accept is not woken by closing alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_sessions()
        for thread in self._threads:
            thread.join(10)

    # --- sessions ---------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        name: tuple[str, bytes] | None = None
        nexus: Hashable = None
        status_number = 1
        try:
            while True:
                head = _received(connection, 48)
                length = int.from_bytes(head[5:8])
                data = _received(connection, (length + 3) // 4 * 4)[:length]
                operation, tag = head[0] & 0x3F, head[16:20]
                expected = int.from_bytes(head[24:28]) + (not head[0] & 0x40)
                numbers = struct.pack(">III", status_number, expected & 0xFFFFFFFF, (expected + 32) & 0xFFFFFFFF)
                status_number += 1
                if operation == LOGIN:
                    words = dict(word.split("=", 1) for word in data.decode().split("\0") if "=" in word)
                    if name is None:
                        name = (words["InitiatorName"], head[8:14])
                        nexus = self._log_in(name, connection)
                    answer = _login_answer(head, words, numbers)
                    connection.sendall(answer)
                elif operation == COMMAND:
                    connection.sendall(self._answer(nexus, head, data, numbers))
                elif operation == LOGOUT:
                    body = bytes([LOGOUT_ANSWER, 0x80]) + bytes(14) + tag + bytes(4) + numbers
                    connection.sendall(body.ljust(48, b"\0"))
                    return
        except (OSError, EOFError):
            return
        finally:
            connection.close()

    def _log_in(self, name: tuple[str, bytes], connection: socket.socket) -> Hashable:
        with self._lock:
            self.names.add(name)
            # The standard's session reinstatement: one session for one initiator.
            if (old := self._sessions.get(name)) is not None:
                _end(old)
            self._sessions[name] = connection
            self._count += 1
            return self._count if self.odd.strangers else name

    def _answer(self, nexus: Hashable, head: bytes, data: bytes, numbers: bytes) -> bytes:
        command, tag, wanted = head[32:48], head[16:20], int.from_bytes(head[20:24])
        with self._lock:
            self.asked.append(command[0])
            if self.odd.busy:
                self.odd.busy -= 1
                status, said = BUSY, b""
            elif self.odd.senses:
                status, said = CHECK, _sense(*self.odd.senses.pop(0))
            elif nexus in self.reservations.preempted:
                self.reservations.preempted.remove(nexus)
                status, said = CHECK, _sense(6, 0x2A03)
            else:
                result = self._perform(nexus, command, data)
                status = result if isinstance(result, int) else CHECK if isinstance(result, tuple) else GOOD
                said = _sense(*result) if isinstance(result, tuple) else result if isinstance(result, bytes) else b""
        if status == GOOD and said:
            said = said[:wanted]
            head = bytes([DATA_IN, 0x81, 0, GOOD, 0]) + len(said).to_bytes(3) + bytes(8) + tag + b"\xff" * 4 + numbers
            return head.ljust(48, b"\0") + said + bytes(-len(said) % 4)
        head = bytes([ANSWER, 0x80, 0, status, 0]) + len(said).to_bytes(3) + bytes(8) + tag + bytes(4) + numbers
        return head.ljust(48, b"\0") + said + bytes(-len(said) % 4)

    # --- commands ---------------------------------------------------------------------------------------------------

    def _perform(self, nexus: Hashable, command: bytes, data: bytes) -> bytes | int | tuple[int, int]:
        """Data, a status, or a sense."""
        match command[0]:
            case 0x00:
                return GOOD
            case 0x9E:
                return struct.pack(">QI", len(self.medium) // BLOCK_BYTES - 1, BLOCK_BYTES).ljust(32, b"\0")
            case 0x1A if self.odd.told_fua is not None:
                page = bytes([0x08, 18, 0x04 if self.odd.write_back else 0]) + bytes(17)
                return bytes([3 + len(page), 0, 0x10 if self.odd.told_fua else 0, 0]) + page
            case 0x88:
                return self._read(*struct.unpack_from(">QI", command, 2))
            case 0x8A:
                return self._write(nexus, command, data)
            case code if code in self.odd.flushes:
                self._flush()
                return GOOD
            case 0x5E if self.odd.reservations:
                return self._reserve_in(command[1] & 0x1F)
            case 0x5F if self.odd.reservations:
                return self._reserve_out(nexus, command[1] & 0x1F, *struct.unpack_from(">QQ", data))
        return UNKNOWN_COMMAND

    def _read(self, block: int, count: int) -> bytes | tuple[int, int]:
        if (block + count) * BLOCK_BYTES > len(self.medium):
            return BEHIND_THE_END
        found = bytearray(self.medium[block * BLOCK_BYTES : (block + count) * BLOCK_BYTES])
        for number in range(count):
            if block + number in self.cache:
                found[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES] = self.cache[block + number]
        return bytes(found)

    def _write(self, nexus: Hashable, command: bytes, data: bytes) -> int | tuple[int, int]:
        block, count = struct.unpack_from(">QI", command, 2)
        forced = bool(command[1] & 0x08)
        if not self.reservations.may_write(nexus):
            return CONFLICT
        if forced and not self.odd.obeys_fua:
            return BAD_FIELD
        if (block + count) * BLOCK_BYTES > len(self.medium):
            return BEHIND_THE_END
        assert len(data) == count * BLOCK_BYTES, "not all of it came at once"
        for number in range(count):
            self.cache[block + number] = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if forced or not self.odd.write_back:
            self._flush()
        return GOOD

    def _flush(self) -> None:
        for block, data in self.cache.items():
            self.medium[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = data
        self.cache.clear()

    def _reserve_in(self, action: int) -> bytes:
        known = self.reservations
        if action == 0:
            keys = list(known.keys.values())
            return struct.pack(f">II{len(keys)}Q", known.generation, 8 * len(keys), *keys)
        if not known.holding_key:
            return struct.pack(">II", known.generation, 0)
        return struct.pack(">IIQIBBH", known.generation, 16, known.holding_key, 0, 0, 5, 0)

    def _reserve_out(self, nexus: Hashable, action: int, key: int, other: int) -> int | tuple[int, int]:
        known = self.reservations
        match action:
            case 0 | 6:
                return known.register(nexus, key, other, ignore=action == 6)
            case 1:
                return known.reserve(nexus, key)
            case 2:
                return known.release(nexus, key)
            case 3:
                return known.clear(nexus, key)
            case 4:
                return known.preempt(nexus, key, other)
        return BAD_FIELD


def _login_answer(head: bytes, words: dict[str, str], numbers: bytes) -> bytes:
    """Takes every offer, without digests, with transfers that come whole."""
    known = {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "AuthMethod": "None",
        "FirstBurstLength": "262144",
        "MaxBurstLength": "262144",
        "MaxConnections": "1",
        "ErrorRecoveryLevel": "0",
        "MaxOutstandingR2T": "1",
        "DefaultTime2Wait": "0",
        "DefaultTime2Retain": "0",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
    }
    said = {word: known[word] for word in words if word in known}
    said |= {"MaxRecvDataSegmentLength": "262144"} if "MaxRecvDataSegmentLength" in words else {}
    text = b"".join(f"{word}={value}".encode() + b"\0" for word, value in said.items())
    answer = bytes([LOGIN_ANSWER, head[1], 0, 0, 0]) + len(text).to_bytes(3) + head[8:14]
    answer += (1).to_bytes(2) + head[16:20] + bytes(4) + numbers
    return answer.ljust(48, b"\0") + text + bytes(-len(text) % 4)


def _sense(key: int, code: int) -> bytes:
    sense = bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0]) + code.to_bytes(2) + bytes(4)
    return len(sense).to_bytes(2) + sense


def _received(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
