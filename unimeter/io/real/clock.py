"""The real clock: the machine's time, and one alarm on the event loop.

End of turn. A turn of uvloop (libuv) is: timers, then what call_soon queued, then one poll of all sockets and
eventfds with their callbacks, then the joined writes. What is queued with call_soon from inside a poll
callback therefore runs after every socket that was ready in that poll, and before the next poll. That is
exactly "the end of this turn, after the inputs that are already waiting": all requests that one poll brought
are gathered into one journal entry, and nobody waits for a timer.

The alarm is set after nearly every step, so setting it is cheap: a handle that fires too early for the current
deadline just looks again, and is never cancelled for a later one. libuv's timers count whole milliseconds
from the beginning of the turn; delays are rounded up, so an alarm may be late by a millisecond, and one that is
early after all is set again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic_ns, time_ns
from typing import Final

from unimeter.core.inputs import Now

MILLISECOND_NS: Final = 1_000_000
ALARM_NS_MAX: Final = 3_600_000 * MILLISECOND_NS  # one handle sleeps an hour at most, then looks again


def plainly(callback: Callable[[], None]) -> None:
    callback()


class RealClock:
    """`interface.Clock` over the machine's clocks and an event loop. `around` runs every callback."""

    def __init__(self, loop: asyncio.AbstractEventLoop, around: Callable[[Callable[[], None]], None] = plainly) -> None:
        self._loop = loop
        self._around = around
        self._callback: Callable[[], None] | None = None
        self._deadline_ns = 0
        self._soon = False  # a look at the end of this turn is queued
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0  # when it looks

    def now(self) -> Now:
        return Now(monotonic_ns(), time_ns())

    def call_at(self, monotonic_ns_: int, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._deadline_ns = monotonic_ns_
        if not self._soon:
            self._arm()

    def _arm(self) -> None:
        delay_ns = self._deadline_ns - monotonic_ns()
        if delay_ns <= 0:
            self._soon = True
            self._loop.call_soon(self._end_of_turn)
            return
        if self._timer is not None:
            if self._timer_ns <= self._deadline_ns:
                return  # it will look before that, and set itself again
            self._timer.cancel()
        delay_ns = min(delay_ns, ALARM_NS_MAX)
        delay_ms = -(-delay_ns // MILLISECOND_NS)
        self._timer_ns = monotonic_ns() + delay_ns
        self._timer = self._loop.call_later(delay_ms / 1000, self._timer_fired)

    def _end_of_turn(self) -> None:
        self._soon = False
        self._look()

    def _timer_fired(self) -> None:
        self._timer = None
        if not self._soon:
            self._look()

    def _look(self) -> None:
        callback = self._callback
        if callback is None:
            return
        if self._deadline_ns > monotonic_ns():
            self._arm()
            return
        self._callback = None
        self._around(callback)
