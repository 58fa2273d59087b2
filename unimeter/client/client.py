"""Client: the same as AsyncClient for programs without an event loop.

A thread runs an event loop with an AsyncClient in it; each call here waits for its coroutine there. Safe to use from
several threads at once, and their calls are in flight at the same time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from unimeter.client.async_client import CURRENT, AsyncClient
from unimeter.client.cursors import Since
from unimeter.client.results import Alert, IngestResult, Metric, ServerInfo, StoredEvent, Usage, UsageRow
from unimeter.client.topology import Topology
from unimeter.client.values import Account, Event, Filters, MetricSchema, Period
from unimeter.errors import ClientClosed, IngestError

T = TypeVar("T")


class Client:
    """One application's way to a Unimeter server or cluster; see AsyncClient for the meaning of everything."""

    def __init__(self, addresses: Sequence[str], *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        self._inner = AsyncClient(addresses, timeout=timeout, connect_timeout=connect_timeout)
        self.metrics = ClientMetrics(self)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unimeter-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        try:
            self.connect()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            work.close()
            raise ClientClosed("the client is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._thread.is_alive():
            self._run(self._shut())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _shut(self) -> None:
        self._inner.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def connect(self) -> ServerInfo:
        return self._run(self._inner.connect())

    def ingest(
        self, events: Iterable[Event] | Event, *, sync: bool = True, timeout: float | None = None
    ) -> IngestResult:
        return self._run(self._inner.ingest(events, sync=sync, timeout=timeout))

    def retry(self, error: IngestError, *, sync: bool = True, timeout: float | None = None) -> IngestResult:
        return self._run(self._inner.retry(error, sync=sync, timeout=timeout))

    def query(
        self,
        account: Account,
        metric: str,
        period: Period | str = CURRENT,
        *,
        filters: Filters | None = None,
        timeout: float | None = None,
    ) -> Usage:
        return self._run(self._inner.query(account, metric, period, filters=filters, timeout=timeout))

    def query_breakdown(
        self,
        account: Account,
        metric: str,
        period: Period | str = CURRENT,
        *,
        group_by: Sequence[str],
        filters: Filters | None = None,
        timeout: float | None = None,
    ) -> list[UsageRow]:
        return self._run(
            self._inner.query_breakdown(account, metric, period, group_by=group_by, filters=filters, timeout=timeout)
        )

    def events(
        self, account: Account, period: Period, *, metric: str | None = None, limit: int | None = None
    ) -> list[StoredEvent]:
        return self._run(self._inner.events(account, period, metric=metric, limit=limit))

    def alerts(self, account: Account | None = None, *, since: Since = 0, limit: int | None = None) -> list[Alert]:
        return self._run(self._inner.alerts(account, since=since, limit=limit))

    def watch_alerts(self, since: Since = 0) -> Iterator[Alert]:
        watch = self._inner.watch_alerts(since)
        try:
            while True:
                yield self._run(anext(watch))  # type: ignore[arg-type]
        finally:
            if self._thread.is_alive():
                self._run(watch.aclose())  # type: ignore[attr-defined]

    def status(self) -> Mapping[str, Any]:
        return self._run(self._inner.status())

    def topology(self) -> Topology:
        return self._run(self._inner.topology())

    def cluster(self, op: str, **fields: Any) -> dict[str, Any]:
        return self._run(self._inner.cluster(op, **fields))


class ClientMetrics:
    """`client.metrics`"""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, schema: MetricSchema) -> bool:
        return self._client._run(self._client._inner.metrics.create(schema))

    def list(self) -> list[Metric]:
        return self._client._run(self._client._inner.metrics.list())

    def delete(self, code: str) -> None:
        self._client._run(self._client._inner.metrics.delete(code))
