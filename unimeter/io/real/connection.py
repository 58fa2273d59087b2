"""One TCP connection, as the event loop's protocol object: a client's, or another node's.

Clients are strangers: one that does not read its answers is not read from either (`pause_writing`), and one that
ends its side of the stream still gets what it asked for. Peers are parts of the same cluster and have a flow control
of their own above this: they are always read from, and the end of their stream is the end of the link.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from unimeter.io.real.address import as_peer

if TYPE_CHECKING:
    from unimeter.io.real.network import RealNetwork


class Connection:
    """A connection from a client, and what all connections have in common. An asyncio.Protocol by what it does; not by
    inheritance, so that it can be compiled: the event loop, uvloop, asks for no more."""

    __slots__ = (
        "closing", "dialled", "ended", "inner", "linger", "link", "network", "outbox", "outbox_bytes", "transport",
    )  # fmt: skip

    def __init__(self, network: RealNetwork, inner: bool = False, dialled: int = 0) -> None:
        self.network = network
        self.inner = inner  # between nodes
        self.dialled = dialled  # the ref of the Dial that made it; 0: the other side connected
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

    def data_received(self, data: bytes) -> None:
        network = self.network
        network.received_bytes += len(data)
        if self.link and not self.closing:
            network.events.bytes_arrived(self.link, data)

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


class PeerConnection(Connection):
    """A connection between nodes, whichever of the two made it. It is read in larger pieces: an asyncio.BufferedProtocol, which
    a class with `get_buffer` is for the event loop."""

    def __init__(self, network: RealNetwork, dialled: int = 0) -> None:
        super().__init__(network, True, dialled)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        with suppress(OSError):  # it may be gone already, which the transport is about to notice
            as_peer(transport.get_extra_info("socket"))
        super().connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self.network.peer_buffer

    def buffer_updated(self, nbytes: int) -> None:
        network = self.network
        network.peer_received_bytes += nbytes
        if self.link and not self.closing:
            network.events.bytes_arrived(self.link, bytes(network.peer_buffer[:nbytes]))

    def pause_writing(self) -> None:
        """Never: two nodes that stopped reading from each other would wait for ever."""

    def resume_writing(self) -> None:
        """Nothing was paused."""

    def eof_received(self) -> bool:
        assert self.transport is not None
        self.transport.abort()  # what is unsent has nobody to read it
        return False


def as_protocol(connection: Connection) -> asyncio.BaseProtocol:
    """As asyncio's types have it."""
    return cast(asyncio.BaseProtocol, connection)
