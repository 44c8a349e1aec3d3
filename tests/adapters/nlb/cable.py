"""Two networks of their own with a cable between them; a thread lives in each and carries out what it is told."""

from __future__ import annotations

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

    def __enter__(self) -> Self:
        there = self.there.call(threading.get_native_id)
        self.ip("link", "add", "eth0", "address", HERE_MAC, "type", "veth", "peer", "name", "eth0", "netns", str(there))
        self.ip("link", "set", "eth0", "address", THERE_MAC, on=self.there)
        for number, end in enumerate((self.here, self.there), start=1):
            self.ip("address", "add", f"192.0.2.{number}/24", "dev", "eth0", on=end)
            self.ip("address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad", on=end)
        for end in (self.here, self.there):
            self.ip("link", "set", "eth0", "up", on=end)
        deadline_s = time.monotonic() + 20
        while not all("state UP" in self.ip("link", "show", "eth0", on=end) for end in (self.here, self.there)):
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
