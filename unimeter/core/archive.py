"""The sparse index of the journal: which stretch of which segment holds which rows of a group.

The journal is the only copy of the events. To list events, or to add up the part of an hour that a range cuts
off, stretches of it are read again; this index says which. A stripe covers consecutive records of about
`stripe_bytes`, and knows the rows' sequence numbers and the range of their times: real streams are nearly in
time order, so a cut hour touches few stripes.

A record may hold an entry that was superseded later: its row numbers were given out again. So a stripe's rows are
clamped to [first_row, end_row) when it is read, and no stripe goes on behind a record with a superseded entry.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import msgpack

from unimeter.core.journal import Position


class Stripe:
    """Consecutive records of one segment."""

    __slots__ = ("chain", "end_row", "first_row", "length", "max_ts", "min_ts", "offset", "segment", "seq")

    def __init__(
        self,
        segment: int,
        offset: int,
        length: int,
        seq: int,
        chain: int,
        first_row: int,
        end_row: int,
        min_ts: int,
        max_ts: int,
    ) -> None:
        self.segment = segment
        self.offset = offset  # where its first record begins
        self.length = length  # bytes
        self.seq = seq  # of the record before its first, for verification
        self.chain = chain
        self.first_row = first_row  # row sequence numbers, [first_row, end_row)
        self.end_row = end_row
        self.min_ts = min_ts  # ns
        self.max_ts = max_ts

    def fields(self) -> list[int]:
        """What __init__ wants."""
        place = [self.segment, self.offset, self.length, self.seq, self.chain]
        return [*place, self.first_row, self.end_row, self.min_ts, self.max_ts]


class Archive:
    """All stripes of one group, oldest first. add is O(1), select O(stripes)."""

    def __init__(self, stripe_bytes: int) -> None:
        self._stripe_bytes = stripe_bytes
        self._stripes: list[Stripe] = []
        self._last_record = (0, 0)  # segment and offset of the newest record
        self._closed = False  # the newest stripe must not grow

    def __len__(self) -> int:
        return len(self._stripes)

    def add(
        self,
        began: Position,
        length: int,
        first_row: int,
        end_row: int,
        min_ts: int,
        max_ts: int,
        dirty: Container[tuple[int, int]] = (),
    ) -> None:
        """An entry with rows of this group was applied: its record began at `began` and is `length` bytes long. `dirty`:
        places (segment, offset) of records that hold a superseded entry."""
        again = self._last_record == (began.segment, began.offset)  # another entry in the same record
        if self._last_record in dirty and not again:
            self._closed = True
        self._last_record = (began.segment, began.offset)
        added = 0 if again else length
        last = self._stripes[-1] if self._stripes else None
        if last is not None and (again or (not self._closed and self._continues(last, began, length))):
            last.length += added
            last.end_row = end_row
            last.min_ts = min(last.min_ts, min_ts)
            last.max_ts = max(last.max_ts, max_ts)
            return
        self._closed = False
        self._stripes.append(
            Stripe(began.segment, began.offset, length, began.seq, began.chain, first_row, end_row, min_ts, max_ts)
        )

    def _continues(self, last: Stripe, began: Position, length: int) -> bool:
        """Does that record stand right behind the stripe, and fit into it?"""
        follows = last.segment == began.segment and last.offset + last.length == began.offset
        return follows and last.length + length <= self._stripe_bytes

    def select(self, ranges: tuple[tuple[int, int], ...], first_row: int, end_row: int) -> Iterator[Stripe]:
        """Stripes that may hold rows first_row <= row < end_row with a time in one of the ranges [start, end): as they are
        when they are asked for."""
        for stripe in self._stripes:
            if stripe.first_row >= end_row:
                return
            if stripe.end_row > first_row and any(
                stripe.min_ts < end and stripe.max_ts >= start for start, end in ranges
            ):
                yield Stripe(*stripe.fields())  # the newest one goes on growing

    def dump(self) -> bytes:
        packed: bytes = msgpack.packb([stripe.fields() for stripe in self._stripes])
        return packed

    def load(self, data: bytes) -> None:
        """The inverse of dump. Raises ValueError or TypeError for other bytes."""
        self._stripes = [Stripe(*row) for row in msgpack.unpackb(data)]
        self._closed = True
        self._check()

    def _check(self) -> None:
        row = 0
        for stripe in self._stripes:
            assert row <= stripe.first_row <= stripe.end_row and stripe.length > 0
            row = stripe.end_row
