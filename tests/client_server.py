"""A real node behind a real socket, with a disk in memory and a line that can be made bad: what the SDK is tested on.

`Line` decides, request by request, what happens on the way there and back. The node itself is never pretended.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.harness import Bench
from unimeter.client.protocol import encode_map, encode_request
from unimeter.io.framer import Framer
from unimeter.kernels import load
from unimeter.kernels import protocol as wire


def response(type: int, status: int, request_id: int, payload: bytes) -> bytes:
    """A v2 response frame, as a server writes it."""
    kernels = load()
    frame = bytearray(encode_request(kernels, type, request_id, payload))
    frame[6] = status
    frame[28:32] = kernels.crc32c(bytes(frame[:28])).to_bytes(4, "little")
    return bytes(frame)


def error_body(code: str) -> bytes:
    return encode_map({"code": code, "message": f"the test said {code}", "fix": "nothing"})


class Line:
    """What happens to ingest requests, one word per request, then nothing unusual:

    ok          there and back
    lose        lost on the way there, and the connection breaks
    lose_answer counted, but the connection breaks before the answer
    busy        refused with backpressure (overloaded)
    disk_full   refused with backpressure (disk_full)
    redirect    sent elsewhere (to `elsewhere`)
    garbage     answered with bytes that are no protocol
    short       answered with an ok of the wrong length
    silence     counted, but never answered
    """

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.opening: list[str] = []  # the same, for the next sessions that are opened
        self.always: str | None = None
        self.elsewhere = ""
        self.frames: list[bytes] = []  # every ingest request that arrived, opening of sessions left out
        self.arrived = asyncio.Event()

    def next(self, frame: bytes) -> str:
        if int.from_bytes(frame[32 + 38 : 32 + 40], "little") & wire.V2_BATCH_FLAG_OPEN_SESSION:
            return self.opening.pop(0) if self.opening else "ok"
        self.frames.append(frame)
        self.arrived.set()
        if self.always:
            return self.always
        return self.plan.pop(0) if self.plan else "ok"


class NodeServer:
    def __init__(self, bench: Bench | None = None) -> None:
        self.bench = bench or Bench()
        self.bench.disk()
        self.line = Line()
        self.address = ""
        self.connections = 0
        self._links = 0
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        self.cut()
        await asyncio.sleep(0)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers.values():
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._links += 1
        self.connections += 1
        link = self._links
        self._writers[link] = writer
        self.bench.link(link)
        framer = Framer(self.bench.kernels, self.bench.config.frame_bytes_max)
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    for buffer, frames in framer.feed(data):
                        for number in range(len(frames)):
                            frame = frames[number]
                            end = frame.payload_off + frame.payload_len
                            if not self._one(link, writer, frame.type, frame.request_id, buffer[frame.offset : end]):
                                return
        finally:
            del self._writers[link]
            writer.transport.abort()

    def _one(self, link: int, writer: asyncio.StreamWriter, type: int, request_id: int, frame: bytes) -> bool:
        """One request; False: the connection is to break."""
        fate = self.line.next(frame) if type == wire.V2_TYPE_INGEST else "ok"
        if fate == "lose":
            return False
        if fate in ("busy", "disk_full"):
            body = error_body("overloaded" if fate == "busy" else fate)
            writer.write(response(type, wire.V2_STATUS_BACKPRESSURE, request_id, body))
            return True
        if fate == "redirect":
            body = encode_map({"address": self.line.elsewhere})
            writer.write(response(type, wire.V2_STATUS_REDIRECT, request_id, body))
            return True
        if fate == "garbage":
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\nthis is not the protocol at all")
            return True
        if fate == "short":
            writer.write(response(type, wire.V2_STATUS_OK, request_id, b"\1\0\0\0"))
            return True
        self.bench.feed(link, frame)
        self.bench.disk()
        if fate == "lose_answer":
            self.bench.take(link)
            return False
        if fate == "silence":
            self.bench.take(link)
            return True
        for other in list(self.bench.sent):
            answer = self.bench.take(other)
            if other in self._writers:
                self._writers[other].write(answer)
        return link not in self.bench.closed


@asynccontextmanager
async def serving(bench: Bench | None = None) -> AsyncIterator[NodeServer]:
    server = NodeServer(bench)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def raw_server(answer: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[str]:
    """Something that listens and answers each piece of bytes with whatever `answer` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    writer.write(await answer(data))
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
