"""The image of a state: a header with the length of every region, then the regions' bytes in order.

    u32 magic "UMCK", u32 version 3, u32 region count, u32 0, 17 x u64 bytes in use, then the regions, no padding

The image is taken at once, at `begin`; so whatever is applied while it is being read is not in it. Loading
takes the regions apart and fills the dictionaries again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from unimeter.kernels import layout as lay
from unimeter.kernels.reference.checksum import MASK64
from unimeter.kernels.reference.records import (
    Alert,
    Bucket,
    Cell,
    Identity,
    Member,
    Period,
    PeriodMember,
    Result,
    Series,
    Session,
    Skip,
    Text,
    Totals,
)
from unimeter.kernels.reference.state import State

_MAGIC = 0x4B434D55
_VERSION = 3  # 1: series did not name their plain bucket; 2: fingerprints did not begin with a time
HEADER = struct.Struct(f"<4I{lay.UM_REGIONS}Q")
_BYTE, _WORD = struct.Struct("<B"), struct.Struct("<I")
STRUCTS = (
    lay.META,
    _BYTE,
    lay.VALUE,
    lay.ACCOUNT,
    lay.SERIES,
    lay.CELL,
    _WORD,
    lay.BUCKET,
    lay.MEMBER,
    lay.FP,
    lay.FP,
    lay.ID,
    lay.SESSION,
    lay.PERIOD,
    lay.PMEMBER,
    lay.ALERT,
    lay.SKIP,
)
RECORD_BYTES = tuple(record.size for record in STRUCTS)


def _packed(records: list[Any]) -> bytes:
    return b"".join(record.pack() for record in records)


def _packed_fingerprints(generation: dict[int, None]) -> bytes:
    return b"".join(lay.FP.pack(key & MASK64, key >> 64) for key in generation)


def regions(state: State) -> list[bytes]:
    """The packed bytes of every region, in the order of UM_R_*."""
    return [
        state.meta.pack(state.limits),
        bytes(state.heap),
        _packed(state.values),
        _packed(state.accounts),
        _packed(state.series),
        _packed(state.cells),
        struct.pack(f"<{len(state.dims)}I", *state.dims),
        _packed(state.buckets),
        _packed(state.members),
        _packed_fingerprints(state.fingerprints[0]),
        _packed_fingerprints(state.fingerprints[1]),
        _packed(state.ids),
        _packed(state.sessions),
        _packed(state.periods),
        _packed(state.period_members),
        _packed(state.alerts),
        _packed(state.skips),
    ]


def image(state: State) -> bytes:
    return image_of(regions(state))


def image_of(packed: Sequence[bytes | bytearray]) -> bytes:
    """The image whose regions have these bytes."""
    return HEADER.pack(_MAGIC, _VERSION, lay.UM_REGIONS, 0, *(len(region) for region in packed)) + b"".join(packed)


# ---- loading ----


def load(data: bytes) -> State:
    """The state that an image is of. Raises ValueError when the bytes are not an image."""
    parts = _split(data)
    meta = lay.META.unpack(parts[lay.UM_R_META])
    state = State(lay.decode_limits(meta[15]))
    (state.meta.version, *counters) = meta[:15]
    for name, value in zip(state.meta.__slots__[1:], counters, strict=True):
        setattr(state.meta, name, value)
    state.heap += parts[lay.UM_R_HEAP]
    try:
        _load_texts(state, parts)
        _load_series(state, parts)
        _load_dedup(state, parts)
        _load_thresholds(state, parts)
    except IndexError as error:
        raise ValueError("the image names a record that it does not hold") from error
    state.skips += (Skip(*fields) for fields in lay.SKIP.iter_unpack(parts[lay.UM_R_SKIPS]))
    return state


def _split(data: bytes) -> list[bytes]:
    if len(data) < HEADER.size:
        raise ValueError("the image ends early")
    magic, version, count, reserved, *lengths = HEADER.unpack_from(data)
    if (magic, version, count, reserved) != (_MAGIC, _VERSION, lay.UM_REGIONS, 0):
        raise ValueError("not a checkpoint image")
    if HEADER.size + sum(lengths) != len(data):
        raise ValueError("a checkpoint image of another length")
    parts: list[bytes] = []
    at = HEADER.size
    for length, record_bytes in zip(lengths, RECORD_BYTES, strict=True):
        if length % record_bytes:
            raise ValueError("a region does not hold whole records")
        parts.append(data[at : at + length])
        at += length
    if len(parts[lay.UM_R_META]) != lay.META.size or not parts[lay.UM_R_VALUES]:
        raise ValueError("a state has one meta record and the empty value")
    return parts


def _load_texts(state: State, parts: list[bytes]) -> None:
    state.values.clear()
    state.value_numbers.clear()
    for region, records, numbers in (
        (lay.UM_R_VALUES, state.values, state.value_numbers),
        (lay.UM_R_ACCOUNTS, state.accounts, state.account_numbers),
    ):
        for heap_off, hash64, length, _ in lay.VALUE.iter_unpack(parts[region]):
            text = bytes(state.heap[heap_off : heap_off + length])
            numbers[text] = len(records)
            records.append(Text(heap_off, hash64, text))


def _totals(fields: tuple[int, ...]) -> Totals:
    count, sum_lo, sum_hi, least, largest, last_value, last_ts, last_seq = fields
    return Totals(count, sum_hi << 64 | sum_lo, least, largest, last_value, last_ts, last_seq)


def _load_series(state: State, parts: list[bytes]) -> None:
    for number, fields in _numbered(lay.SERIES, parts[lay.UM_R_SERIES]):
        series = Series(*fields)
        state.series.append(series)
        state.series_numbers[series.account, series.text, series.metric] = number
    state.dims += (word for (word,) in _WORD.iter_unpack(parts[lay.UM_R_DIMS]))
    for number, fields in _numbered(lay.CELL, parts[lay.UM_R_CELLS]):
        owner, following, dims_off, dims_len, first_bucket, hot_bucket, bucket_count, _ = fields
        dims = tuple(state.dims[dims_off : dims_off + dims_len])
        state.cells.append(Cell(owner, dims_off, dims, following, first_bucket, hot_bucket, bucket_count))
        state.cell_numbers[owner, dims] = number
    for number, fields in _numbered(lay.BUCKET, parts[lay.UM_R_BUCKETS]):
        cell, following, hour, first_member, *rest = fields
        count, sum_lo, sum_hi, least, largest, last_value, first_ts, last_ts, last_seq, first_seq = rest
        totals = _totals((count, sum_lo, sum_hi, least, largest, last_value, last_ts, last_seq))
        state.buckets.append(Bucket(cell, hour, following, first_ts, first_seq, first_member, totals))
        state.bucket_numbers[cell, hour] = number
    for number, fields in _numbered(lay.MEMBER, parts[lay.UM_R_MEMBERS]):
        member = Member(*fields[:6])
        state.members.append(member)
        state.member_numbers[member.bucket, member.member] = number


def _load_dedup(state: State, parts: list[bytes]) -> None:
    for generation, region in zip(state.fingerprints, (lay.UM_R_FPS0, lay.UM_R_FPS1), strict=True):
        for low, high in lay.FP.iter_unpack(parts[region]):
            generation[high << 64 | low] = None
    for number, (low, high, content, seq) in _numbered(lay.ID, parts[lay.UM_R_IDS]):
        state.ids.append(Identity(high << 64 | low, content, seq))
        state.id_numbers[high << 64 | low] = number
    for number, (hi, lo, settled_below, highest, stamp_ns, _, packed) in _numbered(
        lay.SESSION, parts[lay.UM_R_SESSIONS]
    ):
        results = [Result(*result) for result in lay.RESULT.iter_unpack(packed)]
        session = Session(hi, lo, settled_below, highest, stamp_ns, results)
        state.sessions.append(session)
        state.session_numbers[session.id_hi, session.id_lo] = number


def _load_thresholds(state: State, parts: list[bytes]) -> None:
    for number, fields in _numbered(lay.PERIOD, parts[lay.UM_R_PERIODS]):
        series, following, start, end, *rest = fields
        totals = _totals(tuple(rest[:8]))
        state.periods.append(Period(number, series, following, start, end, totals, *rest[8:]))
    for number, fields in _numbered(lay.PMEMBER, parts[lay.UM_R_PMEMBERS]):
        member = PeriodMember(*fields)
        state.period_members.append(member)
        state.period_member_numbers[member.period, member.member] = number
    for fields in lay.ALERT.iter_unpack(parts[lay.UM_R_ALERTS]):
        number, account, metric, slot, text, _, *rest = fields
        state.alerts.append(Alert(number, account, metric, slot, text, *rest))


def _numbered(layout: struct.Struct, data: bytes) -> Iterator[tuple[int, tuple[Any, ...]]]:
    return enumerate(layout.iter_unpack(data))
