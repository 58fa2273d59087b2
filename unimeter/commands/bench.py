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
from unimeter.commands.bench_route import aimed
from unimeter.commands.bench_run import QUICK, Bench, Results, Settings
from unimeter.commands.common import DEFAULT_SERVER, servers_of
from unimeter.config import FOUNDERS

app = typer.Typer(help="Measure this node on this machine; `bench load` drives a node that already runs.")

PLAIN_COLUMNS = 140
DISTURBED_CPU_WAIT = 0.2  # so much, and what is compared with the raw write means little
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
    nodes: Annotated[int, typer.Option(help="A cluster of so many on this machine: 1, 3 or 5.")] = Settings.nodes,
    groups: Annotated[int, typer.Option(min=0, help="Groups of the cluster; 0: its default.")] = Settings.groups,
    routed: Annotated[
        bool, typer.Option("--routed/--no-routed", help="Several nodes: accounts go to the node that leads them.")
    ] = Settings.routed,
    memory_max: Annotated[str, typer.Option(help="Passed on to each node.")] = "",
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
    if nodes not in FOUNDERS:
        raise typer.BadParameter(f"{nodes}: a cluster starts with 1, 3 or 5 nodes", param_hint="--nodes")
    settings = Settings(
        nodes=nodes,
        groups=groups,
        routed=routed,
        protocol=protocol,
        seconds=seconds,
        rounds=rounds,
        accounts=accounts,
        metrics=metrics,
        restart_events=restart_events,
    )
    if quick:
        settings = replace(
            settings, seconds=QUICK.seconds, warmup_s=QUICK.warmup_s, restart_events=QUICK.restart_events
        )
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
        f"{conditions['cpu']}, {conditions['cpus']} CPUs, Linux {conditions['kernel']}, Python {conditions['python']} ({conditions['modules']}), "
        f"{conditions['file_system']}; protocol v{settings.protocol}, {settings.accounts:,} accounts x "
        f"{settings.metrics} metrics, {settings.seconds:g} s a phase, {settings.rounds} round(s)"
        + cluster_words(results),
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
    if raw.write_cpu_wait > DISTURBED_CPU_WAIT:
        kind += f", disturbed: {raw.write_cpu_wait:.0%} of it waited for a CPU"
    table.add_row(f"raw: 4 KiB synced write, {kind}", "", us(raw.write_p50_ns), us(raw.write_p99_ns), "", "")
    table.add_row("raw: round trip to a bare uvloop echo", "", us(raw.echo_p50_ns), us(raw.echo_p99_ns), "", "")
    write_p50, write_p99 = raw.durable_ns(50, settings.nodes), raw.durable_ns(99, settings.nodes)
    trips = "echo" if settings.nodes == 1 else "2 echoes"
    single = phases["durable_write"]
    table.add_row(f"durable write / (raw write + {trips})", "", ratio(single.latency_ns(50), write_p50),
                  ratio(single.latency_ns(99), write_p99), "", "")  # fmt: skip
    table.add_row("query idle / echo", "", ratio(idle.latency_ns(50, "query"), raw.echo_p50_ns),
                  ratio(idle.latency_ns(99, "query"), raw.echo_p99_ns), "", "")  # fmt: skip
    console.print(table)
    memory = f"memory: {results.node_resident_bytes / 1e6:,.0f} MB"
    if settings.nodes == 1:
        restart = results.restart
        memory = f"restart after kill -9 with {restart.events:,} events: {restart.seconds:.2f} s; {memory} before it"
    console.print(memory, highlight=False)
    console.print(INCLUDED, style="dim", highlight=False)


def us(ns: float) -> str:
    return f"{ns / 1000:,.1f} us" if ns < 10_000_000 else f"{ns / 1e6:,.1f} ms"


def ratio(measured: float, base: float) -> str:
    return f"{measured / base:.2f}x" if base else "-"


def cluster_words(results: Results) -> str:
    if results.settings.nodes == 1:
        return ""
    how = "to their leader" if results.settings.routed else "to any node"
    return f"; {results.settings.nodes} nodes on this machine, partitions led {tuple(results.led.values())}, accounts sent {how}"


@app.command("load")
def load_command(
    server: Annotated[
        list[str] | None,
        typer.Option(help="Address of a running node (IPv4; default 127.0.0.1:7001). One finds its cluster."),
    ] = None,
    routed: Annotated[
        bool | None,
        typer.Option("--routed/--no-routed", help="Send accounts to the node that leads them; a cluster's default."),
    ] = None,
    one_group: Annotated[bool, typer.Option("--one-group", help="Routed: every batch is of one group.")] = False,
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
    servers = [part for text in server or [DEFAULT_SERVER] for part in servers_of(text)]
    for address in servers:
        if not address.rpartition(":")[2].isdigit():
            raise typer.BadParameter(f"{address!r}: write host:port", param_hint="--server")
    plan = load.Plan(
        "", 0, protocol=protocol, sync=sync, batch=batch, workers=workers,
        connections=connections, query_workers=query_workers,
        query_pause_us=query_pause_us, accounts=accounts, metrics=metrics, ids=ids,
        sessions=sessions, spin_us=spin_us, events_max=events, duration_s=0.0 if events else seconds, warmup_s=warmup,
    )  # fmt: skip
    if seed:
        plan = replace(plan, seed=seed)
    try:
        plan = aimed(plan, servers, routed, one_group)
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
    if report.redirects or report.backpressure or report.lost_targets:
        rows.append(
            (
                "redirects / pushback / nodes lost",
                f"{report.redirects:,} / {report.backpressure:,} / {report.lost_targets}",
            )
        )
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
