"""The blocking client as the workload uses a client: each call waits in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from unimeter import Client, Event, Period
from unimeter.client.results import IngestResult, Usage, UsageRow
from unimeter.client.values import Account
from unimeter.errors import ClientClosed, IngestError

CALLS_MAX = 16  # at the same time: more than the client has connections for

T = TypeVar("T")


class ThreadedClient:
    def __init__(self, addresses: Sequence[str], *, timeout: float, connect_timeout: float) -> None:
        self._client = Client(addresses, timeout=timeout, connect_timeout=connect_timeout)
        self._pool = ThreadPoolExecutor(CALLS_MAX)

    async def ingest(self, events: list[Event]) -> IngestResult:
        return await self._call(lambda: self._client.ingest(events))

    async def retry(self, error: IngestError, *, timeout: float) -> IngestResult:
        return await self._call(lambda: self._client.retry(error, timeout=timeout))

    async def query(self, account: Account, metric: str, period: Period, *, timeout: float | None = None) -> Usage:
        return await self._call(lambda: self._client.query(account, metric, period, timeout=timeout))

    async def query_breakdown(
        self, account: Account, metric: str, period: Period, *, group_by: Sequence[str], timeout: float | None = None
    ) -> list[UsageRow]:
        return await self._call(
            lambda: self._client.query_breakdown(account, metric, period, group_by=group_by, timeout=timeout)
        )

    async def _call(self, work: Callable[[], T]) -> T:
        try:
            working = asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError as error:  # the pool has ended
            raise ClientClosed(str(error)) from None
        return await working

    def close(self) -> None:
        """Does not wait: calls that are under way say what becomes of them."""
        threading.Thread(target=self._client.close).start()
        self._pool.shutdown(wait=False)
