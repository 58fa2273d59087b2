"""A cluster for the SDK to be tested on: several servers in this process, each group's state a real node of its own.

What a group stores is kept once (a `Bench`, tests/harness.py), as if its replicas always agreed; which server leads it is
the test's word (`elect`). The servers answer as the protocol says: a leader serves, others redirect, nobody leads while
there is no leader. A server can be killed, hung (it accepts connections and says nothing, as a stopped process does), made
to believe in other leaders, and told what to do with its next requests (`plan`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from tests.client_server import error_body, response
from tests.harness import Bench
from unimeter.client.protocol import Protocol, decode_map, encode_map, encode_request
from unimeter.client.topology import group_of, group_of_row
from unimeter.errors import IngestIncomplete, RequestTimeout
from unimeter.io.framer import Framer
from unimeter.kernels import load
from unimeter.kernels import protocol as wire

KERNELS = load()
PUSHBACK = {"no_leader", "leader_changed", "starting", "overloaded", "disk_full"}
DATA_TYPES = {wire.V2_TYPE_INGEST, wire.V2_TYPE_QUERY, wire.V2_TYPE_EVENTS_LIST, wire.V2_TYPE_ALERTS_LIST}


class ClusterServer:
    """One node as clients see it. `plan` holds what becomes of its next requests about events, one word each: ok,
    lose, lose_answer, silence (done, but not answered), an error code of PUSHBACK, or the address to redirect to."""

    def __init__(self, cluster: FakeCluster, id: int) -> None:
        self.cluster = cluster
        self.id = id
        self.address = ""
        self.advertised = ""  # what clients are told; the same, unless the test says otherwise
        self.plan: list[str] = []
        self.believed: dict[int, str] = {}  # leaders that this node believes in, whatever is true
        self.asked: Counter[int] = Counter()  # requests that arrived, by type
        self.redirects = 0
        self._running = asyncio.Event()
        self._running.set()
        self._server: asyncio.Server | None = None
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._watching: set[int] = set()

    async def start(self) -> None:
        port = int(self.address.rpartition(":")[2] or 0)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.advertised = self.advertised or self.address

    def kill(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers.values():
            writer.transport.abort()

    def hang(self) -> None:
        self._running.clear()

    def resume(self) -> None:
        self._running.set()

    def leaders(self) -> list[str]:
        true = self.cluster.leader_addresses()
        return [self.believed.get(group, true[group]) for group in range(len(true))]

    def topology(self) -> dict[str, Any]:
        return {
            "epoch": self.cluster.epoch,
            "groups": len(self.cluster.benches),
            "partitions": wire.PARTITIONS,
            "leaders": self.leaders(),
            "nodes": [{"id": node.id, "address": node.advertised} for node in self.cluster.nodes],
        }

    def push_topology(self) -> None:
        for link in self._watching & set(self._writers):
            if self._running.is_set():
                self._writers[link].write(response(wire.V2_TYPE_TOPOLOGY_PUSH, 0, 0, encode_map(self.topology())))

    def push(self, link: int, data: bytes) -> None:
        if self._running.is_set() and link in self._writers:
            self._writers[link].write(data)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = self.cluster.open_link(self)
        self._writers[link] = writer
        framer = Framer(KERNELS, self.cluster.benches[0].config.frame_bytes_max)
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    await self._running.wait()
                    for buffer, frames in framer.feed(data):
                        for number in range(len(frames)):
                            frame = frames[number]
                            end = frame.payload_off + frame.payload_len
                            if not self._one(link, writer, bytes(buffer[frame.offset : end])):
                                return
        finally:
            del self._writers[link]
            writer.transport.abort()

    def _one(self, link: int, writer: asyncio.StreamWriter, frame: bytes) -> bool:
        """One request; False: the connection is to break."""
        type, request_id, payload = frame[5], int.from_bytes(frame[12:16], "little"), frame[32:]
        self.asked[type] += 1

        def answer(status: int, body: dict[str, Any]) -> bool:
            writer.write(response(type, status, request_id, encode_map(body)))
            return True

        if type == wire.V2_TYPE_HELLO:
            return answer(0, self._hello())
        if type == wire.V2_TYPE_TOPOLOGY:
            if decode_map(payload).get("subscribe"):
                self._watching.add(link)
            return answer(0, self.topology())
        if type == wire.V2_TYPE_CLUSTER:
            return answer(0, {"echo": decode_map(payload)})
        fate = self.plan.pop(0) if self.plan and type in DATA_TYPES else "ok"
        if fate == "lose":
            return False
        if fate in PUSHBACK:
            writer.write(response(type, wire.V2_STATUS_BACKPRESSURE, request_id, error_body(fate)))
            return True
        groups = self.cluster.groups_of(type, frame)
        for group in groups or ():
            leader = fate if ":" in fate else self.leaders()[group]
            if leader == self.advertised:
                continue
            if not leader:
                writer.write(response(type, wire.V2_STATUS_BACKPRESSURE, request_id, error_body("no_leader")))
                return True
            self.redirects += 1
            return answer(wire.V2_STATUS_REDIRECT, {"address": leader, "group": group})
        answers = self.cluster.ask(link, type, request_id, frame, groups)
        if fate in ("lose_answer", "silence"):
            return fate == "silence"
        writer.write(answers)
        return True

    def _hello(self) -> dict[str, Any]:
        config = self.cluster.benches[0].config
        limits = {"batch_events_max": config.batch_events_max, "frame_bytes_max": config.frame_bytes_max}
        about = {"server": "fake", "node_id": self.id, "cluster": "c0ffee", "features": [], "session_window": 64}
        return self.topology() | limits | about


class FakeCluster:
    def __init__(self, nodes: int = 3, groups: int = 4) -> None:
        self.benches = [Bench() for _ in range(groups)]
        for bench in self.benches:
            bench.disk()
        self.nodes = [ClusterServer(self, number + 1) for number in range(nodes)]
        self.led_by: list[ClusterServer | None] = [self.nodes[group % nodes] for group in range(groups)]
        self.epoch = 1
        self.frames: list[tuple[int, bytes]] = []  # (group, frame) of every batch that was taken, openings left out
        self._links: dict[int, ClusterServer] = {}

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def leader_addresses(self) -> list[str]:
        return [node.advertised if node else "" for node in self.led_by]

    def elect(self, leader: ClusterServer | None, *groups: int) -> None:
        """These groups (or all) have another leader now, or none; whoever watches is told."""
        for group in groups or range(len(self.benches)):
            self.led_by[group] = leader
        self.epoch += 1
        for node in self.nodes:
            node.push_topology()

    def replace(self, dead: ClusterServer, leader: ClusterServer | None) -> None:
        self.elect(leader, *(group for group, node in enumerate(self.led_by) if node is dead))

    def account_of(self, group: int, nth: int = 0) -> int:
        """The nth account of a group: any number will do, as long as it is in no other."""
        return group + len(self.benches) * nth

    def open_link(self, node: ClusterServer) -> int:
        link = len(self._links) + 1
        self._links[link] = node
        for bench in self.benches:
            bench.link(link)
        return link

    def groups_of(self, type: int, frame: bytes) -> list[int] | None:
        """The groups that a request is for; None: for all, and any node may answer."""
        count = len(self.benches)
        if type == wire.V2_TYPE_INGEST:
            hint = int.from_bytes(frame[20:24], "little") or (count == 1)
            assert 1 <= hint <= count, "the SDK names the group of every batch"
            head = wire.V2_INGEST_HEAD.unpack_from(frame, 32)
            at = 32 + wire.V2_INGEST_HEAD.size + head[-1]
            while at < len(frame):
                row = frame[at : at + 32 + int.from_bytes(frame[at + 30 : at + 32], "little")]
                assert group_of_row(row, count, KERNELS) == hint - 1, "a batch has events of one group only"
                at += len(row)
            return [hint - 1]
        body = decode_map(frame[32:]) if len(frame) > 32 else {}
        if body.get("account") is not None and type in DATA_TYPES:
            account = body["account"]
            return [group_of(account if isinstance(account, int) else account.encode(), count, KERNELS)]
        if type == wire.V2_TYPE_ALERTS_LIST:
            return [body["group"]]
        if type == wire.V2_TYPE_ALERTS_SUBSCRIBE:
            return list(body["groups"])
        return None

    def ask(self, link: int, type: int, request_id: int, frame: bytes, groups: list[int] | None) -> bytes:
        """Let the groups serve a request; the answer is that of the first."""
        if type == wire.V2_TYPE_INGEST:
            head = bytearray(frame[:28])
            head[20:24] = bytes(4)  # a node of one group knows no other
            if frame[32 + 38] & wire.V2_BATCH_FLAG_OPEN_SESSION == 0:
                assert groups is not None
                self.frames.append((groups[0], frame))
            frame = bytes(head) + KERNELS.crc32c(bytes(head)).to_bytes(4, "little") + frame[32:]
        found = []
        for group in range(len(self.benches)) if groups is None else groups:
            asked = frame
            if type == wire.V2_TYPE_ALERTS_SUBSCRIBE:
                body = decode_map(frame[32:])
                asked = encode_request(KERNELS, type, request_id, encode_map({"since": body["cursors"][group]}))
            elif type == wire.V2_TYPE_ALERTS_LIST:
                body = decode_map(frame[32:])
                body.pop("group", None)
                asked = encode_request(KERNELS, type, request_id, encode_map(body))
            self.benches[group].feed(link, asked)
            self.benches[group].disk()
            found.append(self._mine(link, group, request_id))
        return found[0]

    def _mine(self, link: int, group: int, request_id: int) -> bytes:
        """The answer for this link; what a group has for other links (alerts) is pushed there."""
        bench = self.benches[group]
        answer = b""
        for other in list(bench.sent):
            for item in Protocol(KERNELS).receive(bench.take(other)):
                body = decode_map(item.payload) if item.type != wire.V2_TYPE_INGEST else {}
                payload = item.payload
                if item.type == wire.V2_TYPE_ALERT_PUSH:
                    payload = encode_map(body | {"group": group})
                elif item.type == wire.V2_TYPE_ALERTS_LIST and item.status == 0:
                    payload = encode_map({"alerts": [alert | {"group": group} for alert in body["alerts"]]})
                data = response(item.type, item.status, item.request_id, payload)
                if other == link and item.request_id == request_id:
                    answer += data
                else:
                    self._links[other].push(other, data)
        return answer


@asynccontextmanager
async def cluster_of(nodes: int = 3, groups: int = 4) -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster(nodes, groups)
    for node in cluster.nodes:
        await node.start()
    try:
        yield cluster
    finally:
        for node in cluster.nodes:
            node.resume()
            node.kill()
        await asyncio.sleep(0)


async def in_the_end(ask: Callable[[], Awaitable[object]]) -> object:
    """What comes of it, once that is known: when time ran out while the last try's answer was on its way, it is asked again."""
    while True:
        with contextlib.suppress(IngestIncomplete, RequestTimeout):
            return await ask()


async def leaders_come_and_go(cluster: FakeCluster, dice: Random) -> None:
    """For a second or so; in the end every group has one."""
    groups = len(cluster.benches)
    for _ in range(20):
        await asyncio.sleep(dice.random() / 20)
        cluster.elect(dice.choice([*cluster.nodes, None]), dice.randrange(groups))
    for group in range(groups):
        cluster.elect(dice.choice(cluster.nodes), group)
