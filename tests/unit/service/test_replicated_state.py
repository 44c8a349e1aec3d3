"""The state machine behind the log, fed with entries that it should not meet."""

from __future__ import annotations

import pytest

from clussvc import codec
from clussvc.events import Committed, ConfigInstalled
from clussvc.global_update.update import FoundCluster, Proposal
from clussvc.model.errors import ClusterError
from clussvc.model.ids import GroupId, NodeId, RequestId
from clussvc.service.replicated_state import ReplicatedState


def founding() -> bytes:
    update = FoundCluster(
        name="C",
        timing_profile="lan",
        node_name="NODE1",
        addresses=("10.0.0.1",),
        port=3343,
        admin_port=0,
        utc_offset_min=0,
        group=GroupId("g"),
    )
    return codec.encode_proposal(
        Proposal(request=RequestId("found"), proposer=NodeId(1), at_ms=1_800_000_000_000, update=update)
    )


def test_a_malformed_entry_changes_nothing_and_is_counted() -> None:
    told: list[Committed | ConfigInstalled] = []
    state = ReplicatedState(told.append)
    state.apply(1, founding())
    state.apply(2, founding()[:-3])

    assert state.malformed == 1
    assert [event.index for event in told] == [1]


def test_an_entry_of_a_newer_release_ends_the_log_instead_of_being_skipped() -> None:
    """Whoever skipped it would have another state than the others from then on."""
    state = ReplicatedState(lambda _: None)
    state.apply(1, founding())

    with pytest.raises(ClusterError) as caught:
        state.apply(2, b"\x63" + founding()[1:])

    assert caught.value.code == "unknown-form"
