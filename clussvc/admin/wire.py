"""What both ends of the administration agree on: object names, limits, and the shape of every answer.

An answer is always a mapping: ``{"ok": value, "notes": [...]}`` or ``{"report": {...}}``. Refusals travel as values,
unchanged; the Pyro level carries no exceptions of ours, so nothing has to be recreated from text at the other end.
"""

from __future__ import annotations

OBJECT_NAMES = (
    "Cluster",
    "Node",
    "Group",
    "Resource",
    "ResourceType",
    "Network",
    "NetInterface",
    "Fence",
    "EventStream",
    "Nlb",
)
"""The Pyro object ids under which the servants are registered."""

SERIALIZER = "json"
SERIALIZER_ID = 3
"""Pyro's number for JSON. The other serializers are never decoded here."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Either direction. The longest honest answer, the status of 8000 resources, is about 2 MiB."""

DEFAULT_SOCKET = "/run/clussvc/admin.sock"
POLL_WAIT_MS_MAX = 30_000
"""The longest an event poll is held open."""
POLL_EVENTS_MAX = 1_000

CHANGES_MAX = 500
"""Changes in one ``Cluster.change_many``. Applying an entry holds the log up: these take some 50 ms with a thousand
resources in the cluster, and the followers look for another leader after 300 ms."""
