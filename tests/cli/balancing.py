"""What the host of a load-balanced cluster on NODE1 answers, for the stories of ``nlb``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_START_MS: Final = 1_767_225_600_000
_RULES: Final = [
    {
        "title": "All 80-80 TCP",
        "state": "draining",
        "because": "It is bound to resource 'Web', which is not online on this node.",
        "weight": 0,
        "buckets": {"2": 60},
    },
]


def _status(default: int, hosts: list[Mapping[str, Any]], findings: list[str]) -> Mapping[str, Mapping[str, Any]]:
    return {
        "status": {
            "default_host": default,
            "hosts": hosts,
            "rules": _RULES,
            "packets": {
                "accepted": 120,
                "dropped": 240,
                "by_reason": {"not-ip": 17, "bucket-owner": 120, "bucket-of-another": 240},
                "by_rule": {
                    "All 80-80 TCP": {"accepted": 115, "dropped": 240},
                    "Default": {"accepted": 5, "dropped": 0},
                },
            },
            "statistics": {"connections": 7, "descriptors": 3},
            "events": [
                {"at_ms": _START_MS, "id": 5, "text": "Cluster mode started with host ID 1."},
                {"at_ms": _START_MS + 812, "id": 29, "text": "Host 1 converged as DEFAULT host with host(s) 1,2."},
            ],
            "history": [
                {"at_ms": _START_MS, "state": "converging", "because": "Host 1 joins."},
                {"at_ms": _START_MS + 812, "state": "converged", "because": ""},
            ],
            "findings": findings,
        },
        "connections": {
            "count": 1,
            "connections": [
                {"protocol": "TCP", "client": "10.0.0.99:40001", "server": "10.0.0.200:80", "state": "open"}
            ],
        },
        "explain": {
            "sentences": ["Host 2 (NODE2) takes it: it owns bucket 17 of port rule 'All 80-80 TCP'."],
            "host": 2,
            "bucket": 17,
        },
    }


def _host(number: int, state: str, members: list[int], **more: object) -> Mapping[str, Any]:
    return {"id": number, "state": state, "members": members, "entered": 1, "because": "", **more}


BALANCING: Final[Mapping[str, dict[str, Mapping[str, Any]]]] = {
    "absent": {},
    "converged": dict(_status(1, [_host(1, "default", [1, 2]), _host(2, "converged", [1, 2])], [])),
    "converging": dict(
        _status(
            1,
            [
                _host(1, "converging", [1, 2], because="Host 2 has another number of port rules."),
                _host(2, "draining", [1, 2]),
            ],
            ["Host 2 has another number of port rules; its configuration is behind."],
        )
    ),
}
