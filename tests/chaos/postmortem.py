"""What a failed run left behind, told in order: python -m tests.chaos.postmortem DIRECTORY

Faults, what the nodes wrote to stderr, and the times in which a group's probe had no answer for long; then what the
nodes said of their groups while one stood still, what was wrong, and which calls of the SDK raised.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from tests.chaos.history import History
from tests.chaos.plan import Kind

GAP_SECONDS = 0.8
SAID_MAX = 10


def logged(place: Path) -> Iterator[tuple[float, str]]:
    """What the nodes said, but for how far they had started."""
    for path in sorted(place.glob("node*.log")):
        for line in path.read_text(errors="replace").splitlines():
            at, _, text = line.partition(" ")
            if at.replace(".", "").isdigit() and not text.startswith("starting"):
                yield float(at), f"        {path.stem}: {text}"


def lines(history: History, place: Path) -> Iterator[str]:
    began = min(history.invokes, default=0.0)
    told: list[tuple[float, str]] = list(logged(place))
    for fault in history.faults:
        led = f", led {', '.join(map(str, fault.leads))}" if fault.leads else ""
        until = fault.until - began
        told.append((fault.since, f"{fault.kind} of node {fault.node}, until {until:.2f} {fault.detail}{led}"))
    for group, writer in enumerate(history.cast.writers(Kind.PROBE)):
        acks = history.acks_of_writer(writer)
        for before, after in pairwise(acks):
            if after - before > GAP_SECONDS:
                told.append((before, f"    group {group} acknowledged nothing for {after - before:.2f} s"))
    for at, text in sorted(told):
        yield f"{at - began:8.2f}  {text}"
    yield from history.stalls[:SAID_MAX]
    yield from (f"WRONG {line}" for line in history.violations[:SAID_MAX])
    for trouble in history.troubles[:SAID_MAX]:
        yield f"{trouble.at - began:8.2f}  raised after {trouble.seconds:.1f} s: {trouble.what}"
    yield f"notes: {history.notes}"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    place = Path(sys.argv[1])
    for line in lines(History.load(place / "history.json.gz"), place):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
