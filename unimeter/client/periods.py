"""The usual periods, around the present moment of this machine's clock, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from unimeter.client.times import day_bounds, month_bounds, week_bounds
from unimeter.client.values import Period


def current_month(billing_day: int = 1) -> Period:
    """The month that is running, from `billing_day` 00:00 UTC (1..28) to the same day of the next month."""
    return Period(*month_bounds(datetime.now(UTC), billing_day))


def current_day() -> Period:
    """Today, in UTC."""
    return Period(*day_bounds(datetime.now(UTC)))


def current_week() -> Period:
    """This ISO week, from Monday 00:00 UTC."""
    return Period(*week_bounds(datetime.now(UTC)))
