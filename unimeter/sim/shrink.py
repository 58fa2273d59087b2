"""Make a failing run smaller: less trouble, fewer clients, less time, while the same invariant still breaks.

A smaller run is the same seed of a reduced scenario. Reductions are named settings (`Reduction`), so that the
command line can name them again: what is printed is a command, not a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from unimeter.kernels.api import Kernels
from unimeter.sim.result import RunResult
from unimeter.sim.runner import run_seed
from unimeter.sim.scenario import Scenario

CLIENT_KINDS: Final = ("vandals", "subscribers", "readers_v1", "readers", "plain", "v1", "sessions", "changes")


@dataclass(frozen=True)
class Reduction:
    """`without`: fault kinds; `fewer`: client settings; `chaos_ms`: a shorter chaos."""

    without: tuple[str, ...] = ()
    fewer: tuple[tuple[str, int], ...] = ()
    chaos_ms: int | None = None

    def apply(self, scenario: Scenario) -> Scenario:
        return replace(
            scenario,
            faults=tuple(spec for spec in scenario.faults if spec.kind not in self.without),
            clients=replace(scenario.clients, **dict(self.fewer)),
            chaos_ms=scenario.chaos_ms if self.chaos_ms is None else self.chaos_ms,
        )

    def options(self) -> str:
        """As options of `unimeter sim`."""
        parts = [f"--without {kind}" for kind in self.without]
        parts += [f"--clients {name}={value}" for name, value in self.fewer]
        parts += [] if self.chaos_ms is None else [f"--chaos-ms {self.chaos_ms}"]
        return " ".join(parts)


def parse(without: list[str], clients: list[str], chaos_ms: int | None) -> Reduction:
    """From the command line. Raises ValueError."""
    fewer = []
    for setting in clients:
        name, _, value = setting.partition("=")
        fewer.append((name, float(value) if name == "asynchronous" else int(value)))
    return Reduction(tuple(without), tuple(fewer), chaos_ms)  # type: ignore[arg-type]


def shrink(
    scenario: Scenario,
    seed: int,
    kernels: Kernels,
    canary: str | None,
    report: Callable[[str], None],
    runs_max: int = 150,
) -> tuple[Reduction, RunResult]:
    """The smallest reduction found whose run breaks the invariant that the full run breaks."""
    best = Reduction()
    result = run_seed(scenario, seed, kernels, canary)
    assert result.failure is not None, "only a failing run can be shrunk"
    wanted = result.failure.invariant
    runs = 0
    progress = True
    while progress and runs < runs_max:
        progress = False
        for smaller in _smaller(scenario, best):
            runs += 1
            attempt = run_seed(smaller.apply(scenario), seed, kernels, canary)
            if attempt.failure is not None and attempt.failure.invariant == wanted:
                best, result, progress = smaller, attempt, True
                report(f"{attempt.steps} steps, {attempt.requests} requests: {smaller.options()}")
                break
            if runs >= runs_max:
                break
    return best, result


def _smaller(scenario: Scenario, best: Reduction) -> Iterator[Reduction]:
    """One step down from `best`, the most promising first."""
    now = best.apply(scenario)
    fewer = dict(best.fewer)

    def with_clients(**changes: int) -> Reduction:
        return replace(best, fewer=tuple(sorted((fewer | changes).items())))

    for spec in now.faults:
        yield replace(best, without=(*best.without, spec.kind))
    for kind in CLIENT_KINDS:
        if getattr(now.clients, kind) > 0:
            yield with_clients(**{kind: 0})
    if now.clients.requests > 4:
        yield with_clients(requests=now.clients.requests // 2)
    if now.clients.batch_events_max > 1:
        yield with_clients(batch_events_max=max(1, now.clients.batch_events_max // 2))
    for kind in CLIENT_KINDS:
        if getattr(now.clients, kind) > 1:
            yield with_clients(**{kind: getattr(now.clients, kind) - 1})
    if now.chaos_ms > 50:
        yield replace(best, chaos_ms=now.chaos_ms // 2)
