"""Client: the same as AsyncClient for programs without an event loop.

A thread runs an event loop with an AsyncClient in it; a call here waits for its coroutine there, unless it can do without:
a question, or up to a batch for each group, is sent by the thread that calls where the way is free (shortcut.py). Safe to use from several
threads at once, and their calls are in flight at the same time.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, TypeVar

from unimeter.client import decode
from unimeter.client.async_client import CURRENT, AsyncClient, breakdown_body, encode_body, query_body
from unimeter.client.batch import Batch
from unimeter.client.cursors import Since
from unimeter.client.ingest import Outcome, conclude
from unimeter.client.protocol import Type, decode_map
from unimeter.client.results import Alert, IngestResult, Metric, ServerInfo, StoredEvent, Usage, UsageRow
from unimeter.client.topology import Topology
from unimeter.client.values import Account, Event, Filters, MetricSchema, Period
from unimeter.errors import ClientClosed, IngestError

T = TypeVar("T")
LAST_WORDS_SECONDS = 0.5  # for calls under way when the client is closed, to say what became of them


class Client:
    """One application's way to a Unimeter server or cluster; see AsyncClient for the meaning of everything."""

    def __init__(self, addresses: Sequence[str], *, timeout: float = 30.0, connect_timeout: float = 5.0) -> None:
        self._inner = AsyncClient(addresses, timeout=timeout, connect_timeout=connect_timeout)
        self._shortcut = self._inner.shortcut()
        self.metrics = ClientMetrics(self)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="unimeter-client", daemon=True)
        self._starting = threading.RLock()  # of work in the loop; a signal's handler may call, too
        self._closed = False
        self._process = os.getpid()
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
        with self._starting:
            if not self._is_open():
                work.close()
                forked = os.getpid() != self._process
                raise ClientClosed(
                    "this client was made before the fork: make one in each process"
                    if forked
                    else "the client is closed"
                )
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ClientClosed("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Close the connections and end the thread."""
        with self._starting:
            if not self._is_open():
                return
            self._closed = True  # so what comes after this in the loop is the last
            shut = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        self._shortcut.close()
        shut.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _is_open(self) -> bool:
        return not self._closed and os.getpid() == self._process  # a fork has no thread for the loop

    async def _shut(self) -> None:
        self._inner.close()
        others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        if others:
            _, others = await asyncio.wait(others, timeout=LAST_WORDS_SECONDS)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def connect(self) -> ServerInfo:
        return self._run(self._inner.connect())

    def ingest(
        self, events: Iterable[Event] | Event, *, sync: bool = True, timeout: float | None = None
    ) -> IngestResult:
        inner = self._inner
        if not inner.is_connected or not self._is_open():
            return self._run(inner.ingest(events, sync=sync, timeout=timeout))
        batches = inner.encode([events] if isinstance(events, Event) else list(events))
        if len({batch.group for batch in batches}) < len(batches):
            return self._run(inner.send_batches(batches, sync=sync, timeout=timeout))

        def otherwise(batches: list[Batch], seconds: float) -> list[Outcome]:
            return self._run(inner.go_on(batches, sync=sync, timeout=seconds))

        outcomes = self._shortcut.send(batches, sync, inner.seconds(timeout), otherwise)
        outcomes.sort(key=lambda outcome: outcome.batch.first)
        return conclude(outcomes)

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
        body = query_body(account, metric, period, filters)
        return decode.decode_usage(self._ask(Type.QUERY, body, account, timeout), account, metric)

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
        body = breakdown_body(account, metric, period, group_by, filters)
        return decode.decode_rows(self._ask(Type.QUERY, body, account, timeout))

    def _ask(self, type: Type, body: dict[str, Any], account: Account, timeout: float | None) -> dict[str, Any]:
        inner = self._inner
        if inner.is_connected and self._is_open():
            group = inner.group_of_account(account)
            response = self._shortcut.ask(type, encode_body(body), group, inner.seconds(timeout))
            if response is not None:
                return decode_map(response.payload)
        return self._run(inner.call(type, body, timeout, account))

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
            if self._is_open():
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
