"""What does it cost to be replicated: 1, 3 and 5 nodes on this one machine?

All nodes, the journal of each and the generator share the CPUs and the disk. So this is not how a cluster scales: every
event is journalled and applied by every node, and with n nodes the machine does n times the work. It is what replication
costs in CPU per event (all nodes together), and what a durable write waits for: its own synced write beside those of
the others on the same disk, and one more round trip, to the follower that answers first.

The load is routed, as client libraries do it: workers are spread over the nodes, and each sends accounts that its node leads.
With one group one node leads everything: nothing is spread, and nothing is split. On one machine, where spreading gains
nothing, that shows what several groups cost; with a machine for each node they share the work of leading.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bench.common import Figures, Question, Settings, main, progress, rate, us
from unimeter.commands import bench_run

DEFAULT = 0  # groups: as many as a new cluster has by itself, six if it has several nodes
CLUSTERS = ((1, DEFAULT), (3, DEFAULT), (5, DEFAULT), (3, 1))  # nodes and groups
MEMORY_MAX = "1GiB"
LOADS = ("batch_async", "batch_sync", "single_async", "single_sync", "durable_write")
PHASES = (*LOADS, "query_idle", "query_under_ingest")


def measure(settings: Settings, place: Path) -> Figures:
    return {"points": [of(nodes, groups, settings, place) for nodes, groups in CLUSTERS]}


def of(nodes: int, groups: int, settings: Settings, place: Path) -> Figures:
    wanted = bench_run.Settings(
        protocol=settings.protocol, seconds=settings.seconds, warmup_s=settings.warmup_s, rounds=settings.rounds,
        restart_events=0, nodes=nodes, groups=groups, only=PHASES,
    )  # fmt: skip

    def on_progress(name: str, fraction: float, _: int) -> None:
        progress(f"{words(nodes, groups)}: {name} {fraction:.0%}")

    results = bench_run.Bench(
        wanted, place / f"cluster{nodes}.{groups}", ("--memory-max", MEMORY_MAX), on_progress
    ).run()
    progress("")
    point: Figures = {
        "nodes": nodes,
        "groups": groups,
        "led": results.led,
        "raw_durable_ns": results.raw.durable_ns(50, nodes),
    }
    for name, phase in results.phases.items():
        kind = "query" if name.startswith("query") else "ingest"
        point[name] = {
            "per_s": round(phase.events_per_s()),
            "p50_ns": round(phase.latency_ns(50, kind)),
            "p99_ns": round(phase.latency_ns(99, kind)),
            "server_ns": round(phase.node_ns_per_event(), 1),
            "client_ns": round(phase.client_ns_per_event(), 1),
        }
    point["durable_over_raw_p50"] = round(point["durable_write"]["p50_ns"] / point["raw_durable_ns"], 3)
    return point


def words(nodes: int, groups: int) -> str:
    return f"{nodes} node{'s' * (nodes > 1)}" + (f", {groups} group" if groups else "")


def rows(figures: Figures) -> list[list[str]]:
    points = figures["points"]
    out = [["", *(words(point["nodes"], point["groups"]) for point in points)]]
    for name in LOADS:
        load = name.replace("_", " ")
        out.append([f"{load}, events/s", *(rate(point[name]["per_s"]) for point in points)])
        out.append([f"{load}, all nodes' ns/event", *(f"{point[name]['server_ns']:,.0f}" for point in points)])
    for name in ("durable_write", "query_idle", "query_under_ingest"):
        out.append([f"{name.replace('_', ' ')}, p50", *(us(point[name]["p50_ns"]) for point in points)])
    out.append(
        [
            "durable write / (raw write + 1 or 2 echoes), p50",
            *(f"{point['durable_over_raw_p50']:.2f}x" for point in points),
        ]
    )
    return out


QUESTION = Question(
    "nodes",
    "What does replication cost: 1, 3 and 5 nodes on this machine?",
    "all nodes' CPU together; batches of 500 with 8 workers, single events with 64 on one connection to each node, routed",
    "a network: all nodes share two CPUs, one disk and loopback",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
