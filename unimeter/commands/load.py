"""The load generator as Python sees it: a plan goes in, a report comes out; the load itself runs in C
(csrc/bench) with the GIL released.

`run(plan)` blocks until the plan is done. Meanwhile another thread may look at the counters, which is how
progress is shown; the generator itself never stops for that.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

AGGREGATIONS = {"count": 0, "sum": 1, "max": 2, "latest": 3, "count-unique": 4}
METRICS_MAX = 100
TARGETS_MAX = 16
HISTOGRAM_BUCKETS = 2560
DAY_NS = 86_400_000_000_000
INGEST, ECHO = 1, 2


class LoadError(Exception):
    """The load could not be run to its end; the message says what broke."""


class ServerUnreachable(LoadError):
    """No connection could be made."""


@dataclass(frozen=True)
class Plan:
    """What to send. Event number n of a run gets the timestamp `timestamp_ns + n * timestamp_step_ns`, so no
    event is a duplicate of another, also of an earlier run (as long as that sent fewer than one event a step).

    A cluster (`bench_route.aimed` fills this in): `others` are its further nodes, each worker has a connection to each,
    and a partition map is kept. `routed`: batches have accounts that one node leads, and go there; with `groups`,
    accounts of one group only."""

    host: str
    port: int
    others: tuple[str, ...] = ()
    cluster: bool = False
    routed: bool = False
    groups: int = 0
    protocol: int = 1
    kind: int = INGEST
    sync: bool = True
    batch: int = 500
    workers: int = 8
    connections: int = 0  # to each node; 0: one per worker
    query_workers: int = 0
    query_pause_us: int = 0
    accounts: int = 10_000
    metrics: int = 5
    aggregations: tuple[str, ...] = ("sum", "count", "max", "latest", "sum")  # of the metrics, in turn
    create_metrics: bool = True
    ids: bool = False
    sessions: bool = True
    events_max: int = 0
    duration_s: float = 0.0
    warmup_s: float = 0.0
    spin_us: int = 0
    seed: int = field(default_factory=lambda: secrets.randbits(48))
    timestamp_ns: int = field(default_factory=time.time_ns)
    timestamp_step_ns: int = 100
    query_start_ns: int = 0  # 0: a day before timestamp_ns, so that whole buckets answer
    query_end_ns: int = 0
    echo_bytes: int = 0


@dataclass(frozen=True)
class Latencies:
    """A histogram whose buckets are at most 1.6% wide; a percentile is the upper edge of its bucket."""

    count: int
    max_ns: int
    buckets: tuple[tuple[int, int], ...]  # (least ns, count), ascending, without empty ones

    def percentile_ns(self, percent: float) -> int:
        if not self.count:
            return 0
        wanted, seen = self.count * percent / 100, 0
        for least_ns, count in self.buckets:
            seen += count
            if seen >= wanted:
                width_ns = 1 if least_ns < 64 else 1 << (least_ns.bit_length() - 7)
                return min(self.max_ns, least_ns + width_ns - 1)
        return self.max_ns

    def summary(self) -> dict[str, int]:
        return {
            "count": self.count,
            "p50_ns": self.percentile_ns(50),
            "p90_ns": self.percentile_ns(90),
            "p99_ns": self.percentile_ns(99),
            "max_ns": self.max_ns,
        }


@dataclass(frozen=True)
class Report:
    sent_events: int
    sent_requests: int
    acked_requests: int
    stored: int
    duplicates: int
    refused: int
    queries: int
    echoes: int
    statuses: dict[int, int]
    backpressure: int
    redirects: int
    lost_targets: int
    window_ns: int
    window_events: int
    window_requests: int
    window_queries: int
    cpu_user_ns: int
    cpu_system_ns: int
    sends: int
    receives: int
    sleeps: int
    ingest: Latencies
    query: Latencies

    @property
    def events_per_s(self) -> float:
        return self.window_events * 1e9 / self.window_ns if self.window_ns else 0.0

    @property
    def queries_per_s(self) -> float:
        return self.window_queries * 1e9 / self.window_ns if self.window_ns else 0.0

    @property
    def cpu_s(self) -> float:
        return (self.cpu_user_ns + self.cpu_system_ns) / 1e9

    def as_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if not isinstance(value, Latencies)}
        return {
            **plain,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "events_per_s": round(self.events_per_s),
            "queries_per_s": round(self.queries_per_s),
            "client_cpu_s": round(self.cpu_s, 6),
            "ingest": {**self.ingest.summary(), "histogram": self.ingest.buckets},
            "query": {**self.query.summary(), "histogram": self.query.buckets},
        }


COUNTERS = (
    "sent_events", "sent_requests", "acked_requests", "stored", "duplicates", "refused", "queries", "echoes",
    "backpressure", "redirects", "lost_targets", "window_ns", "window_events", "window_requests", "window_queries", "cpu_user_ns",
    "cpu_system_ns", "sends", "receives", "sleeps",
)  # fmt: skip


def run(plan: Plan, on_progress: Callable[[int, int], None] | None = None) -> Report:
    """Run a plan to its end. `on_progress(events acknowledged, queries and echoes answered)` is called about
    ten times a second. Raises LoadError; a KeyboardInterrupt drains and returns early."""
    from unimeter.commands._load import ffi, lib

    config, result = encode(plan, ffi), ffi.new("um_load_result *")
    thread = threading.Thread(target=lib.um_load_run, args=(config, result), name="load", daemon=True)
    thread.start()
    while thread.is_alive():
        try:
            thread.join(0.1)
        except KeyboardInterrupt:
            result.stop = 1
        if on_progress is not None:
            on_progress(int(result.stored + result.duplicates), int(result.queries + result.echoes))
    error = ffi.string(result.error).decode(errors="replace")
    if error:
        raise (ServerUnreachable if error.startswith("connect to ") else LoadError)(error)
    counters = {name: int(getattr(result, name)) for name in COUNTERS}
    statuses = {status: int(count) for status, count in enumerate(result.statuses) if count}
    return Report(
        **counters,
        statuses=statuses,
        ingest=latencies(result.ingest, lib),
        query=latencies(result.query, lib),
    )


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise LoadError(f"{address!r}: write host:port")
    return host or "127.0.0.1", int(port)


def encode(plan: Plan, ffi: Any) -> Any:
    config = ffi.new("um_load_config *")
    targets = [(plan.host, plan.port), *(split_address(address) for address in plan.others)]
    if len(targets) > TARGETS_MAX:
        raise LoadError(f"at most {TARGETS_MAX} nodes at once")
    for target, (host, port) in zip(config.targets, targets, strict=False):
        host = host if host != "localhost" else "127.0.0.1"
        if len(host.encode()) > 63:
            raise LoadError(f"{host!r} is not an IPv4 address")
        target.host, target.port = host.encode(), port
    config.target_count, config.cluster, config.routed = len(targets), plan.cluster, plan.routed
    config.groups = plan.groups
    if not 1 <= plan.metrics <= METRICS_MAX:
        raise LoadError(f"metrics must be 1..{METRICS_MAX}")
    config.protocol, config.kind = plan.protocol, plan.kind
    config.sync, config.create_metrics = plan.sync, plan.create_metrics
    config.ids, config.sessions = plan.ids, plan.sessions
    config.batch, config.accounts, config.metrics = plan.batch, plan.accounts, plan.metrics
    config.ingest_workers, config.ingest_connections = plan.workers, plan.connections or plan.workers
    config.query_workers, config.query_pause_us = plan.query_workers, plan.query_pause_us
    config.echo_bytes, config.spin_us, config.seed = plan.echo_bytes, plan.spin_us, plan.seed
    config.timestamp_ns, config.timestamp_step_ns = plan.timestamp_ns, plan.timestamp_step_ns
    config.query_start_ns = plan.query_start_ns or plan.timestamp_ns - DAY_NS
    config.query_end_ns = plan.query_end_ns or plan.timestamp_ns + DAY_NS
    config.events_max = plan.events_max
    config.warmup_ns, config.duration_ns = int(plan.warmup_s * 1e9), int(plan.duration_s * 1e9)
    for metric in range(plan.metrics):
        config.aggregations[metric] = AGGREGATIONS[plan.aggregations[metric % len(plan.aggregations)]]
    return config


def latencies(histogram: Any, lib: Any) -> Latencies:
    buckets = tuple(
        (int(lib.um_load_bucket_ns(bucket)), int(count)) for bucket, count in enumerate(histogram.counts) if count
    )
    return Latencies(int(histogram.count), int(histogram.max_ns), buckets)
