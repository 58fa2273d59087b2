"""Connections that this node makes to others. Each call ends in exactly one report: the link is open, or the dial
failed, at the latest DIAL_SECONDS_MAX later. Names are looked up at every dial: a peer may have moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from unimeter.io.real.address import Address
from unimeter.io.real.connection import Connection, as_protocol

DIAL_SECONDS_MAX = 2.0


class Dialer:
    """Dials under way. `make(ref)` makes the protocol of a connection, `failed(ref)` reports that none came about."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[int], Connection],
        failed: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._make = make
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def dial(self, ref: int, address: str) -> None:
        task = self._loop.create_task(self._dial(ref, address))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _dial(self, ref: int, address: str) -> None:
        connection = self._make(ref)
        with suppress(OSError, ValueError):  # nobody there, too late (TimeoutError), or no address at all
            target = Address.parse(address)
            async with asyncio.timeout(DIAL_SECONDS_MAX):
                await self._loop.create_connection(lambda: as_protocol(connection), target.host, target.port)
        if not connection.link:
            self._failed(ref)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": "a dial", "exception": error})

    def stop(self) -> None:
        """Give up what is under way, without reports."""
        for task in tuple(self._tasks):
            task.cancel()
