"""What one step of the node asks of the world, gathered until the step ends."""

from __future__ import annotations

from unimeter.core.effects import Apply, Close, Create, Delete, Dial, Effect, Halt, Read, Send, Touch, Write
from unimeter.core.flow import CreateFile, DeleteFile, Operation, ReadFile
from unimeter.kernels.api import Bytes, Job


class Outbox:
    """Joins what is sent to one link into one Send; numbers disk operations. Only `Node` owns one."""

    def __init__(self) -> None:
        self._effects: list[Effect] = []
        self._sends: dict[int, list[Bytes]] = {}
        self._op = 0

    def send(self, link: int, data: Bytes) -> None:
        self._sends.setdefault(link, []).append(data)

    def close(self, link: int) -> None:
        self._effects.append(Close(link))

    def dial(self, ref: int, address: str) -> None:
        self._effects.append(Dial(ref, address))

    def halt(self, reason: str | None) -> None:
        self._effects.append(Halt(reason))

    def write_journal(self, file: str, offset: int, data: Bytes, lone: bool) -> int:
        self._op += 1
        self._effects.append(Write(self._op, file, offset, data, lone=lone))
        return self._op

    def apply(self, job: Job) -> int:
        """Have the job done by somebody else. Returns the operation's number."""
        self._op += 1
        self._effects.append(Apply(self._op, job))
        return self._op

    def touch(self, stretches: list[tuple[int, int]], memory: object) -> None:
        self._effects.append(Touch(stretches, memory))

    def request(self, request: Operation) -> int:
        """A flow's disk operation, on the background lane. Returns its number."""
        self._op += 1
        effect: Effect
        if isinstance(request, ReadFile):
            effect = Read(self._op, request.file, request.offset, request.length)
        elif isinstance(request, CreateFile):
            effect = Create(self._op, request.file, request.size_bytes)
        elif isinstance(request, DeleteFile):
            effect = Delete(self._op, request.file)
        else:
            effect = Write(self._op, request.file, request.offset, request.data, bulk=True)
        self._effects.append(effect)
        return self._op

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        for link, parts in self._sends.items():
            effects.append(Send(link, parts[0] if len(parts) == 1 else b"".join(parts)))
        self._sends.clear()
        return effects
