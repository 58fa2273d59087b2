"""Events as bytes: rows, and batches of rows.

    batch body   dictionary (metric codes: [len u8, code]..., zero-padded to 8), then rows
    row          32-byte head (account, timestamp, value, dictionary index, ...), then a tail padded to 8:
                 [account text] [id] [properties sorted by key]

A batch is encoded once. When it is first sent it gets its place in a session (`session.py`), from then on it is a
frame of fixed bytes: whatever happens, the same bytes are sent again, and that is what makes a retry harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from unimeter.client.times import TIMESTAMP_MAX_NS, timestamp_ns
from unimeter.client.values import (
    I64_MAX,
    I64_MIN,
    U64_MAX,
    Event,
    account_key,
    event_id,
    metric_code,
    operation_number,
    utf8,
    whole_value,
)
from unimeter.errors import InvalidArgument
from unimeter.kernels import protocol as wire

BATCH_EVENTS_MAX = 4096  # of ours; a server may ask for less
BATCH_BYTES_MAX = 512 * 1024  # keeps a lost connection cheap, and one row always fits
ROW_BYTES_MAX = 32 + 129 + 65 + wire.PROPERTIES_MAX * (2 + wire.KEY_BYTES_MAX + wire.VALUE_BYTES_MAX) + 7

PROPERTIES_KNOWN_MAX = 10_000
CODES_KNOWN_MAX = 1_000

pack_head = wire.V2_ROW.pack  # (account, timestamp_ns, value, metric, operation, flags, prop_count, 0, tail_len)
PADDING = tuple(bytes(n) for n in range(8))  # PADDING[-len(tail) & 7]


@dataclass(slots=True, eq=False)
class Batch:
    """The events of one request, all of one group. `first` is the place of its first event in the call that made it;
    the others follow, unless `places` says where each was."""

    first: int
    count: int
    dictionary_count: int
    dictionary: bytes
    rows: bytes
    group: int = 0
    places: list[int] | None = None
    frame: bytes | None = None  # set once, when it gets its number in a session
    request_id: int = 0
    number: int = 0
    sends_unanswered: int = 0  # more than 0 without a final answer: it may have been counted
    context: object = field(default=None, repr=False)  # whatever the maker wants to find again with the answer

    def place(self, index: int) -> int:
        """Where its event number `index` stood in the call."""
        return self.first + index if self.places is None else self.places[index]


class BatchWriter:
    """Collects rows of one group into batches within the limits."""

    def __init__(self, events_max: int = BATCH_EVENTS_MAX, bytes_max: int = BATCH_BYTES_MAX, group: int = 0) -> None:
        self.events_max = events_max
        self.bytes_max = bytes_max
        self.group = group
        self.places: list[int] = []  # of the rows, for whoever does not add them in unbroken order
        self._first = 0
        self._rows: list[bytes] = []
        self._rows_bytes = 0
        self._codes: dict[bytes, int] = {}
        self._codes_bytes = 0

    def __len__(self) -> int:
        return len(self._rows)

    def metric(self, code: bytes) -> int:
        """The dictionary index of a metric code in the open batch."""
        index = self._codes.get(code)
        if index is None:
            index = self._codes[code] = len(self._codes)
            self._codes_bytes += 1 + len(code)
        return index

    def add(self, row: bytes) -> bool:
        """False: the open batch has no room for it, and for one more metric code with it. An empty one has room for any row."""
        rows, used = self._rows, self._rows_bytes + len(row)
        if len(rows) >= self.events_max or used + self._codes_bytes + wire.CODE_BYTES_MAX + 8 > self.bytes_max:
            assert rows, "one row always fits an empty batch"
            return False
        rows.append(row)
        self._rows_bytes = used
        return True

    def take(self) -> Batch:
        """Close the open batch and begin the next."""
        codes, rows = self._codes, self._rows
        batch = Batch(self._first, len(rows), len(codes), encode_dictionary(codes), b"".join(rows), self.group)
        self._first += batch.count
        if self.places:
            assert len(self.places) == batch.count
            batch.places, batch.first = self.places, self.places[0]
            self.places = []
        self._rows = []
        self._rows_bytes = 0
        self._codes = {}
        self._codes_bytes = 0
        return batch


def encode_dictionary(codes: Iterable[bytes]) -> bytes:
    dictionary = b"".join([bytes((len(code),)) + code for code in codes])
    return dictionary + PADDING[-len(dictionary) & 7]


@lru_cache(CODES_KNOWN_MAX)
def _dictionary_of(code: str) -> bytes:
    return encode_dictionary((metric_code(code),))


class _Writers(dict[int, BatchWriter]):
    """By group, made when it is needed."""

    def __init__(self, events_max: int, bytes_max: int) -> None:
        self._limits = events_max, bytes_max

    def __missing__(self, group: int) -> BatchWriter:
        writer = self[group] = BatchWriter(*self._limits, group)
        return writer


def encode_properties(properties: Mapping[str, str]) -> bytes:
    """The properties part of a row's tail, without padding."""
    if len(properties) > wire.PROPERTIES_MAX:
        raise InvalidArgument(f"at most {wire.PROPERTIES_MAX} properties, these are {len(properties)}")
    parts: list[bytes] = []
    for key, value in sorted(properties.items()):  # code point order is UTF-8 byte order
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"properties are text to text: {key!r}: {value!r}")
        key_bytes, value_bytes = utf8(key, "property key"), utf8(value, "property value")
        if not 1 <= len(key_bytes) <= wire.KEY_BYTES_MAX:
            raise InvalidArgument(f"a property key has 1..{wire.KEY_BYTES_MAX} bytes: {key!r}")
        if len(value_bytes) > wire.VALUE_BYTES_MAX:
            raise InvalidArgument(f"a property value has at most {wire.VALUE_BYTES_MAX} bytes: {key}={value[:40]!r}...")
        parts.append(bytes((len(key_bytes), len(value_bytes))) + key_bytes + value_bytes)
    return b"".join(parts)


def encode_row(event: Event, metric: int, known_properties: dict[object, bytes] | None = None) -> bytes:
    """One event as a row; raises InvalidArgument when it cannot be one. `known_properties` remembers what properties
    look like as bytes, for events that have many in common."""
    # mostly these are whole numbers that fit: then nothing more is called
    account, value, time = event.account_id, event.value, event.timestamp
    flags = 0
    tail = b""
    if type(account) is not int or not 0 <= account <= U64_MAX:
        key = account_key(account)
        account = 0
        if isinstance(key, bytes):
            flags = wire.V2_ROW_FLAG_TEXT
            tail = bytes((len(key),)) + key
        else:
            account = key
    if event.id is not None:
        identity = event_id(event.id)
        flags |= wire.V2_ROW_FLAG_ID
        tail += bytes((len(identity),)) + identity
    properties = event.properties
    if properties:
        tail += _properties(properties, known_properties)
    tail += PADDING[-len(tail) & 7]
    if time is None:
        time = 0
    elif type(time) is not int or not 0 < time <= TIMESTAMP_MAX_NS:
        ns = timestamp_ns(time, "timestamp")
        if ns == 0 and time != 0:
            raise InvalidArgument("the first nanosecond of 1970 cannot be a timestamp: 0 means stamped on arrival")
        time = ns
    if type(value) is not int or not I64_MIN <= value <= I64_MAX:
        value = whole_value(value)
    operation = operation_number(event.operation) if event.operation is not None else 0
    return pack_head(account, time, value, metric, operation, flags, len(properties), 0, len(tail)) + tail


def _properties(properties: Mapping[str, str], known: dict[object, bytes] | None) -> bytes:
    if known is None:
        return encode_properties(properties)
    key = tuple(properties.items())
    try:
        found = known.get(key)
    except TypeError:  # a value that is no text: said by the encoder
        return encode_properties(properties)
    if found is None:
        found = encode_properties(properties)
        if len(known) < PROPERTIES_KNOWN_MAX:
            known[key] = found
    return found


def encode_event(event: Event, group_of: Callable[[int | bytes], int]) -> Batch:
    """What `encode_events` makes of a single one, in half the time: most calls bring one."""
    try:
        if type(event.metric_code) is not str:
            metric_code(event.metric_code)  # says what it is instead
        dictionary = _dictionary_of(event.metric_code)
        row = encode_row(event, 0)
    except InvalidArgument as error:
        raise InvalidArgument(f"event 0: {error}") from None
    return Batch(0, 1, 1, dictionary, row, group_of(account_key(event.account_id)))


def encode_events(
    events: Iterable[Event],
    events_max: int = BATCH_EVENTS_MAX,
    bytes_max: int = BATCH_BYTES_MAX,
    groups: int = 1,
    group_of_text: Callable[[bytes], int] | None = None,
) -> list[Batch]:
    """All events as batches, each of one group; one that cannot be sent raises InvalidArgument with its place, and none
    is sent. `group_of_text` is needed with several groups. Within an account, events keep their order."""
    writers = _Writers(events_max, bytes_max)
    writer = writers[0]
    batches: list[Batch] = []
    codes: dict[str, bytes] = {}
    known: dict[object, bytes] = {}
    texts: dict[str, BatchWriter] = {}
    for place, event in enumerate(events):
        if not isinstance(event, Event):
            raise InvalidArgument(f"event {place}: expected an Event, not {type(event).__name__}")
        try:
            text = event.metric_code
            code = codes.get(text) if type(text) is str else metric_code(text)
            if code is None:
                code = codes[text] = metric_code(text)
            if groups > 1:
                account = event.account_id
                if isinstance(account, str):
                    found = texts.get(account)
                    if found is None:
                        assert group_of_text is not None
                        found = texts[account] = writers[group_of_text(utf8(account, "account_id"))]
                    writer = found
                elif isinstance(account, int):
                    writer = writers[account % wire.PARTITIONS % groups]
            row = encode_row(event, writer.metric(code), known)
            if not writer.add(row):
                batches.append(writer.take())  # a code that only the next row needs may stay in it: it does no harm
                writer.add(encode_row(event, writer.metric(code), known))
        except InvalidArgument as error:
            raise InvalidArgument(f"event {place}: {error}") from None
        if groups > 1:
            writer.places.append(place)
    batches += [writers[group].take() for group in sorted(writers) if len(writers[group])]
    return batches
