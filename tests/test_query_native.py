"""Queries and event lists of the native kernels against a list of events and plain loops (query_oracle.py).

Random events go through real entries into a state and into journal records; random questions are asked while
more arrive. Pools of accounts, values, times and members are small, so that ties, duplicates, removals and
cuts right at an event are the rule.
"""

from __future__ import annotations

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


# ---- chance ----

offsets = st.one_of(
    st.sampled_from([0, 1, HOUR - 1, HOUR // 2]),
    st.integers(0, HOUR - 1),
)
instants = st.builds(lambda hour, offset: BASE + hour * HOUR + offset, st.integers(-2, 3), offsets)
times = st.one_of(st.just(0), instants, st.sampled_from([BASE, BASE + 5, BASE + HOUR, 1, 900 * 24 * HOUR]))
texts = st.sampled_from([b"", b"eu", b"us", b"eu-west-1", b"eu-west-2", b"eu\0", b"\xff"])
values = st.one_of(st.integers(-3, 3), st.sampled_from([I64_MAX, I64_MIN, 10**12]))


@st.composite
def events(draw: st.DrawFn) -> Sent:
    keys = draw(st.sets(st.sampled_from([*DIMENSIONS, b"other"])))
    return Sent(
        account=draw(st.sampled_from(ACCOUNTS[:1] * 6 + ACCOUNTS)),
        metric=draw(st.integers(0, len(METRICS) - 1)),
        value=draw(values),
        timestamp=draw(times),
        operation=draw(st.sampled_from([0, 1, 1, 2, 2])),
        properties=tuple((key, draw(texts)) for key in sorted(keys)),
        id=draw(st.sampled_from([b""] * 6 + [b"one", b"two"])),
    )


batches = st.lists(st.builds(Batch, st.lists(events(), max_size=12), st.booleans()), min_size=1, max_size=3)
turns = st.lists(st.tuples(batches, st.integers(1, HOUR)), min_size=1, max_size=6)


@st.composite
def questions(draw: st.DrawFn, world: World) -> QuerySpec:
    metric = draw(st.integers(0, len(METRICS) - 1))
    dimensions = st.integers(0, len(world.metrics[metric].dimensions) - 1)
    known = [one.timestamp for one in world.oracle.stored] or [BASE]
    cuts = st.one_of(instants, st.builds(lambda ts, d: ts + d, st.sampled_from(known), st.integers(-1, 1)))
    group_by: list[int] = []
    filters: list[tuple[int, tuple[bytes, ...]]] = []
    if world.metrics[metric].dimensions:
        group_by = draw(st.lists(dimensions, max_size=3, unique=True))
        wanted = st.lists(texts, max_size=3, unique=True).map(tuple)
        filters = draw(st.lists(st.tuples(dimensions, wanted), max_size=2))
    return QuerySpec(
        account=draw(st.sampled_from(ACCOUNTS[:1] * 6 + ACCOUNTS)),
        metric=metric,
        start=draw(st.one_of(st.sampled_from([0, -5, BASE]), cuts)),
        end=draw(st.one_of(st.sampled_from([0, BASE + 2 * HOUR, I64_MAX, 2**70]), cuts)),
        group_by=tuple(group_by),
        filters=tuple(filters),
    )


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return load("native")


# ---- claims ----


@settings(max_examples=60, deadline=None)
@given(data=st.data(), play=turns, extend_at=st.integers(0, 6))
def test_every_answer_equals_the_oracles_at_its_place_in_the_log(
    kernels: Kernels, data: st.DataObject, play: list[tuple[list[Batch], int]], extend_at: int
) -> None:
    world = World(kernels)
    open_queries = []
    for turn, (batch_list, elapsed_ns) in enumerate(play):
        if turn == extend_at:
            world.declare(EXTENDED)
        world.apply(batch_list, elapsed_ns)
        for _ in range(data.draw(st.integers(1, 4))):
            spec = data.draw(questions(world))
            open_queries.append((spec, *world.ask(spec)))
    for spec, query, expected in open_queries:
        assert world.answer(query, sparse=data.draw(st.booleans())) == expected, spec


@settings(max_examples=25, deadline=None)
@given(
    play=turns,
    account=st.sampled_from(ACCOUNTS),
    since=instants,
    until=instants,
    metric=st.one_of(st.none(), st.integers(0, 5)),
    after=st.integers(0, 10),
    limit=st.integers(1, 3),
)
def test_event_list_is_exactly_the_stored_events(
    kernels: Kernels, play: list[tuple[list[Batch], int]], account: int | bytes, since: int, until: int,
    metric: int | None, after: int, limit: int,
) -> None:  # fmt: skip
    world = World(kernels)
    for batch_list, elapsed_ns in play:
        world.apply(batch_list, elapsed_ns)
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
