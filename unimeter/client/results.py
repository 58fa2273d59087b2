"""What an application gets back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from unimeter.client.topology import NodeAddress, Topology
from unimeter.client.values import Account, MetricSchema
from unimeter.kernels import protocol as wire


class Verdict(IntEnum):
    """What became of one event."""

    STORED = wire.VERDICT_STORED
    DUPLICATE = wire.VERDICT_DUPLICATE
    CONFLICT = wire.VERDICT_CONFLICT  # its id is known with another content
    UNKNOWN_METRIC = wire.VERDICT_UNKNOWN_METRIC
    CARDINALITY = wire.VERDICT_CARDINALITY  # one combination of dimension values too many for this account
    FULL = wire.VERDICT_FULL  # a table of the server's memory is full
    SESSION_UNKNOWN = wire.VERDICT_SESSION_UNKNOWN
    SESSION_WINDOW = wire.VERDICT_SESSION_WINDOW
    SESSION_SETTLED = wire.VERDICT_SESSION_SETTLED
    SESSIONS_FULL = wire.VERDICT_SESSIONS_FULL


VERDICT_SENTENCES = {
    Verdict.CONFLICT: "its id is already known with another content",
    Verdict.UNKNOWN_METRIC: "there is no such metric",
    Verdict.CARDINALITY: "the account has too many combinations of dimension values",
    Verdict.FULL: "the server's memory is full (raise --memory-max)",
}


class Refusal(NamedTuple):
    """One event that was not stored, other than for being a duplicate."""

    index: int  # type: ignore[assignment]  # its place among the events of the call
    verdict: Verdict

    def __str__(self) -> str:
        return f"event {self.index}: {VERDICT_SENTENCES.get(self.verdict, self.verdict.name.lower())}"


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What became of the events of one call. `stored + duplicates + conflicts + refused` is their number."""

    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    last_offset: int = 0  # the last position in the log that was given to them

    def __add__(self, other: IngestResult) -> IngestResult:
        return IngestResult(
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.conflicts + other.conflicts,
            self.refused + other.refused,
            max(self.last_offset, other.last_offset),
        )


@dataclass(frozen=True, slots=True)
class Value:
    """All aggregates of the asked events. `min`, `max`, `last_value` and `last_timestamp` (ns) are None when there
    is no event; `unique` is None unless the metric is count-unique."""

    count: int
    sum: int
    min: int | None
    max: int | None
    last_value: int | None
    last_timestamp: int | None
    unique: int | None


@dataclass(frozen=True, slots=True)
class Usage:
    """One answer: the totals of an account and metric over `[start, end)` (ns), and what they reflect."""

    account: Account
    metric: str
    start: int
    end: int
    value: Value
    alerts: tuple[str, ...]  # thresholds that fired in the metric's current period
    group: int
    index: int  # the log index that the answer reflects
    linearizable: bool


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One row of a breakdown."""

    dimensions: Mapping[str, str]
    value: Value


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it stands in the log."""

    seq: int
    timestamp: int  # ns
    metric: str
    value: int
    operation: str | None
    id: str | bytes | None
    properties: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Alert:
    """A threshold that was crossed. `number` counts upwards within the `group` of the account: the cursor of alerts."""

    number: int
    account: Account
    metric: str
    threshold: str
    value: int  # the total at the crossing
    triggered_at: int  # ns
    period_start: int  # ns
    group: int = 0


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric that exists."""

    id: int
    schema: MetricSchema

    @property
    def code(self) -> str:
        return self.schema.code


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself when a client connects."""

    server: str
    node_id: int
    cluster: str
    groups: int
    leaders: tuple[str, ...]
    features: tuple[str, ...]
    batch_events_max: int
    frame_bytes_max: int
    session_window: int
    partitions: int = wire.PARTITIONS
    nodes: tuple[NodeAddress, ...] = ()  # empty: a server that knows nothing of clusters
    epoch: int = 0

    @property
    def topology(self) -> Topology:
        return Topology(self.epoch, self.groups, self.partitions, self.leaders, self.nodes)
