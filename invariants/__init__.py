"""The claims of the system, one file each: the file name is the sentence, the class in it is called `Check`.

A new file here is found by itself. It needs a `sentence` ("For all ..., always ..."), a `canary` (a planted bug of
unimeter/sim/canaries.py that it must catch), and hooks of `unimeter.sim.invariant.Invariant`.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from unimeter.sim.invariant import Invariant


def _load() -> list[type[Invariant]]:
    found: list[type[Invariant]] = []
    for module in sorted(iter_modules(__path__), key=lambda info: info.name):
        found.append(import_module(f"{__name__}.{module.name}").Check)
    return found


ALL: list[type[Invariant]] = _load()
