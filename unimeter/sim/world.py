"""Virtual time: a heap of (time, sequence) events and nothing else.

Two events at one instant happen in the order in which they were scheduled, so a run is a pure function of
its seed. Nothing in the simulator waits; a second of virtual time costs only the events that lie in it.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from unimeter.sim.trace import Trace

US: Final = 1_000
MS: Final = 1_000_000
SECOND: Final = 1_000_000_000

SAME_INSTANT_MAX: Final = 100_000  # events at one instant before we call it a livelock


LOOK_EVERY: Final = 8  # events between two looks whether what is waited for has come
LULL_NS: Final = 50 * MS  # it is looked, too, before time goes on by as much as this


class Livelock(Exception):
    """Virtual time stood still: something schedules itself without end."""


Timer = list[Any]
"""An entry of the heap: time, sequence, callback (None: called off), arguments. The heap compares the first two."""


def cancel(timer: Timer) -> None:
    """O(1): the heap skips it when its time comes."""
    timer[2] = None


class World:
    def __init__(self, trace: Trace) -> None:
        self.now_ns = 0
        self.steps = 0
        self.trace = trace
        self._sequence = 0
        self._heap: list[Timer] = []

    def at(self, time_ns: int, callback: Callable[..., None], *args: Any) -> Timer:
        self._sequence = sequence = self._sequence + 1
        timer: Timer = [time_ns if time_ns > self.now_ns else self.now_ns, sequence, callback, args]
        heappush(self._heap, timer)
        return timer

    def after(self, delay_ns: int, callback: Callable[..., None], *args: Any) -> Timer:
        self._sequence = sequence = self._sequence + 1
        timer: Timer = [self.now_ns + delay_ns if delay_ns > 0 else self.now_ns, sequence, callback, args]
        heappush(self._heap, timer)
        return timer

    def note(self, text: str) -> None:
        self.trace.note(self.now_ns, text)

    def run(self, until_ns: int, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass until `done` (True) or until the given time (False)."""
        heap = self._heap
        instant, crowd, look = -1, 0, 0
        while heap and heap[0][0] <= until_ns:
            if done is not None:
                if (look == 0 or heap[0][0] > self.now_ns + LULL_NS) and done():
                    return True
                look = (look + 1) % LOOK_EVERY
            time_ns, _, callback, args = heappop(heap)
            if callback is None:
                continue
            if time_ns != instant:
                instant, crowd = time_ns, 0
            crowd += 1
            if crowd > SAME_INSTANT_MAX:
                raise Livelock(f"{crowd} events at one instant, the last of them {callback!r}")
            self.now_ns = time_ns
            self.steps += 1
            callback(*args)
        if done is not None and done():
            return True
        self.now_ns = max(self.now_ns, until_ns)
        return False
