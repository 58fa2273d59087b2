"""Memory for the kernels: anonymous mappings that cost nothing until they are touched.

C kernels own no memory. An arena is a stretch of address space as large as the limit it serves, reserved
without a commitment (MAP_NORESERVE): pages come into being, zeroed, when first written, so a table may be
sized for its limit and still be small in a small node. Nothing ever moves or grows.

Sharp edge: a mapping must outlive every pointer into it. An `Arena` holds its mapping, whoever holds a
struct that points into an arena holds the Arena too.
"""

from __future__ import annotations

import mmap
from typing import Any

from unimeter.kernels.native._um import ffi

PAGE_BYTES = mmap.PAGESIZE
HUGE_PAGE_BYTES = 2 << 20
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)


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
        elif size >= 2 * HUGE_PAGE_BYTES:
            self._map.madvise(mmap.MADV_HUGEPAGE)
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
