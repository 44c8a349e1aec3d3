"""Two networks of their own with a cable between them; a thread lives in each and carries out what it is told."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from types import TracebackType
from typing import Self

from tests.adapters.quorum.elsewhere import Elsewhere

HERE_MAC = "52:54:00:00:00:01"
THERE_MAC = "52:54:00:00:00:02"


class Cable:
    """``here`` is the host (192.0.2.1, 2001:db8::1), ``there`` its neighbour (.2); the adapters are called eth0."""

    def __init__(self) -> None:
        self.here, self.there = Elsewhere(), Elsewhere()

    def lay(self) -> None:
        """Make both adapters."""
        there = self.there.call(threading.get_native_id)
        self.ip("link", "add", "eth0", "address", HERE_MAC, "type", "veth", "peer", "name", "eth0", "netns", str(there))
        self.ip("link", "set", "eth0", "address", THERE_MAC, on=self.there)

    def __enter__(self) -> Self:
        self.lay()
        for number, end in enumerate((self.here, self.there), start=1):
            self.ip("address", "add", f"192.0.2.{number}/24", "dev", "eth0", on=end)
            self.ip("address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad", on=end)
        for end in (self.here, self.there):
            self.ip("link", "set", "eth0", "up", on=end)
        deadline_s = time.monotonic() + 20
        while not all("LOWER_UP" in self.ip("link", "show", "eth0", on=end) for end in (self.here, self.there)):
            assert time.monotonic() < deadline_s, "the cable has no carrier"
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.here.close()
        self.there.close()

    def ip(self, *words: str, on: Elsewhere | None = None) -> str:
        """Run ip(8) at one end."""
        done = (on or self.here).call(
            subprocess.run, ["ip", *words], check=True, capture_output=True, text=True, timeout=20
        )
        return str(done.stdout)


class SnoopingCable(Cable):
    """The same, with a switch at the other end that asks who has joined which group, in that version of IGMP."""

    def __init__(self, igmp_version: int) -> None:
        super().__init__()
        self._igmp_version = igmp_version

    def lay(self) -> None:
        there = self.there.call(threading.get_native_id)
        # A machine that has heard a query of version 2 answers in version 2 for minutes, so the switch never sends one
        # when it is to speak version 3. It asks every two seconds.
        self.ip(
            *("link", "add", "eth0", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "1"),
            *("mcast_igmp_version", str(self._igmp_version), "mcast_query_interval", "200"),
            *("mcast_query_response_interval", "50", "mcast_startup_query_interval", "50"),
            on=self.there,
        )
        self.ip("link", "add", "eth0", "address", HERE_MAC, "type", "veth", "peer", "name", "port", "netns", str(there))
        self.ip("link", "set", "port", "master", "eth0", "up", on=self.there)

    def members(self, group: str) -> list[str]:
        """The ports behind which the switch knows a member."""
        done = self.there.call(
            subprocess.run,
            ["bridge", "mdb", "show", "dev", "eth0"],
            check=True,
            capture_output=True,
            text=True,
            timeout=20,
        )
        lines = [line.split() for line in str(done.stdout).splitlines() if group in line.split()]
        return [words[words.index("port") + 1] for words in lines]


class TapCable(Cable):
    """The same of two adapters whose driver hands frames to XDP programs as they arrive, as those of network cards do.
    A thread carries the frames between them."""

    def lay(self) -> None:
        self._ends = [end.call(_open_tap) for end in (self.here, self.there)]
        self._stop, self._stopped = os.pipe()
        self.ip("link", "set", "eth0", "address", HERE_MAC)
        self.ip("link", "set", "eth0", "address", THERE_MAC, on=self.there)
        self._carrier = threading.Thread(target=self._carry, daemon=True)
        self._carrier.start()

    def _carry(self) -> None:
        here, there = self._ends
        while True:
            readable, _, _ = select.select([here, there, self._stop], [], [])
            if self._stop in readable:
                return
            for end, other in ((here, there), (there, here)):
                if end in readable:
                    frame = os.read(end, 1 << 16)
                    try:
                        os.write(other, frame)
                    except OSError:
                        # The other adapter is not up yet: the frame is lost, as on any cable.
                        continue

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stopped)
        self._carrier.join()
        for each in (*self._ends, self._stop):
            os.close(each)
        super().__exit__(kind, error, trace)


def _open_tap() -> int:
    """The end of the adapter eth0 at which its frames come out."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    set_interface, tap, no_information = 0x400454CA, 0x0002, 0x1000
    fcntl.ioctl(end, set_interface, struct.pack("16sH14x", b"eth0", tap | no_information))
    return end
