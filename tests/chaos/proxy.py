"""Every connection between nodes, and from clients to nodes, goes through here: a child process that can cut it.

One listening port per node and purpose. Node 2 reaches node 3 at 3's proxied peer address, as everybody does, so all
nodes are given one and the same list of members. Who is calling at a peer address is found out by asking the
operating system which process owns the other end (/proc/net/tcp, /proc/PID/fd); whoever calls at a client address is a
client, number 0.

A *cut* stops the bytes of one direction, src -> dst, without closing anything: the network is silent, as it is when
a cable is pulled. New connections between the two hang. When the cut is healed, what was held back arrives late
(stale messages), or all connections of the pair are reset. A *delay* holds every piece back for a while, in order.

Commands are JSON lines on stdin; `listen` is answered with a line on stdout. `ProxyControl` is the other side.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any, cast

HELD_BYTES_MAX = 32 << 20  # of one direction; beyond it the sender is no longer read
CALLER_TRIES = 20
CALLER_WAIT_S = 0.02
CLIENTS = 0


class Pipe(asyncio.Protocol):
    """One end of a proxied connection; what arrives here is written to `other`, when the rules allow."""

    def __init__(self, proxy: Proxy, src: int, dst: int) -> None:
        self.proxy = proxy
        self.route = (src, dst)  # of what arrives at this end
        self.other: Pipe | None = None
        self.transport: asyncio.Transport | None = None
        self.held: deque[bytes] = deque()
        self.held_bytes = 0
        self.later: asyncio.TimerHandle | None = None
        self.choked = False  # the other end does not take more now
        self.over = False
        self.ended = False  # no more will arrive here

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.proxy.pipes.add(self)

    def data_received(self, data: bytes) -> None:
        delay_s = self.proxy.delays.get(self.route, 0.0)
        if not self.held and not delay_s and not self.stopped() and self.other is not None:
            self.other.put(data)
            return
        self.held.append(data)
        self.held_bytes += len(data)
        self.regulate()
        if delay_s and self.later is None:
            self.later = asyncio.get_running_loop().call_later(delay_s, self.release)
        elif not delay_s:
            self.release()

    def put(self, data: bytes) -> None:
        """Send from this end, as long as there is one."""
        if self.transport is not None and not self.over and not self.transport.is_closing():
            self.transport.write(data)

    def stopped(self) -> bool:
        return self.route in self.proxy.cuts

    def release(self) -> None:
        self.later = None
        if self.stopped() or self.other is None or self.other.transport is None:
            return
        while self.held:
            self.other.put(self.held.popleft())
        self.held_bytes = 0
        if self.ended:
            self.other.transport.close()
        else:
            self.regulate()

    def regulate(self) -> None:
        """Read from here only while there is somewhere to put it."""
        if self.transport is None or self.over or self.ended or self.transport.is_closing():
            return
        if self.choked or self.held_bytes > HELD_BYTES_MAX:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.choked = True
            self.other.regulate()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.choked = False
            self.other.regulate()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        self.ended = True
        self.proxy.pipes.discard(self)
        if self.other is None or self.other.transport is None:
            return
        if exc is not None and not self.stopped():
            self.other.transport.abort()
        elif not self.stopped() and self.later is None:  # else: the news travels when the cut is healed
            self.other.transport.close()


class Proxy:
    def __init__(self) -> None:
        self.pipes: set[Pipe] = set()
        self.cuts: set[tuple[int, int]] = set()
        self.delays: dict[tuple[int, int], float] = {}
        self.pids: dict[int, int] = {}  # node -> process
        self.tasks: set[asyncio.Task[None]] = set()

    async def listen(self, node: int, port: int, target_port: int, peers: bool) -> None:
        loop = asyncio.get_running_loop()

        def accept() -> Pipe:
            pipe = Pipe(self, CLIENTS, node)
            task = loop.create_task(self.connect(pipe, node, target_port, peers))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            return pipe

        await loop.create_server(accept, "127.0.0.1", port)

    async def connect(self, near: Pipe, node: int, target_port: int, peers: bool) -> None:
        """Find out who calls, then call the node on their behalf."""
        await asyncio.sleep(0)  # connection_made comes first
        assert near.transport is not None
        peer = near.transport.get_extra_info("peername")
        source = await self.caller(peer[1]) if peers and peer else CLIENTS
        near.route = (source, node)
        back = (node, source)
        while (near.route in self.cuts or back in self.cuts) and not near.over:
            await asyncio.sleep(0.02)
        if near.over:
            return
        far = Pipe(self, node, source)
        far.other = near
        try:
            await asyncio.get_running_loop().create_connection(lambda: far, "127.0.0.1", target_port)
        except OSError:
            near.transport.abort()
            return
        near.other = far
        if near.over:
            assert far.transport is not None
            far.transport.abort()
        else:
            near.release()

    async def caller(self, port: int) -> int:
        """The node whose process holds the connection from this local port, or CLIENTS."""
        for _ in range(CALLER_TRIES):
            inode = await asyncio.to_thread(socket_inode, port)
            if inode:
                for node, pid in self.pids.items():
                    if inode in sockets_of(pid):
                        return node
                return CLIENTS
            await asyncio.sleep(CALLER_WAIT_S)
        return CLIENTS

    def command(self, body: dict[str, Any]) -> None:
        op = body["op"]
        if op == "pid":
            self.pids[body["node"]] = body["pid"]
        elif op == "cut":
            self.cuts |= {(src, dst) for src, dst in body["routes"]}
        elif op == "delay":
            self.delays |= dict.fromkeys(map(tuple, body["routes"]), body["seconds"])
        elif op == "heal":
            routes = {(src, dst) for src, dst in body["routes"]}
            self.cuts -= routes
            for route in routes:
                self.delays.pop(route, None)
            for pipe in list(self.pipes):
                if pipe.route not in routes:
                    continue
                if body["reset"] and pipe.transport:
                    pipe.transport.abort()
                    if pipe.other and pipe.other.transport:
                        pipe.other.transport.abort()
                else:
                    pipe.release()

    async def serve(self) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            body = json.loads(line)
            if body["op"] == "listen":
                await self.listen(body["node"], body["port"], body["target"], body["peers"])
                print(json.dumps({"port": body["port"]}), flush=True)
            else:
                self.command(body)


def socket_inode(port: int) -> str:
    """The socket of this machine whose local port this is and that is connected ("" when there is none)."""
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted and fields[9] != "0":
            return fields[9]
    return ""


def sockets_of(pid: int) -> set[str]:
    found = set()
    try:
        for entry in os.scandir(f"/proc/{pid}/fd"):
            try:
                target = str(Path(entry.path).readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass
    return found


Route = tuple[int, int]


class ProxyControl:
    """The parent's handle: starts the child, tells it what to cut."""

    def __init__(self) -> None:
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.proxy",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def tell(self, op: str, **body: object) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"op": op, **body}).encode() + b"\n")

    async def listen(self, node: int, port: int, target_port: int, *, peers: bool) -> None:
        """From now on what arrives at `port` goes to `target_port`, where node `node` listens, for peers or clients."""
        self.tell("listen", node=node, port=port, target=target_port, peers=peers)
        assert self.process is not None
        assert self.process.stdout is not None
        answer = await self.process.stdout.readline()
        assert answer, "the proxy died"

    def node_is(self, node: int, pid: int) -> None:
        self.tell("pid", node=node, pid=pid)

    def cut(self, routes: list[Route]) -> None:
        self.tell("cut", routes=routes)

    def delay(self, routes: list[Route], seconds: float) -> None:
        self.tell("delay", routes=routes, seconds=seconds)

    def heal(self, routes: list[Route], reset: bool) -> None:
        self.tell("heal", routes=routes, reset=reset)

    @property
    def dead(self) -> bool:
        return self.process is not None and self.process.returncode is not None

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


def main() -> None:
    import uvloop

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(Proxy().serve())


if __name__ == "__main__":
    main()
