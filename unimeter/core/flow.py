"""Long work in straight lines: a flow is a generator that asks for one disk operation at a time.

Recovery, checkpoints, new segments and journal scans take many steps. Written as state machines they would
be unreadable, written with callbacks untestable; as generators they read top to bottom:

    data = yield ReadFile("identity", 0, 4096)

A flow touches no world: it yields a request, `Node` turns it into an effect with an operation number, and
the completion is sent back in. NO_SPACE arrives as the exception `NoSpace` at the yield; a FAILED write halts
the node and the flow is never resumed; a FAILED read arrives as `ReadFailed`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, TypeVar

from unimeter.kernels.api import Bytes


class ReadFile(NamedTuple):
    file: str
    offset: int
    length: int


class WriteFile(NamedTuple):
    file: str
    offset: int
    data: Bytes


class CreateFile(NamedTuple):
    file: str
    size_bytes: int


class DeleteFile(NamedTuple):
    file: str


class Settled(NamedTuple):
    """No operation: go on as soon as nothing is being applied aside to that group's state."""

    group: int


class NoSpace(Exception):
    """The disk is full; nothing of the operation was done."""


class ReadFailed(Exception):
    """The disk could not return the bytes asked for."""


class Corrupt(Exception):
    """Durable bytes are not what was written. The message names the file, the offset and what to do."""


Operation = ReadFile | WriteFile | CreateFile | DeleteFile
Request = Operation | Settled
T = TypeVar("T")
Flow = Generator[Request, bytes, T]
