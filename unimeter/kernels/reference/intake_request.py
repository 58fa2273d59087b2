"""What reading one ingest frame came to, and how its request is to be answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unimeter.kernels import layout as lay
from unimeter.kernels.layout import BatchHead

if TYPE_CHECKING:
    from unimeter.kernels.reference.spans import Span

V1_INGEST_TYPES = (0x00, 0x01)  # async, sync
V2_INGEST_TYPE = 0x02
FLAG_ASYNC = 1
FLAG_VERDICTS = 2


_NO_SESSION = BatchHead(0, 0, 0, 0, row_count=0, rows_len=0, flags=0)


@dataclass
class Taken:
    """What reading one payload came to. status != UM_REQ_OK: nothing of it is kept."""

    sync: bool
    status: int = lay.UM_REQ_OK
    at_event: int = lay.UM_NONE  # the event at fault, UM_NONE: the whole
    events: int = 0
    unknown: list[int] = field(default_factory=list)  # events of unknown metrics, left out
    rows: list[bytes] = field(default_factory=list)
    batch: BatchHead = _NO_SESSION
    wants_batch: bool = False  # keep the batch even without rows

    def refuse(self, status: int, event: int = lay.UM_NONE) -> Taken:
        self.status, self.at_event = status, event
        return self


@dataclass
class Request:
    """How one request is to be answered."""

    link: int
    request_id: int
    v2: bool
    sync: bool
    wants_verdicts: bool
    status: int
    at_event: int
    events: int
    unknown: list[int]
    batch: int  # number of its batch in the entry, UM_NONE when none
    row_base: int
    row_count: int
    first_seq: int = 0  # set when the entry is sealed: of the entry; stamped: its stamp_ns
    stamped: bool = False  # last_offset is the stamp of the entry
    span: Span | None = None  # that it is a part of
    part_events: tuple[int, ...] = ()  # part of a span: the events that its rows are

    @property
    def needs_nothing(self) -> bool:
        """Refused whole, or nothing in it to store: it need not even be ordered."""
        return self.status != lay.UM_REQ_OK or self.batch == lay.UM_NONE
