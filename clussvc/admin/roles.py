"""Who may do what: the three roles, and how a caller's identity becomes one.

* On the node itself (Unix socket) the kernel vouches for the caller. Uid 0 and the uid that the service runs as are
  administrators; members of the group ``clussvc`` are operators; everyone else is refused.
* From elsewhere (TCP) the caller's certificate, signed by the cluster's own authority, names cluster, role and person
  in a URI: ``clussvc://CLUSTER_ID/admin/ROLE/NAME``. A node's certificate opens nothing here: nodes talk to each other
  through their own streams, so a stolen node key is not an administrator's key as well.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, unique
from urllib.parse import unquote

OPERATORS_GROUP = "clussvc"


@unique
class Role(IntEnum):
    """What a caller may do; each role may do what the smaller ones may."""

    READ_ONLY = 1
    """Look at everything, change nothing."""
    OPERATOR = 2
    """Bring online, take offline, move, pause, resume."""
    ADMINISTRATOR = 3
    """Everything."""

    @property
    def word(self) -> str:
        """As it is written in certificates and messages."""
        return self.name.lower().replace("_", "-")


def find_role(word: str) -> Role | None:
    """The role of that name, whatever the case of its letters."""
    return next((role for role in Role if role.word == word.casefold()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Somebody at the other end of a connection. ``role`` None: may do nothing; ``who`` names them in messages."""

    who: str
    role: Role | None
    local: bool = False


def caller_by_uid(uid: int, gid: int) -> Caller:
    """The role of a process on this machine, by the credentials that the kernel gives."""
    try:
        name = pwd.getpwuid(uid).pw_name
        groups = set(os.getgrouplist(name, gid))
    except (KeyError, OSError):
        name, groups = f"uid {uid}", {gid}
    if uid in (0, os.geteuid()):
        return Caller(who=name, role=Role.ADMINISTRATOR, local=True)
    return Caller(who=name, role=Role.OPERATOR if operators_gid() in groups else None, local=True)


def operators_gid() -> int | None:
    """The number of the operators' group; None: this machine has none."""
    try:
        return grp.getgrnam(OPERATORS_GROUP).gr_gid
    except KeyError:
        return None


def caller_by_certificate(certificate: Mapping[str, object] | None, cluster_id: str) -> Caller:
    """The role that a verified certificate gives, as ``ssl.SSLSocket.getpeercert`` describes it."""
    uris = subject_uris(certificate)
    for uri in uris:
        scheme, _, rest = uri.partition("://")
        parts = rest.split("/")
        if scheme != "clussvc" or len(parts) != 4 or parts[1] != "admin":
            continue
        if parts[0] != cluster_id:
            return Caller(who=f"the holder of a certificate of another cluster ({uri})", role=None)
        return Caller(who=unquote(parts[3]), role=find_role(parts[2]))
    what = f"a certificate for {uris[0]}" if uris else "a certificate without an administrator's name"
    return Caller(who=f"The holder of {what}", role=None)


def subject_uris(certificate: Mapping[str, object] | None) -> list[str]:
    """The URIs that a certificate was issued for."""
    names = (certificate or {}).get("subjectAltName", ())
    assert isinstance(names, tuple)
    return [str(value) for kind, value in names if kind == "URI"]
