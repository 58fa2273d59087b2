"""Many seeds on several processes, added up: faults fired, invariants evaluated, failures.

The fleet stops at the first failing run. A fleet in which some invariant was never evaluated has failed too: so
has one in which a scenario never fired the fault that it is about.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

from unimeter import kernels
from unimeter.sim.result import RunResult
from unimeter.sim.runner import run_seed
from unimeter.sim.scenario import Scenario, load_all, pick

COLLECT_EVERY: Final = 4  # runs of a process between two collections of garbage
_runs = 0  # of this process
VACUOUS_RUNS_MIN: Final = 30  # runs of a scenario after which its expected faults must have fired


@dataclass(frozen=True)
class Job:
    scenario: str
    seed: int
    canary: str | None


@dataclass
class FleetResult:
    runs: int = 0
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    virtual_ns: int = 0
    steps: int = 0
    events: int = 0
    requests: int = 0
    fired: dict[str, int] = field(default_factory=dict)
    fired_runs: dict[str, int] = field(default_factory=dict)  # runs in which the fault fired at all
    marks: dict[str, int] = field(default_factory=dict)
    evaluated: dict[str, int] = field(default_factory=dict)
    scenarios: dict[str, int] = field(default_factory=dict)
    failure: RunResult | None = None
    never_evaluated: list[str] = field(default_factory=list)
    never_fired: list[str] = field(default_factory=list)  # "scenario: fault"
    _by_scenario: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.failure is None and not self.never_evaluated and not self.never_fired

    def add(self, result: RunResult) -> None:
        self.runs += 1
        self.cpu_s += result.cpu_s
        self.virtual_ns += result.virtual_ns
        self.steps += result.steps
        self.events += result.events_stored
        self.requests += result.requests
        self.scenarios[result.scenario] = self.scenarios.get(result.scenario, 0) + 1
        for kind, times in result.fired.items():
            self.fired[kind] = self.fired.get(kind, 0) + times
            self.fired_runs[kind] = self.fired_runs.get(kind, 0) + 1
            key = (result.scenario, kind)
            self._by_scenario[key] = self._by_scenario.get(key, 0) + times
        for name, times in result.marks.items():
            self.marks[name] = self.marks.get(name, 0) + times
        for name, times in result.evaluated.items():
            self.evaluated[name] = self.evaluated.get(name, 0) + times
        if result.failure is not None and self.failure is None:
            self.failure = result

    def close(self, scenarios: dict[str, Scenario], elapsed_s: float) -> None:
        self.elapsed_s = elapsed_s
        if self.failure is not None:
            return
        self.never_evaluated = sorted(name for name, times in self.evaluated.items() if times == 0)
        for name, runs in sorted(self.scenarios.items()):
            if runs >= VACUOUS_RUNS_MIN:
                for kind in scenarios[name].expect_fired:
                    if not self._by_scenario.get((name, kind)):
                        self.never_fired.append(f"{name}: {kind}")

    def as_json(self) -> dict[str, Any]:
        found = {key: value for key, value in self.__dict__.items() if not key.startswith("_") and key != "failure"}
        found["passed"] = self.passed
        found["failure"] = None
        if self.failure is not None and self.failure.failure is not None:
            found["failure"] = {
                "scenario": self.failure.scenario,
                "seed": self.failure.seed,
                "digest": self.failure.digest,
                **self.failure.failure.__dict__,
            }
        return found


def run_job(job: Job) -> RunResult:
    global _runs
    scenario, loaded = load_all()[job.scenario], kernels.load()
    if _runs == 0:
        gc.freeze()  # the program itself is no garbage
    _runs += 1
    gc.disable()  # a run is short: collecting after some of them costs less than looking all the time
    try:
        return run_seed(scenario, job.seed, loaded, job.canary)
    finally:
        gc.enable()
        if _runs % COLLECT_EVERY == 0:
            gc.collect()


def jobs(names: list[str], first_seed: int, seeds: int, canary: str | None) -> list[Job]:
    scenarios = load_all()
    return [Job(pick(names, scenarios, seed), seed, canary) for seed in range(first_seed, first_seed + seeds)]


def run_fleet(work: list[Job], processes: int, progress: Callable[[FleetResult], None]) -> FleetResult:
    """Run all jobs, or until the first failure."""
    fleet = FleetResult()
    started = perf_counter()
    for result in _results(work, processes):
        fleet.add(result)
        progress(fleet)
        if fleet.failure is not None:
            break
    fleet.close(load_all(), perf_counter() - started)
    return fleet


def _results(work: list[Job], processes: int) -> Iterator[RunResult]:
    if processes <= 1:
        yield from map(run_job, work)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes) as pool:
        yield from pool.imap(run_job, work, chunksize=4)
