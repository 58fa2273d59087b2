"""What the node can do for a client, whatever protocol the client speaks.

What concerns one account is done by the leader of its group: if that is another node, Elsewhere says which. What concerns
all groups (metrics, everybody's alerts) is done from here, by asking the other leaders.

The front ends (`front_v1`, `front_v2`) decode requests into these calls and encode what `done` is given. Every
`done` is called exactly once, in this step or a later one, with the answer or with Refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from unimeter.config import PARTITIONS, NodeConfig
from unimeter.core.catalog import Catalog, Definition, Metric, encode_delete, encode_put
from unimeter.core.flow import Flow
from unimeter.core.group import Group
from unimeter.core.queries import Answer, Reads
from unimeter.core.raft.state import Role
from unimeter.core.refusal import Elsewhere, Refused, no_leader, unknown_metric
from unimeter.core.topology import Topology
from unimeter.kernels.api import Alert, Event, Kernels, QuerySpec, Row

TIME_MAX: Final = 2**63 - 1
ACCOUNT_MAX: Final = 2**64 - 1
Account = int | bytes
T = TypeVar("T")
Done = Callable[[T | Refused], None]
GroupAlert = tuple[int, Alert]  # (group, alert): numbers are per group


class Usage:
    """The answer to a usage query."""

    __slots__ = ("end", "group", "index", "metric", "rows", "start")

    def __init__(self, metric: Metric, start: int, end: int, group: int, index: int, rows: list[Row]) -> None:
        self.metric = metric
        self.start = start  # ns
        self.end = end
        self.group = group
        self.index = index  # log index that it reflects
        self.rows = rows


@dataclass(frozen=True)
class Status:
    node_id: int
    journal_bytes: int
    segments: int
    series: int
    uptime_ns: int
    events: int


class Service:
    def __init__(
        self,
        groups: list[Group],
        reads: list[Reads],
        topology: Topology,
        kernels: Kernels,
        config: NodeConfig,
    ) -> None:
        self.groups = groups
        self.reads = reads
        self.topology = topology
        self.config = config
        self._kernels = kernels
        self._spare: Catalog | None = None
        self._newest: Catalog | None = None  # until a catalog changes
        self.wall_ns = 0  # of the current step
        self.status: Callable[[], Status] = _no_status
        self.refuse_writes: Callable[[int], Refused | None] = lambda _bytes: None
        self.change_catalog: Callable[[bytes, Done[dict[str, Any]]], None] = _no_change
        self.call: Callable[[int, str, dict[str, Any], Done[dict[str, Any]]], None] = _no_call

    def group_of(self, account: Account) -> int:
        partition = account if isinstance(account, int) else self._kernels.hash64(account)
        return partition % PARTITIONS % len(self.groups)

    def lead(self, number: int) -> None:
        """Raises Elsewhere or Refused unless this node leads the group."""
        if self.groups[number].raft.role is Role.LEADER:
            return
        leader = self.topology.leader(number)
        address = self.topology.address(leader)
        if leader == self.config.node_id or not address:
            raise no_leader(number)
        raise Elsewhere(number, address)

    @property
    def catalog(self) -> Catalog:
        """The newest that any group of this node has: changes reach the groups one after the other."""
        newest = self._newest
        if newest is None:
            newest = max((group.catalog for group in self.groups), key=lambda catalog: catalog.version)
            if self._spare is not None and self._spare.version > newest.version:
                newest = self._spare
            self._newest = newest
        return newest

    def forget_newest(self) -> None:
        """A catalog may have changed."""
        self._newest = None

    def take_catalog(self, dump: bytes) -> int:
        """Use that catalog until a group of this node has a newer one. Returns its version."""
        self._spare = Catalog(self._kernels)
        self._spare.load(dump)
        self.forget_newest()
        return self._spare.version

    def metric(self, code: str) -> Metric:
        metric = self.catalog.get(code)
        if metric is None:
            raise unknown_metric(code)
        return metric

    def metrics(self, done: Done[list[Metric]]) -> None:
        """All metrics, as group 0's leader knows them."""

        def finish(answer: dict[str, Any] | Refused) -> None:
            if isinstance(answer, Refused):
                done(answer)
                return
            catalog = Catalog(self._kernels)
            catalog.load(answer["catalog"])
            done(catalog.alive())

        if self.groups[0].leading:
            self.reads[0].admit(lambda: done(self.groups[0].catalog.alive()), done)
        else:
            self.call(0, "metrics", {}, finish)

    def own_metrics(self, done: Done[dict[str, Any]]) -> None:
        """The catalog of group 0, which this node leads, for another node."""
        self.reads[0].admit(lambda: done({"catalog": self.groups[0].catalog.dump()}), done)

    # ---- metrics: ordered by group 0; answered when all groups have applied it ----

    def put_metric(self, definition: Definition, done: Done[tuple[int, bool]]) -> None:
        """`done` gets the metric's id and whether it is new. Raises Refused."""
        definition.validate()

        def finish(answer: dict[str, Any] | Refused) -> None:
            done(answer if isinstance(answer, Refused) else (answer["id"], answer["created"]))

        self._change(encode_put(definition), finish)

    def delete_metric(self, code: str, done: Done[None]) -> None:
        self._change(encode_delete(code), lambda answer: done(answer if isinstance(answer, Refused) else None))

    def _change(self, body: bytes, finish: Done[dict[str, Any]]) -> None:
        refusal = self.refuse_writes(len(body))
        if refusal is not None:
            raise refusal.with_traceback(None)  # it is shared: it must not hold on to who raised it before
        self.change_catalog(body, finish)

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
        number = self.group_of(account)
        self.lead(number)
        self.metric(code)
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

        reads.admit(run, done)

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
        number = self.group_of(account)
        self.lead(number)
        metric = None if code is None else self.metric(code).id
        reads = self.reads[number]
        bound = min(max(1, limit), self.config.events_list_max)
        since, until = min(max(0, since), TIME_MAX), min(until, TIME_MAX - 1)
        after = min(max(0, after), TIME_MAX)
        reads.admit(lambda: reads.events(account, since, until, metric, after, bound, done, done), done)

    def alerts(
        self, since: Sequence[int], account: Account | None, group: int | None, limit: int, done: Done[list[GroupAlert]]
    ) -> None:
        """Alerts numbered above since[group], by group and number; of one account, of one group, or of all."""
        bound = min(max(1, limit), self.config.alerts_list_max)
        if account is not None:
            group = self.group_of(account)
        if group is not None:
            self.lead(group)
            self.own_alerts(group, since[group], account, bound, done)
            return
        found: list[GroupAlert] = []
        missing = len(self.groups)
        failed = False

        def one(number: int, answer: dict[str, Any] | Refused) -> None:
            nonlocal missing, failed
            if failed:
                return
            if isinstance(answer, Refused):
                failed = True
                done(answer)
                return
            found.extend((number, Alert(*fields)) for fields in answer["alerts"])
            missing -= 1
            if missing == 0:
                found.sort(key=lambda pair: (pair[1].stamp_ns, pair[0], pair[1].number))
                done(found[:bound])

        if len(self.groups) == 1:
            self.lead(0)
            self.own_alerts(0, since[0], None, bound, done)
            return
        for number in range(len(self.groups)):
            body = {"since": since[number], "limit": bound}
            self.call(number, "alerts", body, partial(one, number))

    def own_alerts(
        self, number: int, since: int, account: Account | None, limit: int, done: Done[list[GroupAlert]]
    ) -> None:
        """Alerts of a group that this node leads."""
        state = self.groups[number].state

        def run() -> None:
            done([(number, alert) for alert in state.alerts(since, account, limit)])

        self.reads[number].admit(run, done)

    def metric_of(self, number: int) -> Metric:
        """By id, also of a deleted metric."""
        return self.catalog.metrics[number]


def _no_status() -> Status:
    raise AssertionError("the node sets this before it serves")


def _no_change(_body: bytes, _done: Done[dict[str, Any]]) -> None:
    raise AssertionError("the node sets this before it serves")


def _no_call(_group: int, _what: str, _body: dict[str, Any], _done: Done[dict[str, Any]]) -> None:
    raise AssertionError("the node sets this before it serves")


def _clip(period: tuple[int, int]) -> tuple[int, int]:
    start, end = period
    if start > end:
        raise Refused(
            "bad_request", f"the range starts at {start} and ends before, at {end}", "swap them; `end` is exclusive"
        )
    return min(max(0, start), TIME_MAX), min(max(0, end), TIME_MAX)
