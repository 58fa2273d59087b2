"""The log as bytes: record > entry > batch > row. Sealing, verifying, finding what was written later.

    record  64 B header, then entries, each zero-padded to 8; the whole zero-padded to 64: one journal write
            header_crc covers bytes 8..63 of the header, body_crc the body_len bytes of body
            chain = hash64(prev_chain u64, seq u64, body_crc u32, body_len u32)
    entry   64 B header, then batches: one log index of one group; crc covers bytes 4..63 and the body
    batch   48 B header, then rows: one request

A journal read stops at the first record that is not the next one of the chain. Whether that is a torn tail
or rot is told by `journal_find_later`: a valid record with a higher number further on means rot.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Bytes, JournalScan
from unimeter.kernels.layout import BatchHead, EntryHead, RecordHead
from unimeter.kernels.reference import rows
from unimeter.kernels.reference.checksum import crc32c, hash64

RECORD_VERSION = 1
_CHAIN = struct.Struct("<QQII")


# ---- entries ----


def seal_entry(head: EntryHead, body: Bytes) -> bytes:
    """The whole entry: header with its crc, then the body."""
    head = head._replace(crc=0, body_len=len(body))
    crc = crc32c(body, crc32c(lay.ENTRY.pack(*head)[4:]))
    return lay.ENTRY.pack(*head._replace(crc=crc)) + bytes(body)


def build_entry(kind: int, group: int, index: int, term: int, stamp_ns: int, first_seq: int, body: Bytes) -> bytes:
    """A sealed entry around any body. Batches in it are counted; nothing is checked: that is entry_verify."""
    at = batch_count = row_count = 0
    while kind == lay.UM_ENTRY_BATCHES and at + lay.BATCH.size <= len(body):
        batch = BatchHead._make(lay.BATCH.unpack_from(body, at))
        at += lay.BATCH.size + batch.rows_len
        batch_count += 1
        row_count += batch.row_count
    head = EntryHead(0, 0, group, kind, batch_count, term, index, stamp_ns, first_seq, row_count)
    return seal_entry(head, body)


def entry_head(entry: Bytes) -> EntryHead:
    return EntryHead._make(lay.ENTRY.unpack_from(entry))


def entry_verify(entry: Bytes) -> bool:
    """Well-formed down to the last row, crc right."""
    view = memoryview(entry).cast("B")
    if len(view) < lay.ENTRY.size:
        return False
    head = entry_head(view)
    if (
        head.body_len != len(view) - lay.ENTRY.size
        or head.kind > lay.UM_ENTRY_HARD
        or head.reserved0
        or head.reserved1
        or head.first_seq == 0
        or head.stamp_ns < 0
        or crc32c(view[4:]) != head.crc
    ):
        return False
    if head.kind != lay.UM_ENTRY_BATCHES:
        return head.batch_count == 0 and head.row_count == 0
    return batches_verify(view[lay.ENTRY.size :], head.batch_count, head.row_count)


def _batch_verify(batch: BatchHead) -> bool:
    """Sessions number their batches, everything else has none of it; v1 knows no sessions."""
    session = bool(batch.session_hi or batch.session_lo)
    v1, opens = bool(batch.flags & lay.UM_BATCH_V1), bool(batch.flags & lay.UM_BATCH_OPEN_SESSION)
    if batch.flags & ~(lay.UM_BATCH_V1 | lay.UM_BATCH_OPEN_SESSION) or batch.reserved:
        return False
    if not session and (batch.number or batch.settled_below or opens):
        return False
    if v1 and session:
        return False
    return not opens or (batch.number == 0 and batch.row_count == 0)


def batches_verify(body: memoryview, batches_said: int, rows_said: int) -> bool:
    """Is this exactly so many batches with so many rows, well-formed to the last row?"""
    at = batch_count = row_count = 0
    while at < len(body):
        if len(body) - at < lay.BATCH.size:
            return False
        batch = BatchHead._make(lay.BATCH.unpack_from(body, at))
        at += lay.BATCH.size
        end = at + batch.rows_len
        if end > len(body) or not _batch_verify(batch):
            return False
        for _ in range(batch.row_count):
            row = rows.parse(body, at, end)
            if row is None or row.metric >= lay.UM_METRICS_MAX:
                return False
            at += len(row.raw)
        if at != end:
            return False
        batch_count += 1
        row_count += batch.row_count
    return batch_count == batches_said and row_count == rows_said


def batches(entry: Bytes) -> Iterator[tuple[BatchHead, list[rows.RowView]]]:
    """The batches of a verified entry."""
    view = memoryview(entry).cast("B")
    at = lay.ENTRY.size
    for _ in range(entry_head(view).batch_count):
        batch = BatchHead._make(lay.BATCH.unpack_from(view, at))
        at += lay.BATCH.size
        end = at + batch.rows_len
        found: list[rows.RowView] = []
        while at < end:
            row = rows.parse(view, at, end)
            assert row is not None, "the log holds only well-formed rows"
            found.append(row)
            at += len(row.raw)
        yield batch, found


# ---- records ----


def seal_record(
    out: memoryview,
    entries: Sequence[Bytes],
    kind: int,
    seq: int,
    prev_chain: int,
    stamp_ns: int,
    at: int,
    block_bytes: int,
) -> tuple[int, int]:
    """See api.Kernels.record."""
    body = b"".join(bytes(entry) + bytes(-len(entry) % 8) for entry in entries)
    body_crc = crc32c(body)
    chain = hash64(_CHAIN.pack(prev_chain, seq, body_crc, len(body)))
    head = RecordHead(
        lay.UM_RECORD_MAGIC,
        0,
        body_crc,
        len(body),
        RECORD_VERSION,
        kind,
        len(entries),
        seq,
        prev_chain,
        chain,
        stamp_ns,
    )
    head = head._replace(header_crc=crc32c(lay.RECORD.pack(*head)[8:]))
    record = lay.RECORD.pack(*head) + body
    record += bytes(-len(record) % lay.UM_RECORD_ALIGN)
    blank = bytes(-(at + len(record)) % block_bytes)
    end = at + len(record) + len(blank)
    if end > len(out):
        raise ValueError(f"a record of {len(record)} bytes does not fit into {len(out) - at}")
    memoryview(out).cast("B")[at:end] = record + blank
    return len(record), chain


def _header(view: memoryview, at: int) -> RecordHead | None:
    """The record header at `at` if it is whole and right in itself."""
    if len(view) - at < lay.RECORD.size:
        return None
    head = RecordHead._make(lay.RECORD.unpack_from(view, at))
    if (
        head.magic != lay.UM_RECORD_MAGIC
        or head.version != RECORD_VERSION
        or head.kind > lay.UM_RECORD_SEGMENT_END
        or head.reserved
        or crc32c(view[at + 8 : at + 64]) != head.header_crc
        or hash64(_CHAIN.pack(head.prev_chain, head.seq, head.body_crc, head.body_len)) != head.chain
    ):
        return None
    return head


def _length(head: RecordHead) -> int:
    total = lay.RECORD.size + head.body_len
    return total + -total % lay.UM_RECORD_ALIGN


def _body_right(view: memoryview, at: int, head: RecordHead) -> bool:
    body = view[at + lay.RECORD.size : at + lay.RECORD.size + head.body_len]
    if crc32c(body) != head.body_crc:
        return False
    return head.kind != lay.UM_RECORD_ENTRIES or _tiled(body, head.entry_count)


def _tiled(body: memoryview, entry_count: int) -> bool:
    """Do exactly that many entries fill the body?"""
    at = found = 0
    while at < len(body):
        if len(body) - at < lay.ENTRY.size:
            return False
        at += _padded(entry_head(body[at:]))
        found += 1
    return at == len(body) and found == entry_count


def _padded(head: EntryHead) -> int:
    """Bytes of an entry inside a record."""
    return lay.ENTRY.size + head.body_len + -head.body_len % 8


def journal_verify(data: Bytes, seq: int, chain: int) -> JournalScan:
    """Records from data[0] on; `seq`, `chain`: those of the record before (0 and the seed at the very start)."""
    view = memoryview(data).cast("B")
    at = 0
    offsets: list[int] = []
    while True:
        rest = len(view) - at
        if rest < lay.RECORD.size:
            stop = lay.UM_J_END
            break
        if not any(view[at : at + lay.RECORD.size]):
            stop = lay.UM_J_ZERO
            break
        head = _header(view, at)
        if head is None or head.seq != seq + 1 or head.prev_chain != chain:
            stop = lay.UM_J_BAD
            break
        if _length(head) > rest:
            stop = lay.UM_J_END
            break
        if not _body_right(view, at, head):
            stop = lay.UM_J_BAD
            break
        offsets.append(at)
        at += _length(head)
        seq, chain = head.seq, head.chain
        if head.kind == lay.UM_RECORD_SEGMENT_END:
            stop = lay.UM_J_SEGMENT_END
            break
    return JournalScan(at, seq, chain, stop, offsets)


def journal_find_later(data: Bytes, seq: int) -> int:
    """Offset of the first valid record with a sequence number beyond seq, or -1. A body that reaches past
    the data cannot be judged: its header alone says that it was begun."""
    view = memoryview(data).cast("B")
    for at in range(0, len(view) - lay.RECORD.size + 1, lay.UM_RECORD_ALIGN):
        head = _header(view, at)
        if head is None or head.seq <= seq:
            continue
        if at + lay.RECORD.size + head.body_len > len(view) or _body_right(view, at, head):
            return at
    return -1


def records(data: Bytes) -> Iterator[tuple[RecordHead, memoryview]]:
    """Whole verified records: (header, body)."""
    view = memoryview(data).cast("B")
    at = 0
    while len(view) - at >= lay.RECORD.size:
        head = RecordHead._make(lay.RECORD.unpack_from(view, at))
        yield head, view[at + lay.RECORD.size : at + lay.RECORD.size + head.body_len]
        at += _length(head)


def record_entries(record: Bytes) -> list[memoryview]:
    """The entries of one verified record (of the first one, when more follow)."""
    return next((_entries(head, body) for head, body in records(record)), [])


def _entries(head: RecordHead, body: memoryview) -> list[memoryview]:
    found: list[memoryview] = []
    at = 0
    while head.kind == lay.UM_RECORD_ENTRIES and at < len(body):
        entry = entry_head(body[at:])
        found.append(body[at : at + lay.ENTRY.size + entry.body_len])
        at += _padded(entry)
    return found


def log_rows(data: Bytes, group: int, first_seq: int, end_seq: int) -> Iterator[tuple[int, int, rows.RowView]]:
    """(seq, timestamp, row) of a group's rows with first_seq <= seq < end_seq in whole, verified records."""
    for record, body in records(data):
        for entry in _entries(record, body):
            head = entry_head(entry)
            if head.group != group or head.kind != lay.UM_ENTRY_BATCHES:
                continue
            if head.first_seq >= end_seq or head.first_seq + head.row_count <= first_seq:
                continue
            seq = head.first_seq
            for _, batch_rows in batches(entry):
                for row in batch_rows:
                    if first_seq <= seq < end_seq:
                        yield seq, row.timestamp_ns or head.stamp_ns, row
                    seq += 1
