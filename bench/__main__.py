"""`python -m bench` (make bench): a bounded selection of all questions, one table of targets beside what was measured, plots.

About eight minutes on a quiet machine with two CPUs; each question alone takes longer and says more. What a question
could not measure stands in the table as such; the others go on. Everything is kept in build/bench/bench.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench import accounts, compare, floor, latency, memory, nodes, plots, restart, simulator, targets, throughput
from bench.common import RESULTS, Figures, Question, Settings, answer, console, print_rows, show

SHORT = Settings(seconds=2.0, warmup_s=0.4, rounds=1)
QUIET_LOAD_AVERAGE = 0.5  # before anything was measured
BRIEF = replace(SHORT, seconds=1.0, warmup_s=0.2)
SELECTION: tuple[tuple[str, Question, Settings], ...] = (
    ("latency", latency.QUESTION, replace(SHORT, rounds=3)),
    ("nodes", nodes.QUESTION, SHORT),
    ("nodes_v2", nodes.QUESTION, replace(SHORT, protocol=2)),
    ("floor", floor.QUESTION, replace(SHORT, rounds=2)),
    ("throughput", throughput.QUESTION, BRIEF),
    ("accounts", accounts.QUESTION, SHORT),
    ("memory", memory.QUESTION, BRIEF),
    ("restart", restart.QUESTION, SHORT),
    ("compare", compare.QUESTION, SHORT),
    ("simulator", simulator.QUESTION, SHORT),
)


def answers(only: list[str], quick: bool, directory: Path | None) -> Iterator[tuple[str, Figures]]:
    for name, question, settings in SELECTION:
        if only and name not in only:
            continue
        settings = replace(settings.quick() if quick else settings, directory=directory)
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found = answer(question, settings)
            show(question, found)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            found = {"question": name, "failed": f"failed: {error}"}
        yield name, found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], choices=[name for name, _, _ in SELECTION])
    parser.add_argument("--quick", action="store_true", help="does it work, not how fast")
    parser.add_argument("--dir", type=Path, default=None, help="where temporary data goes (a real disk, not tmpfs)")
    parser.add_argument(
        "--json", type=Path, default=RESULTS / "bench.json", help="keep everything that was measured here"
    )
    options = parser.parse_args()
    begun = time.monotonic()
    results = dict(answers(options.only, options.quick, options.dir))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"at": time.time(), "questions": results}) + "\n")
    out = console()
    out.print(f"\n[bold]Targets, and what was measured here in {(time.monotonic() - begun) / 60:.1f} minutes[/bold]")
    print_rows(targets.rows(results), out)
    busy = max(
        (found["conditions"]["load_average"] for found in results.values() if "conditions" in found), default=0.0
    )
    if (first := next(iter(results.values()), {})).get("conditions", {}).get("load_average", 0.0) > QUIET_LOAD_AVERAGE:
        before = first["conditions"]["load_average"]
        out.print(
            f"[yellow]the machine was not quiet: load average {before:.1f} before, up to {busy:.1f}; these rates and ratios say little[/]"
        )
    try:
        drawn = plots.draw(results)
        out.print(f"{len(drawn)} plots in {plots.PLOTS}; everything that was measured: {options.json}", highlight=False)
    except ImportError:
        out.print(
            f"no plots: pip install 'unimeter[bench]' brings matplotlib; everything that was measured: {options.json}"
        )
    return 1 if any("failed" in found for found in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
