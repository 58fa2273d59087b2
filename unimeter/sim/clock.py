"""A host's clocks: a monotonic one that drifts and a wall clock that people and daemons set.

The wall clock may stand wrong from the start (skew) and jump at any time, forwards and backwards; the
monotonic clock starts anew with every process and runs a little fast or slow. Timers fire late, never early.

A turn of a node ends when it has taken what was there, and that takes a while: what arrives meanwhile belongs to the same turn.
How long a turn may last is chosen for each process, so that some take one input at a time, as long as no two come at one instant,
and others gather many before they answer, seal an entry or send to followers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unimeter.core.inputs import Now
from unimeter.sim.prng import Prng
from unimeter.sim.world import US, Timer, World, cancel

MILLION: Final = 1_000_000
TURNS_NS: Final = (1, 300 * US, 600 * US)  # a turn of a process lasts less than one of these


class WallClock:
    """What the host believes the date is. Shared by all processes that run on it, one after the other."""

    def __init__(self, world: World, start_ns: int) -> None:
        self._world = world
        self.offset_ns = start_ns  # to true time
        self._history = [(0, start_ns)]  # since when which offset

    def now_ns(self) -> int:
        return self._world.now_ns + self.offset_ns

    def jump(self, by_ns: int) -> None:
        self.offset_ns += by_ns
        self._history.append((self._world.now_ns, self.offset_ns))

    def dates(self, from_ns: int, to_ns: int) -> list[int]:
        """The dates that the clock showed at the ends of a stretch of true time, and around each jump in it."""
        shown: list[int] = []
        for number, (since_ns, offset_ns) in enumerate(self._history):
            until_ns = self._history[number + 1][0] if number + 1 < len(self._history) else to_ns
            if since_ns <= to_ns and until_ns >= from_ns:
                shown += [max(since_ns, from_ns) + offset_ns, min(until_ns, to_ns) + offset_ns]
        return shown


class ProcessClock:
    """The `Clock` of one process (one incarnation of a node)."""

    def __init__(self, world: World, wall: WallClock, prng: Prng, enter: Callable[..., None]) -> None:
        self._world = world
        self._wall = wall
        self._enter = enter
        self._prng = prng
        self._boot_ns = world.now_ns
        self._base_ns = prng.between(1, 1 << 40)
        self._rate_ppm = MILLION + prng.between(-200, 200)
        self._turn_ns = self._prng.choice(TURNS_NS)
        self._timer: Timer | None = None

    def now(self) -> Now:
        true_ns = self._world.now_ns
        monotonic_ns = self._base_ns + (true_ns - self._boot_ns) * self._rate_ppm // MILLION
        return Now(monotonic_ns, true_ns + self._wall.offset_ns)

    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> None:
        if self._timer is not None:
            cancel(self._timer)
        left_ns = monotonic_ns - self._monotonic_ns()
        if left_ns <= 0:
            delay_ns = self._prng.below(self._turn_ns)
        else:
            delay_ns = left_ns * MILLION // self._rate_ppm + 1 + self._prng.below(50 * US)
        self._timer = self._world.after(delay_ns, self._fire, callback)

    def stop(self) -> None:
        if self._timer is not None:
            cancel(self._timer)

    def _fire(self, callback: Callable[[], None]) -> None:
        self._timer = None
        self._enter(callback)

    def _monotonic_ns(self) -> int:
        return self._base_ns + (self._world.now_ns - self._boot_ns) * self._rate_ppm // MILLION
