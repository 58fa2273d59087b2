"""Listing the stored events of one account as they stand in the log: the journal is the only copy."""

from __future__ import annotations

from unimeter.kernels.api import ROWS_END, Bytes, Event
from unimeter.kernels.reference import journal
from unimeter.kernels.reference.skips import is_skipped
from unimeter.kernels.reference.state import State


class ReferenceEventScan:
    def __init__(
        self,
        state: State,
        group_number: int,
        account: int | bytes,
        since: int,
        until: int,
        after_seq: int,
        end_seq: int,
        metric: int | None,
    ) -> None:
        self.state, self.group_number = state, group_number
        self.account, self.metric = account, metric
        self.since, self.until = since, until
        self.after_seq, self.end_seq = after_seq, end_seq

    def scan(self, records: Bytes, limit: int, first_row: int = 0, end_row: int = ROWS_END) -> list[Event]:
        found: list[Event] = []
        first, end = max(self.after_seq + 1, first_row), min(self.end_seq, end_row)
        for seq, ts, row in journal.log_rows(records, self.group_number, first, end):
            if len(found) == limit:
                break
            if row.key != self.account or (self.metric is not None and row.metric != self.metric):
                continue
            if not self.since <= ts <= self.until or is_skipped(self.state, seq):
                continue
            found.append(Event(seq, ts, row.key, row.metric, row.value, row.operation, row.id or b"", row.properties))
        return found
