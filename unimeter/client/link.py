"""One connection, as the rest of the client sees it: a `Link`.

A link is made usable by a handshake (HELLO); before that nothing else is sent. Requests are matched to answers by
number, many at a time. When a link is lost every request on it is told so (LinkLost) and whoever waits decides
whether to ask again: numbers are unique within a client, so the same bytes may go out on another link.

A process that is stopped, or a cable that is cut, closes nothing. So a link that owes an answer and says nothing is
probed: `probe` asks HELLO again, which any server that lives answers at once. Answers to probes do not count as
having been heard of: a server may be alive and yet owe an answer for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from unimeter.client.protocol import Protocol, Response, Type, encode_map, encode_request
from unimeter.client.results import ServerInfo
from unimeter.errors import ConnectionFailed, InvalidArgument, ProtocolError
from unimeter.kernels import protocol as wire
from unimeter.kernels.api import Kernels

CLIENT_NAME = "unimeter-python"
PROBE_ANSWER_SECONDS_MAX = 1.0


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


def hello(kernels: Kernels, request_id: int) -> bytes:
    """The request that a connection begins with."""
    return encode_request(kernels, Type.HELLO, request_id, encode_map({"client": CLIENT_NAME}))


class Link(asyncio.Protocol):
    """One connection; of use once `info` is there, after its handshake."""

    def __init__(self, kernels: Kernels, address: str, on_push: Callable[[Link, Response], None] | None) -> None:
        self.address = address
        self.info: ServerInfo | None = None
        self.alive = False
        self.heard_at = 0.0  # loop time of the last byte, those of probes left out
        self._kernels = kernels
        self._protocol = Protocol(kernels)
        self._probe: asyncio.TimerHandle | None = None  # running out: the probe has had no answer
        self._probe_id = 0
        self._probed_at = 0.0
        self._waiting: dict[int, asyncio.Future[Response]] = {}
        self.on_lost: Callable[[], None] | None = None
        self._on_push = on_push
        self._cause: Exception | None = None
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def usable(self) -> bool:
        return self.alive and self.info is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by behaviour, not by class
        self.alive = True
        self.heard_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        try:
            responses = self._protocol.receive(data)
        except ProtocolError as error:
            self.abort(error)
            return
        if self._probe and any(response.request_id == self._probe_id for response in responses):
            self._probe.cancel()
            self._probe = None
            if len(responses) == 1:
                return
        self.heard_at = self._loop.time()
        for response in responses:
            if response.request_id == 0:
                if self._on_push:
                    self._on_push(self, response)
                continue
            waiter = self._waiting.pop(response.request_id, None)
            if waiter is not None and not waiter.done():  # else: its asker has given up meanwhile
                waiter.set_result(response)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if self._probe:
            self._probe.cancel()
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

    def _forget(self, request_id: int, done: asyncio.Future[Response]) -> None:
        """Called a little after it is done: the same request may have been sent again meanwhile."""
        if self._waiting.get(request_id) is done:
            del self._waiting[request_id]

    def start(self, request_id: int, frame: bytes) -> asyncio.Future[Response]:
        """Send one request. The future holds its answer, or LinkLost; cancel it to stop waiting."""
        if not self.alive or self._transport is None or self._transport.is_closing():
            raise LinkLost(self.address, self._cause)
        waiter: asyncio.Future[Response] = self._loop.create_future()
        before = self._waiting.get(request_id)
        assert before is None or before.done(), "one answer for two who wait"
        self._waiting[request_id] = waiter
        waiter.add_done_callback(lambda done: self._forget(request_id, done))
        self._transport.write(frame)
        return waiter

    def probe(self, request_id: int, again_seconds: float = 0.0) -> None:
        """Is anybody there? The link is given up if this has no answer soon. Not more often than `again_seconds` says."""
        now = self._loop.time()
        if self._probe is None and self.usable and self._transport and now >= self._probed_at + again_seconds:
            self._probe_id, self._probed_at = request_id, now
            self._probe = self._loop.call_later(
                PROBE_ANSWER_SECONDS_MAX, self.abort, ConnectionFailed(f"{self.address} does not answer")
            )
            self._transport.write(hello(self._kernels, request_id))
