"""The arithmetic of the system: pure functions over bytes, in C with a plain-Python twin.

`load()` returns the implementation that UNIMETER_KERNELS names (native or reference; native when unset).
"""

from __future__ import annotations

import os
from functools import cache

from unimeter.kernels.api import Kernels


@cache
def load(name: str | None = None) -> Kernels:
    """The kernels by name, or as the environment variable UNIMETER_KERNELS says."""
    chosen = name or os.environ.get("UNIMETER_KERNELS") or "native"
    if chosen == "native":
        from unimeter.kernels.native import NativeKernels

        return NativeKernels()
    if chosen == "reference":
        from unimeter.kernels.reference import ReferenceKernels

        return ReferenceKernels()
    raise ValueError(f"UNIMETER_KERNELS={chosen!r}: use native or reference")
