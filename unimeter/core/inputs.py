"""What can happen to a node. Everything the outside world does reaches `Node.step` as one of these.

What happens all the time is a plain class: making a named tuple costs several times as much.

Links and operations are named by integers: links by whoever accepts connections (never reused within a
process), operations by the node itself (the `op` of an effect comes back in its completion).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from unimeter.kernels.api import FrameTable


class Now:
    """The time of a step. Only differences of `monotonic_ns` mean anything; `wall_ns` is ns since 1970 UTC."""

    __slots__ = ("monotonic_ns", "wall_ns")

    def __init__(self, monotonic_ns: int, wall_ns: int) -> None:
        self.monotonic_ns = monotonic_ns
        self.wall_ns = wall_ns


class FileInfo(NamedTuple):
    name: str  # relative to the data directory, "/" separated
    size_bytes: int


class DiskError(Enum):
    """How a disk operation can fail."""

    NO_SPACE = "no space"  # nothing was written; may be tried again
    FAILED = "failed"  # the disk said no, or a sync failed: the file's content is unknown from now on


class Booted(NamedTuple):
    """First input: what the data directory holds."""

    files: tuple[FileInfo, ...]


class LinkOpened(NamedTuple):
    """A connection is there. `inner`: between nodes (it came in on the peer port, or this node dialled it); `dialled`: the
    ref of the Dial that made it, 0 when the other side connected."""

    link: int
    peer: str
    inner: bool = False
    dialled: int = 0


class DialFailed(NamedTuple):
    """Nobody could be reached for this Dial."""

    ref: int


class FramesArrived:
    """Whole frames from one link. `frames.error` may end them: the link's bytes after that are not a protocol."""

    __slots__ = ("data", "frames", "link")

    def __init__(self, link: int, data: bytes, frames: FrameTable) -> None:
        self.link = link
        self.data = data
        self.frames = frames


class LinkEnded(NamedTuple):
    """The peer will ask nothing more, and may still read. Optional: LinkClosed may come without it."""

    link: int


class LinkClosed(NamedTuple):
    link: int


class WriteDone(NamedTuple):
    """A Write, Create or Delete is done: durable, or refused with an error."""

    op: int
    error: DiskError | None = None


class ReadDone(NamedTuple):
    """`data` is shorter than asked for only at the end of the file."""

    op: int
    data: bytes
    error: DiskError | None = None


class ApplyDone(NamedTuple):
    """An Apply is done, or can be finished."""

    op: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`Node.deadline_ns` has come (or nothing else happened for a while)."""


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Drain: answer what is on its way, write a checkpoint, then Halt with reason None."""


Input = (
    Booted
    | LinkOpened
    | DialFailed
    | FramesArrived
    | LinkEnded
    | LinkClosed
    | WriteDone
    | ReadDone
    | ApplyDone
    | TimePassed
    | StopRequested
)
