"""A v2 ingest payload becomes rows.

    head 48 B | dictionary: n x [len u8, code], zero-padded to 8 | rows, as they are logged

The client sends rows in the form of the log; all there is to do is to believe nothing, and to put the metric
id in the place of the dictionary index.

    MALFORMED (closes the link)   lengths that do not add up; unknown batch flags; a number without a session or a
                                  session without one; events in a batch that opens a session; a broken
                                  dictionary; rows that end before rows_len
    TOO_MANY_EVENTS               event_count above the limit
    BAD_ROW                       the first event that is no well-formed row, or points outside the dictionary
"""

from __future__ import annotations

import struct

from unimeter.kernels import layout as lay
from unimeter.kernels.layout import BatchHead
from unimeter.kernels.reference import rows
from unimeter.kernels.reference.catalog import ReferenceCatalog
from unimeter.kernels.reference.intake_request import Taken

_HEAD = struct.Struct("<QQQQIHHII")
_FLAG_OPEN_SESSION = 1


def _dictionary(catalog: ReferenceCatalog, data: bytes, count: int) -> list[int] | None:
    """The metric id of every code (-1: unknown), None when the bytes are not exactly `count` codes."""
    ids: list[int] = []
    at = 0
    for _ in range(count):
        if at == len(data):
            return None
        code = data[at + 1 : at + 1 + data[at]]
        if not 1 <= data[at] <= lay.UM_CODE_BYTES_MAX or len(code) != data[at]:
            return None
        ids.append(catalog.find(code))
        at += 1 + len(code)
    rest = data[at:]
    return None if len(rest) >= 8 or any(rest) or len(data) % 8 else ids


def _session_makes_sense(batch: BatchHead, flags: int, event_count: int) -> bool:
    if flags & ~_FLAG_OPEN_SESSION:
        return False
    if not (batch.session_hi or batch.session_lo):
        return not (flags or batch.number or batch.settled_below)
    if flags:
        return batch.number == 0 and event_count == 0
    return batch.number != 0


def take_v2(catalog: ReferenceCatalog, payload: bytes, events_max: int, taken: Taken) -> Taken:
    if len(payload) < _HEAD.size:
        return taken.refuse(lay.UM_REQ_MALFORMED)
    hi, lo, number, settled_below, event_count, dictionary_count, flags, rows_len, dictionary_len = _HEAD.unpack_from(
        payload
    )
    batch = BatchHead(hi, lo, number, settled_below, row_count=0, rows_len=0, flags=0)
    taken.events = event_count
    if len(payload) != _HEAD.size + dictionary_len + rows_len or not _session_makes_sense(batch, flags, event_count):
        return taken.refuse(lay.UM_REQ_MALFORMED)
    taken.wants_batch = bool(batch.session_hi or batch.session_lo)  # its number must be recorded
    if flags:
        batch = batch._replace(flags=lay.UM_BATCH_OPEN_SESSION)
        taken.sync = True  # only apply knows whether there was room for the session
    taken.batch = batch
    if event_count > events_max:
        return taken.refuse(lay.UM_REQ_TOO_MANY_EVENTS)
    at = _HEAD.size + dictionary_len
    ids = _dictionary(catalog, payload[_HEAD.size : at], dictionary_count)
    if ids is None:
        return taken.refuse(lay.UM_REQ_MALFORMED)
    for index in range(event_count):
        row = rows.parse(payload, at)
        if row is None or row.metric >= dictionary_count:
            return taken.refuse(lay.UM_REQ_BAD_ROW, index)
        metric = ids[row.metric]
        if metric < 0:
            taken.unknown.append(index)
        else:
            taken.rows.append(row.raw[:24] + metric.to_bytes(2, "little") + row.raw[26:])
        at += len(row.raw)
    if at != len(payload):
        return taken.refuse(lay.UM_REQ_MALFORMED)
    return taken
