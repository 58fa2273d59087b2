"""From the texts of a record to the row of an event, at tens of thousands a second.

Every row gets an event id, and that is what makes an import harmless to repeat: the value of the id column, or, without
one, a digest of the source's name, the metric, the row's content (account, value, time, properties, operation) and its
ordinal among the equal rows of the file. The same file under the same name gives the same ids, whatever was imported of
it before. Equal rows of one file count as often as they stand there.

    content  = the row as it is sent, but for the id: head, account text, properties
    base     = blake2b-120 (seed, content), seed = source name, 0, metric code, 0
    id       = base64 of base; for the second, third, ... equal row, of blake2b-120 (seed, base, ordinal u64)

Most texts repeat from row to row, so what is made of them is kept in bounded caches.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import NoReturn, TypeVar

from unimeter.client.batch import PADDING, encode_properties, pack_head
from unimeter.client.times import TIMESTAMP_MAX_NS, datetime_ns, parse_iso
from unimeter.client.values import I64_MAX, I64_MIN, account_key, event_id, scale
from unimeter.commands.common import account_of
from unimeter.commands.import_source import Texts
from unimeter.errors import InvalidArgument
from unimeter.kernels import protocol as wire

K = TypeVar("K")
V = TypeVar("V")

CACHE_ENTRIES_MAX = 100_000
DIGEST_BYTES = 15
DERIVED_ID_BYTES = 20  # of base64
UNIT_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1000, "ns": 1}
NS_DIGITS_MIN = 17  # an integer time with fewer digits is not taken for nanoseconds without being told
OPERATIONS = {"": 0, "none": 0, "add": wire.OPERATION_ADD, "remove": wire.OPERATION_REMOVE}


@dataclass(frozen=True)
class Mapping:
    """Which column is what."""

    metric: str
    account: str
    value: str | None = None
    time: str | None = None
    id: str | None = None
    operation: str | None = None
    properties: tuple[tuple[str, str], ...] = ()  # (column, property key)
    scale_decimals: int | None = None
    time_format: str = "auto"
    source: str = ""
    text_accounts: bool = False

    def columns(self) -> list[str]:
        """The wanted columns, in the order in which row_maker takes their texts."""
        single = [self.account, self.value, self.time, self.id, self.operation]
        return [column for column in single if column is not None] + [column for column, _ in self.properties]


def row_maker(mapping: Mapping) -> Callable[[Texts], bytes]:
    """A function from a record to its row, for dictionary index 0. It raises InvalidArgument for a record that is no
    event, and must be given every record of the source, in order: it counts equal ones."""
    places = iter(range(1, len(mapping.columns())))
    value_at = next(places) if mapping.value is not None else 0
    time_at = next(places) if mapping.time is not None else 0
    id_at = next(places) if mapping.id is not None else 0
    operation_at = next(places) if mapping.operation is not None else 0
    properties_at = next(places) if mapping.properties else 0
    parse = Parsers(mapping)
    identify = Identities(mapping.source, mapping.metric).identify
    accounts, values, times, properties_of = parse.accounts, parse.values, parse.times, parse.properties_of
    id_flag = wire.V2_ROW_FLAG_ID

    def make(texts: Texts) -> bytes:
        account, flags, tail = accounts.get(texts[0]) or parse.account(texts[0])
        value = 1
        time_ns = operation = count = 0
        properties = b""
        if value_at:
            found = values.get(texts[value_at])
            value = parse.value(texts[value_at]) if found is None else found
        if time_at:
            time_ns = times.get(texts[time_at]) or parse.time(texts[time_at])
        if operation_at:
            operation = parse.operation(texts[operation_at])
        if properties_at:
            key = texts[properties_at:]
            properties, count = properties_of.get(key) or parse.properties(key)
        own_id = b""
        id_length = DERIVED_ID_BYTES
        if id_at:
            own_id = parse.id(texts[id_at])
            id_length = len(own_id)
        length = len(tail) + 1 + id_length + len(properties)
        padding = -length & 7
        head = pack_head(account, time_ns, value, 0, operation, flags | id_flag, count, 0, length + padding)
        identity = own_id or identify(head + tail + properties)
        return b"%b%b%c%b%b%b" % (head, tail, id_length, identity, properties, PADDING[padding])

    return make


class Identities:
    """Ids for rows that have none of their own. Keeps a digest of every row: about 100 bytes each."""

    def __init__(self, source: str, metric: str) -> None:
        self._seed = blake2b(source.encode() + b"\0" + metric.encode() + b"\0", digest_size=DIGEST_BYTES)
        self._seen: set[bytes] = set()
        self._repeats: dict[bytes, int] = {}

    def identify(self, content: bytes) -> bytes:
        digest = self._seed.copy()
        digest.update(content)
        base = digest.digest()
        if base not in self._seen:
            self._seen.add(base)
            return b2a_base64(base, newline=False)
        ordinal = self._repeats[base] = self._repeats.get(base, 0) + 1
        digest = self._seed.copy()
        digest.update(base + ordinal.to_bytes(8, "little"))
        return b2a_base64(digest.digest(), newline=False)


class Parsers:
    """The texts of a record, one by one; each remembers its recent results in a public dict."""

    def __init__(self, mapping: Mapping) -> None:
        self.accounts: dict[str, tuple[int, int, bytes]] = {}  # numeric account, flags, beginning of the tail
        self.values: dict[str, int] = {}
        self.times: dict[str, int] = {}
        self.properties_of: dict[Texts, tuple[bytes, int]] = {}
        self._mapping = mapping
        self._parse_time = time_parser(mapping.time_format)

    def account(self, text: str) -> tuple[int, int, bytes]:
        if not text:
            raise InvalidArgument("the account is empty")
        key = account_key(account_of(text, self._mapping.text_accounts))
        made = (key, 0, b"") if isinstance(key, int) else (0, wire.V2_ROW_FLAG_TEXT, bytes((len(key),)) + key)
        return _remember(self.accounts, text, made)

    def value(self, text: str) -> int:
        return _remember(self.values, text, parse_value(text, self._mapping.scale_decimals))

    def time(self, text: str) -> int:
        return _remember(self.times, text, self._parse_time(text))

    def operation(self, text: str) -> int:
        operation = OPERATIONS.get(text.strip().lower())
        if operation is None:
            raise InvalidArgument(f"the operation is neither add nor remove: {text!r}")
        return operation

    def id(self, text: str) -> bytes:
        if not text:
            raise InvalidArgument("the id is empty")
        return event_id(text)

    def properties(self, texts: Texts) -> tuple[bytes, int]:
        names = (name for _, name in self._mapping.properties)
        some = {name: value for name, value in zip(names, texts, strict=True) if value}
        return _remember(self.properties_of, texts, (encode_properties(some), len(some)))


def _remember(cache: dict[K, V], key: K, value: V) -> V:
    if len(cache) >= CACHE_ENTRIES_MAX:
        cache.clear()
    cache[key] = value
    return value


def parse_value(text: str, scale_decimals: int | None) -> int:
    """A whole number; with `scale_decimals`, a decimal times ten to that power, exactly."""
    text = text.strip()
    if scale_decimals is not None:
        return scale(text, scale_decimals) if _is_plain(text) else _no_number(text)
    digits = text[1:] if text[:1] in ("-", "+") else text
    if digits.isascii() and digits.isdigit():
        value = int(text) if len(digits) <= 40 else 2**64
    else:
        if not _is_plain(text):
            _no_number(text)
        try:
            exact = Decimal(text)
            value = int(exact) if exact.adjusted() < 40 else 2**64
        except (InvalidOperation, ValueError, OverflowError):
            _no_number(text)
        if value != exact:
            raise InvalidArgument(f"the value is not a whole number: {text!r}; --scale 6 makes millionths of it")
    if not I64_MIN <= value <= I64_MAX:
        raise InvalidArgument(f"the value does not fit 64 bits: {text[:60]!r}")
    return value


def _is_plain(text: str) -> bool:
    """No underscores, no digits of other scripts, no NaN or infinity: what Decimal takes and people do not write."""
    return text.isascii() and "_" not in text and (text[-1:].isdigit() or text.endswith("."))


def _no_number(text: str) -> NoReturn:
    raise InvalidArgument(f"the value is no number: {text[:60]!r}" if text else "the value is empty")


def time_parser(time_format: str) -> Callable[[str], int]:
    """auto, s, ms, us, ns, or a strptime format (times without an offset are UTC)."""
    if time_format == "auto":
        return _checked(_parse_auto)
    if time_format in UNIT_NS:
        return _checked(lambda text: _parse_unit(text, UNIT_NS[time_format]))
    if "%" in time_format:
        return _checked(lambda text: _parse_format(text, time_format))
    raise InvalidArgument(f"--time-format {time_format!r}: use auto, s, ms, us, ns or a strptime format like %d/%m/%Y")


def _checked(parse: Callable[[str], int]) -> Callable[[str], int]:
    def checked(text: str) -> int:
        text = text.strip()
        if not text:
            raise InvalidArgument("the time is empty")
        ns = parse(text)
        if not 0 < ns <= TIMESTAMP_MAX_NS:
            raise InvalidArgument(f"the time lies outside 1970..2262: {text!r}")
        return ns

    return checked


def _parse_auto(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        return parse_iso(text)
    if len(text) < NS_DIGITS_MIN:
        raise InvalidArgument(f"the time {text!r} is not clearly nanoseconds; say --time-format s, ms, us or ns")
    return int(text)


def _parse_unit(text: str, unit_ns: int) -> int:
    if text.isascii() and text.isdigit():
        return int(text) * unit_ns
    try:
        exact = Decimal(text) * unit_ns if text.isascii() and "_" not in text else Decimal("NaN")
        if not exact.is_finite() or exact != int(exact):
            raise InvalidOperation
        return int(exact)
    except (InvalidOperation, ValueError, OverflowError):
        raise InvalidArgument(f"not a time in this unit: {text[:60]!r}") from None


def _parse_format(text: str, time_format: str) -> int:
    try:
        moment = datetime.strptime(text, time_format)
    except ValueError:
        raise InvalidArgument(f"not a time as {time_format}: {text[:60]!r}") from None
    return datetime_ns(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def parse_properties(options: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """COL, or COL=KEY."""
    pairs = []
    for option in options:
        column, _, key = option.partition("=")
        pairs.append((column, key or column))
    keys = [key for _, key in pairs]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise InvalidArgument(f"the property {min(twice)!r} is given twice")
    return tuple(pairs)
