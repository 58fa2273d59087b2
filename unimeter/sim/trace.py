"""What happened, line by line, and its digest.

Every event of a run becomes one line of text; the digest of all lines is the run's fingerprint. Two runs of
one seed must have equal digests on every machine, under any PYTHONHASHSEED, with native and reference
kernels: a difference is itself a failure, because then a seed would no longer be a reproduction.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import TextIO
from zlib import crc32

TAIL_LINES = 40


class Trace:
    """Collects lines; keeps the last few for the failure report, all of them only when a sink is given."""

    def __init__(self, sink: TextIO | None = None) -> None:
        self._hash = blake2b(digest_size=16)
        self._sink = sink
        self.lines = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def note(self, now_ns: int, text: str) -> None:
        line = f"{now_ns} {text}\n"
        self._hash.update(line.encode())
        self.lines += 1
        self.tail.append(line)
        if self._sink is not None:
            self._sink.write(f"{now_ns / 1e6:14.6f} ms  {text}\n")

    def digest(self) -> str:
        return self._hash.hexdigest()


def brief(data: bytes | bytearray | memoryview) -> str:
    """Bytes as length and checksum: enough to notice any difference."""
    return f"{len(data)}B {crc32(data):08x}"
