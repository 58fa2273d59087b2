"""Queries and event lists of the native kernels against a list of events and plain loops (query_oracle.py).

Random events go through real entries into a state and into journal records; random questions are asked while
more arrive. Pools of accounts, values, times and members are small, so that ties, duplicates, removals and
cuts right at an event are the rule.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query_oracle import COUNT, LATEST, MAX, SUM, UNIQUE, Metric, Oracle, Sent, Stored
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.api import Event, Kernels, Limits, Query, QuerySpec, TooManyGroups

HOUR = lay.UM_HOUR_NS
BASE = 480_000 * HOUR
GROUP, OTHER_GROUP = 0, 1
I64_MAX, I64_MIN = 2**63 - 1, -(2**63)

DIMENSIONS = (b"region", b"tier", b"late")  # the third is declared half-way
METRICS = [
    Metric(b"calls", COUNT, dimensions=DIMENSIONS[:2]),
    Metric(b"spend", SUM, dimensions=DIMENSIONS[:2]),
    Metric(b"peak", MAX),
    Metric(b"level", LATEST, dimensions=DIMENSIONS[:1]),
    Metric(b"users", UNIQUE, dimensions=DIMENSIONS[:2]),
    Metric(b"seats", UNIQUE, recurring=True, dimensions=DIMENSIONS[:2]),
]
EXTENDED = [
    Metric(m.code, m.aggregation, m.recurring, (*m.dimensions, b"late") if len(m.dimensions) == 2 else m.dimensions)
    for m in METRICS
]
ACCOUNTS: list[int | bytes] = [0, 7, 2**64 - 1, b"acme", b"a" * 128]
LIMITS = Limits(
    records_max=(1, 1 << 16, *[4096] * 15),
    fingerprints_per_generation=4096,
    cells_per_series_max=1000,
    session_idle_ns=0,
)


def pack(metrics: list[Metric]) -> list[bytes]:
    return [lay.pack_metric(n, m.code, m.aggregation, m.recurring, m.dimensions) for n, m in enumerate(metrics)]


@dataclass
class Batch:
    events: list[Sent]
    v1: bool


@dataclass
class World:
    """One group's state, the records that made it, and the oracle that saw the same batches."""

    kernels: Kernels
    oracle: Oracle = field(default_factory=Oracle)
    metrics: list[Metric] = field(default_factory=lambda: METRICS)
    records: list[bytes] = field(default_factory=list)
    stamp_ns: int = BASE
    index: int = 0

    def __post_init__(self) -> None:
        self.state = self.kernels.state(LIMITS)
        self.catalog = self.kernels.catalog(pack(self.metrics))

    def declare(self, metrics: list[Metric]) -> None:
        self.metrics = metrics
        self.catalog = self.kernels.catalog(pack(metrics))

    def entry(self, group: int, batches: list[Batch], first_seq: int) -> bytes:
        body = b""
        for batch in batches:
            rows = b"".join(
                lay.encode_row(e.account, e.timestamp, e.value, e.metric, e.operation, e.id, e.properties)
                for e in batch.events
            )
            flags = lay.UM_BATCH_V1 if batch.v1 else 0
            body += lay.BATCH.pack(0, 0, 0, 0, len(batch.events), len(rows), flags, 0) + rows
        entry = self.kernels.entry(lay.UM_ENTRY_BATCHES, group, self.index, 1, self.stamp_ns, first_seq, body)
        assert self.kernels.entry_verify(entry)
        return entry

    def apply(self, batches: list[Batch], elapsed_ns: int) -> None:
        """One entry of our group, in one record with one of another group that must not be looked at."""
        self.stamp_ns += elapsed_ns
        self.index += 1
        ours = self.entry(GROUP, batches, self.oracle.next_seq)
        other = self.entry(OTHER_GROUP, batches, self.oracle.next_seq)
        noop = self.kernels.entry(lay.UM_ENTRY_NOOP, GROUP, self.index, 1, self.stamp_ns, 1, b"odd")
        out = bytearray(len(ours) + len(other) + 512)
        length, _ = self.kernels.record(memoryview(out), [other, noop, ours], 0, self.index, 0, self.stamp_ns)
        self.records.append(bytes(out[:length]))
        self.state.apply(self.catalog, ours)
        for batch in batches:
            self.oracle.batch(batch.events, self.stamp_ns, self.metrics, batch.v1)
        assert self.state.meta().next_seq == self.oracle.next_seq
        assert self.state.meta().stored == len(self.oracle.stored)

    def ask(self, spec: QuerySpec) -> tuple[Query, list[Any]]:
        expected = self.oracle.rows(
            spec.account, spec.metric, self.metrics[spec.metric], spec.start, spec.end, spec.group_by, spec.filters
        )
        return self.state.query(self.catalog, spec, 1000), expected

    def answer(self, query: Query, sparse: bool) -> list[Any]:
        """Scan if need be; sparse: only the records that the query's own hints name."""
        if query.needs_scan:
            assert query.edges
            for record in self.records:
                if not sparse or self.touches(record, query):
                    query.scan(record)
        return query.rows()

    def touches(self, record: bytes, query: Query) -> bool:
        head = lay.EntryHead._make(lay.ENTRY.unpack_from(self.kernels.record_entries(record)[-1]))
        seqs = range(max(head.first_seq, query.first_seq), min(head.first_seq + head.row_count, query.end_seq))
        times = [one.timestamp for one in self.oracle.stored if one.seq in seqs]
        return any(start <= ts < end for ts in times for start, end in query.edges)


# ---- chance: Hypothesis picks a seed and the sizes, so that a play of hundreds of events costs one draw ----

TEXTS = [b"", b"eu", b"us", b"eu-west-1", b"eu-west-2", b"eu\0", b"\xff"]
VALUES = [-3, -1, 0, 1, 1, 2, 3, I64_MAX, I64_MIN, 10**12]


@dataclass
class Chance:
    seed: int

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.texts = self.some(TEXTS, 4)
        self.accounts = self.some(ACCOUNTS, 2)
        self.metrics = self.some(range(len(METRICS)), 2)
        self.offsets = [0, 0, 1, HOUR - 1, *(self.random.randrange(HOUR) for _ in range(4))]

    def some(self, pool: Sequence[Any], most: int) -> list[Any]:
        """One to `most` of the pool, in any order."""
        return self.random.sample(list(pool), self.random.randint(1, most))

    def instant(self) -> int:
        return BASE + self.random.randint(-1, 1) * HOUR + self.random.choice(self.offsets)

    def event(self) -> Sent:
        pick = self.random.choice
        keys = [key for key in (b"late", b"other", b"region", b"tier") if self.random.random() < 0.6]
        return Sent(
            account=pick(self.accounts) if self.random.random() < 0.9 else pick(ACCOUNTS),
            metric=pick(self.metrics) if self.random.random() < 0.9 else self.random.randrange(len(METRICS)),
            value=pick(VALUES),
            timestamp=pick([0, 1, 900 * 24 * HOUR, *(self.instant() for _ in range(12))]),
            operation=pick([0, 1, 1, 2, 2]),
            properties=tuple((key, pick(self.texts)) for key in keys),
            id=pick([b""] * 8 + [b"one", b"two"]),
        )

    def batch(self, events_max: int) -> Batch:
        events = [self.event() for _ in range(self.random.randint(0, events_max))]
        if events and self.random.random() < 0.5:
            events += [self.random.choice(events) for _ in range(3)]  # equal events in one request
        return Batch(events, v1=self.random.random() < 0.5)

    def play(self, turns: int, events_max: int) -> list[tuple[list[Batch], int]]:
        """Per turn: the batches of an entry, some of them sent before, and the time since the turn before."""
        sent: list[Batch] = []
        play = []
        for _ in range(turns):
            batches = [self.batch(events_max) for _ in range(self.random.randint(1, 3))]
            if sent and self.random.random() < 0.3:
                batches.append(self.random.choice(sent))
            sent += batches
            play.append((batches, self.random.randint(1, HOUR)))
        return play

    def question(self, world: World) -> QuerySpec:
        pick = self.random.choice
        metric = pick(self.metrics)
        known = [one.timestamp for one in world.oracle.stored] or [BASE]
        dimensions = range(len(world.metrics[metric].dimensions))
        start = pick([0, -5, BASE, *(self.instant() for _ in range(8)), *(pick(known) + d for d in (-1, 0, 1))])
        end = pick([0, I64_MAX, 2**70, *(self.instant() for _ in range(8)), *(pick(known) + d for d in (-1, 0, 1))])
        if self.random.random() < 0.9:
            start, end = sorted((start, end))
        group_by: list[int] = []
        filters: list[tuple[int, tuple[bytes, ...]]] = []
        if dimensions and self.random.random() < 0.5:
            group_by = self.some(dimensions, len(dimensions))
        if dimensions and self.random.random() < 0.3:
            filters = [(pick(dimensions), tuple(self.some(TEXTS, 4))) for _ in range(self.random.randint(1, 2))]
        return QuerySpec(pick(self.accounts), metric, start, end, tuple(group_by), tuple(filters))


seeds = st.integers(0, 2**64 - 1)


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return load("native")


# ---- claims ----


@settings(max_examples=300, deadline=None)
@given(seed=seeds, turns=st.integers(1, 8), events_max=st.integers(1, 40))
def test_every_answer_equals_the_oracles_at_its_place_in_the_log(
    kernels: Kernels, seed: int, turns: int, events_max: int
) -> None:
    world = World(kernels)
    chance = Chance(seed)
    extend_at = chance.random.randint(0, 6)
    open_queries = []
    for turn, (batches, elapsed_ns) in enumerate(chance.play(turns, events_max)):
        if turn == extend_at:
            world.declare(EXTENDED)
        world.apply(batches, elapsed_ns)
        for _ in range(8):
            spec = chance.question(world)
            open_queries.append((spec, *world.ask(spec)))
    for spec, query, expected in open_queries:
        assert world.answer(query, sparse=chance.random.random() < 0.5) == expected, spec


@settings(max_examples=25, deadline=None)
@given(seed=seeds, turns=st.integers(1, 6), after=st.integers(0, 10), limit=st.integers(1, 3))
def test_event_list_is_exactly_the_stored_events(
    kernels: Kernels, seed: int, turns: int, after: int, limit: int
) -> None:
    world = World(kernels)
    chance = Chance(seed)
    for batches, elapsed_ns in chance.play(turns, 12):
        world.apply(batches, elapsed_ns)
    account, metric = chance.accounts[0], chance.random.choice([None, chance.metrics[0]])
    since, until = sorted((chance.instant(), chance.instant()))
    end_seq = world.oracle.next_seq - 1

    def asked_for(one: Stored) -> bool:
        right = one.event.account == account and metric in (None, one.event.metric)
        return right and since <= one.timestamp <= until and after < one.seq < end_seq

    expected = [
        Event(one.seq, one.timestamp, account, one.event.metric, one.event.value, one.event.operation, one.event.id,
              one.event.properties)
        for one in world.oracle.stored if asked_for(one)
    ]  # fmt: skip
    journal = b"".join(world.records)
    assert world.state.events(account, since, until, after, end_seq, metric).scan(journal, 1000) == expected
    listed: list[Event] = []
    at = after
    for _ in range(len(expected) + 1):  # in pages
        page = world.state.events(account, since, until, at, end_seq, metric).scan(journal, limit)
        listed += page
        at = page[-1].seq if page else at
    assert listed == expected


def test_whole_hours_and_ranges_around_all_events_need_no_scan(kernels: Kernels) -> None:
    world = World(kernels)
    world.apply([Batch([Sent(7, 0, 1, BASE + at) for at in (10, 20, HOUR + 10, 3 * HOUR)], False)], 1)
    for start, end, count in [
        (BASE, BASE + 4 * HOUR, 4), (BASE + 10, BASE + 21, 2), (BASE + 21, BASE + HOUR + 11, 1), (0, I64_MAX, 4),
        (BASE + 5, BASE + 3 * HOUR + 1, 4), (BASE + 2 * HOUR + 1, BASE + 2 * HOUR + 2, 0), (BASE + 21, BASE + 25, 0),
    ]:  # fmt: skip
        query = world.state.query(world.catalog, QuerySpec(7, 0, start, end, (), ()), 1)
        assert not query.needs_scan
        assert [row.count for row in query.rows()] == [count]
    query = world.state.query(world.catalog, QuerySpec(7, 0, BASE + 11, BASE + HOUR + 10, (), ()), 1)
    assert query.needs_scan
    assert query.edges == ((BASE + 11, BASE + 21),)
    assert (query.first_seq, query.end_seq) == (1, 5)


def test_absent_series_is_one_zero_row_and_no_group(kernels: Kernels) -> None:
    world = World(kernels)
    zero = (0, 0, 0, 0, 0, 0, 0, 0)
    for account in (1, b"nobody"):
        query = world.state.query(world.catalog, QuerySpec(account, 0, 5, BASE + 5, (), ()), 0)
        assert not query.needs_scan
        assert query.rows() == [((), *zero)]
        assert world.state.query(world.catalog, QuerySpec(account, 0, 5, BASE, (0,), ()), 0).rows() == []


def test_more_groups_than_asked_for_is_an_error(kernels: Kernels) -> None:
    world = World(kernels)
    many = [Sent(7, 0, 1, BASE, properties=((b"region", b"%d" % n),)) for n in range(900)]
    world.apply([Batch(many, False)], 1)
    spec = QuerySpec(7, 0, BASE, BASE + HOUR, (0,), ())
    assert [row.dimensions for row in world.state.query(world.catalog, spec, 900).rows()] == sorted(
        (b"%d" % n,) for n in range(900)
    )
    with pytest.raises(TooManyGroups):
        world.state.query(world.catalog, spec, 899)


def test_many_members_make_the_scratch_grow_and_a_scan_finds_them_all(kernels: Kernels) -> None:
    world = World(kernels)
    for n in range(4):
        joined = [Sent(7, 4, member, BASE + n * HOUR + member, 1) for member in range(n, 1000, 2)]
        left = [Sent(7, 4, member, BASE + n * HOUR + 2 * HOUR, 2) for member in range(0, 1000, 5)]
        world.apply([Batch(joined + left, False)], 1)
    for start, end in [(0, I64_MAX), (BASE + 500, BASE + 3 * HOUR + 700), (BASE + 1, BASE + 900)]:
        for group_by in ((), (0,)):
            query, expected = world.ask(QuerySpec(7, 4, start, end, group_by, ()))
            assert world.answer(query, sparse=True) == expected


def test_queries_of_unknown_metrics_and_dimensions_are_refused(kernels: Kernels) -> None:
    world = World(kernels)
    for spec in [
        QuerySpec(1, len(METRICS), 0, 1, (), ()), QuerySpec(1, 2, 0, 1, (0,), ()), QuerySpec(1, 0, 0, 1, (2,), ()),
        QuerySpec(1, 3, 0, 1, (), ((1, (b"x",)),)),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="catalog"):
            world.state.query(world.catalog, spec, 10)
