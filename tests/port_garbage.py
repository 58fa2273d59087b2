"""A stranger at the port: random bytes, mutated frames, frames cut short and glued together.

    python -m tests.port_garbage --frames 1000000

While the garbage flows over many short connections, a bystander keeps ingesting and querying on a connection
of its own. At the end: the node lives, every total is what the bystander alone put there, its connection
was never disturbed, and the node's memory has not grown.
"""

from __future__ import annotations

import argparse
import random
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import v1_client as v1
from tests.v1_client import Event, V1Client
from unimeter.commands.bench_node import NodeProcess

T0 = 1_700_000_000_000_000_000
GROWTH_BYTES_MAX = 24 << 20
FRAMES_PER_CONNECTION = 60
MAGIC_V2 = 0xC0FFEE02


def quietly(line: str) -> None:
    """Report nothing."""
    del line


def crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def v2_frame(kind: int, payload: bytes, flags: int = 0) -> bytes:
    head = struct.pack("<IBBBBIIIII", MAGIC_V2, 2, kind, 0, flags, len(payload), 7, 0, 0, crc32c(payload))
    return head + struct.pack("<I", crc32c(head)) + payload


def v2_ingest(dictionary: bytes, rows: bytes, count: int, session: tuple[int, int, int, int] = (0, 0, 0, 0)) -> bytes:
    padded = dictionary.ljust(-(-len(dictionary) // 8) * 8, b"\0")
    codes = 1 if dictionary else 0
    return struct.pack("<QQQQIHHII", *session, count, codes, 0, len(rows), len(padded)) + padded + rows


class Garbage:
    """Frames that must change nothing. Valid seeds name only metrics that do not exist, so even an unharmed one is refused."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        event = Event("no_such_metric", 1, T0, 1, 1, (("k", "v"),))
        row = struct.pack("<QqqHBBBBH", 1, T0, 1, 0, 0, 0, 0, 0, 0)
        code = b"\x0eno_such_metric"
        query = struct.pack("<Qqq64sB7x", 1, 0, 2**62, b"no_such_metric", 1)
        self.seeds = [
            v1.frame(v1.INGEST_SYNC, v1.ingest_payload([event] * 3), 1),
            v1.frame(v1.INGEST_ASYNC, v1.ingest_payload([event]), 2),
            v1.frame(v1.QUERY, query + v1.dimension_filter("k", ["a"]), 3),
            v1.frame(v1.BREAKDOWN, query + v1.padded("k", 32), 4),
            v1.frame(v1.REALTIME, struct.pack("<Q64s", 1, b"no_such_metric"), 5),
            v1.frame(v1.METRIC_DELETE, v1.padded("no_such_metric", 64), 6),
            v1.frame(v1.CLUSTER_STATUS, b"", 7),
            v1.frame(v1.METRIC_LIST, b"", 8),
            v1.frame(v1.ALERTS, struct.pack("<QQ", 0, 0), 9),
            v2_frame(0x01, b"\x81\xa6client\xa4fuzz"),
            v2_frame(0x02, v2_ingest(code, row * 2, 2), 2),
            v2_frame(0x03, b"\x84\xa7account\x01\xa6metric\xa1x\xa5start\x00\xa3end\x01"),
            v2_frame(0x06, b"\x80"),
            v2_frame(0x0A, b"\x80"),
        ]

    def frame(self) -> bytes:
        chance = self.random
        kind = chance.randrange(8)
        if kind == 0:
            return chance.randbytes(chance.choice((1, 16, 32, 40, 300)))
        frame = bytearray(chance.choice(self.seeds))
        if kind == 1:
            return bytes(frame[: chance.randrange(len(frame))])
        if kind == 2:
            return bytes(frame) + chance.randbytes(chance.randrange(1, 24))
        if kind == 3 and len(frame) > 32:  # a wrong body under right checksums
            return self.resealed(frame, lambda body: self.mutated(body, 3))
        if kind == 4:  # lying lengths
            struct.pack_into(
                "<I", frame, 8, chance.choice((0, 1, len(frame), 2**31, 2**32 - 1, chance.getrandbits(23)))
            )
            return bytes(frame)
        if kind == 5:  # extreme numbers in the body under right checksums
            return self.resealed(frame, self.with_extreme)
        return bytes(self.mutated(frame, chance.randrange(1, 9)))

    def mutated(self, data: bytearray, times: int) -> bytearray:
        for _ in range(times if data else 0):
            data[self.random.randrange(len(data))] = self.random.getrandbits(8)
        return data

    def with_extreme(self, body: bytearray) -> bytearray:
        value = self.random.choice((2**64 - 1, 2**63, 2**63 - 1, 2**32 - 1, 0, 65_537))
        at = self.random.randrange(max(1, len(body)))
        return body[:at] + bytearray(value.to_bytes(8, "little")) + body[at + 8 :]

    def resealed(self, frame: bytearray, change: Callable[[bytearray], bytearray]) -> bytes:
        if struct.unpack_from("<I", frame)[0] == MAGIC_V2:
            return v2_frame(frame[5], bytes(change(frame[32:])), frame[7])
        body = bytes(change(frame[16:]))
        return bytes(frame[:8]) + struct.pack("<I", len(body)) + bytes(frame[12:16]) + body


def throw(port: int, seed: int, frames: int) -> None:
    """Send so many frames over short connections; whatever the node answers is read and ignored."""
    garbage = Garbage(seed)
    while frames > 0:
        part = min(frames, garbage.random.randrange(1, 2 * FRAMES_PER_CONNECTION))
        frames -= part
        with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
            try:
                for _ in range(part):
                    link.sendall(garbage.frame())
                link.shutdown(socket.SHUT_WR)
                while link.recv(1 << 16):
                    pass
            except ConnectionError:
                pass  # the node closed it in the middle, as it should


@dataclass
class Bystander:
    """An honest client beside the noise."""

    port: int
    stop: threading.Event
    events: int = 0
    fault: str = ""

    def run(self) -> None:
        try:
            with V1Client("127.0.0.1", self.port) as client:
                while not self.stop.is_set():
                    batch = [Event("honest", 5, T0 + self.events + i, 3) for i in range(10)]
                    answer = client.ingest(batch)
                    assert (answer.status, answer.stored) == (v1.OK, 10), answer
                    self.events += 10
                    got = client.query(5, "honest", T0 - 1, 2**62)
                    assert (got.count, got.sum) == (self.events, 3 * self.events), got
        except (AssertionError, v1.ConnectionGone, OSError) as error:
            self.fault = f"after {self.events} events: {error!r}"


@dataclass
class Outcome:
    frames: int
    bystander_events: int
    resident_before: int
    resident_after: int


def port_garbage(
    directory: Path, frames: int, seed: int, throwers: int = 2, report: Callable[[str], None] = quietly
) -> Outcome:
    """Raises AssertionError when anything was disturbed."""
    with NodeProcess(directory, "--memory-max", "256M") as node, V1Client("127.0.0.1", node.port) as quiet:
        for code in ("honest", "still"):
            quiet.metric_put(code, v1.SUM)
        quiet.ingest([Event("still", 6, T0 + i, 2) for i in range(100)])
        metrics = quiet.metric_list()
        throw(node.port, seed, min(2000, frames // 10))  # buffers and caches find their size
        before = node.resident_bytes()
        bystander = Bystander(node.port, threading.Event())
        beside = threading.Thread(target=bystander.run)
        beside.start()
        try:
            slices = max(1, frames // 50_000)
            for number in range(slices):
                threads = [
                    threading.Thread(
                        target=throw, args=(node.port, seed + 1 + number * throwers + t, frames // slices // throwers)
                    )
                    for t in range(throwers)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                assert node.process is not None
                assert node.process.poll() is None, f"the node died: {node.log_path.read_text()[-2000:]}"
                report(f"{frames * (number + 1) // slices:,} frames, {node.resident_bytes() >> 20} MiB resident, "
                       f"bystander at {bystander.events:,} events")  # fmt: skip
        finally:
            bystander.stop.set()
            beside.join(30)
        assert not bystander.fault, bystander.fault
        assert bystander.events > 0, "the bystander never got a turn"
        assert quiet.query(6, "still", T0 - 1, 2**62) == v1.Aggregate(200, 100, 2, 2, T0 + 99, 0)
        left = [metric for metric in quiet.metric_list() if metric.code in ("honest", "still")]
        assert left == metrics, "the garbage changed a metric"
        after = node.resident_bytes()
        # what the bystander stored takes room of its own: its fingerprints and the journal's index
        allowed = GROWTH_BYTES_MAX + 200 * bystander.events
        assert after - before <= allowed, f"resident memory grew from {before >> 20} to {after >> 20} MiB"
        return Outcome(frames, bystander.events, before, after)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unimeter-garbage-") as place:
        try:
            outcome = port_garbage(
                Path(place) / "data", arguments.frames, arguments.seed, report=lambda line: print(line, flush=True)
            )
        except AssertionError as error:
            print(
                f"FAILED: {error}\nagain: python -m tests.port_garbage --frames {arguments.frames} --seed {arguments.seed}"
            )
            return 1
    print(f"{outcome.frames:,} frames: no crash, no total changed, bystander undisturbed ({outcome.bystander_events:,} events), "
          f"resident {outcome.resident_before >> 20} -> {outcome.resident_after >> 20} MiB")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
