"""The import itself: records become rows, rows become batches, many batches are under way at once.

One thread does it all: it makes a batch while the server works on those before it. In a cluster of several groups
each batch is of one group, so that it goes straight to that group's leader. What comes back is counted, and
every row that is not in the server afterwards is known by its line: bad (it is no event, it was never sent), conflict
(its id is known with another content) or refused (with the reason).
"""

from __future__ import annotations

import asyncio
import csv
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TextIO

from unimeter.client.async_client import AsyncClient
from unimeter.client.batch import BATCH_BYTES_MAX, Batch, BatchWriter
from unimeter.client.ingest import Outcome
from unimeter.client.results import VERDICT_SENTENCES
from unimeter.client.topology import group_of_row
from unimeter.client.values import metric_code
from unimeter.commands.import_rows import Mapping, row_maker
from unimeter.commands.import_source import BadRecord, Record, Source
from unimeter.errors import InvalidArgument, UnknownMetric
from unimeter.kernels import load

IN_FLIGHT_MAX = 16  # batches under way, of all groups; the session window allows 64 of each
SHOWN_MAX = 20  # rows that are named on the terminal; all are counted

Show = Callable[[str], None]


@dataclass
class Counts:
    """What became of the file's rows. read = stored + duplicates + conflicts + refused + bad, if it ended well."""

    read: int = 0
    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    bad: int = 0

    @property
    def is_clean(self) -> bool:
        return not (self.conflicts or self.refused or self.bad)


class Complaints(AbstractContextManager["Complaints"]):
    """Names rows that were not imported: the first few on the terminal, all of them in a file if there is one."""

    def __init__(self, show: Show, path: Path | None, kind: str) -> None:
        self._show = show
        self._path = path
        self._is_csv = kind == "csv"
        self._file: TextIO | None = None
        self._shown = 0
        self._total = 0

    def __enter__(self) -> Complaints:
        if self._path is not None:
            self._file = self._path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            if self._is_csv:
                csv.writer(self._file).writerow(("line", "reason", "row"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._total > self._shown:
            self._show(
                f"... and {self._total - self._shown:,} more rows" + ("" if self._path else " (--bad-rows FILE)")
            )
        if self._file is not None:
            self._file.close()

    def row(self, line: int, reason: str, raw: str) -> None:
        self._total += 1
        if self._shown < SHOWN_MAX:
            self._shown += 1
            self._show(f"line {line}: {reason}")
        if self._file is None:
            return
        if self._is_csv:
            csv.writer(self._file).writerow((line, reason, raw))
        else:
            self._file.write(json.dumps({"line": line, "reason": reason, "row": raw}, ensure_ascii=False) + "\n")


@dataclass
class Prepared:
    """A batch with the line of each of its rows."""

    batch: Batch
    lines: list[int] = field(default_factory=list)


class Import:
    """One import of one source. `counts` is current at any time."""

    def __init__(self, mapping: Mapping, batch_events: int, complaints: Complaints, groups: int = 1) -> None:
        self.counts = Counts()
        self._groups = groups
        self._mapping = mapping
        self._batch_events = batch_events
        self._complaints = complaints

    def check(self, source: Source, progress: Callable[[int], None]) -> bool:
        """Read everything, send nothing: is every row an event?"""
        for _ in self._batches(source):
            progress(source.position_bytes)
        return self.counts.bad == 0

    async def run(self, source: Source, client: AsyncClient, progress: Callable[[int], None]) -> None:
        """Send everything. Raises UnimeterError when the server could not be brought to answer: what was sent until
        then is in it or not, and the same import again completes it."""
        under_way: dict[asyncio.Task[Outcome], Prepared] = {}
        try:
            for prepared in self._batches(source):
                task = asyncio.create_task(client.send_batch(prepared.batch))
                under_way[task] = prepared
                await asyncio.sleep(0)  # it is sent now; its answer is dealt with below
                if len(under_way) >= IN_FLIGHT_MAX:
                    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for done in [task for task in under_way if task.done()]:
                    self._conclude(done.result(), under_way.pop(done))
                progress(source.position_bytes)
            while under_way:
                await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for done in [task for task in under_way if task.done()]:
                    self._conclude(done.result(), under_way.pop(done))
        finally:
            for task in under_way:
                task.cancel()

    def _batches(self, source: Source) -> Iterator[Prepared]:
        counts = self.counts
        make = row_maker(self._mapping)
        code = metric_code(self._mapping.metric)
        kernels = load()
        groups = self._groups
        writers = [BatchWriter(self._batch_events, BATCH_BYTES_MAX, group) for group in range(groups)]
        lines: list[list[int]] = [[] for _ in writers]
        for writer in writers:
            writer.metric(code)
        group = 0
        for record in source.records():
            counts.read += 1
            if type(record) is not tuple:
                self._bad(record)
                continue
            try:
                row = make(record[1])
            except (InvalidArgument, UnicodeEncodeError) as error:
                self._bad(BadRecord(record[0], _reason(error), self._raw(record)))
                continue
            if groups > 1:
                group = group_of_row(row, groups, kernels)
            writer = writers[group]
            if not writer.add(row):
                yield Prepared(writer.take(), lines[group])
                lines[group] = []
                writer.metric(code)
                writer.add(row)
            lines[group].append(record[0])
        for group, writer in enumerate(writers):
            if len(writer):
                yield Prepared(writer.take(), lines[group])

    def _raw(self, record: Record) -> str:
        assert isinstance(record, tuple)
        return ", ".join(f"{name}={text}" for name, text in zip(self._mapping.columns(), record[1], strict=True))

    def _bad(self, record: Record) -> None:
        assert isinstance(record, BadRecord)
        self.counts.bad += 1
        self._complaints.row(record.line, record.reason, record.raw)

    def _conclude(self, outcome: Outcome, prepared: Prepared) -> None:
        if outcome.error is not None:
            raise outcome.error
        answer = outcome.answer
        assert answer is not None
        counts = self.counts
        counts.stored += answer.stored
        counts.duplicates += answer.duplicates
        counts.conflicts += answer.conflicts
        counts.refused += answer.refused
        named = outcome.refusals()
        for refusal in named:
            line = prepared.lines[refusal.index - prepared.batch.first]
            self._complaints.row(line, VERDICT_SENTENCES[refusal.verdict], "")
        unnamed = answer.conflicts + answer.refused - len(named)
        if unnamed > 0:
            where = f"lines {prepared.lines[0]} to {prepared.lines[-1]}"
            self._complaints.row(prepared.lines[0], f"{unnamed} rows among {where} were refused", "")


def _reason(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeEncodeError) else str(error)


async def check_metric(client: AsyncClient, mapping: Mapping) -> str | None:
    """Is there such a metric? Raises UnknownMetric when not. Returns a remark about properties that are kept but not
    counted, if there is one to make."""
    for metric in await client.metrics.list():
        if metric.code == mapping.metric:
            others = [key for _, key in mapping.properties if key not in metric.schema.dimensions]
            if others:
                words = ", ".join(others)
                return (
                    f"not dimensions of {mapping.metric}, so kept in its events but not to filter or group by: {words}"
                )
            return None
    raise UnknownMetric(
        f"there is no metric {mapping.metric!r}", f"create it first: unimeter metric create {mapping.metric} --agg sum"
    )
