"""The world as the driver sees it: four small protocols, with a real and a simulated implementation each.

`io/driver.py` is the only caller. Implementations call back into the driver from the same thread
(real: the event loop; simulated: the world's heap), never from inside one of these methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from unimeter.core.effects import Apply, Create, Delete, Effect, Read, Touch, Write
from unimeter.core.inputs import ApplyDone, FileInfo, Input, Now, ReadDone, WriteDone
from unimeter.kernels.api import Bytes


class Core(Protocol):
    """What decides: core/node.py, or something around it that looks on."""

    @property
    def halted(self) -> bool: ...
    @property
    def deadline_ns(self) -> int: ...
    def step(self, now: Now, event: Input) -> list[Effect]: ...
    def glance(self, link: int, data: bytes) -> bytes | None:
        """The answer to `data`, if that is one whole read that can be answered without deciding, changing or waiting for
        anything; None: it is for `step`."""


class Clock(Protocol):
    def now(self) -> Now: ...
    def call_at(self, monotonic_ns: int, callback: Callable[[], None]) -> None:
        """Call once at that time; a later call replaces the earlier one. A time not in the future means: at
        the end of this turn, after the inputs that are already waiting."""


class Disk(Protocol):
    """One data directory. Every submitted operation completes exactly once through `on_done`, unless the
    process dies."""

    def start(
        self, on_done: Callable[[WriteDone | ReadDone | ApplyDone], None], presume: Callable[[WriteDone], None]
    ) -> None:
        """`presume`: a lone write is on its way, and nothing else is done in this thread until `on_done` says how it went: what follows
        if it goes well may be worked out meanwhile. What the disk needs of the write's data it has copied before."""

    def files(self) -> tuple[FileInfo, ...]:
        """All files below the data directory, sorted by name; called once, at boot."""

    def submit(self, effect: Write | Create | Delete | Read) -> None: ...


class Network(Protocol):
    """Connections, named by link numbers that the network hands out. Clients connect to the client port, nodes to the
    peer port; what comes in is reported to the driver (`link_opened`), with `inner` for the latter."""

    def send(self, link: int, data: Bytes) -> None:
        """Queue bytes; an unknown or closed link is fine (the bytes are lost, as they would be on a wire)."""

    def answer(self, link: int, data: Bytes) -> None:
        """Send a lone answer: as `send`, with nothing to be gathered for."""

    def close(self, link: int) -> None: ...

    def dial(self, ref: int, address: str) -> None:
        """Connect to a peer address: then driver.link_opened(..., inner=True, dialled=ref) or driver.dial_failed(ref),
        within a bounded time (DIAL_SECONDS_MAX of the implementation), never from inside this call."""


class Process(Protocol):
    def work(self, effect: Apply) -> None:
        """See to the job in another thread, or not at all; then driver.completed(ApplyDone), never from inside this call."""

    def touch(self, effect: Touch) -> None:
        """Have those pages made in another thread, holding on to `effect.memory` until they are, or ignore it."""

    def halt(self, reason: str | None) -> None:
        """End this process: reason None is a clean stop, anything else a failure to be reported loudly."""
