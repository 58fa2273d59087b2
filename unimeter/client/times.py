"""Instants, as people write them, to nanoseconds since 1970 UTC, as the system counts them. Always exactly:
no float is involved, and what a nanosecond cannot hold is refused, not rounded.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

from unimeter.errors import InvalidArgument

TIMESTAMP_MAX_NS = 2**63 - 1
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FRACTION = re.compile(r"[.,](\d+)")


def datetime_ns(moment: datetime) -> int:
    """Nanoseconds since 1970 UTC of an aware datetime."""
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise InvalidArgument(
            f"{moment!r} has no time zone, so it is no instant: write datetime(2030, 1, 1, tzinfo=timezone.utc)"
        )
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND_NS + since.microseconds * 1000


def parse_iso(text: str) -> int:
    """Nanoseconds since 1970 UTC of ISO 8601 text. Without an offset: UTC. A date alone: its midnight."""
    fraction_ns = 0
    found = _FRACTION.search(text) if "." in text or "," in text else None
    if found:
        digits = found.group(1)
        if digits[9:].strip("0"):
            raise InvalidArgument(f"finer than a nanosecond: {text!r}")
        fraction_ns = int(digits[:9].ljust(9, "0"))
        text = text[: found.start()] + text[found.end() :]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"not an ISO 8601 time: {text!r}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return datetime_ns(moment) + fraction_ns


def parse_time(text: str) -> int:
    """ISO 8601, or nanoseconds since 1970 UTC when it is digits only."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else parse_iso(text)


def timestamp_ns(time: datetime | str | int, what: str) -> int:
    """Any spelling of an instant, as nanoseconds within what a timestamp can hold."""
    if isinstance(time, datetime):
        ns = datetime_ns(time)
    elif isinstance(time, str):
        ns = parse_time(time)
    elif isinstance(time, bool) or not isinstance(time, int):
        hint = ": a date alone is no instant" if isinstance(time, date) else ""
        kind = type(time).__name__
        raise InvalidArgument(f"{what} is an aware datetime, ISO 8601 text or nanoseconds, not {kind}{hint}")
    else:
        ns = time
    if not 0 <= ns <= TIMESTAMP_MAX_NS:
        raise InvalidArgument(f"{what} lies outside 1970..2262: {time}")
    return ns


def iso(ns: int) -> str:
    """ISO 8601 in UTC, with as many decimals as it needs (0, 3, 6 or 9)."""
    seconds, fraction = divmod(ns, SECOND_NS)
    text = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    if fraction:
        digits = f"{fraction:09d}"
        while digits.endswith("000"):
            digits = digits[:-3]
        text += "." + digits
    return text + "Z"


def month_bounds(now: datetime, billing_day: int) -> tuple[datetime, datetime]:
    """The month around `now` (UTC) that begins on `billing_day` 00:00."""
    if not 1 <= billing_day <= 28:
        raise InvalidArgument(f"billing_day lies in 1..28: {billing_day}")
    now = now.astimezone(UTC)
    year, month = now.year, now.month
    if now.day < billing_day:
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
    start = datetime(year, month, billing_day, tzinfo=UTC)
    year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    return start, datetime(year, month, billing_day, tzinfo=UTC)


def day_bounds(now: datetime) -> tuple[datetime, datetime]:
    start = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


def week_bounds(now: datetime) -> tuple[datetime, datetime]:
    """The ISO week (from Monday) around `now`, in UTC."""
    today, _ = day_bounds(now)
    start = today - timedelta(days=today.weekday())
    return start, start + timedelta(days=7)
