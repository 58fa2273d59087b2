"""Runs flows: turns each request of a flow into a disk effect, and feeds the completion back in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unimeter.core.flow import Corrupt, Flow, NoSpace, ReadFailed
from unimeter.core.outbox import Outbox


class Flows:
    """All flows under way, by the number of the disk operation that each waits for."""

    def __init__(self, out: Outbox, halt: Callable[[str], None]) -> None:
        """`halt` is told of durable bytes that cannot be trusted, when the flow itself has no better answer."""
        self._out = out
        self._halt = halt
        self._waiting: dict[int, tuple[Flow[Any], Callable[[Any], None], Callable[[], None]]] = {}

    def start(self, flow: Flow[Any], done: Callable[[Any], None], no_space: Callable[[], None]) -> None:
        """Run to the first request. `done` is given the flow's result; `no_space` is called if the disk was full."""
        self._advance(flow, done, no_space, lambda: next(flow))

    def resume(self, op: int, data: bytes, error: Exception | None) -> None:
        """Operation `op` is done."""
        flow, done, no_space = self._waiting.pop(op)
        self._advance(flow, done, no_space, lambda: flow.send(data) if error is None else flow.throw(error))

    def _advance(
        self, flow: Flow[Any], done: Callable[[Any], None], no_space: Callable[[], None], move: Callable[[], Any]
    ) -> None:
        try:
            request = move()
        except StopIteration as stop:
            done(stop.value)
        except NoSpace:
            no_space()
        except (Corrupt, ReadFailed) as error:
            self._halt(str(error))
        else:
            self._waiting[self._out.request(request)] = (flow, done, no_space)
