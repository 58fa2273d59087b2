"""Memory for the kernels: anonymous mappings that cost nothing until they are touched.

C kernels own no memory. An arena is a stretch of address space as large as the limit it serves, reserved
without a commitment (MAP_NORESERVE): pages come into being, zeroed, when first written, so a table may be
sized for its limit and still be small in a small node. Nothing ever moves or grows.

Where much is used, huge pages save faults and misses of the TLB. But the first byte of one zeroes two megabytes, and there are
hundreds of areas with little in them: so the beginning of each has pages of the usual size (measured on three nodes
with six groups: 350 MB less, and a tenth more throughput in the first seconds).

Sharp edge: a mapping must outlive every pointer into it. An `Arena` holds its mapping, whoever holds a
struct that points into an arena holds the Arena too.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

from unimeter.kernels.native._um import ffi

PAGE_BYTES: Final = mmap.PAGESIZE
HUGE_PAGE_BYTES: Final = 2 << 20
SMALL_BYTES: Final = HUGE_PAGE_BYTES  # the beginning of an area, in pages of the usual size
HUGE_FROM_BYTES: Final = 8 << 20  # an area that may become so large asks for huge pages behind that
_FLAGS: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)


def ask_for_huge_pages(memory: mmap.mmap, offset: int, size: int) -> None:
    """For an area of a mapping, behind its beginning, if it can become large."""
    if size >= HUGE_FROM_BYTES:
        memory.madvise(mmap.MADV_HUGEPAGE, offset + SMALL_BYTES, size - SMALL_BYTES)


class Arena:
    """A zeroed private mapping of at least `reserved_bytes`, and the um_arena fields that describe it.

    `view` is the memory as a memoryview (writable), `base` the address as a cdata `uint8_t *`. `huge`: may large pages
    back it? Not where a little is used here and there.
    """

    __slots__ = ("_hold", "_map", "base", "reserved_bytes", "view")

    def __init__(self, reserved_bytes: int, huge: bool = True) -> None:
        size = max(PAGE_BYTES, (reserved_bytes + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES)
        self._map = mmap.mmap(-1, size, flags=_FLAGS)
        if not huge:
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        else:
            ask_for_huge_pages(self._map, 0, size)
        self.reserved_bytes = reserved_bytes
        self.view = memoryview(self._map)
        self._hold: Any = ffi.from_buffer(self._map)
        self.base: Any = ffi.cast("uint8_t *", self._hold)

    def fill(self, arena: Any) -> None:
        """Make a um_arena (cdata, by reference) describe this memory, empty."""
        arena.base = self.base
        arena.reserved = self.reserved_bytes
        arena.used = 0

    def forget(self) -> None:
        """Give the pages back; the memory reads as zeroes again."""
        self._map.madvise(mmap.MADV_DONTNEED)
