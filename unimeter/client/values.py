"""What an application hands in: events, metric definitions, spans of time.

Everything is checked here, before anything is sent; an error says which field is wrong and what would be right.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum

from unimeter.client.times import TIMESTAMP_MAX_NS, timestamp_ns
from unimeter.errors import InvalidArgument
from unimeter.kernels import protocol as wire

I64_MIN = -(2**63)
I64_MAX = 2**63 - 1
U64_MAX = 2**64 - 1
SCALE_DECIMALS = 6  # the convention: a millionth of a unit is 1

Account = int | str
Time = datetime | str | int
Filters = Mapping[str, str | list[str] | tuple[str, ...]]


class AggType(StrEnum):
    """What a metric does with its events. The values are the words of the protocol and the command line."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    LATEST = "latest"
    COUNT_UNIQUE = "count-unique"


class PeriodType(StrEnum):
    """A metric's own periods, in UTC: they decide "the current period" and when thresholds start anew."""

    MONTH = "month"
    DAY = "day"
    WEEK = "week"  # ISO, from Monday
    FIXED = "fixed"  # 30 days, counted from 1970-01-01


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """One thing that happened. `value` is a whole number (see `scale` for decimals); without a `timestamp` the
    server stamps the event on arrival; an `id` makes it count once per account, whoever sends it."""

    account_id: Account
    metric_code: str
    value: int = 1
    timestamp: Time | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    operation: str | None = None  # "add" or "remove", for count-unique
    id: str | bytes | None = None

    def __init__(
        self,
        account_id: Account,
        metric_code: str,
        value: int = 1,
        timestamp: Time | None = None,
        properties: Mapping[str, str] | None = None,
        operation: str | None = None,
        id: str | bytes | None = None,
    ) -> None:
        # what a frozen dataclass would do, with a third less time: an application makes one for everything that happens
        _put_account_id(self, account_id)
        _put_metric_code(self, metric_code)
        _put_value(self, value)
        _put_timestamp(self, timestamp)
        _put_properties(self, {} if properties is None else properties)
        _put_operation(self, operation)
        _put_id(self, id)


(
    _put_account_id, _put_metric_code, _put_value, _put_timestamp, _put_properties, _put_operation, _put_id,
) = (getattr(Event, name).__set__ for name in Event.__slots__)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Threshold:
    """A named number: an alert fires when an account's total of the current period reaches `value`."""

    name: str
    value: int
    recurring: bool = False  # True: again each time the total rises over it, not once per period


@dataclass(frozen=True, slots=True)
class MetricSchema:
    """A metric's definition. What is None is left to the server's default."""

    code: str
    agg_type: AggType = AggType.COUNT
    dimensions: tuple[str, ...] | list[str] = ()
    thresholds: tuple[Threshold, ...] | list[Threshold] = ()
    period: PeriodType | None = None
    billing_day: int | None = None  # 1..28
    recurring: bool = False  # count-unique: members present at the end, however long ago they were added


@dataclass(frozen=True, slots=True)
class Period:
    """From `start`, up to but not including `end`. Datetimes must be aware; ISO 8601 text and nanoseconds since
    1970 UTC are fine too."""

    start: Time
    end: Time

    def __post_init__(self) -> None:
        if self.start_ns > self.end_ns:
            raise InvalidArgument(f"the period starts after its end: {self.start} > {self.end}")

    @property
    def start_ns(self) -> int:
        return timestamp_ns(self.start, "start")

    @property
    def end_ns(self) -> int:
        return timestamp_ns(self.end, "end")


def scale(amount: Decimal | int | str, decimals: int = SCALE_DECIMALS) -> int:
    """A decimal amount as the whole number to send, exactly: scale("1.5") == 1_500_000. Floats are refused: what a
    float holds is rarely the number that was meant."""
    if isinstance(amount, (bool, float)):
        raise InvalidArgument(f"scale() takes Decimal, int or str, not {type(amount).__name__}: write scale(str(x))")
    try:
        exact = Decimal(amount)
        if not exact.is_finite():
            raise InvalidOperation
        sign, digits, exponent = exact.as_tuple()
    except (InvalidOperation, ValueError, TypeError):
        raise InvalidArgument(f"not a number: {amount!r}") from None
    assert isinstance(exponent, int)
    shift = exponent + decimals
    magnitude = int("".join(map(str, digits)) or "0") if len(digits) < 64 else None
    if magnitude is None or shift > 64:
        raise InvalidArgument(f"{amount} does not fit 64 bits")
    if shift < 0:
        magnitude, rest = divmod(magnitude, 10 ** min(-shift, 128))
        if rest:
            raise InvalidArgument(f"{amount} has more than {decimals} decimals")
    else:
        magnitude *= int(10**shift)
    whole = -magnitude if sign else magnitude
    if not I64_MIN <= whole <= I64_MAX:
        raise InvalidArgument(f"{amount} with {decimals} decimals does not fit 64 bits")
    return whole


def unscale(value: int, decimals: int = SCALE_DECIMALS) -> Decimal:
    """The decimal amount that `scale` made a whole number of, exactly."""
    return Decimal((int(value < 0), tuple(map(int, str(abs(value)))), -decimals))


def account_key(account: Account) -> int | bytes:
    """A number below 2^64, or the bytes of a text account."""
    if isinstance(account, str):
        text = utf8(account, "account_id")
        if not 1 <= len(text) <= wire.ACCOUNT_BYTES_MAX:
            raise InvalidArgument(f"a text account has 1..{wire.ACCOUNT_BYTES_MAX} bytes, this has {len(text)}")
        return text
    if isinstance(account, bool) or not isinstance(account, int):
        raise InvalidArgument(f"account_id is a whole number or text, not {type(account).__name__}")
    if not 0 <= account <= U64_MAX:
        raise InvalidArgument(f"a numeric account lies in 0..2^64-1: {account}")
    return account


def metric_code(code: str) -> bytes:
    if not isinstance(code, str):
        raise InvalidArgument(f"a metric code is text, not {type(code).__name__}")
    text = utf8(code, "metric code")
    if not 1 <= len(text) <= wire.CODE_BYTES_MAX or b"\0" in text:
        raise InvalidArgument(f"a metric code has 1..{wire.CODE_BYTES_MAX} bytes and no NUL: {code!r}")
    return text


def whole_value(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(
            f"value is a whole number, not {type(value).__name__} {value!r}: scale() makes one of a decimal"
        )
    if not I64_MIN <= value <= I64_MAX:
        raise InvalidArgument(f"value does not fit 64 bits: {value}; a smaller unit of scale() may help")
    return value


def event_id(id: str | bytes | None) -> bytes:
    """b"" when there is none."""
    if id is None:
        return b""
    data = utf8(id, "id") if isinstance(id, str) else id
    if not isinstance(data, bytes):
        raise InvalidArgument(f"an event id is text or bytes, not {type(id).__name__}")
    if not 1 <= len(data) <= wire.ID_BYTES_MAX:
        raise InvalidArgument(f"an event id has 1..{wire.ID_BYTES_MAX} bytes, this has {len(data)}")
    return data


def utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} is not valid text: {text!r}") from None


def operation_number(operation: str | None) -> int:
    try:
        return OPERATIONS[operation]
    except (KeyError, TypeError):
        raise InvalidArgument(f'operation is "add", "remove" or None, not {operation!r}') from None


OPERATIONS: dict[str | None, int] = {
    None: wire.OPERATION_NONE,
    "add": wire.OPERATION_ADD,
    "remove": wire.OPERATION_REMOVE,
}
OPERATION_NAMES = {number: name for name, number in OPERATIONS.items()}

__all__ = [
    "Account", "AggType", "Event", "Filters", "MetricSchema", "Period", "PeriodType", "Threshold", "Time",
    "TIMESTAMP_MAX_NS", "scale", "unscale",
]  # fmt: skip
