"""The state machine behind the log: decodes an entry, applies it, and tells the core what it meant.

Runs on the log's thread. The configuration is immutable, so the core and the administration receive the value itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from clussvc import codec
from clussvc.events import Committed, ConfigInstalled
from clussvc.global_update.apply import apply, founded
from clussvc.model.config import Config
from clussvc.model.errors import ClusterError

_INDEX = struct.Struct("<Q")


class ReplicatedState:
    """Implements the replicator's StateMachine port."""

    def __init__(
        self, tell: Callable[[Committed | ConfigInstalled], None], config: Config | None = None, *, generation: int = 0
    ) -> None:
        """``config``: what a log that keeps no state of its own begins with; ``generation``: of the quorum whose log
        this is."""
        self._tell = tell
        self._config = config
        self._generation = generation
        self.malformed = 0
        """Entries that could not be decoded; they change nothing, equally on all nodes."""

    @property
    def highest_node(self) -> int:
        """The highest number that any node has or had."""
        return self._config.next_node_id - 1 if self._config is not None else 0

    @property
    def retired(self) -> bool:
        """See StateMachine: the configuration names a quorum of a later generation."""
        return self._config is not None and self._config.quorum.generation > self._generation

    def apply(self, index: int, command: bytes) -> bytes:
        """Apply one entry. A malformed one, which no proposer of this version writes, changes nothing.

        Raises ClusterError(``unknown-form``) for the form of a newer release: whoever skipped it would go on with
        another state than the others, so the log of this node ends instead.
        """
        if self.retired:
            return _INDEX.pack(index)
        try:
            proposal = codec.decode_proposal(command)
        except ClusterError as error:
            if error.code == "unknown-form":
                raise
            self.malformed += 1
            return _INDEX.pack(index)
        applied = apply(self._config, proposal)
        self._config = applied.config if founded(applied.config) else None
        if founded(applied.config):
            self._tell(
                Committed(
                    index=index,
                    proposal=proposal,
                    config=applied.config,
                    refusal=applied.refusal,
                    records=applied.records,
                )
            )
        return _INDEX.pack(index)

    def snapshot(self) -> bytes:
        """An image of the configuration."""
        return codec.encode_config(self._config) if self._config is not None else b""

    def restore(self, index: int, image: bytes) -> None:
        """Take the configuration from an image."""
        self._config = codec.decode_config(image) if image else None
        if self._config is not None:
            self._tell(ConfigInstalled(index=index, config=self._config))
