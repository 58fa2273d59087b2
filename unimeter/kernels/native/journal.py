"""Checksums, entries and journal records, through csrc/kernels/{crc32c,hash,journal}.c.

An entry is exactly 64 + body_len bytes. In a record each entry is zero-padded to a multiple of 8, so that
all headers and rows stay aligned; `record` pads, `record_entries` gives the entries back without padding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from unimeter.kernels.api import Bytes, JournalScan
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.lent import lent

# looked up once: what every request needs
_from_buffer: Final = ffi.from_buffer
_um_record_add: Final = lib.um_record_add
_um_record_finish: Final = lib.um_record_finish
_um_entry_verify: Final = lib.um_entry_verify
_um_crc32c: Final = lib.um_crc32c

_ENTRY: Final = struct.Struct("<IIHHIQQqQIIQ")  # um_entry
_BATCH: Final = struct.Struct("<QQQQIIII")  # um_batch
_RECORD_BYTES: Final = 64
_RECORD_ALIGN: Final = 64
_ENTRY_BATCHES: Final = 0
_RECORD_ENTRIES: Final = 0


def crc32c(data: Bytes, crc: int = 0) -> int:
    return int(_um_crc32c(crc, lent(data), len(data)))


def hash64(data: Bytes, seed: int = 0) -> int:
    return int(lib.um_hash64(lent(data), len(data), seed))


def hash128(data: Bytes, seed: int = 0) -> int:
    out = ffi.new("uint64_t[2]")
    lib.um_hash128(lent(data), len(data), seed, out)
    return int(out[1]) << 64 | int(out[0])


def entry(kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
    """A sealed entry around any body. Batches in it are counted; nothing is checked: that is entry_verify."""
    batches, rows = _count_batches(body) if kind == _ENTRY_BATCHES else (0, 0)
    size = len(body)
    made = bytearray(_ENTRY.size + size)
    _ENTRY.pack_into(made, 0, 0, size, group, kind, batches, term, index, stamp_ns, first_seq, rows, 0, 0)
    if size:
        made[_ENTRY.size :] = body
    place: Any = ffi.from_buffer("uint8_t[]", made)
    lib.um_entry_seal(ffi.cast("um_entry *", place), place + _ENTRY.size)
    place = None  # a bytearray whose memory is lent out cannot be let go of by the cyclic collector
    return bytes(made)


def _count_batches(body: Bytes) -> tuple[int, int]:
    at = batches = rows = 0
    while at + _BATCH.size <= len(body):
        _, _, _, _, row_count, rows_len, _, _ = _BATCH.unpack_from(body, at)
        at += _BATCH.size + rows_len
        batches += 1
        rows += row_count
    return batches, rows


def entry_verify(entry: Bytes) -> bool:
    return bool(_um_entry_verify(lent(entry), len(entry)))


def block_memory(size: int, block_bytes: int) -> memoryview:
    whole = bytearray(size + block_bytes)
    place: Any = ffi.from_buffer(whole)
    lead = -int(ffi.cast("uintptr_t", place)) % block_bytes
    place = None
    return memoryview(whole)[lead : lead + size]


def record(
    out: memoryview,
    entries: Sequence[Bytes],
    kind: int,
    seq: int,
    prev_chain: int,
    stamp_ns: int,
    at: int,
    block_bytes: int,
) -> tuple[int, int]:
    count, body = len(entries), 0
    for item in entries:
        body += (len(item) + 7) & -8
    length = (_RECORD_BYTES + body + _RECORD_ALIGN - 1) & -_RECORD_ALIGN
    if -(-(at + length) // block_bytes) * block_bytes > len(out):
        raise ValueError(f"a record of {length} bytes does not fit into {len(out) - at}")
    place: Any = _from_buffer(out)
    end = at + _RECORD_BYTES
    for number in range(count - 1):
        item = entries[number]
        end = _um_record_add(place, end, lent(item), len(item))
    last: Bytes = entries[count - 1] if count else b""
    chain: int = _um_record_finish(
        place, at, end, lent(last), len(last), kind, count, seq, prev_chain, stamp_ns, block_bytes
    )
    return length, chain


def journal_verify(data: Bytes, seq: int, chain: int) -> JournalScan:
    offsets_max = len(data) // _RECORD_BYTES + 1
    offsets = ffi.new("uint64_t[]", offsets_max)
    scan = ffi.new("um_journal_scan *")
    lib.um_journal_verify(ffi.from_buffer(data), len(data), seq, chain, offsets, offsets_max, scan)
    return JournalScan(scan.consumed, scan.seq, scan.chain, scan.stop, ffi.unpack(offsets, scan.records))


def journal_find_later(data: Bytes, seq: int) -> int:
    return int(lib.um_journal_find_later(ffi.from_buffer(data), len(data), seq))


def record_entries(record: Bytes) -> list[memoryview]:
    view = memoryview(record)
    _, _, _, body_len, _, kind, count, _, _, _, _, _ = struct.unpack_from("<IIIIHHIQQQqQ", view)
    if kind != _RECORD_ENTRIES:
        return []
    entries = []
    at = _RECORD_BYTES
    for _ in range(count):
        end = at + _ENTRY.size + int.from_bytes(view[at + 4 : at + 8], "little")
        if end > _RECORD_BYTES + body_len:
            raise ValueError("not a verified record: its entries do not tile its body")
        entries.append(view[at:end])
        at = (end + 7) & ~7
    return entries
