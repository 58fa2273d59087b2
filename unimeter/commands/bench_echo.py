"""The least a round trip costs on this machine: a bare uvloop server that sends back what it gets.

Given a file it writes there first: a block, synced, over space that was written before, in the event loop's own thread. That is
the least that a durable answer from such a loop costs: nothing is understood, remembered, or checked.

Run as a program: listens on a free port of 127.0.0.1, prints it, serves until its stdin closes.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import uvloop

from unimeter.config import BLOCK_BYTES

BLOCKS = 4096  # of the file, one after the other


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Blocks:
    """A file of blocks that are written one after the other, past the page cache where that can be."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(BLOCKS * BLOCK_BYTES))
        flags = os.O_WRONLY | os.O_DSYNC
        try:
            self._fd = os.open(path, flags | os.O_DIRECT)
        except OSError:
            print(
                f"{path.parent}: no O_DIRECT here, so these writes go through the page cache, synced", file=sys.stderr
            )
            self._fd = os.open(path, flags)
        os.fsync(self._fd)
        self._block = mmap.mmap(-1, BLOCK_BYTES)  # aligned
        self._next = 0

    def write(self, data: bytes) -> None:
        self._block[: len(data)] = data
        os.pwrite(self._fd, self._block, self._next % BLOCKS * BLOCK_BYTES)
        self._next += 1


class DurableEcho(Echo):
    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def data_received(self, data: bytes) -> None:
        self.blocks.write(data)
        self.transport.write(data)


async def serve(path: Path | None) -> None:
    loop = asyncio.get_running_loop()
    blocks = None if path is None else Blocks(path)
    server = await loop.create_server(lambda: Echo() if blocks is None else DurableEcho(blocks), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()


@contextmanager
def echo_server(path: Path | None = None) -> Iterator[int]:
    """The port of an echo server that lives as long as the context. `path`: a file to which it writes first."""
    command = [sys.executable, "-m", "unimeter.commands.bench_echo", *([] if path is None else [str(path)])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
