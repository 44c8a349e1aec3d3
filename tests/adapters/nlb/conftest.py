"""A pair of interfaces in a network namespace of their own, and who may load programs into the kernel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from clussvc.model.errors import ClusterError
from clussvc.nlb.filter.binding import XdpFilter


@pytest.fixture
def kernel_filter() -> Iterator[XdpFilter]:
    """The filter in the kernel, attached to nothing; skips where this process may not load it."""
    if os.geteuid() != 0:
        pytest.skip("loading a program into the kernel needs root")
    try:
        made = XdpFilter()
    except ClusterError as error:
        # A container without the right to load programs; anything else is a failure of the filter.
        if "Operation not permitted" not in str(error):
            raise
        pytest.skip(str(error))
    yield made
    made.close()


@dataclass(frozen=True)
class Wire:
    """Two interfaces joined by a wire; what is sent on ``outside`` arrives at ``inside``."""

    inside: str = "inside"
    outside: str = "outside"


@pytest.fixture
def wire() -> Iterator[Wire]:
    """In a new namespace into which this thread, and so the test, moves for its duration."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        subprocess.run(["unshare", "--net", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        os.close(before)
        pytest.skip("network namespaces cannot be made here")
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(0x40000000) == 0  # CLONE_NEWNET
    try:
        ip("link", "add", "inside", "type", "veth", "peer", "name", "outside")
        for name in ("inside", "outside", "lo"):
            ip("link", "set", name, "up")
        yield Wire()
        ip("link", "del", "inside")
    finally:
        assert libc.setns(before, 0x40000000) == 0
        os.close(before)


def ip(*words: str) -> None:
    """One ip(8) command."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)
