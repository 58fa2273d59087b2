"""How does throughput grow with workers, and with the size of a batch?

A closed loop: the rate is workers x batch / latency until something is full. With few workers or small batches a node
waits for clients, and with sync each turn's group commit waits for the disk: one sync serves everybody who arrived since
the last. Where the curve goes flat, a CPU is full: the node's loop, or (two CPUs here) the generator beside it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from bench.common import LOAD_HEADING, Figures, Measured, Question, Settings, drive, load_cells, main, node, progress

WORKERS = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (1, 10, 50, 100, 200, 500, 1000, 2000)
BATCH, BESIDE = 500, 8


def measure(settings: Settings, place: Path) -> Figures:
    plan = settings.plan()
    sweeps = [
        *(("workers", workers, replace(plan, workers=workers, batch=BATCH)) for workers in WORKERS),
        *(("batch", batch, replace(plan, workers=BESIDE, batch=batch)) for batch in BATCHES),
    ]
    found: Figures = {"workers": [], "batch": []}
    with node(settings, place) as cluster:
        only = cluster.nodes[1]
        for kind, size, sized in sweeps:
            ways = {True: Measured(), False: Measured()}
            for _ in range(settings.rounds):
                for sync, way in ways.items():
                    progress(f"{kind} {size} {'sync' if sync else 'async'}")
                    drive(replace(sized, sync=sync), only.address, only.cpu_ns, way)
            for sync, way in ways.items():
                found[kind].append({kind: size, "sync": sync, **way.figures()})
    progress("")
    return found


def rows(figures: Figures) -> list[list[str]]:
    out = [["load", *LOAD_HEADING]]
    for kind, words in (("workers", f"workers, batch {BATCH}"), ("batch", f"events a batch, {BESIDE} workers")):
        for point in figures[kind]:
            out.append([f"{point[kind]} {words}, {'sync' if point['sync'] else 'async'}", *load_cells(point)])
    return out


QUESTION = Question(
    "throughput",
    "How does one node's throughput grow with workers, and with the size of a batch?",
    "loopback TCP, checks, duplicate detection (v1), journal (sync: on disk), totals, answers; CPU of all threads",
    "connecting, creating metrics; every worker has a connection of its own; generator and node share the CPUs",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
