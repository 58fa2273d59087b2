"""AsyncClient: `ingest` and `query`, and the little around them.

async with AsyncClient(["localhost:7001"]) as client:
    await client.metrics.create(MetricSchema(code="api_calls", agg_type=AggType.COUNT))
    await client.ingest([Event(account_id=42, metric_code="api_calls")])
    usage = await client.query(42, "api_calls", current_month())
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any

from unimeter.client import decode
from unimeter.client.batch import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, ROW_BYTES_MAX, Batch, encode_event, encode_events
from unimeter.client.connector import Connector
from unimeter.client.cursors import Since, cursors, merge
from unimeter.client.exchange import Attempt, Exchange
from unimeter.client.ingest import Lane, Outcome, conclude
from unimeter.client.protocol import Fields, Type, decode_map, encode_map, encode_request
from unimeter.client.results import Alert, IngestResult, Metric, ServerInfo, StoredEvent, Usage, UsageRow
from unimeter.client.shortcut import Shortcut
from unimeter.client.times import TIMESTAMP_MAX_NS
from unimeter.client.topology import Topology, group_of
from unimeter.client.values import Account, Event, Filters, MetricSchema, Period, account_key, metric_code
from unimeter.client.watch import Watch
from unimeter.errors import IngestError, InvalidArgument, ProtocolError, UnimeterError, UnknownMetric, Unsupported
from unimeter.kernels import load

CURRENT = "current"
PAGE_RECORDS = 1000


class AsyncClient:
    """One application's way to a Unimeter server or cluster. Safe to share between tasks of one event loop.

    `addresses` are those of any nodes of the cluster, one or more: the others are learnt from them. Each request goes
    to the node that leads the group of its account; when that node fails, to the one that takes over.

    `timeout` is the time, in seconds, within which one request or one batch must have its answer; until then it is
    sent again after lost connections and pushback. `connect_timeout` is for the first connection only.
    """

    def __init__(self, addresses: Sequence[str], *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        if not timeout > 0:
            raise InvalidArgument(f"timeout is a number of seconds above 0, not {timeout!r}")
        self.metrics = Metrics(self)
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._addresses = addresses
        self._random = random.SystemRandom()
        self._kernels = load()
        self._connector = Connector(self._kernels, addresses, self._random)
        self._silence_seconds = max(timeout / 3, 0.5)
        self._exchange = Exchange(self._connector, self._random, self._silence_seconds)
        self._lanes: dict[int, Lane] = {}

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def connect(self) -> ServerInfo:
        """Connect now, rather than with the first request. Raises ConnectionFailed after `connect_timeout` seconds."""
        loop = asyncio.get_running_loop()
        fail_fast = self._connect_timeout <= 0
        until = loop.time() + (self._timeout if fail_fast else self._connect_timeout)
        link = await self._connector.link(until, fail_fast=fail_fast)
        assert link.info is not None
        return link.info

    @property
    def is_connected(self) -> bool:
        """A server was reached, so its limits are known; it may have gone since."""
        return self._connector.info is not None

    def seconds(self, timeout: float | None) -> float:
        """The time that a call has."""
        return self._timeout if timeout is None else timeout

    def close(self) -> None:
        """Close the connections. Requests that are under way fail with ClientClosed."""
        self._connector.close()

    # ---- events ----

    async def ingest(
        self, events: Iterable[Event] | Event, *, sync: bool = True, timeout: float | None = None
    ) -> IngestResult:
        """Store events. `sync`: answered when they are durable; otherwise when they have their place in the order.

        Raises InvalidArgument before anything is sent when an event cannot be right; EventsRefused when the server
        refused some (all others are stored); IngestIncomplete when time ran out (see `retry`). Duplicates are counted.
        """
        listed = [events] if isinstance(events, Event) else list(events)
        batches = self.encode(listed)
        if not batches:
            return IngestResult()
        if not self.is_connected:
            shape = self._batch_shape()
            await self.connect()
            if self._batch_shape() != shape:
                batches = self.encode(listed)
        return await self.send_batches(batches, sync=sync, timeout=timeout)

    async def retry(self, error: IngestError, *, sync: bool = True, timeout: float | None = None) -> IngestResult:
        """Finish what an IngestIncomplete left unfinished: the same bytes again, so that nothing counts twice. The
        result is that of the unfinished batches."""
        return await self.send_batches(error.unfinished, sync=sync, timeout=timeout)

    async def send_batches(self, batches: Sequence[Batch], *, sync: bool, timeout: float | None) -> IngestResult:
        """What `ingest` does with its events once they are encoded."""
        seconds = self.seconds(timeout)
        if len(batches) == 1:  # the usual case needs no tasks
            return conclude([await self.send_batch(batches[0], sync=sync, timeout=seconds)])
        outcomes: list[Outcome] = []
        unsent: list[Batch] = []
        window = self._window()
        shares: dict[int, list[Batch]] = {}  # by group: one that is in trouble does not hold up the others
        for batch in batches:
            shares.setdefault(batch.group, []).append(batch)

        async def work(waiting: Iterator[Batch], failed: asyncio.Event) -> None:
            for batch in waiting:
                if failed.is_set():
                    unsent.append(batch)
                    continue
                outcome = await self.send_batch(batch, sync=sync, timeout=seconds)
                outcomes.append(outcome)
                if not outcome.finished:
                    failed.set()

        async with asyncio.TaskGroup() as tasks:
            for share in shares.values():
                waiting, failed = iter(share), asyncio.Event()
                for _ in range(min(len(share), window)):
                    tasks.create_task(work(waiting, failed))
        outcomes.sort(key=lambda outcome: outcome.batch.first)
        return conclude(outcomes, unsent)

    async def send_batch(self, batch: Batch, *, sync: bool = True, timeout: float | None = None) -> Outcome:
        """See one encoded batch through (what `ingest` does with each of its batches). Raises nothing."""
        seconds = self.seconds(timeout)
        lane = self._lane(batch.group)
        try:
            if batch.frame is not None:
                return await lane.resend(batch, seconds)
            return await lane.send(batch, sync, seconds)
        except UnimeterError as error:  # it has no number yet: surely not sent
            return Outcome(batch, error=error, finished=False)

    def shortcut(self) -> Shortcut:
        """For callers in other threads; `go_on` is its other way."""
        return Shortcut(self._kernels, self._connector, self._random, silence_seconds=self._silence_seconds)

    async def go_on(self, batches: Sequence[Batch], *, sync: bool, timeout: float) -> list[Outcome]:
        """With batches for which the shortcut was no way, or not to its end; their sessions are not this client's to settle."""
        return await asyncio.gather(*(self._go_on(batch, sync, timeout) for batch in batches))

    async def _go_on(self, batch: Batch, sync: bool, timeout: float) -> Outcome:
        if batch.frame is not None:
            return await self._lane(batch.group).see_through(batch, timeout)
        return await self.send_batch(batch, sync=sync, timeout=timeout)

    def _lane(self, group: int) -> Lane:
        lane = self._lanes.get(group)
        if lane is None:
            lane = Lane(self._kernels, self._connector, self._exchange, self._random, group)
            self._lanes[group] = lane
        return lane

    def _window(self) -> int:
        info = self._connector.info
        return min(64, info.session_window) if info else 64

    def encode(self, events: Sequence[Event]) -> list[Batch]:
        """Batches within the server's limits, each of one group."""
        if len(events) == 1 and isinstance(events[0], Event):
            return [encode_event(events[0], self._group_of)]
        return encode_events(events, *self._batch_shape(), self._group_of)

    def _batch_shape(self) -> tuple[int, int, int]:
        """Events and bytes of a batch, at most, and the number of groups."""
        info = self._connector.info
        if info is None:
            return BATCH_EVENTS_MAX, BATCH_BYTES_MAX, 1
        room = info.frame_bytes_max - 1024
        return (
            min(BATCH_EVENTS_MAX, info.batch_events_max),
            max(ROW_BYTES_MAX, min(BATCH_BYTES_MAX, room)),
            info.groups,
        )

    def _group_of(self, key: int | bytes) -> int:
        return group_of(key, self._connector.groups, self._kernels)

    def group_of_account(self, account: Account) -> int:
        return self._group_of(account_key(account))

    # ---- questions ----

    async def query(
        self,
        account: Account,
        metric: str,
        period: Period | str = CURRENT,
        *,
        filters: Filters | None = None,
        timeout: float | None = None,
    ) -> Usage:
        """The totals of an account and metric over a period, or over the metric's current one. `filters` keeps the
        events whose dimension has the value, or one of the values: {"region": "eu"}, {"region": ["eu", "us"]}."""
        body = query_body(account, metric, period, filters)
        return decode.decode_usage(await self.call(Type.QUERY, body, timeout, account), account, metric)

    async def query_breakdown(
        self,
        account: Account,
        metric: str,
        period: Period | str = CURRENT,
        *,
        group_by: Sequence[str],
        filters: Filters | None = None,
        timeout: float | None = None,
    ) -> list[UsageRow]:
        """The totals for each combination of values of some dimensions. Events without one have the value ""."""
        body = breakdown_body(account, metric, period, group_by, filters)
        return decode.decode_rows(await self.call(Type.QUERY, body, timeout, account))

    async def events(
        self, account: Account, period: Period, *, metric: str | None = None, limit: int | None = None
    ) -> list[StoredEvent]:
        """Stored events of an account within a period, in the order of the log; at most `limit`."""
        account_key(account)
        body: dict[str, Any] = {"account": account, "since": period.start_ns, "until": period.end_ns - 1, "after": 0}
        if metric is not None:
            body["metric"] = metric
        found: list[StoredEvent] = []
        if period.end_ns <= period.start_ns:
            return found
        while limit is None or len(found) < limit:
            body["limit"] = PAGE_RECORDS if limit is None else min(PAGE_RECORDS, limit - len(found))
            page, cursor = decode.decode_events(await self.call(Type.EVENTS_LIST, body, account=account))
            found += page
            if cursor is None:
                break
            if cursor <= body["after"]:
                raise ProtocolError("a list of events whose cursor does not advance")
            body["after"] = cursor
        return found

    async def alerts(
        self, account: Account | None = None, *, since: Since = 0, limit: int | None = None
    ) -> list[Alert]:
        """Alerts with a number above `since`, oldest first; at most `limit`. Numbers count within a group, so that in
        a cluster of several groups `since` is one number for all of them, a list of one number per group, or a
        mapping of groups to numbers (0 for those left out)."""
        if account is not None:
            account_key(account)
        if not self.is_connected:
            await self.connect()
        groups = self._connector.groups
        after = cursors(since, groups)
        if account is not None:
            group = self.group_of_account(account)
            return await self._alerts_of(group, after[group], limit, {"account": account})
        if groups == 1:
            return await self._alerts_of(0, after[0], limit, {})
        asking = (self._alerts_of(group, after[group], limit, {"group": group}) for group in range(groups))
        return merge(await asyncio.gather(*asking), limit)

    async def _alerts_of(self, group: int, since: int, limit: int | None, where: dict[str, Any]) -> list[Alert]:
        found: list[Alert] = []
        while limit is None or len(found) < limit:
            asked = PAGE_RECORDS if limit is None else min(PAGE_RECORDS, limit - len(found))
            body = where | {"since": since, "limit": asked}
            page = decode.decode_alerts(await self.call(Type.ALERTS_LIST, body, group=group))
            found += page
            if len(page) < asked:
                break
            if page[-1].number <= since:
                raise ProtocolError("a list of alerts whose numbers do not advance")
            since = page[-1].number
        return found

    async def watch_alerts(self, since: Since = 0) -> AsyncIterator[Alert]:
        """Alerts as they happen, from number `since` + 1 on, each once: an endless iterator with connections of its
        own. Connects again by itself, to the next leader if need be; what happened meanwhile is not missed."""
        if not self.is_connected:
            await self.connect()
        connector = Connector(self._kernels, self._addresses, self._random)
        watch = Watch(self._kernels, connector, self._connector, self._random, self._timeout)
        async with aclosing(watch.alerts(since)) as alerts:
            async for alert in alerts:
                yield alert

    async def topology(self) -> Topology:
        """Which nodes there are and who leads which group, as the node that was asked sees it."""
        try:
            return decode.decode_topology(await self.call(Type.TOPOLOGY, {}))
        except Unsupported:  # a server from before there were clusters
            assert self._connector.info is not None
            return self._connector.info.topology

    async def cluster(self, op: str, **fields: Any) -> dict[str, Any]:
        """An operator's request: "status", "add", "remove", "transfer" or "drain", with the fields of the protocol."""
        return await self.call(Type.CLUSTER, {"op": op, **fields})

    async def status(self) -> Mapping[str, Any]:
        """What the server says of itself: its id, its applied log index, how many events it has."""
        return await self.call(Type.STATUS, {})

    async def call(
        self,
        type: Type,
        body: dict[str, Any],
        timeout: float | None = None,
        account: Account | None = None,
        group: int | None = None,
    ) -> dict[str, Any]:
        """One request: to the leader of the account's group, or of the group; without either, to any node."""
        until = asyncio.get_running_loop().time() + self.seconds(timeout)
        request_id = self._connector.request_id()
        if not self.is_connected:
            await self.connect()
        if account is not None:
            group = self.group_of_account(account)
        attempt = Attempt(request_id, encode_request(self._kernels, type, request_id, encode_body(body)), group)
        try:
            response = await self._exchange.ask(attempt, until)
        except UnknownMetric:
            if type == Type.METRIC_DELETE and attempt.sends_unanswered:
                return {}  # deleted by the first try, whose answer was lost
            raise
        return decode_map(response.payload)


class Metrics:
    """`client.metrics`"""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, schema: MetricSchema) -> bool:
        """Create a metric, or add dimensions or thresholds to it. True: it is new. The same definition again is fine;
        a change of what its numbers mean raises MetricConflict."""
        metric_code(schema.code)
        body = await self._client.call(Type.METRIC_CREATE, decode.encode_schema(schema))
        return Fields(body).flag("created", False)

    async def list(self) -> list[Metric]:
        body = await self._client.call(Type.METRIC_LIST, {})
        return [decode.decode_metric(metric) for metric in Fields(body).maps("metrics")]

    async def delete(self, code: str) -> None:
        metric_code(code)
        await self._client.call(Type.METRIC_DELETE, {"code": code})


def query_body(account: Account, metric: str, period: Period | str, filters: Filters | None) -> dict[str, Any]:
    account_key(account)
    metric_code(metric)
    body: dict[str, Any] = {"account": account, "metric": metric}
    if isinstance(period, Period):
        body |= {"start": period.start_ns, "end": min(period.end_ns, TIMESTAMP_MAX_NS)}
    elif period == CURRENT:
        body["period"] = CURRENT
    else:
        raise InvalidArgument(f'period is a Period(start, end) or "current", not {period!r}')
    if filters:
        body["filters"] = {
            key: [values] if isinstance(values, str) else list(values) for key, values in filters.items()
        }
    return body


def breakdown_body(
    account: Account, metric: str, period: Period | str, group_by: Sequence[str], filters: Filters | None
) -> dict[str, Any]:
    if isinstance(group_by, str) or not group_by:
        raise InvalidArgument("group_by is a list of dimension keys")
    return query_body(account, metric, period, filters) | {"group_by": list(group_by)}


def encode_body(body: dict[str, Any]) -> bytes:
    try:
        return encode_map(body)
    except (ValueError, OverflowError, TypeError, UnicodeEncodeError) as error:
        raise InvalidArgument(f"this cannot be sent: {error}") from None
