"""What every writer writes: event n of writer w is a pure function of (seed, w, n).

So the history needs no events. A row of it says "writer 3 sent events 4000 to 4099 then, and had its answer then", and
whoever wants the account, the value or the total recomputes it. Each event carries a tag that no other event has, so
that the nodes' own lists can be compared event by event:

    explicit time   timestamp = T0 + (n * WRITERS_MAX + w) * STEP_NS
    stamped         no timestamp (the leader stamps it); value = n * WRITERS_MAX + w

32 events in a row (a block) share a metric and two neighbouring accounts: a batch touches a few series, not all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

Account = int | str

T0 = 1_600_000_000_000_000_000  # 2020: far from what a leader stamps today
STEP_NS = 1_000_003
EXPLICIT_BEFORE = 1_700_000_000_000_000_000  # timestamps from here on were stamped by a leader
WRITERS_MAX = 128
BLOCK = 5  # events of a block, as a power of two
MASK = 2**64 - 1
REGIONS = ("eu", "us", "ap", "")  # the last: an event without the property
DIMENSION = "region"
VALUES = 1009
MEMBERS = 61
REMOVE_EVERY = 7  # one event of a count-unique metric in so many takes its member out
PROBE_BASE = 1_000_192  # a multiple of 256: account PROBE_BASE + g lies in partition g, hence in group g


class Kind(StrEnum):
    SESSION = "session"  # the SDK, numbered batches, no ids
    IDS = "ids"  # the SDK, every event has an id
    STAMPED = "stamped"  # the SDK, without timestamps: the leader stamps
    V1 = "v1"  # the published protocol: explicit timestamps, resent until acknowledged
    PROBE = "probe"  # the SDK, one event after the other to one account: is this group writable now?


@dataclass(frozen=True)
class MetricPlan:
    code: str
    aggregation: str


METRICS = (
    MetricPlan("chaos_count", "count"),
    MetricPlan("chaos_sum", "sum"),
    MetricPlan("chaos_max", "max"),
    MetricPlan("chaos_latest", "latest"),
    MetricPlan("chaos_seats", "count-unique"),
)
COUNT, SUM, MAX, LATEST, SEATS = range(len(METRICS))
METRIC_OF = (COUNT, COUNT, COUNT, COUNT, COUNT, SUM, SUM, SUM, SUM, SUM, SUM, MAX, MAX, LATEST, LATEST, SEATS)
STAMPED_METRIC_OF = (COUNT, SUM, COUNT, SUM, COUNT, SUM, COUNT, SUM, COUNT, SUM, COUNT, SUM, COUNT, SUM, MAX, MAX)


class Planned(NamedTuple):
    """One event: indexes into the tables above; `timestamp_ns` 0 = stamped by the leader."""

    n: int
    account: int
    metric: int
    region: int
    value: int
    timestamp_ns: int
    remove: bool


def mix(a: int, b: int) -> int:
    x = (a * 0x9E3779B97F4A7C15 + b * 0xD6E8FEB86659FD93 + 0xA0761D6478BD642F) & MASK
    x = ((x ^ x >> 29) * 0xBF58476D1CE4E5B9) & MASK
    return x ^ x >> 32


@dataclass(frozen=True)
class Cast:
    """The accounts and writers of a run: all that is needed to recompute it."""

    seed: int
    groups: int
    kinds: tuple[Kind, ...]  # of the writers, by number
    numeric: int = 48
    text: int = 16
    accounts: tuple[Account, ...] = field(init=False)

    def __post_init__(self) -> None:
        assert len(self.kinds) <= WRITERS_MAX
        named: list[Account] = [7 + 37 * number for number in range(self.numeric)]
        named += [f"customer-{number}" for number in range(self.text)]
        named += [PROBE_BASE + group for group in range(self.groups)]
        object.__setattr__(self, "accounts", tuple(named))

    @property
    def keys(self) -> int:
        """A key is an account and a metric: account * len(METRICS) + metric."""
        return len(self.accounts) * len(METRICS)

    def key_name(self, key: int) -> str:
        account, metric = divmod(key, len(METRICS))
        return f"{self.accounts[account]}/{METRICS[metric].code}"

    def account_of_group(self, group: int) -> int:
        """The index of the account that probes a group."""
        return self.numeric + self.text + group

    def writers(self, kind: Kind) -> list[int]:
        return [number for number, of in enumerate(self.kinds) if of == kind]

    def events(self, writer: int, first: int, count: int) -> Iterator[Planned]:
        kind = self.kinds[writer]
        salt = self.seed * WRITERS_MAX + writer
        reach = self.numeric if kind == Kind.V1 else self.numeric + self.text
        probe = self.account_of_group(self.writers(Kind.PROBE).index(writer)) if kind == Kind.PROBE else -1
        stamped = kind == Kind.STAMPED
        table = STAMPED_METRIC_OF if stamped else METRIC_OF
        at = first
        while at < first + count:
            end = min(first + count, (at >> BLOCK) + 1 << BLOCK)
            h = mix(salt, at >> BLOCK)
            metric = table[h >> 40 & 15] if probe < 0 else COUNT
            base = h % reach
            for n in range(at, end):
                tag = n * WRITERS_MAX + writer
                account = (base + (n & 1)) % reach if probe < 0 else probe
                if stamped:
                    yield Planned(n, account, metric, n >> 1 & 3, tag, 0, False)
                    continue
                value = n * 7919 % (MEMBERS if metric == SEATS else VALUES)
                remove = metric == SEATS and n % REMOVE_EVERY == 0
                yield Planned(n, account, metric, n >> 1 & 3, value, T0 + tag * STEP_NS, remove)
            at = end


def tag_of(timestamp_ns: int, value: int) -> tuple[int, int] | None:
    """(writer, n) of a listed event; None: nobody of ours sent it."""
    if timestamp_ns >= EXPLICIT_BEFORE:
        n, writer = divmod(value, WRITERS_MAX)
        return writer, n
    tag, rest = divmod(timestamp_ns - T0, STEP_NS)
    if rest or tag < 0:
        return None
    n, writer = divmod(tag, WRITERS_MAX)
    return writer, n


def id_of(writer: int, n: int) -> str:
    return f"{writer}-{n}"


def cast_of(seed: int, groups: int, sessions: int, ids: int, stamped: int, v1: int) -> Cast:
    kinds = [Kind.SESSION] * sessions + [Kind.IDS] * ids + [Kind.STAMPED] * stamped + [Kind.V1] * v1
    return Cast(seed, groups, (*kinds, *([Kind.PROBE] * groups)))
