"""At the end, when all is calm: every total of every account, metric, month and dimension value, and after a
restart once more, equals what a dict makes of the event lists."""

from __future__ import annotations

from functools import cache

from unimeter.sim import oracle
from unimeter.sim.invariant import Invariant
from unimeter.sim.ledger import Series, added_at
from unimeter.sim.requests import ACKED


class Check(Invariant):
    sentence = "For all accounts, metrics, months and dimension values, the final total always equals the oracle's."
    canary = "loses_the_last_instant"

    def finished(self) -> None:
        ledger = self.run.ledger
        series = Series(ledger, self.run.metrics)
        since = cache(lambda metric_id, group: added_at(metrics[metric_id], ledger, group))
        metrics = {id(metric): metric for metric in self.run.metrics}
        for query in ledger.queries:
            if not query.final or query.state != ACKED or self.run.misled(query.sent_ns, query.answered_ns):
                continue
            assert query.start is not None and query.end is not None
            metric = query.metric
            added = since(id(metric), ledger.places.group_of(query.account))
            question = oracle.Question(metric, query.start, query.end, query.filters, query.group_by, added)
            found = oracle.answer(question, series.of(query.account, metric))
            difference = found.differs(query.rows)
            if not self.holds(not difference):
                self.fail(
                    f"{query.account!r} {metric.code} [{query.start}, {query.end}) by {query.group_by}: {difference}"
                )
