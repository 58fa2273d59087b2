"""What all questions share: options, raw figures of the same run, one way to measure a load, one way to answer.

A *question* is a file here: what it asks, what its figures include and exclude, how they are measured, and as which rows
they are printed. `answer` wraps the figures into what makes them comparable: the conditions (machine, load average before and
after), the settings, and the machine's raw figures taken in the same run. That, as JSON, is what is kept for tracking.

`together` is the way to compare: A and B alternate, round by round, so that a machine that is slow for a minute is slow for both.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from unimeter.commands import load
from unimeter.commands.bench_cluster import NodeCluster
from unimeter.commands.bench_run import RAW_WRITES, Raw, conditions, probe_disk, probe_echo

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"
PLAIN_COLUMNS = 150
Figures = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    seconds: float = 3.0  # of each measurement
    warmup_s: float = 0.5
    rounds: int = 3  # medians
    protocol: int = 1
    memory_max: str = "2GiB"
    directory: Path | None = None  # a real disk, not tmpfs
    full: bool = False  # the long form of a question that has one

    def quick(self) -> Settings:
        return replace(self, seconds=0.5, warmup_s=0.1, rounds=1)

    def plan(self, **how: Any) -> load.Plan:
        """The load of most questions: 10,000 accounts x 5 metrics, 8 workers with a connection each."""
        base = load.Plan("", 0, protocol=self.protocol, duration_s=self.seconds, warmup_s=self.warmup_s)
        return replace(base, **how)


@dataclass(frozen=True)
class Question:
    name: str
    asks: str
    included: str
    excluded: str
    measure: Callable[[Settings, Path], Figures]
    rows: Callable[[Figures], list[list[str]]]  # the first row is the heading


@dataclass
class Measured:
    """One load, all its rounds."""

    reports: list[load.Report] = field(default_factory=list)
    server_cpu_ns: list[int] = field(default_factory=list)

    def add(self, report: load.Report, server_cpu_ns: int) -> None:
        self.reports.append(report)
        self.server_cpu_ns.append(server_cpu_ns)

    def figures(self, kind: str = "ingest") -> Figures:
        """Medians over the rounds. CPU is divided by all events of the run, its warm-up included, as both are."""
        latencies = [report.query if kind == "query" else report.ingest for report in self.reports]
        done = [max(1, r.stored + r.duplicates if kind == "ingest" else r.queries) for r in self.reports]
        rates = [r.events_per_s if kind == "ingest" else r.queries_per_s for r in self.reports]
        return {
            "per_s": round(statistics.median(rates)),
            "per_s_least": round(min(rates)),
            "per_s_most": round(max(rates)),
            "p50_ns": round(statistics.median(h.percentile_ns(50) for h in latencies)),
            "p99_ns": round(statistics.median(h.percentile_ns(99) for h in latencies)),
            "server_ns": round(statistics.median(ns / n for ns, n in zip(self.server_cpu_ns, done, strict=True)), 1),
            "client_ns": round(
                statistics.median(r.cpu_s * 1e9 / n for r, n in zip(self.reports, done, strict=True)), 1
            ),
        }


def drive(plan: load.Plan, address: str, cpu_ns: Callable[[], int], into: Measured) -> load.Report:
    """One round of a load against a server that is not a cluster."""
    host, port = load.split_address(address)
    before = cpu_ns()
    report = load.run(replace(plan, host=host, port=port, timestamp_ns=time.time_ns()))
    into.add(report, cpu_ns() - before)
    return report


def node(settings: Settings, place: Path, *options: str) -> NodeCluster:
    """One node in a fresh directory; use it with `with`."""
    place = Path(tempfile.mkdtemp(prefix="node-", dir=place))
    return NodeCluster(place, 1, options=("--memory-max", settings.memory_max, *options))


def together(rounds: int, *ways: Callable[[], object]) -> None:
    for _ in range(rounds):
        for way in ways:
            way()


# ---- answering ----


def answer(question: Question, settings: Settings) -> Figures:
    """Measure, between two looks at the machine itself."""
    place = Path(tempfile.mkdtemp(prefix="unimeter-bench-", dir=settings.directory))
    try:
        found: Figures = {
            "question": question.name,
            "asks": question.asks,
            "included": question.included,
            "excluded": question.excluded,
            "settings": {**asdict(settings), "directory": str(settings.directory or "")},
            "conditions": conditions(place),
            "raw": asdict(raw_figures(settings, place)),
        }
        begun = time.monotonic()
        found["figures"] = question.measure(settings, place)
        found["took_s"] = round(time.monotonic() - begun, 1)
        found["load_average_after"] = os.getloadavg()[0]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return found


def raw_figures(settings: Settings, place: Path) -> Raw:
    raw = probe_disk(place, RAW_WRITES if settings.seconds >= 1 else RAW_WRITES // 5)
    probe_echo(raw, min(1.0, settings.seconds), 0.1)
    return raw


def console() -> Console:
    found = Console()
    return found if found.is_terminal else Console(width=PLAIN_COLUMNS)


def show(question: Question, found: Figures) -> None:
    out, raw, where = console(), found["raw"], found["conditions"]
    out.print(f"\n[bold]{question.asks}[/bold]")
    print_rows(question.rows(found["figures"]), out)
    out.print(
        f"raw, same run: synced 4 KiB write {us(raw['write_p50_ns'])} (p99 {us(raw['write_p99_ns'])}, "
        f"{raw['write_cpu_wait']:.0%} of it waiting for a CPU), echo "
        f"{us(raw['echo_p50_ns'])} (p99 {us(raw['echo_p99_ns'])}); {where['cpu']}, {where['cpus']} CPUs, load average "
        f"{where['load_average']:.1f} before, {found['load_average_after']:.1f} after; {found['took_s']} s",
        highlight=False,
        style="dim",
    )
    out.print(f"included: {question.included}\nexcluded: {question.excluded}", highlight=False, style="dim")


def print_rows(rows: Sequence[Sequence[str]], out: Console) -> None:
    table = Table()
    for number, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*row)
    out.print(table)


def main(question: Question) -> int:
    """The command line of one question."""
    parser = argparse.ArgumentParser(description=question.asks)
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="repeated so often; medians are shown")
    parser.add_argument("--protocol", type=int, choices=(1, 2), default=Settings.protocol)
    parser.add_argument("--memory-max", default=Settings.memory_max, help="passed on to nodes")
    parser.add_argument("--dir", type=Path, default=None, help="where temporary data goes (a real disk, not tmpfs)")
    parser.add_argument("--json", type=Path, default=None, help="keep everything that was measured here")
    parser.add_argument("--quick", action="store_true", help="half a second each: does it work, not how fast")
    parser.add_argument("--full", action="store_true", help="the long form, where a question has one")
    options = parser.parse_args()
    settings = Settings(
        seconds=options.seconds, rounds=options.rounds, protocol=options.protocol, memory_max=options.memory_max,
        directory=options.dir, full=options.full,
    )  # fmt: skip
    found = answer(question, settings.quick() if options.quick else settings)
    show(question, found)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


# ---- words ----


def us(nanoseconds: float) -> str:
    return f"{nanoseconds / 1e6:,.1f} ms" if nanoseconds >= 1e7 else f"{nanoseconds / 1e3:,.1f} us"


def rate(per_s: float) -> str:
    return f"{per_s / 1e6:.2f} M" if per_s >= 1e6 else f"{per_s:,.0f}"


def mb(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


LOAD_HEADING = ["events/s", "least to most", "p50", "p99", "server ns/event", "client ns/event"]


def load_cells(figures: Figures) -> list[str]:
    return [
        rate(figures["per_s"]), f"{rate(figures['per_s_least'])} to {rate(figures['per_s_most'])}", us(figures["p50_ns"]),
        us(figures["p99_ns"]), f"{figures['server_ns']:,.0f}", f"{figures['client_ns']:,.0f}",
    ]  # fmt: skip


def progress(words: str) -> None:
    """Where a long measurement is; on stderr, and only for people."""
    if sys.stderr.isatty():
        print(f"\r\033[K{words}", end="", file=sys.stderr, flush=True)
