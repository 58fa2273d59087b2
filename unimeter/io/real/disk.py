"""The real disk: one data directory, reached through the lanes of csrc/sysio.

    submit(effect) --> lane's ring --> lane's thread: write, sync --> eventfd --> _drain --> on_done

Nothing here blocks the event loop but `files()`, which is called once at boot, and lone writes. Opening, creating, syncing and
removing happen in the lanes' threads, without the GIL; one call takes all completions of a loop turn.

Lanes: journal writes have one of their own; bulk writes, creates and deletes share one, in order; reads have
the third, so that a query never waits for a segment being created; jobs and new memory have the fourth and the fifth. A Delete or Create of a file that is being
read waits until those reads are done: a read that was accepted is answered with the file it was meant for.

Journal writes on an idle lane, which is nearly all of them, need its thread only for what asynchronous I/O cannot do (csrc/sysio/begun.c): the
kernel writes, and the eventfd tells. Waking a thread and being woken by it costs as much as half a write to a fast disk.

A lone write (Write.lone: short, and nothing else waits) is waited for in the event loop's own thread at the end of its turn, once what the turn
had to send has left (`beside`: followers write while this node does), and what follows from it is worked out meanwhile (`presume`). Not while the disk is slow, so that one that
hangs does not stop answers and heartbeats: from a journal write that took longer than LONE_SLOW_NS until LONE_PAUSE_WRITES in a row were quick.

Memory: the data of a Write, and the buffer of a Read, are held here until the completion has been taken, and let go
before anybody is told. That order matters: an exception raised further up keeps this frame alive through its
traceback, and CPython crashes when the cyclic collector meets a memoryview whose buffer is still lent out.

The directory belongs to one process: `lock` in it is held with flock for as long as the process lives (the
kernel drops it when the process dies, however that happens) and says whose it is. Names are relative and stay
inside; a symbolic link in the directory is refused at boot rather than silently not seen.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Any, Final, Protocol

from unimeter.config import BLOCK_BYTES
from unimeter.core.effects import Apply, Create, Delete, Read, Touch, Write
from unimeter.core.inputs import ApplyDone, DiskError, FileInfo, ReadDone, WriteDone
from unimeter.io.real._sysio import ffi, lib

LOCK_NAME: Final = "lock"
NOT_OURS: Final = frozenset(
    {LOCK_NAME, "lost+found"}
)  # names at the top of a data directory that are not the node's files
DRAIN_MAX: Final = 64  # completions taken in one call
WRITE_SECONDS_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
WRITE_NS_BUCKETS = tuple(round(seconds * 1e9) for seconds in WRITE_SECONDS_BUCKETS)

LONE_SLOW_NS = 1_000_000  # a journal write that takes longer ...
LONE_PAUSE_WRITES: Final = 64  # ... has nobody wait for so many: until so many in a row were quick

# looked up once: what every write needs
_LANE_JOURNAL: Final[int] = lib.UM_SYS_LANE_JOURNAL
_WRITE: Final[int] = lib.UM_SYS_WRITE
_from_buffer: Final = ffi.from_buffer
_write_begin: Final = lib.um_sys_write_begin
_write_end: Final = lib.um_sys_write_end
_write_told: Final = lib.um_sys_write_told
_OK: Final[int] = lib.UM_SYS_OK
_DONE: Final = Struct("=QQQIIIi")  # um_sys_done
assert _DONE.size == ffi.sizeof("um_sys_done")

_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


class DataDirectoryError(Exception):
    """The data directory cannot be used; the message says why, and what to do."""


class DataDirectoryLocked(DataDirectoryError):
    """Another process has it."""


@dataclass
class DiskFigures:
    """What the disk has done since the start, for /metrics."""

    direct: bool = False
    writes: int = 0
    write_bytes: int = 0
    reads: int = 0
    read_bytes: int = 0
    creates: int = 0
    deletes: int = 0
    no_space: int = 0
    failed: int = 0
    calls: int = 0  # jobs of the work lane
    lone_writes: int = 0  # of the journal, in the event loop's own thread
    told_writes: int = 0  # of the journal, in no thread
    journal_write_ns: int = 0
    journal_write_buckets: list[int] = field(default_factory=lambda: [0] * (len(WRITE_SECONDS_BUCKETS) + 1))


@lru_cache(maxsize=256)
def encoded_name(name: str) -> bytes:
    """The name as bytes, if it stays inside the data directory; ValueError otherwise."""
    raw = name.encode()
    parts = name.split("/")
    if not raw or len(raw) > lib.UM_SYS_NAME_BYTES_MAX or b"\0" in raw:
        raise ValueError(f"file name {name!r}: must be 1 to {lib.UM_SYS_NAME_BYTES_MAX} bytes without NUL")
    if any(part in ("", ".", "..") for part in parts) or parts[0] in NOT_OURS:
        raise ValueError(f"file name {name!r}: must be relative, stay inside the data directory and not be reserved")
    return raw


def lock_directory(directory: Path) -> int:
    """Make the directory if need be and take its lock; returns the descriptor that holds it."""
    try:
        made = not directory.exists()
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        if made:
            _sync_directory(directory.resolve().parent)
        fd = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    except OSError as error:
        raise DataDirectoryError(f"cannot use data directory {directory}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise DataDirectoryError(f"cannot lock data directory {directory}: {error.strerror}") from error
        raise DataDirectoryLocked(
            f"data directory {directory} is in use by process {owner or 'unknown'}; "
            "stop that process, or give this node another --data-dir"
        ) from error
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        # A full disk must not keep a node from starting: it can still answer queries. The lock is held anyway.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            os.close(fd)
            raise DataDirectoryError(f"cannot write to data directory {directory}: {error.strerror}") from error
    return fd


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Sending(Protocol):
    """What a disk has to know of a network."""

    def together(self, callback: Callable[[], None]) -> None:
        """Run the callback, then send what it had to send."""

    def flush(self) -> None:
        """Have what was to be sent so far leave."""


class RealDisk:
    """`interface.Disk` over a directory. `direct=False` keeps it from using O_DIRECT (for tests)."""

    def __init__(self, data_dir: Path, loop: asyncio.AbstractEventLoop, *, direct: bool = True) -> None:
        self._loop = loop
        self._directory = data_dir
        self._lock_fd = lock_directory(data_dir)
        error = ffi.new("int32_t *")
        self._disk = lib.um_sys_open(os.fsencode(data_dir), 0 if direct else lib.UM_SYS_FLAG_BUFFERED, error)
        if self._disk == ffi.NULL:
            os.close(self._lock_fd)
            raise DataDirectoryError(f"cannot open data directory {data_dir}: {os.strerror(error[0])}")
        self._done = ffi.new("um_sys_done[]", DRAIN_MAX)
        self._done_view = memoryview(ffi.buffer(self._done))
        self._done_now: Any = ffi.new("um_sys_done *")
        self._done_now_view = memoryview(ffi.buffer(self._done_now))
        self._lone: Write | None = None  # to be done at the end of this turn
        self._journal_writes = 0  # under way
        self._pause_writes = 0  # so many journal writes are not waited for, because the disk was slow
        self._on_done: Callable[[WriteDone | ReadDone | ApplyDone], None] | None = None
        self._presume: Callable[[WriteDone], None] = lambda _event: None
        self.around: Callable[[Callable[[], None]], None] = lambda callback: callback()
        self._flush: Callable[[], None] = lambda: None
        self._pending: dict[int, tuple[Write | Create | Delete | Read, Any]] = {}  # op -> effect, its memory
        self._touched: deque[object] = deque()  # the memory of each stretch that the memory lane has
        self._jobs: dict[int, Apply] = {}  # that the work lane has, or nobody
        self._backlog: tuple[deque[tuple[Any, ...]], ...] = tuple(deque() for _ in range(lib.UM_SYS_LANES))
        self._reading: dict[str, int] = {}  # file -> reads under way
        self._held: dict[str, list[Create | Delete]] = {}  # waiting for those reads
        self.last_error = ""  # what the operating system said of the last FAILED operation
        self.figures = DiskFigures(direct=bool(lib.um_sys_is_direct(self._disk)))

    def beside(self, network: Sending) -> None:
        """What completions have to say is sent together, and before the loop's thread waits for a write what was to be sent has left."""
        self.around, self._flush = network.together, network.flush

    def start(
        self, on_done: Callable[[WriteDone | ReadDone | ApplyDone], None], presume: Callable[[WriteDone], None]
    ) -> None:
        self._on_done, self._presume = on_done, presume
        self._loop.add_reader(lib.um_sys_eventfd(self._disk), lambda: self.around(self._drain))

    def files(self) -> tuple[FileInfo, ...]:
        found: list[FileInfo] = []
        stack = [""]
        while stack:
            prefix = stack.pop()
            with os.scandir(self._directory / prefix) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if name in NOT_OURS:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(name + "/")
                    elif entry.is_file(follow_symlinks=False):
                        found.append(FileInfo(name, entry.stat(follow_symlinks=False).st_size))
                    else:
                        raise DataDirectoryError(
                            f"{self._directory / name} is neither a plain file nor a directory; "
                            "move it out of the data directory (to place a part elsewhere, mount it)"
                        )
        return tuple(sorted(found))

    def submit(self, effect: Write | Create | Delete | Read) -> None:
        assert effect.op not in self._pending, f"operation {effect.op} is under way already"
        encoded_name(effect.file)
        if isinstance(effect, Write):
            assert effect.offset % BLOCK_BYTES == 0, "a write must begin on a block"
            assert len(effect.data) % BLOCK_BYTES == 0, "a write must be whole blocks"
            if effect.bulk:
                self._start_write(lib.UM_SYS_LANE_BULK, effect)
            else:
                self._write_journal(effect)
        elif isinstance(effect, Read):
            self._reading[effect.file] = self._reading.get(effect.file, 0) + 1
            memory = _new_uncleared("char[]", max(1, effect.length))
            self._start(lib.UM_SYS_LANE_READ, lib.UM_SYS_READ, effect, effect.offset, memory, effect.length)
        elif effect.file in self._reading:
            self._pending[effect.op] = (effect, None)
            self._held.setdefault(effect.file, []).append(effect)
        else:
            self._start_change(effect)

    def work(self, effect: Apply) -> None:
        """Call the job's function in the work lane. What has none, or no room there, is left to whoever finishes it."""
        function, argument = effect.job.call
        self._jobs[effect.op] = effect
        if not function or not lib.um_sys_call(self._disk, effect.op, function, argument):
            self._loop.call_soon(lambda: self.around(lambda: self._worked(effect.op)))

    def touch(self, effect: Touch) -> None:
        """Have the pages made in the memory lane; where that is full they are made when they are needed."""
        for address, size in effect.stretches:
            if lib.um_sys_touch(self._disk, 0, address, size):
                self._touched.append(effect.memory)

    def _worked(self, op: int) -> None:
        assert self._on_done is not None
        if self._jobs.pop(op, None) is not None:
            self._on_done(ApplyDone(op))

    def _start_write(self, lane: int, effect: Write) -> None:
        self._start(lane, _WRITE, effect, effect.offset, _from_buffer(effect.data), len(effect.data))

    def _write_journal(self, effect: Write) -> None:
        self._journal_writes += 1
        if effect.lone and self._journal_writes == 1 and not self._pause_writes:
            self._lone = effect
            self._pending[effect.op] = (effect, None)
            self._loop.call_soon(self._do_lone)
            return
        if self._lone is not None:  # it is not alone any more
            before, self._lone = self._lone, None
            self._start_write(_LANE_JOURNAL, before)
        if self._journal_writes == 1:
            memory: Any = _from_buffer(effect.data)
            name = encoded_name(effect.file)
            if _write_told(self._disk, effect.op, name, effect.offset, memory, len(effect.data)):
                self._pending[effect.op] = (effect, memory)
                self.figures.told_writes += 1
                return
        self._start_write(_LANE_JOURNAL, effect)

    def _do_lone(self) -> None:
        if self._lone is not None:
            self._flush()
            self.around(self._write_now)

    def _write_now(self) -> None:
        effect, self._lone = self._lone, None
        assert self._on_done is not None and effect is not None
        del self._pending[effect.op]
        done = WriteDone(effect.op)
        memory: Any = _from_buffer(effect.data)
        begun = _write_begin(self._disk, effect.op, encoded_name(effect.file), effect.offset, memory, len(effect.data))
        assert begun, "no journal write is under way, and a lone one is short"
        memory = None
        try:
            self._presume(done)
        finally:
            _write_end(self._disk, self._done_now)
        self.figures.lone_writes += 1
        answer: tuple[int, ...] = _DONE.unpack_from(self._done_now_view)
        error = self._account(effect, answer)
        self._on_done(done if error is None else WriteDone(effect.op, error))

    def close(self) -> None:
        """Finish what was submitted, without telling anybody, and give the directory back."""
        self._lone = None
        self._loop.remove_reader(lib.um_sys_eventfd(self._disk))
        lib.um_sys_close(self._disk)
        self._disk = ffi.NULL
        self._pending.clear()
        self._jobs.clear()
        self._touched.clear()
        for backlog in self._backlog:
            backlog.clear()
        os.close(self._lock_fd)

    @property
    def pending_count(self) -> int:
        return len(self._pending)

    def _start_change(self, effect: Create | Delete) -> None:
        if isinstance(effect, Create):
            self._start(lib.UM_SYS_LANE_BULK, lib.UM_SYS_CREATE, effect, 0, ffi.NULL, effect.size_bytes)
        else:
            self._start(lib.UM_SYS_LANE_BULK, lib.UM_SYS_DELETE, effect, 0, ffi.NULL, 0)

    def _start(
        self, lane: int, kind: int, effect: Write | Create | Delete | Read, offset: int, memory: Any, length: int
    ) -> None:
        self._pending[effect.op] = (effect, memory)
        call = (lane, kind, effect.op, encoded_name(effect.file), offset, memory, length)
        backlog = self._backlog[lane]
        if backlog or not lib.um_sys_submit(self._disk, *call):
            backlog.append(call)  # the ring is full: sent on as soon as something completes

    def _drain(self) -> None:
        assert self._on_done is not None
        done = self._done
        for i in range(lib.um_sys_drain(self._disk, done, DRAIN_MAX)):
            answer: tuple[int, ...] = _DONE.unpack_from(self._done_view, i * _DONE.size)
            op, size, kind = answer[0], answer[1], answer[4]
            if kind == lib.UM_SYS_CALL:
                self.figures.calls += 1
                self._worked(op)
                continue
            if kind == lib.UM_SYS_TOUCH:
                self._touched.popleft()
                continue
            effect, memory = self._pending.pop(op)
            error = self._account(effect, answer)
            if isinstance(effect, Read):
                self._read_is_over(effect.file)
                data = b"" if error else ffi.buffer(memory, size)[:]
                memory = None
                self._on_done(ReadDone(effect.op, data, error))
            else:
                memory = None
                self._on_done(WriteDone(effect.op, error))
        for backlog in self._backlog:
            while backlog and lib.um_sys_submit(self._disk, *backlog[0]):
                backlog.popleft()

    def _read_is_over(self, file: str) -> None:
        left = self._reading[file] - 1
        if left:
            self._reading[file] = left
            return
        del self._reading[file]
        for effect in self._held.pop(file, ()):
            self._start_change(effect)

    def _account(self, effect: Write | Create | Delete | Read, done: tuple[int, ...]) -> DiskError | None:
        """Count a completion, a um_sys_done; what went wrong, if anything."""
        figures = self.figures
        _, size, taken_ns, lane, kind, status, error = done
        if kind == _WRITE:
            figures.writes += 1
            figures.write_bytes += size
            if lane == _LANE_JOURNAL:
                self._journal_writes -= 1
                quick = taken_ns <= LONE_SLOW_NS
                self._pause_writes = max(0, self._pause_writes - 1) if quick else LONE_PAUSE_WRITES
                figures.journal_write_ns += taken_ns
                figures.journal_write_buckets[bisect_left(WRITE_NS_BUCKETS, taken_ns)] += 1
        elif kind == lib.UM_SYS_READ:
            figures.reads += 1
            figures.read_bytes += size
        elif kind == lib.UM_SYS_CREATE:
            figures.creates += 1
        else:
            figures.deletes += 1
        if status == _OK:
            return None
        if status == lib.UM_SYS_NO_SPACE:
            figures.no_space += 1
            return DiskError.NO_SPACE
        figures.failed += 1
        self.last_error = f"{type(effect).__name__.lower()} {effect.file}: {os.strerror(error)}"
        return DiskError.FAILED
