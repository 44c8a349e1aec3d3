"""The file share witness: chosen by administrators, opened and closed by the coordinator (docs/decisions/0023).

Open means that the witness may drop one vote of the present version of the voters. Every change of the version closes
it, so that no two nodes that act are ever further apart than one step between sets whose majorities meet.
"""

from __future__ import annotations

import re
from dataclasses import replace

from clussvc.global_update.apply_quorum import unsettled_nodes
from clussvc.global_update.outcome import Done, Result, find_node, note, with_node
from clussvc.global_update.refusals import not_settled
from clussvc.global_update.update import CloseWitness, DropVote, OpenWitness, SetWitness
from clussvc.model.config import Config
from clussvc.model.quorum import QuorumKind
from clussvc.model.reports import Report, Severity, bad_argument, last_node, stale, voters_changed, witness_refused
from clussvc.model.witness import WITNESS_PATH_LENGTH_MAX, Witness

_TOKEN = re.compile(r"[0-9a-f]{16}", re.ASCII)


def set_witness(config: Config, update: SetWitness) -> Result:
    """Another witness, or none. What the former one has decided counts no more."""
    if update.path and config.quorum.kind is not QuorumKind.MAJORITY:
        return witness_refused(f"the quorum is a {config.quorum.kind.value}, and only a majority node set counts votes")
    if len(update.path) > WITNESS_PATH_LENGTH_MAX or (update.path and not update.path.startswith("/")):
        return bad_argument(f"The path of a witness is absolute and has at most {WITNESS_PATH_LENGTH_MAX} characters.")
    if update.path and not _TOKEN.fullmatch(update.token):
        return bad_argument("A witness needs the token of the folder that was prepared for it.")
    if not update.path and not config.witness.chosen:
        return Done(config=config)
    if unsettled := unsettled_nodes(config):
        return not_settled(unsettled)
    witness = Witness(path=update.path, token=update.token) if update.path else Witness()
    message = (
        f"The witness of cluster {config.name} is the file share {update.path} now."
        if update.path
        else f"Cluster {config.name} has no witness any more."
    )
    return Done(
        config=replace(config, witness=witness, voters_version=config.voters_version + 1),
        records=note("cluster.witness", message, kind="cluster", thing=config.name),
    )


def open_witness(config: Config, update: OpenWitness) -> Result:
    """The coordinator has seen that every node that is up uses this version of the voters."""
    if update.voters_version != config.voters_version:
        return voters_changed()
    if not config.witness.chosen or len(config.voters) % 2:
        return stale("there is no witness, or the votes are an odd number")
    if config.witness_open:
        return Done(config=config)
    message = f"With {len(config.voters)} votes the witness may break a tie from now on."
    return Done(
        config=replace(config, witness=replace(config.witness, opened=config.voters_version)),
        records=note("cluster.witness-open", message, kind="cluster", thing=config.name),
    )


def close_witness(config: Config, update: CloseWitness) -> Result:
    """The voters are to change, or the log; the same voters get another version, which is closed."""
    if update.voters_version != config.voters_version:
        return voters_changed()
    if not config.witness_open:
        return stale("the witness is closed")
    message = "The witness may break no tie for now, since the voters are about to change."
    return Done(
        config=replace(config, voters_version=config.voters_version + 1),
        records=note("cluster.witness-closed", message, kind="cluster", thing=config.name),
    )


def drop_vote(config: Config, update: DropVote) -> Result:
    """Whoever proposes it has read the decision of the witness, which is the same for everybody."""
    node = find_node(config, update.node)
    if isinstance(node, Report):
        return node
    if update.voters_version != config.voters_version:
        return voters_changed()
    if not config.witness_open or not node.voter:
        return stale(f"the witness cannot have dropped the vote of {node.name}")
    if len(config.voters) == 1:
        return last_node(node.name)
    changed = replace(with_node(config, replace(node, voter=False)), voters_version=config.voters_version + 1)
    message = f"Node {node.name} has no vote any more; the votes are {len(changed.voters)} now."
    because = "half of the voters was not heard, and the witness decided for the other half"
    return Done(
        config=changed,
        records=note(
            "node.voter",
            message,
            kind="node",
            thing=node.name,
            because=because,
            event_id=1564,
            severity=Severity.WARNING,
            node=node.name,
        ),
    )
