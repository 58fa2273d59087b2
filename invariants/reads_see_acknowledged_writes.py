"""Linearizability: a query's answer is the oracle's at one place of the log, not before what anyone had been told
when the query was sent (nor what an earlier query had shown), not after what was sent later."""

from __future__ import annotations

from functools import cache

from unimeter.sim import oracle, periods
from unimeter.sim.events import Stored
from unimeter.sim.invariant import Invariant
from unimeter.sim.ledger import NEVER_NS, Series, added_at
from unimeter.sim.requests import ACKED, Query


class Check(Invariant):
    sentence = "For all queries, the answer is always the oracle's at a place of the log between what was known and what was sent."
    canary = "answers_from_the_past"

    def finished(self) -> None:
        ledger = self.run.ledger
        order = ledger.order()
        series = Series(ledger, self.run.metrics)
        since = cache(lambda metric_id, group: added_at(metrics[metric_id], ledger, group))
        metrics = {id(metric): metric for metric in self.run.metrics}
        for query in ledger.queries:
            if query.final or query.state != ACKED or self.run.misled(query.sent_ns, query.answered_ns):
                continue
            group = ledger.places.group_of(query.account)
            floor, ceiling = order.floor(group, query.sent_ns), order.ceiling(group, query.answered_ns)
            events = series.of(query.account, query.metric)
            difference = ""
            for start, end in self._spans(query):
                added = since(id(query.metric), group)
                question = oracle.Question(query.metric, start, end, query.filters, query.group_by, added)
                difference = _compare(question, query, events, floor, ceiling)
                if not difference:
                    break
            if not self.holds(not difference):
                self.fail(
                    f"{query.describe()} on {query.account!r} {query.metric.code} [{query.start}, {query.end}) "
                    f"filters {query.filters} by {query.group_by}, sent {query.sent_ns}, answered {query.answered_ns}: {difference} "
                    f"(places {floor} to {ceiling})"
                )

    def _spans(self, query: Query) -> list[tuple[int, int]]:
        """The range asked for; for `current` in v1, whose answer does not name it, any that was current."""
        if query.start is not None and query.end is not None:
            return [(query.start, query.end)]
        metric = query.metric
        dates = [date for host in self.run.cluster.hosts for date in host.wall.dates(query.sent_ns, query.answered_ns)]
        return sorted({periods.bounds(metric.period, metric.billing_day, date) for date in dates})


def _compare(question: oracle.Question, query: Query, events: list[Stored], floor: int, ceiling: int) -> str:
    """ "" if some place fits, otherwise what differs at the earliest."""
    found = oracle.Answer(question)
    later = []
    for event in events:
        if event.seq <= floor:
            found.add(event)
        elif event.seq <= min(ceiling, NEVER_NS):
            later.append(event)
    first = difference = found.differs(query.rows)
    for event in later:
        if not difference:
            return ""
        if found.add(event):
            difference = found.differs(query.rows)
    return first if difference else ""
