"""Draws what was measured: `python -m bench.plots [RESULTS]` reads what `python -m bench` wrote, and draws into build/bench/plots.

    throughput_workers.svg   events/s against workers               cost_accounts.svg   CPU per event against accounts
    throughput_batch.svg     events/s against events per batch      cost_nodes.svg      CPU per event and rate against nodes
    latency.svg              histograms of a durable write, a query and their raw figures

Needs matplotlib (`pip install 'unimeter[bench]'`); nothing else here does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common import RESULTS, Figures
from bench.nodes import DEFAULT

PLOTS = RESULTS / "plots"
SIZE_INCHES = (7.5, 4.5)
OCTAVE_PARTS = 8  # columns of a histogram for each doubling of the latency


def throughput_workers(results: Figures, axes: Any) -> None:
    _throughput(results, axes, "workers", "workers (batches of 500)")


def throughput_batch(results: Figures, axes: Any) -> None:
    _throughput(results, axes, "batch", "events per batch (8 workers)")


def _throughput(results: Figures, axes: Any, kind: str, words: str) -> None:
    for sync, marker in ((False, "o-"), (True, "s-")):
        points = [point for point in results["throughput"]["figures"][kind] if point["sync"] is sync]
        axes.plot(
            [p[kind] for p in points], [p["per_s"] / 1e6 for p in points], marker, label="sync" if sync else "async"
        )
    axes.set(xscale="log", xlabel=words, ylabel="million events/s", title="One node: throughput")
    axes.set_ylim(bottom=0)


def latency(results: Figures, axes: Any) -> None:
    import math

    for name, buckets in results["latency"]["figures"]["histograms"].items():
        total = sum(count for _, count in buckets)
        columns: dict[int, int] = {}
        for least_ns, count in buckets:
            column = round(math.log2(max(1, least_ns)) * OCTAVE_PARTS)
            columns[column] = columns.get(column, 0) + count
        xs = sorted(columns)
        axes.plot([2 ** (x / OCTAVE_PARTS) / 1e3 for x in xs], [100 * columns[x] / total for x in xs], label=name)
    axes.set(xscale="log", xlabel="microseconds", ylabel="% of requests", title="One request at a time")


def cost_accounts(results: Figures, axes: Any) -> None:
    for protocol in (1, 2):
        points = [p for p in results["accounts"]["figures"]["points"] if p["protocol"] == protocol]
        axes.plot([p["accounts"] for p in points], [p["server_ns"] for p in points], "o-", label=f"v{protocol} async")
    axes.set(
        xscale="log", xlabel="accounts", ylabel="node CPU, ns per event", title="Cost of an event as accounts grow"
    )
    axes.set_ylim(bottom=0)


def cost_nodes(results: Figures, axes: Any) -> None:
    other = axes.twinx()
    for key, marker in (("nodes", "-"), ("nodes_v2", "--")):
        if "figures" not in results.get(key, {}):
            continue
        points = [p for p in results[key]["figures"]["points"] if p["groups"] == DEFAULT]
        words = f"v{results[key]['settings']['protocol']}"
        counts = [p["nodes"] for p in points]
        axes.plot(counts, [p["batch_sync"]["server_ns"] for p in points], "o" + marker, label=f"{words}: CPU per event")
        other.plot(
            counts,
            [p["batch_sync"]["per_s"] / 1e6 for p in points],
            "s" + marker,
            color="tab:green",
            label=f"{words}: events/s",
        )
    axes.set(
        xticks=[1, 3, 5],
        xlabel="nodes on this one machine",
        ylabel="CPU of all nodes, ns per event",
        title="Replication, batches of 500 sync",
    )
    axes.set_ylim(bottom=0)
    other.set(ylabel="million events/s")
    other.set_ylim(bottom=0)
    other.legend(loc="lower right")


ALL: dict[str, tuple[str, Callable[[Figures, Any], None]]] = {
    "throughput_workers": ("throughput", throughput_workers),
    "throughput_batch": ("throughput", throughput_batch),
    "latency": ("latency", latency),
    "cost_accounts": ("accounts", cost_accounts),
    "cost_nodes": ("nodes", cost_nodes),
}


def draw(results: Figures) -> list[Path]:
    """What can be drawn of these results. Raises ImportError without matplotlib."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    PLOTS.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (needs, paint) in ALL.items():
        if "figures" not in results.get(needs, {}):
            continue
        figure, axes = pyplot.subplots(figsize=SIZE_INCHES)
        paint(results, axes)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
        figure.tight_layout()
        drawn.append(PLOTS / f"{name}.svg")
        figure.savefig(drawn[-1])
        pyplot.close(figure)
    return drawn


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS / "bench.json"
    try:
        drawn = draw(json.loads(path.read_text())["questions"])
    except ImportError as error:
        print(f"{error}: pip install 'unimeter[bench]'", file=sys.stderr)
        return 1
    print("\n".join(str(plot) for plot in drawn))
    return 0


if __name__ == "__main__":
    sys.exit(main())
