"""The kernels in C, behind the types of `unimeter.kernels.api`.

One module per noun: wire (frames, catalog), intake (an open entry), splitter (the open entries of several groups),
journal (checksums, entries, records), state (a group's tables), job and applied (entries going into one, and what became
of them), query (answers and event lists), arena (the memory all of them live in), kernels (all of it as one object).
"""

from __future__ import annotations

from unimeter.kernels.native.kernels import NativeKernels

__all__ = ["NativeKernels"]
