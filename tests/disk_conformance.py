"""What every disk must do, whoever implements it: claims over `interface.Disk`, run on the real disk and on
the simulator's fake, so that the fake cannot be kinder or stricter than the real one.

To run them on an implementation, subclass `DiskConformance` in a test file and give it a `harness` fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, Protocol

import pytest

from unimeter.config import BLOCK_BYTES
from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.core.inputs import DiskError, FileInfo, ReadDone, WriteDone
from unimeter.io.interface import Disk

Completion = WriteDone | ReadDone
BLOCK = BLOCK_BYTES
ROUNDS_MAX = 5000  # a disk that is slow for a moment presumes nothing for a while


class Presumed(NamedTuple):
    """What follows from this is to be worked out."""

    event: WriteDone


class Heard:
    """What a disk says."""

    def __init__(self) -> None:
        self.told: list[Completion | Presumed] = []  # all of it, in order
        self.on_presumed: Callable[[], None] = lambda: None
        self._done: list[Completion] = []

    def completed(self, completion: Completion) -> None:
        self._done.append(completion)
        self.told.append(completion)

    def presume(self, event: WriteDone) -> None:
        self.told.append(Presumed(event))
        self.on_presumed()

    def take_done(self) -> list[Completion]:
        done, self._done = self._done, []
        return done


class DiskHarness(Protocol):
    """One data directory and how to make time pass for it."""

    heard: Heard

    def make_disk(self) -> Disk:
        """A started disk on an empty directory; `heard` hears what it says."""

    def run_until_idle(self) -> list[Completion]:
        """Let everything submitted so far complete. Returns the completions since the last call, in order."""

    def crash_and_reopen(self) -> Disk:
        """The process dies, power is lost, and a new process opens the same directory. Nothing injected besides."""


class Bench:
    """A disk under test with short words for what tests do to it."""

    def __init__(self, harness: DiskHarness) -> None:
        self.harness = harness
        self.disk = harness.make_disk()
        self.op = 0

    def submit(self, effect_of_op: type, *arguments: object, **named: object) -> int:
        self.op += 1
        self.disk.submit(effect_of_op(self.op, *arguments, **named))
        return self.op

    def one(self, effect_of_op: type, *arguments: object, **named: object) -> Completion:
        op = self.submit(effect_of_op, *arguments, **named)
        done = self.harness.run_until_idle()
        assert [completion.op for completion in done] == [op]
        return done[0]

    def ok(self, effect_of_op: type, *arguments: object, **named: object) -> None:
        assert self.one(effect_of_op, *arguments, **named).error is None

    def read(self, file: str, offset: int = 0, length: int = 64 * BLOCK) -> bytes:
        done = self.one(Read, file, offset, length)
        assert isinstance(done, ReadDone)
        assert done.error is None
        assert type(done.data) is bytes
        return done.data

    def reopen(self) -> None:
        self.disk = self.harness.crash_and_reopen()


def block(fill: int, count: int = 1) -> bytes:
    return bytes([fill]) * (BLOCK * count)


class DiskConformance:
    @pytest.fixture
    def harness(self) -> DiskHarness:
        raise NotImplementedError("subclass DiskConformance and give it a harness")

    @pytest.fixture
    def bench(self, harness: DiskHarness) -> Bench:
        return Bench(harness)

    def test_new_directory_is_empty(self, bench: Bench) -> None:
        assert bench.disk.files() == ()

    def test_created_file_is_there_with_its_size_and_reads_as_zeros(self, bench: Bench) -> None:
        bench.ok(Create, "journal/a", 3 * BLOCK)
        assert bench.disk.files() == (FileInfo("journal/a", 3 * BLOCK),)
        assert bench.read("journal/a") == bytes(3 * BLOCK)

    def test_created_empty_file_is_there_and_reads_as_nothing(self, bench: Bench) -> None:
        bench.ok(Create, "checkpoint/a", 0)
        assert bench.disk.files() == (FileInfo("checkpoint/a", 0),)
        assert bench.read("checkpoint/a") == b""

    def test_create_over_an_existing_file_leaves_only_zeros(self, bench: Bench) -> None:
        bench.ok(Create, "a", 4 * BLOCK)
        bench.ok(Write, "a", 0, block(7, 4))
        bench.ok(Create, "a", 2 * BLOCK)
        assert bench.disk.files() == (FileInfo("a", 2 * BLOCK),)
        assert bench.read("a") == bytes(2 * BLOCK)

    def test_write_changes_its_range_and_nothing_else(self, bench: Bench) -> None:
        bench.ok(Create, "a", 4 * BLOCK)
        bench.ok(Write, "a", BLOCK, block(1, 2))
        assert bench.read("a") == block(0) + block(1, 2) + block(0)

    @pytest.mark.parametrize("bulk", [False, True])
    def test_write_beyond_the_end_grows_the_file(self, bench: Bench, bulk: bool) -> None:
        bench.ok(Create, "a", BLOCK)
        bench.ok(Write, "a", BLOCK, block(2, 3), bulk=bulk)
        assert bench.disk.files() == (FileInfo("a", 4 * BLOCK),)
        assert bench.read("a") == block(0) + block(2, 3)

    def test_write_after_a_gap_leaves_zeros_in_the_gap(self, bench: Bench) -> None:
        bench.ok(Create, "a", 0)
        bench.ok(Write, "a", 2 * BLOCK, block(3))
        assert bench.read("a") == block(0, 2) + block(3)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_write_takes_any_bytes_at_any_alignment(self, bench: Bench, kind: type) -> None:
        bench.ok(Create, "a", 8 * BLOCK)
        payload = bytes(i * 7 % 251 for i in range(2 * BLOCK))
        for shift in range(3):
            backing = bytearray(shift) + payload
            data = memoryview(backing)[shift:] if kind is memoryview else kind(payload)
            bench.ok(Write, "a", shift * 2 * BLOCK, data)
        assert bench.read("a") == payload * 3 + block(0, 2)

    def test_data_given_to_a_completed_write_may_be_reused(self, bench: Bench) -> None:
        bench.ok(Create, "a", 2 * BLOCK)
        data = bytearray(block(1))
        bench.ok(Write, "a", 0, data)
        data[:] = block(9)
        bench.ok(Write, "a", BLOCK, data)
        assert bench.read("a") == block(1) + block(9)

    def test_writes_on_one_lane_complete_in_order_and_the_last_one_stays(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        ops = [bench.submit(Write, "a", 0, block(fill)) for fill in range(1, 9)]
        assert [done.op for done in bench.harness.run_until_idle()] == ops
        assert bench.read("a") == block(8)

    def test_lone_writes_keep_their_place_among_the_others(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        bench.ok(Write, "a", 0, block(1), lone=True)
        assert bench.read("a") == block(1)
        ops = [bench.submit(Write, "a", 0, block(fill), lone=fill % 2 == 0) for fill in range(2, 9)]
        assert [done.op for done in bench.harness.run_until_idle()] == ops
        assert bench.read("a") == block(8)

    def test_a_write_may_be_presumed_done_when_it_is_lone_and_the_next_thing_told_is_how_it_went(
        self, bench: Bench
    ) -> None:
        bench.ok(Create, "a", 2 * BLOCK)
        told, rounds = bench.harness.heard.told, 0
        while sum(isinstance(each, Presumed) for each in told) < 10:
            rounds += 1
            assert rounds < ROUNDS_MAX, "it is presumed of lone writes, of some of them at least"
            bench.ok(Write, "a", 0, block(rounds % 256), lone=True)
            bench.submit(Read, "a", 0, BLOCK)
            bench.submit(Write, "a", BLOCK, block(rounds % 256), bulk=True)
            bench.submit(Write, "a", BLOCK, block(rounds % 256), lone=rounds % 2 == 0)
            bench.harness.run_until_idle()
        bench.one(Write, "missing", 0, block(1), lone=True)
        for before, after in pairwise(told):
            if isinstance(before, Presumed):
                assert before.event.error is None
                assert isinstance(after, WriteDone)
                assert after.op == before.event.op

    def test_data_of_a_write_that_is_presumed_done_may_be_reused(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        for fill in range(1, 30):
            data = bytearray(block(fill))
            bench.harness.heard.on_presumed = lambda data=data: data.__setitem__(slice(None), block(0))
            bench.ok(Write, "a", 0, data, lone=True)
            assert bench.read("a") == block(fill)

    def test_everything_submitted_completes_exactly_once(self, bench: Bench) -> None:
        bench.ok(Create, "a", 64 * BLOCK)
        bench.ok(Create, "b", 0)
        ops = []
        for i in range(400):
            ops.append(bench.submit(Write, "a", i % 64 * BLOCK, block(i % 256)))
            ops.append(bench.submit(Read, "a", i % 64 * BLOCK, BLOCK))
            ops.append(bench.submit(Write, "b", i % 16 * BLOCK, block(i % 256), bulk=True))
        done = bench.harness.run_until_idle()
        assert sorted(completion.op for completion in done) == sorted(ops)
        assert all(completion.error is None for completion in done)
        assert bench.harness.run_until_idle() == []

    def test_read_is_short_only_at_the_end_of_the_file(self, bench: Bench) -> None:
        bench.ok(Create, "a", 3 * BLOCK)
        bench.ok(Write, "a", 0, block(1) + block(2) + block(3))
        assert bench.read("a", BLOCK, BLOCK) == block(2)
        assert bench.read("a", 2 * BLOCK, 5 * BLOCK) == block(3)
        assert bench.read("a", 3 * BLOCK, BLOCK) == b""
        assert bench.read("a", 100 * BLOCK, BLOCK) == b""

    def test_deleted_file_is_gone(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        bench.ok(Delete, "a")
        assert bench.disk.files() == ()
        done = bench.one(Read, "a", 0, BLOCK)
        assert done == ReadDone(done.op, b"", DiskError.FAILED)

    def test_delete_of_a_missing_file_is_fine(self, bench: Bench) -> None:
        bench.ok(Delete, "never")
        bench.ok(Delete, "journal/never")

    def test_write_to_a_missing_file_fails_and_makes_none(self, bench: Bench) -> None:
        done = bench.one(Write, "missing", 0, block(1))
        assert done == WriteDone(done.op, DiskError.FAILED)
        assert bench.disk.files() == ()

    def test_file_made_anew_has_nothing_of_the_deleted_one(self, bench: Bench) -> None:
        for fill in (1, 2):
            bench.ok(Create, "a", 2 * BLOCK)
            assert bench.read("a") == block(0, 2)
            bench.ok(Write, "a", 0, block(fill))
            assert bench.read("a") == block(fill) + block(0)
            bench.ok(Delete, "a")

    def test_read_that_was_submitted_before_a_delete_sees_the_file(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        bench.ok(Write, "a", 0, block(5))
        read_ops = {bench.submit(Read, "a", 0, BLOCK) for _ in range(20)}
        delete_op = bench.submit(Delete, "a")
        done = bench.harness.run_until_idle()
        assert {completion.op for completion in done} == read_ops | {delete_op}
        assert all(c.data == block(5) for c in done if isinstance(c, ReadDone))
        assert bench.disk.files() == ()

    def test_files_are_listed_sorted_by_name(self, bench: Bench) -> None:
        for name in ("journal/b", "z", "journal/a", "checkpoint/x"):
            bench.ok(Create, name, 0)
        assert [info.name for info in bench.disk.files()] == ["checkpoint/x", "journal/a", "journal/b", "z"]

    def test_what_was_completed_survives_a_crash(self, bench: Bench) -> None:
        bench.ok(Create, "journal/a", 2 * BLOCK)
        bench.ok(Write, "journal/a", BLOCK, block(1))
        bench.ok(Create, "checkpoint/b", 0)
        bench.ok(Write, "checkpoint/b", 0, block(2, 2), bulk=True)
        bench.ok(Create, "journal/gone", BLOCK)
        bench.ok(Delete, "journal/gone")
        bench.reopen()
        assert bench.disk.files() == (FileInfo("checkpoint/b", 2 * BLOCK), FileInfo("journal/a", 2 * BLOCK))
        assert bench.read("journal/a") == block(0) + block(1)
        assert bench.read("checkpoint/b") == block(2, 2)

    def test_overwrite_that_was_completed_survives_a_crash(self, bench: Bench) -> None:
        bench.ok(Create, "a", BLOCK)
        for fill in (1, 2, 3):
            bench.ok(Write, "a", 0, block(fill))
            bench.reopen()
            assert bench.read("a") == block(fill)

    @pytest.mark.parametrize("name", ["", "/etc/passwd", "../a", "a/../../b", "a//b", "./a", "a/", "a\0b", "n" * 200])
    def test_names_that_leave_the_directory_are_refused(self, bench: Bench, name: str) -> None:
        for effect in (
            Create(900, name, 0),
            Delete(901, name),
            Read(902, name, 0, BLOCK),
            Write(903, name, 0, block(0)),
        ):
            with pytest.raises((ValueError, AssertionError)):
                bench.disk.submit(effect)
        assert bench.harness.run_until_idle() == []
        assert bench.disk.files() == ()
