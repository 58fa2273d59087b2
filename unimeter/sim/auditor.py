"""The client that comes when all is calm, and asks for everything: the lists first, then every total.

The lists are the log; the totals must follow from it. Each series is asked for in every month in which it has
events, split by all of its dimensions, and in other ways; after a restart the lists again, and some series as a whole.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack

from unimeter.sim import periods, wire2
from unimeter.sim.behaviours import Base, Part
from unimeter.sim.events import MONTH, Account, Metric
from unimeter.sim.ledger import Ledger, Series
from unimeter.sim.line import AnyResponse
from unimeter.sim.requests import ACKED, Control, EventList, Query, Request

EVER: Final = (0, 2**63 - 1)


class Auditor(Base):
    """Works through a list of read requests; what cannot be answered now is asked again."""

    def __init__(self, part: Part, ledger: Ledger) -> None:
        super().__init__(part)
        self.ledger = ledger
        self.todo: list[Request] = []
        self.listed: dict[Account, list[dict[str, Any]]] = {}
        self.refusals: list[Request] = []
        self.next_alert = 0

    @property
    def finished(self) -> bool:
        return not self.todo

    def make(self) -> Request | None:
        return self.todo.pop(0)

    # ---- what to ask ----

    def ask_for_lists(self) -> None:
        self.listed, self.ledger.alerts, self.next_alert = {}, [], 0
        accounts: list[Account] = [*self.space.numeric, *self.space.texts]
        for account in accounts:
            self.listed[account] = []
            self._list(account, 0)
        for group in range(self.ledger.places.groups):
            self._alerts(group, 0)
        self.todo.append(Control(self.number(), self.name, 2, [], type=wire2.METRIC_LIST))

    def ask_for_totals(self, in_detail: bool) -> None:
        """In detail: by month and dimension, cut in the middle, and for a period; otherwise every other series as a whole."""
        series = Series(self.ledger, self.space.metrics)
        for account, metric in series.keys:
            if not metric.alive:
                continue
            events = series.of(account, metric)
            if not in_detail:
                if self.prng.chance(0.5):  # what was recovered has the same digest: a sample is enough
                    self._ask(account, metric, EVER, [])
            else:
                months = sorted({periods.bounds(MONTH, 1, event.timestamp_ns) for event in events})
                for start, end in months:
                    self._ask(account, metric, (max(0, start), end), metric.dimensions)
                middle = events[len(events) // 2].timestamp_ns
                if self.prng.chance(0.3):  # cut hours are read from the journal, which is slow to simulate
                    self._ask(account, metric, (middle, EVER[1]), metric.dimensions[:1])
                if metric.slots:
                    start, end = periods.bounds(metric.period, metric.billing_day, middle)
                    self._ask(account, metric, (max(0, start), end), [])

    def _ask(self, account: Account, metric: Metric, span: tuple[int, int], group_by: list[str]) -> None:
        self.todo.append(
            Query(
                self.number(), self.name, 2, [metric], account=account, start=span[0], end=span[1],
                group_by=list(group_by), final=True,
            )
        )  # fmt: skip

    def _list(self, account: Account, after: int) -> None:
        self.todo.append(
            EventList(self.number(), self.name, 2, [], account=account, after=after, limit=250, final=True)
        )

    def _alerts(self, group: int, since: int) -> None:
        body = {"since": since, "limit": 50}
        if self.ledger.places.groups > 1:
            body["group"] = group
        self.todo.append(Control(self.number(), self.name, 2, [], type=wire2.ALERTS_LIST, body=body))

    # ---- what is said ----

    def answered(self, request: Request, response: AnyResponse) -> str:
        super().answered(request, response)
        if isinstance(request, EventList):
            self.listed[request.account] += request.body["events"]
            if request.body["next"] is not None:
                self._list(request.account, request.body["next"])
        elif isinstance(request, Control) and request.type == wire2.METRIC_LIST:
            self.ledger.definitions.append(msgpack.unpackb(response.payload)["metrics"])
        elif isinstance(request, Control):
            found = msgpack.unpackb(response.payload)["alerts"]
            self.ledger.alerts += found
            if len(found) >= 50:
                self._alerts(request.body.get("group", 0), found[-1]["number"])
        return ACKED

    def lost(self, request: Request) -> None:
        self.refusals.append(request)
