"""Entries that are being applied, through csrc/kernels/job.c (api.Job).

The memory of the results is the job's own, and everything that the work touches is held here: whoever runs the function
that `call` names must hold the job for as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from time import sleep
from typing import Any, Final

from unimeter.kernels.api import Bytes
from unimeter.kernels.layout import APPLIED, ENTRY, SUMMARY, UM_ENTRY_BATCHES
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.applied import NativeApplied

POLL_SECONDS: Final = 0.00005  # how often a thread that waits for another looks
HEAD: Final = Struct("<4xIHHI32xI")  # um_entry: body_len, group, kind, batch_count, row_count
_RUN: Final = int(ffi.cast("uintptr_t", ffi.addressof(lib, "um_job_run")))


class NativeJob:
    def __init__(self, state: Any, catalog: Any, entries: Sequence[Bytes], ended: Callable[[], None]) -> None:
        """Of a NativeGroupState and a NativeCatalog. `ended`: the state may be used again."""
        counts: list[tuple[int, int]] = []
        batches_all = rows_all = 0
        for entry in entries:
            body_len, _, kind, batches, rows = HEAD.unpack_from(entry)
            assert kind == UM_ENTRY_BATCHES, "only entries of events are applied aside"
            assert len(entry) >= ENTRY.size + body_len, "an entry is whole"
            counts.append((batches, rows))
            batches_all += batches
            rows_all += rows
        self._counts = counts
        self._ended = ended
        self._buffers: list[Any] = [ffi.from_buffer(entry) for entry in entries]
        self._pointers: Any = ffi.new("uint8_t *[]", [ffi.cast("uint8_t *", each) for each in self._buffers])
        self._summaries: Any = ffi.new("um_summary[]", max(1, batches_all))
        self._verdicts: Any = ffi.new("uint8_t[]", max(1, rows_all))
        self._applied: Any = ffi.new("um_applied[]", len(counts))
        self._held = state, catalog  # the structs do not own the memory that they point to
        job: Any = ffi.new("um_job *")
        job.state, job.catalog = state.cdata, catalog.cdata
        job.entries = ffi.cast("uint8_t const * *", self._pointers)
        job.summaries, job.verdicts, job.applied = self._summaries, self._verdicts, self._applied
        job.count = len(counts)
        self._job = job

    @property
    def call(self) -> tuple[int, int]:
        return _RUN, int(ffi.cast("uintptr_t", self._job))

    def wait(self) -> None:
        lib.um_job_run(self._job)
        while not lib.um_job_done(self._job):  # another thread is at it, for a millisecond or so, and wants a CPU
            sleep(POLL_SECONDS)
        self._ended()

    def finish(self) -> Iterator[NativeApplied]:
        self.wait()
        said = memoryview(ffi.buffer(self._applied))
        summaries_view = memoryview(ffi.buffer(self._summaries))
        batch = row = 0
        for at, (batches, rows) in enumerate(self._counts):
            yield NativeApplied(
                APPLIED.unpack_from(said, at * APPLIED.size), self._summaries + batch,
                summaries_view[batch * SUMMARY.size :], self._verdicts + row,
            )  # fmt: skip
            batch += batches
            row += rows
