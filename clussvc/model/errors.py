"""The one exception type of the product: the world failed, or the other side broke a rule.

Three kinds of trouble exist and only one of them is an exception (see the architecture page):

* a broken invariant is an ``assert`` and ends the process, whose peers recover;
* a refusal is a value, a :class:`~clussvc.model.reports.Report`;
* the world failing (a file, a socket, a peer) is a :class:`ClusterError`.
"""

from __future__ import annotations


class ClusterError(Exception):
    """Something outside this process failed, or was damaged, or broke the protocol.

    ``code`` is a stable word for programs (``journal-damaged``); ``message`` names the object and the way out, for
    people; ``retryable`` says whether the same call may succeed later without anybody mending anything; ``remote``
    says that the other side is at fault.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False, remote: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable
        self.remote = remote

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"
