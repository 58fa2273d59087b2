"""The real network: one listening socket, and links to whoever connected.

Receiving. All connections of the process read into one buffer: the event loop fills it and hands it over
before it looks at the next socket, so it is never in use twice. One read brings up to
`config.receive_buffer_bytes`, and the driver gets its own copy of what came.

Sending. Everything for one connection in one turn leaves in one system call: `send` only gathers, and the turn's
end writes. `together(callback)` is such a turn in little: what the callback sends leaves when it returns; the
disk's completions and the node's end of turn run inside it, so that answers do not wait for the next poll.

Bounds. A client that pipelines requests without reading the answers is first slowed: above
SEND_HIGH_WATER_BYTES unsent nothing more is read from it, until it has taken half. What it asked before that may
still produce answers; above `config.send_buffer_bytes_max` it is cut off, and likewise when
all such clients together hold more than `config.send_buffers_bytes_max`. Connections beyond
`config.links_max` are closed at once. A peer that vanished without a word is noticed by TCP keep-alive.

A peer that ends its side of the stream (`shutdown`) has said that it asks nothing more, and may still read: the
driver is told, and closes the link once what was asked is answered, within HALF_CLOSED_SECONDS.

Closing. `close` sends what is queued, then the end of the stream, then reads and throws away what the peer
still sends until it closes too: closing a socket with unread bytes would reset the connection, and the
reset may overtake the last answer, which says what was wrong. After LINGER_SECONDS the peer is cut off.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast

from unimeter.config import MIB, NodeConfig
from unimeter.kernels.api import Bytes

SEND_HIGH_WATER_BYTES = 1 * MIB
LINGER_SECONDS = 2.0
HALF_CLOSED_SECONDS = 30.0
LISTEN_BACKLOG = 1024
LINK_NUMBER_MAX = 2**32 - 1  # a link is a u32 in the kernels' request records
KEEPALIVE_SECONDS = (60, 15, 4)  # idle before the first probe, between probes, probes unanswered


class Address(NamedTuple):
    """Where to listen or connect; printed as host:port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """host:port, [v6 address]:port or :port (this machine only). ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{text!r}: write HOST:PORT, for example 127.0.0.1:7001")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: put an IPv6 address in brackets, for example [::1]:7001")
        return cls(host or "127.0.0.1", int(port))

    def resolved(self) -> Address:
        """With a numeric host. OSError when the name means nothing."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        found.sort(key=lambda entry: entry[0] != socket.AF_INET)
        return Address(str(found[0][4][0]), self.port)

    def reachable(self) -> Address:
        """What to tell others: an address that means "every interface" is replaced by this machine's own."""
        if self.host not in ("0.0.0.0", "::"):
            return self
        try:
            own = socket.gethostbyname(socket.gethostname())
        except OSError:
            own = "127.0.0.1"
        return Address(own, self.port)


class LinkEvents(Protocol):
    """What the network tells the driver. `link_closed` comes exactly once for every link opened."""

    def link_opened(self, link: int, peer: str) -> None: ...
    def bytes_arrived(self, link: int, data: bytes) -> None: ...
    def link_ended(self, link: int) -> None: ...
    def link_closed(self, link: int) -> None: ...


class Connection(asyncio.BufferedProtocol):
    """One accepted connection."""

    __slots__ = ("closing", "ended", "linger", "link", "network", "outbox", "outbox_bytes", "transport")

    def __init__(self, network: RealNetwork) -> None:
        self.network = network
        self.link = 0  # 0: refused, the driver never heard of it
        self.closing = False  # we are closing: what still comes is thrown away
        self.ended = False  # the peer sends nothing more
        self.linger: asyncio.TimerHandle | None = None
        self.outbox: list[bytes] = []  # gathered in this turn
        self.outbox_bytes = 0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if not self.network.opened(self):
            self.transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self.network.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        network = self.network
        network.received_bytes += nbytes
        if self.link and not self.closing:
            network.events.bytes_arrived(self.link, bytes(network.receive_buffer[:nbytes]))

    def pause_writing(self) -> None:
        assert self.transport is not None
        self.network.slow[self.link] = self
        if not self.closing and not self.ended and not self.transport.is_closing():
            self.transport.pause_reading()
            self.network.slowed += 1

    def resume_writing(self) -> None:
        assert self.transport is not None
        self.network.slow.pop(self.link, None)
        if not self.ended and not self.transport.is_closing():
            self.transport.resume_reading()

    def unsent_bytes(self) -> int:
        assert self.transport is not None
        return self.transport.get_write_buffer_size() + self.outbox_bytes

    def eof_received(self) -> bool:
        if not self.link or self.closing:
            return False  # the transport sends what is queued, then closes
        if not self.ended:
            self.ended = True
            self.network.ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.network.lost(self)


class RealNetwork:
    """`interface.Network` over TCP. `bind` early, `listen` when the node can answer."""

    def __init__(self, loop: asyncio.AbstractEventLoop, config: NodeConfig, links_max: int | None = None) -> None:
        self._loop = loop
        self._links: dict[int, Connection] = {}
        self._links_max = config.links_max if links_max is None else links_max
        self._send_max = config.send_buffer_bytes_max
        self._send_total_max = config.send_buffers_bytes_max
        self._high_water = min(SEND_HIGH_WATER_BYTES, config.send_buffer_bytes_max // 2)
        self._next_link = 1
        self._dirty: list[Connection] = []  # with something in their outbox
        self._together = False
        self._flush_queued = False
        self._server: asyncio.Server | None = None
        self.events: LinkEvents = cast(LinkEvents, None)  # set before listen()
        self.receive_buffer = memoryview(bytearray(config.receive_buffer_bytes))
        self.accepted = 0
        self.refused = 0  # beyond links_max
        self.cut_off = 0  # did not read their answers
        self.slow: dict[int, Connection] = {}  # above their high-water mark
        self.slowed = 0  # times that reading was paused
        self.received_bytes = 0
        self.sent_bytes = 0
        self.writes = 0

    @property
    def link_count(self) -> int:
        return len(self._links)

    # ---- interface.Network ----

    def send(self, link: int, data: Bytes) -> None:
        connection = self._links.get(link)
        if connection is None or connection.closing:
            return
        transport = connection.transport
        assert transport is not None
        if transport.is_closing():
            return
        if not connection.outbox:
            self._dirty.append(connection)
            if not self._together and not self._flush_queued:
                self._flush_queued = True
                self._loop.call_soon(self._end_of_turn)
        connection.outbox.append(data if type(data) is bytes else bytes(data))
        connection.outbox_bytes += len(data)
        unsent = connection.unsent_bytes()
        if unsent > self._send_max or (unsent > self._high_water and self._slow_bytes() > self._send_total_max):
            self.cut_off += 1
            connection.outbox.clear()
            transport.abort()

    def close(self, link: int) -> None:
        connection = self._links.get(link)
        if connection is None or connection.closing:
            return
        connection.closing = True
        transport = connection.transport
        assert transport is not None
        if transport.is_closing():
            return
        self._write(connection)
        if connection.linger is not None:
            connection.linger.cancel()
        connection.linger = self._loop.call_later(LINGER_SECONDS, transport.abort)
        if connection.ended:
            transport.close()  # nothing is unread: there will be no reset
            return
        transport.set_write_buffer_limits(high=self._send_max)  # from here on only the linger counts
        transport.resume_reading()
        transport.write_eof()

    # ---- sending ----

    def _slow_bytes(self) -> int:
        """What all clients together have not taken that do not read fast enough."""
        return sum(connection.unsent_bytes() for connection in self.slow.values())

    def together(self, callback: Callable[[], None]) -> None:
        """Run the callback, then write what it, and this turn so far, had to send."""
        self._together = True
        try:
            callback()
        finally:
            self._together = False
            self._flush()

    def _end_of_turn(self) -> None:
        self._flush_queued = False
        self._flush()

    def _flush(self) -> None:
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for connection in dirty:
                self._write(connection)

    def _write(self, connection: Connection) -> None:
        outbox = connection.outbox
        if not outbox:
            return
        transport = connection.transport
        assert transport is not None
        data = outbox[0] if len(outbox) == 1 else b"".join(outbox)
        outbox.clear()
        connection.outbox_bytes = 0
        if not transport.is_closing():
            self.writes += 1
            self.sent_bytes += len(data)
            transport.write(data)

    # ---- connections ----

    def opened(self, connection: Connection) -> bool:
        """Take a connection in; False: there are too many."""
        transport = connection.transport
        assert transport is not None
        if len(self._links) >= self._links_max:
            self.refused += 1
            return False
        while self._next_link in self._links:
            self._next_link += 1
        connection.link = link = self._next_link
        self._next_link = link + 1 if link < LINK_NUMBER_MAX else 1
        self._links[link] = connection
        self.accepted += 1
        transport.set_write_buffer_limits(high=self._high_water, low=self._high_water // 2)
        peer: Any = transport.get_extra_info("peername")
        self.events.link_opened(link, f"{peer[0]}:{peer[1]}" if peer else "unknown")
        return True

    def ended(self, connection: Connection) -> None:
        assert connection.transport is not None
        connection.linger = self._loop.call_later(HALF_CLOSED_SECONDS, connection.transport.abort)
        self.events.link_ended(connection.link)

    def lost(self, connection: Connection) -> None:
        if connection.linger is not None:
            connection.linger.cancel()
        self.slow.pop(connection.link, None)
        if self._links.pop(connection.link, None) is not None:
            self.events.link_closed(connection.link)

    # ---- listening ----

    async def listen(self, bound: socket.socket) -> None:
        self._server = await self._loop.create_server(lambda: Connection(self), sock=bound, backlog=LISTEN_BACKLOG)

    def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_all(self) -> None:
        """Close every link as `close` does; `link_count` becomes 0 within LINGER_SECONDS."""
        for link in list(self._links):
            self.close(link)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: a taken port is found out before a long recovery. OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit these from the socket that accepts them.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE_SECONDS, strict=True):
            if hasattr(socket, option):
                bound.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        bound.bind((host, port))
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound
