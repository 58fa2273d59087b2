"""Where in the journal a group's entry may be found: a sparse index, for followers that are far behind.

Every `mark_bytes` of journal one mark: a place between two records, and the last index that each group's log had
there. An entry that the log has today was written behind every mark at which the log ended before it; so reading on from
the newest such mark finds it. (Last indexes may fall from one mark to the next: a suffix was superseded.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgpack

from unimeter.core.journal import Position

UNKNOWN: Final = 2**63 - 1  # where a log ends; no entry is behind it


class LogMarks:
    def __init__(self, mark_bytes: int, group_count: int, start: Position) -> None:
        """`start`: the journal's very beginning."""
        self._mark_bytes = mark_bytes
        self._lasts = [0] * group_count  # where each log ends, as far as it is in the journal
        self._marks: list[tuple[Position, tuple[int, ...]]] = [(start, tuple(self._lasts))]

    def record(self, began: Position, ends: Iterable[tuple[int, int]]) -> None:
        """A record began there; `ends`: (group, index of its last entry) for each group with entries in it."""
        place, _ = self._marks[-1]
        if began.segment != place.segment or began.offset - place.offset >= self._mark_bytes:
            self._marks.append((began, tuple(self._lasts)))
        for group, last in ends:
            self._lasts[group] = last

    def find(self, group: int, index: int) -> Position:
        """From where on to read for that entry. O(marks), newest first."""
        for place, lasts in reversed(self._marks):
            if lasts[group] < index:
                return place
        raise AssertionError("at the first mark every log was empty")

    def start(self) -> Position:
        """The journal's very beginning."""
        return self._marks[0][0]

    def dump(self) -> bytes:
        packed: bytes = msgpack.packb([self._lasts, [(place.fields(), ends) for place, ends in self._marks]])
        return packed

    def load(self, data: bytes) -> None:
        """The inverse of dump. Raises ValueError or TypeError for other bytes."""
        lasts, marks = msgpack.unpackb(data)
        self._lasts = list(lasts)
        self._marks = [(Position(*place), tuple(ends)) for place, ends in marks]

    def rewind(self, to: Position) -> None:
        """Recovery reads on from there: marks behind it will be made again, and until the next record of a group it is
        not known where its log ended (a mark that claims too much is only passed over)."""
        while len(self._marks) > 1 and self._marks[-1][0].seq >= to.seq:
            self._marks.pop()
        self._lasts = [UNKNOWN] * len(self._lasts)

    def settle(self, lasts: Iterable[int]) -> None:
        """Recovery is done: this is where the logs end."""
        self._lasts = list(lasts)
