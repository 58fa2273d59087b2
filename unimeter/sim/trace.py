"""What happened, line by line, and its digest.

Every event of a run becomes one line of text; the digest of all lines is the run's fingerprint. Two runs of
one seed must have equal digests on every machine, under any PYTHONHASHSEED, with native and reference
kernels: a difference is itself a failure, because then a seed would no longer be a reproduction.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, TextIO
from zlib import crc32

TAIL_LINES: Final = 40


class Trace:
    """Collects lines; writes them to a sink as well when one is given."""

    def __init__(self, sink: TextIO | None = None) -> None:
        self._sink = sink
        self._lines: list[str] = []

    def note(self, now_ns: int, text: str) -> None:
        self._lines.append(f"{now_ns} {text}")
        if self._sink is not None:
            self._sink.write(f"{now_ns / 1e6:14.6f} ms  {text}\n")

    def tail(self) -> list[str]:
        """The last few lines, for a failure report."""
        return self._lines[-TAIL_LINES:]

    def digest(self) -> str:
        return blake2b("\n".join(self._lines).encode(), digest_size=16).hexdigest()


def brief(data: bytes | bytearray | memoryview) -> str:
    """Bytes as length and checksum: enough to notice any difference."""
    return brief_as(len(data), crc32(data))


def brief_as(length: int, checksum: int) -> str:
    """The same, for whoever has computed the checksum already."""
    return f"{length}B {checksum:08x}"
