"""What the node can do for a client, whatever protocol the client speaks.

The front ends (`front_v1`, `front_v2`) decode requests into these calls and encode what `done` is given. Every
`done` is called exactly once, in this step or a later one, with the answer or with Refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from unimeter.config import PARTITIONS, NodeConfig
from unimeter.core.catalog import Definition, Metric, encode_delete, encode_put
from unimeter.core.flow import Flow
from unimeter.core.group import Group, Outcome
from unimeter.core.queries import Answer, Reads
from unimeter.core.refusal import Refused, unknown_metric
from unimeter.kernels import layout
from unimeter.kernels.api import Alert, Event, Kernels, QuerySpec, Row

TIME_MAX = 2**63 - 1
ACCOUNT_MAX = 2**64 - 1
Account = int | bytes
T = TypeVar("T")
Done = Callable[[T | Refused], None]


@dataclass(frozen=True)
class Usage:
    """The answer to a usage query."""

    metric: Metric
    start: int  # ns
    end: int
    group: int
    index: int  # log index that it reflects
    rows: list[Row]


@dataclass(frozen=True)
class Status:
    node_id: int
    journal_bytes: int
    segments: int
    series: int
    uptime_ns: int
    term: int
    applied_index: int
    events: int


class Service:
    def __init__(self, groups: Sequence[Group], reads: Sequence[Reads], kernels: Kernels, config: NodeConfig) -> None:
        self.groups = groups
        self.reads = reads
        self.config = config
        self._kernels = kernels
        self.wall_ns = 0  # of the current step
        self.status: Callable[[], Status] = _no_status
        self.refuse_writes: Callable[[int], Refused | None] = lambda _bytes: None

    def group_of(self, account: Account) -> int:
        partition = account if isinstance(account, int) else self._kernels.hash64(account)
        return partition % PARTITIONS % len(self.groups)

    def metric(self, code: str) -> Metric:
        metric = self.groups[0].catalog.get(code)
        if metric is None:
            raise unknown_metric(code)
        return metric

    def metrics(self) -> list[Metric]:
        return self.groups[0].catalog.alive()

    # ---- metrics: one catalog entry in every group; answered when all have applied it ----

    def put_metric(self, definition: Definition, done: Done[tuple[Metric, bool]]) -> None:
        planned = self.groups[0].catalog.plan_put(definition)
        busy = any(group.pending_control or group.in_log() for group in self.groups)
        if not busy and self.groups[0].catalog.get(definition.code) == planned:
            done((planned, False))
            return

        def finish(outcome: Outcome) -> None:
            assert outcome is not None
            done(outcome)

        self._propose(encode_put(definition), finish)

    def delete_metric(self, code: str, done: Done[None]) -> None:
        def finish(outcome: Outcome) -> None:
            done(outcome if isinstance(outcome, Refused) else None)

        self._propose(encode_delete(code), finish)

    def _propose(self, body: bytes, finish: Callable[[Outcome], None]) -> None:
        refusal = self.refuse_writes(len(body))
        if refusal is not None:
            raise refusal
        missing = len(self.groups)

        def applied(outcome: Outcome) -> None:
            nonlocal missing
            missing -= 1
            if missing == 0:
                finish(outcome)

        for group in self.groups:
            group.propose(layout.UM_ENTRY_CATALOG, body, applied)

    # ---- reads ----

    def usage(
        self,
        account: Account,
        code: str,
        period: tuple[int, int] | None,
        filters: Mapping[str, Sequence[bytes]],
        group_by: Sequence[str],
        done: Done[Usage],
    ) -> None:
        """period: [start, end) in ns, or None for the metric's current one. Raises Refused."""
        self.metric(code)
        number = self.group_of(account)
        group, reads = self.groups[number], self.reads[number]
        wall_ns = self.wall_ns

        def run() -> Flow[None] | None:
            # the metric is looked up again: it may have changed while the read waited
            try:
                metric = self.metric(code)
                start, end = self.current_period(metric, wall_ns) if period is None else _clip(period)
                spec = QuerySpec(
                    account,
                    metric.id,
                    start,
                    end,
                    tuple(metric.dimension_number(key) for key in group_by),
                    tuple((metric.dimension_number(key), tuple(values)) for key, values in filters.items()),
                )
            except Refused as refusal:
                done(refusal)
                return None

            def answer(found: Answer) -> None:
                done(Usage(metric, start, end, group.number, found.index, found.rows))

            return reads.usage(spec, answer, done)

        reads.admit(run)

    def current_period(self, metric: Metric, wall_ns: int) -> tuple[int, int]:
        return self._kernels.period_bounds(metric.definition.period, metric.definition.billing_day, max(0, wall_ns))

    def events(
        self,
        account: Account,
        since: int,
        until: int,
        code: str | None,
        after: int,
        limit: int,
        done: Done[list[Event]],
    ) -> None:
        """since <= time <= until. Raises Refused."""
        metric = None if code is None else self.metric(code).id
        number = self.group_of(account)
        reads = self.reads[number]
        bound = min(max(1, limit), self.config.events_list_max)
        since, until = min(max(0, since), TIME_MAX), min(until, TIME_MAX - 1)
        after = min(max(0, after), TIME_MAX)
        reads.admit(lambda: reads.events(account, since, until, metric, after, bound, done, done))

    def alerts(self, since: int, account: Account | None, limit: int, done: Done[list[Alert]]) -> None:
        """Alerts numbered above `since`, oldest first."""
        group = self.groups[0 if account is None else self.group_of(account)]
        bound = min(max(1, limit), self.config.alerts_list_max)

        def run() -> None:
            done(group.state.alerts(since, account, bound))

        self.reads[group.number].admit(run)

    def metric_of(self, number: int) -> Metric:
        """By id, also of a deleted metric."""
        return self.groups[0].catalog.metrics[number]


def _no_status() -> Status:
    raise AssertionError("the node sets this before it serves")


def _clip(period: tuple[int, int]) -> tuple[int, int]:
    start, end = period
    if start > end:
        raise Refused(
            "bad_request", f"the range starts at {start} and ends before, at {end}", "swap them; `end` is exclusive"
        )
    return min(max(0, start), TIME_MAX), min(max(0, end), TIME_MAX)
