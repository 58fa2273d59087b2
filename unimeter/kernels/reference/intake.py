"""The open entry: ingest frames go in, an entry of batches and answers come out.

Per frame: is there room; read it (intake_v1, intake_v2), which refuses it whole or yields its rows; then
note how it is to be answered. After apply: sync requests, and always the opening of a session. When the entry
is ordered: async requests. At once: what was refused whole, or has nothing to store.

Room is asked for before a frame is touched, for the worst that it can need, so that a frame is never half taken.

Malformed requests never reach the log: what the log holds, apply can take.
"""

from __future__ import annotations

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Applied, Bytes, Catalog, Frame, FrameTable, Reply
from unimeter.kernels.layout import EntryHead
from unimeter.kernels.reference import journal
from unimeter.kernels.reference.apply import ReferenceApplied
from unimeter.kernels.reference.catalog import ReferenceCatalog, own
from unimeter.kernels.reference.intake_request import (
    FLAG_ASYNC,
    FLAG_VERDICTS,
    V1_INGEST_TYPES,
    V2_INGEST_TYPE,
    Request,
    Taken,
)
from unimeter.kernels.reference.intake_v1 import take_v1
from unimeter.kernels.reference.intake_v2 import take_v2
from unimeter.kernels.reference.replies import replies

_REQUESTS_MAX = 65_536  # requests without rows do not fill the entry, so they have a limit of their own
_UNKNOWN_MAX = 131_072  # and so have events of unknown metrics


def _is_ingest(frame: Frame) -> bool:
    return frame.type in V1_INGEST_TYPES if frame.protocol == 1 else frame.type == V2_INGEST_TYPE


class ReferenceIntake:
    def __init__(self, group: int, bytes_max: int, batch_events_max: int) -> None:
        self.group = group
        self.body_bytes_max = bytes_max
        self.requests_max = max(_REQUESTS_MAX, bytes_max // lay.BATCH.size + 1)  # in either list
        self.unknown_max = max(_UNKNOWN_MAX, bytes_max // 32)  # left out, not counting the next request's
        self.batch_events_max = batch_events_max
        self.clear()

    def clear(self) -> None:
        self._body = bytearray()
        self._entry = b""
        self._waiting: list[Request] = []
        self._immediate: list[Request] = []
        self._unknown_count = 0
        self.batch_count = 0
        self.row_count = 0

    @property
    def used_bytes(self) -> int:
        return len(self._body)

    # ---- taking frames ----

    def take(self, catalog: Catalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
        """Take ingest frames from `first` on. Returns (UM_STOP_*, index of the first frame not taken)."""
        assert not self._entry, "a sealed entry takes nothing"
        for index in range(first, len(frames)):
            frame = frames[index]
            if not _is_ingest(frame):
                return lay.UM_STOP_CONTROL, index
            if not self._has_room(frame):
                return lay.UM_STOP_FULL, index
            request = self._take(own(catalog), data, frame, link)
            wait = request.sync and request.batch != lay.UM_NONE
            (self._waiting if wait else self._immediate).append(request)
            if request.status == lay.UM_REQ_MALFORMED:
                return lay.UM_STOP_MALFORMED, index + 1
        return lay.UM_STOP_END, len(frames)

    def _has_room(self, frame: Frame) -> bool:
        return (
            len(self._body) + lay.BATCH.size + frame.payload_len <= self.body_bytes_max
            and max(len(self._waiting), len(self._immediate)) < self.requests_max
            and self._unknown_count <= self.unknown_max
        )

    def _take(self, catalog: ReferenceCatalog, data: Bytes, frame: Frame, link: int) -> Request:
        payload = bytes(memoryview(data)[frame.payload_off : frame.payload_off + frame.payload_len])
        v2 = frame.protocol == 2
        if v2:
            taken = take_v2(catalog, payload, self.batch_events_max, Taken(sync=not frame.flags & FLAG_ASYNC))
        else:
            taken = take_v1(catalog, payload, self.batch_events_max, Taken(sync=frame.type == V1_INGEST_TYPES[1]))
        request = Request(
            link=link,
            request_id=frame.request_id,
            v2=v2,
            sync=taken.sync,
            wants_verdicts=v2 and bool(frame.flags & FLAG_VERDICTS),
            status=taken.status,
            at_event=taken.at_event,
            events=taken.events,
            unknown=taken.unknown if taken.status == lay.UM_REQ_OK else [],
            batch=lay.UM_NONE,
            row_base=self.row_count,
            row_count=0,
        )
        self._unknown_count += len(request.unknown)
        if taken.status == lay.UM_REQ_OK and (taken.rows or taken.wants_batch):
            self._keep(taken, request)
        return request

    def _keep(self, taken: Taken, request: Request) -> None:
        body = b"".join(taken.rows)
        self._body += lay.BATCH.pack(*taken.batch._replace(row_count=len(taken.rows), rows_len=len(body))) + body
        request.batch = self.batch_count
        request.row_count = len(taken.rows)
        self.batch_count += 1
        self.row_count += len(taken.rows)

    # ---- the entry and its answers ----

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        """Close the body and return the entry (header + body)."""
        assert group == self.group
        assert not self._entry, "an entry is sealed once"
        head = EntryHead(
            crc=0,
            body_len=0,
            group=group,
            kind=lay.UM_ENTRY_BATCHES,
            batch_count=self.batch_count,
            term=term,
            index=index,
            stamp_ns=stamp_ns,
            first_seq=first_seq,
            row_count=self.row_count,
        )
        self._entry = journal.seal_entry(head, self._body)
        for request in (*self._waiting, *self._immediate):
            request.first_seq = first_seq
        return memoryview(self._entry)

    @property
    def immediate_count(self) -> int:
        return len(self._immediate)

    def immediate(self) -> list[Reply]:
        """Answers that wait for nothing (refused requests; async requests, once sealed); each is given once."""
        ready = [request for request in self._immediate if self._entry or request.needs_nothing]
        self._immediate = [request for request in self._immediate if not self._entry and not request.needs_nothing]
        return replies(ready, None)

    def answers(self, applied: Applied) -> list[Reply]:
        """Answers to the waiting (sync) requests, from what apply said; each is given once."""
        assert isinstance(applied, ReferenceApplied)
        ready, self._waiting = self._waiting, []
        return replies(ready, applied)
