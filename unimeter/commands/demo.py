"""`unimeter demo`: the whole way once, on real data, checked against an independent computation.

A node is started in a temporary directory. The 336,776 flights that left New York City in 2013 are imported as two
metrics of sixteen accounts (the airlines), then every account's totals are asked for, per month and per origin, and
compared with what SQLite computes from the same file. Importing again must change nothing. Then all of it is removed.
"""

from __future__ import annotations

import csv
import gzip
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from unimeter.client.client import Client
from unimeter.client.times import month_bounds
from unimeter.client.values import AggType, MetricSchema, Period
from unimeter.commands.bench_node import NodeFailed, NodeProcess

app = typer.Typer()

DATA = Path(__file__).resolve().parents[2] / "data-demo" / "flights-2013.csv.gz"
METRICS = (
    # code, aggregation, the column that is its value
    ("miles", AggType.SUM, "distance"),
    ("flight_numbers", AggType.COUNT_UNIQUE, "flight"),
)
DIMENSIONS = ("origin", "dest")
MEMORY = "1GiB"
AIRLINES = ("9E", "AA", "AS", "B6", "DL", "EV", "F9", "FL", "HA", "MQ", "OO", "UA", "US", "VX", "WN", "YV")


class DemoFailed(Exception):
    """A number was not what it must be."""


@app.command()
def demo(
    file: Annotated[Path, typer.Option(help="The flights, as data-demo/README.md describes them.")] = DATA,
) -> None:
    """Start a node, import a real data set, check and print totals, import again, stop. Leaves nothing behind."""
    if not file.is_file():
        raise typer.BadParameter(f"there is no {file}: it comes with the source tree (data-demo)")
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="unimeter-demo-") as place:
            _demo(console, file, Path(place))
    except (DemoFailed, NodeFailed) as error:
        console.print(f"[red]demo failed:[/red] {error}")
        raise typer.Exit(1) from error
    console.print(f"\nDone in {time.monotonic() - started:.1f} s; the node is stopped and its data removed.")


def _demo(console: Console, file: Path, place: Path) -> None:
    with NodeProcess(place / "data", "--memory-max", MEMORY) as node:
        console.print(f"[bold]A node[/bold] in a temporary directory: {node.ready_line}", soft_wrap=True)
        with Client([node.address]) as client:
            for code, aggregation, _ in METRICS:
                client.metrics.create(MetricSchema(code, aggregation, DIMENSIONS))
            console.print(f"\n[bold]Importing[/bold] {file.name} as {len(METRICS)} metrics")
            _import_all(console, node.address, file)
            console.print("\n[bold]Totals of 2013[/bold], per airline")
            before = _totals(client, console.print)
            console.print("\n[bold]A breakdown[/bold]: miles of UA per origin, in July")
            july = Period("2013-07-01", "2013-08-01")
            rows = client.query_breakdown("UA", "miles", july, group_by=["origin"])
            _table(console.print, ("origin", "flights", "miles"), [
                (row.dimensions["origin"], row.value.count, row.value.sum) for row in rows
            ])  # fmt: skip
            _verify(console, client, file)
            console.print("\n[bold]Importing again[/bold]: nothing may change")
            _import_all(console, node.address, file)
            if _totals(client, None) != before:
                raise DemoFailed("the second import changed a total")
            console.print("no total has changed")
        exit_code = node.stop()
        if exit_code != 0:
            raise DemoFailed(f"the node stopped with exit code {exit_code}")


def _import_all(console: Console, address: str, file: Path) -> None:
    for code, _, value in METRICS:
        words = ["import", str(file), "--metric", code, "--account", "carrier", "--time", "scheduled_departure"]
        words += ["--value", value]
        for key in DIMENSIONS:
            words += ["--property", key]
        shown = shlex.join(["unimeter", *words]).replace(str(file), file.name)
        console.print(f"[dim]$ {shown}[/dim]", soft_wrap=True)
        run = [sys.executable, "-m", "unimeter.cli", *words, "--server", address]
        if subprocess.run(run, check=False).returncode != 0:
            raise DemoFailed("the import failed")


def _totals(client: Client, show: Callable[[Table], None] | None) -> list[tuple[str, int, int, int]]:
    """(airline, flights, miles, distinct flight numbers) over all time, most flights first."""
    year = Period("2013-01-01", "2015-01-01")
    totals = []
    for airline in AIRLINES:
        miles = client.query(airline, "miles", year).value
        unique = client.query(airline, "flight_numbers", year).value.unique
        totals.append((airline, miles.count, miles.sum, unique or 0))
    totals.sort(key=lambda row: -row[1])
    if show:
        _table(show, ("airline", "flights", "miles", "flight numbers"), totals)
    return totals


def _table(show: Callable[[Table], None], names: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left")
    for row in rows:
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row))
    show(table)


def _verify(console: Console, client: Client, file: Path) -> None:
    """Every airline, month and origin against SQLite: count, sum, max and distinct values."""
    started = time.monotonic()
    base = sqlite3.connect(":memory:")
    base.execute("create table flights (at text, airline text, flight int, origin text, dest text, distance int)")
    with gzip.open(file, "rt", newline="") as opened:
        rows = csv.reader(opened)
        next(rows)
        base.executemany("insert into flights values (?, ?, ?, ?, ?, ?)", rows)
    expected = base.execute(
        "select airline, substr(at, 1, 7), origin, count(*), sum(distance), max(distance), count(distinct flight)"
        " from flights group by 1, 2, 3"
    ).fetchall()
    sqlite_s = time.monotonic() - started
    answers: dict[tuple[str, str, str], tuple[int, int, int | None, int | None]] = {}
    queries = 0
    started = time.monotonic()
    for airline in AIRLINES:
        for month in sorted({row[1] for row in expected}):
            period = Period(*month_bounds(datetime.fromisoformat(month + "-01T00:00Z"), 1))
            miles = client.query_breakdown(airline, "miles", period, group_by=["origin"])
            unique = client.query_breakdown(airline, "flight_numbers", period, group_by=["origin"])
            queries += 2
            for row, other in zip(miles, unique, strict=True):
                value = (row.value.count, row.value.sum, row.value.max, other.value.unique)
                if row.value.count:
                    answers[airline, month, row.dimensions["origin"]] = value
    asked_s = time.monotonic() - started
    if answers != {tuple(row[:3]): tuple(row[3:]) for row in expected}:
        raise DemoFailed("the totals are not what SQLite computes from the file")
    console.print(
        f"\n[bold]Checked[/bold]: all {len(expected)} totals of airline, month and origin are what SQLite computes "
        f"from the file\n({queries} queries in {asked_s:.2f} s; SQLite: {sqlite_s:.2f} s)"
    )
