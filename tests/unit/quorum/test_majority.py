"""Majority arithmetic against a table that anyone can check by hand."""

from __future__ import annotations

import pytest

from clussvc.model.ids import NodeId
from clussvc.quorum.majority import is_majority, losses_survived, needed


@pytest.mark.parametrize(
    ("voters", "majority", "losses"),
    [(1, 1, 0), (2, 2, 0), (3, 2, 1), (4, 3, 1), (5, 3, 2), (6, 4, 2), (7, 4, 3), (8, 5, 3), (9, 5, 4)],
)
def test_the_table(voters: int, majority: int, losses: int) -> None:
    """Even numbers of voters survive no more losses than the odd number below."""
    assert needed(voters) == majority
    assert losses_survived(voters) == losses


def test_only_voters_count() -> None:
    """A node that is present but has no vote changes nothing."""
    voters = {NodeId(1), NodeId(2), NodeId(3)}

    assert is_majority({NodeId(1), NodeId(2), NodeId(9)}, voters)
    assert not is_majority({NodeId(1), NodeId(8), NodeId(9)}, voters)
