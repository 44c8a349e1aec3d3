"""Which timing profile is recommended."""

from __future__ import annotations

import pytest

from clussvc.membership.timing_advice import TimingMeasured, advise
from clussvc.model.settings import FAST, LAN, WAN


def measured(*, interval_ms: int = 100, sent: int = 0, core: int = 0, gap_ms: int = 100) -> TimingMeasured:
    gaps_ms = {"NODE2": gap_ms, "NODE3": interval_ms}
    return TimingMeasured(interval_ms=interval_ms, sender_late_ms=sent, core_late_ms=core, gaps_ms=gaps_ms)


@pytest.mark.parametrize(
    ("seen", "recommended"),
    [
        (measured(), "fast"),
        (measured(gap_ms=140, core=25), "fast"),
        (measured(gap_ms=141), "lan"),
        (measured(sent=41), "lan"),
        (measured(core=26), "lan"),
        (measured(gap_ms=300, core=125), "lan"),
        (measured(gap_ms=301), "wan"),
        (measured(core=126), "wan"),
        (measured(gap_ms=4_000), ""),
        (measured(core=2_000), ""),
        (measured(interval_ms=20, gap_ms=55), "fast"),
    ],
)
def test_the_fastest_profile_that_bears_what_was_seen(seen: TimingMeasured, recommended: str) -> None:
    """Late on the way, late at the sender, or late in the core: the worst counts."""
    assert next((one.profile for one in advise(seen) if one.fits), "") == recommended


def test_what_does_not_fit_says_why() -> None:
    """With the figures on both sides."""
    fast, lan, wan = advise(measured(gap_ms=190, core=30))

    assert [one.profile for one in (fast, lan, wan)] == [FAST.profile, LAN.profile, WAN.profile]
    assert fast.because == (
        "heartbeats were up to 90 ms late, and it bears 40 ms; the service was up to 30 ms late, and it bears 25 ms"
    )
    assert lan.fits
    assert "(90 ms seen)" in lan.because
