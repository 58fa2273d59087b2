"""A group's state behind the Python binding: what apply says, images, limits raised while running.

What apply does in detail is the matter of csrc/tests/test_state.c, and of the twins; here it is the whole way
through memory that Python reserves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.twins import image_piece
from unimeter.config import state_limits
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.api import Applied, GroupState, Limits, StateLoader, Summary

BASE = 1_700_000_000_000_000_000
DAY_NS = 24 * lay.UM_HOUR_NS
SMALL = Limits(
    records_max=(1, 4096, *[256] * 10, 4, *[256] * 4),
    fingerprints_per_generation=200,
    cells_per_series_max=10,
    session_idle_ns=DAY_NS,
)
KERNELS = load("native")
CATALOG = KERNELS.catalog(
    [
        lay.pack_metric(0, b"calls", lay.UM_AGG_COUNT),
        lay.pack_metric(1, b"spend", lay.UM_AGG_SUM, dimensions=[b"region"], thresholds=[(100, False), (10, True)]),
        lay.pack_metric(2, b"users", lay.UM_AGG_UNIQUE, recurring=True),
    ]
)


class Log:
    """Applies one entry after the other to a state."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.state: GroupState = KERNELS.state(limits)
        self.index = 0

    def apply(self, kind: int, body: bytes) -> Applied:
        self.index += 1
        first_seq = self.state.meta().next_seq
        entry = KERNELS.entry(kind, 0, self.index, 1, BASE + self.index, first_seq, body)
        assert KERNELS.entry_verify(entry)
        applied = self.state.apply(CATALOG, entry)
        assert self.state.check(CATALOG) == 0
        return applied

    def batch(self, rows: list[bytes], flags: int = 0, session: int = 0, number: int = 0, settled: int = 0) -> Summary:
        data = b"".join(rows)
        head = lay.BATCH.pack(session, session, number, settled, len(rows), len(data), flags, 0)
        return self.apply(lay.UM_ENTRY_BATCHES, head + data).summary(0)


def row(account: int | bytes, value: int = 1, timestamp: int = BASE, metric: int = 0, region: bytes = b"") -> bytes:
    properties = [(b"region", region)] if region else []
    return lay.encode_row(account, timestamp, value, metric, properties=properties)


def image_of(state: GroupState, piece: int = 1000) -> bytes:
    length = state.checkpoint_begin()
    image = b""
    while data := image_piece(state, piece):
        image += data
    state.checkpoint_end()
    assert len(image) == length
    return image


def loader_fed_with(image: bytes, image_bytes: int, piece: int = 333) -> StateLoader:
    loader = KERNELS.state_loader(image_bytes)
    for at in range(0, len(image), piece):
        loader.feed(image[at : at + piece])
    return loader


def test_a_resent_batch_adds_nothing() -> None:
    log = Log()
    rows = [row(account, 5) for account in (1, 2, 1)]  # the first and the last are equal: two events
    assert log.batch(rows, lay.UM_BATCH_V1).stored == 3
    again = log.batch(rows, lay.UM_BATCH_V1)
    assert (again.stored, again.duplicates, again.first_bad) == (0, 3, lay.UM_NONE)
    meta = log.state.meta()
    assert (meta.stored, meta.duplicates, meta.next_seq) == (3, 3, 7)


def test_a_retried_session_batch_gets_the_first_answer() -> None:
    log = Log()
    assert log.batch([], lay.UM_BATCH_OPEN_SESSION, session=9).session_verdict == 0
    first = log.batch([row(1), row(1, metric=77)], session=9, number=1, settled=1)
    again = log.batch([row(1), row(1, metric=77)], session=9, number=1, settled=1)
    assert (first.stored, first.refused, first.first_bad, first.first_verdict) == (1, 1, 1, lay.UM_V_UNKNOWN_METRIC)
    assert again.session_verdict == lay.UM_V_DUPLICATE
    assert again[:6] == first[:6]
    assert again.last_offset == first.last_offset


def test_an_id_with_other_content_is_a_conflict() -> None:
    log = Log()
    for value, expected in ((1, (1, 0, 0)), (1, (0, 1, 0)), (2, (0, 0, 1))):
        summary = log.batch([lay.encode_row(b"acme", BASE, value, 0, id=b"order-1")])
        assert (summary.stored, summary.duplicates, summary.conflicts) == expected


def test_a_full_table_refuses_and_a_raised_limit_lets_in() -> None:
    log = Log()
    rows = [row(account) for account in range(1, 301)]
    summary = log.batch(rows)
    assert (summary.stored, summary.refused, summary.first_verdict) == (256, 44, lay.UM_V_FULL)
    more = replace(SMALL, records_max=(1, *[100_000] * 16))
    before = log.state.digest()
    log.apply(lay.UM_ENTRY_LIMITS, lay.encode_limits(more))
    assert log.state.limits() == more
    assert log.state.digest() != before
    assert log.batch(rows).stored == 300
    assert log.state.region_counts()[lay.UM_R_SERIES] == 300


def test_limits_raised_within_a_page_leave_room_in_the_indexes_too() -> None:
    """So little more that nothing moves: 128 series or cells fill a page, 256 fingerprints."""
    few, many = (
        replace(SMALL, records_max=tuple(raised.get(r, 200) for r in range(lay.UM_REGIONS)))
        for raised in (
            {lay.UM_R_META: 1, lay.UM_R_SERIES: 10, lay.UM_R_CELLS: 10, lay.UM_R_FPS0: 10, lay.UM_R_FPS1: 10},
            {lay.UM_R_META: 1, lay.UM_R_SERIES: 120, lay.UM_R_CELLS: 120, lay.UM_R_FPS0: 250, lay.UM_R_FPS1: 250},
        )
    )
    log = Log(few)
    log.apply(lay.UM_ENTRY_LIMITS, lay.encode_limits(many))
    rows = [row(account) for account in range(120)]
    assert log.batch(rows, lay.UM_BATCH_V1).stored == 120
    assert log.batch(rows, lay.UM_BATCH_V1).duplicates == 120
    assert log.state.region_counts()[lay.UM_R_SERIES] == 120


def test_limits_can_be_raised_while_a_checkpoint_streams() -> None:
    log = Log()
    log.batch([row(account) for account in range(1, 200)])
    digest = log.state.digest()
    length = log.state.checkpoint_begin()
    image = image_piece(log.state, 3000)
    log.batch([row(account) for account in range(1, 100)])
    log.apply(lay.UM_ENTRY_LIMITS, lay.encode_limits(replace(SMALL, records_max=(1, *[100_000] * 16))))
    log.batch([row(account) for account in range(100, 300)])
    while data := image_piece(log.state, 777):
        image += data
    log.state.checkpoint_end()
    assert loader_fed_with(image, length).finish().digest() == digest


def test_lowered_limits_refuse_what_is_new_and_keep_what_is_there() -> None:
    log = Log()
    log.batch([row(account) for account in range(1, 100)])
    log.apply(lay.UM_ENTRY_LIMITS, lay.encode_limits(replace(SMALL, records_max=(1, *[10] * 16))))
    assert log.batch([row(1), row(500)])[:4] == (1, 0, 0, 1)
    loaded = loader_fed_with(image := image_of(log.state), len(image)).finish()
    assert loaded.digest() == log.state.digest()


@pytest.mark.parametrize("piece", [1, 151, 152, 4096, 1 << 20])
def test_an_image_in_pieces_of_any_size_loads_to_the_same_state(piece: int) -> None:
    log = Log()
    log.batch([row(f"account {n}".encode(), n, metric=n % 3, region=b"eu") for n in range(60)], lay.UM_BATCH_V1)
    image = image_of(log.state, max(piece, 64))
    loaded = loader_fed_with(image, len(image), piece).finish()
    assert (loaded.digest(), loaded.meta(), loaded.limits()) == (
        log.state.digest(),
        log.state.meta(),
        log.state.limits(),
    )
    assert loaded.memory_bytes() == log.state.memory_bytes()
    assert loaded.check(CATALOG) == 0
    assert image_of(loaded) == image
    log.state = loaded
    assert log.batch([row(b"account 3", 3, metric=0, region=b"eu")], lay.UM_BATCH_V1).duplicates == 1


def test_what_is_not_an_image_is_refused() -> None:
    image = image_of(Log().state)
    for broken in (b"", image[:-1], b"x" * len(image), image + b"x", bytes(len(image))):
        with pytest.raises(ValueError, match="image"):
            loader_fed_with(broken, len(image)).finish()
    with pytest.raises(ValueError, match="image"):
        loader_fed_with(image, len(image) + 1).finish()


def test_alerts_are_numbered_and_listed_from_any_number() -> None:
    log = Log()
    log.batch([row(account, value, metric=1) for value in (9, 1, 90, 5) for account in (7, b"acme")])
    alerts = log.state.alerts(0, None, 100)
    assert [(a.number, a.account, a.slot, a.value) for a in alerts] == [
        (1, 7, 1, 10), (2, b"acme", 1, 10), (3, 7, 0, 100), (4, b"acme", 0, 100)
    ]  # fmt: skip
    assert log.state.alerts(2, None, 1) == alerts[2:3]
    assert log.state.alerts(0, b"acme", 100) == [alerts[1], alerts[3]]
    assert log.state.alerts(0, 8, 100) == log.state.alerts(99, None, 100) == []
    assert alerts[0].period_start == KERNELS.period_bounds(lay.UM_PERIOD_MONTH, 1, BASE)[0]


def test_summaries_of_the_last_apply_only_and_never_beyond() -> None:
    log = Log()
    applied = log.apply(lay.UM_ENTRY_NOOP, b"")
    assert (applied.batch_count, applied.row_count) == (0, 0)
    assert applied.min_ts > applied.max_ts
    with pytest.raises(IndexError):
        applied.summary(0)


def test_an_unused_state_of_any_budget_costs_next_to_nothing() -> None:
    states = [KERNELS.state(state_limits(4 << 30)) for _ in range(50)]  # 200 GiB of limits
    assert all(state.memory_bytes() < 16_384 for state in states)


def test_a_series_costs_at_most_100_bytes_beyond_its_buckets() -> None:
    """Its record, its cell and its slot, where the index is emptiest: just after it has grown."""
    count = 64 * 2**6 * 5 // 8 + 1
    room = Limits(
        records_max=(1, *[4096] * 16), fingerprints_per_generation=200, cells_per_series_max=10, session_idle_ns=DAY_NS
    )
    log = Log(room)
    log.batch([row(account) for account in range(count)])
    cdata = log.state.cdata  # type: ignore[attr-defined]
    counts = log.state.region_counts()
    assert counts[lay.UM_R_SERIES] == counts[lay.UM_R_CELLS] == count
    table = cdata.table[lay.UM_X_SERIES]
    assert table.old_slots, "it has just grown"
    assert not cdata.table[lay.UM_X_CELLS].used, "the series leads to its first cell"
    assert lay.SERIES.size + lay.CELL.size + 8 * table.slots / count <= 100


WIDE = replace(SMALL, records_max=(1, *[20_000] * 11, 4, *[20_000] * 4), fingerprints_per_generation=15_000)


def test_tables_that_an_index_grew_out_of_are_given_back_and_not_missed() -> None:
    log = Log(WIDE)
    batches = [
        [lay.encode_row(n % 9, BASE, 1, 0, id=b"order-%d" % n) for n in range(at, at + 2_000)]
        for at in range(0, 12_000, 2_000)
    ]
    for batch in batches:
        log.batch(batch)
        image_of(log.state, 1 << 20)
    assert [log.batch(batch).duplicates for batch in batches] == [2_000] * 6


ORDERS: dict[str, Callable[[int], int]] = {
    "in order": lambda n: n * 1_000,
    "backwards": lambda n: -n * 1_000,
    "in no order": lambda n: n * 7_919 % 100_003 * 1_000,
    "at one moment": lambda _: 0,
    "a second each": lambda n: n // 3_000 * 1_000_000_000,
    "batches that overtake each other": lambda n: (n ^ 1024) * 1_000,
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_resent_batch_adds_nothing_whenever_its_events_happened(order: str) -> None:
    """Enough to split leaves of the index of fingerprints; twelve thousand, then as many that make the first ones old."""
    log = Log(WIDE)

    def batch(first: int) -> list[bytes]:
        return [row(n % 9, n, BASE + ORDERS[order](n)) for n in range(first, first + 2_000)]

    starts = range(0, 24_000, 2_000)
    for first in starts:
        summary = log.batch(batch(first), lay.UM_BATCH_V1)
        assert (summary.stored, summary.duplicates) == (2_000, 0)
        again = log.batch([*batch(first)[::-1], row(1, -1)], lay.UM_BATCH_V1)
        assert (again.stored, again.duplicates) == (1 if first == 0 else 0, 2_000 if first == 0 else 2_001)
    assert log.state.meta().fps_rotations == 1
    image = image_of(log.state, 1 << 20)
    log.state = loader_fed_with(image, len(image), 1 << 20).finish()
    assert log.state.check(CATALOG) == 0
    assert [log.batch(batch(first), lay.UM_BATCH_V1).duplicates for first in starts] == [2_000] * 12
