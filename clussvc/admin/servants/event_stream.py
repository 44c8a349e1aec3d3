"""The object EventStream: the history of the cluster, read with a cursor."""

from __future__ import annotations

from clussvc.admin import dto
from clussvc.admin.dto import Plain
from clussvc.admin.servant import Refused, Servant, query
from clussvc.admin.wire import POLL_EVENTS_MAX, POLL_WAIT_MS_MAX
from clussvc.model import reports


class EventStreamServant(Servant):
    """The event history, read with a cursor, so that nothing is lost or seen twice across reconnects."""

    @query()
    def poll(self, cursor: int, limit: int, wait_ms: int) -> Plain:
        """Events after ``cursor``, oldest first; held open for ``wait_ms`` (at most 30 s) while there are none.

        The answer's ``cursor`` is the one to ask with next.
        """
        if not 1 <= limit <= POLL_EVENTS_MAX or cursor < 0 or wait_ms < 0:
            raise Refused(reports.bad_argument(f"Ask for 1 to {POLL_EVENTS_MAX} events after a cursor of 0 or more."))
        entries = self.access.history(after=cursor, limit=limit, wait_ms=min(wait_ms, POLL_WAIT_MS_MAX))
        return {
            "events": [dto.event_of(entry) for entry in entries],
            "cursor": entries[-1].cursor if entries else cursor,
        }

    @query()
    def newest(self, limit: int) -> Plain:
        """The newest events, oldest of them first, with the cursor to go on from."""
        if not 1 <= limit <= POLL_EVENTS_MAX:
            raise Refused(reports.bad_argument(f"Ask for 1 to {POLL_EVENTS_MAX} events."))
        index = self.access.view().index
        span = limit
        while True:
            # A cursor is a log index times 1000; entries without events make a few doublings necessary.
            after = max(0, index - span) * 1_000
            entries = self.access.history(after=after, limit=POLL_EVENTS_MAX, wait_ms=0)
            if len(entries) >= limit or after == 0:
                break
            span *= 4
        while len(entries) >= POLL_EVENTS_MAX:
            further = self.access.history(after=entries[-1].cursor, limit=POLL_EVENTS_MAX, wait_ms=0)
            if not further:
                break
            entries = [*entries, *further][-POLL_EVENTS_MAX:]
            if len(further) < POLL_EVENTS_MAX:
                break
        shown = entries[-limit:]
        return {"events": [dto.event_of(entry) for entry in shown], "cursor": shown[-1].cursor if shown else 0}
