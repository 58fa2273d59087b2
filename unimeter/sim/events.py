"""What clients send: usage events and metric definitions, as plain values that the oracle understands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

Account = int | str

COUNT, SUM, MAX, LATEST, UNIQUE = range(5)
AGGREGATION_NAMES: Final = ("count", "sum", "max", "latest", "count-unique")
FIXED, MONTH, DAY, WEEK = range(4)
PERIOD_NAMES: Final = ("fixed", "month", "day", "week")
NO_SUCH_METRIC: Final = "no_such_metric"  # never created; events of it are refused before they get a place in the log
NONE, ADD, REMOVE = range(3)
OPERATION_NAMES: Final = ("none", "add", "remove")


class Ident(NamedTuple):
    """Everything of an event but its time: what we recognise it by in the node's event list. The workload makes
    these unique, except where it means to send the same event twice."""

    account: Account
    metric: str
    value: int
    operation: int
    id: str
    properties: tuple[tuple[str, str], ...]  # sorted by key


class Event(NamedTuple):
    ident: Ident
    timestamp_ns: int  # 0: stamped by the node


class Stored(NamedTuple):
    """An event as the node lists it."""

    seq: int
    timestamp_ns: int
    ident: Ident


@dataclass
class Threshold:
    name: str
    value: int
    recurring: bool


@dataclass
class Slot:
    """A threshold in force from one time to another; times are those at which the change was first sent."""

    threshold: Threshold
    since_ns: int = -1
    until_ns: int | None = None


@dataclass
class Metric:
    """A metric as its creator knows it. One object per life of the metric: a re-created code is another object."""

    code: str
    aggregation: int
    recurring: bool = False
    dimensions: list[str] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)  # those in force
    period: int = MONTH
    billing_day: int = 1
    known: bool = False  # a create was answered: it can be used
    alive: bool = True
    outstanding: int = 0  # requests that name it and are not answered
    unsettled: bool = False  # some request that names it will never be answered: leave the definition alone
    changing: bool = False  # a change is under way: nobody else uses it
    passing: bool = False  # is deleted and created anew, now and then
    born_ns: int = 0  # when its creation was first sent
    died_ns: int | None = None
    added_dimension_at: dict[str, int] = field(default_factory=dict)  # dimension -> time at which it was added
    slots: list[Slot] = field(default_factory=list)  # every threshold that there ever was

    def __post_init__(self) -> None:
        self.slots = [Slot(threshold) for threshold in self.thresholds]

    def body(self) -> dict[str, object]:
        return {
            "code": self.code,
            "aggregation": AGGREGATION_NAMES[self.aggregation],
            "recurring": self.recurring,
            "dimensions": list(self.dimensions),
            "thresholds": [{"name": t.name, "value": t.value, "recurring": t.recurring} for t in self.thresholds],
            "period": PERIOD_NAMES[self.period],
            "billing_day": self.billing_day,
        }
