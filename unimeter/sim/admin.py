"""Who defines metrics: creates them, and now and then changes or replaces one that is at rest.

A definition is changed only while no request that names the metric is under way (`Metric.changing` keeps new ones
off, a metric with requests that will never be answered is left alone). So for every event it is known under which
definition it was counted, without asking the node. The last definition wins: one that was sent again over a new
connection could come late and win over its successor, so a metric is left alone for as long as that can happen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimeter.sim import wire1, wire2
from unimeter.sim.behaviours import Base, Part
from unimeter.sim.events import Metric, Slot, Threshold
from unimeter.sim.line import AnyResponse
from unimeter.sim.requests import ACKED, Control, Request
from unimeter.sim.space import LATER_DIMENSION
from unimeter.sim.world import MS

REST_NS: Final = 100 * MS  # longer than anything is on its way to a node


class Admin(Base):
    """Creates its part of the metrics through one protocol; with `changes`, also changes all of them (v2)."""

    def __init__(self, part: Part, protocol: int, metrics: list[Metric], changes: int, now: Callable[[], int]) -> None:
        super().__init__(part)
        self.protocol = protocol
        self.to_create = list(metrics)
        self.budget = len(metrics) + changes
        self._then: dict[int, Callable[[], None]] = {}
        self._now = now
        self._touched: dict[str, int] = {}  # code -> when its definition was last answered
        self._renamed = 0

    def hurry(self, budget: int) -> None:
        self.budget = len(self.to_create)

    def make(self) -> Request | None:
        if self.to_create:
            return self._create(self.to_create.pop(0))
        idle = [metric for metric in self.space.usable(passing=True) if self._is_idle(metric)]
        if not idle:
            return None
        metric = self.prng.choice(idle)
        kind = self.prng.below(4)
        if kind == 0 and LATER_DIMENSION not in metric.dimensions:
            return self._add_dimension(metric)
        if kind == 1 and metric.thresholds:
            return self._replace_threshold(metric)
        if metric.passing:
            return self._delete(metric)
        return self._create(metric)  # the same definition again is ok

    def _is_idle(self, metric: Metric) -> bool:
        rested = self._now() - self._touched.get(metric.code, 0) >= REST_NS
        return rested and not metric.unsettled and metric.outstanding == 0

    # ---- what it sends ----

    def _put(self, metric: Metric, then: Callable[[int], None]) -> Control:
        """Create or update; `then` is told when the request was first sent."""
        request = Control(self.number(), self.name, self.protocol, [], body=metric.body())
        request.type = wire2.METRIC_CREATE
        if self.protocol == 1:
            request.type, request.payload = wire1.METRIC_PUT, wire1.metric_payload(metric)
        metric.changing = True

        def done() -> None:
            metric.changing = False
            self._touched[metric.code] = self._now()
            then(request.first_sent_ns)

        self._then[request.number] = done
        return request

    def _create(self, metric: Metric) -> Control:
        def known(sent_ns: int) -> None:
            if not metric.known:
                metric.known, metric.born_ns = True, sent_ns

        return self._put(metric, known)

    def _add_dimension(self, metric: Metric) -> Control:
        metric.dimensions.append(LATER_DIMENSION)

        def added(sent_ns: int) -> None:
            metric.added_dimension_at[LATER_DIMENSION] = sent_ns

        return self._put(metric, added)

    def _replace_threshold(self, metric: Metric) -> Control:
        """Another value, under the old name or a new one, is a new threshold; taking it back makes a third."""
        old = self.prng.choice(metric.thresholds)
        self._renamed += 1
        name = old.name if self.prng.chance(0.5) else f"t{self._renamed}"
        value = max(1, old.value + self.prng.between(-2, 2) * max(1, old.value // 4))
        new = Threshold(name, value if value != old.value else value + 1, old.recurring)
        metric.thresholds[metric.thresholds.index(old)] = new

        def replaced(sent_ns: int) -> None:
            for slot in metric.slots:
                if slot.threshold == old and slot.until_ns is None:
                    slot.until_ns = sent_ns
            metric.slots.append(Slot(new, sent_ns))

        return self._put(metric, replaced)

    def _delete(self, metric: Metric) -> Control:
        metric.changing = True
        request = Control(self.number(), self.name, 2, [], type=wire2.METRIC_DELETE, body={"code": metric.code})

        def gone() -> None:
            metric.alive = False
            metric.died_ns = request.first_sent_ns
            self._touched[metric.code] = self._now()
            self.space.metrics.append(Metric(metric.code, metric.aggregation, passing=True, period=metric.period))
            self.to_create.append(self.space.metrics[-1])
            self.budget += 1

        self._then[request.number] = gone
        return request

    # ---- what it is told ----

    def answered(self, request: Request, response: AnyResponse) -> str:
        self._then.pop(request.number, lambda: None)()
        return ACKED

    def lost(self, request: Request) -> None:
        """Refused. A deletion that was sent twice finds nothing the second time: it is done."""
        assert isinstance(request, Control)
        if request.type == wire2.METRIC_DELETE and request.error == "unknown_metric" and request.attempts > 1:
            self._then.pop(request.number)()
