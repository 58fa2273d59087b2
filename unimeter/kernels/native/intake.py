"""The open entry of one group through csrc/kernels/{intake,replies}.c, see api.Intake.

An intake's memory is four mappings and one for answers, all reserved for the worst case and touched as used:

    rows       64 B for the entry's head, then batches and rows: sealed, this is the entry
    waiting    um_request: answered after apply
    immediate  um_request: answered as soon as the entry is sealed, or at once when nothing of it was kept
    notes      (event index, verdict) pairs of u32: events of unknown metrics
    out        answers, before they are cut into one piece per link

Requests with parts in several groups hold a slot in the splitter's table of spans. So an intake that a splitter
fills belongs to it, and lets go of the slots when it answers, fails or forgets its requests.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from unimeter.kernels.api import Applied, Bytes, Catalog, FrameTable
from unimeter.kernels.frame import Reply
from unimeter.kernels.layout import BATCH, ENTRY, REQUEST, UM_NONE
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.arena import Arena
from unimeter.kernels.native.lent import lent
from unimeter.kernels.native.wire import NativeCatalog, NativeFrameTable

# looked up once: what every request needs
_unpack: Final = ffi.unpack
_um_intake_frames: Final = lib.um_intake_frames
_um_intake_seal: Final = lib.um_intake_seal
_um_intake_clear: Final = lib.um_intake_clear
_um_replies: Final = lib.um_replies

_REQUEST_BYTES: Final = REQUEST.size
_ENTRY_BYTES: Final = ENTRY.size
_RUNS_MAX: Final = 1024
_REQUESTS_MAX: Final = 65_536  # requests without rows do not fill the entry, so they have a limit of their own
_NOTES_BYTES: Final = 1 << 20  # room for notes beyond those of one request
_REPLY_ROOM_BYTES: Final = 4096  # more than any answer without exceptions
FAILURE_BYTES_MAX: Final = 16_384  # of the payloads that fail() is given
_BATCH_WORD: Final = 4  # batch, in u32s
_COUNTS: Final = Struct(
    "<16xQ16xQ16xQ24xII"
)  # um_intake: bytes in use of rows, waiting and immediate; batch_count, row_count


class NativeIntake:
    """`bytes_max` bounds the entry's body."""

    def __init__(self, group: int, bytes_max: int, batch_events_max: int) -> None:
        if not BATCH.size <= bytes_max < 1 << 31:
            raise ValueError("an entry's bytes_max lies between 48 and 2^31")
        self._group = group
        requests_max = max(_REQUESTS_MAX, bytes_max // BATCH.size + 1)
        self._rows = Arena(_ENTRY_BYTES + bytes_max)
        self._waiting = Arena(requests_max * _REQUEST_BYTES)
        self._immediate = Arena(requests_max * _REQUEST_BYTES)
        self._notes = Arena(8 * batch_events_max + max(_NOTES_BYTES, bytes_max // 4))
        self._out = Arena(_REPLY_ROOM_BYTES * 16 + 8 * batch_events_max)
        self.cdata: Any = ffi.new("um_intake *")
        self.cdata.rows.base = self._rows.base + _ENTRY_BYTES
        self.cdata.rows.reserved = bytes_max
        self._waiting.fill(self.cdata.waiting)
        self._immediate.fill(self.cdata.immediate)
        self._notes.fill(self.cdata.notes)
        self.cdata.batch_events_max = batch_events_max
        # views of parts of the struct, made once: making one costs as much as ten reads
        self._rows_c: Any = self.cdata.rows
        self._waiting_c: Any = self.cdata.waiting
        self._immediate_c: Any = self.cdata.immediate
        self._notes_c: Any = self.cdata.notes
        self._notes_words = ffi.cast("uint32_t *", self._notes.base)
        self._waiting_records = ffi.cast("um_request *", self._waiting.base)
        self._immediate_records = ffi.cast("um_request *", self._immediate.base)
        self._out_chars = ffi.cast("char *", self._out.base)
        self._out_c: Any = ffi.new("um_arena *")
        self._out.fill(self._out_c)
        self._fields = memoryview(ffi.buffer(self.cdata))
        self._readonly = self._rows.view.toreadonly()
        self.batch_count = self.row_count = self.used_bytes = self.immediate_count = 0  # as C has them, see refresh
        self._waiting_used = self._immediate_used = 0
        self._frozen = False  # sealed or bundled: it takes nothing
        self._runs: Any = ffi.new("uint32_t[]", 3 * _RUNS_MAX)
        self._runs_view = memoryview(ffi.buffer(self._runs)).cast("I")
        self._run_count: Any = ffi.new("uint32_t *")
        self._next: Any = ffi.new("uint32_t *")
        self._sealed = False
        self._bundled = False
        self._held = 0  # immediate requests from the front that are known to wait for the seal
        self._owner: Any = None  # of the spans that the requests may be parts of; keeps their memory alive
        self._spans: Any = ffi.NULL

    def refresh(self) -> None:
        """C has taken something in: what is asked of this all the time is looked up once."""
        (self.used_bytes, self._waiting_used, self._immediate_used, self.batch_count, self.row_count) = (
            _COUNTS.unpack_from(self._fields)
        )  # fmt: skip
        self.immediate_count = self._immediate_used // _REQUEST_BYTES

    @property
    def pending_count(self) -> int:
        return (self._waiting_used + self._immediate_used) // _REQUEST_BYTES

    def _set_waiting(self, used: int) -> None:
        self._waiting_c.used = self._waiting_used = used

    def _set_immediate(self, used: int) -> None:
        self._immediate_c.used = self._immediate_used = used
        self.immediate_count = used // _REQUEST_BYTES

    def belong_to(self, owner: Any) -> None:
        """From now on a splitter of several groups fills this: requests hold its spans, and answers tell stamps."""
        if self._owner is owner:
            return
        assert self._owner is None and not self.pending_count, "an intake has one splitter from the beginning"
        self._owner, self._spans = owner, owner.spans_c
        self.cdata.stamped = 1

    # ---- taking ----

    def take(self, catalog: Catalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
        assert not self._frozen, "a sealed entry takes nothing"
        assert isinstance(catalog, NativeCatalog)
        assert isinstance(frames, NativeFrameTable)
        pointer, count, rest = lent(data), len(frames), self._next
        stop = _um_intake_frames(pointer, len(data), frames.cdata, first, count, catalog.cdata, link, self.cdata, rest)
        self.refresh()
        return stop, rest[0]

    def add_bundle(self, body: Bytes, batch_count: int, row_count: int) -> tuple[int, int] | None:
        assert not self._frozen, "a sealed entry takes nothing"
        size, used = len(body), self.used_bytes
        if not lib.um_batches_verify(lent(body), size, batch_count, row_count):
            raise ValueError("a bundle is not the batches that it was said to be")
        if size > self._rows_c.reserved - used:
            return None
        place = self.batch_count, self.row_count
        self._rows.view[_ENTRY_BYTES + used : _ENTRY_BYTES + used + size] = body
        self._rows_c.used = used + size
        self.cdata.batch_count = place[0] + batch_count
        self.cdata.row_count = place[1] + row_count
        self.refresh()
        return place

    # ---- closing ----

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        assert group == self._group
        assert not self._frozen, "an entry is sealed once"
        length = _um_intake_seal(self.cdata, group, index, term, stamp_ns, first_seq)
        self._sealed = self._frozen = True
        return self._readonly[:length]

    def bundle(self) -> tuple[Bytes, int, int]:
        assert not self._frozen, "an entry is sealed or bundled once"
        self._bundled = True
        self.cdata.frozen = self._frozen = True
        body = self._readonly[_ENTRY_BYTES : _ENTRY_BYTES + self.used_bytes]
        return body, self.batch_count, self.row_count

    # ---- answering ----

    def immediate(self) -> list[Reply]:
        count = self.immediate_count
        if self._sealed:
            first, self._held = 0, 0
        else:
            first = self._held = self._hold_async(count)
        self._set_immediate(self._held * _REQUEST_BYTES)
        return self._answer(self._immediate_records, first, count, ffi.NULL, ffi.NULL)

    def _hold_async(self, count: int) -> int:
        """Before the seal: put the immediate requests that must wait for it (async ones with a batch) in front of
        the others. Returns how many they are; each request is looked at once."""
        view = self._immediate.view
        fresh = view[self._held * _REQUEST_BYTES : count * _REQUEST_BYTES]
        if UM_NONE not in fresh.cast("I")[_BATCH_WORD :: _REQUEST_BYTES // 4]:  # refused requests have no batch either
            return count
        hold: list[bytes] = []
        ready: list[bytes] = []
        for at in range(0, len(fresh), _REQUEST_BYTES):
            record = bytes(fresh[at : at + _REQUEST_BYTES])
            (ready if int.from_bytes(record[4 * _BATCH_WORD :][:4], "little") == UM_NONE else hold).append(record)
        fresh[:] = b"".join(hold + ready)
        return self._held + len(hold)

    def answers(self, applied: Applied) -> list[Reply]:
        assert self._frozen, "answers come after the seal"
        summaries, verdicts = applied.summaries_c, applied.verdicts_c  # type: ignore[attr-defined]  # NativeApplied's
        if self._bundled:
            said = applied.batch_count, applied.row_count
            assert said == (self.batch_count, self.row_count), "these are answers to another bundle"
            if self._owner is not None:
                lib.um_intake_place(self.cdata, applied.stamp_ns)  # type: ignore[attr-defined]
        count = self._waiting_used // _REQUEST_BYTES
        self._set_waiting(0)
        replies = self._answer(self._waiting_records, 0, count, summaries, verdicts)
        if self._bundled and self.immediate_count:  # async requests have waited too
            count, self._held = self.immediate_count, 0
            self._set_immediate(0)
            replies += self._answer(self._immediate_records, 0, count, summaries, verdicts)
        return replies

    def _answer(self, records: Any, first: int, count: int, summaries: Any, verdicts: Any) -> list[Reply]:
        """Answers to records[first:count]; neighbours on one link are joined."""
        if first == count:
            return []
        notes, spans = self._notes_words, self._spans
        out, run_count = self._out_c, self._run_count
        replies: list[Reply] = []
        while first < count:
            out.used = 0
            answered = _um_replies(
                records, first, count, notes, summaries, verdicts, spans, out, self._runs, _RUNS_MAX, run_count
            )
            assert answered > 0, "the largest answer fits an empty buffer"
            first += answered
            self._cut_runs(run_count[0], replies)
        return replies

    def _cut_runs(self, run_count: int, replies: list[Reply]) -> None:
        """Append the answers in the buffer to the replies, one piece per link."""
        if run_count == 1 and not replies:
            runs_c = self._runs
            replies.append(Reply(runs_c[0], _unpack(self._out_chars + runs_c[1], runs_c[2])))
            return
        runs = self._runs_view[: 3 * run_count].tolist()
        for link, offset, length in zip(runs[::3], runs[1::3], runs[2::3], strict=True):
            data = bytes(self._out.view[offset : offset + length])
            if replies and replies[-1].link == link:
                data = replies.pop().data + data
            replies.append(Reply(link, data))

    def fail(self, v1_status: int, v1_payload: bytes, v2_status: int, v2_payload: bytes) -> list[Reply]:
        assert len(v1_payload) + len(v2_payload) <= FAILURE_BYTES_MAX
        v1, v2 = ffi.from_buffer(v1_payload), ffi.from_buffer(v2_payload)
        fields = (v1, v2, v1_status, len(v1_payload), v2_status, len(v2_payload))
        failure = ffi.new("um_failure *", fields)
        out, run_count = self._out_c, self._run_count
        replies: list[Reply] = []
        lists = ((self._waiting_records, self._waiting_used), (self._immediate_records, self._immediate_used))
        self._set_waiting(0)
        self._set_immediate(0)
        for records, used in lists:
            first, count = 0, used // _REQUEST_BYTES
            while first < count:
                out.used = 0
                failed = lib.um_fail(records, first, count, failure, self._spans, out, self._runs, _RUNS_MAX, run_count)
                assert failed > 0, "the answer fits an empty buffer"
                first += failed
                self._cut_runs(run_count[0], replies)
        self._held = 0
        return replies

    def clear(self) -> None:
        if self._owner is not None:
            for records, used in (
                (self._waiting_records, self._waiting_used),
                (self._immediate_records, self._immediate_used),
            ):
                if used:
                    lib.um_spans_release(self._spans, records, used // _REQUEST_BYTES)
        _um_intake_clear(self.cdata)
        self.batch_count = self.row_count = self.used_bytes = self.immediate_count = 0
        self._waiting_used = self._immediate_used = 0
        self._frozen = False
        self._sealed = False
        self._bundled = False
        self._held = 0
