"""The glue between a node and a world: inputs in, effects out. The same file in production and in the simulator,
so the test glue can never be kinder than the real glue. It knows the world only as io/interface.py.
"""

from __future__ import annotations

from typing import Final

from unimeter.config import NodeConfig
from unimeter.core.effects import Apply, Close, Dial, Effect, Halt, Send, Touch
from unimeter.core.inputs import (
    ApplyDone,
    Booted,
    DialFailed,
    DiskError,
    FramesArrived,
    Input,
    LinkClosed,
    LinkEnded,
    LinkOpened,
    Now,
    ReadDone,
    StopRequested,
    TimePassed,
    WriteDone,
)
from unimeter.core.upkeep import NEVER_NS
from unimeter.io.framer import Framer
from unimeter.io.interface import Clock, Core, Disk, Network, Process
from unimeter.kernels.api import Kernels

_TIME_PASSED: Final = TimePassed()
_TURN_NS: Final = -1  # stands for "at the end of this turn" among deadlines


class Driver:
    """Runs one node. Every method is to be called from the one thread that decides."""

    def __init__(
        self,
        node: Core,
        clock: Clock,
        disk: Disk,
        network: Network,
        process: Process,
        kernels: Kernels,
        config: NodeConfig,
    ) -> None:
        self.node = node
        self._clock = clock
        self._disk = disk
        self._network = network
        self._process = process
        self._kernels = kernels
        self._config = config
        self._framers: dict[int, Framer] = {}
        self._pending_bytes = 0  # in all framers
        self._scheduled_ns = NEVER_NS
        self._presumed: list[Effect] | None = None  # what follows from a write that is under way, once it is done

    # ---- what the world reports ----

    def boot(self) -> None:
        """Start the node on what the disk holds."""
        self._disk.start(self.completed, self.presume)
        self._step(Booted(self._disk.files()))

    def link_opened(self, link: int, peer: str, inner: bool = False, dialled: int = 0) -> None:
        """`inner`: between nodes; `dialled`: the ref of the Dial it answers, 0 when the other side connected."""
        bound = self._config.peer_frame_bytes_max if inner else self._config.frame_bytes_max
        self._framers[link] = Framer(self._kernels, bound)
        self._step(LinkOpened(link, peer, inner, dialled))

    def dial_failed(self, ref: int) -> None:
        self._step(DialFailed(ref))

    def bytes_arrived(self, link: int, data: bytes) -> None:
        framer = self._framers.get(link)
        if framer is None:
            return
        if framer.idle:
            answer = self.node.glance(link, data)
            if answer is not None:
                self._network.answer(link, answer)
                return
        for whole, frames in framer.feed(data):
            self._step(FramesArrived(link, whole, frames))
        if link in self._framers:  # not closed by what it asked
            self._pending_bytes += framer.pending_bytes - framer.counted_bytes
            framer.counted_bytes = framer.pending_bytes
            if self._pending_bytes > self._config.receive_pending_bytes_max:
                self._network.close(link)  # whoever brings the byte too many goes
                self.link_closed(link)

    def link_ended(self, link: int) -> None:
        if link in self._framers:
            self._step(LinkEnded(link))

    def link_closed(self, link: int) -> None:
        if self._drop(link):
            self._step(LinkClosed(link))

    def _drop(self, link: int) -> bool:
        """Forget a link; False: it was not known."""
        framer = self._framers.pop(link, None)
        if framer is None:
            return False
        self._pending_bytes -= framer.counted_bytes
        return True

    def presume(self, event: WriteDone) -> None:
        """Have the node do what it will do when this write is done: it works while the disk does. The world sees nothing of it
        before `completed` says so, which comes next."""
        assert self._presumed is None and event.error is None, "one write is presumed at a time, and to go well"
        if not self.node.halted:
            self._presumed = self.node.step(self._clock.now(), event)

    def completed(self, event: WriteDone | ReadDone | ApplyDone) -> None:
        presumed, self._presumed = self._presumed, None
        if presumed is None:
            self._step(event)
        elif isinstance(event, WriteDone) and event.error is None:
            self._perform(self._clock.now(), presumed)
        elif not self.node.halted:  # it knows things that are not so: nothing of that got out, and nothing will
            self._step(WriteDone(event.op, DiskError.FAILED))
        else:  # it found a reason of its own to end; of what it did, that alone is to be seen
            self._perform(self._clock.now(), [effect for effect in presumed if isinstance(effect, Halt)])

    def stop(self) -> None:
        """Drain and stop."""
        self._step(StopRequested())

    # ---- the loop ----

    def _tick(self) -> None:
        self._scheduled_ns = NEVER_NS
        self._step(_TIME_PASSED)

    def _step(self, event: Input) -> None:
        node = self.node
        if node.halted:
            return
        now = self._clock.now()
        self._perform(now, node.step(now, event))

    def _perform(self, now: Now, effects: list[Effect]) -> None:
        closing: list[int] = []
        for effect in effects:
            if isinstance(effect, Send):
                self._network.send(effect.link, effect.data)
            elif isinstance(effect, Apply):
                self._process.work(effect)
            elif isinstance(effect, Touch):
                self._process.touch(effect)
            elif isinstance(effect, Close):
                closing.append(effect.link)
            elif isinstance(effect, Dial):
                self._network.dial(effect.ref, effect.address)
            elif isinstance(effect, Halt):
                self._process.halt(effect.reason)
            else:
                self._disk.submit(effect)
        for link in closing:  # after the sends of this step, wherever they stood in the list
            self._drop(link)
            self._network.close(link)
        self._schedule(now.monotonic_ns)

    def _schedule(self, now_ns: int) -> None:
        deadline = self.node.deadline_ns
        wanted = _TURN_NS if deadline <= now_ns else deadline
        if wanted == self._scheduled_ns or wanted == NEVER_NS:
            return  # a tick that comes too early does no harm
        self._scheduled_ns = wanted
        self._clock.call_at(min(deadline, now_ns) if wanted == _TURN_NS else deadline, self._tick)
