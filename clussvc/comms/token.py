"""The one-time join token: everything a new machine needs to find and to trust the cluster, in one word.

``clj1-`` and base64 of a small JSON object with a checksum. The secret proves the right to join, once; the fingerprint
of the authority's certificate lets the new machine be sure that it talks to the cluster before it sends the secret. The
cluster keeps only a hash of the secret and checks the expiry on its own; the time is in the token as well so that the
new machine can say at once that it comes too late.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import zlib
from dataclasses import dataclass

from clussvc.model.errors import ClusterError

PREFIX = "clj1-"
TOKEN_LENGTH_MAX = 4_096


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """A token in its parts. ``contacts`` are (address, port) of members that can be asked."""

    cluster: str
    contacts: tuple[tuple[str, int], ...]
    authority_sha256: str
    id: str
    secret: str
    expires_ms: int
    """Wall clock, milliseconds since 1970."""


def new_secret() -> tuple[str, str]:
    """An identifier and a secret for a new token."""
    return secrets.token_hex(8), secrets.token_urlsafe(32)


def secret_sha256(secret: str) -> str:
    """What the cluster keeps of the secret. The secret has 256 random bits, so a plain hash cannot be searched."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_token(token: JoinToken) -> str:
    """The token as one word."""
    content = json.dumps(
        [token.cluster, token.contacts, token.authority_sha256, token.id, token.secret, token.expires_ms],
        separators=(",", ":"),
    ).encode()
    checked = zlib.crc32(content).to_bytes(4, "big") + content
    return PREFIX + base64.urlsafe_b64encode(checked).decode().rstrip("=")


def parse_token(text: str) -> JoinToken:
    """The parts of a token.

    Raises ClusterError(``bad-token``), which says that it was cut off or changed while it was copied.
    """
    # Terminals and mail programs break long words; a token holds no blanks of its own.
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > TOKEN_LENGTH_MAX:
        raise ClusterError(
            "bad-token", f"this is not a join token; tokens begin with {PREFIX} and come from 'cluster /addnodes:NAME'"
        )
    try:
        checked = base64.urlsafe_b64decode(text.removeprefix(PREFIX) + "=" * (-len(text.removeprefix(PREFIX)) % 4))
        if len(checked) < 4 or zlib.crc32(checked[4:]) != int.from_bytes(checked[:4], "big"):
            raise ValueError("checksum")
        cluster, contacts, authority, token_id, secret, expires_ms = json.loads(checked[4:])
        token = JoinToken(
            cluster=str(cluster),
            contacts=tuple((str(address), int(port)) for address, port in contacts),
            authority_sha256=str(authority),
            id=str(token_id),
            secret=str(secret),
            expires_ms=int(expires_ms),
        )
        if not token.contacts or not all(0 < port < 65_536 for _, port in token.contacts):
            raise ValueError("contacts")
        return token
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise ClusterError(
            "bad-token", "the join token is damaged; copy it again, whole and in one line, or make a new one"
        ) from error
