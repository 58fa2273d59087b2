"""How far is a node's CPU per event from the least that a durable meter must do?

The floor (floor.c) receives the same bytes, checksums them, copies them into an aligned buffer, writes it, updates one
hash table entry per event, and answers. It has no duplicate detection, no checks of rows, no time buckets, no order, no
recovery. Node and floor get the same load alternately, round by round; what is compared is the CPU time of all their threads
per event, the kernel's share included, not the rate.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.common import (
    LOAD_HEADING,
    ROOT,
    Figures,
    Measured,
    Question,
    Settings,
    drive,
    load_cells,
    main,
    node,
    progress,
    together,
)  # fmt: skip
from unimeter.commands.bench_node import free_port

PROGRAM = ROOT / "build" / "bench" / "floor"


@contextmanager
def floor(place: Path, sync: bool) -> Iterator[tuple[str, int]]:
    """Its address and its process id."""
    subprocess.run(["make", "--silent", str(PROGRAM.relative_to(ROOT))], cwd=ROOT, check=True)
    port = free_port()
    command = [str(PROGRAM), str(port), str(place / f"floor-{port}"), *(["--sync"] if sync else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith(b"ready")
            yield f"127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


def measure(settings: Settings, place: Path) -> Figures:
    points: list[Figures] = []
    for protocol in (1, 2):
        for sync in (False, True):
            plan = replace(settings.plan(), protocol=protocol, sync=sync)
            ours, least = Measured(), Measured()
            with node(settings, place) as cluster, floor(place, sync) as (address, pid):
                only = cluster.nodes[1]
                progress(f"v{protocol} {'sync' if sync else 'async'}")
                together(
                    settings.rounds,
                    lambda: drive(plan, only.address, only.cpu_ns, ours),  # noqa: B023
                    lambda: drive(plan, address, lambda: time.clock_gettime_ns(~pid << 3 | 2), least),  # noqa: B023
                )
            node_figures, floor_figures = ours.figures(), least.figures()
            points.append({
                "protocol": protocol, "sync": sync, "node": node_figures, "floor": floor_figures,
                "cpu_over_floor": round(node_figures["server_ns"] / floor_figures["server_ns"], 3),
            })  # fmt: skip
    progress("")
    return {"points": points}


def rows(figures: Figures) -> list[list[str]]:
    out = [["batch 500, 8 workers", *LOAD_HEADING, "CPU / floor's"]]
    for point in figures["points"]:
        words = f"v{point['protocol']} {'sync' if point['sync'] else 'async'}"
        out.append([f"{words}, node", *load_cells(point["node"]), f"{point['cpu_over_floor']:.2f}x"])
        out.append([f"{words}, floor", *load_cells(point["floor"]), ""])
    return out


QUESTION = Question(
    "floor",
    "How far is a node's CPU per event from the least that a durable meter must do?",
    "CPU of all threads, system time too, per event, at batch 500; node and floor alternate",
    "the floor has no duplicate detection (v1 fingerprints every event), checks, time buckets, order or recovery",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
