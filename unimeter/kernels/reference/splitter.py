"""One request, the open entries of several groups.

    group of a row = (account mod 256) mod group_count; of a text account, hash64 of the text in place of the number

A request is read first, then its rows are looked at, and only when every group that it needs is taken here and
has room, they go there: a frame is taken whole or not touched.

Who leads the groups is said by a byte for each, `local`: 0, nobody that this node could ask; 1, taken here; any
other label, led by another node, the same label for the same node. A request that needs a group of label 0, or
that only needs groups of one other node, stops with UM_STOP_ELSEWHERE; one that needs several nodes is taken. While
`unknown_waits` is set, the catalog may be behind: a request with events of metrics that it does not know stops, too.

    rows in one group                    a batch there
    rows in several groups               a batch in each (same session, number, settled_below, flags), and a span
    opens a session                      a batch without rows in every group; with a group hint only in that one
    numbered, but no row is left of it   a batch without rows in the hinted group, else in group 0
    refused whole, or nothing in it      no batch; answered through the lists of group 0, wherever group 0 is led

The group hint of the v2 header is a group + 1; 0, or a group that there is not: none.

With more than one group last_offset is the stamp of the entry: sequence numbers of several groups cannot be
compared, and a client expects last_offset to grow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unimeter.kernels import layout as lay
from unimeter.kernels.api import Bytes, Catalog, FrameTable, Intake
from unimeter.kernels.frame import Frame
from unimeter.kernels.reference import rows
from unimeter.kernels.reference.catalog import own
from unimeter.kernels.reference.checksum import hash64
from unimeter.kernels.reference.intake import ReferenceIntake, describe, is_ingest, read
from unimeter.kernels.reference.intake_request import Taken
from unimeter.kernels.reference.spans import SPANS_MAX, Span, Spans


def group_of(account: int | bytes, group_count: int) -> int:
    number = account if isinstance(account, int) else hash64(account)
    return number % lay.UM_PARTITIONS % group_count


class ReferenceSplitter:
    def __init__(self, group_count: int) -> None:
        if not 1 <= group_count <= lay.UM_GROUPS_MAX:
            raise ValueError(f"a splitter has 1 to {lay.UM_GROUPS_MAX} groups")
        self.group_count = group_count
        self.groups_wanted = 0
        self.unknown_waits = False
        self.spans = Spans()
        self._known: list[ReferenceIntake] = []  # of the last call

    @property
    def spans_open(self) -> int:
        return self.spans.open

    def take(
        self,
        catalog: Catalog,
        data: Bytes,
        frames: FrameTable,
        first: int,
        link: int,
        intakes: Sequence[Intake],
        local: bytes,
    ) -> tuple[int, int]:
        if self.group_count == 1 and local[0] == 1:
            return intakes[0].take(catalog, data, frames, first, link)
        opened = self._own(intakes)
        assert len(local) == self.group_count
        self.groups_wanted = 0
        for index in range(first, len(frames)):
            frame = frames[index]
            if not is_ingest(frame):
                return lay.UM_STOP_CONTROL, index
            taken = read(own(catalog), data, frame, opened[0].batch_events_max)
            dealt = self._deal(frame, taken)
            stop = self._judge(taken, dealt, opened, local)
            if stop != lay.UM_STOP_END:
                self.groups_wanted = sum(1 << group for group in dealt)
                return stop, index
            self._put(frame, taken, link, dealt, opened)
            if taken.status == lay.UM_REQ_MALFORMED:
                return lay.UM_STOP_MALFORMED, index + 1
        return lay.UM_STOP_END, len(frames)

    def _own(self, intakes: Sequence[Intake]) -> list[ReferenceIntake]:
        opened: list[ReferenceIntake] = []
        for intake in intakes:
            assert isinstance(intake, ReferenceIntake)
            if self.group_count > 1 and not intake.stamped:
                assert not intake.pending_count, "an intake has one splitter from the beginning"
                intake.stamped = True
            opened.append(intake)
        assert len(opened) == self.group_count
        return opened

    def _deal(self, frame: Frame, taken: Taken) -> dict[int, list[int]]:
        """The groups that the request needs, in order, and which of its rows go there."""
        if taken.status != lay.UM_REQ_OK:
            return {}
        dealt: dict[int, list[int]] = {}
        for number, raw in enumerate(taken.rows):
            row = rows.parse(raw)
            assert row is not None, "intake read it"
            dealt.setdefault(group_of(row.key, self.group_count), []).append(number)
        if dealt or not taken.wants_batch:
            return {group: dealt[group] for group in sorted(dealt)}
        hint = frame.partition if frame.protocol == 2 and frame.partition <= self.group_count else 0
        if hint:
            return {hint - 1: []}
        if taken.batch.flags & lay.UM_BATCH_OPEN_SESSION:
            return {group: [] for group in range(self.group_count)}
        return {0: []}

    def _judge(self, taken: Taken, dealt: dict[int, list[int]], opened: list[ReferenceIntake], local: bytes) -> int:
        """A stop code; UM_STOP_END: take it."""
        if self.unknown_waits and taken.status == lay.UM_REQ_OK and taken.unknown:
            return lay.UM_STOP_ELSEWHERE
        leaders = {local[group] for group in dealt}
        if 0 in leaders or (len(leaders) == 1 and 1 not in leaders):
            return lay.UM_STOP_ELSEWHERE
        unknown = len(taken.unknown) if taken.status == lay.UM_REQ_OK and len(dealt) < 2 else 0
        for group in dealt or (0,):
            assert not opened[group].frozen, "a sealed entry takes nothing"
            size = sum(len(taken.rows[number]) for number in dealt.get(group, ()))
            if not opened[group].room_for(size, unknown):
                return lay.UM_STOP_FULL
        return lay.UM_STOP_FULL if len(dealt) > 1 and self.spans.open == SPANS_MAX else lay.UM_STOP_END

    def _put(
        self, frame: Frame, taken: Taken, link: int, dealt: dict[int, list[int]], opened: list[ReferenceIntake]
    ) -> None:
        request = describe(frame, taken, link, self.group_count > 1)
        if len(dealt) < 2:
            opened[next(iter(dealt), 0)].put(request, taken)
            return
        span = Span(self.spans, request)
        request.span = span
        left_out = dict.fromkeys(taken.unknown)
        events = [event for event in range(taken.events) if event not in left_out]  # of each row
        for group, numbers in dealt.items():
            part = replace(taken, rows=[taken.rows[number] for number in numbers], unknown=[])
            piece = describe(frame, part, link, True)
            piece.span, piece.part_events = span, tuple(events[number] for number in numbers)
            opened[group].put(piece, part)
            span.parts += 1
