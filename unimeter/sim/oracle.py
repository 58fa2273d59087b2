"""Every total, recomputed from a list of events with nothing but dicts, sets and max.

The list is the log: stored events in the order of their sequence numbers. The oracle knows nothing of buckets,
cells or dedup tables; what it shares with the node is metering.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unimeter.sim.events import COUNT, LATEST, MAX, REMOVE, SUM, UNIQUE, Metric, Stored


class Total:
    """What one row of an answer must say. add() is O(1)."""

    __slots__ = ("count", "last", "last_key", "max", "members", "min", "sum")

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0
        self.min = self.max = self.last = 0
        self.last_key = (-1, -1)
        self.members: dict[int, tuple[int, int, bool]] = {}  # member -> time, seq, present

    def add(self, event: Stored) -> None:
        value = event.ident.value
        self.min = value if self.count == 0 else min(self.min, value)
        self.max = value if self.count == 0 else max(self.max, value)
        self.count += 1
        self.sum += value
        if (event.timestamp_ns, event.seq) > self.last_key:
            self.last_key, self.last = (event.timestamp_ns, event.seq), value

    def operate(self, event: Stored) -> None:
        """The last operation on a member, by time and then by place in the log, decides."""
        member = event.ident.value
        known = self.members.get(member)
        if known is None or (event.timestamp_ns, event.seq) > known[:2]:
            self.members[member] = (event.timestamp_ns, event.seq, event.ident.operation != REMOVE)

    @property
    def unique(self) -> int:
        return sum(present for _, _, present in self.members.values())

    def of(self, aggregation: int) -> int:
        return {COUNT: self.count, SUM: self.sum, MAX: self.max, LATEST: self.last, UNIQUE: self.unique}[aggregation]


@dataclass
class Question:
    """A usage query, without who asked it."""

    metric: Metric
    start: int
    end: int
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    group_by: Sequence[str] = ()
    added_at: Mapping[str, int] = field(default_factory=dict)  # dimension -> sequence number from which on it counts


class Answer:
    """Totals per group, growing event by event."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.groups: dict[tuple[str, ...], Total] = {} if question.group_by else {(): Total()}

    def add(self, event: Stored) -> bool:
        """Take one more event into account; says whether it could matter."""
        question = self.question
        seats = question.metric.recurring
        inside = question.start <= event.timestamp_ns < question.end
        if not inside and not (seats and event.timestamp_ns < question.end):
            return False
        for key, values in question.filters.items():
            if self._value(event, key) not in values:
                return False
        group = tuple(self._value(event, key) for key in question.group_by)
        total = self.groups.get(group)
        if total is None:
            total = self.groups[group] = Total()
        if inside:
            total.add(event)
        if question.metric.aggregation == UNIQUE:
            total.operate(event)
        return True

    def _value(self, event: Stored, key: str) -> str:
        """A dimension's value of an event: empty when absent, or when the dimension was declared later."""
        if event.seq < self.question.added_at.get(key, 0):
            return ""
        for name, value in event.ident.properties:
            if name == key:
                return value
        return ""

    def differs(self, rows: Iterable[dict[str, Any]]) -> str:
        """ "" when the rows say just this, otherwise the first difference."""
        group_by, unique = self.question.group_by, self.question.metric.aggregation == UNIQUE
        left = {group: total for group, total in self.groups.items() if not group_by or total.count or total.unique}
        for row in rows:
            group = tuple(row["dimensions"][key] for key in group_by)
            total = left.pop(group, None)
            if total is None:
                total = self.groups.get(group)
                if total is None:
                    return f"row {group} is unexpected: {row}"
            wanted: dict[str, Any] = {"count": total.count, "sum": total.sum}
            if total.count:
                wanted |= {"min": total.min, "max": total.max, "last": total.last, "last_timestamp": total.last_key[0]}
            else:
                wanted |= dict.fromkeys(("min", "max", "last", "last_timestamp"), 0 if "alert_bits" in row else None)
            if unique:
                wanted["unique"] = total.unique
            for name, value in wanted.items():
                if name in row and row[name] != value:
                    return f"{name} is {row[name]}, the oracle says {value} (row {group})"
        if left:
            group, total = next(iter(left.items()))
            return f"row {group} is missing: count {total.count}, sum {total.sum}"
        return ""


def answer(question: Question, events: Iterable[Stored]) -> Answer:
    result = Answer(question)
    for event in events:
        result.add(event)
    return result
