"""What survives a power cut: the durable bytes of one data directory.

Every file is kept twice. `actual` is what the platter holds and what reads return; `ideal` is what it would
hold had the disk done what it was told. Honest mishaps (a write that was lost or torn because the power went)
happen to both: nothing was promised yet. Lies (bit rot, a write that landed elsewhere) happen to `actual`
alone. So a file is *tainted* exactly where the two differ, which tells whether a node that refuses to start
has a reason to, and `repair` is what restoring a file from a replica would do. Until the first lie about a file both are the
same bytes in memory: most files are never lied about, and then nothing is written or compared twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from unimeter.kernels.api import Bytes

SECTOR_BYTES: Final = 512  # the unit that a disk writes whole or not at all


class File:
    __slots__ = ("actual", "ideal")

    def __init__(self, size_bytes: int) -> None:
        self.actual = self.ideal = bytearray(size_bytes)

    @property
    def lied(self) -> bool:
        """Was anything ever wrong with it since it was last repaired?"""
        return self.actual is not self.ideal

    def part(self) -> bytearray:
        """The actual bytes, to be spoiled."""
        if self.actual is self.ideal:
            self.actual = bytearray(self.ideal)
        return self.actual


def _put(content: bytearray, offset: int, data: Bytes) -> None:
    end = offset + len(data)
    if end > len(content):
        content.extend(bytes(end - len(content)))
    content[offset:end] = data


class Image:
    """Files by name. All operations are durable at once; `SimDisk` decides when that is."""

    def __init__(self) -> None:
        self.files: dict[str, File] = {}

    def used_bytes(self) -> int:
        return sum(len(file.ideal) for file in self.files.values())

    def create(self, name: str, size_bytes: int) -> None:
        self.files[name] = File(size_bytes)

    def delete(self, name: str) -> None:
        self.files.pop(name, None)

    def write(self, name: str, offset: int, data: Bytes) -> None:
        file = self.files[name]
        _put(file.ideal, offset, data)
        if file.lied:
            _put(file.actual, offset, data)

    def write_sectors(self, name: str, offset: int, data: Bytes, landed: Sequence[bool]) -> None:
        """A torn write: only the sectors marked in `landed` reached the platter."""
        for number, good in enumerate(landed):
            if good:
                at = number * SECTOR_BYTES
                self.write(name, offset + at, data[at : at + SECTOR_BYTES])

    def write_misdirected(self, name: str, offset: int, data: Bytes, victim: str, victim_offset: int) -> None:
        """The disk says done, but the bytes went to another place."""
        file = self.files[name]
        file.part()
        _put(file.ideal, offset, data)
        if len(file.actual) < len(file.ideal):
            file.actual.extend(bytes(len(file.ideal) - len(file.actual)))
        target = self.files[victim].part()
        assert victim_offset + len(data) <= len(target), "a misdirected write stays inside a file"
        target[victim_offset : victim_offset + len(data)] = data

    def flip(self, name: str, offset: int, bit: int) -> None:
        self.files[name].part()[offset] ^= 1 << bit

    def tainted(self) -> list[str]:
        """Names of the files that do not hold what was written to them."""
        return sorted(name for name, file in self.files.items() if file.lied and file.actual != file.ideal)

    def repair(self) -> None:
        for file in self.files.values():
            file.actual = file.ideal
