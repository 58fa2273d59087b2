"""The calendar, as the oracle computes it: with datetime, slowly, and independent of the kernels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from unimeter.sim.events import DAY, FIXED, MONTH, WEEK

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_NS: Final = 86_400 * 10**9


def _ns(moment: datetime) -> int:
    return (moment - _EPOCH).days * _DAY_NS


@lru_cache(maxsize=4096)
def bounds(period: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]:
    """[start, end) of the period that a time lies in, ns since 1970 UTC."""
    days = timestamp_ns // _DAY_NS
    if period == FIXED:
        start = days // 30 * 30
        return start * _DAY_NS, (start + 30) * _DAY_NS
    if period == DAY:
        return days * _DAY_NS, (days + 1) * _DAY_NS
    moment = _EPOCH + timedelta(days=days)
    if period == WEEK:
        monday = moment - timedelta(days=moment.weekday())
        return _ns(monday), _ns(monday + timedelta(days=7))
    assert period == MONTH
    year, month = (moment.year, moment.month) if moment.day >= billing_day else _before(moment.year, moment.month)
    after = _after(year, month)
    return _ns(datetime(year, month, billing_day, tzinfo=UTC)), _ns(datetime(*after, billing_day, tzinfo=UTC))


def _before(year: int, month: int) -> tuple[int, int]:
    return (year - 1, 12) if month == 1 else (year, month - 1)


def _after(year: int, month: int) -> tuple[int, int]:
    return (year + 1, 1) if month == 12 else (year, month + 1)
