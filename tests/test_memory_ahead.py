"""Memory that is made before it is written to: what a state asks for, what the disk's memory lane makes of it, and that
nothing else comes of it. (Which stretches, byte by byte, is the matter of csrc/tests/test_memory.c.)"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import mmap
import resource
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.harness import JAN_1, SMALL, Bench, v1_event, v1_ingest, v1_metric
from tests.jobs import PATIENCE_SECONDS, in_another_thread
from tests.test_real_work import BLOCK, Desk, Work, a_desk
from tests.test_state_native import BASE, CATALOG, KERNELS, Log, image_of, row
from unimeter.config import MIB, state_limits
from unimeter.core.effects import Apply, Create, Effect, Read, Touch, Write
from unimeter.core.inputs import ApplyDone, ReadDone, WriteDone
from unimeter.io.real._sysio import lib
from unimeter.kernels import layout as lay
from unimeter.kernels import load
from unimeter.kernels.native.state import NativeGroupState

PAGE = mmap.PAGESIZE
HUGE_PAGE = 2 * MIB
ROOMY = state_limits(512 * MIB)  # a generation of fingerprints takes 25 MiB
ENTRY_ROWS = 4000
MANY = 70_000  # so many fingerprints take more than the MiB from which a region is looked after


# ---- what a state asks for ----


def remember(log: Log, count: int, first: int = 0) -> None:
    """So many v1 events, all different."""
    for begin in range(first, first + count, ENTRY_ROWS):
        rows = [row(1 + n % 100, n, BASE + n) for n in range(begin, min(begin + ENTRY_ROWS, first + count))]
        assert log.batch(rows, lay.UM_BATCH_V1).stored == len(rows)


def areas(state: NativeGroupState) -> list[tuple[int, int]]:
    """(first, past) addresses of regions and indexes."""
    memory = state._memory
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory.map))
    places = zip(memory.offsets, memory.sizes, strict=True)
    return [(base + at, base + at + size) for at, size in places][: lay.UM_REGIONS + lay.UM_INDEXES]


def assert_inside(state: NativeGroupState, stretches: list[tuple[int, int]]) -> None:
    for address, size in stretches:
        assert address % PAGE == 0 and size % PAGE == 0 and size > 0
        assert [1 for first, past in areas(state) if first <= address and address + size <= past] == [1]


def native(log: Log) -> NativeGroupState:
    assert isinstance(log.state, NativeGroupState)
    return log.state


def test_a_small_state_asks_for_nothing() -> None:
    log = Log(ROOMY)
    assert log.state.ahead() == []
    remember(log, 500)
    assert log.state.ahead() == []


def test_a_state_with_little_room_asks_for_nothing_however_full() -> None:
    log = Log(state_limits(64 * MIB))
    remember(log, MANY)
    assert log.state.ahead() == []


def test_a_grown_state_asks_for_memory_of_its_own_and_once() -> None:
    log = Log(ROOMY)
    state = native(log)
    remember(log, MANY)
    stretches = state.ahead()
    assert_inside(state, stretches)
    (fingerprints,) = [s for s in stretches if areas(state)[lay.UM_R_FPS0][0] <= s[0] < areas(state)[lay.UM_R_FPS0][1]]
    end = areas(state)[lay.UM_R_FPS0][0] + MANY * lay.FP.size
    assert fingerprints[0] == end // PAGE * PAGE and sum(fingerprints) >= end + 4 * MIB
    assert state.ahead() == []


def test_a_state_that_grows_in_small_steps_asks_for_whole_huge_pages_now_and_then() -> None:
    """Where a huge page begins within an area differs from process to process: a step may cross into one or not."""
    log = Log(ROOMY)
    state = native(log)
    remember(log, MANY)
    told = state.ahead()
    for step in range(8):
        before = [int(state.cdata.region[region].used) for region in range(lay.UM_REGIONS)]
        remember(log, 1000, MANY + 1000 * step)
        fresh = state.ahead()
        assert_inside(state, fresh)
        for at, size in fresh:
            (region,) = [n for n, (first, past) in enumerate(areas(state)) if first <= at < past]
            assert size == HUGE_PAGE and region < lay.UM_REGIONS, "no table was outgrown"
            assert int(state.cdata.region[region].used) > before[region], "it has not grown"
        told += fresh
    assert len(told) <= 2, "128 KB of fingerprints cross into one huge page at most"
    asked = sorted(told)
    assert all(at + size <= after for (at, size), (after, _) in itertools.pairwise(asked)), "told twice"


def test_every_byte_of_new_memory_was_asked_for_before_it_is_written() -> None:
    """Asked before every entry: what the next one adds to a region that is looked after lies in what was told."""
    log = Log(ROOMY)
    state = native(log)
    asked: list[tuple[int, int]] = []
    for first in range(0, 4 * MANY, ENTRY_ROWS):
        fresh = state.ahead()
        assert_inside(state, fresh)
        assert not [1 for a, n in fresh for b, m in asked if a < b + m and b < a + n], "told twice"
        asked += fresh
        before = int(state.cdata.region[lay.UM_R_FPS0].used)
        remember(log, ENTRY_ROWS, first)
        if before < MIB:
            continue
        base = areas(state)[lay.UM_R_FPS0][0]
        written = range(base + before, base + int(state.cdata.region[lay.UM_R_FPS0].used), PAGE)
        assert all(any(a <= at < a + n for a, n in asked) for at in written)


def test_memory_is_asked_for_again_after_a_checkpoint() -> None:
    """Its end gives pages back."""
    log = Log(ROOMY)
    remember(log, MANY)
    first = log.state.ahead()
    assert log.state.ahead() == []
    image_of(log.state, MIB)
    assert set(log.state.ahead()) >= set(first) != set()
    assert log.state.ahead() == []


def test_memory_is_asked_for_again_where_a_state_has_moved_to() -> None:
    """Raised limits give it another mapping."""
    log = Log(ROOMY)
    state = native(log)
    remember(log, MANY)
    before = state.ahead()
    old = areas(state)[lay.UM_R_FPS0]
    log.apply(lay.UM_ENTRY_LIMITS, lay.encode_limits(state_limits(1024 * MIB)))
    assert areas(state)[lay.UM_R_FPS0] != old
    stretches = state.ahead()
    assert len(stretches) >= len(before) > 0
    assert_inside(state, stretches)


def test_a_state_loaded_from_an_image_asks_for_what_comes_next() -> None:
    log = Log(ROOMY)
    remember(log, MANY)
    image = image_of(log.state, MIB)
    loader = KERNELS.state_loader(len(image))
    loader.feed(image)
    state = loader.finish()
    assert isinstance(state, NativeGroupState)
    stretches = state.ahead()
    assert stretches
    assert_inside(state, stretches)


def test_nothing_is_asked_while_a_job_is_open() -> None:
    work = Work(rows=10)
    job = work.begin()
    with pytest.raises(AssertionError):
        work.state.ahead()
    in_another_thread(job)
    work.check(job)
    assert work.state.ahead() == []


def test_the_reference_state_has_no_memory_to_speak_of() -> None:
    assert load("reference").state(ROOMY).ahead() == []


# ---- what becomes of it ----


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from a_desk(tmp_path)


class Memory:
    """An anonymous mapping with pages of the usual size, and which of them exist."""

    def __init__(self, size: int = 8 * MIB) -> None:
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            self.map.madvise(mmap.MADV_NOHUGEPAGE)
        self.size = size
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def made(self, at: int = 0, size: int | None = None) -> int:
        """How many pages exist there."""
        length = self.size - at if size is None else size
        exists = (ctypes.c_ubyte * (length // PAGE))()
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self.address + at)
        assert libc.mincore(address, ctypes.c_size_t(length), exists) == 0, ctypes.get_errno()
        return sum(page & 1 for page in exists)

    def faults_of_writing(self) -> int:
        """How often this thread had to wait for a page while it wrote to each."""
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        for at in range(0, self.size, PAGE):
            self.map[at] = 1
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@pytest.fixture
def memory() -> Memory:
    made = Memory()
    assert made.made() == 0
    return made


def wait_until(desk: Desk, so: Callable[[], bool]) -> None:
    """Let the loop run, drain by drain."""

    def around(drain: Callable[[], None]) -> None:
        try:
            drain()
        finally:
            desk.loop.stop()

    trouble: list[object] = []
    desk.loop.set_exception_handler(lambda _loop, context: trouble.append(context))
    desk.disk.around = around
    late = desk.loop.call_later(PATIENCE_SECONDS, desk.loop.stop)
    desk.look_round()
    while trouble or not so():
        desk.loop.run_forever()
        assert late.when() > desk.loop.time(), "it did not come true"
        assert not trouble
    late.cancel()
    desk.disk.around = lambda drain: drain()


def test_pages_are_made_and_hold_nothing(desk: Desk, memory: Memory) -> None:
    desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
    wait_until(desk, lambda: memory.made() == memory.size // PAGE)
    assert memory.map[:] == bytes(memory.size)
    assert desk.done == [], "nobody waits for it"


def test_writing_to_pages_that_were_made_waits_for_none(desk: Desk, memory: Memory) -> None:
    desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
    wait_until(desk, lambda: memory.made() == memory.size // PAGE)
    assert memory.faults_of_writing() < 100
    assert Memory().faults_of_writing() >= 8 * MIB // PAGE, "a page that was not made is waited for"


def test_each_stretch_is_made_and_nothing_beside_it(desk: Desk, memory: Memory) -> None:
    stretches = [(PAGE, PAGE), (MIB, 2 * MIB + PAGE), (4 * MIB, 3 * PAGE)]
    desk.disk.touch(Touch([(memory.address + at, size) for at, size in stretches], memory.map))
    wanted = sum(size for _, size in stretches) // PAGE
    wait_until(desk, lambda: memory.made() >= wanted)
    assert memory.made() == wanted
    assert [memory.made(at, size) * PAGE for at, size in stretches] == [size for _, size in stretches]


def test_what_pages_hold_stays(desk: Desk, memory: Memory) -> None:
    content = bytes(range(1, 251)) * (2 * MIB // 250)
    memory.map[: len(content)] = content
    desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
    wait_until(desk, lambda: memory.made() == memory.size // PAGE)
    assert memory.map[: len(content)] == content


def use(desk: Desk, name: str = "a") -> None:
    """Files and jobs work as ever."""
    work = Work(rows=20)
    job = work.begin()
    desk.disk.submit(Create(1, name, BLOCK))
    assert desk.hear(1) == [WriteDone(1)]
    desk.disk.submit(Write(2, name, 0, b"x" * BLOCK))
    assert desk.hear(1) == [WriteDone(2)]
    desk.disk.work(Apply(3, job))
    desk.disk.submit(Read(4, name, 0, BLOCK))
    assert sorted(desk.hear(2), key=lambda done: done.op) == [ApplyDone(3), ReadDone(4, b"x" * BLOCK)]
    work.check(job)


def test_memory_is_kept_until_its_pages_are_made_and_no_longer(desk: Desk) -> None:
    """Its owner has given it up meanwhile: a state that moved, a group that is no more."""
    memory = Memory()
    gone = weakref.ref(memory)
    desk.disk.touch(
        Touch([(memory.address, memory.size // 2), (memory.address + memory.size // 2, memory.size // 2)], memory)
    )
    del memory
    gc.collect()
    assert gone() is not None
    wait_until(desk, lambda: gone() is None)
    use(desk)


def test_pages_are_made_while_somebody_writes_to_them_and_nothing_of_that_is_lost(desk: Desk, memory: Memory) -> None:
    numbers = memoryview(memory.map).cast("Q")
    for round_ in range(1, 21):
        desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
        for at in range(0, memory.size // 8, PAGE // 8):  # the very words that it touches
            numbers[at] = at * round_ + 1
        assert all(numbers[at] == at * round_ + 1 for at in range(0, memory.size // 8, PAGE // 8))
    numbers.release()
    use(desk)


def test_a_full_lane_forgets_what_does_not_fit_and_works_on(desk: Desk, memory: Memory) -> None:
    """Nothing is taken from the ring before the loop runs."""
    count = 2 * lib.UM_SYS_DEPTH + 50
    pages = memory.size // PAGE
    assert count < pages
    desk.disk.touch(Touch([(memory.address + n * PAGE, PAGE) for n in range(count)], memory.map))
    wait_until(desk, lambda: memory.made() >= lib.UM_SYS_DEPTH)
    use(desk)
    assert memory.made() == memory.made(0, lib.UM_SYS_DEPTH * PAGE) == lib.UM_SYS_DEPTH
    desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
    wait_until(desk, lambda: memory.made() == pages)


def test_close_waits_for_memory_being_made_and_tells_nobody(desk: Desk, memory: Memory) -> None:
    desk.disk.touch(Touch([(memory.address, memory.size)], memory.map))
    desk.disk.close()
    assert memory.made() == memory.size // PAGE
    desk.look_round()
    assert desk.done == []


def test_a_state_is_the_same_with_its_memory_made_and_without(desk: Desk) -> None:
    made, plain = Log(ROOMY), Log(ROOMY)
    stretches = 0
    for first in range(0, 2 * MANY, 2 * ENTRY_ROWS):
        asked = made.state.ahead()
        stretches += len(asked)
        desk.disk.touch(Touch(asked, made.state.memory))  # in the lane's own time, while entries are applied
        for log in (made, plain):
            remember(log, 2 * ENTRY_ROWS, first)
        assert made.state.meta() == plain.state.meta()
    desk.disk.close()
    assert stretches and made.state.digest() == plain.state.digest() and made.state.check(CATALOG) == 0


# ---- the node ----

WIDE = replace(SMALL, frame_bytes_max=1 * MIB, entry_bytes_max=2 * MIB, segment_bytes=8 * MIB)


@dataclass
class TouchBench(Bench):
    """A bench whose process hears of memory."""

    effects: list[Touch | Apply] = field(default_factory=list)

    def _take(self, effect: Effect) -> None:
        if isinstance(effect, Touch | Apply):
            self.effects.append(effect)
        if not isinstance(effect, Touch):
            super()._take(effect)

    def restart(self) -> TouchBench:
        files = {name: bytearray(data) for name, data in self.files.items()}
        fresh = TouchBench(files, self.config, self.limits, wall_ns=self.wall_ns)
        fresh.disk()
        return fresh

    def ingest(self, rows: int, first: int) -> None:
        events = [v1_event("calls", 1 + n % 100, n, JAN_1) for n in range(first, first + rows)]
        assert self.ask(1, v1_ingest(*events))[0] == 0

    @property
    def touched(self) -> list[tuple[int, int]]:
        return [stretch for effect in self.effects if isinstance(effect, Touch) for stretch in effect.stretches]


def grown(rows: int) -> TouchBench:
    bench = TouchBench(config=WIDE, limits=ROOMY)
    bench.disk()
    bench.link(1)
    assert bench.ask(1, v1_metric("calls"))[0] == 0
    for first in range(0, MANY, rows):
        bench.ingest(rows, first)
    return bench


@pytest.mark.parametrize("rows", [500, 1000], ids=["applied at once", "applied aside"])
def test_a_node_has_the_next_memory_made_before_it_applies_many_rows(rows: int) -> None:
    bench = grown(rows)
    state = bench.node.groups[0].state
    assert bench.touched
    assert_inside(state, bench.touched)
    assert len(set(bench.touched)) == len(bench.touched)
    if rows == 1000:
        assert isinstance(
            bench.effects[next(n for n, e in enumerate(bench.effects) if isinstance(e, Touch)) + 1], Apply
        )


def test_a_node_that_was_started_again_has_the_next_memory_made_too() -> None:
    """What its state asked for while the log was replayed, nobody made."""
    before = grown(1000)
    used = int(before.node.groups[0].state.cdata.region[lay.UM_R_FPS0].used)
    bench = before.restart()
    bench.link(1)
    bench.ingest(1000, MANY)
    base = areas(bench.node.groups[0].state)[lay.UM_R_FPS0][0]
    assert any(address <= base + used + 2 * MIB < address + size for address, size in bench.touched)
