"""A group's state, through csrc/kernels/{state,apply,digest,checkpoint,...}.c.

All memory of a state is one anonymous mapping, reserved for the worst case its limits allow and touched as
used, so that making a state costs one system call and a few pages:

    | region 0 | ... | region 16 | index 0 | ... | index 10 | saved chunks | chunk map | scratch |

Regions and indexes that may become large ask for huge pages. Nothing moves, except when an entry raises the
limits beyond what was reserved: then everything moves into a larger mapping, between two entries.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from struct import Struct
from typing import Any, Final

from unimeter.kernels.api import Alert, Bytes, Catalog, EventScan, Limits, Meta, Query, QuerySpec
from unimeter.kernels.layout import (
    ACCOUNT,
    ALERT,
    APPLIED,
    ENTRY,
    LIMITS,
    META,
    UM_COW_CHUNK_BYTES,
    UM_ENTRY_LIMITS,
    UM_FPS_LEAF_RECORDS,
    UM_FPS_PAGE_BYTES,
    UM_INDEXES,
    UM_NONE,
    UM_R_ACCOUNTS,
    UM_R_ALERTS,
    UM_R_HEAP,
    UM_R_META,
    UM_R_SKIPS,
    UM_REGIONS,
    UM_X_FPS0,
    UM_X_FPS1,
    decode_limits,
    encode_limits,
)
from unimeter.kernels.native._um import ffi, lib
from unimeter.kernels.native.applied import NativeApplied
from unimeter.kernels.native.arena import ask_for_huge_pages
from unimeter.kernels.native.job import HEAD, NativeJob
from unimeter.kernels.native.lent import lent
from unimeter.kernels.native.query import begin_events, begin_query, glance

# looked up once: what every entry needs
_um_apply: Final = lib.um_apply
_um_state_ahead: Final = lib.um_state_ahead

_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
_IMAGE_HEAD: Final = Struct("<16x17Q")  # used bytes per region, see checkpoint.c
_ENTRY_BYTES: Final = ENTRY.size
_SLOTS_MIN: Final = 64  # of an index
_TABLES: Final = tuple(index for index in range(UM_INDEXES) if index not in (UM_X_FPS0, UM_X_FPS1))
_META_FIELDS: Final = len(Meta._fields) + 1  # um_meta begins with its version, then come the fields of Meta
_RECORD_BYTES: Final = tuple(int(lib.um_region_record_bytes(region)) for region in range(UM_REGIONS))
_SCRATCH_BYTES: Final = int(lib.um_scratch_bytes_max())


def _page(size: int) -> int:
    return (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


class _Memory:
    """One mapping cut into the areas of a um_state, and the view through which Python reads it."""

    def __init__(self, limits: Limits) -> None:
        counts = [max(1, min(count, UM_NONE - 1)) for count in limits.records_max]
        limits_c = ffi.new("um_limits *")
        regions = [_page(count * size) for count, size in zip(counts, _RECORD_BYTES, strict=True)]
        # for all that the pages hold: limits may be raised by that much without moving (_reserve)
        limits_c.records_max = [size // record for size, record in zip(regions, _RECORD_BYTES, strict=True)]
        indexes = [_page(int(lib.um_index_bytes_max(limits_c, index))) for index in range(UM_INDEXES)]
        chunks = sum(size // UM_COW_CHUNK_BYTES for size in regions)
        self.sizes = [*regions, *indexes, chunks * UM_COW_CHUNK_BYTES, _page(4 * chunks), _page(_SCRATCH_BYTES)]
        self.offsets = [0]
        for size in self.sizes:
            self.offsets.append(self.offsets[-1] + size)
        self.map = mmap.mmap(-1, self.offsets.pop(), flags=_FLAGS)
        for offset, size in zip(self.offsets, regions + indexes, strict=False):
            ask_for_huge_pages(self.map, offset, size)
        self.view = memoryview(self.map)
        self._hold: Any = ffi.from_buffer(self.map)
        self.base: Any = ffi.cast("uint8_t *", self._hold)

    def attach(self, state: Any) -> None:
        """Make the areas of a um_state lie here; what they have in use stays as it is."""
        for arena, offset, size in zip(_arenas(state), self.offsets, self.sizes, strict=True):
            arena.base = self.base + offset
            arena.reserved = size

    def forget_left_tables(self, state: Any) -> None:
        """Give back the pages of tables that an index has grown out of: they lie below the one it uses (index.c)."""
        for index in _TABLES:
            table = state.table[index]
            size = 8 * int(table.old_slots or table.slots) // mmap.PAGESIZE * mmap.PAGESIZE
            if size:
                self.map.madvise(mmap.MADV_DONTNEED, self.offsets[UM_REGIONS + index], size)

    def forget_saved_chunks(self) -> None:
        """Give back the pages of the copy-on-write area."""
        area = UM_REGIONS + UM_INDEXES
        self.map.madvise(mmap.MADV_DONTNEED, self.offsets[area], self.sizes[area])


def _arenas(state: Any) -> list[Any]:
    regions = [state.region[number] for number in range(UM_REGIONS)]
    indexes = [state.index[number] for number in range(UM_INDEXES)]
    return [*regions, *indexes, state.cow, state.cow_map, state.scratch]


class NativeGroupState:
    """One group's replicated state (api.GroupState). `cdata` is the um_state."""

    def __init__(self, limits: Limits | None, memory: _Memory | None = None, state: Any = None) -> None:
        """An empty state with these limits; or one over memory that was filled from an image, which has its own."""
        if memory is None:
            assert limits is not None
            memory = _Memory(limits)
        self._memory = memory
        self.cdata: Any = ffi.new("um_state *") if state is None else state
        self._memory.attach(self.cdata)
        if limits is not None:
            limits_c = ffi.new("um_limits *")
            ffi.buffer(limits_c)[:] = encode_limits(limits)
            lib.um_state_init(self.cdata, limits_c)
        self._applied: Any = ffi.new("um_applied *")
        self._applied_view = memoryview(ffi.buffer(self._applied))
        self._room(64, 1024)
        self._image_left = -1
        self._job_open = False
        self._stretches: Any = ffi.new("um_stretch[]", UM_REGIONS + UM_INDEXES)

    def _room(self, summaries: int, verdicts: int) -> None:
        self._summaries: Any = ffi.new("um_summary[]", summaries)
        self._summaries_view = memoryview(ffi.buffer(self._summaries))
        self._verdicts: Any = ffi.new("uint8_t[]", verdicts)
        self._summaries_max, self._verdicts_max = summaries, verdicts

    def apply(self, catalog: Catalog, entry: Bytes) -> NativeApplied:
        self._assert_idle()
        body_len, _, kind, batch_count, row_count = HEAD.unpack_from(entry)
        assert len(entry) >= _ENTRY_BYTES + body_len, "an entry is whole"
        if batch_count > self._summaries_max or row_count > self._verdicts_max:
            self._room(max(2 * batch_count, self._summaries_max), max(2 * row_count, self._verdicts_max))
        if kind == UM_ENTRY_LIMITS and body_len >= LIMITS.size:
            self._reserve(decode_limits(memoryview(entry)[ENTRY.size : ENTRY.size + LIMITS.size]))
        catalog_c: Any = catalog.cdata  # type: ignore[attr-defined]  # only native catalogs come here
        _um_apply(self.cdata, catalog_c, lent(entry), self._summaries, self._verdicts, self._applied)
        return NativeApplied(
            APPLIED.unpack_from(self._applied_view), self._summaries, self._summaries_view, self._verdicts
        )

    def ahead(self) -> list[tuple[int, int]]:
        self._assert_idle()
        count = _um_state_ahead(self.cdata, self._stretches)
        return [(self._stretches[n].address, self._stretches[n].bytes) for n in range(count)] if count else []

    @property
    def memory(self) -> object:
        return self._memory

    def begin(self, catalog: Catalog, entries: Sequence[Bytes]) -> NativeJob:
        self._assert_idle()

        def ended() -> None:
            self._job_open = False

        job = NativeJob(self, catalog, entries, ended)
        self._job_open = True
        return job

    def _assert_idle(self) -> None:
        assert not self._job_open, "entries are being applied: finish the job before"

    def _reserve(self, limits: Limits) -> None:
        """Move into a larger mapping if these limits need one."""
        old, state = self._memory, self.cdata
        counts = [min(count, UM_NONE - 1) for count in limits.records_max]
        if all(count * _RECORD_BYTES[region] <= old.sizes[region] for region, count in enumerate(counts)):
            return
        kept = [size // _RECORD_BYTES[region] for region, size in enumerate(old.sizes[:UM_REGIONS])]
        memory = _Memory(replace(limits, records_max=tuple(map(max, counts, kept))))
        for arena, source, target in zip(_arenas(state), old.offsets, memory.offsets, strict=True):
            memory.view[target : target + arena.used] = old.view[source : source + arena.used]
        self._memory = memory
        memory.attach(state)
        lib.um_state_untouched(state)

    # ---- reading ----

    def _region(self, region: int) -> memoryview:
        offset = self._memory.offsets[region]
        return self._memory.view[offset : offset + int(self.cdata.region[region].used)]

    def meta(self) -> Meta:
        return Meta._make(META.unpack_from(self._region(UM_R_META))[1:_META_FIELDS])

    def limits(self) -> Limits:
        at = _META_FIELDS * 8
        return decode_limits(self._region(UM_R_META)[at : at + LIMITS.size])

    def region_counts(self) -> tuple[int, ...]:
        return tuple(int(self.cdata.region[region].used) // size for region, size in enumerate(_RECORD_BYTES))

    def memory_bytes(self) -> int:
        """What the records need, with the smallest indexes for them: a function of the state. (An index may be
        larger than that for a while, see state.c; its reservation bounds it.)"""
        records = sum(int(self.cdata.region[region].used) for region in range(UM_REGIONS))
        fingerprints = sum(UM_FPS_PAGE_BYTES * -(-int(tree.records) // UM_FPS_LEAF_RECORDS) for tree in self.cdata.fps)
        indexed = (int(self.cdata.table[index].used) for index in _TABLES)
        tables = sum(8 * max(_SLOTS_MIN, 1 << max(2 * count - 1, 0).bit_length()) for count in indexed)
        return records + fingerprints + tables

    def glance(self, newest: Catalog, catalog: Catalog, data: Bytes) -> bytes | None:
        self._assert_idle()
        return glance(self.cdata, newest, catalog, data)

    def query(self, catalog: Catalog, spec: QuerySpec, groups_max: int, group: int = 0) -> Query:
        self._assert_idle()
        return begin_query(self.cdata, catalog, spec, groups_max, group)

    def events(
        self,
        account: int | bytes,
        since: int,
        until: int,
        after_seq: int,
        end_seq: int,
        metric: int | None,
        group: int = 0,
    ) -> EventScan:
        self._assert_idle()
        return begin_events(self.cdata, account, since, until, after_seq, end_seq, metric, group)

    def alerts(self, since: int, account: int | bytes | None, limit: int) -> list[Alert]:
        self._assert_idle()
        found: list[Alert] = []
        records = self._region(UM_R_ALERTS)
        first = max(since, 0)  # the alert with number n is record n - 1
        places: Iterable[int] = range(first, len(records) // ALERT.size)
        if isinstance(account, int):  # one column decides: no need to take every record apart
            owners = records.cast("Q")[first * ALERT.size // 8 + 1 :: ALERT.size // 8].tolist()
            places = (first + place for place, owner in enumerate(owners) if owner == account)
        for place in places:
            if len(found) >= limit:
                break
            number, owner, metric, slot, text, _, value, stamp_ns, period_start, seq = ALERT.unpack_from(
                records, place * ALERT.size
            )
            who = self._account(owner) if text else owner
            if account is None or who == account:
                found.append(Alert(number, who, metric, slot, value, stamp_ns, period_start, seq))
        return found

    def _account(self, number: int) -> bytes:
        heap_off, _, size, _ = ACCOUNT.unpack_from(self._region(UM_R_ACCOUNTS), number * ACCOUNT.size)
        return bytes(self._region(UM_R_HEAP)[heap_off : heap_off + size])

    def digest(self) -> int:
        return int(lib.um_state_digest(self.cdata))

    def check(self, catalog: Catalog) -> int:
        catalog_c: Any = catalog.cdata  # type: ignore[attr-defined]
        return int(lib.um_state_check(self.cdata, catalog_c))

    def region_bytes(self, region: int) -> bytes:
        """A copy of what a region has in use: for tests and inspection."""
        return bytes(self._region(region))

    def flip(self, region: int, byte: int, bit: int) -> None:
        """A hook for tests of divergence: what a broken memory cell does. The indexes do not notice."""
        assert 0 <= byte < int(self.cdata.region[region].used)
        self._region(region)[byte] ^= 1 << bit

    # ---- checkpoint ----

    def checkpoint_begin(self) -> int:
        self._assert_idle()
        assert self._image_left < 0, "one checkpoint at a time"
        self._image_left = int(lib.um_ckpt_begin(self.cdata))
        return self._image_left

    def checkpoint_read(self, out: memoryview) -> int:
        self._assert_idle()
        assert self._image_left >= 0, "no checkpoint has begun"
        produced = int(lib.um_ckpt_read(self.cdata, ffi.from_buffer(out), len(out)))
        assert produced == min(len(out), self._image_left), "the image is as long as begin said"
        self._image_left -= produced
        return produced

    def checkpoint_end(self) -> None:
        self._assert_idle()
        if self.cdata.cow.used:
            self._memory.forget_saved_chunks()
        self._memory.forget_left_tables(self.cdata)  # here, as it is done now and then
        lib.um_state_untouched(self.cdata)
        lib.um_ckpt_end(self.cdata)
        self._image_left = -1


class NativeStateLoader:
    """Reads a checkpoint image (api.StateLoader). The limits that size the memory are in the image itself, in
    META right behind the header, so the first bytes are gathered before there is a state."""

    def __init__(self, image_bytes: int) -> None:
        self._image_bytes = image_bytes
        self._fed = 0
        self._first: bytearray | None = bytearray()
        self._memory: _Memory | None = None
        self._state: Any = ffi.new("um_state *")

    def feed(self, data: Bytes) -> None:
        if self._first is not None:
            self._first += data
            if len(self._first) < _IMAGE_HEAD.size + META.size:
                return
            data, self._first = self._first, None
            self._make(data)
        if lib.um_ckpt_load(self._state, self._fed, ffi.from_buffer(data), len(data)):
            raise ValueError("not a checkpoint image")
        self._fed += len(data)

    def _make(self, first: Bytes) -> None:
        used = _IMAGE_HEAD.unpack_from(first)
        if _IMAGE_HEAD.size + sum(used) != self._image_bytes:
            raise ValueError("a checkpoint image of another length")
        at = _IMAGE_HEAD.size + _META_FIELDS * 8
        limits = decode_limits(memoryview(first)[at : at + LIMITS.size])
        counts = [
            max(limits.records_max[region], used[region] // _RECORD_BYTES[region]) for region in range(UM_REGIONS)
        ]
        counts[UM_R_SKIPS] += 1  # if the limit was lowered below what is in use, the last run still has a place
        try:
            self._memory = _Memory(replace(limits, records_max=tuple(counts)))
        except (OSError, OverflowError, ValueError) as error:
            raise ValueError(f"the image's limits cannot be met: {error}") from error
        self._memory.attach(self._state)

    def finish(self) -> NativeGroupState:
        if self._memory is None or self._fed != self._image_bytes:
            raise ValueError("the checkpoint image ends early")
        lib.um_state_reindex(self._state)
        return NativeGroupState(None, self._memory, self._state)


def period_bounds(period_type: int, billing_day: int, timestamp_ns: int) -> tuple[int, int]:
    start, end = ffi.new("int64_t *"), ffi.new("int64_t *")
    lib.um_period_bounds(period_type, billing_day, timestamp_ns, start, end)
    return int(start[0]), int(end[0])
