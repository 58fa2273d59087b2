"""What the simulator prints: tables after a fleet, and what to do after a failure."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from unimeter import compiled
from unimeter.invariants import ALL
from unimeter.sim.canary_registry import CANARIES
from unimeter.sim.faults import Faults
from unimeter.sim.fleet import FleetResult
from unimeter.sim.marks import ALL_MARKS
from unimeter.sim.result import RunResult
from unimeter.sim.scenario import Scenario


def print_lists(console: Console, scenarios: dict[str, Scenario]) -> None:
    table = Table("scenario", "weight", "situation", title="Scenarios", title_justify="left")
    for name, scenario in scenarios.items():
        table.add_row(name, str(scenario.weight), scenario.description)
    console.print(table)
    table = Table("invariant", "claim", "canary", title="Invariants", title_justify="left")
    for check in ALL:
        table.add_row(check.name(), check.sentence, check.canary)
    console.print(table)
    table = Table("canary", "planted bug", title="Canaries", title_justify="left")
    for name, plant in sorted(CANARIES.items()):
        table.add_row(name, (plant.__doc__ or "").strip())
    console.print(table)


def print_fleet(console: Console, fleet: FleetResult) -> None:
    faults = Table("fault", "fired", "in runs", title="Faults", title_justify="left")
    for kind in [*Faults.kinds(), *sorted(set(fleet.fired) - set(Faults.kinds()))]:
        faults.add_row(kind, f"{fleet.fired.get(kind, 0):,}", f"{fleet.fired_runs.get(kind, 0):,}")
    console.print(faults)
    marks = Table("situation", "reached", title="Situations", title_justify="left")
    for name in ALL_MARKS:
        times = fleet.marks.get(name, 0)
        marks.add_row(name, f"{times:,}" if times else "[yellow]never[/]")
    console.print(marks)
    checks = Table("invariant", "evaluated", title="Invariants", title_justify="left")
    for name, times in fleet.evaluated.items():
        checks.add_row(name, f"{times:,}" if times else "[bold red]never[/]")
    console.print(checks)
    rate = fleet.runs / fleet.elapsed_s if fleet.elapsed_s else 0.0
    console.print(
        f"{fleet.runs:,} runs of {len(fleet.scenarios)} scenarios in {fleet.elapsed_s:.1f} s ({rate:.1f} seeds/s, "
        f"{1000 * fleet.cpu_s / max(1, fleet.runs):.0f} ms CPU each): {fleet.requests:,} requests, {fleet.events:,} events stored, "
        f"{fleet.virtual_ns / 1e9:,.0f} s of virtual time; {compiled.status()}"
    )


def print_failure(console: Console, result: RunResult, options: str, kernels: str) -> None:
    """The invariant, the place, and the commands: everything that the next person needs."""
    failure = result.failure
    assert failure is not None
    command = f"unimeter sim --scenario {result.scenario} --seed {result.seed}{options}"
    console.print(f"[bold red]BROKEN[/] [bold]{failure.invariant}[/]", highlight=False)
    console.print(f"  {failure.sentence}", highlight=False)
    for line in failure.detail.rstrip().splitlines():
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if failure.also:
        console.print(f"  also broken: {', '.join(failure.also)}", highlight=False)
    console.print(
        f"  scenario {result.scenario}, seed {result.seed}, step {failure.step}, virtual time {failure.virtual_ns / 1e6:.3f} ms, "
        f"kernels {kernels}, trace digest {result.digest}",
        highlight=False,
        soft_wrap=True,
    )
    for what, extra in (("reproduce", ""), ("trace", " --trace trace.txt"), ("shrink", " --shrink")):
        console.print(f"  {what + ':':<11}{command}{extra}", highlight=False, markup=False, soft_wrap=True)
