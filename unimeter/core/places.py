"""Where the journal holds entries of a group that are durable and not applied yet.

When such an entry is applied, the archive learns which stretch of the journal has its events. A record that holds an entry
which was superseded is not archived as a place of events, but for what else it has.
"""

from __future__ import annotations

from unimeter.core.archive import Archive
from unimeter.core.entry import Head
from unimeter.core.journal import Position
from unimeter.kernels.api import Applied


class Place:
    """The journal record that holds an entry."""

    __slots__ = ("began", "length")

    def __init__(self, began: Position, length: int) -> None:
        self.began = began
        self.length = length


class Places:
    def __init__(self) -> None:
        self._places: dict[int, Place] = {}  # by index
        self._dirty: dict[tuple[int, int], None] = {}  # records that hold an entry which was superseded

    def placed(self, index: int, began: Position, length: int) -> None:
        """An entry is durable in the record that began there. The same index again: it supersedes the earlier one,
        and all that followed that."""
        old = self._places.get(index)
        if old is not None:
            last = max(self._places)
            for later in range(index, last + 1):
                gone = self._places.pop(later, None)
                if gone is not None:
                    self._dirty[gone.began.segment, gone.began.offset] = None
        self._places[index] = Place(began, length)

    def began(self, index: int) -> Position | None:
        """Where the record of that entry began, if it is durable and not applied."""
        place = self._places.get(index)
        return None if place is None else place.began

    def applied(self, archive: Archive, head: Head, applied: Applied) -> None:
        """That entry is applied: what events it has are to be found there from now on."""
        place = self._places.pop(head.index)
        rows, min_ts, max_ts = applied.row_count, applied.min_ts, applied.max_ts
        if rows and min_ts <= max_ts:
            first = head.first_seq
            archive.add(place.began, place.length, first, first + rows, min_ts, max_ts, self._dirty)
        if self._dirty and not self._places:
            self._dirty.clear()
