"""Reading a group's log back from the journal: what the sparse index says is behind every entry, and what is found there
is the log as it is today."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core_journal import KERNELS, TINY, Written, drive, entry, hard
from unimeter.core.flow import Corrupt
from unimeter.core.journal import Position, segment_file
from unimeter.core.log_marks import LogMarks
from unimeter.core.log_read import read_entries
from unimeter.core.raft.messages import Entry

GROUPS = 3
Log = list[tuple[int, bytes]]  # (term, data) of index 1, 2, ...


class Model:
    """Groups whose logs grow and lose suffixes, in one journal."""

    def __init__(self) -> None:
        self.written = Written()
        self.logs: list[Log] = [[] for _ in range(GROUPS)]
        self.unsaved = [1] * GROUPS  # first index that is not in the journal
        self.records: list[tuple[Position, list[tuple[int, int]]]] = []
        self.marks = LogMarks(TINY.log_mark_bytes, GROUPS, self.written.start())

    def grow(self, group: int, count: int, size: int) -> None:
        log = self.logs[group]
        for _ in range(count):
            term = log[-1][0] if log else 1
            log.append((term, entry(group, len(log) + 1, term, bytes([len(log) % 251]) * size)))

    def supersede(self, group: int, keep: int, size: int) -> None:
        """A new leader whose log ends at `keep` begins its term."""
        log = self.logs[group]
        keep = min(keep, len(log))
        term = max([1, *(t for t, _ in log)]) + 1
        del log[keep:]
        log.append((term, entry(group, keep + 1, term, b"n" * size)))
        self.unsaved[group] = min(self.unsaved[group], keep + 1)

    def save(self) -> None:
        """One record with all that is new, as far as it fits."""
        room = TINY.entry_bytes_max
        pieces: list[bytes] = []
        ends: list[tuple[int, int]] = []
        for group, log in enumerate(self.logs):
            first = self.unsaved[group]
            while self.unsaved[group] <= len(log) and room > 0:
                data = log[self.unsaved[group] - 1][1]
                pieces.append(data)
                room -= len(data) + 8
                self.unsaved[group] += 1
            if self.unsaved[group] > first:
                ends.append((group, self.unsaved[group] - 1))
                pieces.append(hard(group, 1, 0, 0))
        if pieces:
            began = self.written.append(pieces)
            self.marks.record(began, ends)
            self.records.append((began, ends))

    def restart(self, at: int, dumped: bytes) -> None:
        """As recovery does it: from the marks of a checkpoint, replaying from record `at` on."""
        began = self.records[at][0] if at < len(self.records) else self.written.journal.position
        self.marks = LogMarks(TINY.log_mark_bytes, GROUPS, self.written.start())
        self.marks.load(dumped)
        self.marks.rewind(began)
        for place, ends in self.records[at:]:
            self.marks.record(place, ends)
        self.marks.settle(first - 1 for first in self.unsaved)

    def read(self, group: int, first: int, at: Position, bytes_max: int) -> tuple[list[Entry], Position]:
        def term_of(index: int) -> int:
            log = self.logs[group]
            return log[index - 1][0] if index <= len(log) else -1

        end = self.written.journal.position.seq
        flow = read_entries(KERNELS, TINY, at, end, group, first, bytes_max, term_of)
        return drive(flow, self.written.files)

    def check(self, bytes_max: int) -> None:
        """Every entry is found from where the marks say; going on from there finds the rest."""
        for group, log in enumerate(self.logs):
            saved = self.unsaved[group] - 1
            for first in {1, saved // 2, saved - 1, saved}:
                if not 1 <= first <= saved:
                    continue
                at, wanted = self.marks.find(group, first), first
                while wanted <= saved:
                    found, at = self.read(group, wanted, at, bytes_max)
                    assert found, f"entry {wanted} of group {group} was not found"
                    for one in found:
                        assert (one.index, one.term, bytes(one.data)) == (wanted, *log[wanted - 1])
                        wanted += 1


step = st.one_of(
    st.tuples(st.just("grow"), st.integers(0, GROUPS - 1), st.integers(1, 6), st.sampled_from([0, 100, 900, 6000])),
    st.tuples(st.just("supersede"), st.integers(0, GROUPS - 1), st.integers(0, 12), st.sampled_from([0, 700])),
    st.tuples(st.just("save"), st.just(0), st.just(0), st.just(0)),
    st.tuples(st.just("dump"), st.just(0), st.just(0), st.just(0)),
)


@given(st.lists(step, min_size=4, max_size=40), st.sampled_from([1, 3000, 1 << 20]), st.integers(0, 3))
@settings(max_examples=120, deadline=None)
def test_every_entry_of_the_present_log_is_found_before_and_after_a_restart(
    steps: list[tuple[str, int, int, int]], bytes_max: int, earlier: int
) -> None:
    model = Model()
    dumped, at = model.marks.dump(), 0
    for what, group, count, size in steps:
        if what == "grow":
            model.grow(group, count, size)
            model.save()
        elif what == "supersede":
            model.supersede(group, count, size)
        elif what == "save":
            model.save()
        else:
            dumped, at = model.marks.dump(), len(model.records)
    model.check(bytes_max)
    model.restart(max(0, at - earlier), dumped)
    model.check(bytes_max)
    model.grow(0, 5, 900)  # and it goes on
    model.save()
    model.supersede(1, 2, 0)
    model.save()
    model.check(bytes_max)


def grown(count: int, size: int) -> Model:
    model = Model()
    for _ in range(count):
        model.grow(0, 1, size)
        model.save()
    return model


def test_a_record_longer_than_one_read_is_read_whole() -> None:
    model = grown(6, 10_000)
    assert TINY.scan_read_bytes < 10_000
    model.check(1)


def test_reading_goes_on_in_the_next_segment() -> None:
    model = grown(40, 3000)
    assert model.written.journal.position.segment > 2
    found, _ = model.read(0, 1, model.marks.start(), 1 << 30)
    assert [one.index for one in found] == list(range(1, 41))


def test_a_superseded_entry_is_never_handed_out() -> None:
    model = Model()
    model.grow(0, 5, 10)
    model.save()
    model.supersede(0, 2, 0)
    model.grow(0, 4, 10)
    model.save()
    found, _ = model.read(0, 1, model.marks.start(), 1 << 30)
    assert [one.term for one in found] == [1, 1, 2, 2, 2, 2, 2]


def test_rot_is_named_and_nothing_is_handed_out_for_it() -> None:
    model = grown(10, 500)
    began = model.written.began[4]
    model.written.files[segment_file(began.segment)][began.offset + 70] ^= 1
    with pytest.raises(Corrupt, match=f"offset {began.offset}"):
        model.read(0, 1, model.marks.start(), 1 << 30)


@pytest.mark.parametrize("to_the_block", [False, True])
def test_what_a_torn_write_left_behind_the_last_record_of_a_segment_is_no_rot(to_the_block: bool) -> None:
    """A long record was torn and cut off; a short one took its place, and the next did not fit: the remains stay."""
    model = Model()
    while model.written.journal.room_bytes() > 12_000:
        model.grow(0, 1, 3000)
        model.save()
    free = -model.written.journal.position.offset % 4096
    model.grow(0, 1, free - 64 - 64 - 64 if to_the_block else 200)  # headers of the record, the entry, the hard state
    model.save()
    position = model.written.journal.position
    assert (position.offset % 4096 == 0) == to_the_block
    begin = -(-position.offset // 4096) * 4096
    model.written.files[segment_file(position.segment)][begin : begin + 4096] = b"\x5a" * 4096
    model.grow(0, 1, 11_900)
    model.save()
    assert model.written.journal.position.segment == position.segment + 1
    model.grow(0, 1, 100)
    model.save()
    model.check(1 << 20)
