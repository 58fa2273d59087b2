"""Requests into the open entries of several groups, through csrc/kernels/{split,spans}.c, see api.Splitter.

With one group that is led here, this is Intake.take and nothing else. Otherwise there are three mappings: the
staging area and its notes, as large as the largest receive buffer so far asks for, and the slots of the spans,
UM_SPANS_MAX of them, each with room for the events of the largest request; memory is touched as used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from unimeter.kernels.api import Bytes, Catalog, FrameTable, Intake
from unimeter.kernels.layout import BATCH, UM_GROUPS_MAX, UM_NONE, UM_SPANS_MAX
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.arena import Arena
from unimeter.kernels.native.intake import NativeIntake
from unimeter.kernels.native.lent import lent
from unimeter.kernels.native.wire import NativeCatalog, NativeFrameTable

_STAGING_BYTES_MIN: Final = 1 << 20


class _Spans:
    """The splitter's struct and the slots that it points into, for whoever holds requests that are parts of spans: the
    intakes hold this and not the splitter, which holds the intakes."""

    def __init__(self) -> None:
        self.splitter_c: Any = ffi.new("um_splitter *")
        self.spans_c: Any = ffi.addressof(self.splitter_c, "spans")
        self._slots: Arena | None = None

    def reserve(self, batch_events_max: int) -> None:
        self._slots = Arena(UM_SPANS_MAX * int(lib.um_span_slot_bytes(batch_events_max)), huge=False)
        self._slots.fill(self.spans_c.slots)
        lib.um_spans_init(self.spans_c, batch_events_max)


class NativeSplitter:
    def __init__(self, group_count: int) -> None:
        if not 1 <= group_count <= UM_GROUPS_MAX:
            raise ValueError(f"a splitter has 1 to {UM_GROUPS_MAX} groups")
        self._group_count = group_count
        self._spans = _Spans()
        self._cdata: Any = self._spans.splitter_c
        lib.um_splitter_init(self._cdata, group_count)
        self._next: Any = ffi.new("uint32_t *")
        self._intakes: list[Intake] = []  # of the last call, and where their structs are
        self._intakes_c: Any = ffi.new("um_intake *[]", group_count)
        self._staging: Arena | None = None
        self._notes: Arena | None = None

    @property
    def groups_wanted(self) -> int:
        return int(self._cdata.groups_wanted)

    @property
    def spans_open(self) -> int:
        return int(self._cdata.spans.open)

    @property
    def unknown_waits(self) -> bool:
        return bool(self._cdata.unknown_waits)

    @unknown_waits.setter
    def unknown_waits(self, waits: bool) -> None:
        self._cdata.unknown_waits = waits

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
        if self._group_count == 1 and local[0] == 1:
            return intakes[0].take(catalog, data, frames, first, link)
        assert len(intakes) == len(local) == self._group_count
        assert isinstance(catalog, NativeCatalog)
        assert isinstance(frames, NativeFrameTable)
        opened = list(intakes)
        if opened != self._intakes:
            self._meet(opened)
        size = len(data)
        if self._staging is None or self._staging.reserved_bytes < size + BATCH.size:
            self._staging = Arena(max(_STAGING_BYTES_MIN, 2 * size + BATCH.size))
            self._staging.fill(self._cdata.staging)
        rest, count = self._next, len(frames)
        stop = lib.um_split_frames(
            lent(data), size, frames.cdata, first, count, catalog.cdata, link, self._cdata, self._intakes_c,
            local, rest,
        )  # fmt: skip
        assert stop != UM_NONE, "a sealed entry takes nothing"
        for intake in opened:
            intake.refresh()  # type: ignore[attr-defined]  # NativeIntake's
        return stop, rest[0]

    def _meet(self, intakes: list[Intake]) -> None:
        """Other intakes than last time: note where they are."""
        for group, intake in enumerate(intakes):
            assert isinstance(intake, NativeIntake)
            if self._notes is None:
                self._reserve(int(intake.cdata.batch_events_max))
            assert intake.cdata.batch_events_max == self._events_max
            self._intakes_c[group] = intake.cdata
            if self._group_count > 1:
                intake.belong_to(self._spans)
        self._intakes = intakes

    def _reserve(self, batch_events_max: int) -> None:
        self._events_max = batch_events_max
        self._notes = Arena(8 * batch_events_max)
        self._notes.fill(self._cdata.notes)
        self._spans.reserve(batch_events_max)
