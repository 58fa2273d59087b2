"""What a total means: the claims of metering.md, one by one, on the plain-Python kernels.

The C kernels are held to the same numbers by test_twins.py. The last section compares random plays with the
definitions themselves (tests/meter.py).
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.meter import ROOM, Meter, as_total, breakdown_of, members_of, total_of
from tests.twin_plays import Author
from tests.twin_strategies import BASE, CODES, DAY, HOUR, I64_MAX, I64_MIN, METRICS, Event, Metric, v2_batch, v2_frame
from unimeter.kernels import layout as lay
from unimeter.kernels.reference.checksum import crc32c, hash64, hash128
from unimeter.kernels.reference.periods import period_bounds

COUNT = Metric(b"calls", 0, dimensions=(b"region", b"plan"))
SUM = Metric(b"bytes", 1)
UNIQUE = Metric(b"users", 4)
SEATS = Metric(b"seats", 4, recurring=True)
ADD, REMOVE = lay.UM_OP_ADD, lay.UM_OP_REMOVE


def call(value: int = 1, ts: int = BASE, metric: bytes = b"calls", **more: object) -> Event:
    return Event(1, metric, value, ts, **more)  # type: ignore[arg-type]


def spent(value: int, ts: int = BASE, **more: object) -> Event:
    return call(value, ts, b"bytes", **more)


# ---- checksums ----


def test_crc32c_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"56789", crc32c(b"1234")) == 0xE3069283


def test_hash_is_what_its_header_says() -> None:
    def mix(a: int, b: int) -> int:
        return (a * b) % 2**64 ^ (a * b) >> 64

    k0, k1, k2 = 0x9E3779B97F4A7C15, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB
    first, second = struct.unpack("<QQ", b"0123456789".ljust(16, b"\0"))
    h = 7 ^ k0
    for word in (first, second):
        h = (mix(h ^ word, k1) + word) % 2**64
    assert hash64(b"0123456789", 7) == mix(h ^ 10, k2)
    assert hash128(b"0123456789", 7) % 2**64 == hash64(b"0123456789", 7)
    assert hash64(b"a") != hash64(b"a\0")


# ---- aggregations ----


def test_count_ignores_the_value() -> None:
    meter = Meter(COUNT)
    meter.send(call(5), call(-5), call(0))
    assert meter.total().count == 3


def test_sum_has_128_bits() -> None:
    meter = Meter(SUM)
    meter.send(spent(I64_MAX), spent(I64_MAX), spent(I64_MAX))
    assert meter.total().sum == 3 * I64_MAX
    meter.send(spent(I64_MIN), spent(I64_MIN), spent(I64_MIN), spent(I64_MIN))
    assert meter.total().sum == 3 * I64_MAX + 4 * I64_MIN


def test_max_and_min_come_together() -> None:
    meter = Meter(SUM)
    meter.send(spent(-3), spent(9), spent(4))
    assert (meter.total().min, meter.total().max) == (-3, 9)


def test_latest_is_by_timestamp_and_among_equals_by_log_order() -> None:
    meter = Meter(SUM)
    meter.send(spent(1, BASE + 5), spent(2, BASE + 9), spent(3, BASE + 7))
    assert (meter.total().last_value, meter.total().last_ts) == (2, BASE + 9)
    meter.send(spent(4, BASE + 9))
    assert meter.total().last_value == 4


def test_last_operation_on_a_member_decides() -> None:
    meter = Meter(UNIQUE)
    meter.send(
        call(1, BASE, b"users"),
        call(2, BASE, b"users", operation=ADD),
        call(2, BASE + 1, b"users", operation=REMOVE),
        call(3, BASE + 5, b"users", operation=REMOVE),
        call(3, BASE + 3, b"users", operation=ADD),
    )
    assert meter.unique() == 1


def test_a_late_removal_counts_where_it_happened() -> None:
    meter = Meter(UNIQUE)
    meter.send(call(1, BASE + 10, b"users"))
    meter.send(call(1, BASE + 5, b"users", operation=REMOVE))
    assert meter.unique() == 1
    assert meter.unique(end=BASE + 10) == 0


def test_users_are_those_of_the_range_and_seats_those_present_at_its_end() -> None:
    for metric, expected in ((UNIQUE, 1), (SEATS, 2)):
        meter = Meter(metric)
        meter.send(call(1, BASE - 40 * DAY, metric.code), call(2, BASE, metric.code))
        assert meter.unique(BASE - DAY, BASE + DAY) == expected


def test_an_account_or_a_number_is_another_account_than_its_text() -> None:
    meter = Meter(COUNT)
    meter.send(Event(1, b"calls", 1, BASE), Event(b"1", b"calls", 1, BASE), Event(b"1", b"calls", 1, BASE))
    assert (meter.total(1).count, meter.total(b"1").count, meter.total(b"2").count) == (1, 2, 0)


# ---- time ----


def test_timestamp_0_is_stamped_by_the_leader() -> None:
    meter = Meter(COUNT)
    meter.send(call(ts=0))
    assert meter.total(start=meter.now, end=meter.now + 1).count == 1


def test_a_range_is_exact_to_the_nanosecond() -> None:
    meter = Meter(COUNT)
    meter.send(*(call(ts=BASE + offset) for offset in (0, 1, 2, HOUR - 1, HOUR, HOUR + 1)))
    for start in (BASE, BASE + 1, BASE + 2, BASE + 3):
        for end in (BASE + 2, BASE + HOUR - 1, BASE + HOUR, BASE + HOUR + 1, BASE + HOUR + 2):
            expected = sum(start <= event.timestamp_ns < end for event in meter.stored())
            assert meter.total(start=start, end=end).count == expected


def test_a_whole_bucket_needs_no_journal_however_the_range_is_cut() -> None:
    meter = Meter(COUNT)
    meter.send(call(ts=BASE + 10), call(ts=BASE + 20))
    meter.journal = b""
    assert meter.total(start=BASE + 10, end=BASE + 21).count == 2


def test_late_events_count_where_they_happened() -> None:
    meter = Meter(COUNT)
    meter.send(call(ts=BASE))
    meter.send(call(ts=BASE - 400 * DAY))
    assert meter.total(start=BASE - 401 * DAY, end=BASE - 399 * DAY).count == 1


@pytest.mark.parametrize(
    ("period", "day", "instant", "start", "end"),
    [
        (lay.UM_PERIOD_MONTH, 1, "2024-02-29T12", "2024-02-01T00", "2024-03-01T00"),
        (lay.UM_PERIOD_MONTH, 15, "2024-01-14T23", "2023-12-15T00", "2024-01-15T00"),
        (lay.UM_PERIOD_MONTH, 28, "2023-12-28T00", "2023-12-28T00", "2024-01-28T00"),
        (lay.UM_PERIOD_MONTH, 0, "2024-05-01T00", "2024-05-01T00", "2024-06-01T00"),
        (lay.UM_PERIOD_DAY, 1, "2024-02-29T12", "2024-02-29T00", "2024-03-01T00"),
        (lay.UM_PERIOD_WEEK, 1, "2024-10-06T23", "2024-09-30T00", "2024-10-07T00"),
        (lay.UM_PERIOD_WEEK, 1, "1970-01-01T00", "1969-12-29T00", "1970-01-05T00"),
        (lay.UM_PERIOD_FIXED30, 1, "1970-01-31T00", "1970-01-31T00", "1970-03-02T00"),
    ],
)
def test_periods_are_calendar_periods_in_utc(period: int, day: int, instant: str, start: str, end: str) -> None:
    from datetime import datetime

    def ns(text: str) -> int:
        return int(datetime.fromisoformat(text + ":00:00+00:00").timestamp()) * 1_000_000_000

    assert period_bounds(period, day, ns(instant)) == (ns(start), ns(end))


# ---- dimensions ----


def test_any_subset_of_dimensions_can_be_filtered_and_grouped() -> None:
    meter = Meter(COUNT)
    for region, plan in ((b"eu", b"a"), (b"eu", b"b"), (b"us", b"a"), (b"us", b"a")):
        meter.send(call(properties=((b"plan", plan), (b"region", region))))
    meter.send(call())
    by_region = {row.dimensions: row.count for row in meter.rows(group_by=(0,))}
    assert by_region == {(b"",): 1, (b"eu",): 2, (b"us",): 2}
    both = {row.dimensions: row.count for row in meter.rows(group_by=(1, 0), filters=((0, (b"eu", b"us")),))}
    assert both == {(b"a", b"eu"): 1, (b"a", b"us"): 2, (b"b", b"eu"): 1}
    (row,) = meter.rows(filters=((0, (b"", b"eu")), (1, (b"", b"b"))))
    assert row.count == 2


def test_rows_of_a_breakdown_are_sorted_by_their_values() -> None:
    meter = Meter(COUNT)
    meter.send(*(call(properties=((b"region", value),)) for value in (b"b", b"aa", b"a", b"\xff", b"ab")))
    assert [row.dimensions for row in meter.rows(group_by=(0,))] == [(b"a",), (b"aa",), (b"ab",), (b"b",), (b"\xff",)]


def test_cardinality_past_its_limit_is_refused_and_never_folded() -> None:
    meter = Meter(COUNT, cells_max=2)
    regions = [call(properties=((b"region", value),)) for value in (b"a", b"b", b"c", b"a")]
    summary = meter.send(*regions)
    assert (summary.stored, summary.refused, summary.first_bad) == (3, 1, 2)
    assert summary.first_verdict == lay.UM_V_CARDINALITY
    assert {row.dimensions: row.count for row in meter.rows(group_by=(0,))} == {(b"a",): 2, (b"b",): 1}


def test_an_added_dimension_changes_no_number_that_was_reported() -> None:
    old, new = Metric(b"calls", 0, dimensions=(b"plan",)), Metric(b"calls", 0, dimensions=(b"plan", b"region"))
    meter = Meter(old)
    meter.send(call(ts=BASE + 5, properties=((b"plan", b"a"), (b"region", b"eu"))))
    meter.change_metrics(new)
    meter.send(call(ts=BASE + 7, properties=((b"plan", b"a"), (b"region", b"eu"))))
    for start in (BASE, BASE + 5, BASE + 1):  # whole bucket, whole bucket, and through the journal
        for end in (BASE + HOUR, BASE + 8, BASE + 6):
            split = {row.dimensions: row.count for row in meter.rows(start=start, end=end, group_by=(1,))}
            assert split == ({(b"",): 1, (b"eu",): 1} if end > BASE + 7 else {(b"",): 1})


# ---- exactly once ----


def test_a_retried_batch_of_a_session_adds_nothing_and_gets_the_first_answer() -> None:
    meter = Meter(COUNT)
    meter.open((1, 2))
    first = meter.send(call(), call(), session=(1, 2), number=5)
    again = meter.send(call(), call(), session=(1, 2), number=5)
    assert again.session_verdict == lay.UM_V_DUPLICATE
    assert again[:6] == first[:6]
    assert again.last_offset == first.last_offset
    assert meter.total().count == 2


def test_an_unknown_session_is_told_so_and_nothing_is_stored() -> None:
    meter = Meter(COUNT)
    summary = meter.send(call(), session=(1, 2), number=1)
    assert (summary.session_verdict, summary.refused, meter.total().count) == (lay.UM_V_SESSION_UNKNOWN, 1, 0)


def test_the_window_holds_64_unsettled_batches() -> None:
    meter = Meter(COUNT)
    meter.open((1, 2))
    for number in range(1, 65):
        assert meter.send(call(), session=(1, 2), number=number).stored == 1
    assert meter.send(call(), session=(1, 2), number=65).session_verdict == lay.UM_V_SESSION_WINDOW
    assert meter.send(call(), session=(1, 2), number=65, settled_below=2).stored == 1
    assert meter.send(call(), session=(1, 2), number=1).session_verdict == lay.UM_V_SESSION_SETTLED
    assert meter.total().count == 65


def test_an_idle_session_gives_way_and_a_busy_one_does_not() -> None:
    records = (*ROOM[:12], 1, *ROOM[13:])
    meter = Meter(COUNT, records_max=records, idle_ns=10)
    assert meter.open((1, 1)).session_verdict == 0
    assert meter.open((2, 2)).session_verdict == lay.UM_V_SESSIONS_FULL
    meter.now += 11
    assert meter.open((2, 2)).session_verdict == 0
    assert meter.send(call(), session=(1, 1), number=1).session_verdict == lay.UM_V_SESSION_UNKNOWN
    assert meter.state.meta().sessions_evicted == 1


def test_an_id_counts_once_per_account_whoever_sends_it() -> None:
    meter = Meter(COUNT)
    assert meter.send(call(id=b"x")).stored == 1
    assert meter.send(call(id=b"x")).duplicates == 1
    assert meter.send(Event(2, b"calls", 1, BASE, id=b"x")).stored == 1
    conflict = meter.send(call(value=2, id=b"x"))
    assert (conflict.conflicts, conflict.first_verdict) == (1, lay.UM_V_CONFLICT)
    assert meter.total().count == 1


@pytest.mark.parametrize(
    "other",
    [
        call(2, id=b"x"),
        call(ts=BASE + 1, id=b"x"),
        call(operation=REMOVE, id=b"x"),
        call(properties=((b"a", b"b"),), id=b"x"),
        call(metric=b"bytes", id=b"x"),
    ],
)
def test_any_other_content_under_a_known_id_is_a_conflict(other: Event) -> None:
    meter = Meter(COUNT, SUM)
    meter.send(call(id=b"x"))
    assert meter.send(other).conflicts == 1


def test_a_resent_v1_batch_adds_nothing_but_equal_events_inside_one_count() -> None:
    meter = Meter(COUNT)
    assert meter.send_v1(call(), call(), call(2)).stored == 3
    again = meter.send_v1(call(), call(), call(2))
    assert (again.stored, again.duplicates) == (0, 3)
    assert meter.send_v1(call(), call(), call()).stored == 1


def test_v1_events_with_timestamp_0_cannot_be_recognised() -> None:
    meter = Meter(COUNT)
    assert [meter.send_v1(call(ts=0)).stored for _ in range(2)] == [1, 1]


def test_fingerprints_are_forgotten_by_generations_in_log_order() -> None:
    meter = Meter(COUNT, fingerprints=2)
    meter.send_v1(call(1), call(2))
    meter.send_v1(call(3), call(4))
    assert meter.send_v1(call(4)).duplicates == 1
    meter.send_v1(call(5), call(6))
    assert meter.send_v1(call(6)).duplicates == 1
    assert meter.send_v1(call(1)).stored == 1, "two generations ago"
    assert meter.state.meta().fps_rotations >= 2


def test_a_refused_row_leaves_no_trace() -> None:
    records = (*ROOM[:7], 1, *ROOM[8:])
    meter = Meter(COUNT, records_max=records)
    meter.send(call(id=b"first"))
    before = meter.state.region_counts()
    late = call(ts=BASE + HOUR, id=b"x", properties=((b"region", b"new"),))
    assert meter.send(late).first_verdict == lay.UM_V_FULL
    after = meter.state.region_counts()
    assert after[:-1] == before[:-1]
    assert meter.send(late).first_verdict == lay.UM_V_FULL, "not a duplicate: it was never stored"
    assert meter.state.meta().refused == 2


def test_an_unknown_metric_is_left_out_and_the_rest_is_stored() -> None:
    meter = Meter(COUNT)
    assert meter.send(call(metric=b"nosuch"), call()).stored == 1


# ---- alerts ----


def test_a_one_shot_threshold_fires_once_per_period() -> None:
    meter = Meter(Metric(b"bytes", 1, thresholds=((10, True, False),), period=lay.UM_PERIOD_DAY))
    meter.send(spent(9), spent(1), spent(-5), spent(5), spent(10, BASE + DAY))
    assert [(alert.number, alert.value, alert.period_start) for alert in meter.alerts()] == [
        (1, 10, BASE),
        (2, 10, BASE + DAY),
    ]


def test_a_recurring_threshold_fires_on_every_rise() -> None:
    meter = Meter(Metric(b"bytes", 1, thresholds=((10, True, True),), period=lay.UM_PERIOD_DAY))
    meter.send(spent(12), spent(1), spent(-5), spent(5), spent(-9), spent(20))
    assert [alert.value for alert in meter.alerts()] == [12, 13, 24]


def test_a_period_that_is_over_fires_at_most_once() -> None:
    meter = Meter(Metric(b"bytes", 1, thresholds=((10, True, True),), period=lay.UM_PERIOD_DAY))
    day = BASE - 5 * DAY
    meter.send(spent(12, day), spent(-5, day), spent(12, day))
    assert [alert.period_start for alert in meter.alerts()] == [day]


def test_a_threshold_added_later_counts_what_was_there() -> None:
    meter = Meter(Metric(b"bytes", 1, period=lay.UM_PERIOD_DAY))
    meter.send(spent(9), spent(100, BASE - DAY))
    meter.change_metrics(Metric(b"bytes", 1, thresholds=((10, True, False),), period=lay.UM_PERIOD_DAY))
    meter.send(spent(1))
    (alert,) = meter.alerts()
    assert (alert.value, alert.account, alert.seq) == (10, 1, 3)


def test_seats_cross_in_every_later_period_that_is_known() -> None:
    meter = Meter(Metric(b"seats", 4, recurring=True, thresholds=((2, True, False),), period=lay.UM_PERIOD_DAY))
    meter.send(call(1, BASE, b"seats"), call(1, BASE + DAY, b"seats"))
    assert meter.alerts() == []
    meter.send(call(2, BASE + 1, b"seats"))
    assert [alert.period_start for alert in meter.alerts()] == [BASE + DAY, BASE]


def test_alert_bits_are_those_of_the_period_of_start() -> None:
    meter = Meter(Metric(b"bytes", 1, thresholds=((1, True, False), (10, True, False)), period=lay.UM_PERIOD_DAY))
    meter.send(spent(5), spent(50, BASE + DAY))
    assert [meter.total(start=start).fired for start in (BASE, BASE + DAY, BASE + 2 * DAY)] == [1, 3, 0]


# ---- the log ----


def test_event_lists_name_what_was_stored_and_nothing_else() -> None:
    meter = Meter(COUNT)
    meter.send(call(id=b"x", properties=((b"any", b"thing"),)), call(id=b"x"), call(ts=BASE + 9))
    assert [(event.seq, event.id, event.properties) for event in meter.stored()] == [
        (1, b"x", ((b"any", b"thing"),)),
        (3, b"", ()),
    ]


def test_a_record_of_this_place_is_told_from_every_other() -> None:
    meter = Meter(COUNT)
    lengths = []
    for _ in range(3):
        meter.send(call())
        lengths.append(len(meter.journal))
    kernels, whole = meter.kernels, meter.journal
    good = kernels.journal_verify(whole, 0, 0)
    assert (good.consumed, good.seq, good.stop) == (len(whole), 3, lay.UM_J_END)
    stale = whole[: lengths[0]] + whole[: lengths[0]] + whole[lengths[1] :]  # the second record holds the first
    assert kernels.journal_verify(stale, 0, 0)[:4:3] == (lengths[0], lay.UM_J_BAD)
    assert kernels.journal_find_later(stale, 1) == lengths[1], "rot: something later is whole"
    assert kernels.journal_find_later(whole[: lengths[0]] + b"\xff" * 64, 1) == -1, "a torn tail"


# ---- the definitions ----


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_every_answer_is_what_its_definition_says(seed: int, turn_count: int) -> None:
    author = Author(seed)
    meter = Meter(*METRICS)
    for turn in author.play(turn_count).turns:
        meter.now += turn.elapsed_ns
        meter.frames(*(request.frame for request in turn.requests))
    stored = {account: meter.stored(account) for account in author.accounts}
    for _ in range(25):
        spec = author.spec()
        metric = METRICS[spec.metric]
        if any(d >= len(metric.dimensions) for d in (*spec.group_by, *(d for d, _ in spec.filters))):
            continue
        events = [event for event in stored[spec.account] if event.metric == spec.metric]
        expected = breakdown_of(events, metric, spec.start, spec.end, spec.group_by, spec.filters)
        rows = meter.rows(*spec)
        assert {row.dimensions: as_total(row) for row in rows} == expected
        assert [row.dimensions for row in rows] == sorted(expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_alerts_are_the_crossings_of_the_definition(seed: int) -> None:
    """One event per entry, so that the total after every single one can be asked of the definition."""
    author = Author(seed)
    meter = Meter(*METRICS)
    above: dict[tuple[object, ...], bool] = {}
    fired: dict[tuple[object, ...], bool] = {}
    periods: dict[tuple[object, int], dict[int, int]] = {}  # of a series that saw an event: start -> end, newest first
    expected = []
    for _ in range(40):
        event = author.event(False)
        before = meter.state.meta().stored
        meter.frames(v2_frame(2, 1, v2_batch([event])))
        if meter.state.meta().stored == before:
            continue
        number = CODES.index(event.metric)
        metric, ts = METRICS[number], event.timestamp or meter.now
        history = [listed for listed in meter.stored(event.account) if listed.metric == number]
        start, end = period_bounds(metric.period, metric.billing_day, ts)
        known = periods.setdefault((event.account, number), {})
        new = start not in known
        seats = metric.aggregation == 4 and metric.recurring
        order = [start] * new + [s for s in reversed(known) if s == start or (seats and ts < known[s])]
        known[start] = end
        for first in order:
            total = total_of(history, metric, first, known[first])
            values = (total.count, total.sum, total.max, total.last and total.last[1])
            value = values[metric.aggregation] if metric.aggregation < 4 else None
            if metric.aggregation == 4:
                value = members_of(history, metric, first, known[first])
            for slot, (limit, active, recurring) in enumerate(metric.thresholds):
                if not active:
                    continue
                key = (event.account, number, first, slot)
                is_above = value is not None and value >= limit
                if is_above and not above.get(key) and (not fired.get(key) or (recurring and meter.now < known[first])):
                    fired[key] = True
                    clipped = max(I64_MIN, min(I64_MAX, value or 0))
                    expected.append((event.account, number, slot, clipped, first))
                above[key] = is_above
    found = [(a.account, a.metric, a.slot, a.value, a.period_start) for a in meter.alerts()]
    assert found == expected
