"""An iSCSI LUN as a quorum disk, spoken to from this process through libiscsi: no initiator in the kernel is needed.

The library is loaded when the first such disk is opened. A session that breaks is not mended behind our back: the call
fails with ``device-lost``, and who owns the device opens it anew.
"""

from __future__ import annotations

import ctypes
import re
import socket
from functools import cache
from typing import Any, Final

from clussvc.model.errors import ClusterError
from clussvc.quorum.disk_layout import SECTOR_BYTES

LIBRARIES: Final = ("libiscsi.so.11", "libiscsi.so.10", "libiscsi.so.9", "libiscsi.so.8", "libiscsi.so.7")
DEFAULT_PORT: Final = 3260
TRANSFER_BYTES_MAX: Final = 256 * 1024
ATTENTIONS_MAX: Final = 4
"""A target has this many things to say at most before it does what it is asked for (unit attentions)."""
TYPE_WRITE_EXCLUSIVE_REGISTRANTS: Final = 5

_GOOD, _CHECK_CONDITION, _BUSY, _CONFLICT, _FULL = 0x00, 0x02, 0x08, 0x18, 0x28
_READ_KEYS: Final = 0
_RESERVE, _RELEASE, _CLEAR, _PREEMPT, _REGISTER_AND_IGNORE = 1, 2, 3, 4, 6
_SESSION_NORMAL: Final = 2
_SESSION_NUMBER: Final = 0xC105

_PLACE = re.compile(
    r"iscsi://(?P<host>\[[0-9A-Fa-f:.%]+\]|[^/:\[\]]+)(:(?P<port>\d{1,5}))?/(?P<target>[^/]+)/(?P<lun>\d{1,3})"
)


class _ReserveOut(ctypes.Structure):
    _fields_ = (
        ("reservation_key", ctypes.c_uint64),
        ("service_action_key", ctypes.c_uint64),
        ("spec_i_pt", ctypes.c_uint8),
        ("all_tg_pt", ctypes.c_uint8),
        ("aptpl", ctypes.c_uint8),
    )


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Capacity(ctypes.Structure):
    """The beginning of what libiscsi makes of READ CAPACITY (16)."""

    _fields_ = (("last_block", ctypes.c_uint64), ("block_bytes", ctypes.c_uint32))


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
            " Ubuntu: libiscsi7, others: libiscsi)",
        )
    task, context, integer, number = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64
    flags = [integer] * 5
    for function, result, arguments in (
        ("iscsi_create_context", context, [ctypes.c_char_p]),
        ("iscsi_destroy_context", integer, [context]),
        ("iscsi_disconnect", integer, [context]),
        ("iscsi_set_targetname", integer, [context, ctypes.c_char_p]),
        ("iscsi_set_session_type", integer, [context, integer]),
        ("iscsi_set_timeout", integer, [context, integer]),
        ("iscsi_set_isid_random", integer, [context, ctypes.c_uint32, ctypes.c_uint32]),
        ("iscsi_set_noautoreconnect", None, [context, integer]),
        ("iscsi_full_connect_sync", integer, [context, ctypes.c_char_p, integer]),
        ("iscsi_get_error", ctypes.c_char_p, [context]),
        ("iscsi_readcapacity16_sync", task, [context, integer]),
        (
            "iscsi_read16_iov_sync",
            task,
            [context, integer, number, ctypes.c_uint32, integer, *flags, ctypes.POINTER(_Piece), integer],
        ),
        (
            "iscsi_write16_sync",
            task,
            [context, integer, number, ctypes.c_char_p, ctypes.c_uint32, integer, *flags],
        ),
        (
            "iscsi_synchronizecache16_sync",
            task,
            [context, integer, number, ctypes.c_uint32, integer, integer],
        ),
        ("iscsi_persistent_reserve_in_sync", task, [context, integer, integer, ctypes.c_uint16]),
        (
            "iscsi_persistent_reserve_out_sync",
            task,
            [context, integer, integer, integer, integer, ctypes.c_void_p],
        ),
        ("scsi_datain_unmarshall", ctypes.c_void_p, [task]),
        ("scsi_free_scsi_task", None, [task]),
    ):
        bound = getattr(library, function)
        bound.restype, bound.argtypes = result, arguments
    return library


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
        # Registrations belong to the initiator's name together with this number: a new session has to be the same.
        library.iscsi_set_isid_random(context, _SESSION_NUMBER, 0)
        library.iscsi_set_timeout(context, max(1, -(-timeout_ms // 1000)))
        library.iscsi_set_noautoreconnect(context, 1)
        if library.iscsi_full_connect_sync(context, f"{host}:{port}".encode(), self._lun):
            raise self._lost(self._error())

    def _capacity(self) -> tuple[int, int]:
        found: list[tuple[int, int]] = []

        def look(task: int) -> None:
            address = self._library.scsi_datain_unmarshall(task)
            if address:
                told = _Capacity.from_address(address)
                found.append((int(told.block_bytes), int(told.last_block) + 1))

        self._do("tell its size", lambda: self._library.iscsi_readcapacity16_sync(self._context, self._lun), look)
        if not found or found[0][0] not in (512, 1024, 2048, 4096):
            raise ClusterError("device-unsuitable", f"quorum disk {self._place} has no usable block size")
        return found[0]

    def _knows_reservations(self) -> bool:
        try:
            self._do(
                "list its registrants",
                lambda: self._library.iscsi_persistent_reserve_in_sync(self._context, self._lun, _READ_KEYS, 1024),
                optional=True,
            )
        except ClusterError as error:
            if error.code == "device-unsuitable":
                return False
            raise
        return True

    # --- the port ---------------------------------------------------------------------------------------------------

    @property
    def sectors(self) -> int:
        """See QuorumDevice."""
        return self._sectors

    def read(self, sector: int, count: int) -> bytes:
        """See QuorumDevice."""
        parts = []
        at, left = sector * SECTOR_BYTES, count * SECTOR_BYTES
        while left:
            size = min(left, TRANSFER_BYTES_MAX)
            buffer = ctypes.create_string_buffer(size)
            piece = _Piece(ctypes.addressof(buffer), size)
            block = at // self._block_bytes

            def ask(block: int = block, size: int = size, piece: _Piece = piece) -> Any:
                return self._library.iscsi_read16_iov_sync(
                    *(self._context, self._lun, block, size, self._block_bytes, 0, 0, 0, 0, 0), ctypes.byref(piece), 1
                )

            self._do("read", ask)
            parts.append(buffer.raw)
            at, left = at + size, left - size
        return b"".join(parts)

    def write(self, sector: int, data: bytes) -> None:
        """See QuorumDevice."""
        for begin in range(0, len(data), TRANSFER_BYTES_MAX):
            piece = data[begin : begin + TRANSFER_BYTES_MAX]
            block = (sector * SECTOR_BYTES + begin) // self._block_bytes

            def ask(block: int = block, piece: bytes = piece) -> Any:
                # Forced to stable storage (FUA).
                return self._library.iscsi_write16_sync(
                    *(self._context, self._lun, block, piece, len(piece), self._block_bytes), *(0, 0, 1, 0, 0)
                )

            self._do("write", ask)

    def register(self, key: int) -> None:
        """See QuorumDevice."""
        try:
            self._reserve_out("register", _REGISTER_AND_IGNORE, 0, key, persistent=True)
        except ClusterError as error:
            if error.code != "device-unsuitable":
                raise
            # It cannot keep registrations over a loss of its power.
            self._reserve_out("register", _REGISTER_AND_IGNORE, 0, key)

    def reserve(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("reserve", _RESERVE, key, 0)

    def preempt(self, key: int, victim: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("preempt", _PREEMPT, key, victim)

    def release(self, key: int) -> None:
        """See QuorumDevice."""
        try:
            self._reserve_out("release", _RELEASE, key, 0)
        except ClusterError as error:
            if error.code != "reservation-conflict":
                raise

    def clear(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("clear the reservations", _CLEAR, key, 0)

    def unregister(self, key: int) -> None:
        """See QuorumDevice."""
        self._reserve_out("end the registration", _REGISTER_AND_IGNORE, key, 0)

    def close(self) -> None:
        """See QuorumDevice."""
        context, self._context = self._context, None
        if context is not None:
            # No logout: a target that does not answer would keep us.
            self._library.iscsi_disconnect(context)
            self._library.iscsi_destroy_context(context)

    # --- parts ------------------------------------------------------------------------------------------------------

    def _reserve_out(self, what: str, action: int, key: int, other: int, *, persistent: bool = False) -> None:
        def ask() -> Any:
            parameters = _ReserveOut(key, other, 0, 0, int(persistent))
            return self._library.iscsi_persistent_reserve_out_sync(
                *(self._context, self._lun, action, 0, TYPE_WRITE_EXCLUSIVE_REGISTRANTS), ctypes.byref(parameters)
            )

        self._do(what, ask, optional=True)

    def _do(self, what: str, ask: Any, look: Any = None, *, optional: bool = False) -> None:
        """One request, asked again while the target has something else to say first. ``optional``: a target that does
        not know the request has not failed."""
        for _ in range(ATTENTIONS_MAX):
            if self._context is None:
                raise self._lost("it was closed")
            task = ask()
            if not task:
                raise self._lost(self._error())
            try:
                status = ctypes.c_int.from_address(task).value
                if status == _GOOD:
                    if look is not None:
                        look(task)
                    return
            finally:
                self._library.scsi_free_scsi_task(task)
            if status == _CONFLICT:
                raise ClusterError(
                    "reservation-conflict", f"quorum disk {self._place} refuses this node to {what}: another one has it"
                )
            if status not in (_CHECK_CONDITION, _BUSY, _FULL):
                raise self._lost(f"status {status:#x} when asked to {what}")
        if status == _CHECK_CONDITION and optional:
            raise ClusterError("device-unsuitable", f"quorum disk {self._place} does not {what}: {self._error()}")
        raise self._lost(f"it did not {what}: {self._error() or 'too busy'}")

    def _error(self) -> str:
        told = self._library.iscsi_get_error(self._context) if self._context is not None else None
        return told.decode("utf-8", "replace").strip() if told else ""

    def _lost(self, why: str) -> ClusterError:
        return ClusterError(
            "device-lost",
            f"quorum disk {self._place} does not answer ({why}); see that this node reaches the target",
        )
