"""What a node can ask of the world. The effects of one step are unordered: whatever must come later is
emitted by the step that receives the completion of what must come first.

Every Write, Create, Delete and Read completes exactly once (WriteDone, ReadDone), or the node is dead.
Done means durable: content, length and directory entry survive a power cut.
"""

from __future__ import annotations

from typing import NamedTuple

from unimeter.kernels.api import Bytes, Job


class Send:
    """Bytes for one link, in order with earlier Sends of earlier steps on that link; lost if the link closes.
    At most one Send per link per step."""

    __slots__ = ("data", "link")

    def __init__(self, link: int, data: Bytes) -> None:
        self.link = link
        self.data = data


class Close(NamedTuple):
    """Close a link after what was sent on it (including in this step) has been flushed."""

    link: int


class Write:
    """Write data at offset of an existing file (or grow it), durably. Offset and length are multiples of
    BLOCK_BYTES. `data` must not change until the completion. Writes on one lane are done in the order given;
    the journal lane never waits for the bulk lane. `bulk`: the background lane (checkpoints). `lone`: a short write that
    whoever waits for anything waits for, and nobody else has come for a while, so whoever runs the node may as well wait for the disk itself."""

    __slots__ = ("bulk", "data", "file", "lone", "offset", "op")

    def __init__(self, op: int, file: str, offset: int, data: Bytes, bulk: bool = False, lone: bool = False) -> None:
        self.op = op
        self.file = file
        self.offset = offset
        self.data = data
        self.bulk = bulk
        self.lone = lone


class Create(NamedTuple):
    """Create a file of `size_bytes` zeroes with its space allocated (size 0: empty), replacing nothing: an
    existing file of that name is truncated first. Background lane."""

    op: int
    file: str
    size_bytes: int


class Delete(NamedTuple):
    """Remove a file; a missing file is fine. Background lane."""

    op: int
    file: str


class Read(NamedTuple):
    """Read up to length bytes at offset. Offset and length are multiples of BLOCK_BYTES. Background lane."""

    op: int
    file: str
    offset: int
    length: int


class Apply(NamedTuple):
    """Do this work beside what decides, as soon as possible or when it is finished: `job` says how (kernels.api.Job).
    Completes exactly once with ApplyDone, which may be late: whoever decides can finish the job before."""

    op: int
    job: Job


class Touch:
    """Memory that will soon be written to for the first time: (address, bytes), whole pages. A hint: whoever runs the node
    may have the pages made meanwhile. No completion. `memory` keeps them mapped: to be held until they are made."""

    __slots__ = ("memory", "stretches")

    def __init__(self, stretches: list[tuple[int, int]], memory: object) -> None:
        self.stretches = stretches
        self.memory = memory


class Dial(NamedTuple):
    """Connect to another node's peer address. Completes once: LinkOpened with `dialled` = ref, or DialFailed."""

    ref: int
    address: str


class Halt(NamedTuple):
    """Stop this node now. reason None: a clean stop that was asked for."""

    reason: str | None


Effect = Send | Close | Dial | Apply | Touch | Write | Create | Delete | Read | Halt
