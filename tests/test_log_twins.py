"""What a log of several groups, with leaders that change, asks of both kernels: rows of one group out of mixed records,
rows of entries that were replaced, entries of every kind, and states that can be told apart when a bit of one flips."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_twins import examples, roomy
from tests.twin_strategies import BASE, HOUR, I64_MAX, Event, Request, v2_batch, v2_frame
from tests.twins import NATIVE, REFERENCE, Twins, both, same
from unimeter.config import BLOCK_BYTES
from unimeter.kernels import layout as lay
from unimeter.kernels.api import QuerySpec
from unimeter.kernels.native._um import ffi

GROUP = 3
RECORD = lay.UM_RECORD_ENTRIES
KINDS = {name: value for name, value in vars(lay).items() if name.startswith("UM_ENTRY_")}


class Group:
    """One group's state under both kernels; records in which its entries stand among others."""

    def __init__(self) -> None:
        self.twins = Twins(roomy([]))
        self.index = 0

    def entry(self, values: list[int], first_seq: int, group: int = GROUP, account: int = 1) -> bytes:
        events = [Event(account, b"plain", value, BASE + value) for value in values]
        request = Request(1, v2_frame(2, 1, v2_batch(events)))
        self.index += 1

        def one(twin: int) -> bytes:
            kernels, intake = self.twins.kernels[twin], self.twins.kernels[twin].intake(group, 1 << 20, 100)
            frames = kernels.frame_scan(request.frame, 1 << 20)
            intake.take(self.twins.catalogs[twin], request.frame, frames, 0, 1)
            return bytes(intake.seal(group, self.index, 1, BASE + self.index, first_seq))

        entry: bytes = self.twins.pair(one)
        return entry

    def record(self, *entries: bytes) -> bytes:
        def one(twin: int) -> bytes:
            out = bytearray(sum(map(len, entries)) + 256)
            length, _ = self.twins.kernels[twin].record(memoryview(out), entries, RECORD, 1, 0, BASE)
            return bytes(out[:length])

        record: bytes = self.twins.pair(one)
        return record

    def total(self, stripes: list[tuple[Any, ...]]) -> int:
        """The sum over a range that begins inside of an hour, so that the journal is read; stripes are arguments to
        scan()."""
        spec = QuerySpec(1, 7, BASE + 1, BASE + HOUR // 2, (), ())

        def one(twin: int) -> int:
            query = self.twins.states[twin].query(self.twins.catalogs[twin], spec, 10, group=GROUP)
            assert query.needs_scan
            for stripe in stripes:
                query.scan(*stripe)
            return query.rows()[0].sum

        total: int = self.twins.pair(one)
        return total

    def events(self, stripes: list[tuple[Any, ...]]) -> list[int]:
        def one(twin: int) -> list[int]:
            scan = self.twins.states[twin].events(1, 0, I64_MAX, 0, 100, None, group=GROUP)
            return [event.value for records, *rows in stripes for event in scan.scan(records, 100, *rows)]

        values: list[int] = self.twins.pair(one)
        return values


def test_rows_of_a_replaced_entry_are_left_out_by_their_record() -> None:
    group = Group()
    stands = group.entry([0, 1, 2], 1)
    replaced = group.entry([100, 200, 300], 4)
    anew = group.entry([3, 4], 4)
    others = group.entry([1000], 1, group=0)
    for entry in (stands, anew):
        group.twins.apply(entry)
    old, new = group.record(others, stands, replaced), group.record(anew, others)
    assert group.total([(old, 0, 4), (new,)]) == 1 + 2 + 3 + 4
    assert group.total([(old, 1, 4), (new, 4)]) == 1 + 2 + 3 + 4
    assert group.total([(old, 2, 3), (new, 5, 6)]) == 1 + 4
    assert group.events([(old, 0, 4), (new,)]) == [0, 1, 2, 3, 4]
    assert group.events([(old, 1, 4), (new, 4)]) == [0, 1, 2, 3, 4]
    assert group.events([(old, 4, 4), (new, 5, 6)]) == [4]


@examples(60)
@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_any_two_row_ranges_are_cut_out_alike(first: int, end: int, later_first: int, later_end: int) -> None:
    group = Group()
    entries = [group.entry([0, 1, 2], 1), group.entry([3, 4, 5, 6], 4)]
    for entry in entries:
        group.twins.apply(entry)
    whole = group.record(*entries)
    chosen = [n for n in range(1, 8) if first <= n < end] + [n for n in range(1, 8) if later_first <= n < later_end]
    stripes: list[tuple[Any, ...]] = [(whole, first, end), (whole, later_first, later_end)]
    assert group.total(stripes) == sum(n - 1 for n in chosen)
    assert group.events(stripes) == [n - 1 for n in chosen]


@pytest.mark.parametrize("name", [name for name in KINDS if name not in {"UM_ENTRY_BATCHES", "UM_ENTRY_LIMITS"}])
def test_an_entry_without_rows_moves_nothing_but_the_place_in_the_log(name: str) -> None:
    group = Group()
    twins = group.twins
    twins.apply(group.entry([1, 2], 1))
    before = twins.pair(lambda twin: twins.states[twin].meta())
    counts = twins.pair(lambda twin: twins.states[twin].region_counts())
    for first_seq in (1, 3, 99):
        place = (KINDS[name], GROUP, 7, 5, BASE + 10, first_seq, b"any bytes")
        entry = twins.pair(lambda twin, place=place: twins.kernels[twin].entry(*place))
        assert twins.pair(lambda twin, entry=entry: twins.kernels[twin].entry_verify(entry))
        [native, _] = twins.apply(entry)
        assert (native.batch_count, native.row_count, native.min_ts > native.max_ts) == (0, 0, True)
        after = twins.pair(lambda twin: twins.states[twin].meta())
        assert after == before._replace(applied_index=7, applied_term=5, stamp_ns=BASE + 10)
        assert twins.pair(lambda twin: twins.states[twin].region_counts()) == counts


def test_kinds_that_there_are_not_are_no_entries() -> None:
    twins = Twins(roomy([]))
    entry = twins.pair(lambda twin: twins.kernels[twin].entry(max(KINDS.values()) + 1, 0, 1, 1, BASE, 1, b""))
    assert twins.pair(lambda twin: twins.kernels[twin].entry_verify(entry)) is False


def test_a_flipped_bit_shows_in_the_digests() -> None:
    group = Group()
    twins = group.twins
    twins.apply(group.entry([1, 2], 1))
    digest = twins.pair(lambda twin: twins.states[twin].digest())
    count_at = lay.LAYOUTS["um_bucket"][1]["count"]
    for twin in (NATIVE, REFERENCE):
        twins.states[twin].flip(lay.UM_R_BUCKETS, count_at, 2)
    assert twins.pair(lambda twin: twins.states[twin].digest()) != digest
    running = twins.pair(lambda twin: twins.states[twin].meta()).digest
    healthy = Group()
    for values, first_seq in (([1, 2], 1), ([3], 3)):
        entry = healthy.entry(values, first_seq)
        healthy.twins.apply(entry)
    assert twins.pair(lambda twin: twins.states[twin].meta()).digest == running
    twins.apply(entry)
    sick, well = (g.twins.pair(lambda twin, g=g: g.twins.states[twin].meta()).digest for g in (group, healthy))
    assert sick != well


def test_a_flip_back_restores_the_state() -> None:
    group = Group()
    group.twins.apply(group.entry([1, 2], 1))
    before = [state.digest() for state in group.twins.states]
    for state in group.twins.states:
        state.flip(lay.UM_R_META, 5, 3)
        state.flip(lay.UM_R_META, 5, 3)
    assert same([state.digest() for state in group.twins.states]) == before[0]


# ---- what is put together by one call ----


@given(
    st.lists(st.binary(max_size=90), max_size=4),
    st.integers(0, 40).map(lambda n: 64 * n),
    st.sampled_from([1, 64, 512, 4096]),
    st.integers(-1, 1),
)
@settings(max_examples=60, deadline=None)
def test_records_are_built_anywhere_with_zeroes_behind_them(
    bodies: list[bytes], at: int, block: int, spare: int
) -> None:
    """Into memory that is full of something else; what is around them stays. Nothing is written where there is no room."""
    kernels = both()
    entries = [kernels[NATIVE].entry(lay.UM_ENTRY_CATALOG, 3, n + 1, 2, BASE + n, 1, b) for n, b in enumerate(bodies)]
    length = -(-(lay.RECORD.size + sum(-(-len(entry) // 8) * 8 for entry in entries)) // 64) * 64
    end = -(-(at + length) // block) * block

    def record(twin: int) -> object:
        out = bytearray(b"\xa5" * (end + spare))
        try:
            said = kernels[twin].record(memoryview(out), entries, lay.UM_RECORD_ENTRIES, 7, 5, BASE, at, block)
        except ValueError:
            assert out == b"\xa5" * len(out)
            return None
        assert out[:at] == b"\xa5" * at and out[end:] == b"\xa5" * spare
        assert out[at + length : end] == bytes(end - at - length)
        return said, bytes(out[at : at + length])

    made = same([record(NATIVE), record(REFERENCE)])
    assert (made is None) == (spare < 0)
    if made is not None:
        assert same([[bytes(e) for e in k.record_entries(made[1])] for k in kernels]) == entries


@pytest.mark.parametrize("size", [1, 4095, 4096, 200_000])
def test_memory_for_the_disk_is_zeroed_and_the_nodes_begins_on_a_block(size: int) -> None:
    for kernels in both():
        memory = kernels.block_memory(size, BLOCK_BYTES)
        assert memory == bytes(size)
        memory[:] = b"x" * size
        assert kernels.block_memory(size, BLOCK_BYTES) == bytes(size), "each has its own"
    address = int(ffi.cast("uintptr_t", ffi.from_buffer(both()[NATIVE].block_memory(size, BLOCK_BYTES))))
    assert address % BLOCK_BYTES == 0


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=200))
@settings(max_examples=40, deadline=None)
def test_v2_heads_are_equal(kind: int, status: int, request_id: int, payload: bytes) -> None:
    head = same([k.v2_head(kind, status, request_id, payload) for k in both()])
    frame = same([k.response_scan(head + payload, 2, 1000)[0] for k in both()])
    assert (frame.type, frame.status, frame.request_id, frame.payload_len) == (kind, status, request_id, len(payload))
