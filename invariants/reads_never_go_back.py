"""Two queries, the second sent after the first was answered: the second never reflects less of the log. Not even
when the process died, or another node took the lead, between the two."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED, Query


class Check(Invariant):
    sentence = (
        "For all queries sent after another was answered, the log index that they reflect is never smaller, always."
    )
    canary = "forgets_how_far_it_was"

    def finished(self) -> None:
        places = self.run.places
        by_group: dict[int, list[Query]] = {}
        for query in self.run.ledger.queries:
            if query.state == ACKED and query.index >= 0:
                by_group.setdefault(places.group_of(query.account), []).append(query)
        for answered in by_group.values():
            self._judge(answered)

    def _judge(self, answered: list[Query]) -> None:
        """Queries of one group."""
        answered.sort(key=lambda query: (query.answered_ns, query.number))
        by_sending = sorted(answered, key=lambda query: (query.sent_ns, query.number))
        seen, greatest = 0, -1
        who: Query | None = None
        for query in by_sending:
            while seen < len(answered) and answered[seen].answered_ns < query.sent_ns:
                if answered[seen].index > greatest:
                    greatest, who = answered[seen].index, answered[seen]
                seen += 1
            if who is not None and not self.holds(query.index >= greatest):
                self.fail(
                    f"{query.describe()} reflects index {query.index}, {who.describe()} had shown {greatest} before it was sent"
                )
