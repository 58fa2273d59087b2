"""Planted bugs: `unimeter sim --canary NAME` must fail, or the simulator is blind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimeter.sim.runner import Run


def plant(name: str | None, run: Run) -> None:
    return None
