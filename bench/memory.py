"""What does a live series cost in memory, what an id in the dedup window, and is memory flat under a day of steady load?

*Series.* A node is given one event for each of many accounts and five metrics, all in one hour, so every series has one
bucket. The node's own figure (unimeter_state_bytes: records in use, and indexes as large as they must be) and the
process's resident memory are read before and after, and divided by the series that it says it holds. Buckets are
data: one per series and hour that had events (BUCKET_BYTES, its index included); what is left is the series' own cost.

*Ids.* The same accounts again, this time every event with an id, and then v1 events, which are recognised by a fingerprint of their
content: growth per id and per fingerprint, as long as the window fills. Then old ones make room for new ones.

*A day.* Steady load from a fixed set of accounts, with the events' times running so fast that a whole day passes; the
window of fingerprints is small, so that it turns over many times. Memory is read at every tenth. It may grow by the day's
buckets, and by nothing else.
"""

from __future__ import annotations

import re
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

from bench.common import Figures, Question, Settings, main, mb, node, progress
from unimeter.commands import load
from unimeter.commands.bench_node import NodeProcess, free_port
from unimeter.commands.load import Plan
from unimeter.kernels import layout

ACCOUNTS, ACCOUNTS_QUICK, METRICS = 200_000, 20_000, 5
EVENTS_PER_SERIES = 4  # at random: that many touch 98 % of them
IDS = 1_000_000
DAY_ACCOUNTS = 500
DAY_NS = 86_400_000_000_000
DAY_EVENTS, DAY_EVENTS_QUICK = 10_000_000, 1_000_000
DAY_MEMORY = "64MiB"  # its window holds some 150,000 fingerprints a generation, and two generations
DAY_BEFORE_EVENTS = 500_000  # so many fill it
TENTHS = 10
INDEX_SLOT_BYTES = 8
JAN_1_NS = 1_767_225_600_000_000_000
FIGURE = re.compile(r"^(unimeter_\w+) ([0-9.e+]+)$", re.MULTILINE)


class Watched:
    """A node that says what it holds."""

    def __init__(self, settings: Settings, place: Path, memory_max: str) -> None:
        self._admin = f"127.0.0.1:{free_port()}"
        roomy = replace(settings, memory_max=memory_max)
        self.cluster = node(roomy, place, "--admin", self._admin)

    @property
    def process(self) -> NodeProcess:
        return self.cluster.nodes[1]

    def load(self, plan: Plan) -> int:
        """Events stored. The plan's own times are kept: they decide which buckets there are."""
        host, port = load.split_address(self.process.address)
        return load.run(replace(plan, host=host, port=port)).stored

    def look(self) -> Figures:
        with urllib.request.urlopen(f"http://{self._admin}/metrics", timeout=10) as answer:
            told = dict(FIGURE.findall(answer.read().decode()))
        return {
            "series": float(told["unimeter_series"]),
            "state_bytes": float(told["unimeter_state_bytes"]),
            "resident_bytes": float(self.process.resident_bytes()),
        }


def bucket_bytes(count: float) -> float:
    """Of one of so many: its record, and its share of an index that is at most half full."""
    slots = 1 << max(2 * int(count) - 1, 0).bit_length()
    return layout.BUCKET.size + INDEX_SLOT_BYTES * slots / max(1.0, count)


def grown(before: Figures, after: Figures, units: float) -> Figures:
    return {key: round((after[key] - before[key]) / units, 1) for key in ("state_bytes", "resident_bytes")}


def of_series(settings: Settings, place: Path, accounts: int, ids: int) -> Figures:
    base = settings.plan(
        accounts=accounts, metrics=METRICS, sync=False, protocol=2, duration_s=0.0, warmup_s=0.0,
        timestamp_ns=JAN_1_NS, timestamp_step_ns=1,
    )  # fmt: skip
    watched = Watched(settings, place, settings.memory_max)
    with watched.cluster:
        watched.load(
            replace(base, accounts=1, events_max=5000)
        )  # what is there without series: sockets, buffers, pages
        looks = [watched.look()]
        wanted = (
            ("series", replace(base, events_max=EVENTS_PER_SERIES * accounts * METRICS)),
            ("ids", replace(base, events_max=ids, ids=True)),
            ("fingerprints", replace(base, events_max=ids, protocol=1, timestamp_ns=JAN_1_NS + 10**12)),
        )
        for name, plan in wanted:
            progress(name)
            watched.load(replace(plan, seed=plan.seed + len(looks)))
            looks.append(watched.look())
    series = looks[1]["series"] - looks[0]["series"]
    per_series, bucket = grown(looks[0], looks[1], series), bucket_bytes(series)
    return {
        "series": series,
        "per_series": per_series,
        "bucket_bytes": round(bucket, 1),
        "per_series_beyond_its_bucket": round(per_series["state_bytes"] - bucket, 1),
        "per_id": grown(looks[1], looks[2], ids),
        "per_fingerprint": grown(looks[2], looks[3], ids),
        "looks": looks,
    }


def of_a_day(settings: Settings, place: Path, events: int) -> Figures:
    plan = settings.plan(
        accounts=DAY_ACCOUNTS, metrics=METRICS, sync=False, duration_s=0.0, warmup_s=0.0,
        timestamp_step_ns=DAY_NS // events, events_max=events // TENTHS,
    )  # fmt: skip
    watched = Watched(settings, place, DAY_MEMORY)
    with watched.cluster:
        # what fills once: both generations of the window, buffers, the journal's first segments
        watched.load(replace(plan, events_max=DAY_BEFORE_EVENTS, timestamp_ns=JAN_1_NS - DAY_NS, timestamp_step_ns=1))
        looks = [watched.look()]
        for tenth in range(TENTHS):
            progress(f"a day: {tenth} tenths")
            watched.load(replace(plan, timestamp_ns=JAN_1_NS + tenth * DAY_NS // TENTHS))
            looks.append(watched.look())
    buckets = DAY_ACCOUNTS * METRICS * 24
    return {
        "events": events,
        "buckets_bytes": round(buckets * bucket_bytes(buckets)),
        "grown_state_bytes": looks[-1]["state_bytes"] - looks[0]["state_bytes"],
        "grown_resident_bytes": looks[-1]["resident_bytes"] - looks[0]["resident_bytes"],
        "resident_bytes": [look["resident_bytes"] for look in looks],
        "state_bytes": [look["state_bytes"] for look in looks],
    }


def measure(settings: Settings, place: Path) -> Figures:
    short = settings.seconds < 1
    found = {
        "a_series": of_series(settings, place, ACCOUNTS_QUICK if short else ACCOUNTS, IDS // 10 if short else IDS),
        "a_day": of_a_day(settings, place, DAY_EVENTS if settings.full else DAY_EVENTS_QUICK),
    }
    progress("")
    return found


def rows(figures: Figures) -> list[list[str]]:
    one, day = figures["a_series"], figures["a_day"]

    def cells(key: str) -> list[str]:
        return [f"{one[key]['state_bytes']:,.0f} B", f"{one[key]['resident_bytes']:,.0f} B"]

    resident = day["resident_bytes"]
    return [
        ["", "state", "resident"],
        [f"a series with one bucket, of {one['series']:,.0f}", *cells("per_series")],
        [
            f"a series beyond its bucket ({one['bucket_bytes']:.0f} B)",
            f"{one['per_series_beyond_its_bucket']:,.0f} B",
            "",
        ],
        ["an event id in the window (15 B text)", *cells("per_id")],
        ["a v1 fingerprint in the window", *cells("per_fingerprint")],
        [
            f"a day of {day['events']:,} events: grown by",
            f"{day['grown_state_bytes'] / 1e6:.1f} MB",
            f"{day['grown_resident_bytes'] / 1e6:.1f} MB",
        ],
        ["of that the day's buckets", f"{day['buckets_bytes'] / 1e6:.1f} MB", ""],
        ["resident: begin, middle, end", "", ", ".join(mb(resident[i]) for i in (0, TENTHS // 2, TENTHS))],
    ]


QUESTION = Question(
    "memory",
    "What does a live series cost in memory, what an id in the dedup window, and is memory flat under a day of load?",
    "state: records and their indexes at the least size; resident: all that the process grew by (pages, larger indexes)",
    "what a node has without data; members of count-unique metrics (none here); --full: a day of 10 million events",
    measure,
    rows,
)

if __name__ == "__main__":
    sys.exit(main(QUESTION))
