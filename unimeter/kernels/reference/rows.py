"""A row is one event in the log: a 32-byte head, then a tail of account text, id and properties.

    head  account u64 | timestamp_ns i64 | value i64 | metric u16, operation u8, flags u8,
          prop_count u8, reserved u8, tail_len u16
    tail  [text_len u8, text] [id_len u8, id] prop_count x [key_len u8, value_len u8, key, value], zeroes to 8

Rows come from strangers, so `parse` is total: anything that is not exactly a row is None. Everything behind
it (apply, query, events) reads rows through `RowView` and never looks at the tail again.
"""

from __future__ import annotations

from typing import NamedTuple

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Bytes
from unimeter.kernels.reference.checksum import MASK64, hash64, hash128

HEAD = lay.ROW
HEAD_BYTES = HEAD.size


class RowView(NamedTuple):
    account: int
    timestamp_ns: int  # 0: take the entry's stamp
    value: int
    metric: int
    operation: int
    flags: int
    text: bytes | None
    id: bytes | None
    properties: tuple[tuple[bytes, bytes], ...]
    property_bytes: bytes  # the properties as they stand in the tail, without padding
    raw: bytes  # the whole row

    @property
    def key(self) -> int | bytes:
        """The account as users name it."""
        return self.account if self.text is None else self.text


class _Malformed(Exception):
    pass


def parse(data: Bytes, offset: int = 0, end: int | None = None) -> RowView | None:
    """The row at data[offset:end], or None when there is no well-formed one."""
    view = memoryview(data)
    end = len(view) if end is None else end
    if end - offset < HEAD_BYTES:
        return None
    account, timestamp_ns, value, metric, operation, flags, prop_count, reserved, tail_len = HEAD.unpack_from(
        view, offset
    )
    if (
        operation > lay.UM_OP_REMOVE
        or flags & ~(lay.UM_ROW_TEXT | lay.UM_ROW_ID)
        or timestamp_ns < 0
        or prop_count > lay.UM_PROPERTIES_MAX
        or reserved
        or tail_len % 8
        or tail_len > end - offset - HEAD_BYTES
        or (flags & lay.UM_ROW_TEXT and account)
    ):
        return None
    raw = bytes(view[offset : offset + HEAD_BYTES + tail_len])
    try:
        tail = _Tail(raw)
        text = tail.short(lay.UM_ACCOUNT_BYTES_MAX) if flags & lay.UM_ROW_TEXT else None
        event_id = tail.short(lay.UM_ID_BYTES_MAX) if flags & lay.UM_ROW_ID else None
        start = tail.at
        properties = tail.properties(prop_count)
        property_bytes = raw[start : tail.at]
        tail.finish()
    except _Malformed:
        return None
    return RowView(
        account, timestamp_ns, value, metric, operation, flags, text, event_id, properties, property_bytes, raw
    )


class _Tail:
    """A cursor over a row's tail; whatever does not fit raises _Malformed."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = HEAD_BYTES

    def take(self, length: int) -> bytes:
        if self.at + length > len(self.raw):
            raise _Malformed
        self.at += length
        return self.raw[self.at - length : self.at]

    def short(self, bytes_max: int) -> bytes:
        """One length byte, then 1..bytes_max bytes."""
        length = self.take(1)[0]
        if not 1 <= length <= bytes_max:
            raise _Malformed
        return self.take(length)

    def properties(self, count: int) -> tuple[tuple[bytes, bytes], ...]:
        found: list[tuple[bytes, bytes]] = []
        for _ in range(count):
            key_len, value_len = self.take(2)
            if not 1 <= key_len <= lay.UM_KEY_BYTES_MAX:
                raise _Malformed
            key = self.take(key_len)
            if found and key <= found[-1][0]:
                raise _Malformed
            found.append((key, self.take(value_len)))
        return tuple(found)

    def finish(self) -> None:
        rest = self.raw[self.at :]
        if len(rest) >= 8 or any(rest):
            raise _Malformed


def identity(row: RowView) -> int:
    """The 128-bit name of an event with an id: account and id, whoever sends it."""
    assert row.id is not None
    if row.text is None:
        account = row.account.to_bytes(8, "little") + b"\0"
    else:
        account = row.text + b"\1"
    return hash128(account + row.id)


def content(row: RowView) -> int:
    """What an id vouches for: the row without its id."""
    head = HEAD.pack(
        row.account,
        row.timestamp_ns,
        row.value,
        row.metric,
        row.operation,
        row.flags & ~lay.UM_ROW_ID,
        len(row.properties),
        0,
        0,
    )
    return hash64(row.property_bytes, hash64(row.text or b"", hash64(head)))


_UNIT_BITS, _HASH_BITS = 4, 12  # of a fingerprint's time, 16 ns; of the hash beside it


def _timed(time: int, name: int) -> int:
    """52 bits of time and 76 of a hash: fingerprints of events that happened together are neighbours (fps.c)."""
    low = (time << _HASH_BITS) & MASK64 | (name & MASK64) >> 64 - _HASH_BITS
    return name >> 64 << 64 | low


def fingerprint(row: RowView) -> int:
    """The 128-bit name of an event without an id: its time, and all its bytes."""
    return _timed(row.timestamp_ns >> _UNIT_BITS, hash128(row.raw))


def ordinal_fingerprint(base: int, ordinal: int) -> int:
    """The name of the ordinal-th (1, 2, ...) equal event of the same request."""
    return _timed((base & MASK64) >> _HASH_BITS, hash128(base.to_bytes(16, "little"), ordinal))
