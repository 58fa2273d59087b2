"""The real disk keeps the disk's claims, with and without O_DIRECT; and those only a real one can break."""

from __future__ import annotations

import asyncio
import mmap
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.disk_conformance import BLOCK, Bench, Completion, DiskConformance, Heard, block
from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.core.inputs import DiskError, FileInfo, ReadDone, WriteDone
from unimeter.io.real import disk
from unimeter.io.real import disk as real_disk
from unimeter.io.real._sysio import ffi, lib
from unimeter.io.real.disk import DataDirectoryError, DataDirectoryLocked, RealDisk

IDLE_SECONDS_MAX = 30


class RealHarness:
    def __init__(self, directory: Path, *, direct: bool) -> None:
        self.directory = directory
        self.direct = direct
        self.loop = asyncio.new_event_loop()
        self.disk: RealDisk | None = None
        self.heard = Heard()

    def make_disk(self) -> RealDisk:
        self.disk = RealDisk(self.directory, self.loop, direct=self.direct)
        self.disk.start(self._completed, self.heard.presume)
        return self.disk

    def _completed(self, completion: Completion) -> None:
        self.heard.completed(completion)
        self.loop.stop()

    def run_until_idle(self) -> list[Completion]:
        assert self.disk is not None
        late = self.loop.call_later(IDLE_SECONDS_MAX, self.loop.stop)
        while self.disk.pending_count:
            self.loop.run_forever()  # until a completion, or the time is up
            assert late.when() > self.loop.time(), "the disk did not complete what it was given"
        late.cancel()
        return self.heard.take_done()

    def crash_and_reopen(self) -> RealDisk:
        self.close()
        return self.make_disk()

    def close(self) -> None:
        if self.disk is not None:
            self.disk.close()
            self.disk = None


@pytest.fixture(params=["direct", "buffered"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealHarness]:
    made = RealHarness(tmp_path / "data", direct=request.param == "direct")
    yield made
    made.close()
    made.loop.close()


@pytest.fixture
def bench(harness: RealHarness) -> Bench:
    return Bench(harness)


class TestRealDisk(DiskConformance):
    @pytest.fixture(params=["direct", "buffered"])
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealHarness]:
        made = RealHarness(tmp_path / "data", direct=request.param == "direct")
        yield made
        made.close()
        made.loop.close()


def test_created_file_has_its_space_allocated(bench: Bench, harness: RealHarness) -> None:
    bench.ok(Create, "journal/a", 1 << 20)
    assert (harness.directory / "journal/a").stat().st_blocks * 512 >= 1 << 20


def test_second_opener_is_refused_and_told_the_process(harness: RealHarness) -> None:
    harness.make_disk()
    with pytest.raises(DataDirectoryLocked, match=f"process {os.getpid()}"):
        RealDisk(harness.directory, harness.loop)


def test_directory_is_free_again_after_its_process_was_killed(harness: RealHarness) -> None:
    program = (
        "import asyncio, sys, pathlib\n"
        "from unimeter.io.real.disk import RealDisk\n"
        "disk = RealDisk(pathlib.Path(sys.argv[1]), asyncio.new_event_loop())\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(harness.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(DataDirectoryLocked, match=f"process {child.pid}"):
            harness.make_disk()
        child.kill()
    harness.make_disk()


def test_lock_is_not_among_the_files_and_cannot_be_named(bench: Bench, harness: RealHarness) -> None:
    assert (harness.directory / real_disk.LOCK_NAME).exists()
    assert bench.disk.files() == ()
    with pytest.raises(ValueError, match="reserved"):
        bench.disk.submit(Delete(1, real_disk.LOCK_NAME))


def test_symbolic_link_in_the_directory_is_refused_rather_than_not_seen(bench: Bench, harness: RealHarness) -> None:
    (harness.directory / "journal").symlink_to("/tmp")
    with pytest.raises(DataDirectoryError, match="journal"):
        bench.disk.files()


def test_directory_that_cannot_be_made_is_an_error_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataDirectoryError, match="Not a directory"):
        RealDisk(tmp_path / "file" / "data", asyncio.new_event_loop())


def test_refused_operation_is_failed_and_says_why(bench: Bench, harness: RealHarness) -> None:
    """RLIMIT_FSIZE stands in for a disk that says no: an error, but not a full disk."""
    bench.ok(Create, "a", BLOCK)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 * BLOCK, hard))
    try:
        done = bench.one(Create, "big", 16 * BLOCK)
        assert done == WriteDone(done.op, DiskError.FAILED)
        done = bench.one(Write, "a", 8 * BLOCK, block(1))
        assert done == WriteDone(done.op, DiskError.FAILED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert harness.disk is not None
    assert harness.disk.last_error == "write a: File too large"
    assert harness.disk.figures.failed == 2
    assert [info.name for info in bench.disk.files()] == ["a"]


@pytest.fixture
def tiny_directory(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    mounted = tmp_path / "tiny"
    mounted.mkdir()
    try:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mounted)], capture_output=True, check=False
        )
    except OSError as error:
        pytest.skip(f"no way to mount a small file system: {error}")
    if made.returncode:
        pytest.skip(f"may not mount a small file system here: {made.stderr.decode().strip()}")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_full_disk_is_no_space_and_leaves_nothing_behind_and_ends(tiny_directory: Path) -> None:
    harness = RealHarness(tiny_directory, direct=True)
    try:
        bench = Bench(harness)
        bench.ok(Create, "a", 100 * BLOCK)
        done = bench.one(Create, "b", 200 * BLOCK)
        assert done == WriteDone(done.op, DiskError.NO_SPACE)
        assert bench.disk.files() == (FileInfo("a", 100 * BLOCK),)
        done = bench.one(Write, "a", 100 * BLOCK, block(1, 200))
        assert done == WriteDone(done.op, DiskError.NO_SPACE)
        assert bench.disk.files() == (FileInfo("a", 100 * BLOCK),)
        bench.ok(Write, "a", 0, block(7))  # what has its space is not touched by a full disk
        bench.ok(Create, "c", 100 * BLOCK)  # and nothing was left allocated
        assert bench.read("a", 0, BLOCK) == block(7)
        bench.ok(Delete, "a")
        bench.ok(Create, "b", 100 * BLOCK)
        assert harness.disk is not None
        assert harness.disk.figures.no_space == 2
    finally:
        harness.close()
        harness.loop.close()


def test_reads_do_not_wait_for_the_bulk_lane(bench: Bench, harness: RealHarness) -> None:
    """It has a write to do that takes a hundred times as long as these reads."""
    large = bytes(64 << 20)
    bench.ok(Create, "a", BLOCK)
    bench.ok(Create, "large", len(large))
    write = bench.submit(Write, "large", 0, large, bulk=True)
    reads = [bench.submit(Read, "a", 0, BLOCK) for _ in range(3)]
    assert [completion.op for completion in harness.run_until_idle()] == [*reads, write]


def test_lone_writes_are_the_lanes_from_a_slow_write_until_many_were_quick(
    bench: Bench, harness: RealHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is slow is said here, and not by the disk."""
    bench.ok(Create, "a", BLOCK)
    assert harness.disk is not None
    figures = harness.disk.figures

    def at_once(count: int, slow: bool) -> int:
        """How many of so many lone writes were done in the loop's own thread."""
        monkeypatch.setattr(disk, "LONE_SLOW_NS", -1 if slow else 10**15)
        before = figures.lone_writes
        for _ in range(count):
            bench.ok(Write, "a", 0, block(1), lone=True)
        return figures.lone_writes - before

    assert at_once(5, slow=False) == 5
    assert at_once(1, slow=True) == 1, "that it is slow is not known before"
    assert at_once(10, slow=True) == 0
    assert at_once(disk.LONE_PAUSE_WRITES - 1, slow=False) == 0
    assert at_once(1, slow=True) == 0, "it begins anew"
    assert at_once(disk.LONE_PAUSE_WRITES, slow=False) == 0
    assert at_once(3, slow=False) == 3


def test_journal_writes_from_aligned_memory_need_no_thread_and_keep_their_order(
    bench: Bench, harness: RealHarness
) -> None:
    """Where the disk can: the content, the order and the errors are the same where it can't."""
    assert harness.disk is not None
    prng = Random(7)
    bench.ok(Create, "a", 64 * BLOCK)
    bench.ok(Write, "a", 0, block(0, 64))
    model = bytearray(64 * BLOCK)
    for _ in range(200):
        ops = []
        for _ in range(prng.choice((1, 1, 1, 2, 5))):
            at, count = prng.randrange(64), prng.choice((1, 2, 8))
            memory = mmap.mmap(-1, count * BLOCK)
            memory[:] = prng.randbytes(count * BLOCK)
            model[at * BLOCK : (at + count) * BLOCK] = memory[:]
            ops.append(bench.submit(Write, "a", at * BLOCK, memoryview(memory), lone=prng.random() < 0.2))
        assert [(done.op, done.error) for done in harness.run_until_idle()] == [(op, None) for op in ops]
        assert bench.read("a", 0, 128 * BLOCK) == model
    assert bool(harness.disk.figures.told_writes) == harness.disk.figures.direct
    missing = bench.one(Write, "missing", 0, memoryview(mmap.mmap(-1, BLOCK)))
    assert missing == WriteDone(missing.op, DiskError.FAILED)


def test_more_operations_than_the_ring_holds_wait_their_turn(bench: Bench, harness: RealHarness) -> None:
    bench.ok(Create, "a", BLOCK)
    ops = [bench.submit(Read, "a", 0, BLOCK) for _ in range(3 * lib.UM_SYS_DEPTH)]
    done = harness.run_until_idle()
    assert [completion.op for completion in done] == ops
    assert all(isinstance(c, ReadDone) and c.data == block(0) for c in done)


def test_figures_count_what_was_done(bench: Bench, harness: RealHarness) -> None:
    bench.ok(Create, "a", 2 * BLOCK)
    bench.ok(Write, "a", 0, block(1, 2))
    bench.ok(Write, "a", 0, block(1), bulk=True)
    bench.read("a")
    bench.ok(Delete, "a")
    assert harness.disk is not None
    figures = harness.disk.figures
    assert (figures.writes, figures.write_bytes, figures.reads, figures.read_bytes) == (2, 3 * BLOCK, 1, 2 * BLOCK)
    assert (figures.creates, figures.deletes, figures.failed) == (1, 1, 0)
    assert sum(figures.journal_write_buckets) == 1
    assert figures.journal_write_ns > 0


def test_probe_gives_one_latency_per_write(tmp_path: Path) -> None:
    samples = ffi.new("uint64_t[]", 10)
    assert lib.um_sys_probe_write(os.fsencode(tmp_path / "probe"), BLOCK, 10, samples) >= 0
    assert all(sample > 0 for sample in samples)
    assert list(tmp_path.iterdir()) == []
