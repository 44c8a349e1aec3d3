"""The contract of quorum devices, held against every kind: fakes, files, block devices and real iSCSI."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clussvc.model.errors import ClusterError
from clussvc.quorum.disk_layout import SECTOR_BYTES
from tests.adapters.quorum.places import (
    KINDS,
    KINDS_WITH_RESERVATIONS,
    SIZE_BYTES,
    Open,
    kernel_disks,
    loop,
    machines,
    open_one,
    sector,
    target,
)

__all__ = ["kernel_disks", "loop", "machines", "open_one", "target"]

every_kind = pytest.mark.parametrize("open_one", KINDS, indirect=True)
with_reservations = pytest.mark.parametrize("open_one", KINDS_WITH_RESERVATIONS, indirect=True)


def refused(*calls: Callable[[], object]) -> None:
    """Each is answered by the device: another machine has it."""
    for call in calls:
        with pytest.raises(ClusterError) as caught:
            call()
        assert caught.value.code == "reservation-conflict", caught.value


# --- reading and writing ---------------------------------------------------------------------------------------------


@every_kind
def test_what_is_written_is_read_by_others(open_one: Open) -> None:
    """One sector, and more than one transfer takes; each machine sees what another one has written."""
    one, two = open_one(1), open_one(2)
    assert one.sectors == SIZE_BYTES // SECTOR_BYTES
    one.write(3, sector("three"))
    long = b"".join(sector(f"number {number}") for number in range(700))
    two.write(100, long)
    assert two.read(2, 3) == bytes(SECTOR_BYTES) + sector("three") + bytes(SECTOR_BYTES)
    assert one.read(100, 700) == long
    two.write(3, sector("four"))
    assert one.read(3, 1) == sector("four")


@every_kind
def test_behind_the_end_is_nothing(open_one: Open) -> None:
    device = open_one(1)
    last = device.sectors - 1
    device.write(last, sector("last"))
    for beyond in (lambda: device.read(last, 2), lambda: device.write(last, sector("a") + sector("b"))):
        with pytest.raises(ClusterError) as caught:
            beyond()
        assert caught.value.code == "device-lost"
    assert device.read(last, 1) == sector("last")


@pytest.mark.parametrize("open_one", ["file", "loop"], indirect=True)
def test_without_reservations_nobody_is_registered(open_one: Open) -> None:
    device = open_one(1)
    assert not device.reservations
    assert device.registrants() is None


# --- reservations ----------------------------------------------------------------------------------------------------


@with_reservations
def test_who_was_preempted_is_refused_by_the_device(open_one: Open) -> None:
    """Three machines: one owns the disk, one takes it over, one is a stranger all the time."""
    owner, challenger, stranger = open_one(1), open_one(2), open_one(3)
    assert owner.reservations
    owner.register(11)
    owner.register(11)
    owner.reserve(11)
    owner.reserve(11)
    challenger.register(22)
    owner.write(5, sector("owner"))
    challenger.write(6, sector("a registrant"))
    refused(
        lambda: challenger.reserve(22),
        lambda: stranger.reserve(33),
        lambda: stranger.write(5, sector("stranger")),
    )
    challenger.release(22)
    refused(lambda: stranger.write(5, sector("stranger")))

    challenger.preempt(22, 11)
    challenger.reserve(22)
    refused(lambda: owner.write(5, sector("late")), lambda: owner.reserve(11))
    assert stranger.read(5, 1) == sector("owner")
    refused(lambda: challenger.preempt(22, 11))

    owner.register(12)
    owner.write(5, sector("a registrant again"))
    challenger.release(22)
    challenger.unregister(22)
    owner.reserve(12)
    refused(lambda: challenger.write(6, sector("late")))


@with_reservations
def test_a_new_key_takes_the_place_of_the_old_one(open_one: Open) -> None:
    """After a restart a node has another key; the reservation stays its own."""
    device, other = open_one(1), open_one(2)
    device.register(11)
    device.reserve(11)
    device.register(12)
    device.reserve(12)
    device.write(1, sector("mine"))
    known = device.registrants()
    assert known is not None
    assert (known.keys, known.holder) == ((12,), 12)
    other.register(22)
    refused(lambda: other.preempt(22, 11))


@with_reservations
def test_who_is_registered_is_told(open_one: Open) -> None:
    """Also to strangers; and every change is seen by its number."""
    one, two = open_one(1), open_one(2)
    before = two.registrants()
    assert before is not None
    assert (before.keys, before.holder, before.all) == ((), 0, frozenset())
    one.register(11)
    one.reserve(11)
    two.register(22)
    after = open_one(3).registrants()
    assert after is not None
    assert (sorted(after.keys), after.holder, after.all) == ([11, 22], 11, frozenset({11, 22}))
    assert after.generation > before.generation


@with_reservations
def test_clearing_removes_everybody(open_one: Open) -> None:
    one, two = open_one(1), open_one(2)
    one.register(11)
    one.reserve(11)
    refused(lambda: two.clear(22))
    two.register(22)
    two.clear(22)
    known = two.registrants()
    assert known is not None
    assert known.all == frozenset()
    one.write(1, sector("nobody has it"))


# --- a session that breaks -------------------------------------------------------------------------------------------


@with_reservations
def test_an_owner_that_comes_back_owns_the_disk(open_one: Open) -> None:
    """Whether the device knows a new session again or takes it for a stranger; its key is the old one afterwards."""
    owner, other = open_one(1), open_one(2)
    owner.register(11)
    owner.reserve(11)
    other.register(22)
    owner.close()
    again = open_one(1)
    again.resume(11)
    again.write(5, sector("still the owner"))
    again.reserve(11)
    known = again.registrants()
    assert known is not None
    assert (sorted(known.keys), known.holder) == ([11, 22], 11)
    other.preempt(22, 11)
    refused(lambda: again.write(5, sector("late")))


@with_reservations
def test_an_owner_that_was_preempted_meanwhile_stays_out(open_one: Open) -> None:
    """Nothing of it is registered afterwards, and the new owner keeps the reservation."""
    owner, challenger = open_one(1), open_one(2)
    owner.register(11)
    owner.reserve(11)
    owner.close()
    challenger.register(22)
    refused(lambda: challenger.reserve(22))
    challenger.preempt(22, 11)
    again = open_one(1)
    if not _is_of_the_kernel(again):
        refused(lambda: again.resume(11))
    refused(lambda: again.write(5, sector("late")), lambda: again.clear(11))
    known = challenger.registrants()
    assert known is not None
    assert (known.keys, known.holder) == ((22,), 22)
    challenger.write(5, sector("new"))


def _is_of_the_kernel(device: object) -> bool:
    """The kernel was the registrant all the time, so there is nothing to resume; its writes are refused."""
    return hasattr(device, "_ioctl")


@with_reservations
def test_a_registrant_without_the_reservation_comes_back_as_such(open_one: Open) -> None:
    owner, other = open_one(1), open_one(2)
    owner.register(11)
    owner.reserve(11)
    other.register(22)
    other.close()
    again = open_one(2)
    again.resume(22)
    again.write(6, sector("a registrant"))
    refused(lambda: again.reserve(22))
    owner.write(6, sector("the owner"))


@with_reservations
def test_what_an_earlier_session_left_can_be_cleared(open_one: Open) -> None:
    """By whoever was chosen: by a new key, and anew."""
    first = open_one(1)
    first.register(11)
    first.reserve(11)
    first.close()
    again = open_one(1)
    again.register(12)
    again.clear(12)
    again.register(12)
    again.reserve(12)
    again.write(5, sector("next"))
