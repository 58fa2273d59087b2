"""Alerts as they happen, from every group, each once.

Each group is followed at its leader, on connections that no request shares. Whoever follows subscribes again, from
the last number that was handed out, when the link is lost, when its node does not answer probes, and when the group
has another leader. An alert may then be pushed twice; the cursor of its group drops the second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random
from typing import Any

from unimeter.client.connector import Connector
from unimeter.client.cursors import Since, cursors
from unimeter.client.decode import decode_alert
from unimeter.client.link import Link, LinkLost
from unimeter.client.protocol import (
    Fields,
    Response,
    Status,
    Type,
    decode_error,
    decode_map,
    decode_redirect,
    encode_map,
    encode_request,
)
from unimeter.client.results import Alert
from unimeter.client.session import Backoff
from unimeter.errors import ClientClosed, ConnectionFailed, ProtocolError, Unavailable, UnimeterError
from unimeter.kernels.api import Kernels

LOOK_SECONDS = 0.25  # between two looks at whether the leader is still there, and still the leader
PROBE_SECONDS = 1.0
ANSWER_SECONDS_MAX = 1.0  # to a subscription


class Watch:
    """One endless iteration. `connector` is its own; `owner` is that of the client, which ends the iteration when it
    is closed."""

    def __init__(
        self, kernels: Kernels, connector: Connector, owner: Connector, random: Random, timeout_seconds: float
    ) -> None:
        self._kernels = kernels
        self._connector = connector
        self._owner = owner
        self._random = random
        self._timeout_seconds = timeout_seconds
        self._arrived: asyncio.Queue[Alert | UnimeterError] = asyncio.Queue()
        self._cursors: list[int] = []
        self._followed: dict[Link, set[int]] = {}  # groups that a link was subscribed to
        connector.on_push = self._pushed

    async def alerts(self, since: Since) -> AsyncGenerator[Alert, None]:
        followers: list[asyncio.Task[None]] = []
        try:
            await self._connector.link(asyncio.get_running_loop().time() + self._timeout_seconds)
            self._cursors = cursors(since, self._connector.groups)
            followers = [asyncio.create_task(self._follow(group)) for group in range(self._connector.groups)]
            while True:
                arrived = await self._arrived.get()
                if isinstance(arrived, UnimeterError):
                    raise arrived
                if arrived.number > self._cursors[arrived.group]:
                    self._cursors[arrived.group] = arrived.number
                    yield arrived
        finally:
            for follower in followers:
                follower.cancel()
            self._connector.close()

    def _pushed(self, response: Response) -> None:
        if response.type != Type.ALERT_PUSH:
            return
        try:
            alert = decode_alert(Fields(decode_map(response.payload)))
            if not 0 <= alert.group < len(self._cursors):
                raise ProtocolError(f"an alert of group {alert.group}, of {len(self._cursors)} groups")
            self._arrived.put_nowait(alert)
        except ProtocolError as error:
            self._arrived.put_nowait(error)

    async def _follow(self, group: int) -> None:
        """Stay subscribed to a group, wherever it is led, until cancelled; or say why that cannot be."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random)
        until = loop.time() + self._timeout_seconds
        link: Link | None = None
        trouble: UnimeterError | None = None
        try:
            while not self._owner.closed:
                try:
                    link = None
                    link = await self._connector.link(until, group)
                    trouble = await self._subscribe(link, group)
                    if trouble is None:
                        backoff = Backoff(self._random)
                        await self._stay(link, group)
                        until = loop.time() + self._timeout_seconds
                        continue
                except LinkLost as lost:
                    trouble = ConnectionFailed(str(lost))
                if loop.time() >= until:
                    raise trouble
                await asyncio.gather(asyncio.sleep(backoff.wait_seconds()), self._connector.refresh(until, link))
            raise ClientClosed("the client is closed")
        except UnimeterError as error:
            self._arrived.put_nowait(error)

    async def _subscribe(self, link: Link, group: int) -> UnimeterError | None:
        """None: done. Otherwise what to try again for."""
        followed = self._followed.setdefault(link, set())
        followed.add(group)
        body: dict[str, Any] = {"since": self._cursors[0]}
        if len(self._cursors) > 1:
            body = {"cursors": self._cursors, "groups": sorted(followed)}
        request_id = self._connector.request_id()
        asking = link.start(
            request_id, encode_request(self._kernels, Type.ALERTS_SUBSCRIBE, request_id, encode_map(body))
        )
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                response = await asking
        except TimeoutError:
            silent = ConnectionFailed(f"{link.address} does not answer")
            link.abort(silent)
            return silent
        if response.status == Status.OK:
            return None
        followed.discard(group)
        if response.status == Status.REDIRECT:
            address, of_group = decode_redirect(response.payload)
            self._connector.redirect(address, group if of_group is None else of_group)
            return ConnectionFailed(f"redirected to {address}")
        error = decode_error(response.payload)
        if response.status == Status.ERROR and not isinstance(error, Unavailable):
            raise error
        return error

    async def _stay(self, link: Link, group: int) -> None:
        """As long as the link is good and its node leads the group."""
        while link.usable and not self._owner.closed and not self._connector.is_elsewhere(link, group):
            link.probe(self._connector.request_id(), PROBE_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)
        if not link.usable:
            self._followed.pop(link, None)
