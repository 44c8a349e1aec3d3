"""The quorum of a third-party type as a quorum device; see :mod:`clussvc.resources.types.quorum`.

The type runs in a process of its own. A call that is not answered in time looks like a disk that does not answer, and
the process is killed; so is one that breaks the protocol. What a type does wrong costs nobody else anything.

Opening the device is the arbitration, so only one node at a time can read the storage. All the rest, who may act and
for how long, follows from the log's own slots on it as on any disk: a type that lets two nodes win at the same time
does not make two owners, as long as both reach the same storage. The reservations of the port are therefore the type's
affair: who has opened the device has them.
"""

from __future__ import annotations

import contextlib
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import msgspec
import structlog

from clussvc.model.errors import ClusterError
from clussvc.ports import Registrants
from clussvc.quorum.devices import type_protocol
from clussvc.quorum.devices.type_protocol import (
    ANSWERS,
    FRAME_BYTES_MAX,
    LENGTH,
    TRANSFER_BYTES_MAX,
    Arbitrate,
    Done,
    Failed,
    Lost,
    Question,
    ReadAt,
    Release,
    Said,
    TypePlace,
    WriteAt,
)
from clussvc.quorum.disk_layout import SECTOR_BYTES

ARBITRATE_TIMEOUT_MS: Final = 20_000
"""How long an arbitration may take (QuorumArbitrationTimeMax, as since Windows Server 2008; in 2003 it was 60 s)."""
RELEASE_TIMEOUT_MS: Final = 2_000
SILENCE_MS: Final = 10_000
"""After so long without a question the process lets the quorum go: the service is stuck, or does not want it. An owner
renews its slot every 4 s at least."""
END_TIMEOUT_S: Final = 5.0
PROGRAM: Final = "clussvc.service.quorum_type_main"
_CODES: Final = ("device-lost", "device-unsuitable", "reservation-conflict")
_LEVELS: Final = ("info", "warning", "error")

log = structlog.get_logger()


class TypeProcess:
    """The process of a type. It is started when it is needed, and again after it was killed or has ended."""

    def __init__(self, place: str, *, timeout_ms: int, silence_ms: int = SILENCE_MS) -> None:
        """``timeout_ms`` bounds every request but the arbitration; ``silence_ms``: how long the quorum stays won when
        nothing is asked. Raises ClusterError(``device-unsuitable``)."""
        found = type_protocol.parse_place(place)
        if found is None:
            raise ClusterError("device-unsuitable", f"{place!r} names no quorum type; write TYPE://ARGUMENT")
        self.place = place
        self._found: TypePlace = found
        self._timeout_ms, self._silence_ms = timeout_ms, silence_ms
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._number = 0
        self._hung = False
        self.lost_because = ""
        """Why this node has lost the quorum after it had won it; empty: it has not."""

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return self._process.pid if self._process is not None else None

    def arbitrate(self) -> int:
        """Win the quorum; the size of the storage in bytes. Raises ClusterError as a device that is opened."""
        found_one = self._process is not None
        if self._process is None:
            self._start()
        self.lost_because = ""
        try:
            return self._arbitrated()
        except ClusterError:
            if not found_one or self._process is not None or self._hung:
                raise
            # The process that was there has ended by itself, as it does without work.
            self._start()
            return self._arbitrated()

    def _arbitrated(self) -> int:
        question = Arbitrate(self._next(), self._found.type, self._found.properties, self._silence_ms)
        return self._ask(question, ARBITRATE_TIMEOUT_MS).size_bytes

    def read(self, at: int, size: int) -> bytes:
        """From the storage. Raises ClusterError as QuorumDevice."""
        data = self._ask(ReadAt(self._next(), at, size), self._timeout_ms).data
        if len(data) != size:
            raise self._lost(f"it read {len(data)} bytes instead of {size}")
        return data

    def write(self, at: int, data: bytes) -> None:
        """To the storage. Raises ClusterError as QuorumDevice."""
        self._ask(WriteAt(self._next(), at, data), self._timeout_ms)

    def release(self) -> None:
        """Let another node have the quorum; a process that does not do that is killed."""
        if self._process is not None:
            try:
                self._ask(Release(self._next()), max(self._timeout_ms, RELEASE_TIMEOUT_MS))
            except ClusterError as error:
                log.warning("quorum.type", device=self.place, text=f"it does not let go: {error.message}")
                self.kill()

    def kill(self) -> None:
        """End the process; whatever it holds in the system goes with it."""
        process, self._process = self._process, None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if process is not None:
            process.kill()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                # It hangs in the kernel, and cannot write once it comes back.
                log.warning("quorum.type_stuck", device=self.place, pid=process.pid)

    def __del__(self) -> None:
        """Nobody can ask any more, such as after a change to another quorum."""
        with contextlib.suppress(Exception):
            self.kill()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", PROGRAM, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise self._lost(f"its process cannot be started: {error}") from error
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket = ours

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _ask(self, question: Question, timeout_ms: int) -> Done:
        """One question and its answer. Whatever is wrong with the process ends it."""
        limit_s = time.monotonic() + timeout_ms / 1000
        self._hung = False
        try:
            self._send(type_protocol.frame(question), limit_s)
            while True:
                message = self._receive(limit_s)
                match message:
                    case Done() if message.number == question.number:
                        return message
                    case Failed() if message.number == question.number:
                        break
                    case Lost():
                        self.lost_because = message.because[: type_protocol.TEXT_MAX] or "it does not say why"
                    case Said():
                        self._say(message)
                    case _:
                        raise _Broken(f"it answered {message.number}, and was asked {question.number}")
        except (_Broken, OSError, msgspec.MsgspecError) as error:
            self.kill()
            raise self._lost(str(error) or type(error).__name__) from error
        code = message.code if message.code in _CODES else "device-lost"
        raise ClusterError(code, f"quorum {self.place}: {message.text[: type_protocol.TEXT_MAX]}")

    def _send(self, data: bytes, limit_s: float) -> None:
        view = memoryview(data)
        while view:
            self._wait(limit_s, select.POLLOUT)
            with contextlib.suppress(BlockingIOError):
                view = view[self._open_socket.send(view) :]

    def _receive(self, limit_s: float) -> Done | Failed | Lost | Said:
        (length,) = LENGTH.unpack(self._received(LENGTH.size, limit_s))
        if length > FRAME_BYTES_MAX:
            raise _Broken(f"it sent a message of {length} bytes")
        message: Done | Failed | Lost | Said = ANSWERS.decode(self._received(length, limit_s))
        return message

    def _received(self, count: int, limit_s: float) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._wait(limit_s, select.POLLIN)
            with contextlib.suppress(BlockingIOError):
                piece = self._open_socket.recv(count - len(data))
                if not piece:
                    raise _Broken("its process has ended")
                data += piece
        return bytes(data)

    def _wait(self, limit_s: float, event: int) -> None:
        poll = select.poll()
        poll.register(self._open_socket, event)
        if not poll.poll(max(0, int((limit_s - time.monotonic()) * 1000))):
            self._hung = True
            raise _Broken("it did not answer in time")

    @property
    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise _Broken("its process has ended")
        return self._socket

    def _say(self, said: Said) -> None:
        level = said.level if said.level in _LEVELS else "info"
        getattr(log, level)("quorum.type", device=self.place, text=said.text[: type_protocol.TEXT_MAX])

    def _lost(self, why: str) -> ClusterError:
        return ClusterError("device-lost", f"quorum {self.place} does not answer: {why}; see what its type needs")


class _Broken(Exception):
    """The process does not do what it should."""


class TypeDevice:
    """The storage that this node has won. See the module and :class:`clussvc.ports.QuorumDevice`."""

    reservations = True

    def __init__(self, process: TypeProcess, *, ends: bool) -> None:
        """Arbitrates. ``ends``: the process ends with the device.

        Raises ClusterError: ``reservation-conflict`` (another node has it), ``device-unsuitable``, ``device-lost``.
        """
        self._process = process
        self._ends = ends
        self._won = False
        try:
            self._sectors = process.arbitrate() // SECTOR_BYTES
            self._won = True
        except ClusterError:
            if ends:
                process.kill()
            raise

    @property
    def sectors(self) -> int:
        """See QuorumDevice."""
        return self._sectors

    def read(self, sector: int, count: int) -> bytes:
        """See QuorumDevice."""
        self._check(sector, count)
        end = (sector + count) * SECTOR_BYTES
        places = range(sector * SECTOR_BYTES, end, TRANSFER_BYTES_MAX)
        with self._giving_up_what_is_lost():
            return b"".join(self._process.read(at, min(TRANSFER_BYTES_MAX, end - at)) for at in places)

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        self._check(sector, len(data) // SECTOR_BYTES)
        with self._giving_up_what_is_lost():
            for begin in range(0, len(data), TRANSFER_BYTES_MAX):
                self._process.write(sector * SECTOR_BYTES + begin, data[begin : begin + TRANSFER_BYTES_MAX])

    @contextlib.contextmanager
    def _giving_up_what_is_lost(self) -> Iterator[None]:
        """Who has lost the quorum says so once, as on a conflict of reservations, and has to win it again."""
        try:
            yield
        except ClusterError as error:
            if error.code == "reservation-conflict":
                self.release(0)
            raise

    def _check(self, sector: int, count: int) -> None:
        if not self._won:
            raise ClusterError("device-lost", f"quorum {self._process.place} was given back")
        if sector + count > self._sectors:
            raise ClusterError("device-lost", f"quorum {self._process.place} ends before that")

    def register(self, key: int) -> None:
        """See QuorumDevice; nothing to do, as the module says."""

    reserve = unregister = register

    def resume(self, key: int) -> None:
        """See QuorumDevice. Who had to arbitrate anew had lost the quorum: another node may have had it meanwhile."""
        raise ClusterError(
            "reservation-conflict", f"quorum {self._process.place} had to be won anew, so this node owns it no longer"
        )

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice; who has opened the device has won already."""

    def release(self, key: int) -> None:
        """See QuorumDevice. Whoever wants the storage again has to open the device anew."""
        self._won = False
        self._process.release()

    clear = release

    def registrants(self) -> Registrants | None:
        """See QuorumDevice; nobody else can have it now."""
        return Registrants(keys=(), holder=0, generation=0)

    def close(self) -> None:
        """See QuorumDevice."""
        if self._won:
            self.release(0)
        if self._ends:
            self._process.kill()
