"""The regression budget: what an event may cost, in calls and in instructions, never in seconds.

    python -m bench.budget              measure, compare with bench/budget.json, say what is over
    python -m bench.budget --update     measure and write it: the deliberate way to accept another price
    python -m bench.budget --json       only measure

Seconds depend on the machine and on who else is on it; these do not. *Calls* (budget_calls.py): Python functions of
ours and calls into C per request, counted by a profiler. *Instructions* (kernel_steps.c): of one kernel per event, request
or byte, counted by valgrind; only where valgrind and a C compiler are. Another compiler or another Python minor version
than the budget was made with gives other figures for the same code, so there the tolerance is wide.

Not included: cache misses and system calls (an instruction that waits for memory counts as one), Python's own work inside
a function. A budget notices that something was added to the hot path; how fast it is say the other files here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUDGET = ROOT / "bench" / "budget.json"
STEPS = ROOT / "build" / "bench" / "kernel_steps"
CASES = (
    "apply_v1_event", "apply_v2_event", "apply_new_series", "scan_v1_request", "scan_v2_event", "split_v1_request", "split_v1_event",
    "split_v2_event", "seal_byte", "reply_request",
)  # fmt: skip
TOLERANCE = {"calls": 0.02, "instructions": 0.03}
TOLERANCE_ELSEWHERE = 0.30  # with another compiler, or another Python
SLACK = {"calls": 0.05, "instructions": 0.02}  # of figures near zero
NOTABLY_BETTER = 0.10
COLLECTED = re.compile(r"Collected : (\d+)")
HOW = "If the new price is worth it, accept it with `python -m bench.budget --update` and say why in the commit."


def python() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def compiler() -> str:
    """Name and major version: what decides which instructions a source becomes."""
    said = subprocess.run([os.environ.get("CC", "cc"), "--version"], capture_output=True, text=True, check=True).stdout
    name = "clang" if "clang" in said.lower() else "gcc"
    version = re.search(r"(\d+)\.\d+", said)
    return f"{name} {version[1] if version else '?'} {platform.machine()}"


def why_no_instructions() -> str:
    """Empty when instructions can be counted here."""
    for tool in ("valgrind", os.environ.get("CC", "cc"), "make"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return ""


def count_instructions() -> dict[str, float]:
    subprocess.run(["make", "--silent", str(STEPS.relative_to(ROOT))], cwd=ROOT, check=True)
    return {case: instructions_of(case) for case in CASES}


def instructions_of(case: str) -> float:
    """Of one unit: callgrind collects only between the kernel's entry and its return."""
    plain = subprocess.run([STEPS, case], capture_output=True, text=True, check=True).stdout.split()
    kernel, units = plain[0], int(plain[1])
    command = [
        "valgrind",
        "--tool=callgrind",
        f"--toggle-collect={kernel}",
        "--callgrind-out-file=/dev/null",
        str(STEPS),
        case,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    collected = COLLECTED.search(done.stderr)
    if collected is None:
        raise SystemExit(f"callgrind said nothing of instructions:\n{done.stderr}")
    return round(int(collected[1]) / units, 3)


def count_calls() -> dict[str, float]:
    """In a process of its own that runs the sources: a profiler sees nothing of compiled modules."""
    environment = {**os.environ, "UNIMETER_INTERPRETED": "1", "UNIMETER_KERNELS": "native"}
    code = "import json; from bench.budget_calls import measure; print(json.dumps(measure()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    return {f"{name}.{kind}": count for name, kinds in found.items() for kind, count in kinds.items()}


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {"python": python(), "calls": count_calls()}
    reason = why_no_instructions()
    if reason:
        found["no_instructions"] = reason
    else:
        found["compiler"] = compiler()
        found["instructions"] = count_instructions()
    return found


def compare(budget: dict[str, Any], found: dict[str, Any]) -> tuple[list[str], list[str]]:
    """(what is over its budget, what else is worth a sentence)."""
    over: list[str] = []
    notes: list[str] = []
    if "no_instructions" in found:
        notes.append(f"instructions were not counted: {found['no_instructions']}")
    for kind, made_with in (("calls", "python"), ("instructions", "compiler")):
        if kind not in found or kind not in budget:
            continue
        same = budget[made_with] == found[made_with]
        tolerance = TOLERANCE[kind] if same else TOLERANCE_ELSEWHERE
        if not same:
            notes.append(f"{kind}: made with {budget[made_with]}, this is {found[made_with]}: within {tolerance:.0%}")
        for name in sorted({*budget[kind], *found[kind]}):
            if name not in budget[kind] or name not in found[kind]:
                over.append(f"{kind} {name}: only in {'the budget' if name in budget[kind] else 'what was measured'}")
                continue
            allowed, measured = budget[kind][name], found[kind][name]
            if measured > allowed * (1 + tolerance) + SLACK[kind]:
                over.append(
                    f"{kind} {name}: {measured:,.2f}, the budget is {allowed:,.2f} ({change(allowed, measured)})"
                )
            elif measured < allowed * (1 - NOTABLY_BETTER) - SLACK[kind] and same:
                notes.append(f"{kind} {name}: {measured:,.2f} is better than its budget {allowed:,.2f}: tighten it")
    return over, notes


def change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else "it was nothing"


def load() -> dict[str, Any]:
    budget: dict[str, Any] = json.loads(BUDGET.read_text())
    return budget


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="accept what is measured now as the budget")
    parser.add_argument("--json", action="store_true", help="print what is measured, compare nothing")
    arguments = parser.parse_args()
    found = measure()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    if arguments.update:
        if "no_instructions" in found:
            print(f"not updated: {found['no_instructions']}, and a budget has both", file=sys.stderr)
            return 1
        over, notes = compare(load(), found) if BUDGET.exists() else ([], [])
        BUDGET.write_text(json.dumps(found, indent=1) + "\n")
        print("\n".join([*over, *notes, f"written: {BUDGET.relative_to(ROOT)}"]))
        return 0
    over, notes = compare(load(), found)
    for line in notes:
        print(f"note: {line}")
    for line in over:
        print(f"OVER: {line}")
    print(HOW if over else "within the budget")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
