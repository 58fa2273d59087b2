"""How long does a single durable write take, against what the machine itself needs for it?

One worker, one event a request, sync, nobody else: nothing to batch with, nothing hidden behind anything. At the least it is
a round trip and a synced write, one after the other, because the write cannot begin before the request is here:

    client --- echo/2 ---> node --- synced write ---> node --- echo/2 ---> client

Both are measured in the same run, alternating with the node every second or so: aligned 4 KiB
O_DIRECT writes with sync over space that was written before, and the round trip of as many bytes to a bare uvloop server. What
remains are the node's own turns and its wake-ups. A query has no write: it is compared with the echo alone.

Apart, neither minimum knows that a loop which has slept while the disk wrote goes on with cold caches. So there is a third: a bare
uvloop server that writes what it gets, synced, in its own thread, and then sends it back. No durable answer of such a loop comes sooner.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from bench.common import Figures, Measured, Question, Settings, drive, main, node, progress, us
from unimeter.commands.bench_run import Raw, echoes, probe_echo, probe_writes
from unimeter.commands.load import Latencies

SLICES = 4  # of each round: the machine's mood changes within seconds
WRITES_PER_SECOND_OF_SLICE = 400


def histogram(times: list[int]) -> Latencies:
    """In the generator's buckets: at most 1.6% wide."""
    shifts = ((ns, max(0, ns.bit_length() - 7)) for ns in times)
    buckets = Counter((ns >> shift) << shift for ns, shift in shifts)
    return Latencies(len(times), max(times, default=0), tuple(sorted(buckets.items())))


def added(parts: Iterable[Latencies]) -> Latencies:
    parts = list(parts)
    total: Counter[int] = Counter()
    for part in parts:
        total.update(dict(part.buckets))
    return Latencies(total.total(), max((p.max_ns for p in parts), default=0), tuple(sorted(total.items())))


def measure(settings: Settings, place: Path) -> Figures:
    slice_s = settings.seconds / SLICES
    durable = settings.plan(batch=1, workers=1, duration_s=slice_s, warmup_s=0.05)
    query = replace(durable, workers=0, query_workers=1)
    writes: list[int] = []
    bare: list[Latencies] = []
    durably: list[Latencies] = []
    single, asked = Measured(), Measured()
    with node(settings, place) as cluster:
        only = cluster.nodes[1]
        drive(replace(durable, duration_s=settings.warmup_s), only.address, only.cpu_ns, Measured())
        for number in range(settings.rounds * SLICES):
            progress(f"slice {number}")
            writes += probe_writes(place / "probe", max(20, int(WRITES_PER_SECOND_OF_SLICE * slice_s)))[1]
            drive(durable, only.address, only.cpu_ns, single)
            bare.append(probe_echo(Raw(), slice_s / 2, 0.05))
            durably.append(echoes(place / "echoes", slice_s / 2, 0.05))
            drive(query, only.address, only.cpu_ns, asked)
    progress("")
    found = {
        "durable write": added(report.ingest for report in single.reports),
        "raw synced write": histogram(writes),
        "query": added(report.query for report in asked.reports),
        "bare echo": added(bare),
        "bare echo, written first": added(durably),
    }
    at = {name: {p: latencies.percentile_ns(p) for p in (50, 99)} for name, latencies in found.items()}

    def ratio(p: int, name: str, *parts: str) -> float:
        return round(at[name][p] / max(1, sum(at[part][p] for part in parts)), 3)

    return {
        "percentiles": {name: latencies.summary() for name, latencies in found.items()},
        "durable_over_raw_p50": ratio(50, "durable write", "raw synced write", "bare echo"),
        "durable_over_raw_p99": ratio(99, "durable write", "raw synced write", "bare echo"),
        "durable_over_durable_echo_p50": ratio(50, "durable write", "bare echo, written first"),
        "durable_echo_over_raw_p50": ratio(50, "bare echo, written first", "raw synced write", "bare echo"),
        "query_over_echo_p50": ratio(50, "query", "bare echo"),
        "server_ns": {"durable write": single.figures()["server_ns"], "query": asked.figures("query")["server_ns"]},
        "histograms": {name: latencies.buckets for name, latencies in found.items()},
    }


def rows(figures: Figures) -> list[list[str]]:
    out = [["", "p50", "p90", "p99", "most", "requests", "server CPU"]]
    for name, found in figures["percentiles"].items():
        cpu = figures["server_ns"].get(name)
        cells = [us(found[key]) for key in ("p50_ns", "p90_ns", "p99_ns", "max_ns")]
        out.append([name, *cells, f"{found['count']:,}", us(cpu) if cpu else ""])
    ratios = [figures[f"durable_over_raw_p{p}"] for p in (50, 99)]
    out.append(["durable write / (raw write + echo)", f"{ratios[0]:.2f}x", "", f"{ratios[1]:.2f}x", "", "", ""])
    least, over = (f"{figures[key]:.2f}x" for key in ("durable_echo_over_raw_p50", "durable_over_durable_echo_p50"))
    out.append(["echo, written first / (raw write + echo)", least, "", "", "", "", ""])
    out.append(["durable write / echo, written first", over, "", "", "", "", ""])
    out.append(["query / echo", f"{figures['query_over_echo_p50']:.2f}x", "", "", "", "", ""])
    return out


QUESTION = Question(
    "latency",
    "How long does a single durable write take, against a raw synced write and a bare round trip? And a query?",
    "from before the client's send to after its receive, one request at a time, node otherwise idle",
    "queueing: nobody else asks (throughput.py has latencies under load)",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
