"""`unimeter sim`: run the simulator. See docs/simulation.md."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from unimeter import compiled, kernels
from unimeter.sim import shrink as shrinking
from unimeter.sim.canary_registry import CANARIES
from unimeter.sim.fleet import FleetResult, jobs, run_fleet
from unimeter.sim.report import print_failure, print_fleet, print_lists
from unimeter.sim.result import RunResult
from unimeter.sim.runner import run_seed
from unimeter.sim.scenario import BadScenario, Scenario, load_all

app = typer.Typer(help="Run the simulator: the real node in a hostile, reproducible world.")

EXIT_BROKEN = 1
EXIT_USAGE = 2
PLAIN_COLUMNS = 120


@app.command()
def sim(
    seeds: Annotated[int | None, typer.Option(min=1, help="Run so many seeds, over all scenarios by weight.")] = None,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    scenario: Annotated[list[str] | None, typer.Option(help="Only this scenario; may be repeated.")] = None,
    jobs_: Annotated[int, typer.Option("--jobs", min=0, help="Processes; 0: one for each CPU.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Replay one seed of one scenario.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="With --seed: write everything that happens here, line by line.")
    ] = None,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="With --seed: look for a smaller run that fails alike.")
    ] = False,
    canary: Annotated[str | None, typer.Option(help="Plant this bug: the simulator must find it.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="With --seed: leave out this kind of fault.")] = None,
    clients: Annotated[list[str] | None, typer.Option(help="With --seed: change a client setting, NAME=VALUE.")] = None,
    chaos_ms: Annotated[int | None, typer.Option(min=1, help="With --seed: length of the chaos, virtual time.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List scenarios, invariants and canaries.")] = False,
) -> None:
    """Run the real node against a fake world, and check every promise.

    A run is its scenario and its seed: the same command gives the same run, on every machine. `unimeter sim --seeds 2000`
    runs two thousand of them; `unimeter sim --scenario NAME --seed S --trace FILE` replays one and writes down what
    happens. Exit codes: 0 all promises kept; 1 one was broken (or never put to the test); 2 wrong usage.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_COLUMNS)
    try:
        scenarios = load_all()
    except BadScenario as error:
        _usage(str(error))
    if list_:
        print_lists(console, scenarios)
        return
    names = scenario or list(scenarios)
    for name in names:
        if name not in scenarios:
            _usage(f"there is no scenario {name!r}; `unimeter sim --list` lists them")
    if canary is not None and canary not in CANARIES:
        _usage(f"there is no canary {canary!r}; `unimeter sim --list` lists them")
    if canary is not None and compiled.status() == compiled.COMPILED:
        # a canary puts other methods into the node; compiled ones cannot be changed
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {compiled.VARIABLE: "1"})
    if (seeds is None) == (seed is None):
        _usage("say how many seeds to run (--seeds N), or which one to replay (--scenario NAME --seed S)")
    if seeds is not None:
        _fleet(console, names, first_seed, seeds, jobs_ or os.cpu_count() or 1, canary, json_path)
        return
    assert seed is not None
    if scenario is None or len(scenario) != 1:
        _usage("a replay needs one --scenario NAME")
    try:
        reduction = shrinking.parse(without or [], clients or [], chaos_ms)
        reduced = reduction.apply(scenarios[names[0]])
    except (ValueError, TypeError) as error:
        _usage(f"--clients takes NAME=NUMBER: {error}")
    options = _options(reduction.options(), canary)
    if shrink:
        _shrink(console, reduced, seed, canary, options)
    else:
        _replay(console, reduced, seed, canary, options, trace, json_path)


def _usage(message: str) -> None:
    typer.echo(f"unimeter sim: {message}", err=True)
    raise typer.Exit(EXIT_USAGE)


def _options(reduction: str, canary: str | None) -> str:
    parts = [part for part in (reduction, f"--canary {canary}" if canary else "") if part]
    return "".join(f" {part}" for part in parts)


def _fleet(
    console: Console,
    names: list[str],
    first_seed: int,
    seeds: int,
    processes: int,
    canary: str | None,
    json_path: Path | None,
) -> None:
    work = jobs(names, first_seed, seeds, canary)
    columns = (
        TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("", total=seeds)

        def progress(fleet: FleetResult) -> None:
            bar.update(task, completed=fleet.runs, description=f"{sum(fleet.fired.values()):,} faults")

        fleet = run_fleet(work, min(processes, seeds), progress)
    print_fleet(console, fleet)
    if json_path is not None:
        json_path.write_text(json.dumps(fleet.as_json(), indent=2) + "\n")
    for name in fleet.never_evaluated:
        console.print(
            f"[bold red]NEVER EVALUATED[/] {name}: run more seeds or scenarios; a check that never ran proves nothing"
        )
    for place in fleet.never_fired:
        console.print(f"[bold red]NEVER FIRED[/] {place}: the scenario does not test what it says")
    if fleet.failure is not None:
        print_failure(console, fleet.failure, _options("", canary), kernels.load().name)
    if not fleet.passed:
        raise typer.Exit(EXIT_BROKEN)
    console.print("[bold green]passed[/]")


def _replay(
    console: Console,
    scenario: Scenario,
    seed: int,
    canary: str | None,
    options: str,
    trace: Path | None,
    json_path: Path | None,
) -> None:
    if trace is None:
        result = run_seed(scenario, seed, kernels.load(), canary)
    else:
        with trace.open("w") as sink:
            result = run_seed(scenario, seed, kernels.load(), canary, sink)
    _print_run(console, result)
    if json_path is not None:
        fleet = FleetResult()
        fleet.add(result)
        json_path.write_text(json.dumps(fleet.as_json() | {"digest": result.digest}, indent=2) + "\n")
    if result.failure is not None:
        print_failure(console, result, options, kernels.load().name)
        raise typer.Exit(EXIT_BROKEN)
    console.print("[bold green]passed[/]")


def _print_run(console: Console, result: RunResult) -> None:
    fired = ", ".join(f"{kind} {times}" for kind, times in sorted(result.fired.items())) or "none"
    never = [name for name, times in result.evaluated.items() if times == 0]
    console.print(
        f"{result.scenario}, seed {result.seed}: {result.steps} steps, {result.virtual_ns / 1e6:.1f} ms of virtual time, "
        f"{result.requests} requests, {result.events_stored} events stored",
        highlight=False,
    )
    console.print(f"trace digest {result.digest}", highlight=False)
    console.print(f"faults: {fired}", highlight=False)
    if never:
        console.print(f"not put to the test by this seed: {', '.join(never)}", highlight=False)


def _shrink(console: Console, scenario: Scenario, seed: int, canary: str | None, options: str) -> None:
    first = run_seed(scenario, seed, kernels.load(), canary)
    if first.failure is None:
        console.print("this run passes: there is nothing to shrink")
        return
    console.print(
        f"{first.steps} steps, {first.requests} requests break {first.failure.invariant}; shrinking ...",
        highlight=False,
    )
    best, result = shrinking.shrink(
        scenario, seed, kernels.load(), canary, lambda line: console.print(f"  {line}", highlight=False, soft_wrap=True)
    )
    smaller = " ".join(part for part in (options.strip(), best.options()) if part)
    print_failure(console, result, f" {smaller}" if smaller else "", kernels.load().name)
    raise typer.Exit(EXIT_BROKEN)
