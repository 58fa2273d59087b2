"""The two protocols by hand, for asyncio: a v1 connection as the published clients have one, and a v2 request or two.

`V1Link` multiplexes by request id over one connection. `ask_once` opens a v2 connection, asks one node (and nobody
else: no routing, no retries) and closes it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgpack

from tests import v1_client as v1
from unimeter.kernels import load
from unimeter.kernels import protocol as codes

Body = dict[str, Any]
CLUSTER = 0x0E
STATUS = codes.V2_TYPE_STATUS
OK, ERROR, REDIRECT, BACKPRESSURE = range(4)
ANSWER_BYTES_MAX = 64 << 20


class Refused(Exception):
    """An answer that is not ok."""

    def __init__(self, status: int, body: Body) -> None:
        super().__init__(f"status {status}: {body}")
        self.status = status
        self.body = body


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


async def ask_once(address: str, kind: int, body: Body, timeout_s: float) -> Body:
    """One v2 request to exactly this node. Raises Refused, TimeoutError, OSError or EOFError."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(*split(address))
        try:
            writer.write(v2_frame(codes.V2_TYPE_HELLO, 1, {"client": "chaos"}) + v2_frame(kind, 2, body))
            while True:
                head = await reader.readexactly(codes.V2_HEADER.size)
                fields = dict(zip(codes.FIELDS["V2_HEADER"], codes.V2_HEADER.unpack(head), strict=True))
                assert fields["magic"] == codes.V2_MAGIC
                assert fields["payload_len"] <= ANSWER_BYTES_MAX
                payload = await reader.readexactly(fields["payload_len"])
                if fields["request_id"] != 2:
                    continue
                answer = msgpack.unpackb(payload) if payload else {}
                if fields["status"] != OK:
                    raise Refused(fields["status"], answer)
                assert isinstance(answer, dict)
                return answer
        finally:
            writer.close()


def v2_frame(kind: int, request_id: int, body: Body) -> bytes:
    crc32c = load().crc32c
    payload: bytes = msgpack.packb(body)
    fields = (codes.V2_MAGIC, codes.V2_VERSION, kind, 0, 0, len(payload), request_id, 0, 0, crc32c(payload), 0)
    head: bytes = codes.V2_HEADER.pack(*fields)[:-4]
    return head + struct.pack("<I", crc32c(head)) + payload


class V1Link(asyncio.Protocol):
    """One v1 connection. `ask` may be called many times at once."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.waiting: dict[int, asyncio.Future[v1.Answer]] = {}
        self.last_id = 0
        self.alive = False
        self.transport: asyncio.BaseTransport | None = None

    @classmethod
    async def open(cls, address: str, timeout_s: float) -> V1Link:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(cls, *split(address))
        return link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.alive = True
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.received += data
        at = 0
        while len(self.received) - at >= 12:
            status, request_id, length = struct.unpack_from("<B3xII", self.received, at)
            if len(self.received) - at < 12 + length:
                break
            payload = bytes(self.received[at + 12 : at + 12 + length])
            at += 12 + length
            waiter = self.waiting.pop(request_id, None)  # request_id 0: a push, which nobody waits for
            if waiter is not None and not waiter.done():
                waiter.set_result(v1.Answer(status, request_id, payload))
        del self.received[:at]

    def connection_lost(self, _: Exception | None) -> None:
        self.alive = False
        for waiter in self.waiting.values():
            if not waiter.done():
                waiter.set_exception(ConnectionResetError())
        self.waiting.clear()

    async def ask(self, packet_type: int, payload: bytes, timeout_s: float) -> v1.Answer:
        """Raises OSError or TimeoutError: then nobody knows."""
        if not self.alive or self.transport is None:
            raise ConnectionResetError
        self.last_id += 1
        request_id = self.last_id
        waiter: asyncio.Future[v1.Answer] = asyncio.get_running_loop().create_future()
        self.waiting[request_id] = waiter
        self.transport.write(v1.frame(packet_type, payload, request_id))  # type: ignore[attr-defined]
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        finally:
            self.waiting.pop(request_id, None)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class V1Fleet:
    """Connections to whichever node: opened when needed, dropped when broken."""

    def __init__(self) -> None:
        self.links: dict[str, V1Link] = {}

    async def ask(self, address: str, packet_type: int, payload: bytes, timeout_s: float) -> v1.Answer:
        link = self.links.get(address)
        if link is None or not link.alive:
            link = self.links[address] = await V1Link.open(address, min(timeout_s, 1.0))
        try:
            return await link.ask(packet_type, payload, timeout_s)
        except TimeoutError:
            link.close()  # as a client does whose node says nothing
            self.links.pop(address, None)
            raise

    def close(self) -> None:
        for link in self.links.values():
            link.close()


def redirect_of(answer: v1.Answer) -> str:
    return v1.unpadded(answer.payload[:24])
