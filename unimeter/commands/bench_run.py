"""What `unimeter bench` measures, in which order, and what is counted in.

One node of its own in a fresh directory (or `nodes` of them, one cluster), one generator thread in this process, raw figures of the machine
in the same run. Each phase is a closed loop: a worker sends its next request when it has the answer to its
last. Rates are events acknowledged within the window, divided by the window; the window begins after a
warm-up and ends with the last request that was sent.

Included: everything from the client's send to its receive: loopback TCP, parsing, checks, duplicate
detection (every event has a timestamp of its own), the journal write (sync: with its sync to disk), the
totals, the reply. Excluded: connecting and creating metrics. The client runs on the same machine and takes
CPU from the node; how much is stated with each phase.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unimeter import compiled
from unimeter.commands import load
from unimeter.commands.bench_cluster import NodeCluster
from unimeter.commands.bench_echo import echo_server
from unimeter.commands.bench_node import NodeProcess
from unimeter.commands.bench_route import aimed, await_balance
from unimeter.commands.load import Plan, Report
from unimeter.config import GROUPS_DEFAULT

SINGLE_EVENT_BYTES = 120  # a v1 ingest frame with one event; what the bare echo carries
RAW_WRITES = 1500
RAW_WRITE_BYTES = 4096


@dataclass(frozen=True)
class Settings:
    protocol: int = 1
    seconds: float = 5.0
    warmup_s: float = 1.0
    rounds: int = 1  # phases are repeated; the table shows medians
    batch: int = 500
    workers: int = 8
    single_workers: int = 64
    accounts: int = 10_000
    metrics: int = 5
    restart_events: int = 10_000_000  # at least so many events are in the journal when the node is killed
    nodes: int = 1  # several: no restart is timed
    groups: int = 0  # 0: a new cluster's default
    routed: bool = True  # several nodes: accounts go to their leader
    only: tuple[str, ...] = ()  # these phases; empty: all


QUICK = Settings(seconds=0.5, warmup_s=0.1, restart_events=0)


@dataclass
class Phase:
    """One phase, all its rounds."""

    name: str
    reports: list[Report] = field(default_factory=list)
    node_cpu_ns: list[int] = field(default_factory=list)

    def events_per_s(self) -> float:
        return statistics.median(report.events_per_s for report in self.reports)

    def latency_ns(self, percent: float, kind: str = "ingest") -> float:
        histograms = [report.query if kind == "query" else report.ingest for report in self.reports]
        return statistics.median(histogram.percentile_ns(percent) for histogram in histograms)

    def node_ns_per_event(self) -> float:
        events = sum(report.stored + report.duplicates for report in self.reports)
        return sum(self.node_cpu_ns) / events if events else 0.0

    def client_ns_per_event(self) -> float:
        events = sum(report.stored + report.duplicates for report in self.reports)
        return sum(report.cpu_s for report in self.reports) * 1e9 / events if events else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "rounds": [report.as_json() for report in self.reports],
            "node_cpu_ns": self.node_cpu_ns,
            "node_ns_per_event": round(self.node_ns_per_event(), 1),
            "client_ns_per_event": round(self.client_ns_per_event(), 1),
        }


@dataclass
class Raw:
    """What the machine does without us."""

    write_p50_ns: float = 0.0
    write_p99_ns: float = 0.0
    write_direct: bool = True
    write_cpu_wait: float = 0.0  # part of the writes' time that was spent waiting for a CPU: 0 on a quiet machine
    echo_p50_ns: float = 0.0
    echo_p99_ns: float = 0.0

    def durable_ns(self, percent: int, nodes: int) -> float:
        """What a durable write costs at the least: one synced write and the client's round trip; of several nodes one
        more round trip, to a follower that writes at the same time as the leader."""
        write, echo = {50: (self.write_p50_ns, self.echo_p50_ns), 99: (self.write_p99_ns, self.echo_p99_ns)}[percent]
        return write + echo * (1 if nodes == 1 else 2)


@dataclass
class Restart:
    events: int = 0
    seconds: float = 0.0
    ready: str = ""


@dataclass
class Results:
    settings: Settings
    conditions: dict[str, Any]
    raw: Raw = field(default_factory=Raw)
    phases: dict[str, Phase] = field(default_factory=dict)
    restart: Restart = field(default_factory=Restart)
    node_resident_bytes: int = 0  # of all nodes
    led: dict[str, int] = field(default_factory=dict)  # partitions by leader, of several nodes

    def as_json(self) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "conditions": self.conditions,
            "raw": asdict(self.raw),
            "phases": {name: phase.as_json() for name, phase in self.phases.items()},
            "restart": asdict(self.restart),
            "node_resident_bytes": self.node_resident_bytes,
            "led": self.led,
        }


OnProgress = Callable[[str, float, int], None]  # phase, fraction of the whole bench, events of the phase so far


class Bench:
    def __init__(
        self, settings: Settings, directory: Path, node_options: tuple[str, ...], on_progress: OnProgress
    ) -> None:
        self.settings = settings
        self.directory = directory
        self.node_options = node_options
        self.on_progress = on_progress
        self.results = Results(settings, conditions(directory))
        self.phases = self.plans()
        self.done = 0

    def plans(self) -> list[tuple[str, Plan]]:
        """(name, plan without the address) in the order of measurement."""
        s = self.settings
        base = Plan(
            "127.0.0.1", 0, protocol=s.protocol, accounts=s.accounts, metrics=s.metrics, duration_s=s.seconds,
            warmup_s=s.warmup_s, batch=s.batch, workers=s.workers,
        )  # fmt: skip
        one_by_one = replace(base, batch=1, workers=s.single_workers, connections=1)
        every = [
            ("batch_async", replace(base, sync=False)),
            ("batch_sync", base),
            ("single_async", replace(one_by_one, sync=False)),
            ("single_sync", one_by_one),
            ("durable_write", replace(base, batch=1, workers=1)),
            ("query_idle", replace(base, workers=0, query_workers=1)),
            ("query_under_ingest", replace(base, query_workers=1)),
        ]
        return [(name, plan) for name, plan in every if not s.only or name in s.only]

    def run(self) -> Results:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.raw()
        s = self.settings
        with NodeCluster(self.directory, s.nodes, s.groups, self.node_options) as cluster:
            if s.nodes > 1:
                self.results.led = await_balance(cluster.addresses, s.groups or GROUPS_DEFAULT)
            for name, plan in self.phases:
                self.phase(cluster, name, plan)
            if s.nodes == 1 and "batch_async" in dict(self.phases):
                self.restart(cluster.nodes[1])
        return self.results

    def step(self, name: str, part: float = 1.0, events: int = 0) -> None:
        steps = len(self.phases) * self.settings.rounds + (3 if self.settings.nodes == 1 else 2)
        self.on_progress(name, min(1.0, (self.done + part) / steps), events)
        if part >= 1.0:
            self.done += 1

    def raw(self) -> None:
        seconds = self.settings.seconds
        self.results.raw = probe_disk(self.directory, RAW_WRITES if seconds >= 1 else RAW_WRITES // 10)
        self.step("raw synced writes")
        probe_echo(self.results.raw, seconds, self.settings.warmup_s)
        self.step("bare echo")

    def phase(self, cluster: NodeCluster, name: str, plan: Plan) -> None:
        phase = self.results.phases.setdefault(name, Phase(name))
        whole_s = plan.warmup_s + plan.duration_s
        for _ in range(self.settings.rounds):
            begun, cpu_ns = time.monotonic(), cluster.cpu_ns()

            def progress(events: int, queries: int, begun: float = begun) -> None:
                self.step(name, min(0.99, (time.monotonic() - begun) / whole_s), events or queries)

            # the plan's time base is taken now, so that no phase repeats another's events
            fresh = aimed(replace(plan, timestamp_ns=time.time_ns()), cluster.addresses, self.routed())
            phase.reports.append(load.run(fresh, progress))
            phase.node_cpu_ns.append(cluster.cpu_ns() - cpu_ns)
            self.step(name)
        self.results.node_resident_bytes = cluster.resident_bytes()

    def routed(self) -> bool | None:
        return self.settings.routed if self.settings.nodes > 1 else None

    def restart(self, node: NodeProcess) -> None:
        """Fill up to the number of events asked for, kill -9, and time until it serves again."""
        stored = sum(report.stored for phase in self.results.phases.values() for report in phase.reports)
        missing = self.settings.restart_events - stored
        if missing > 0:
            base = dict(self.phases)["batch_async"]
            plan = replace(base, port=node.port, timestamp_ns=time.time_ns(), events_max=missing)
            plan = replace(plan, duration_s=0.0, warmup_s=0.0)

            def progress(events: int, _: int) -> None:
                self.step("filling up", min(0.99, events / missing), events)

            stored += load.run(plan, progress).stored
        node.kill()
        seconds = node.start()
        self.results.restart = Restart(stored, seconds, node.ready_line)
        self.step("restart")


def probe_disk(directory: Path, count: int) -> Raw:
    raw, waited_ns = Raw(), cpu_wait_ns()
    raw.write_direct, times = probe_writes(directory / "probe", count)
    raw.write_cpu_wait = round((cpu_wait_ns() - waited_ns) / max(1, sum(times)), 3)
    raw.write_p50_ns, raw.write_p99_ns = percentiles(times)
    return raw


def probe_echo(raw: Raw, seconds: float, warmup_s: float) -> load.Latencies:
    """Round trips of one event's bytes to a bare uvloop server: one worker. Fills in the raw figures."""
    found = echoes(None, seconds, warmup_s)
    raw.echo_p50_ns, raw.echo_p99_ns = found.percentile_ns(50), found.percentile_ns(99)
    return found


def echoes(path: Path | None, seconds: float, warmup_s: float) -> load.Latencies:
    """Round trips of one event's bytes to a bare uvloop server, which writes them to that file first, synced."""
    with echo_server(path) as port:
        plan = Plan(
            "127.0.0.1", port, kind=load.ECHO, workers=1, echo_bytes=SINGLE_EVENT_BYTES,
            duration_s=seconds, warmup_s=warmup_s,
        )  # fmt: skip
        return load.run(plan).query


def probe_writes(path: Path, count: int) -> tuple[bool, list[int]]:
    """Aligned synced writes of one block, one after the other: what a commit must wait for at the least."""
    from unimeter.io.real._sysio import ffi, lib

    times = ffi.new("uint64_t[]", count)
    code = int(lib.um_sys_probe_write(str(path).encode(), RAW_WRITE_BYTES, count, times))
    if code < 0:
        raise OSError(-code, os.strerror(-code), str(path))
    return code == 1, list(times)


def cpu_wait_ns() -> int:
    """How long this thread has been ready to run and did not, so far (Linux)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1])
    except OSError:
        return 0


def percentiles(times: list[int]) -> tuple[float, float]:
    ordered = sorted(times)
    return float(ordered[len(ordered) // 2]), float(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)])


def conditions(directory: Path) -> dict[str, Any]:
    """What somebody else needs to know to compare the numbers."""
    cpu_lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpu_lines if line.startswith("model name")]
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    place = directory.absolute()
    best = max((m for m in mounts if place.is_relative_to(m[1])), key=lambda m: len(m[1]), default=["", "", "unknown"])
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "modules": compiled.status(),
        "file_system": best[2],
        "load_average": os.getloadavg()[0],
    }
