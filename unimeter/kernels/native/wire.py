"""Frames, catalog and intake through csrc/kernels/{frames,catalog,intake,replies}.c.

An intake's memory is four mappings and one for answers, all reserved for the worst case and touched as used:

    rows       64 B for the entry's head, then batches and rows: sealed, this is the entry
    waiting    um_request: answered after apply
    immediate  um_request: answered as soon as the entry is sealed, or at once when nothing of it was kept
    notes      (event index, verdict) pairs of u32: events of unknown metrics
    out        answers, before they are cut into one piece per link
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from unimeter.kernels.api import Applied, Bytes, Frame, FrameTable, Reply
from unimeter.kernels.api import Catalog as AnyCatalog
from unimeter.kernels.layout import (
    BATCH,
    ENTRY,
    FRAME,
    METRIC,
    REQUEST,
    SCAN,
    UM_ENTRY_BATCHES,
    UM_METRICS_MAX,
    UM_NONE,
)
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.arena import Arena

_unzeroed = ffi.new_allocator(should_clear_after_alloc=False)
_FRAMES_FIRST = 512  # a table is made for so many frames, and again for the worst case if they were not enough
_SCAN = ffi.typeof("um_scan *")
_FRAMES = ffi.typeof("um_frame[]")
_RUNS_MAX = 1024
_REQUESTS_MAX = 65_536  # requests without rows do not fill the entry, so they have a limit of their own
_NOTES_BYTES = 1 << 20  # room for notes beyond those of one request
_REPLY_ROOM_BYTES = 4096  # more than any answer without exceptions
_FIRST_SEQ_WORD = REQUEST.size // 8 - 1  # first_seq is the last field of um_request, in u64s
_BATCH_WORD = 4  # batch, in u32s


class NativeFrameTable:
    """The frames of one buffer, as C left them; a Frame is made when somebody asks."""

    __slots__ = ("_count", "_view", "cdata", "consumed", "error", "error_protocol", "error_request_id")

    def __init__(
        self, cdata: Any, consumed: int, count: int, error: int, error_request_id: int, error_protocol: int
    ) -> None:
        self.cdata = cdata  # um_frame[]
        self._view: Any = None
        self._count = count
        self.consumed = consumed
        self.error = error
        self.error_request_id = error_request_id
        self.error_protocol = error_protocol

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frame:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._view is None:
            self._view = ffi.buffer(self.cdata)
        (offset, payload_off, payload_len, request_id, protocol, type, flags, status, partition, _, deadline_ms, _) = (
            FRAME.unpack_from(self._view, index * FRAME.size)
        )
        return Frame(
            offset, payload_off, payload_len, request_id, protocol, type, flags, status, partition, deadline_ms
        )


def frame_scan(data: Bytes, payload_max: int) -> NativeFrameTable:
    return _scan(lib.um_frame_scan, (payload_max,), data, 16)


def response_scan(data: Bytes, protocol: int, payload_max: int) -> NativeFrameTable:
    return _scan(lib.um_response_scan, (protocol, payload_max), data, 12)


def _scan(function: Any, arguments: tuple[int, ...], data: Bytes, header_bytes_min: int) -> NativeFrameTable:
    size = len(data)
    worst = size // header_bytes_min + 1
    room = min(worst, _FRAMES_FIRST)
    scan = _unzeroed(_SCAN)
    pointer = ffi.from_buffer(data)
    while True:
        frames = _unzeroed(_FRAMES, room)
        function(pointer, size, *arguments, frames, room, scan)
        table = NativeFrameTable(frames, *SCAN.unpack(ffi.buffer(scan)))
        if len(table) < room or room == worst:
            return table
        room = worst


class NativeCatalog:
    """um_catalog in its own mapping. Immutable: a change of the metrics makes a new one."""

    def __init__(self, metrics: Sequence[bytes]) -> None:
        if len(metrics) > UM_METRICS_MAX:
            raise ValueError(f"at most {UM_METRICS_MAX} metrics, deleted ones included")
        self._arena = Arena(ffi.sizeof("um_catalog"))
        self.cdata: Any = ffi.cast("um_catalog *", self._arena.base)
        self.cdata.metric_count = len(metrics)
        at = ffi.offsetof("um_catalog", "metrics")
        for packed in metrics:
            self._arena.view[at : at + METRIC.size] = packed
            at += METRIC.size
        lib.um_catalog_index(self.cdata)

    def find(self, code: bytes) -> int:
        number = int(lib.um_catalog_find(self.cdata, ffi.from_buffer(code), len(code)))
        return -1 if number == UM_NONE else number


class NativeIntake:
    """An open entry of one group, see api.Intake. `bytes_max` bounds the entry's body."""

    def __init__(self, group: int, bytes_max: int, batch_events_max: int) -> None:
        if not BATCH.size <= bytes_max < 1 << 31:
            raise ValueError("an entry's bytes_max lies between 48 and 2^31")
        self._group = group
        requests_max = max(_REQUESTS_MAX, bytes_max // BATCH.size + 1)
        self._rows = Arena(ENTRY.size + bytes_max)
        self._waiting = Arena(requests_max * REQUEST.size)
        self._immediate = Arena(requests_max * REQUEST.size)
        self._notes = Arena(8 * batch_events_max + max(_NOTES_BYTES, bytes_max // 4))
        self._out = Arena(_REPLY_ROOM_BYTES * 16 + 8 * batch_events_max)
        self.cdata: Any = ffi.new("um_intake *")
        self.cdata.rows.base = self._rows.base + ENTRY.size
        self.cdata.rows.reserved = bytes_max
        self._waiting.fill(self.cdata.waiting)
        self._immediate.fill(self.cdata.immediate)
        self._notes.fill(self.cdata.notes)
        self.cdata.batch_events_max = batch_events_max
        self._notes_words = ffi.cast("uint32_t *", self._notes.base)
        self._out_c: Any = ffi.new("um_arena *")
        self._runs: Any = ffi.new("uint32_t[]", 3 * _RUNS_MAX)
        self._runs_view = memoryview(ffi.buffer(self._runs)).cast("I")
        self._run_count: Any = ffi.new("uint32_t *")
        self._next: Any = ffi.new("uint32_t *")
        self._sealed = False
        self._held = 0  # immediate requests from the front that are known to wait for the seal

    @property
    def batch_count(self) -> int:
        return int(self.cdata.batch_count)

    @property
    def row_count(self) -> int:
        return int(self.cdata.row_count)

    @property
    def used_bytes(self) -> int:
        return int(self.cdata.rows.used)

    @property
    def immediate_count(self) -> int:
        return int(self.cdata.immediate.used) // REQUEST.size

    def take(self, catalog: AnyCatalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
        assert not self._sealed, "a sealed entry takes nothing"
        assert isinstance(catalog, NativeCatalog)
        assert isinstance(frames, NativeFrameTable)
        pointer, count, rest = ffi.from_buffer(data), len(frames), self._next
        stop = lib.um_intake_frames(
            pointer, len(data), frames.cdata, first, count, catalog.cdata, link, self.cdata, rest
        )
        return stop, rest[0]

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        assert group == self._group
        assert not self._sealed, "an entry is sealed once"
        body_len = self.used_bytes
        entry = self._rows.view[: ENTRY.size + body_len]
        ENTRY.pack_into(
            entry, 0, 0, body_len, group, UM_ENTRY_BATCHES, self.batch_count, term, index, stamp_ns, first_seq,
            self.row_count, 0, 0,
        )  # fmt: skip
        lib.um_entry_seal(ffi.cast("um_entry *", self._rows.base), self._rows.base + ENTRY.size)
        for arena, used in ((self._waiting, self.cdata.waiting.used), (self._immediate, self.cdata.immediate.used)):
            words = arena.view[:used].cast("Q")
            words[_FIRST_SEQ_WORD :: REQUEST.size // 8] = memoryview(array("Q", [first_seq]) * (used // REQUEST.size))
        self._sealed = True
        return entry.toreadonly()

    def immediate(self) -> list[Reply]:
        list_c = self.cdata.immediate
        count = list_c.used // REQUEST.size
        if self._sealed:
            first, self._held = 0, 0
        else:
            first = self._held = self._hold_async(count)
        list_c.used = self._held * REQUEST.size
        return self._answer(self._immediate, first, count, ffi.NULL, ffi.NULL)

    def _hold_async(self, count: int) -> int:
        """Before the seal: put the immediate requests that must wait for it (async ones with a batch) in front of
        the others. Returns how many they are; each request is looked at once."""
        view = self._immediate.view
        fresh = view[self._held * REQUEST.size : count * REQUEST.size]
        if UM_NONE not in fresh.cast("I")[_BATCH_WORD :: REQUEST.size // 4]:  # refused requests have no batch either
            return count
        hold: list[bytes] = []
        ready: list[bytes] = []
        for at in range(0, len(fresh), REQUEST.size):
            record = bytes(fresh[at : at + REQUEST.size])
            (ready if int.from_bytes(record[4 * _BATCH_WORD :][:4], "little") == UM_NONE else hold).append(record)
        fresh[:] = b"".join(hold + ready)
        return self._held + len(hold)

    def answers(self, applied: Applied) -> list[Reply]:
        assert self._sealed, "answers come after the seal"
        count = self.cdata.waiting.used // REQUEST.size
        replies = self._answer(self._waiting, 0, count, applied.summaries_c, applied.verdicts_c)  # type: ignore[attr-defined]
        self.cdata.waiting.used = 0
        return replies

    def _answer(self, requests: Arena, first: int, count: int, summaries: Any, verdicts: Any) -> list[Reply]:
        """Answers to requests[first:count]; neighbours on one link are joined."""
        replies: list[Reply] = []
        if first == count:
            return replies
        records = ffi.cast("um_request *", requests.base)
        out, run_count, notes = self._out_c, self._run_count, self._notes_words
        while first < count:
            self._out.fill(out)
            answered = lib.um_replies(
                records, first, count, notes, summaries, verdicts, out, self._runs, _RUNS_MAX, run_count
            )
            assert answered > 0, "the largest answer fits an empty buffer"
            first += answered
            runs = self._runs_view[: 3 * run_count[0]].tolist()
            for link, offset, length in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
                data = bytes(self._out.view[offset : offset + length])
                if replies and replies[-1].link == link:
                    data = replies.pop().data + data
                replies.append(Reply(link, data))
        return replies

    def clear(self) -> None:
        for arena in (self.cdata.rows, self.cdata.waiting, self.cdata.immediate, self.cdata.notes):
            arena.used = 0
        self.cdata.batch_count = 0
        self.cdata.row_count = 0
        self._sealed = False
        self._held = 0
