"""The trace of a story in words; the events that happen all the time are left out."""

from __future__ import annotations

from clussvc.actions import AddLogMember, CommandMonitor, FenceSelf, Note, Propose, RemoveLogMember, Reply, StartMonitor
from clussvc.events import CommandArrived, Committed, ConfigInstalled, LeadershipChanged, MonitorSaid, ProposalFailed
from clussvc.global_update.update import Batch, Proposal
from clussvc.model.monitoring import LeaseExtended, OpenResource

LINE_MAX = 400


def in_words(what: object) -> str:
    """One line; empty for what is not worth one."""
    return _sentence(what)[:LINE_MAX]


def _sentence(what: object) -> str:
    match what:
        case str():
            return what
        case Committed():
            answer = f", refused: {what.refusal.message}" if what.refusal else ""
            return f"reads entry {what.index}: {_proposal(what.proposal)}{answer}"
        case ConfigInstalled():
            return f"installs the configuration of index {what.index}"
        case LeadershipChanged():
            return f"hears that {f'n{what.leader}' if what.leader else 'nobody'} leads{' (itself)' * what.leads}"
        case ProposalFailed():
            return f"its proposal {what.request} failed: {what.fate.value} ({what.detail})"
        case MonitorSaid():
            return f"monitor {what.monitor or '(default)'} says {what.report}"
        case CommandArrived():
            return f"is asked by an administrator: {what.update}"
        case Propose():
            return f"proposes {_proposal(what.proposal)}"
        case CommandMonitor(command=LeaseExtended() | OpenResource()):
            return ""
        case CommandMonitor():
            return f"tells monitor {what.monitor or '(default)'}: {what.command}"
        case Reply():
            return f"answers {what.request}: {what.refusal.message if what.refusal else 'done'}"
        case FenceSelf():
            return f"fences itself: {what.why}"
        case Note():
            return what.record.message
        case StartMonitor() | AddLogMember() | RemoveLogMember():
            return str(what)
        case _:
            return ""


def _proposal(proposal: Proposal) -> str:
    update = proposal.update
    parts = update.updates if isinstance(update, Batch) else (update,)
    return f"{proposal.request} [{'; '.join(map(str, parts))}]"
