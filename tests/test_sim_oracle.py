"""The oracle against metering.md, example by example, and its calendar against the kernels."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unimeter import kernels
from unimeter.sim import oracle, periods
from unimeter.sim.alarms import InForce, alarms
from unimeter.sim.events import ADD, COUNT, LATEST, MONTH, NONE, REMOVE, SUM, UNIQUE, Ident, Metric, Stored, Threshold


def event(seq: int, timestamp: int, value: int, operation: int = NONE, **properties: str) -> Stored:
    return Stored(seq, timestamp, Ident(1, "m", value, operation, "", tuple(sorted(properties.items()))))


def total(metric: Metric, events: list[Stored], start: int = 0, end: int = 10**9) -> oracle.Total:
    return oracle.answer(oracle.Question(metric, start, end), events).groups[()]


@given(st.integers(0, 3), st.integers(1, 28), st.integers(0, 4_000_000_000_000_000_000))
def test_calendar_is_that_of_the_kernels(period: int, billing_day: int, timestamp: int) -> None:
    start, end = periods.bounds(period, billing_day if period == MONTH else 1, timestamp)
    assert start <= timestamp < end
    assert (start, end) == kernels.load().period_bounds(period, billing_day if period == MONTH else 1, timestamp)


def test_range_includes_its_start_and_not_its_end() -> None:
    events = [event(1, 10, 1), event(2, 20, 2), event(3, 30, 4)]
    found = total(Metric("m", SUM), events, 10, 30)
    assert (found.count, found.sum, found.min, found.max) == (2, 3, 1, 2)


def test_latest_is_by_time_and_among_equals_by_place_in_the_log() -> None:
    assert total(Metric("m", LATEST), [event(1, 20, 5), event(2, 10, 6)]).last == 5
    assert total(Metric("m", LATEST), [event(1, 20, 5), event(2, 20, 6)]).last == 6


def test_last_operation_on_a_member_decides_by_time_not_by_arrival() -> None:
    metric = Metric("m", UNIQUE)
    assert total(metric, [event(1, 20, 7, REMOVE), event(2, 10, 7, ADD)]).unique == 0
    assert total(metric, [event(1, 10, 7, REMOVE), event(2, 20, 7, ADD), event(3, 20, 8)]).unique == 2


def test_seats_count_members_added_before_the_range() -> None:
    events = [event(1, 10, 7, ADD), event(2, 30, 8, ADD), event(3, 40, 7, REMOVE)]
    assert total(Metric("m", UNIQUE, recurring=True), events, 20, 35).unique == 2
    assert total(Metric("m", UNIQUE, recurring=True), events, 20, 50).unique == 1
    assert total(Metric("m", UNIQUE, recurring=False), events, 20, 35).unique == 1


def test_event_without_a_dimension_groups_under_the_empty_value() -> None:
    metric = Metric("m", COUNT, dimensions=["region"])
    question = oracle.Question(metric, 0, 100, group_by=["region"])
    found = oracle.answer(question, [event(1, 1, 1, region="eu"), event(2, 2, 1), event(3, 3, 1, region="")])
    assert {group: found.groups[group].count for group in found.groups} == {("eu",): 1, ("",): 2}


def test_dimension_declared_later_is_empty_for_earlier_events() -> None:
    metric = Metric("m", COUNT, dimensions=["region"])
    question = oracle.Question(metric, 0, 100, filters={"region": ["eu"]}, added_at={"region": 2})
    found = oracle.answer(question, [event(1, 1, 1, region="eu"), event(2, 2, 1, region="eu")])
    assert found.groups[()].count == 1


def test_difference_is_found_in_every_field() -> None:
    right = {"dimensions": {}, "count": 1, "sum": 5, "min": 5, "max": 5, "last": 5, "last_timestamp": 10}
    answer = oracle.answer(oracle.Question(Metric("m", SUM), 0, 100), [event(1, 10, 5)])
    assert answer.differs([right]) == ""
    for name in ("count", "sum", "min", "max", "last", "last_timestamp"):
        assert name in answer.differs([right | {name: 99}])
    assert "missing" in answer.differs([])


def values(metric: Metric, events: list[Stored], dates: tuple[int, int], since: int = 0, until: int = 100) -> list[int]:
    in_force = [InForce(threshold, since, until) for threshold in metric.thresholds]
    return [alarm.value for alarm in alarms(metric, 1, events, in_force, dates).certain]


def test_one_shot_threshold_fires_once_per_period_and_a_recurring_one_on_each_rise() -> None:
    day = 86_400 * 10**9
    rises = [event(1, 1, 10), event(2, 2, -5), event(3, 3, 5), event(4, day * 40, 10)]
    once = Metric("m", SUM, thresholds=[Threshold("t", 10, False)])
    again = Metric("m", SUM, thresholds=[Threshold("t", 10, True)])
    now = (0, 5)  # still in January 1970
    assert values(once, rises, now) == [10, 10]
    assert values(again, rises, now) == [10, 10, 10]
    late = (day * 100, day * 101)
    assert values(again, rises, late) == [10, 10], "a period that is over fires once"


def test_threshold_counts_what_was_there_but_fires_only_while_it_is_in_force() -> None:
    metric = Metric("m", COUNT, thresholds=[Threshold("t", 2, False)])
    events = [event(seq, seq, 1) for seq in range(1, 6)]
    assert values(metric, events, (0, 5), since=4) == [4], "at the first event that it sees"
    assert values(metric, events, (0, 5), until=2) == []


def test_seats_carry_over_into_later_periods() -> None:
    day = 86_400 * 10**9
    metric = Metric("m", UNIQUE, recurring=True, thresholds=[Threshold("t", 2, False)])
    events = [event(1, 1, 7, ADD), event(2, 40 * day, 8, ADD), event(3, 2, 9, ADD)]
    found = alarms(metric, 1, events, [InForce(metric.thresholds[0], 0, 100)], (0, 5))
    assert [(alarm.value, alarm.period_start) for alarm in found.certain] == [(2, 31 * day), (2, 0)]
    assert found.fired == {0: ["t"], 31 * day: ["t"]}
