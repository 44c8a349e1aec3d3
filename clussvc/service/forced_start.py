"""Starting with ``forcequorum`` and ``resetquorumlog``: the log of a new generation, begun from what nodes have stored.

Both go on without what was promised to others, because an administrator says so. They happen before the service itself
starts, in these steps; a crash between any two leaves the node as it was, or done:

1. read what this node has: its part of the log to the last entry, acknowledged or not, or the configuration's copy;
2. with ``forcequorum``: meet the other listed nodes, and agree who has the newest (:mod:`clussvc.quorum.forcing`). It
   makes the beginning of the new log and hands it to the others;
3. each makes that durable in a folder of its own, then (``birth.json``) that it takes part in that log.

The new generation is the time in seconds, so that whoever was left behind follows it, and of two forced starts the
later one wins. All other nodes learn of it when they meet a node of it, as of any change of the quorum
(docs/decisions/0020), and come back as new incarnations. Their old logs are never used again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from clussvc import codec
from clussvc.comms.authority import client_context, server_context
from clussvc.comms.stream_tcp import StreamCallbacks, StreamTransport
from clussvc.comms.wire import Kind
from clussvc.configdb.store import SqliteConfigStore
from clussvc.events import Committed, ConfigInstalled
from clussvc.global_update.apply_force import forced
from clussvc.global_update.raft.replicator import Snapshot, beginning, decode_snapshot, encode_snapshot
from clussvc.global_update.raft.stored_log import begin_offline, read_stored_log
from clussvc.model.config import Config, Node
from clussvc.model.errors import ClusterError
from clussvc.model.ids import NodeId
from clussvc.model.quorum import QuorumKind
from clussvc.quorum.disk_log import RESET_LEAP
from clussvc.quorum.forcing import Forcing, Offer
from clussvc.quorum.news import PIECE_BYTES, NewsPiece, NewsReader, Notice, pieces
from clussvc.service.lifecycle import Birth, read_beginning, write_birth
from clussvc.service.replicated_state import ReplicatedState
from clussvc.service.settings_file import NodeFile

SAY_S: Final = 0.5
"""How often a node says what it has while it waits for the others."""
COMPLAIN_S: Final = 10.0
"""How often it says for whom it waits."""
HAND_S: Final = 3.0
"""How often the beginning of the log is handed to those who have not said that they have it."""
WORD_BYTES_MAX: Final = 2 * PIECE_BYTES

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What this node has."""

    term: int
    entry: int
    """Of the last entry in the log; for a log that knows no terms, the same as ``index``."""
    index: int
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What nodes say to each other before a forced start."""

    offer: Offer
    begun: int
    """The generation whose log the sender has begun; 0: none."""


# --- what this node has -----------------------------------------------------------------------------------------------


def read_stored(file: NodeFile, birth: Birth) -> Stored:
    """All that this node knows.

    Raises ClusterError for a log that cannot be read, and ``no-configuration`` when the node has nothing.
    """
    if birth.quorum.replicated:
        return _from_log(file, birth)
    store = SqliteConfigStore(file.database)
    try:
        stored = store.load()
    finally:
        store.close()
    if stored is None or stored[1].quorum.generation < birth.quorum.generation:
        stored = read_beginning(file, birth.quorum)
    if stored is None:
        raise _nothing()
    index, config = stored
    return Stored(term=0, entry=index, index=index, config=config)


def _from_log(file: NodeFile, birth: Birth) -> Stored:
    generation = birth.quorum.generation
    stored = read_stored_log(file.log_folder(generation), cluster_id=file.cluster_id, node_id=file.node_id)
    newest: list[Committed | ConfigInstalled] = []
    state = ReplicatedState(lambda event: newest.__setitem__(slice(None), [event]), generation=generation)
    state.restore(stored.applied, stored.image)
    for index, command in enumerate(stored.commands, stored.applied + 1):
        state.apply(index, command)
    if not newest:
        raise _nothing()
    return Stored(term=stored.term, entry=stored.index, index=newest[0].index, config=newest[0].config)


def _nothing() -> ClusterError:
    return ClusterError(
        "no-configuration", "this node has no configuration of the cluster yet, so nothing can be begun with it"
    )


# --- resetquorumlog ---------------------------------------------------------------------------------------------------


def reset_log(file: NodeFile, birth: Birth) -> tuple[Birth, str]:
    """``resetquorumlog`` where the log is among the nodes. If this node's part of it is good, nothing is done. If it is
    damaged, it is made anew from the copy of the configuration in a cluster of one node; in others the answer is why it
    cannot be used, and the node has to wait for another log: it must not vote again under what it has forgotten.

    Raises ClusterError(``journal-damaged`` and others) when there is not even a copy.
    """
    if not birth.quorum.replicated or not birth.log_made:
        # The log on a quorum disk is made anew by whoever takes the disk over.
        return birth, ""
    try:
        _from_log(file, birth)
    except ClusterError as damage:
        store = SqliteConfigStore(file.database)
        try:
            copy = store.load()
        finally:
            store.close()
        if copy is None:
            raise
        index, config = copy
        if len(config.nodes) > 1:
            log.warning("log.lost", because=damage.message)
            return birth, damage.code
        log.warning("log.reset", because=damage.message, from_entry=index)
        stored = Stored(term=0, entry=index, index=index, config=config)
        return _begin(file, birth, _beginning(file, stored, frozenset({NodeId(file.node_id)}))), ""
    return birth, ""


# --- forcequorum ------------------------------------------------------------------------------------------------------


def force_quorum(
    file: NodeFile, birth: Birth, names: tuple[str, ...], *, wait: Callable[[float], None] = time.sleep
) -> Birth:
    """``forcequorum``: go on with the listed nodes alone, as a majority node set. Returns when this node may start: it
    has begun the new log, or another listed node has, or is about to.

    Raises ClusterError: ``force-refused`` for a list that makes no sense, and as read_stored.
    """
    stored = read_stored(file, birth)
    config = stored.config
    listed = _listed(file, config, names)
    if config.quorum.kind is not QuorumKind.DISK and config.voters == frozenset(listed):
        log.info("quorum.not_forced", because="these nodes are the voters already, so a majority of them is enough")
        return birth
    own = Offer(
        node=NodeId(file.node_id),
        listed=listed,
        generation=config.quorum.generation,
        term=stored.term,
        index=stored.entry,
    )
    log.warning("quorum.forcing", nodes=", ".join(config.node_name(node) for node in listed), entry=stored.index)
    return Meeting(file, birth, stored, own, wait).hold()


def _listed(file: NodeFile, config: Config, names: tuple[str, ...]) -> tuple[NodeId, ...]:
    nodes = [config.node_named(name) for name in names]
    unknown = [name for name, node in zip(names, nodes, strict=True) if node is None]
    if unknown or not names:
        known = ", ".join(node.name for node in config.nodes.values())
        raise ClusterError("force-refused", f"there is no node {', '.join(unknown)}; the nodes are {known}")
    listed = tuple(sorted({node.id for node in nodes if node is not None}))
    if file.node_id not in listed:
        raise ClusterError(
            "force-refused",
            f"{file.node} is not on the list, so it must stay stopped until one of {', '.join(names)} is up again"
            " without the switch",
        )
    return listed


def _beginning(file: NodeFile, stored: Stored, voters: frozenset[NodeId]) -> Snapshot:
    """With what the new log begins."""
    generation = max(stored.config.quorum.generation + 1, int(time.time()))
    return beginning(
        cluster_id=file.cluster_id,
        members=frozenset(map(int, voters)),
        # Nodes that were left behind may have applied more than this one, and take what comes after that only.
        index=stored.index + RESET_LEAP,
        image=codec.encode_config(forced(stored.config, voters=voters, generation=generation)),
    )


def _begin(file: NodeFile, birth: Birth, snapshot: Snapshot) -> Birth:
    """Make the new log durable, then that this node takes part in it."""
    quorum = codec.decode_config(snapshot.image).quorum
    begin_offline(file.log_folder(quorum.generation), snapshot, node_id=file.node_id)
    fresh = replace(birth, quorum=quorum, log_made=True)
    write_birth(file, fresh)
    return fresh


class Meeting:
    """The listed nodes before they start. Whoever is chosen begins the new log and hands its beginning to the others,
    so that none of them is ever in the old one again."""

    def __init__(
        self, file: NodeFile, birth: Birth, stored: Stored, own: Offer, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._file = file
        self._birth = birth
        self._stored = stored
        self._wait = wait
        self._lock = threading.Lock()
        self._forcing = Forcing(own)
        self._begun: dict[NodeId, int] = {}
        """Of the other nodes, who has begun which generation."""
        self._reader = NewsReader()
        self._snapshot: Snapshot | None = None
        """With what this node has to begin, or has begun."""
        self._later = False
        """A node that takes part in a later log was met."""
        config = stored.config
        self._others = [config.nodes[node] for node in own.listed if node != own.node]

    def hold(self) -> Birth:
        """Until this node may start."""
        own = self._forcing.own
        if not self._others:
            return _begin(self._file, self._birth, _beginning(self._file, self._stored, frozenset(own.listed)))
        streams = self._streams()
        streams.start()
        try:
            streams.set_peers(
                {int(node.id): tuple((each, node.port) for each in node.addresses) for node in self._others}
            )
            return self._settle(streams)
        finally:
            streams.stop()

    def _settle(self, streams: StreamTransport) -> Birth:
        own, birth, complain_s, hand_s = self._forcing.own, self._birth, 0.0, 0.0
        while True:
            with self._lock:
                chosen, later, snapshot, begun = self._forcing.chosen, self._later, self._snapshot, dict(self._begun)
            if snapshot is None and later:
                log.warning("quorum.forced", because="a listed node takes part in the new log already")
                return birth
            if snapshot is None and chosen == own.node:
                snapshot = _beginning(self._file, self._stored, frozenset(own.listed))
            if snapshot is not None and birth is self._birth:
                birth = _begin(self._file, birth, snapshot)
                log.warning("quorum.forced", chosen=self._name(chosen), entry=snapshot.applied - RESET_LEAP)
                with self._lock:
                    self._snapshot = snapshot
            generation = birth.quorum.generation if snapshot is not None else 0
            word = codec.encode_value(Word(offer=own, begun=generation), max_bytes=WORD_BYTES_MAX)
            for node in self._others:
                streams.send(int(node.id), Kind.FORCE, word)
            missing = [node for node in self._others if begun.get(node.id, 0) != generation]
            if snapshot is not None and (chosen != own.node or not missing):
                # What was said last is on its way.
                self._wait(SAY_S)
                return birth
            now_s = time.monotonic()
            if snapshot is not None and now_s >= hand_s:
                hand_s = now_s + HAND_S
                for node in missing:
                    self._hand(streams, int(node.id), snapshot, generation)
            if now_s >= complain_s:
                complain_s = now_s + COMPLAIN_S
                self._complain(missing)
            self._wait(SAY_S)

    def _hand(self, streams: StreamTransport, node: int, snapshot: Snapshot, generation: int) -> None:
        data = encode_snapshot(snapshot)
        for piece in pieces(generation=generation, index=snapshot.applied, snapshot=True, data=data):
            streams.send(node, Kind.FORCE, codec.encode_value(piece, max_bytes=WORD_BYTES_MAX))

    def heard(self, sender: int, kind: Kind, payload: bytes) -> None:
        """Something has come from an authenticated node; called on the thread of the streams."""
        try:
            if kind is Kind.FORCE:
                word = codec.decode_one_of(Word | NewsPiece, payload, WORD_BYTES_MAX)
                with self._lock:
                    self._hear(NodeId(sender), word)
            elif kind is Kind.QUORUM:
                notice = codec.decode_one_of(Notice | NewsPiece, payload, WORD_BYTES_MAX)
                with self._lock:
                    self._begun[NodeId(sender)] = notice.generation
                    self._later = self._later or notice.generation > self._forcing.own.generation
        except ClusterError as error:
            log.warning("quorum.malformed", node=sender, because=error.message)

    def _hear(self, sender: NodeId, word: Word | NewsPiece) -> None:
        if isinstance(word, Word):
            if word.offer.node == sender:
                self._forcing.take(word.offer)
                self._begun[sender] = word.begun
            return
        whole = self._reader.take(sender, word)
        if whole is not None and self._snapshot is None and sender == self._forcing.chosen:
            self._snapshot = decode_snapshot(whole, cluster_id=self._file.cluster_id, source=f"from node {sender}")

    def _streams(self) -> StreamTransport:
        file, keys = self._file, self._file.keys
        tls = {"certificate": str(keys / "node.pem"), "key": str(keys / "node.key"), "authority": str(keys / "ca.pem")}

        async def nobody_joins(request: bytes) -> bytes:
            return b'{"error": "this node waits for a forced start", "code": "no-quorum"}'

        return StreamTransport(
            node_id=file.node_id,
            cluster_id=file.cluster_id,
            listen=tuple((address, file.port) for address in file.addresses),
            server_tls=server_context(**tls, require_client=False),
            client_tls=client_context(**tls),
            authority=(keys / "ca.pem").read_bytes(),
            callbacks=StreamCallbacks(
                on_message=self.heard,
                on_connected=lambda node: None,
                on_disconnected=lambda node: None,
                on_join=nobody_joins,
            ),
        )

    def _name(self, node: NodeId | None) -> str:
        return self._stored.config.node_name(node) if node is not None else "another node"

    def _complain(self, missing: list[Node]) -> None:
        with self._lock:
            quarrel, unheard = self._forcing.quarrel, self._forcing.missing
        if quarrel is not None:
            theirs = ", ".join(map(self._name, quarrel.listed))
            because = (
                f"{self._name(quarrel.node)} was started with another list ({theirs}); start all with the same one"
            )
        elif unheard:
            names = ", ".join(map(self._name, unheard))
            because = f"{names} has not been heard; start every node on the list, with the same list"
        else:
            because = f"{', '.join(node.name for node in missing)} has not begun yet"
        log.warning("quorum.waits", because=because)
