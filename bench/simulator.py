"""How much CPU does a simulated seed cost?

`unimeter sim` over its scenarios by their weights, in one process, as `make sim` does it in two. A seed is a whole bad
day of a cluster: chaos, calm, an audit of every total. The figure decides how many seeds a night has. From it follows how
long 10,000 seeds take on two CPUs, if both are there for it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.common import Figures, Question, Settings, main, progress

SEEDS, SEEDS_FULL, SEEDS_QUICK = 200, 2000, 20
FIRST_SEED = 1
CPUS = 2
ASKED = 10_000


def measure(settings: Settings, place: Path) -> Figures:
    seeds = SEEDS_FULL if settings.full else SEEDS if settings.seconds >= 1 else SEEDS_QUICK
    path = place / "fleet.json"
    progress(f"{seeds} seeds")
    command = ["sim", "--seeds", str(seeds), "--first-seed", str(FIRST_SEED), "--jobs", "1", "--json", str(path)]
    code = "import sys; from unimeter.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *command], stdout=subprocess.PIPE, text=True, check=False)
    progress("")
    if not path.exists():
        raise SystemExit(f"the simulator ended with exit code {done.returncode} and no result")
    fleet = json.loads(path.read_text())
    if (failure := fleet["failure"]) is not None:  # the fleet stopped there, and what it cost until then says nothing
        raise SystemExit(
            f"seed {failure['seed']} of {failure['scenario']} breaks {failure['invariant']}: {failure['detail']}"
        )
    return {
        "seeds": fleet["runs"],
        "exit_code": done.returncode,
        "ms_per_seed": round(fleet["cpu_s"] * 1e3 / fleet["runs"], 2),
        "wall_s": round(fleet["elapsed_s"], 2),
        "us_per_step": round(fleet["cpu_s"] * 1e6 / fleet["steps"], 2),
        "steps_per_seed": round(fleet["steps"] / fleet["runs"]),
        "minutes_for_10000": round(fleet["cpu_s"] / fleet["runs"] * ASKED / CPUS / 60, 2),
    }


def rows(figures: Figures) -> list[list[str]]:
    return [
        ["", "measured"],
        ["seeds", f"{figures['seeds']:,}"],
        ["CPU per seed", f"{figures['ms_per_seed']:.1f} ms"],
        ["steps per seed; CPU per step", f"{figures['steps_per_seed']:,}; {figures['us_per_step']:.1f} us"],
        [f"{ASKED:,} seeds on {CPUS} CPUs, by CPU time", f"{figures['minutes_for_10000']:.1f} min"],
    ]


QUESTION = Question(
    "simulator",
    "How much CPU does a simulated seed cost?",
    "the run, its checks and its audit; scenarios by weight; CPU time of the worker process",
    "starting the interpreter; a fleet of few seeds has not met every scenario (it may say so: exit code 1)",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
