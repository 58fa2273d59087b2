"""What a query must answer, written from docs/metering.md: a list of events and straightforward loops.

It knows nothing of hours, buckets, cells or journals. Only what counts once (ids, v1 fingerprints) and what a
total means is in here.
"""

from __future__ import annotations

from dataclasses import dataclass

from unimeter.kernels.api import Row

COUNT, SUM, MAX, LATEST, UNIQUE = range(5)
REMOVE = 2


@dataclass(frozen=True)
class Metric:
    code: bytes
    aggregation: int
    recurring: bool = False
    dimensions: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Sent:
    """An event as a client sends it. timestamp 0: stamped by the leader."""

    account: int | bytes
    metric: int
    value: int
    timestamp: int = 0
    operation: int = 0
    properties: tuple[tuple[bytes, bytes], ...] = ()
    id: bytes = b""


@dataclass(frozen=True)
class Stored:
    seq: int
    timestamp: int
    event: Sent
    dimensions: tuple[bytes, ...]  # values of the dimensions that were declared when it was logged


class Oracle:
    """Which events were stored, and what every question about them is answered."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.next_seq = 1
        self._ids: dict[tuple[int | bytes, bytes], Sent] = {}
        self._seen: set[tuple[Sent, int]] = set()

    def batch(self, events: list[Sent], stamp_ns: int, metrics: list[Metric], v1: bool) -> None:
        """One request, in log order. Without a session, as all batches here."""
        earlier: dict[Sent, int] = {}
        for event in events:
            seq = self.next_seq
            self.next_seq += 1
            if self._repeated(event, earlier, v1):
                continue
            properties = dict(event.properties)
            dimensions = tuple(properties.get(key, b"") for key in metrics[event.metric].dimensions)
            self.stored.append(Stored(seq, event.timestamp or stamp_ns, event, dimensions))

    def _repeated(self, event: Sent, earlier: dict[Sent, int], v1: bool) -> bool:
        if event.id:
            key = (event.account, event.id)
            known = key in self._ids  # a duplicate or a conflict: not stored, either way
            self._ids.setdefault(key, event)
            return known
        if not v1 or not event.timestamp:
            return False
        ordinal = earlier.get(event, 0)
        earlier[event] = ordinal + 1
        known = (event, ordinal) in self._seen
        self._seen.add((event, ordinal))
        return known

    def rows(
        self,
        account: int | bytes,
        metric: int,
        definition: Metric,
        start: int,
        end: int,
        group_by: tuple[int, ...],
        filters: tuple[tuple[int, tuple[bytes, ...]], ...],
    ) -> list[Row]:
        def value(one: Stored, dimension: int) -> bytes:
            return one.dimensions[dimension] if dimension < len(one.dimensions) else b""

        groups: dict[tuple[bytes, ...], list[Stored]] = {}
        for one in self.stored:
            if one.event.account != account or one.event.metric != metric:
                continue
            if all(value(one, dimension) in wanted for dimension, wanted in filters):
                groups.setdefault(tuple(value(one, dimension) for dimension in group_by), []).append(one)
        if not group_by:
            groups.setdefault((), [])
        rows = [self._row(key, groups[key], definition, start, end) for key in sorted(groups)]
        return [row for row in rows if not group_by or row.count or row.unique]

    def _row(self, key: tuple[bytes, ...], events: list[Stored], definition: Metric, start: int, end: int) -> Row:
        inside = [one for one in events if start <= one.timestamp < end]
        unique = 0
        if definition.aggregation == UNIQUE:
            considered = [one for one in events if one.timestamp < end] if definition.recurring else inside
            last: dict[int, int] = {}
            for one in sorted(considered, key=lambda one: (one.timestamp, one.seq)):
                last[one.event.value] = one.event.operation
            unique = sum(operation != REMOVE for operation in last.values())
        if not inside:
            return Row(key, 0, 0, 0, 0, 0, 0, unique, 0)
        values = [one.event.value for one in inside]
        latest = max(inside, key=lambda one: (one.timestamp, one.seq))
        return Row(
            key, len(values), sum(values), min(values), max(values), latest.event.value, latest.timestamp, unique, 0
        )
