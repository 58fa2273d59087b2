"""Where planted bugs register: name -> what plants it into a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimeter.sim.runner import Run

CANARIES: dict[str, Callable[[Run], None]] = {}


def canary(plant_it: Callable[[Run], None]) -> Callable[[Run], None]:
    CANARIES[plant_it.__name__] = plant_it
    return plant_it
