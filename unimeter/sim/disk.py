"""A disk with two lanes that is sometimes slow, full, forgetful or wrong.

    submit -> waits for its lane -> in flight -> done (durable) -> on_done

- Writes of one lane are done in order, the journal lane waits for nobody; everything else overlaps freely.
- When the process dies, what was submitted and not done may have happened, in part or not at all: after a kill
  each lane's writes up to some point, the last one cut at a sector; after a power cut any sectors of any of them.
- Half of the lone writes keep the process's thread, as the real disk's do: the node presumes that they go well while they have not been
  done, and some of them then are not. (All of it in the moment when the write is done: nothing else happens in that thread meanwhile.)
- A failed sync leaves the written range in an unknown mixture; the same holds for what a read sees of a write
  that is still in flight.
- Rot and misdirected writes change durable bytes behind everybody's back. The newest journal write is spared, and
  a crash waits (`fragile`) until a write follows a misdirected one: damage to the last record cannot be told from
  a torn tail by anyone, so no promise is broken by missing it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol
from zlib import crc32

from unimeter.config import BLOCK_BYTES
from unimeter.core.effects import Create, Delete, Read, Write
from unimeter.core.inputs import DiskError, FileInfo, ReadDone, WriteDone
from unimeter.sim.image import SECTOR_BYTES, Image
from unimeter.sim.prng import Prng
from unimeter.sim.trace import brief_as
from unimeter.sim.world import US, World

Operation = Write | Create | Delete | Read
Completion = WriteDone | ReadDone
KILL: Final = "kill"
POWER_CUT: Final = "power_cut"
NAME_BYTES_MAX: Final = 119


@dataclass
class DiskSettings:
    """How the disk behaves now; faults change it, healing puts the defaults back."""

    write_min_ns: int = 60 * US
    write_max_ns: int = 1500 * US
    read_min_ns: int = 20 * US
    read_max_ns: int = 120 * US
    slow_factor: int = 1
    capacity_bytes: int = 1 << 40


@dataclass(eq=False)
class Pending:
    effect: Operation
    port: DiskPort
    verdict: DiskError | None = None  # decided at submission: it will fail like this
    misdirected: bool = False
    checksum: int = 0  # of a write's data when it was submitted
    due_ns: int = 0
    presumed: bool = False


class Onlooker(Protocol):
    """Whoever tells others what a process does."""

    def presumes(self) -> None:
        """The next step is of something that has not happened yet."""

    def presumed(self, came_true: bool) -> None:
        """It has, and the effects of that step follow; or it never will, and nobody hears of them."""


@dataclass
class DiskFaults:
    """Asked once for every operation; the fault engine sets these hooks."""

    on_submit: Callable[[Operation], None] | None = None
    verdict: Callable[[Operation], DiskError | None] | None = None
    misdirect: Callable[[Write], bool] | None = None


@dataclass
class SimDisk:
    """One host's disk: survives its processes."""

    world: World
    prng: Prng
    settings: DiskSettings = field(default_factory=DiskSettings)
    faults: DiskFaults = field(default_factory=DiskFaults)
    image: Image = field(default_factory=Image)
    pending: list[Pending] = field(default_factory=list)
    fragile: bool = False  # the newest journal write was misdirected: no crash until the next one is durable
    newest: list[tuple[str, int]] = field(
        default_factory=list
    )  # file, offset: newest journal write, torn ones behind it
    tainted_reads: int = 0
    tainted_read_ns: int = -1  # when the last of them was
    failures: int = 0  # operations that FAILED
    refusals: int = 0  # operations that found NO_SPACE
    sees_all: bool = False  # reads see all of the writes in flight (for a canary)
    bytes_written: int = 0
    presumed: int = 0  # writes that a node took for done before they were
    presumed_wrongly: int = 0
    _lane_free_ns: dict[bool, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._presume_luck = self.prng.stream("presume")

    def port(self, enter: Callable[..., None], onlooker: Onlooker | None = None) -> DiskPort:
        """The `Disk` of a new process."""
        return DiskPort(self, enter, onlooker)

    def submit(self, port: DiskPort, effect: Operation) -> None:
        check_name(effect.file)
        if self.faults.on_submit is not None:
            self.faults.on_submit(effect)
        pending = Pending(effect, port)
        if self.faults.verdict is not None:
            pending.verdict = self.faults.verdict(effect)
        if isinstance(effect, Write):
            assert effect.offset % BLOCK_BYTES == 0 and len(effect.data) % BLOCK_BYTES == 0 and len(effect.data) > 0
            start_ns = max(self.world.now_ns, self._lane_free_ns.get(effect.bulk, 0))
            due_ns = start_ns + self._latency_ns(len(effect.data), write=True)
            self._lane_free_ns[effect.bulk] = due_ns
            pending.checksum = crc32(effect.data)
            written = brief_as(len(effect.data), pending.checksum)
            self.world.note(f"disk write {effect.file} @{effect.offset} {written} bulk={effect.bulk:d}")
            if self.faults.misdirect is not None and pending.verdict is None:
                pending.misdirected = self.faults.misdirect(effect)
        else:
            write = not isinstance(effect, Read)
            length = 0
            if isinstance(effect, Read):
                length = effect.length
                assert effect.offset % BLOCK_BYTES == 0 and length % BLOCK_BYTES == 0, f"unaligned: {effect}"
            due_ns = self.world.now_ns + self._latency_ns(length, write)
            if not isinstance(effect, Read):  # what was asked of the file before still finds it
                due_ns = max([due_ns, *(p.due_ns for p in self.pending if p.effect.file == effect.file)])
            self.world.note(f"disk {type(effect).__name__.lower()} {effect.file} op={effect.op}")
        pending.due_ns = due_ns
        self.pending.append(pending)
        self.world.at(due_ns, self._finish, pending)

    def in_flight(self, bulk: bool | None = None) -> bool:
        return any(isinstance(p.effect, Write) and bulk in (None, p.effect.bulk) for p in self.pending)

    def _latency_ns(self, length: int, write: bool) -> int:
        settings = self.settings
        low, high = (
            (settings.write_min_ns, settings.write_max_ns) if write else (settings.read_min_ns, settings.read_max_ns)
        )
        return (self.prng.between(low, high) + length // 4) * settings.slow_factor

    def _finish(self, pending: Pending) -> None:
        if pending not in self.pending:
            return  # its process died before
        effect = pending.effect
        if isinstance(effect, Write) and effect.lone and self._presume_luck.chance(0.5):
            effect.data = bytes(effect.data)
            pending.presumed = True
            pending.port.presume(WriteDone(effect.op))
        completion = self._read(pending, effect) if isinstance(effect, Read) else self._change(pending, effect)
        self.pending.remove(pending)
        error = completion.error
        self.world.note(f"disk done op={effect.op}{'' if error is None else ' ' + error.name}")
        self.presumed += pending.presumed
        self.presumed_wrongly += pending.presumed and error is not None
        pending.port.complete(completion, pending.presumed)

    def _change(self, pending: Pending, effect: Write | Create | Delete) -> WriteDone:
        if pending.verdict is DiskError.FAILED:
            self.failures += 1
            if isinstance(effect, Write):
                self.tear(effect, self._any_sectors(effect))
            return WriteDone(effect.op, DiskError.FAILED)
        image = self.image
        if isinstance(effect, Delete):
            image.delete(effect.file)
            return WriteDone(effect.op)
        if isinstance(effect, Write) and effect.file not in image.files:
            return WriteDone(effect.op, DiskError.FAILED)
        growth = self._growth_bytes(effect)
        if pending.verdict is DiskError.NO_SPACE or (
            growth > 0 and image.used_bytes() + growth > self.settings.capacity_bytes
        ):
            self.refusals += 1
            return WriteDone(effect.op, DiskError.NO_SPACE)
        if isinstance(effect, Create):
            image.create(effect.file, effect.size_bytes)
            return WriteDone(effect.op)
        assert crc32(effect.data) == pending.checksum, f"the data of op {effect.op} changed while it was being written"
        self.bytes_written += len(effect.data)
        if pending.misdirected and self._misdirect(effect):
            self.fragile = self.fragile or not effect.bulk
        else:
            image.write(effect.file, effect.offset, effect.data)
            if not effect.bulk:
                self.fragile = False
        if not effect.bulk:
            self.newest = [(effect.file, effect.offset)]
        return WriteDone(effect.op)

    def _growth_bytes(self, effect: Write | Create) -> int:
        file = self.image.files.get(effect.file)
        present = 0 if file is None else len(file.ideal)
        if isinstance(effect, Create):
            return effect.size_bytes - present
        return effect.offset + len(effect.data) - present

    def _read(self, pending: Pending, effect: Read) -> ReadDone:
        if pending.verdict is DiskError.FAILED or effect.file not in self.image.files:
            return ReadDone(effect.op, b"", DiskError.FAILED)
        file = self.image.files[effect.file]
        data = file.actual[effect.offset : effect.offset + effect.length]
        if file.lied and data != file.ideal[effect.offset : effect.offset + effect.length]:
            self.tainted_reads += 1
            self.tainted_read_ns = self.world.now_ns
        for other in self.pending:
            write = other.effect
            if isinstance(write, Write) and write.file == effect.file and not other.misdirected:
                self._blend(data, effect.offset, write)
        return ReadDone(effect.op, bytes(data))

    def _blend(self, data: bytearray, offset: int, write: Write) -> None:
        """What a read sees of a write in flight: some sectors of it."""
        for at in range(0, len(write.data), SECTOR_BYTES):
            where = write.offset + at - offset
            if 0 <= where < len(data) and (self.sees_all or self.prng.chance(0.5)):
                piece = write.data[at : at + SECTOR_BYTES]
                data[where : where + len(piece)] = piece

    # ---- mishaps ----

    def crash(self, kind: str) -> None:
        """The process (KILL) or the whole machine (POWER_CUT) is gone: settle what was under way."""
        lanes: dict[bool, bool] = {False: True, True: True}  # bulk -> are its writes still landing?
        pending, self.pending = self.pending, []
        for item in pending:
            effect = item.effect
            if isinstance(effect, Write):
                if kind == POWER_CUT:
                    sectors = self._any_sectors(effect)
                elif lanes[effect.bulk]:
                    sectors = self._leading_sectors(effect)
                    lanes[effect.bulk] = all(sectors)
                else:
                    sectors = []
                self.tear(effect, sectors)
            elif not isinstance(effect, Read) and item.verdict is None and self.prng.chance(0.5):
                if isinstance(effect, Delete):
                    self.image.delete(effect.file)
                else:
                    self.image.create(effect.file, effect.size_bytes if self.prng.chance(0.5) else 0)
        self._lane_free_ns.clear()

    def erase(self) -> None:
        """A new disk."""
        assert not self.pending, "whoever used the old one is dead"
        self.image.files.clear()
        self.fragile = False
        self.newest = []

    def tear(self, effect: Write, sectors: list[bool]) -> None:
        if effect.file in self.image.files:
            self.image.write_sectors(effect.file, effect.offset, effect.data, sectors)
            if not effect.bulk:
                self.newest.append((effect.file, effect.offset))

    def _any_sectors(self, effect: Write) -> list[bool]:
        count = len(effect.data) // SECTOR_BYTES
        kind = self.prng.below(4)
        if kind == 0:
            return []
        if kind == 1:
            return [True] * count
        return [self.prng.chance(0.5) for _ in range(count)]

    def _leading_sectors(self, effect: Write) -> list[bool]:
        count = len(effect.data) // SECTOR_BYTES
        kind = self.prng.below(3)
        landed = (0, count, self.prng.below(count + 1))[kind]
        return [True] * landed + [False] * (count - landed)

    def spared(self, name: str, end: int) -> bool:
        """Do the bytes before `end` of a file touch the newest journal write, or lie behind it?"""
        return any(name == file and end > offset for file, offset in self.newest)

    def rot(self) -> str | None:
        """Flip one durable bit that the newest record does not depend on; says where, or None if there is no place."""
        names = [name for name, file in sorted(self.image.files.items()) if len(file.ideal) > 0]
        for _ in range(8):
            if not names:
                return None
            name = self.prng.choice(names)
            offset = self.prng.below(len(self.image.files[name].actual))
            if not self.spared(name, offset + 1) and self.newest:
                self.image.flip(name, offset, self.prng.below(8))
                return f"{name} @{offset}"
        return None

    @property
    def lying(self) -> bool:
        """Is a write under way that will land elsewhere?"""
        return any(pending.misdirected for pending in self.pending)

    def _misdirect(self, effect: Write) -> bool:
        """Let a write land in another place; False when there is none that fits."""
        length = len(effect.data)
        names = [name for name, file in sorted(self.image.files.items()) if len(file.actual) >= length]
        for _ in range(8):
            if not names:
                return False
            name = self.prng.choice(names)
            blocks = (len(self.image.files[name].actual) - length) // BLOCK_BYTES
            offset = self.prng.below(blocks + 1) * BLOCK_BYTES
            same = name == effect.file and abs(offset - effect.offset) < length
            if not same and not self.spared(name, offset + length):
                self.image.write_misdirected(effect.file, effect.offset, effect.data, name, offset)
                self.world.note(f"disk misdirected {effect.file} @{effect.offset} to {name} @{offset}")
                return True
        return False


@lru_cache(maxsize=1024)
def check_name(name: str) -> None:
    """A file's name: relative, below the directory."""
    parts = name.split("/")
    assert all(part not in ("", ".", "..") for part in parts) and "\0" not in name, f"file name {name!r}"
    assert len(name.encode()) <= NAME_BYTES_MAX, f"file name {name!r} is too long"


class DiskPort:
    """The `Disk` of one process."""

    def __init__(self, disk: SimDisk, enter: Callable[..., None], onlooker: Onlooker | None) -> None:
        self._disk = disk
        self._enter = enter
        self._onlooker = onlooker
        self._on_done: Callable[[Completion], None] | None = None
        self._presume: Callable[[WriteDone], None] | None = None

    def start(self, on_done: Callable[[Completion], None], presume: Callable[[WriteDone], None]) -> None:
        self._on_done, self._presume = on_done, presume

    def files(self) -> tuple[FileInfo, ...]:
        return tuple(FileInfo(name, len(file.actual)) for name, file in sorted(self._disk.image.files.items()))

    def submit(self, effect: Operation) -> None:
        self._disk.submit(self, effect)

    def presume(self, event: WriteDone) -> None:
        self._enter(self._tell_presumed, event)

    def complete(self, completion: Completion, presumed: bool = False) -> None:
        self._enter(self._tell, completion, presumed)

    def _tell_presumed(self, event: WriteDone) -> None:
        assert self._presume is not None, "an operation was submitted before start"
        if self._onlooker is not None:
            self._onlooker.presumes()
        self._presume(event)

    def _tell(self, completion: Completion, presumed: bool) -> None:
        assert self._on_done is not None, "an operation was submitted before start"
        if presumed and self._onlooker is not None:
            self._onlooker.presumed(completion.error is None)
        self._on_done(completion)
