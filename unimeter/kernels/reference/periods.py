"""Metering periods in UTC: [start, end) around an instant, always whole hours.

    fixed   30-day windows counted from 1970-01-01
    month   from 00:00 of the billing day of a month to that of the next (billing day 1..28, 0 means 1)
    day     UTC day
    week    ISO week, Monday to Sunday

Calendar arithmetic is that of datetime.date (years 1..9999), which covers every i64 of nanoseconds. Bounds
that do not fit an i64 (around the years 1677 and 2262) are clamped to it.
"""

from __future__ import annotations

from datetime import date

from unimeter.kernels import layout as lay
from unimeter.kernels.reference.records import I64_MAX, I64_MIN

DAY_NS = 24 * lay.UM_HOUR_NS
_EPOCH = date(1970, 1, 1).toordinal()
_WEEKDAY_OF_EPOCH = 3  # 1970-01-01 was a Thursday; Monday is 0


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01; month 0 and 13 belong to the neighbouring years."""
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, day).toordinal() - _EPOCH


def period_bounds(period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]:
    day = timestamp_ns // DAY_NS
    if period_type == lay.UM_PERIOD_MONTH:
        billing_day = billing_day if 1 <= billing_day <= 28 else 1
        today = date.fromordinal(day + _EPOCH)
        month = today.month if today.day >= billing_day else today.month - 1
        first, after = _days(today.year, month, billing_day), _days(today.year, month + 1, billing_day)
    elif period_type == lay.UM_PERIOD_DAY:
        first, after = day, day + 1
    elif period_type == lay.UM_PERIOD_WEEK:
        first = day - (day + _WEEKDAY_OF_EPOCH) % 7
        after = first + 7
    else:
        first, after = day - day % 30, day - day % 30 + 30
    return max(first * DAY_NS, I64_MIN), min(after * DAY_NS, I64_MAX)
