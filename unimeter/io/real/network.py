"""The real network: a socket that clients connect to, another for peers, and links to whoever connected or was dialled.

Receiving. The event loop has one buffer for all connections, of 250 KiB (uvloop's): what one read brings from a client. All peers'
connections read into another of PEER_RECEIVE_BYTES; the event loop fills it and hands it over before it looks at the next
socket, so it is never in use twice. The driver gets its own copy of what came.

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

Peers. A link between nodes has bounds of its own, because slowing it would slow the whole cluster: it is always read
from, is closed only above PEER_SEND_BYTES_MAX unsent, and does not count towards `links_max`. At most
PEER_LINKS_MAX of them can come in: the peer port is as open as the other.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from unimeter.config import MIB, NodeConfig
from unimeter.io.real.connection import Connection, PeerConnection, as_protocol
from unimeter.io.real.dialer import Dialer
from unimeter.kernels.api import Bytes

SEND_HIGH_WATER_BYTES: Final = 1 * MIB
LINGER_SECONDS = 2.0
HALF_CLOSED_SECONDS = 30.0
LISTEN_BACKLOG: Final = 1024
LINK_NUMBER_MAX: Final = 2**32 - 1  # a link is a u32 in the kernels' request records
PEER_SEND_BYTES_MAX = 256 * MIB  # one link's unsent bytes
PEER_RECEIVE_BYTES: Final = 1 * MIB  # what one read from a peer may bring
PEER_LINKS_MAX = 256


class LinkEvents(Protocol):
    """What the network tells the driver. `link_closed` comes exactly once for every link opened."""

    def link_opened(self, link: int, peer: str, inner: bool = False, dialled: int = 0) -> None: ...
    def dial_failed(self, ref: int) -> None: ...
    def bytes_arrived(self, link: int, data: bytes) -> None: ...
    def link_ended(self, link: int) -> None: ...
    def link_closed(self, link: int) -> None: ...


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
        self._client_count = 0  # of the links; the others are peers
        self._dirty: list[Connection] = []  # with something in their outbox
        self._together = False
        self._flush_queued = False
        self._server: asyncio.Server | None = None
        self._peer_server: asyncio.Server | None = None
        self._dialer = Dialer(loop, lambda ref: PeerConnection(self, ref), lambda ref: self.events.dial_failed(ref))
        self.events: LinkEvents = cast(LinkEvents, None)  # set before listen()
        self.peer_buffer = memoryview(bytearray(PEER_RECEIVE_BYTES))
        self.accepted = 0  # clients
        self.refused = 0  # beyond links_max or PEER_LINKS_MAX
        self.cut_off = 0  # did not read their answers
        self.slow: dict[int, Connection] = {}  # above their high-water mark
        self.slowed = 0  # times that reading was paused
        self.received_bytes = 0
        self.sent_bytes = 0
        self.writes = 0
        self.peer_received_bytes = 0
        self.peer_sent_bytes = 0
        self.peers_cut_off = 0  # above PEER_SEND_BYTES_MAX

    @property
    def link_count(self) -> int:
        return len(self._links)

    @property
    def peer_count(self) -> int:
        return len(self._links) - self._client_count

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
        if connection.inner:
            if unsent > PEER_SEND_BYTES_MAX:
                self.peers_cut_off += 1
                connection.outbox.clear()
                transport.abort()
        elif unsent > self._send_max or (unsent > self._high_water and self._slow_bytes() > self._send_total_max):
            self.cut_off += 1
            connection.outbox.clear()
            transport.abort()

    def answer(self, link: int, data: Bytes) -> None:
        connection = self._links.get(link)
        if connection is None or connection.closing or connection.outbox or link in self.slow:
            self.send(link, data)
            return
        connection.outbox.append(data if type(data) is bytes else bytes(data))
        self._write(connection)

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

    def dial(self, ref: int, address: str) -> None:
        self._dialer.dial(ref, address)

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
            self.flush()

    def flush(self) -> None:
        """Write what was gathered: the event loop (uvloop from 0.23 on) hands it to the system at once."""
        dirty = self._dirty
        if dirty:
            self._dirty = []
            for connection in dirty:
                self._write(connection)

    def _end_of_turn(self) -> None:
        self._flush_queued = False
        self.flush()

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
            if connection.inner:
                self.peer_sent_bytes += len(data)
            else:
                self.writes += 1
                self.sent_bytes += len(data)
            transport.write(data)

    # ---- connections ----

    def opened(self, connection: Connection) -> bool:
        """Take a connection in; False: there are too many."""
        transport = connection.transport
        assert transport is not None
        inner = connection.inner
        if inner:
            full = not connection.dialled and self.peer_count >= PEER_LINKS_MAX
        else:
            full = self._client_count >= self._links_max
        if full:
            self.refused += 1
            return False
        while self._next_link in self._links:
            self._next_link += 1
        connection.link = link = self._next_link
        self._next_link = link + 1 if link < LINK_NUMBER_MAX else 1
        self._links[link] = connection
        if not inner:
            self._client_count += 1
            self.accepted += 1
            transport.set_write_buffer_limits(high=self._high_water, low=self._high_water // 2)
        peername: Any = transport.get_extra_info("peername")
        peer = f"{peername[0]}:{peername[1]}" if peername else "unknown"
        self.events.link_opened(link, peer, inner, connection.dialled)
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
            self._client_count -= not connection.inner
            self.events.link_closed(connection.link)

    # ---- listening ----

    async def listen(self, bound: socket.socket) -> None:
        """Take clients in."""
        self._server = await self._loop.create_server(
            lambda: as_protocol(Connection(self)), sock=bound, backlog=LISTEN_BACKLOG
        )

    async def listen_peers(self, bound: socket.socket) -> None:
        """Take other nodes in."""
        self._peer_server = await self._loop.create_server(
            lambda: as_protocol(PeerConnection(self)), sock=bound, backlog=LISTEN_BACKLOG
        )

    def stop_listening(self) -> None:
        """No more clients; peers are still taken in: stopping needs them."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close_all(self) -> None:
        """Close every link as `close` does, and take no new one; `link_count` becomes 0 within LINGER_SECONDS."""
        self.stop_listening()
        if self._peer_server is not None:
            self._peer_server.close()
            self._peer_server = None
        self._dialer.stop()
        for link in list(self._links):
            self.close(link)
