"""How long is a node away after kill -9, with ten million events since its last checkpoint?

A restart is: the interpreter and its modules, the newest checkpoint (none here), every record behind it read, verified
and applied, one synced write, ready. To have exactly so many events behind the last checkpoint, the node that takes them
is told to write none. The one that is started on its directory, and timed from the start of its process to the line
"ready", is an ordinary node. Once with v1 events (a fingerprint each, to be remembered again), once with v2's. Beside
it: a start on an empty directory, which is what the interpreter and its modules take, and the same directory started
again after a clean stop, which has a checkpoint of everything.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.common import Figures, Measured, Question, Settings, drive, main, mb, node, progress

EVENTS, EVENTS_QUICK = 10_000_000, 500_000
WITHOUT_CHECKPOINTS = ("--checkpoint-after", "1TiB")  # the node that is filled


def measure(settings: Settings, place: Path) -> Figures:
    events = EVENTS if settings.seconds >= 1 else EVENTS_QUICK
    points: list[Figures] = []
    with node(settings, place) as cluster:
        empty_s = cluster.nodes[1].start_s
    for protocol in (1, 2):
        with node(settings, place, *WITHOUT_CHECKPOINTS) as cluster:
            only = cluster.nodes[1]
            progress(f"v{protocol}: {events:,} events")
            plan = settings.plan(protocol=protocol, sync=False, events_max=events, duration_s=0.0, warmup_s=0.0)
            stored = drive(plan, only.address, only.cpu_ns, Measured()).stored
            only.kill()
            only.options = only.options[: -len(WITHOUT_CHECKPOINTS)]
            checkpoints = sorted((only.data_dir / "checkpoint").glob("*"))
            journal_bytes = sum(path.stat().st_blocks * 512 for path in (only.data_dir / "journal").iterdir())
            starts = []
            kept = only.data_dir.with_name("kept")
            shutil.copytree(only.data_dir, kept)
            for _ in range(settings.rounds):
                starts.append(only.start())
                said, resident, cpu_ns = only.ready_line, only.resident_bytes(), only.cpu_ns()
                only.kill()
                shutil.rmtree(only.data_dir)
                shutil.copytree(kept, only.data_dir)  # a start may have written a checkpoint
            only.start()
            only.stop()
            clean_s = only.start()
        points.append({
            "protocol": protocol, "events": stored, "journal_bytes": journal_bytes, "checkpoints_before": len(checkpoints),
            "seconds": sorted(starts)[len(starts) // 2], "all_seconds": starts, "cpu_s": cpu_ns / 1e9, "ready": said,
            "resident_bytes": resident, "after_clean_stop_seconds": clean_s,
        })  # fmt: skip
    progress("")
    return {"empty_seconds": empty_s, "points": points}


def rows(figures: Figures) -> list[list[str]]:
    out = [["", "ready after", "CPU of the process", "events/s", "journal", "resident"]]
    for point in figures["points"]:
        words = f"v{point['protocol']}: kill -9, {point['events']:,} events since the last checkpoint"
        pace = f"{point['events'] / point['seconds'] / 1e6:.2f} M"
        cells = [
            f"{point['seconds']:.2f} s",
            f"{point['cpu_s']:.2f} s",
            pace,
            mb(point["journal_bytes"]),
            mb(point["resident_bytes"]),
        ]
        out.append([words, *cells])
        out.append(
            [
                f"v{point['protocol']}: clean stop, a checkpoint of all",
                f"{point['after_clean_stop_seconds']:.2f} s",
                "",
                "",
                "",
                "",
            ]
        )
    out.append(["empty directory", f"{figures['empty_seconds']:.2f} s", "", "", "", ""])
    return out


QUESTION = Question(
    "restart",
    "How long is a node away after kill -9, with ten million events since its last checkpoint?",
    "from the start of the process to its line `ready`: interpreter, modules, recovery, all events applied; warm page cache",
    "a cold disk: the directory was written (and copied) just before; a supervisor that has to notice",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
