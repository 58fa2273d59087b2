"""Two queries, the second sent after the first was answered: the second never reflects less of the log. Not even
when the process died and came back between the two."""

from __future__ import annotations

from unimeter.sim.invariant import Invariant
from unimeter.sim.requests import ACKED


class Check(Invariant):
    sentence = (
        "For all queries sent after another was answered, the log index that they reflect is never smaller, always."
    )
    canary = "forgets_how_far_it_was"

    def finished(self) -> None:
        answered = [q for q in self.run.ledger.queries if q.state == ACKED and q.index >= 0]
        answered.sort(key=lambda query: (query.answered_ns, query.number))
        by_sending = sorted(answered, key=lambda query: (query.sent_ns, query.number))
        seen, greatest, who = 0, -1, ""
        for query in by_sending:
            while seen < len(answered) and answered[seen].answered_ns < query.sent_ns:
                if answered[seen].index > greatest:
                    greatest, who = answered[seen].index, answered[seen].describe()
                seen += 1
            if greatest >= 0:
                self.check(
                    query.index >= greatest,
                    f"{query.describe()} reflects index {query.index}, {who} had shown {greatest} before it was sent",
                )
