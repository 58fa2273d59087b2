"""SKIPS: runs of rows that were logged but not stored, so that readers of the log leave out exactly these.

Runs are sorted and disjoint. Nothing is stored once the table is full: whoever needs to skip then finds an
open run to extend, or opens a last one when the limit was lowered meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right

from unimeter.kernels.reference.records import Skip
from unimeter.kernels.reference.state import State


def skip(state: State, seq: int, count: int = 1) -> None:
    if not count:
        return
    last = state.skips[-1] if state.skips else None
    if last is not None and last.first_seq + last.count == seq:
        last.count += count
    else:
        state.skips.append(Skip(seq, count))


def is_skipped(state: State, seq: int) -> bool:
    at = bisect_right(state.skips, seq, key=lambda run: run.first_seq) - 1
    return at >= 0 and seq < state.skips[at].first_seq + state.skips[at].count
