"""What applying one entry did, as C left it (api.Applied)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from unimeter.kernels.api import Bytes, Summary
from unimeter.kernels.layout import SUMMARY
from unimeter.kernels.native._um import ffi

_I64_MAX: Final = 2**63 - 1


class NativeApplied:
    """What the last apply did (api.Applied). The memory is the state's, until its next apply."""

    __slots__ = ("_summaries_view", "alerts_after", "alerts_before", "batch_count", "digest", "max_ts", "min_ts",
                 "row_count", "stamp_ns", "summaries_c", "verdicts_c")  # fmt: skip

    def __init__(self, values: Sequence[int], summaries_c: Any, summaries_view: memoryview, verdicts_c: Any) -> None:
        (self.batch_count, self.row_count, self.min_ts, self.max_ts, self.alerts_before, self.alerts_after,
         self.digest) = values  # fmt: skip
        self.summaries_c = summaries_c  # um_summary[]
        self.verdicts_c = verdicts_c  # uint8_t[], one per row
        self._summaries_view = summaries_view
        self.stamp_ns = 0  # of an entry that was applied elsewhere

    @classmethod
    def remote(cls, data: Bytes, batch_count: int, row_count: int, stamp_ns: int) -> NativeApplied:
        """What extract() said elsewhere."""
        size = batch_count * SUMMARY.size
        if len(data) != size + row_count:
            raise ValueError("these are not the summaries and verdicts of so many batches and rows")
        summaries = ffi.new("um_summary[]", max(1, batch_count))
        verdicts = ffi.new("uint8_t[]", max(1, row_count))
        view = memoryview(ffi.buffer(summaries))
        view[:size] = memoryview(data)[:size]
        ffi.buffer(verdicts)[:row_count] = memoryview(data)[size:]
        made = cls((batch_count, row_count, _I64_MAX, -_I64_MAX - 1, 0, 0, 0), summaries, view, verdicts)
        made.stamp_ns = stamp_ns
        return made

    def summary(self, batch: int) -> Summary:
        if not 0 <= batch < self.batch_count:
            raise IndexError(batch)
        return Summary._make(SUMMARY.unpack_from(self._summaries_view, batch * SUMMARY.size))

    def verdicts(self, batch: int) -> bytes:
        """UM_V_* of every row of a batch."""
        first = self.summary(batch).row_base
        past = self.summary(batch + 1).row_base if batch + 1 < self.batch_count else self.row_count
        return bytes(ffi.buffer(self.verdicts_c + first, past - first))

    def extract(self, first_batch: int, batch_count: int) -> bytes:
        if not 0 <= first_batch <= first_batch + batch_count <= self.batch_count:
            raise IndexError(first_batch)
        if not batch_count:
            return b""
        summaries = [self.summary(batch) for batch in range(first_batch, first_batch + batch_count)]
        base, end = summaries[0].row_base, first_batch + batch_count
        past = self.summary(end).row_base if end < self.batch_count else self.row_count
        parts = [SUMMARY.pack(*each._replace(row_base=each.row_base - base)) for each in summaries]
        parts.append(bytes(ffi.buffer(self.verdicts_c + base, past - base)))
        return b"".join(parts)
