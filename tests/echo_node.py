"""A fake node for testing clients: speaks v1 and v2 ingest, query and metric put over a real socket, checks every
byte it is sent against the protocol, and keeps exact counts. It is slow, and stores nothing."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import BinaryIO

from tests.v1_client import INGEST_ASYNC, INGEST_SYNC, METRIC_PUT, QUERY, unpadded

CRC_TABLE = []
for _byte in range(256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    CRC_TABLE.append(_byte)


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


@dataclass
class Seen:
    metrics: list[str] = field(default_factory=list)
    rows: set[tuple[str, int, int]] = field(default_factory=set)  # code, account, timestamp
    values: Counter[str] = field(default_factory=Counter)
    ids: set[bytes] = field(default_factory=set)
    flags: Counter[tuple[int, int]] = field(default_factory=Counter)  # (type, flags)
    batches: dict[tuple[int, int], list[int]] = field(default_factory=dict)  # session -> numbers
    hellos: int = 0
    queries: int = 0
    connections: int = 0
    backpressure_left: int = 0  # answer so many ingests with "later" first


class EchoNode:
    """`with EchoNode() as node:` listens on node.port; `node.seen` is complete once the client is done."""

    def __init__(self, backpressure: int = 0) -> None:
        self.seen = Seen(backpressure_left=backpressure)
        self.faults: list[str] = []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.threads: list[threading.Thread] = []

    def __enter__(self) -> EchoNode:
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)
        assert not self.faults, self.faults

    def accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self.serve, args=(link,), daemon=True)
            self.threads.append(thread)
            self.seen.connections += 1
            thread.start()

    def serve(self, link: socket.socket) -> None:
        stream = link.makefile("rb")
        try:
            while head := stream.read(16):
                magic, version, kind = struct.unpack_from("<IBB", head)
                with self.lock:
                    if magic == 0xC0FFEE01:
                        assert version == 1
                        payload_len, request_id = struct.unpack_from("<II", head, 8)
                        answer = self.v1(kind, stream.read(payload_len), request_id)
                    else:
                        assert (magic, version) == (0xC0FFEE02, 2)
                        answer = self.v2(head + stream.read(16), stream)
                link.sendall(answer)
        except ConnectionError:
            pass
        except (AssertionError, struct.error) as fault:
            self.faults.append(repr(fault))
        finally:
            link.close()

    def later(self) -> bool:
        self.seen.backpressure_left -= 1
        return self.seen.backpressure_left >= 0

    def v1(self, kind: int, payload: bytes, request_id: int) -> bytes:
        def answer(status: int, body: bytes = b"") -> bytes:
            return struct.pack("<B3xII", status, request_id, len(body)) + body

        if kind == METRIC_PUT:
            assert len(payload) == 132
            self.seen.metrics.append(unpadded(payload[:64]))
            return answer(0)
        if kind == QUERY:
            assert len(payload) == 96
            assert payload[88:] == bytes(8)
            self.seen.queries += 1
            return answer(0, bytes(56))
        assert kind in (INGEST_ASYNC, INGEST_SYNC)
        if self.later():
            return answer(6)
        self.seen.flags[kind, 0] += 1
        count, properties = struct.unpack_from("<II", payload)
        assert (properties, len(payload)) == (0, 8 + 96 * count)
        for code, account, at, value, rest in struct.iter_unpack("<64sQqQQ", payload[8:]):
            assert rest == 0
            self.row(unpadded(code), account, at, value)
        return answer(0, struct.pack("<IIQ", count, 0, 1))

    def v2(self, head: bytes, stream: BinaryIO) -> bytes:
        _, _, kind, status, flags, payload_len, request_id, _, zero, payload_crc, header_crc = struct.unpack(
            "<IBBBBIIIIII", head
        )
        payload = stream.read(payload_len)
        assert (crc32c(head[:28]), crc32c(payload), status, zero) == (header_crc, payload_crc, 0, 0)

        def answer(body: bytes, status: int = 0) -> bytes:
            lengths = (len(body), request_id, 0, 0, crc32c(body))
            first = struct.pack("<IBBBBIIIII", 0xC0FFEE02, 2, kind, status, 0, *lengths)
            return first + struct.pack("<I", crc32c(first)) + body

        if kind == 0x01:
            self.seen.hellos += 1
            return answer(b"\x80")
        if kind == 0x03:
            assert payload.startswith(b"\x84\xa7account\xcf")
            self.seen.queries += 1
            return answer(b"\x80")
        assert kind == 0x02
        hi, lo, number, settled = struct.unpack_from("<QQQQ", payload)
        count, codes, batch_flags, rows_len, dictionary_len = struct.unpack_from("<IHHII", payload, 32)
        assert len(payload) == 48 + dictionary_len + rows_len
        if batch_flags == 1:
            assert (number, count, dictionary_len, rows_len) == (0, 0, 0, 0)
            self.seen.batches[hi, lo] = []
            return answer(bytes(32))
        if self.later():
            return answer(b"\x80", 3)
        self.seen.flags[kind, flags] += 1
        if (hi, lo) != (0, 0):
            assert settled <= number
            self.seen.batches[hi, lo].append(number)
        names, at = [], 48
        for _ in range(codes):
            names.append(payload[at + 1 : at + 1 + payload[at]].decode())
            at += 1 + payload[at]
        assert (at + 7) // 8 * 8 == 48 + dictionary_len
        at = 48 + dictionary_len
        for _ in range(count):
            account, when, value, metric, _op, row_flags, props, _, tail = struct.unpack_from("<QqqHBBBBH", payload, at)
            assert props == 0
            self.row(names[metric], account, when, value)
            if row_flags == 2:
                assert (payload[at + 32], tail) == (15, 16)
                self.seen.ids.add(payload[at + 33 : at + 48])
            at += 32 + tail
        assert at == len(payload)
        return answer(struct.pack("<IIIIQII", count, 0, 0, 0, 1, 0, 0))

    def row(self, code: str, account: int, at: int, value: int) -> None:
        self.seen.rows.add((code, account, at))
        self.seen.values[code] += value
