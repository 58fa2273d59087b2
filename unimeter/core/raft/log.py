"""The log as a replica needs it: the term of every entry, the bytes of the newest.

    epochs    (1, t1)        (40, t3)              (97, t4)          where each term begins: the term of every index
    entries   ............................[ first_cached .. last_index ]        in memory; the older ones are in storage

Terms never fall along the log, and entries with equal index and term are equal with all that precedes them (the
log matching property). So a handful of epochs answers every question of consistency, and a follower that is a
million entries behind can be probed without reading one of them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from unimeter.core.raft.messages import Entry, bytes_of

BEYOND: Final = -1  # the term of an index past the end


class RaftLog:
    """`first_cached` is `last_index + 1` when nothing is in memory."""

    __slots__ = ("_entries", "_firsts", "_terms", "cached_bytes", "first_cached", "last_index")

    def __init__(self, epochs: Sequence[tuple[int, int]], last_index: int, tail: Sequence[Entry] = ()) -> None:
        """`epochs`: (first index, term), ascending, beginning at index 1 unless the log is empty. `tail`: the newest
        entries, contiguous, ending at last_index."""
        self._firsts = [first for first, _ in epochs]
        self._terms = [term for _, term in epochs]
        self.last_index = last_index
        self.first_cached = last_index + 1 - len(tail)
        self._entries = list(tail)
        self.cached_bytes = bytes_of(tail)
        self._check()

    def _check(self) -> None:
        assert bool(self._firsts) == (self.last_index > 0), "an empty log has no epochs, another has some"
        assert not self._firsts or (self._firsts[0] == 1 and self._firsts[-1] <= self.last_index)
        assert all(low < high for low, high in pairwise(self._firsts))
        assert all(low < high for low, high in pairwise(self._terms)), "terms never fall"
        for at, entry in enumerate(self._entries):
            assert entry.index == self.first_cached + at and entry.term == self.term(entry.index)

    @property
    def epochs(self) -> list[tuple[int, int]]:
        return list(zip(self._firsts, self._terms, strict=True))

    @property
    def last_term(self) -> int:
        return self._terms[-1] if self._terms else 0

    def term(self, index: int) -> int:
        """The term of the entry at `index`: 0 before the first, BEYOND (-1) past the last. O(1) near the end."""
        assert index >= 0
        if index > self.last_index:
            return BEYOND
        if index == 0:
            return 0
        if index >= self._firsts[-1]:
            return self._terms[-1]
        return self._terms[bisect_right(self._firsts, index) - 1]

    def last_not_above(self, index: int, term: int) -> int:
        """The greatest index at or below `index` whose term is at most `term`: where two logs that differ at `index`
        may agree, as far as one of them can tell. O(log epochs)."""
        index = min(index, self.last_index)
        epoch = bisect_right(self._terms, term)
        return index if epoch == len(self._firsts) else min(index, self._firsts[epoch] - 1)

    def entry(self, index: int) -> Entry | None:
        """The entry, if it is in memory."""
        at = index - self.first_cached
        return self._entries[at] if 0 <= at < len(self._entries) else None

    def slice(self, first: int, last_exclusive: int, bytes_max: int) -> list[Entry] | None:
        """Entries from `first` on, as many as fit bytes_max but at least one if there is one; None: not in memory."""
        assert first >= 1
        last_exclusive = min(last_exclusive, self.last_index + 1)
        if first >= last_exclusive:
            return []
        if first < self.first_cached:
            return None
        start = first - self.first_cached
        room_bytes = bytes_max - self._entries[start].size
        end = start + 1
        stop = last_exclusive - self.first_cached
        while end < stop:
            room_bytes -= self._entries[end].size
            if room_bytes < 0:
                break
            end += 1
        return self._entries[start:end]

    def append(self, entry: Entry) -> None:
        assert entry.index == self.last_index + 1 and entry.term >= max(1, self.last_term)
        if entry.term != self.last_term:
            self._firsts.append(entry.index)
            self._terms.append(entry.term)
        self._entries.append(entry)
        self.cached_bytes += entry.size
        self.last_index = entry.index

    def truncate(self, first: int) -> None:
        """Forget the entries from `first` on."""
        assert 1 <= first <= self.last_index
        keep = max(0, first - self.first_cached)
        self.cached_bytes -= bytes_of(self._entries[keep:])
        del self._entries[keep:]
        self.last_index = first - 1
        self.first_cached = min(self.first_cached, first)
        while self._firsts and self._firsts[-1] >= first:
            self._firsts.pop()
            self._terms.pop()

    def trim(self, through_index: int, keep_bytes_max: int) -> None:
        """Let go of entries that are durable and applied: the oldest first, none above `through_index`, until at most
        keep_bytes_max stay in memory."""
        count = 0
        limit = min(through_index - self.first_cached + 1, len(self._entries))
        while count < limit and self.cached_bytes > keep_bytes_max:
            self.cached_bytes -= self._entries[count].size
            count += 1
        if count:
            del self._entries[:count]
            self.first_cached += count
