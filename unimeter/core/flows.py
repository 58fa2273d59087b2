"""Runs flows: turns each request of a flow into a disk effect, and feeds the completion back in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from unimeter.core.flow import Corrupt, Flow, NoSpace, ReadFailed, Settled
from unimeter.core.outbox import Outbox


class _Waiting:
    """A flow that waits for something, and who is told of its end."""

    __slots__ = ("done", "flow", "no_space")

    def __init__(self, flow: Flow[Any], done: Callable[[Any], None], no_space: Callable[[], None]) -> None:
        self.flow = flow
        self.done = done
        self.no_space = no_space


class Flows:
    """All flows under way, by the number of the disk operation, or of the group, that each waits for."""

    def __init__(self, out: Outbox, halt: Callable[[str], None]) -> None:
        """`halt` is told of durable bytes that cannot be trusted, when the flow itself has no better answer."""
        self._out = out
        self._halt = halt
        self._waiting: dict[int, _Waiting] = {}
        self._unsettled: dict[int, list[_Waiting]] = {}
        self.is_settled: Callable[[int], bool] = lambda _group: True  # is nothing being applied aside to its state?

    def start(self, flow: Flow[Any], done: Callable[[Any], None], no_space: Callable[[], None]) -> None:
        """Run to the first request. `done` is given the flow's result; `no_space` is called if the disk was full."""
        self._advance(_Waiting(flow, done, no_space), lambda: next(flow))

    def resume(self, op: int, data: bytes, error: Exception | None) -> None:
        """Operation `op` is done."""
        waiting = self._waiting.pop(op)
        flow = waiting.flow
        self._advance(waiting, lambda: flow.send(data) if error is None else flow.throw(error))

    def settled(self, group: int) -> None:
        """For this moment nothing is being applied aside to the group's state."""
        for waiting in self._unsettled.pop(group, ()):
            self._advance(waiting, partial(next, waiting.flow))

    def _advance(self, waiting: _Waiting, move: Callable[[], Any]) -> None:
        try:
            request = move()
            while isinstance(request, Settled) and self.is_settled(request.group):
                request = next(waiting.flow)
        except StopIteration as stop:
            waiting.done(stop.value)
        except NoSpace:
            waiting.no_space()
        except (Corrupt, ReadFailed) as error:
            self._halt(str(error))
        else:
            if isinstance(request, Settled):
                self._unsettled.setdefault(request.group, []).append(waiting)
            else:
                self._waiting[self._out.request(request)] = waiting
