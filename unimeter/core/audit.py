"""Reading a data directory from end to end without changing it: every checksum, every link of the chain.

Recovery reads only what it needs; an audit reads everything, so it also finds rot in segments that a checkpoint
has made unnecessary for starting (they are still the only copy of their events).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unimeter.config import BLOCK_BYTES, NodeConfig
from unimeter.core import checkpoint, identity, journal
from unimeter.core.entry import head_of
from unimeter.core.flow import Corrupt, Flow, ReadFailed, ReadFile
from unimeter.core.identity import Identity
from unimeter.core.inputs import FileInfo
from unimeter.core.journal import Position, segment_file
from unimeter.core.journal_read import find_later, read_records
from unimeter.kernels import layout
from unimeter.kernels.api import Bytes, Kernels


@dataclass
class SegmentReport:
    number: int
    first_record: int  # sequence numbers; 0, 0 when there is none
    last_record: int
    entries: int = 0
    batches: int = 0
    rows: int = 0
    bytes: int = 0
    problem: str | None = None


@dataclass
class CheckpointReport:
    file: str
    record: int
    bytes: int
    state_bytes: int = 0
    problem: str | None = None  # incomplete or damaged; never the only copy of anything


@dataclass
class Report:
    identity: Identity | None
    segments: list[SegmentReport] = field(default_factory=list)
    checkpoints: list[CheckpointReport] = field(default_factory=list)
    torn_tail: bool = False
    problems: list[str] = field(default_factory=list)  # what a restart or a reader would stumble over


class Audit:
    def __init__(self, kernels: Kernels, config: NodeConfig, files: tuple[FileInfo, ...]) -> None:
        self._kernels = kernels
        self._config = config
        self._sizes = {file.name: file.size_bytes for file in files}

    def run(self) -> Flow[Report]:
        try:
            found = identity.decode((yield ReadFile(identity.FILE, 0, BLOCK_BYTES)), self._kernels)
        except (ReadFailed, Corrupt) as error:
            return Report(None, problems=[f"identity: {error}"])
        report = Report(found)
        if found is None:
            report.problems.append("identity: the file was never written: this directory was not used yet")
            return report
        yield from self._checkpoints(report)
        yield from self._journal(report, found)
        return report

    def _checkpoints(self, report: Report) -> Flow[None]:
        for name in sorted(self._sizes):
            number = checkpoint.checkpoint_number(name)
            if number is None:
                continue
            made = CheckpointReport(name, number, self._sizes[name])
            report.checkpoints.append(made)

            def sink(section: str, _total: int, data: memoryview, made: CheckpointReport = made) -> None:
                made.state_bytes += len(data) if section.startswith("state") else 0

            try:
                yield from checkpoint.read(self._kernels, name, self._sizes[name], sink)
            except checkpoint.Unusable as error:
                made.problem = str(error)

    def _journal(self, report: Report, found: Identity) -> Flow[None]:
        at = journal.start(self._kernels, found.cluster_id)
        numbers = sorted(n for n in map(journal.segment_number, self._sizes) if n is not None)
        for missing in sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
            report.problems.append(f"{segment_file(missing)}: the file is missing")
        torn: tuple[SegmentReport, Position] | None = None  # where the records stopped before their end
        for number in numbers:
            header = yield ReadFile(segment_file(number), 0, BLOCK_BYTES)
            if not journal.is_segment_header(self._kernels, header, found.cluster_id, number):
                if any(header):
                    report.problems.append(f"{segment_file(number)}: its header is damaged")
                continue
            size = self._sizes[segment_file(number)]
            if size < self._config.segment_bytes:
                report.problems.append(f"{segment_file(number)}: cut off: {size} of {self._config.segment_bytes} bytes")
            before = at.seq
            made = SegmentReport(number, 0, 0)
            report.segments.append(made)

            def count(_: Position, record: memoryview, made: SegmentReport = made) -> None:
                self._count(made, record)

            start = Position(number, BLOCK_BYTES, at.seq, at.chain)
            at, stop = yield from read_records(self._kernels, self._config, start, size, count)
            if at.seq > before:
                made.first_record, made.last_record = before + 1, at.seq
                torn = None
            if stop == layout.UM_J_BAD and torn is None:
                torn = made, at
            later = yield from find_later(self._kernels, self._config, number, size, torn[1] if torn else at)
            if later is not None:
                bad, place = torn or (made, at)
                file = "" if bad is made else f" of {segment_file(number)}"
                bad.problem = f"offset {place.offset}: record {at.seq + 1} cannot be read, but a later one stands at {later}{file}"
                report.problems.append(f"{segment_file(bad.number)}: {bad.problem}")
                return  # what follows hangs on a chain that is broken here
        report.torn_tail = torn is not None
        held = max((made.record for made in report.checkpoints if made.problem is None), default=0)
        if held > at.seq and not report.problems:
            report.problems.append(f"the journal ends with record {at.seq}, but a checkpoint holds record {held}")

    def _count(self, made: SegmentReport, record: Bytes) -> None:
        made.bytes += len(record)
        for entry in self._kernels.record_entries(record):
            head = head_of(entry)
            made.entries += 1
            made.batches += head.batch_count
            made.rows += head.row_count
