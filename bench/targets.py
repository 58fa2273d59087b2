"""What was aimed at, beside what was measured: one row per target.

A target is a number and the place of its measurement among the results of the questions. Ratios compare figures of one run.
`reached` is a fact about that run on that machine, nothing more. A ratio to a physical minimum that comes out well below one
says that the machine was disturbed while the minimum was measured, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.common import Figures, rate, us
from bench.nodes import DEFAULT
from unimeter.config import GROUPS_DEFAULT


@dataclass(frozen=True)
class Target:
    what: str
    question: str  # whose results it reads
    aim: float
    at_least: bool  # else: at most
    read: Callable[[Figures], float]  # from the figures of its question
    say: Callable[[float], str]
    least: float = 0.0  # nothing can be below


DISTURBED_BELOW = 0.9  # of what nothing can be below


def times(ratio: float) -> str:
    return f"{ratio:.2f}x"


def seconds(number: float) -> str:
    return f"{number:.1f} s"


def point_of(figures: Figures, count: int, groups: int) -> Figures:
    found: Figures = next(p for p in figures["points"] if (p["nodes"], p["groups"]) == (count, groups))
    return found


def of_nodes(count: int, phase: str, key: str = "per_s", groups: int = DEFAULT) -> Callable[[Figures], float]:
    return lambda figures: float(point_of(figures, count, groups)[phase][key])


def durable_over_raw(count: int, groups: int) -> Callable[[Figures], float]:
    return lambda figures: float(point_of(figures, count, groups)["durable_over_raw_p50"])


def floor_ratio(figures: Figures, protocol: int) -> float:
    return float(next(p for p in figures["points"] if p["protocol"] == protocol and not p["sync"])["cpu_over_floor"])


def rates(question: str, version: str) -> list[Target]:
    def target(what: str, aim: float, nodes: int, phase: str, groups: int = DEFAULT) -> Target:
        return Target(f"{what}, {version}", question, aim, True, of_nodes(nodes, phase, groups=groups), rate)

    made = [
        target("1 node, batch 500, 8 workers, async", 4.0e6, 1, "batch_async"),
        target("1 node, batch 500, 8 workers, sync", 3.0e6, 1, "batch_sync"),
        target("1 node, batch 1, 64 workers, 1 connection, async", 266e3, 1, "single_async"),
        target("1 node, batch 1, 64 workers, 1 connection, sync", 100e3, 1, "single_sync"),
    ]
    for groups, words in ((1, "3 nodes here, 1 group"), (DEFAULT, f"3 nodes here, {GROUPS_DEFAULT} groups")):
        made += [
            target(f"{words}, batch 500, async", 2.0e6, 3, "batch_async", groups),
            target(f"{words}, batch 500, sync", 1.7e6, 3, "batch_sync", groups),
            target(f"{words}, batch 1, async", 100e3, 3, "single_async", groups),
            target(f"{words}, batch 1, sync", 50e3, 3, "single_sync", groups),
        ]
    return made


TARGETS = [
    *rates("nodes", "v1"),
    *rates("nodes_v2", "v2"),
    Target("single durable write, 1 node, p50 / (raw write + echo)", "latency", 1.15, False, lambda f: f["durable_over_raw_p50"], times, 1.0),
    Target("single durable write, 1 node, p99 / (raw write + echo)", "latency", 1.5, False, lambda f: f["durable_over_raw_p99"], times, 1.0),
    Target("single durable write, 3 nodes, 1 group, p50 / (raw write + 2 echoes)", "nodes", 1.3, False, durable_over_raw(3, 1), times, 1.0),
    Target(f"single durable write, 3 nodes, {GROUPS_DEFAULT} groups, p50 / (raw write + 2 echoes)", "nodes", 1.3, False, durable_over_raw(3, DEFAULT), times, 1.0),
    Target("query, idle, p50 / echo", "latency", 1.2, False, lambda f: f["query_over_echo_p50"], times, 1.0),
    Target("query under full ingest, p50", "nodes", 1e6, False, of_nodes(1, "query_under_ingest", "p50_ns"), us),
    Target("node CPU per event / the floor's, batch 500 async, v1", "floor", 1.5, False, lambda f: floor_ratio(f, 1), times, 1.0),
    Target("node CPU per event / the floor's, batch 500 async, v2", "floor", 1.5, False, lambda f: floor_ratio(f, 2), times, 1.0),
    Target("bytes per live series beyond its buckets", "memory", 100, False,
           lambda f: f["a_series"]["per_series_beyond_its_bucket"], lambda n: f"{n:,.0f} B"),
    Target("restart, 10 M events since the last checkpoint", "restart", 5.0, False,
           lambda f: max(point["seconds"] for point in f["points"]), seconds),
    Target("10,000 simulated seeds on 2 CPUs", "simulator", 10.0, False, lambda f: f["minutes_for_10000"], lambda n: f"{n:.1f} min"),
]  # fmt: skip


def rows(results: Figures) -> list[list[str]]:
    out = [["", "target", "measured", "reached"]]
    for target in TARGETS:
        found = results.get(target.question, {})
        limit = f"{'at least' if target.at_least else 'at most'} {target.say(target.aim)}"
        if "figures" not in found:
            out.append([target.what, limit, found.get("failed", "not measured")[:60], ""])
            continue
        measured = target.read(found["figures"])
        reached = measured >= target.aim if target.at_least else measured <= target.aim
        verdict = "disturbed" if measured < target.least * DISTURBED_BELOW else "yes" if reached else "no"
        out.append([target.what, limit, target.say(measured), verdict])
    return out
