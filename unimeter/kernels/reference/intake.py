"""The open entry: ingest frames go in, an entry of batches and answers come out.

Per frame: is there room; read it (intake_v1, intake_v2), which refuses it whole or yields its rows; then
note how it is to be answered. After apply: sync requests, and always the opening of a session. When the entry
is ordered: async requests. At once: what was refused whole, or has nothing to store.

Room is asked for before a frame is touched, for the worst that it can need, so that a frame is never half taken.

Malformed requests never reach the log: what the log holds, apply can take.
"""

from __future__ import annotations

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Applied, Bytes, Catalog, FrameTable
from unimeter.kernels.frame import Frame, Reply
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
from unimeter.kernels.reference.replies import failures, replies

_REQUESTS_MAX = 65_536  # requests without rows do not fill the entry, so they have a limit of their own
_UNKNOWN_MAX = 131_072  # and so have events of unknown metrics


def is_ingest(frame: Frame) -> bool:
    return frame.type in V1_INGEST_TYPES if frame.protocol == 1 else frame.type == V2_INGEST_TYPE


def read(catalog: ReferenceCatalog, data: Bytes, frame: Frame, events_max: int) -> Taken:
    """The payload of an ingest frame."""
    payload = bytes(memoryview(data)[frame.payload_off : frame.payload_off + frame.payload_len])
    if frame.protocol == 2:
        return take_v2(catalog, payload, events_max, Taken(sync=not frame.flags & FLAG_ASYNC))
    return take_v1(catalog, payload, events_max, Taken(sync=frame.type == V1_INGEST_TYPES[1]))


def describe(frame: Frame, taken: Taken, link: int, stamped: bool) -> Request:
    """The request that is to be answered, without a batch so far."""
    v2 = frame.protocol == 2
    return Request(
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
        row_base=0,
        row_count=0,
        stamped=stamped,
    )


class ReferenceIntake:
    def __init__(self, group: int, bytes_max: int, batch_events_max: int) -> None:
        self.group = group
        self.body_bytes_max = bytes_max
        self.requests_max = max(_REQUESTS_MAX, bytes_max // lay.BATCH.size + 1)  # in either list
        self.unknown_max = max(_UNKNOWN_MAX, bytes_max // 32)  # left out, not counting the next request's
        self.batch_events_max = batch_events_max
        self.stamped = False  # a splitter of several groups fills this: answers tell stamps
        self._waiting: list[Request] = []
        self._immediate: list[Request] = []
        self.clear()

    def clear(self) -> None:
        for request in (*self._waiting, *self._immediate):
            if request.span is not None:
                request.span.over = True
                request.span.let_go()
        self._body = bytearray()
        self._entry = b""
        self._bundled = False
        self._waiting = []
        self._immediate = []
        self.unknown_count = 0
        self.batch_count = 0
        self.row_count = 0

    @property
    def used_bytes(self) -> int:
        return len(self._body)

    # ---- taking frames ----

    def take(self, catalog: Catalog, data: Bytes, frames: FrameTable, first: int, link: int) -> tuple[int, int]:
        """Take ingest frames from `first` on. Returns (UM_STOP_*, index of the first frame not taken)."""
        assert not self.frozen, "a sealed entry takes nothing"
        for index in range(first, len(frames)):
            frame = frames[index]
            if not is_ingest(frame):
                return lay.UM_STOP_CONTROL, index
            if not self._has_room(frame):
                return lay.UM_STOP_FULL, index
            request = self._take(own(catalog), data, frame, link)
            if request.status == lay.UM_REQ_MALFORMED:
                return lay.UM_STOP_MALFORMED, index + 1
        return lay.UM_STOP_END, len(frames)

    def _has_room(self, frame: Frame) -> bool:
        return (
            len(self._body) + lay.BATCH.size + frame.payload_len <= self.body_bytes_max
            and max(len(self._waiting), len(self._immediate)) < self.requests_max
            and self.unknown_count <= self.unknown_max
        )

    def _take(self, catalog: ReferenceCatalog, data: Bytes, frame: Frame, link: int) -> Request:
        taken = read(catalog, data, frame, self.batch_events_max)
        return self.put(describe(frame, taken, link, self.stamped), taken)

    def put(self, request: Request, taken: Taken) -> Request:
        """What was read becomes part of the entry; its request is listed."""
        self.unknown_count += len(request.unknown)
        if taken.status == lay.UM_REQ_OK and (taken.rows or taken.wants_batch):
            body = b"".join(taken.rows)
            self._body += lay.BATCH.pack(*taken.batch._replace(row_count=len(taken.rows), rows_len=len(body))) + body
            request.batch = self.batch_count
            request.row_base = self.row_count
            request.row_count = len(taken.rows)
            self.batch_count += 1
            self.row_count += len(taken.rows)
        elif taken.status == lay.UM_REQ_OK:
            request.row_base = self.row_count
        wait = request.sync and request.batch != lay.UM_NONE
        (self._waiting if wait else self._immediate).append(request)
        return request

    def room_for(self, rows_bytes: int, unknown_count: int) -> bool:
        """For one request, of which the rows and the events left out are known (the splitter asks)."""
        return (
            len(self._body) + lay.BATCH.size + rows_bytes <= self.body_bytes_max
            and max(len(self._waiting), len(self._immediate)) < self.requests_max
            and self.unknown_count + unknown_count <= self.unknown_max + self.batch_events_max
        )

    def add_bundle(self, body: Bytes, batch_count: int, row_count: int) -> tuple[int, int] | None:
        """Another node's batches, without requests. None: no room. ValueError: these are not so many batches."""
        assert not self.frozen, "a sealed entry takes nothing"
        if not journal.batches_verify(memoryview(body).cast("B"), batch_count, row_count):
            raise ValueError("a bundle is not the batches that it was said to be")
        if len(self._body) + len(body) > self.body_bytes_max:
            return None
        place = self.batch_count, self.row_count
        self._body += body
        self.batch_count += batch_count
        self.row_count += row_count
        return place

    # ---- the entry and its answers ----

    def seal(self, group: int, index: int, term: int, stamp_ns: int, first_seq: int) -> memoryview:
        """Close the body and return the entry (header + body)."""
        assert group == self.group
        assert not self.frozen, "an entry is sealed once"
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
        self._place(stamp_ns if self.stamped else first_seq)
        return memoryview(self._entry)

    def bundle(self) -> tuple[Bytes, int, int]:
        """For the leader elsewhere: the batches. Async requests wait for answers() from now on."""
        assert not self.frozen, "an entry is sealed or bundled once"
        self._bundled = True
        return bytes(self._body), self.batch_count, self.row_count

    def _place(self, first_seq: int) -> None:
        for request in (*self._waiting, *self._immediate):
            request.first_seq = first_seq

    @property
    def frozen(self) -> bool:
        return bool(self._entry) or self._bundled

    @property
    def immediate_count(self) -> int:
        return len(self._immediate)

    @property
    def pending_count(self) -> int:
        return len(self._waiting) + len(self._immediate)

    def immediate(self) -> list[Reply]:
        """Answers that wait for nothing (refused requests; async requests, once sealed); each is given once."""
        ready = [request for request in self._immediate if self._entry or request.needs_nothing]
        self._immediate = [request for request in self._immediate if not self._entry and not request.needs_nothing]
        return replies(ready, None)

    def answers(self, applied: Applied) -> list[Reply]:
        """Answers to the waiting (sync) requests, from what apply said; each is given once."""
        assert self.frozen, "answers come after the seal"
        assert isinstance(applied, ReferenceApplied)
        ready, self._waiting = self._waiting, []
        if not self._bundled:
            return replies(ready, applied)
        said = applied.batch_count, applied.row_count
        assert said == (self.batch_count, self.row_count), "these are answers to another bundle"
        late, self._immediate = self._immediate, []  # async requests have waited too
        for request in (*ready, *late):
            request.first_seq = applied.stamp_ns if self.stamped else 0
        first = replies(ready, applied)
        return first + replies(late, applied)

    def fail(self, v1_status: int, v1_payload: bytes, v2_status: int, v2_payload: bytes) -> list[Reply]:
        """Answer every request that has no answer yet with this instead."""
        pending = (*self._waiting, *self._immediate)
        self._waiting, self._immediate = [], []
        return failures(pending, (v1_status, v1_payload), (v2_status, v2_payload))
