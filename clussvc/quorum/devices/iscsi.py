"""An iSCSI LUN as a quorum disk, spoken to from this process through libiscsi: no initiator in the kernel is needed.

The library is loaded when the first such disk is opened. A session that breaks is not mended behind our back: the call
fails with ``device-lost``, and who owns the device opens it anew.

**Durable.** A write is on the medium when it returns: it is forced there (FUA), or, where the target has no such thing,
followed by SYNCHRONIZE CACHE. A target that keeps writes in memory and knows neither is no quorum disk.

**Who a session is.** Reservations belong to the initiator's name and its session number (ISID). Both are the same
whenever this node opens this LUN, and others for any other node or LUN, so the standard makes a new session the same
registrant. Some targets (tgt) take every new session for a stranger all the same; :meth:`IscsiDevice.resume` gets the
registration back then.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import socket
import time
from functools import cache
from typing import Any, Final

import structlog

from clussvc.model.errors import ClusterError
from clussvc.ports import Registrants
from clussvc.quorum.devices import scsi
from clussvc.quorum.disk_layout import SECTOR_BYTES

LIBRARIES: Final = ("libiscsi.so.11", "libiscsi.so.10", "libiscsi.so.9", "libiscsi.so.8", "libiscsi.so.7")
DEFAULT_PORT: Final = 3260
TRANSFER_BYTES_MAX: Final = 256 * 1024
ATTENTIONS_MAX: Final = 8
"""A target has this many things to say at most before it does what it is asked for (unit attentions), or is busy so
often."""
BUSY_PAUSE_S: Final = 0.02
STRANGER_BIT: Final = 1 << 39
"""Tells the key under which a new session gets its registration back from every key of a node."""

_SESSION_NORMAL: Final = 2
_NOTHING, _IN, _OUT = 0, 1, 2
"""Which way data goes with a command (enum scsi_xfer_dir)."""

_PLACE = re.compile(
    r"iscsi://(?P<host>\[[0-9A-Fa-f:.%]+\]|[^/:\[\]]+)(:(?P<port>\d{1,5}))?/(?P<target>[^/]+)/(?P<lun>\d{1,3})"
)

log = structlog.get_logger()


class _Data(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("data", ctypes.c_char_p))


class _Unknown(Exception):
    """The target does not know what it was asked."""


@cache
def _library() -> Any:
    """libiscsi with the types of what is used of it.

    Raises ClusterError(``device-unsuitable``) when it is missing.
    """
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        raise ClusterError(
            "device-unsuitable",
            "a quorum disk on iSCSI needs the library libiscsi, which is missing on this node; install it (Debian and"
            " Ubuntu: apt install libiscsi7; Fedora and others: dnf install libiscsi)",
        )
    task, context, integer, text = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
    for function, result, arguments in (
        ("iscsi_create_context", context, [text]),
        ("iscsi_destroy_context", integer, [context]),
        ("iscsi_disconnect", integer, [context]),
        ("iscsi_set_targetname", integer, [context, text]),
        ("iscsi_set_session_type", integer, [context, integer]),
        ("iscsi_set_timeout", integer, [context, integer]),
        ("iscsi_set_isid_random", integer, [context, ctypes.c_uint32, ctypes.c_uint32]),
        ("iscsi_set_noautoreconnect", None, [context, integer]),
        ("iscsi_full_connect_sync", integer, [context, text, integer]),
        ("iscsi_get_error", text, [context]),
        ("iscsi_scsi_command_sync", task, [context, integer, task, ctypes.POINTER(_Data)]),
        ("scsi_create_task", task, [integer, text, integer, integer]),
        ("scsi_task_add_data_in_buffer", integer, [task, integer, ctypes.c_void_p]),
        ("scsi_free_scsi_task", None, [task]),
    ):
        bound = getattr(library, function)
        bound.restype, bound.argtypes = result, arguments
    return library


def session_number(target: str, lun: int) -> tuple[int, int]:
    """The two numbers of a session to that LUN (24 and 16 bits). A second session of the same number would end the
    first one, so each LUN has its own."""
    digest = hashlib.sha256(f"{target}/{lun}".encode()).digest()
    return int.from_bytes(digest[:3]), int.from_bytes(digest[3:5])


class IscsiDevice:
    """One session with one LUN. See the module and :class:`clussvc.ports.QuorumDevice`."""

    def __init__(self, place: str, *, initiator: str, timeout_ms: int) -> None:
        """``iscsi://HOST[:PORT]/TARGET/LUN``. ``timeout_ms`` bounds every request; the library counts whole seconds.

        Raises ClusterError: ``device-unsuitable``, ``device-lost``.
        """
        found = _PLACE.fullmatch(place)
        if found is None:
            raise ClusterError(
                "device-unsuitable", f"{place!r} names no iSCSI disk; write iscsi://HOST[:PORT]/TARGET/LUN"
            )
        self._place = place
        self._lun = int(found["lun"])
        self._library = _library()
        self._context = self._library.iscsi_create_context(initiator.encode())
        self._fua = self._flush = self._caching_known = False
        self._flushes: tuple[bytes, ...] = (scsi.synchronize_cache(), scsi.synchronize_cache(short=True))
        try:
            self._connect(found["host"], int(found["port"] or DEFAULT_PORT), found["target"], timeout_ms)
            self._block_bytes, blocks = self._capacity()
            self._sectors = blocks * self._block_bytes // SECTOR_BYTES
            self.reservations = self._knows_reservations()
        except BaseException:
            self.close()
            raise

    def _connect(self, host: str, port: int, target: str, timeout_ms: int) -> None:
        try:
            # The library would wait for as long as the kernel tries.
            socket.create_connection((host.strip("[]"), port), timeout_ms / 1000).close()
        except OSError as error:
            raise self._lost(f"{host} port {port}: {error.strerror or error}") from error
        library, context = self._library, self._context
        library.iscsi_set_targetname(context, target.encode())
        library.iscsi_set_session_type(context, _SESSION_NORMAL)
        library.iscsi_set_isid_random(context, *session_number(target, self._lun))
        library.iscsi_set_timeout(context, max(1, -(-timeout_ms // 1000)))
        library.iscsi_set_noautoreconnect(context, 1)
        if library.iscsi_full_connect_sync(context, f"{host}:{port}".encode(), self._lun):
            raise self._lost(self._error())

    def _capacity(self) -> tuple[int, int]:
        size, count = scsi.capacity_of(self._told("tell its size", scsi.read_capacity(), scsi.CAPACITY_BYTES))
        if size not in (512, 1024, 2048, 4096):
            raise ClusterError(
                "device-unsuitable", f"quorum disk {self._place} has blocks of {size} bytes; choose another one"
            )
        return size, count

    def _learn_caching(self) -> None:
        """Whether writes are to be forced to the medium, or to be followed by a flush. Asked before the first write:
        a disk that others have reserved does not tell strangers."""
        try:
            # It is a part of writing, also in what is said of a refusal.
            told = self._told("write", scsi.mode_sense(scsi.CACHING_PAGE), scsi.MODE_SENSE_BYTES)
            caching = scsi.caching_of(told)
        except _Unknown:
            caching = None
        if caching is None or caching.fua:
            # If it says nothing, the first write will show whether it can be forced.
            self._fua = True
        elif caching.volatile:
            self._need_flush()
        else:
            log.info("quorum.device", device=self._place, durable_by="a cache that is written through")
        self._caching_known = True

    def _need_flush(self) -> None:
        self._flush_cache()
        self._fua, self._flush = False, True
        log.info("quorum.device", device=self._place, durable_by="SYNCHRONIZE CACHE")

    def _knows_reservations(self) -> bool:
        try:
            self._ask_registrants(scsi.READ_KEYS)
        except _Unknown:
            return False
        return True

    # --- the port ---------------------------------------------------------------------------------------------------

    @property
    def sectors(self) -> int:
        """See QuorumDevice."""
        return self._sectors

    @property
    def forces_writes(self) -> bool:
        """Whether every write is forced to the medium by itself (FUA); known after the first one."""
        return self._fua

    def read(self, sector: int, count: int) -> bytes:
        """See QuorumDevice."""
        parts = []
        at, left = sector * SECTOR_BYTES, count * SECTOR_BYTES
        while left:
            size = min(left, TRANSFER_BYTES_MAX)
            command = scsi.read(at // self._block_bytes, size // self._block_bytes)
            try:
                parts.append(self._told("read", command, size))
            except _Unknown as error:
                raise self._lost(str(error)) from error
            at, left = at + size, left - size
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        try:
            if not self._caching_known:
                self._learn_caching()
            self._write(sector, data)
        except _Unknown as error:
            raise self._lost(str(error)) from error

    def _write(self, sector: int, data: bytes) -> None:
        for begin in range(0, len(data), TRANSFER_BYTES_MAX):
            piece = data[begin : begin + TRANSFER_BYTES_MAX]
            block, blocks = (sector * SECTOR_BYTES + begin) // self._block_bytes, len(piece) // self._block_bytes
            try:
                self._do("write", scsi.write(block, blocks, fua=self._fua), data=piece)
            except _Unknown:
                if not self._fua:
                    raise
                # It may know writes, but none that are forced.
                self._need_flush()
                self._do("write", scsi.write(block, blocks, fua=False), data=piece)
        if self._flush:
            self._flush_cache()

    def _flush_cache(self) -> None:
        """Raises ClusterError(``device-unsuitable``) when the disk cannot."""
        for command in self._flushes:
            try:
                self._do("write its cache back", command)
                self._flushes = (command,)
                return
            except _Unknown:
                continue
        raise ClusterError(
            "device-unsuitable",
            f"quorum disk {self._place} may lose what was written: it has a volatile cache and neither forces a write"
            " (FUA) nor knows SYNCHRONIZE CACHE. Switch its write cache off, or choose another disk",
        )

    def register(self, key: int) -> None:
        """See QuorumDevice."""
        self._registration(scsi.REGISTER_AND_IGNORE, 0, key)

    def _registration(self, action: int, key: int, new: int) -> None:
        """It outlives a loss of power of the target where that can be had."""
        try:
            self._do(
                "register", scsi.persistent_reserve_out(action), data=scsi.reserve_parameters(key, new, persistent=True)
            )
        except _Unknown:
            self._reserve_out("register", action, key, new)

    def reserve(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("reserve", scsi.RESERVE, key, 0)

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("preempt", scsi.PREEMPT, key, victim)

    def release(self, key: int) -> None:
        """See QuorumDevice."""
        try:
            self._reserve_out("release", scsi.RELEASE, key, 0)
        except ClusterError as error:
            if error.code != "reservation-conflict":
                raise

    def clear(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("clear the reservations", scsi.CLEAR, key, 0)

    def unregister(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("end the registration", scsi.REGISTER_AND_IGNORE, key, 0)

    def resume(self, key: int) -> None:
        """See QuorumDevice.

        A stranger registers with a key of its own and preempts the one that it had. The target does that only while
        the old key is registered; whoever has taken over in between has removed it. Nothing is written before.
        """
        try:
            self._registration(scsi.REGISTER, key, key)
            return
        except ClusterError as error:
            if error.code != "reservation-conflict":
                raise
        self.register(key ^ STRANGER_BIT)
        try:
            self.preempt(key ^ STRANGER_BIT, key)
            self._registration(scsi.REGISTER, key ^ STRANGER_BIT, key)
        except ClusterError as error:
            if error.code == "reservation-conflict":
                self.unregister(key ^ STRANGER_BIT)
            raise

    def registrants(self) -> Registrants | None:
        """See QuorumDevice."""
        if not self.reservations:
            return None
        try:
            generation, keys = scsi.keys_of(self._ask_registrants(scsi.READ_KEYS))
            holder = scsi.holder_of(self._ask_registrants(scsi.READ_RESERVATION))
        except _Unknown as error:
            raise self._lost(str(error)) from error
        return Registrants(keys=keys, holder=holder, generation=generation)

    def close(self) -> None:
        """See QuorumDevice."""
        context, self._context = self._context, None
        if context is not None:
            # No logout: a target that does not answer would keep us.
            self._library.iscsi_disconnect(context)
            self._library.iscsi_destroy_context(context)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _ask_registrants(self, action: int) -> bytes:
        return self._told("tell its registrants", scsi.persistent_reserve_in(action), scsi.PERSISTENT_RESERVE_IN_BYTES)

    def _reserve_out(self, what: str, action: int, key: int, other: int) -> None:
        try:
            self._do(
                what, scsi.persistent_reserve_out(action), data=scsi.reserve_parameters(key, other, persistent=False)
            )
        except _Unknown as error:
            raise ClusterError("device-unsuitable", str(error)) from error

    def _told(self, what: str, command: bytes, size: int) -> bytes:
        """What the target answers; zeros behind a shorter answer."""
        buffer = ctypes.create_string_buffer(size)
        self._do(what, command, answer=buffer)
        return buffer.raw

    def _do(
        self, what: str, command: bytes, *, data: bytes = b"", answer: ctypes.Array[ctypes.c_char] | None = None
    ) -> None:
        """One command, sent again while the target has something else to say first, or is busy.

        Raises _Unknown when the target does not know the command, ClusterError as QuorumDevice says.
        """
        why = "it is busy"
        for attempt in range(ATTENTIONS_MAX + 1):
            status, sense, text = self._send(command, data, answer)
            if status == scsi.GOOD:
                return
            if status == scsi.CONFLICT:
                raise ClusterError(
                    "reservation-conflict", f"quorum disk {self._place} refuses this node to {what}: another one has it"
                )
            if status not in (scsi.CHECK_CONDITION, scsi.BUSY, scsi.TASK_SET_FULL):
                raise self._lost(f"status {status:#x} when asked to {what}")
            if status == scsi.CHECK_CONDITION:
                why = f"it does not {what}: {text}"
                if sense is not None and sense.key == scsi.ILLEGAL_REQUEST:
                    raise _Unknown(f"quorum disk {self._place} does not {what}: {text}")
                if sense is None or not sense.again:
                    break
            if status != scsi.CHECK_CONDITION or (sense is not None and sense.key == scsi.NOT_READY):
                time.sleep(BUSY_PAUSE_S * (attempt + 1))
        raise self._lost(why)

    def _send(
        self, command: bytes, data: bytes, answer: ctypes.Array[ctypes.c_char] | None
    ) -> tuple[int, scsi.Sense | None, str]:
        if self._context is None:
            raise self._lost("it was closed")
        library = self._library
        way, size = (_OUT, len(data)) if data else (_IN, len(answer)) if answer is not None else (_NOTHING, 0)
        task = library.scsi_create_task(len(command), command, way, size)
        if not task:
            raise self._lost("out of memory")
        if answer is not None:
            library.scsi_task_add_data_in_buffer(task, size, ctypes.addressof(answer))
        out = ctypes.byref(_Data(len(data), data)) if data else None
        done = library.iscsi_scsi_command_sync(self._context, self._lun, task, out)
        if not done:
            # The library may still know the task; it frees it with the session.
            raise self._lost(self._error())
        try:
            status = ctypes.c_int.from_address(done).value
        finally:
            library.scsi_free_scsi_task(done)
        text = self._error() if status == scsi.CHECK_CONDITION else ""
        return status, scsi.sense_of(text), text

    def _error(self) -> str:
        told = self._library.iscsi_get_error(self._context) if self._context is not None else None
        return told.decode("utf-8", "replace").strip() if told else ""

    def _lost(self, why: str) -> ClusterError:
        return ClusterError(
            "device-lost",
            f"quorum disk {self._place} does not answer ({why}); see that this node reaches the target",
        )
