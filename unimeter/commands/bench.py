"""`unimeter bench`: how fast is this node on this machine, next to what the machine itself can do."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from unimeter.commands import load
from unimeter.commands.bench_node import NodeFailed
from unimeter.commands.bench_run import QUICK, Bench, Results, Settings

app = typer.Typer(help="Measure this node on this machine; `bench load` drives a node that already runs.")

PLAIN_COLUMNS = 120
INCLUDED = """\
included: loopback TCP, parsing, checks, duplicate detection (every event has its own timestamp), journal,
          totals, replies; sync also waits until the events are on disk. ns/event: CPU time, all threads.
excluded: connecting, creating metrics. closed loop; client and node share the CPUs."""


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    quick: Annotated[bool, typer.Option("--quick", help="Half a second a phase: does it work, not how fast.")] = False,
    seconds: Annotated[float, typer.Option(help="Length of each phase.")] = Settings.seconds,
    rounds: Annotated[int, typer.Option(help="Repeat each phase; the table shows medians.")] = Settings.rounds,
    protocol: Annotated[int, typer.Option(min=1, max=2, help="Wire protocol of the load.")] = Settings.protocol,
    accounts: Annotated[int, typer.Option(min=1)] = Settings.accounts,
    metrics: Annotated[int, typer.Option(min=1, max=load.METRICS_MAX)] = Settings.metrics,
    restart_events: Annotated[
        int, typer.Option(help="The restart is timed with at least so many events.")
    ] = Settings.restart_events,
    memory_max: Annotated[str, typer.Option(help="Passed on to the node.")] = "",
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where the temporary data goes (a real disk, not tmpfs).")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write everything that was measured here.")] = None,
) -> None:
    """Start a node in a temporary directory, measure it, and print one table beside the machine's raw figures.

    Takes about a minute (--quick: ten seconds). Nothing else should run meanwhile.
    """
    if context.invoked_subcommand is not None:
        return
    settings = Settings(
        protocol=protocol,
        seconds=seconds,
        rounds=rounds,
        accounts=accounts,
        metrics=metrics,
        restart_events=restart_events,
    )
    if quick:
        settings = replace(QUICK, protocol=protocol, accounts=accounts, metrics=metrics)
    options = ("--memory-max", memory_max) if memory_max else ()
    place = Path(tempfile.mkdtemp(prefix="unimeter-bench-", dir=directory))
    try:
        results = run_with_progress(settings, place, options)
    except (load.LoadError, NodeFailed, OSError) as error:
        Console(stderr=True).print(f"[red]bench failed:[/red] {error}", highlight=False)
        raise typer.Exit(1) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if json_path is not None:
        json_path.write_text(json.dumps(results.as_json(), indent=1) + "\n")
    show(results)


def run_with_progress(settings: Settings, place: Path, options: tuple[str, ...]) -> Results:
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        TextColumn("{task.fields[events]:>14}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=1.0, events="")

        def on_progress(name: str, fraction: float, events: int) -> None:
            progress.update(
                task, description=name.replace("_", " "), completed=fraction, events=f"{events:,}" if events else ""
            )

        return Bench(settings, place, options, on_progress).run()


def show(results: Results) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_COLUMNS)  # a file or a pipe has no width: do not wrap
    conditions, settings, raw, phases = results.conditions, results.settings, results.raw, results.phases
    console.print(
        f"{conditions['cpu']}, {conditions['cpus']} CPUs, Linux {conditions['kernel']}, Python {conditions['python']}, "
        f"{conditions['file_system']}; protocol v{settings.protocol}, {settings.accounts:,} accounts x "
        f"{settings.metrics} metrics, {settings.seconds:g} s a phase, {settings.rounds} round(s)",
        highlight=False,
        soft_wrap=True,
    )
    table = Table()
    for heading in ("", "events/s", "p50", "p99", "node ns/event", "client ns/event"):
        table.add_column(heading, justify="left" if not heading else "right")
    rates = (
        ("batch_async", f"batch {settings.batch} async, {settings.workers} workers"),
        ("batch_sync", f"batch {settings.batch} sync, {settings.workers} workers"),
        ("single_async", f"batch 1 async, {settings.single_workers} workers, 1 connection"),
        ("single_sync", f"batch 1 sync, {settings.single_workers} workers, 1 connection"),
        ("durable_write", "single durable write, 1 worker"),
    )
    for name, title in rates:
        phase = phases[name]
        table.add_row(title, f"{phase.events_per_s():,.0f}", us(phase.latency_ns(50)), us(phase.latency_ns(99)),
                      f"{phase.node_ns_per_event():,.0f}", f"{phase.client_ns_per_event():,.0f}")  # fmt: skip
    table.add_section()
    idle, busy = phases["query_idle"], phases["query_under_ingest"]
    table.add_row("query, idle", "", us(idle.latency_ns(50, "query")), us(idle.latency_ns(99, "query")), "", "")
    table.add_row("query, under batch sync ingest", f"{busy.events_per_s():,.0f}", us(busy.latency_ns(50, "query")),
                  us(busy.latency_ns(99, "query")), "", "")  # fmt: skip
    table.add_section()
    kind = "O_DIRECT" if raw.write_direct else "no O_DIRECT here"
    table.add_row(f"raw: 4 KiB synced write, {kind}", "", us(raw.write_p50_ns), us(raw.write_p99_ns), "", "")
    table.add_row("raw: round trip to a bare uvloop echo", "", us(raw.echo_p50_ns), us(raw.echo_p99_ns), "", "")
    write_p50, write_p99 = raw.write_p50_ns + raw.echo_p50_ns, raw.write_p99_ns + raw.echo_p99_ns
    single = phases["durable_write"]
    table.add_row("durable write / (raw write + echo)", "", ratio(single.latency_ns(50), write_p50),
                  ratio(single.latency_ns(99), write_p99), "", "")  # fmt: skip
    table.add_row("query idle / echo", "", ratio(idle.latency_ns(50, "query"), raw.echo_p50_ns),
                  ratio(idle.latency_ns(99, "query"), raw.echo_p99_ns), "", "")  # fmt: skip
    console.print(table)
    console.print(
        f"restart after kill -9 with {results.restart.events:,} events: {results.restart.seconds:.2f} s; "
        f"node memory before it: {results.node_resident_bytes / 1e6:,.0f} MB",
        highlight=False,
    )
    console.print(INCLUDED, style="dim", highlight=False)


def us(ns: float) -> str:
    return f"{ns / 1000:,.1f} us" if ns < 10_000_000 else f"{ns / 1e6:,.1f} ms"


def ratio(measured: float, base: float) -> str:
    return f"{measured / base:.2f}x" if base else "-"


@app.command("load")
def load_command(
    server: Annotated[str, typer.Option(help="Address of a running node (IPv4).")] = "127.0.0.1:7001",
    protocol: Annotated[int, typer.Option(min=1, max=2)] = 1,
    sync: Annotated[bool, typer.Option("--sync/--async", help="Answered when durable, or when ordered.")] = True,
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Events per request.")] = 500,
    workers: Annotated[int, typer.Option(min=0, help="Closed loops that ingest.")] = 8,
    connections: Annotated[int, typer.Option(min=0, help="Connections they share; 0: one each.")] = 0,
    query_workers: Annotated[int, typer.Option(min=0, help="Closed loops that query, each on its connection.")] = 0,
    query_pause_us: Annotated[int, typer.Option(min=0, help="Pause between an answer and the next query.")] = 0,
    accounts: Annotated[int, typer.Option(min=1)] = 10_000,
    metrics: Annotated[int, typer.Option(min=1, max=load.METRICS_MAX)] = 5,
    seconds: Annotated[float, typer.Option(min=0, help="Stop after so long.")] = 5.0,
    warmup: Annotated[float, typer.Option(min=0, help="Seconds before the window of measurement.")] = 0.0,
    events: Annotated[int, typer.Option(min=0, help="Stop after so many events instead (whole batches).")] = 0,
    ids: Annotated[bool, typer.Option(help="v2: an id for every event.")] = False,
    sessions: Annotated[bool, typer.Option(help="v2: number the batches in a session per worker.")] = True,
    spin_us: Annotated[int, typer.Option(min=0, help="Poll so long before sleeping.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Accounts are drawn from it; 0: a new one each time.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Drive a node that already runs: a closed-loop load generator in C. It creates the metrics bench_00, ... and
    sends events with timestamps of their own, now and later, so nothing it sends is a duplicate."""
    host, _, port = server.rpartition(":")
    if not port.isdigit():
        raise typer.BadParameter(f"{server!r}: write host:port", param_hint="--server")
    plan = load.Plan(
        host or "127.0.0.1", int(port), protocol=protocol, sync=sync, batch=batch, workers=workers,
        connections=connections, query_workers=query_workers,
        query_pause_us=query_pause_us, accounts=accounts, metrics=metrics, ids=ids,
        sessions=sessions, spin_us=spin_us, events_max=events, duration_s=0.0 if events else seconds, warmup_s=warmup,
    )  # fmt: skip
    if seed:
        plan = replace(plan, seed=seed)
    try:
        report = run_load(plan)
    except load.LoadError as error:
        Console(stderr=True).print(f"[red]load failed:[/red] {error}", highlight=False)
        raise typer.Exit(4 if isinstance(error, load.ServerUnreachable) else 1) from error
    if as_json:
        print(json.dumps({"plan": asdict(plan), **report.as_json()}))
    else:
        show_load(report)
    if report.refused:
        raise typer.Exit(1)


def run_load(plan: load.Plan) -> load.Report:
    if not sys.stderr.isatty():
        return load.run(plan)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("load", total=float(plan.events_max) or plan.duration_s + plan.warmup_s)

        def on_progress(events: int, queries: int) -> None:
            done = float(events) if plan.events_max else bar.tasks[task].elapsed or 0.0
            bar.update(task, description=f"{events:,} events, {queries:,} queries", completed=done)

        return load.run(plan, on_progress)


def show_load(report: load.Report) -> None:
    rows: list[tuple[str, Any]] = [
        ("events/s", f"{report.events_per_s:,.0f}"),
        ("stored / duplicates / refused", f"{report.stored:,} / {report.duplicates:,} / {report.refused:,}"),
        ("requests, by status", f"{report.acked_requests:,}, {report.statuses}"),
    ]
    for name, latencies in (("ingest", report.ingest), ("query", report.query)):
        if latencies.count:
            s = latencies.summary()
            figures = " / ".join(us(s[key]) for key in ("p50_ns", "p90_ns", "p99_ns", "max_ns"))
            rows.append((f"{name} p50 / p90 / p99 / max", figures))
    if report.queries:
        rows.append(("queries/s", f"{report.queries_per_s:,.0f}"))
    answered = max(1, report.stored + report.duplicates)
    rows.append(("client CPU", f"{report.cpu_s:.2f} s, {report.cpu_s * 1e9 / answered:,.0f} ns per event"))
    table = Table(show_header=False)
    for name, value in rows:
        table.add_row(name, str(value))
    Console().print(table)


if __name__ == "__main__":
    app()
