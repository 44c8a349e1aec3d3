"""The switches with which a service is started for once (MSCS: ``net start clussvc /fixquorum``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clussvc.model.errors import ClusterError


@dataclass(frozen=True, slots=True, kw_only=True)
class Switches:
    """How this start differs from others."""

    fixquorum: bool = False
    """Show what this node has stored, and take no part: for looking, and for mending its node file."""
    noquorumlogging: bool = False
    """As fixquorum; the log is read as well, though nothing is written to it, and what is damaged is named."""
    resetquorumlog: bool = False
    """If the log is damaged, make it anew from what this node has stored; else no effect. Where the log is among
    several nodes this one waits without its part of it until the cluster begins another log."""
    forcequorum: tuple[str, ...] = ()
    """Go on with these nodes alone, by force: the quorum is a majority of them from now on. Empty: as always."""
    nogroupinfoevtlogging: bool = False
    """Nothing goes into the service log when groups come online or go offline; the history of the cluster has it."""
    norepevtlogging: bool = False
    """What the original keeps back with it, a node's own event log, is sent to nobody here anyway."""

    @property
    def without_effect(self) -> tuple[str, ...]:
        """Switches that are understood and change nothing, and why, in sentences."""
        return (NOTHING_TO_KEEP_BACK,) if self.norepevtlogging else ()

    @property
    def watches_only(self) -> str:
        """The switch that keeps this node from taking part; empty if none does."""
        return "noquorumlogging" if self.noquorumlogging else "fixquorum" if self.fixquorum else ""

    def validate(self) -> None:
        """Raises ClusterError(``switch-refused``) for switches that contradict each other."""
        if self.resetquorumlog and self.forcequorum:
            raise ClusterError(
                "switch-refused", "/forcequorum goes on with a good log, and /resetquorumlog is for a damaged one"
            )
        if self.watches_only and (self.forcequorum or self.resetquorumlog):
            other = "forcequorum" if self.forcequorum else "resetquorumlog"
            raise ClusterError(
                "switch-refused", f"/{self.watches_only} changes nothing, and /{other} does; give one of the two"
            )


ABBREVIATIONS: Final = {
    "fq": "fixquorum",
    "rq": "resetquorumlog",
    "ng": "nogroupinfoevtlogging",
    "nq": "noquorumlogging",
    "fo": "forcequorum",
}
"""Of Windows Server 2003; fixed words."""

GROUP_EVENTS: Final = frozenset({"group.online", "group.offline", "group.partially_online"})

NOTHING_TO_KEEP_BACK: Final = (
    "/norepevtlogging changes nothing: no node sends its service log to others here. The history of the cluster is made"
    " by each node from the same log; /nogroupinfoevtlogging and /loglevel bound what a node writes into its own log"
)


def spelled_out(words: list[str]) -> list[str]:
    """The words of a command line with ``/fq`` and ``/fixquorum`` written as options of this program."""
    found = []
    for word in words:
        name, colon, rest = word.lstrip("/-").partition(":")
        full = ABBREVIATIONS.get(name.casefold(), name.casefold())
        known = full in Switches.__dataclass_fields__ or full in ("debug", "loglevel")
        if not word.startswith(("/", "-")) or not known:
            found.append(word)
            continue
        found.append(f"--{full}")
        if colon:
            found.append(rest)
    return found
