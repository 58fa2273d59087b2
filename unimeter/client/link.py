"""Connections: one `Link` per address, and the `Connector` that keeps one ready.

A link is made usable by a handshake (HELLO); before that nothing else is sent. Requests are matched to answers by
number, many at a time. When a link is lost every request on it is told so (LinkLost) and whoever waits decides
whether to ask again: numbers are unique within a client, so the same bytes may go out on another link.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Sequence
from random import Random
from typing import cast

from unimeter.client.decode import decode_hello
from unimeter.client.protocol import (
    Protocol,
    Response,
    Status,
    Type,
    decode_error,
    decode_map,
    encode_map,
    encode_request,
)
from unimeter.client.results import ServerInfo
from unimeter.client.session import Backoff
from unimeter.errors import ClientClosed, ConnectionFailed, InvalidArgument, ProtocolError, ServerError, Unavailable
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels

CLIENT_NAME = "unimeter-python"
ATTEMPT_SECONDS_MAX = 10.0  # for one connection with its handshake


class LinkLost(Exception):
    """The connection is gone; what was asked on it has no answer. `cause` says why, if known."""

    def __init__(self, address: str, cause: Exception | None) -> None:
        super().__init__(f"the connection to {address} was lost{f': {cause}' if cause else ''}")
        self.cause = cause


def parse_address(address: str) -> tuple[str, int]:
    """host:port, host, :port, [ipv6]:port."""
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host and not host.startswith("[")):
        host, port = address, str(wire.PORT)
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise InvalidArgument(f"not an address: {address!r}; write host:port")
    return host.strip("[]") or "127.0.0.1", int(port)


class Link(asyncio.Protocol):
    """One connection after its handshake."""

    def __init__(self, kernels: Kernels, address: str, on_push: Callable[[Response], None] | None) -> None:
        self.address = address
        self.info: ServerInfo | None = None
        self.alive = False
        self.heard_at = 0.0  # loop time of the last byte
        self._protocol = Protocol(kernels)
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self.on_lost: Callable[[], None] | None = None
        self._on_push = on_push
        self._cause: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class
        self.alive = True
        self.heard_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        try:
            responses = self._protocol.receive(data)
        except ProtocolError as error:
            self.abort(error)
            return
        for response in responses:
            if response.request_id == 0:
                if self._on_push:
                    self._on_push(response)
                continue
            waiter = self._waiting.pop(response.request_id, None)
            if waiter is not None and not waiter.done():  # else: its asker has given up meanwhile
                waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        lost = LinkLost(self.address, self._cause or exc)
        for waiter in self._waiting.values():
            if not waiter.done():
                waiter.set_exception(lost)
        self._waiting.clear()
        if self.on_lost:
            self.on_lost()

    def abort(self, cause: Exception) -> None:
        """Give the connection up, telling everybody why."""
        self._cause = self._cause or cause
        self.alive = False
        if self._transport:
            self._transport.abort()

    def start(self, request_id: int, frame: bytes) -> asyncio.Future[Response]:
        """Send one request. The future holds its answer, or LinkLost; cancel it to stop waiting."""
        if not self.alive or self._transport is None:
            raise LinkLost(self.address, self._cause)
        waiter: asyncio.Future[Response] = self._loop.create_future()
        assert request_id not in self._waiting
        self._waiting[request_id] = waiter
        waiter.add_done_callback(lambda _: self._waiting.pop(request_id, None))
        self._transport.write(frame)
        return waiter


class Connector:
    """Keeps a usable link to the server that answers, whichever of the addresses that is."""

    def __init__(self, kernels: Kernels, addresses: Sequence[str], random: Random) -> None:
        if isinstance(addresses, str) or not addresses:
            raise InvalidArgument('addresses is a list like ["localhost:7001"]')
        for address in addresses:
            parse_address(address)
        self.closed = False
        self.info: ServerInfo | None = None  # of the last server that was reached
        self.on_push: Callable[[Response], None] | None = None
        self._kernels = kernels
        self._addresses = list(addresses)
        self._random = random
        self._preferred = self._addresses[0]
        self._links: dict[str, Link] = {}
        self._connecting = asyncio.Lock()
        self._next_request_id = random.getrandbits(31)

    def request_id(self) -> int:
        """A number that no other request of this client has (for the next four billion)."""
        self._next_request_id = self._next_request_id % 0xFFFF_FFFF + 1
        return self._next_request_id

    def redirect(self, address: str) -> None:
        """The server at another address is the one to ask."""
        try:
            parse_address(address)
        except InvalidArgument:
            raise ProtocolError(f"a redirect to something that is no address: {address!r}") from None
        self._preferred = address

    async def link(self, until: float, fail_fast: bool = False) -> Link:
        """A usable link. Tries again until loop time `until`, or just every address once; then ConnectionFailed."""
        while True:
            found = self._links.get(self._preferred)
            if found is not None and found.alive and found.info is not None:
                return found
            async with self._connecting:
                found = self._links.get(self._preferred)
                if found is None or not found.alive:
                    await self._connect(until, fail_fast)

    async def _connect(self, until: float, fail_fast: bool) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(self._random)
        failures: dict[str, Exception] = {}
        while True:
            for address in dict.fromkeys([self._preferred, *self._addresses]):
                if self.closed:
                    raise ClientClosed("the client is closed")
                try:
                    async with asyncio.timeout_at(min(until, loop.time() + ATTEMPT_SECONDS_MAX)):
                        self._links[address] = await self._open(address)
                    self._preferred = address
                    return
                except (OSError, TimeoutError, LinkLost, Unavailable) as error:
                    reason = error.cause if isinstance(error, LinkLost) and error.cause else error
                    if not isinstance(reason, TimeoutError) or address not in failures:
                        failures[address] = reason  # running out of time says less than what went wrong before
            for failure in failures.values():
                if isinstance(failure, ProtocolError):
                    raise failure  # something else than Unimeter listens there: waiting would not help
            wait_seconds = backoff.wait_seconds()
            if fail_fast or loop.time() + wait_seconds >= until:
                for failure in failures.values():
                    if isinstance(failure, ServerError):
                        raise failure
                reasons = "; ".join(f"{address}: {_reason(failure)}" for address, failure in failures.items())
                raise ConnectionFailed(f"no server could be reached ({reasons}); to start one: unimeter node")
            await asyncio.sleep(wait_seconds)

    async def _open(self, address: str) -> Link:
        host, port = parse_address(address)
        loop = asyncio.get_running_loop()
        link = Link(self._kernels, address, self.on_push)
        await loop.create_connection(lambda: link, host, port)
        try:
            request_id = self.request_id()
            hello = encode_map({"client": CLIENT_NAME})
            response = await link.start(request_id, encode_request(self._kernels, Type.HELLO, request_id, hello))
            if response.status == Status.REDIRECT:
                raise ProtocolError("a redirect in answer to the handshake")
            if response.status != Status.OK:
                raise decode_error(response.payload)
            link.info = self.info = decode_hello(decode_map(response.payload))
        except BaseException as error:
            link.abort(error if isinstance(error, Exception) else ClientClosed("given up"))
            raise
        return link

    def close(self) -> None:
        self.closed = True
        for link in self._links.values():
            link.abort(ClientClosed("the client was closed"))


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error):
        return "connection refused"  # the second: of several addresses of one host, each was
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
