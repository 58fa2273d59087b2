"""The small world that the clients bill: few accounts, few metrics, few instants, so that everything collides.

All behaviours of a run share one `Space`. Times cluster on the edges of hours and months; accounts fall into one
partition or into the next; values overflow 64-bit sums; the same event is sent on purpose a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from unimeter.sim import periods
from unimeter.sim.events import (
    ADD,
    COUNT,
    DAY,
    FIXED,
    LATEST,
    MAX,
    MONTH,
    NO_SUCH_METRIC,
    NONE,
    REMOVE,
    SUM,
    UNIQUE,
    WEEK,
    Account,
    Event,
    Ident,
    Metric,
    Threshold,
)
from unimeter.sim.prng import Prng

HOUR_NS: Final = 3_600_000_000_000
DAY_NS: Final = 24 * HOUR_NS
DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
REGIONS: Final = ("eu", "us", "ap", "", "a-region-name-of-31-bytes-exactly")
LATER_DIMENSION: Final = "zone"  # events carry it from the start; metrics declare it later, or never
ZONES: Final = ("a", "b", "")
TIERS: Final = ("free", "pro", "x" * 31)
NUMERIC: Final = (1, 2, 257, 2**64 - 1, 77_777_777_777)
TEXTS: Final = ("acme", "żółw-账户", "k" * 128)


@dataclass(frozen=True)
class SpaceSettings:
    accounts: int = 2  # of each sort
    stamped: float = 0.2  # events whose time the node stamps
    late: float = 0.15  # events of other months
    again: float = 0.08  # events sent before, on purpose
    conflict: float = 0.03  # another event under a used id
    with_id: float = 0.4
    unknown: float = 0.006  # events of a metric that does not exist
    dimension_values: int = 4
    members: int = 6


def base36(number: int) -> str:
    text = ""
    while True:
        number, digit = divmod(number, 36)
        text = DIGITS[digit] + text
        if not number:
            return text


def make_metrics(prng: Prng) -> list[Metric]:
    """The metrics of a run: every aggregation, with thresholds that ordinary runs cross."""

    def period() -> dict[str, Any]:
        kind = prng.choice([MONTH, MONTH, DAY, WEEK, FIXED])
        return {"period": kind, "billing_day": prng.choice([1, 1, 15, 28]) if kind == MONTH else 1}

    def limit(name: str, low: int, high: int) -> Threshold:
        return Threshold(name, prng.between(low, high), prng.chance(0.3))

    return [
        Metric("api_calls", COUNT, False, ["region", "tier"], [limit("soft", 3, 8), limit("hard", 10, 40)], **period()),
        Metric("bytes_out", SUM, False, ["region"], [limit("gib", 500, 4000)], **period()),
        Metric("peak", MAX, False, [], [limit("high", 500, 1200)] if prng.chance(0.5) else [], **period()),
        Metric(
            "temperature", LATEST, False, ["tier"], [limit("hot", 100, 900)] if prng.chance(0.5) else [], **period()
        ),
        Metric("visitors", UNIQUE, False, ["region"], [limit("crowd", 2, 4)] if prng.chance(0.5) else [], **period()),
        Metric("seats", UNIQUE, True, ["region"], [limit("full", 2, 5)] if prng.chance(0.5) else [], **period()),
        Metric("passing", COUNT, False, ["tier"], [], passing=True, **period()),
        Metric("m" * 63, SUM, False, ["region", "tier"], [], **period()),
    ]


class Space:
    def __init__(self, prng: Prng, wall_ns: int, metrics: list[Metric], settings: SpaceSettings) -> None:
        self._prng = prng
        self._settings = settings
        self._tag = 0
        self.metrics = metrics
        self.numeric = NUMERIC[: settings.accounts]
        self.texts = TEXTS[: settings.accounts]
        self._past: dict[bool, list[Event]] = {True: [], False: []}  # v1 events with a time; events with an id
        hour = wall_ns // HOUR_NS * HOUR_NS
        month = periods.bounds(MONTH, 1, wall_ns)[0]
        self.hours = [hour, hour, hour - HOUR_NS, hour + HOUR_NS, hour - 5 * HOUR_NS]
        self.late_hours = [month - HOUR_NS, month, month - 20 * DAY_NS, month + 27 * DAY_NS, hour - 400 * DAY_NS, 0]

    # ---- choices ----

    def account(self, v1: bool) -> Account:
        if v1 or self._prng.chance(0.6):
            return self._prng.choice(self.numeric)
        return self._prng.choice(self.texts)

    def usable(self, passing: bool = False) -> list[Metric]:
        """Metrics that a request may name now. Those that come and go are for clients that are never in doubt."""
        return [m for m in self.metrics if m.known and m.alive and not m.changing and (passing or not m.passing)]

    def instant(self) -> int:
        """A time that an event or the end of a range may have."""
        prng = self._prng
        hours = self.late_hours if prng.chance(self._settings.late) else self.hours
        base = prng.choice(hours)
        offset = prng.weighted([(0, 2), (1, 1), (HOUR_NS - 1, 1), (-1, 1), (30 * 60 * 10**9, 2), (-2, 3)])
        if offset == -2:
            offset = prng.below(HOUR_NS)
        return max(1, base + offset)

    def range(self) -> tuple[int, int]:
        prng = self._prng
        kind = prng.below(6)
        if kind == 0:
            return 0, 2**63 - 1
        if kind == 1:
            start, end = periods.bounds(prng.choice([MONTH, DAY, WEEK, FIXED]), 1, self.instant())
            return start, end
        first, second = self.instant(), self.instant()
        if kind == 2:
            return first, first
        return min(first, second), max(first, second)

    def filters(self, metric: Metric) -> dict[str, list[str]]:
        prng = self._prng
        chosen = {}
        for key in metric.dimensions:
            if prng.chance(0.35):
                values = {"region": REGIONS, "tier": TIERS}.get(key, ZONES)
                chosen[key] = [prng.choice(values)]
                other = prng.choice(values)
                if prng.chance(0.3) and other not in chosen[key]:
                    chosen[key].append(other)
        return chosen

    def group_by(self, metric: Metric) -> list[str]:
        keys = [key for key in metric.dimensions if self._prng.chance(0.5)]
        self._prng.shuffle(keys)
        return keys

    # ---- events ----

    def tag(self) -> str:
        self._tag += 1
        return base36(self._tag)

    def batch(self, size: int, v1: bool, ids: bool, session: bool = False) -> list[Event]:
        """Events for one request; [] while no metric is known."""
        metrics = self.usable(passing=session)
        if not metrics:
            return []
        events: list[Event] = []
        for _ in range(size):
            if self._prng.chance(self._settings.unknown):
                events.append(self._unknown(v1))
            elif events and self._prng.chance(self._settings.again / 2) and self._is_recognised(events[-1], v1):
                events.append(events[-1])  # twice in one request: v1 counts both, an id counts once
            else:
                events.append(self._event(self._prng.choice(metrics), v1, ids))
        return events

    def _unknown(self, v1: bool) -> Event:
        """An event of a metric that does not exist."""
        ident = Ident(self.account(v1), NO_SUCH_METRIC, 1, NONE, "", (("t", self.tag()),))
        return Event(ident, self.instant())

    def _is_recognised(self, event: Event, v1: bool) -> bool:
        return bool(event.ident.id) or (v1 and event.timestamp_ns != 0)

    def _event(self, metric: Metric, v1: bool, ids: bool) -> Event:
        prng, settings = self._prng, self._settings
        past = self._past[v1]
        if past and (v1 or ids) and prng.chance(settings.again):
            old = prng.choice(past[-40:])
            named = next((m for m in self.metrics if m.code == old.ident.metric), None)
            if named in self.usable():
                if not v1 and prng.chance(settings.conflict / max(settings.again, 0.001)):
                    return old._replace(ident=old.ident._replace(value=old.ident.value ^ 1))
                return old
        properties = self._properties(v1)
        id_ = f"id-{self.tag()}" if ids and not metric.passing and prng.chance(settings.with_id) else ""
        value, operation = self._value(metric, v1)
        if not id_ and metric.aggregation in (COUNT, SUM) and prng.chance(0.1):
            self._tag += 1
            properties, value = [], self._tag  # an event without any property: its value tells it apart
        elif not id_ or prng.chance(0.5):
            properties.append(("t", self.tag()))
        ident = Ident(self.account(v1), metric.code, value, operation, id_, tuple(sorted(properties)))
        event = Event(ident, 0 if prng.chance(settings.stamped) else self.instant())
        if id_ or (v1 and event.timestamp_ns):
            past.append(event)
        return event

    def _properties(self, v1: bool) -> list[tuple[str, str]]:
        prng, count = self._prng, self._settings.dimension_values
        found = []
        if prng.chance(0.7):
            found.append(("region", prng.choice(REGIONS[:count])))
        if prng.chance(0.6):
            found.append(("tier", prng.choice(TIERS[:count])))
        if prng.chance(0.3):
            found.append((LATER_DIMENSION, prng.choice(ZONES)))
        if prng.chance(0.1):
            found.append(("note", "n" * prng.choice([0, 1, 63 if v1 else 255])))
        return found

    def _value(self, metric: Metric, v1: bool) -> tuple[int, int]:
        prng = self._prng
        if metric.aggregation == UNIQUE:
            return prng.below(self._settings.members), prng.weighted([(NONE, 2), (ADD, 4), (REMOVE, 3)])
        if metric.aggregation == SUM and prng.chance(0.05):
            return 2**63 - 1, NONE
        low = 0 if v1 else -200
        if prng.chance(0.02) and not v1:
            return -(2**63), NONE
        return prng.between(low, 1000), NONE
