"""Several nodes in one test: in-memory disks that are done at once, links that deliver at once, and hand-driven time.

No chance, no faults but those that a test makes itself (`stop`, `cut`): for claims about the core that want to be read
in order. The simulator is for everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.harness import JAN_1, LIMITS, SMALL
from unimeter import kernels
from unimeter.config import MIB, MS_NS, Member, NodeConfig
from unimeter.core.effects import Apply, Close, Create, Delete, Dial, Effect, Halt, Read, Send, Touch, Write
from unimeter.core.inputs import (
    ApplyDone,
    Booted,
    DialFailed,
    FileInfo,
    FramesArrived,
    Input,
    LinkClosed,
    LinkOpened,
    Now,
    ReadDone,
    TimePassed,
    WriteDone,
)
from unimeter.core.node import Node
from unimeter.io.framer import Framer
from unimeter.kernels.api import Limits

CLUSTER = replace(SMALL, peer_frame_bytes_max=4 * MIB, append_bytes_max=64 * 1024, log_mark_bytes=8192)


@dataclass
class Machine:
    """What outlives a process: files. And the process, if there is one."""

    node_id: int
    files: dict[str, bytearray] = field(default_factory=dict)
    node: Node | None = None
    halted: str | None = None
    framers: dict[int, Framer] = field(default_factory=dict)
    other_end: dict[int, tuple[int, int]] = field(default_factory=dict)  # link -> (node id, link); clients: absent
    answers: dict[int, bytes] = field(default_factory=dict)  # what was sent to clients, by link


class ClusterBench:
    def __init__(
        self, nodes: int = 3, groups: int = 2, config: NodeConfig = CLUSTER, limits: Limits = LIMITS, known: int = 0
    ) -> None:
        """`known`: members on everybody's command line; the first `nodes` are started."""
        self.kernels = kernels.load()
        self.limits = limits
        self.members = tuple(Member(n, f"10.0.0.{n}:7001", f"10.0.0.{n}:7101") for n in range(1, (known or nodes) + 1))
        self.config = replace(config, group_count=groups, members=self.members)
        self.machines = {n: Machine(n) for n in range(1, nodes + 1)}
        self.now_ns = 0
        self.cuts: set[tuple[int, int]] = set()  # (from, to): bytes are lost on the way
        self._queue: deque[tuple[int, Input | Callable[[], None]]] = deque()
        self._links = 0
        self._seeds = 0

    # ---- processes ----

    def start(self, *numbers: int) -> None:
        for number in numbers or tuple(self.machines):
            machine = self.machines[number]
            self._seeds += 1
            member = next((m for m in self.members if m.node_id == number), None)
            advertise = member.client_address if member else f"10.0.0.{number}:7001"
            config = replace(self.config, node_id=number, advertise=advertise)
            machine.node = Node(config, self.kernels, self.limits, seed=self._seeds)
            machine.halted = None
            files = tuple(FileInfo(name, len(data)) for name, data in sorted(machine.files.items()))
            self.step(number, Booted(files))
        self.settle()

    def kill(self, number: int) -> None:
        machine = self.machines[number]
        machine.node = None
        for link in list(machine.other_end):
            self._hang_up(number, link)
        machine.framers.clear()
        self.settle()

    def wipe(self, number: int) -> None:
        self.kill(number)
        self.machines[number].files.clear()

    # ---- time ----

    def step(self, number: int, event: Input) -> None:
        machine = self.machines[number]
        if machine.node is None or machine.node.halted:
            return
        for effect in machine.node.step(Now(self.now_ns, JAN_1 + self.now_ns), event):
            self._take(machine, effect)

    def settle(self) -> None:
        """Let everything happen that takes no time."""
        for _ in range(200_000):
            if self._queue:
                number, event = self._queue.popleft()
                if callable(event):
                    event()
                else:
                    self.step(number, event)
                continue
            due = [
                m for m in self.machines.values() if m.node and not m.node.halted and m.node.deadline_ns <= self.now_ns
            ]
            if not due:
                return
            for machine in due:
                self.step(machine.node_id, TimePassed())
        raise AssertionError("it never settles")

    def run(self, milliseconds: int, until: Callable[[], bool] | None = None) -> None:
        """Let time pass, millisecond by millisecond."""
        for _ in range(milliseconds):
            if until is not None and until():
                return
            self.now_ns += MS_NS
            self.settle()
        assert until is None or until(), "it did not come true in time"

    # ---- the world ----

    def _take(self, machine: Machine, effect: Effect) -> None:
        number = machine.node_id
        if isinstance(effect, Send):
            self._deliver(machine, effect.link, bytes(effect.data))
        elif isinstance(effect, Close):
            machine.framers.pop(effect.link, None)
            self._queue.append((number, lambda: self._hang_up(number, effect.link, tell=False)))
        elif isinstance(effect, Halt):
            machine.halted = effect.reason
        elif isinstance(effect, Dial):
            self._queue.append((number, lambda: self._dial(number, effect)))
        elif not isinstance(effect, Touch):
            self._queue.append((number, self._disk(machine, effect)))

    def _disk(self, machine: Machine, effect: Write | Create | Delete | Read | Apply) -> Input:
        files = machine.files
        if isinstance(effect, Apply):
            return ApplyDone(effect.op)
        if isinstance(effect, Read):
            return ReadDone(
                effect.op, bytes(files.get(effect.file, b"")[effect.offset : effect.offset + effect.length])
            )
        if isinstance(effect, Create):
            files[effect.file] = bytearray(effect.size_bytes)
        elif isinstance(effect, Delete):
            files.pop(effect.file, None)
        else:
            content = files[effect.file]
            content.extend(bytes(max(0, effect.offset + len(effect.data) - len(content))))
            content[effect.offset : effect.offset + len(effect.data)] = effect.data
        return WriteDone(effect.op)

    def _open(self, number: int, peer: str, inner: bool, dialled: int = 0) -> int:
        self._links += 1
        machine, link = self.machines[number], self._links
        assert machine.node is not None
        bound = self.config.peer_frame_bytes_max if inner else self.config.frame_bytes_max
        machine.framers[link] = Framer(self.kernels, bound)
        self._queue.append((number, LinkOpened(link, peer, inner, dialled)))
        return link

    def _dial(self, number: int, effect: Dial) -> None:
        other = int(effect.address.split(":")[0].rsplit(".", 1)[1])
        target = self.machines.get(other)
        unreachable = (number, other) in self.cuts or (other, number) in self.cuts
        if self.machines[number].node is None:
            return
        if target is None or target.node is None or unreachable:
            self._queue.append((number, DialFailed(effect.ref)))
            return
        near = self._open(number, effect.address, True, effect.ref)
        far = self._open(other, f"node {number}", True)
        self.machines[number].other_end[near] = (other, far)
        target.other_end[far] = (number, near)

    def _deliver(self, machine: Machine, link: int, data: bytes) -> None:
        end = machine.other_end.get(link)
        if end is None:
            machine.answers[link] = machine.answers.get(link, b"") + data
            return
        other, far = end
        if (machine.node_id, other) not in self.cuts:
            self._queue.append((other, lambda: self._arrive(other, far, data)))

    def _arrive(self, number: int, link: int, data: bytes) -> None:
        framer = self.machines[number].framers.get(link)
        if framer is not None:
            for whole, frames in framer.feed(data):
                self.step(number, FramesArrived(link, whole, frames))

    def _hang_up(self, number: int, link: int, tell: bool = True) -> None:
        machine = self.machines[number]
        machine.framers.pop(link, None)
        end = machine.other_end.pop(link, None)
        if tell and machine.node is not None:
            self._queue.append((number, LinkClosed(link)))
        if end is not None:
            other, far = end
            if self.machines[other].other_end.pop(far, None) is not None:
                self.machines[other].framers.pop(far, None)
                self._queue.append((other, LinkClosed(far)))

    # ---- clients ----

    def client(self, number: int) -> int:
        link = self._open(number, "client", False)
        self.settle()
        return link

    def ask(self, number: int, link: int, data: bytes, milliseconds: int = 0) -> bytes:
        """Send, let time pass, return what came back on that link since."""
        machine = self.machines[number]
        machine.answers.pop(link, None)
        self._arrive(number, link, data)
        self.settle()
        self.run(milliseconds)
        return machine.answers.pop(link, b"")

    # ---- looking ----

    def nodes(self) -> list[Node]:
        return [m.node for m in self.machines.values() if m.node is not None and not m.node.halted]

    def ready(self) -> bool:
        return all(node.ready for node in self.nodes())

    def leader(self, group: int) -> int:
        """Node id of the leader that most nodes know; 0: none."""
        known = [node.topology.leader(group) for node in self.nodes() if node.topology is not None]
        return max(known, key=known.count, default=0)
