"""The state with which a cluster goes on by force: a log of a later generation, and other voters (docs/decisions/0018).

This is no update: it is applied to nothing that a log holds, but by a start that an administrator has forced.
"""

from __future__ import annotations

from dataclasses import replace

from clussvc.model.config import Config
from clussvc.model.ids import NodeId
from clussvc.model.quorum import Quorum, QuorumKind


def forced(config: Config, *, voters: frozenset[NodeId], generation: int) -> Config:
    """A majority node set of these voters, or still a local quorum of the one node.

    Nobody is declared down here, and no group is released: that is decided in the new log as always, by the silences
    that its voters hear, for as long as nodes may act that have not read of the change.
    """
    before = config.quorum
    assert voters
    assert voters <= config.nodes.keys()
    assert generation > before.generation
    local = before.kind is QuorumKind.LOCAL and len(config.nodes) == 1
    quorum = Quorum(
        kind=QuorumKind.LOCAL if local else QuorumKind.MAJORITY,
        generation=generation,
        former_hold_ms=before.longest_hold_ms(config.timing.profile, any_profile=bool(config.timing_version)),
        former_silence_ms=before.longest_silence_ms(),
    )
    timing = quorum.timing_of(config.timing.profile)
    version = config.voters_version + 1
    return replace(
        config,
        quorum=quorum,
        timing=timing,
        voters_version=version,
        # Whoever has not said that it has read of this may act by slower times of the quorum before.
        timing_version=version,
        nodes={node.id: replace(node, voter=node.id in voters, unsettled=False) for node in config.nodes.values()},
    )
