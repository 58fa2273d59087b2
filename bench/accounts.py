"""What does an event cost as accounts grow from ten thousand to ten million?

Nothing on an event's way is done per account that exists, so the work stays the same; what grows are the tables that it is
looked up in. From about 10,000 series on they no longer fit the caches, and then each look-up waits for memory (about
100 ns here, less with prefetching and huge pages). So the curve should go up once, and then stay flat.

One metric, so accounts are series. Before a size is measured the node gets three events per account at random: that touches
95 % of them. v2 with sessions, so duplicate detection's own table (the same size for all) does not cover the effect; and v1
beside it, which has it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from bench.common import (
    LOAD_HEADING,
    Figures,
    Measured,
    Question,
    Settings,
    drive,
    load_cells,
    main,
    mb,
    node,
    progress,
)

SIZES = (10_000, 100_000, 1_000_000)
SIZES_FULL = (*SIZES, 10_000_000)
FILL_EVENTS_PER_ACCOUNT = 3
MEMORY_MAX = "12GiB"


def measure(settings: Settings, place: Path) -> Figures:
    points: list[Figures] = []
    for accounts in SIZES_FULL if settings.full else SIZES:
        roomy = replace(settings, memory_max=MEMORY_MAX)
        with node(roomy, place) as cluster:
            only = cluster.nodes[1]
            plan = settings.plan(accounts=accounts, metrics=1, sync=False)
            progress(f"{accounts:,} accounts: filling")
            fill = replace(
                plan, protocol=2, events_max=FILL_EVENTS_PER_ACCOUNT * accounts, duration_s=0.0, warmup_s=0.0
            )
            drive(fill, only.address, only.cpu_ns, Measured())
            ways = {2: Measured(), 1: Measured()}
            for _ in range(settings.rounds):
                for protocol, way in ways.items():
                    progress(f"{accounts:,} accounts: v{protocol}")
                    drive(replace(plan, protocol=protocol), only.address, only.cpu_ns, way)
            for protocol, way in ways.items():
                points.append(
                    {
                        "accounts": accounts,
                        "protocol": protocol,
                        **way.figures(),
                        "resident_bytes": only.resident_bytes(),
                    }
                )
    progress("")
    return {"points": points}


def rows(figures: Figures) -> list[list[str]]:
    out = [["accounts", *LOAD_HEADING, "memory after"]]
    for point in figures["points"]:
        out.append(
            [f"{point['accounts']:,}, v{point['protocol']} async", *load_cells(point), mb(point["resident_bytes"])]
        )
    return out


QUESTION = Question(
    "accounts",
    "What does an event cost as accounts grow?",
    "everything of one node under 8 workers with batches of 500 async; CPU of all threads, checkpoints too",
    "filling the tables (3 events per account at random before each size); --full adds 10 million accounts",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
