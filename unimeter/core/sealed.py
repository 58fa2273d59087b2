"""What has been given its place in the log of a group, and who waits to hear what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from unimeter.core.catalog import Metric
from unimeter.core.entry import Head
from unimeter.core.raft.messages import Entry
from unimeter.core.refusal import Refused
from unimeter.kernels.api import Bytes, Intake, Job, Meta

Outcome = tuple[Metric, bool] | Refused | None

LEADER_CHANGED: Final = Refused(
    "leader_changed", "the group's leader changed before this was committed", "send it again: nothing of it was stored"
)


@dataclass
class ControlEntry:
    """A catalog, cluster, limits or configuration entry on its way through the log; `done` is told what applying it said."""

    kind: int
    body: bytes
    done: Callable[[Outcome], None]


class Bundled(NamedTuple):
    """A part of the open entry that another node forwarded."""

    link: int
    token: int
    first_batch: int
    batches: int
    rows: int


class Sealed:
    """A sealed entry that somebody waits for. `body`: the batches, in the intake's memory."""

    __slots__ = ("batches", "body", "bundles", "control", "intake", "rows", "stamp_ns", "term")

    def __init__(
        self,
        term: int,
        stamp_ns: int,
        intake: Intake | None = None,
        control: ControlEntry | None = None,
        body: Bytes = b"",
        batches: int = 0,
        rows: int = 0,
        bundles: list[Bundled] | None = None,
    ) -> None:
        self.term = term
        self.stamp_ns = stamp_ns
        self.intake = intake
        self.control = control
        self.body = body
        self.batches = batches
        self.rows = rows
        self.bundles: list[Bundled] = [] if bundles is None else bundles


class Aside:
    """Entries that are being applied in another thread. `before`: what the state was like."""

    __slots__ = ("before", "done", "entries", "job", "op")

    def __init__(self, op: int, job: Job, entries: list[tuple[Entry, Head]], before: Meta) -> None:
        self.op = op
        self.job = job
        self.entries = entries
        self.before = before
        self.done = False  # it need not be waited for

    @property
    def last_index(self) -> int:
        return self.entries[-1][0].index
