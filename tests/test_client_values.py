"""Claims about what an application hands in: instants, periods, decimals, names."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import unimeter
from unimeter import Period, scale, unscale
from unimeter.client.times import day_bounds, iso, month_bounds, parse_iso, parse_time, timestamp_ns, week_bounds
from unimeter.client.values import I64_MAX, I64_MIN
from unimeter.errors import InvalidArgument

MOMENTS = st.datetimes(
    min_value=datetime(1970, 1, 2),
    max_value=datetime(2262, 1, 1),
    timezones=st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours, minutes=30))),
)


@given(MOMENTS)
def test_an_aware_datetime_of_any_zone_is_an_exact_instant(moment: datetime) -> None:
    ns = timestamp_ns(moment, "x")
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ns // 1000) == moment
    assert parse_iso(moment.isoformat()) == ns


@given(st.integers(0, 2**63 - 1))
def test_iso_text_keeps_every_nanosecond(ns: int) -> None:
    assert parse_iso(iso(ns)) == ns
    assert parse_time(str(ns)) == ns


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-02", 86_400 * 10**9),
        ("1970-01-01T00:00:01", 10**9),
        ("1970-01-01 00:00:01Z", 10**9),
        ("1970-01-01T02:00:00.000000001+02:00", 1),
        ("1970-01-01T00:00:00,5Z", 500_000_000),
        ("1970-01-01T00:00:00.1234567890000Z", 123_456_789),
    ],
)
def test_usual_spellings_of_time_are_understood(text: str, ns: int) -> None:
    assert parse_iso(text) == ns


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-01-01T00:00:00.0000000001Z", "2026-02-30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_iso(text)


def test_naive_datetimes_dates_and_backward_periods_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="no time zone"):
        Period(datetime(2026, 1, 1), datetime(2026, 2, 1))
    with pytest.raises(InvalidArgument, match="date alone"):
        Period(date(2026, 1, 1), date(2026, 2, 1))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="after its end"):
        Period("2026-02-01", "2026-01-01")


@given(MOMENTS, st.integers(1, 28))
def test_months_days_and_weeks_contain_their_moment(moment: datetime, billing_day: int) -> None:
    start, end = month_bounds(moment, billing_day)
    assert start <= moment < end
    assert start.day == end.day == billing_day
    assert timedelta(days=28) <= end - start <= timedelta(days=31)
    start, end = day_bounds(moment)
    assert start <= moment < end
    assert end - start == timedelta(days=1)
    start, end = week_bounds(moment)
    assert start <= moment < end
    assert start.isoweekday() == 1


@given(st.integers(I64_MIN, I64_MAX), st.integers(0, 18))
def test_scale_and_unscale_are_exact_inverses(value: int, decimals: int) -> None:
    assert scale(unscale(value, decimals), decimals) == value
    assert scale(str(unscale(value, decimals)), decimals) == value


def test_scale_refuses_what_it_would_have_to_round() -> None:
    assert scale("1.5") == 1_500_000
    assert scale(Decimal("-0.000001")) == -1
    assert scale(3) == 3_000_000
    for bad in ("0.0000001", "1e30", "NaN", "Infinity", "1e999999999", "1e-999999999", "", "x", True, 1.5):
        with pytest.raises(InvalidArgument):
            scale(bad)  # type: ignore[arg-type]


def test_every_exported_name_exists() -> None:
    for name in unimeter.__all__:
        assert getattr(unimeter, name) is not None
    with pytest.raises(AttributeError):
        unimeter.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = "import unimeter, sys; print([m for m in sys.modules if m.startswith('unimeter.')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "['unimeter.compiled']", "but what finds compiled modules"
