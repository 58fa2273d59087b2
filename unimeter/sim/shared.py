"""What all nodes of a run can share, because it never changes: compiled catalogs.

Every replica of every group compiles the same definitions, at each change of a metric and again after each restart. The result
depends on nothing but its input and is immutable (kernels/native/wire.py), so one of each is enough for a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

from unimeter.kernels.api import Catalog, Kernels


def sharing(kernels: Kernels) -> Kernels:
    """The same kernels, but equal catalogs are one."""
    known: dict[tuple[bytes, ...], Catalog] = {}

    def catalog(metrics: Sequence[bytes]) -> Catalog:
        key = tuple(metrics)
        found = known.get(key)
        if found is None:
            found = known[key] = kernels.catalog(metrics)
        return found

    functions = {name: getattr(kernels, name) for name in dir(kernels) if not name.startswith("_")}
    return cast(Kernels, SimpleNamespace(**{**functions, "catalog": catalog}))
