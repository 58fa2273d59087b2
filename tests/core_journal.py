"""Hand-made journals: records of entries of several groups, written by the real Journal into files in memory, and a
driver for flows that read them. For tests of what reads journals; no node, no Raft."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from tests.harness import SMALL
from unimeter import kernels
from unimeter.config import KIB, NodeConfig
from unimeter.core.entry import hard_entry
from unimeter.core.flow import CreateFile, DeleteFile, Flow, ReadFile, WriteFile
from unimeter.core.journal import Journal, Position, segment_file, segment_header, start
from unimeter.core.raft.messages import HardState
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes

T = TypeVar("T")
CLUSTER_ID = 0xC0DE
KERNELS = kernels.load()
TINY = replace(
    SMALL,
    frame_bytes_max=4 * KIB,
    entry_bytes_max=12 * KIB,
    segment_bytes=32 * KIB,
    scan_read_bytes=4 * KIB,
    recovery_read_bytes=4 * KIB,
    log_mark_bytes=2 * KIB,
)

Files = dict[str, bytearray]


def drive(flow: Flow[T], files: Files, requests_max: int = 100_000) -> T:
    """Run a flow to its end on these files; at most so many requests (the rest never happens: StopAsyncIteration)."""
    data = b""
    try:
        request = next(flow)
        for _ in range(requests_max):
            data = b""
            if isinstance(request, ReadFile):
                data = bytes(files.get(request.file, b"")[request.offset : request.offset + request.length])
            elif isinstance(request, CreateFile):
                files[request.file] = bytearray(request.size_bytes)
            elif isinstance(request, DeleteFile):
                files.pop(request.file, None)
            else:
                assert isinstance(request, WriteFile)
                files[request.file][request.offset : request.offset + len(request.data)] = bytes(request.data)
            request = flow.send(data)
    except StopIteration as stop:
        done: T = stop.value
        return done
    raise StopAsyncIteration


def entry(group: int, index: int, term: int, body: bytes = b"", kind: int = layout.UM_ENTRY_NOOP) -> bytes:
    return KERNELS.entry(kind, group, index, term, 1000 * term + index, 1, body)


def hard(group: int, term: int, vote: int, commit: int) -> bytes:
    return hard_entry(KERNELS, group, HardState(term, vote, commit))


class Written:
    """A journal with its files. `append` writes one record."""

    def __init__(self, config: NodeConfig = TINY, cluster_id: int = CLUSTER_ID) -> None:
        self.config = config
        self.files: Files = {}
        self._segment(cluster_id, 1)
        self.journal = Journal(KERNELS, config, cluster_id, start(KERNELS, cluster_id), b"")
        self.began: list[Position] = []  # of every record

    def _segment(self, cluster_id: int, number: int) -> None:
        self.files[segment_file(number)] = bytearray(self.config.segment_bytes)
        self.files[segment_file(number)][:4096] = segment_header(KERNELS, cluster_id, number)

    def append(self, entries: Sequence[Bytes]) -> Position:
        """Returns where the record begins."""
        journal = self.journal
        if not journal.fits(sum((len(one) + 7) // 8 * 8 for one in entries)):
            self._segment(journal.cluster_id, journal.position.segment + 1)
            journal.next_segment_ready = True
            journal.roll()
        write = journal.append(entries, 1)
        self.files[write.file][write.offset : write.offset + len(write.data)] = bytes(write.data)
        self.began.append(journal.written())
        return self.began[-1]

    def start(self) -> Position:
        return start(KERNELS, self.journal.cluster_id)
