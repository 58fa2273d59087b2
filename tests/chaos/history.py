"""What was done and what was answered, compactly: a row of numbers per batch and per read, nothing per event.

Times are monotonic seconds of one process. `complete` of a batch is infinite while, and if, nobody knows what became
of it: then each of its events may be there once, or not. (A batch of several groups may be there in part.)
"""

from __future__ import annotations

import gzip
import json
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.plan import Cast, Kind

UNKNOWN = float("inf")


class Batch(NamedTuple):
    writer: int
    first: int
    count: int  # type: ignore[assignment]
    invoke: float
    complete: float

    @property
    def known(self) -> bool:
        return self.complete != UNKNOWN


class Read(NamedTuple):
    key: int
    node: int  # who was asked: a node's number, 0 = whoever leads
    invoke: float
    complete: float
    count: int  # type: ignore[assignment]
    sum: int


@dataclass
class Fault:
    """Something that was done to a node. `until` is when it was over: healed, restarted and ready, free again."""

    kind: str
    node: int
    since: float
    until: float = UNKNOWN
    detail: str = ""
    leads: tuple[int, ...] = ()  # groups that the node led when it began


@dataclass
class Trouble:
    """A call of the SDK that raised, although it had its timeout to try again."""

    at: float  # when it gave up
    seconds: float  # how long it had tried
    what: str


@dataclass
class History:
    cast: Cast
    writers: array[int] = field(default_factory=lambda: array("H"))
    firsts: array[int] = field(default_factory=lambda: array("q"))
    counts: array[int] = field(default_factory=lambda: array("i"))
    invokes: array[float] = field(default_factory=lambda: array("d"))
    completes: array[float] = field(default_factory=lambda: array("d"))
    read_keys: array[int] = field(default_factory=lambda: array("i"))
    read_nodes: array[int] = field(default_factory=lambda: array("H"))
    read_invokes: array[float] = field(default_factory=lambda: array("d"))
    read_completes: array[float] = field(default_factory=lambda: array("d"))
    read_counts: array[int] = field(default_factory=lambda: array("q"))
    read_sums: array[int] = field(default_factory=lambda: array("q"))
    faults: list[Fault] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)  # what was seen to be wrong on the way
    stalls: list[str] = field(default_factory=list)  # what the nodes said while a group took no writes
    notes: dict[str, int] = field(default_factory=dict)  # how often something worth knowing happened
    events_acked: int = 0
    events_unknown: int = 0

    def add_batch(self, writer: int, first: int, count: int, invoke: float) -> int:
        """A batch that is about to be sent; returns its row."""
        self.writers.append(writer)
        self.firsts.append(first)
        self.counts.append(count)
        self.invokes.append(invoke)
        self.completes.append(UNKNOWN)
        self.events_unknown += count
        return len(self.completes) - 1

    def acknowledge(self, row: int, complete: float) -> None:
        assert self.completes[row] == UNKNOWN
        self.completes[row] = complete
        self.events_acked += self.counts[row]
        self.events_unknown -= self.counts[row]

    def add_read(self, key: int, node: int, invoke: float, complete: float, count: int, total: int) -> None:
        self.read_keys.append(key)
        self.read_nodes.append(node)
        self.read_invokes.append(invoke)
        self.read_completes.append(complete)
        self.read_counts.append(count)
        self.read_sums.append(total)

    def note(self, what: str, times: int = 1) -> None:
        self.notes[what] = self.notes.get(what, 0) + times

    def batch(self, row: int) -> Batch:
        return Batch(
            self.writers[row], self.firsts[row], self.counts[row], self.invokes[row], self.completes[row]
        )  # fmt: skip

    def batches(self) -> Iterator[Batch]:
        columns = (self.writers, self.firsts, self.counts, self.invokes, self.completes)
        return (Batch(*row) for row in zip(*columns, strict=True))

    def reads(self) -> Iterator[Read]:
        columns = (
            self.read_keys, self.read_nodes, self.read_invokes, self.read_completes, self.read_counts, self.read_sums
        )  # fmt: skip
        return (Read(*row) for row in zip(*columns, strict=True))

    def acks_of_writer(self, writer: int) -> list[float]:
        return sorted(batch.complete for batch in self.batches() if batch.writer == writer and batch.known)

    # ---- on disk, for the post-mortem ----

    COLUMNS = (
        "writers", "firsts", "counts", "invokes", "completes",
        "read_keys", "read_nodes", "read_invokes", "read_completes", "read_counts", "read_sums",
    )  # fmt: skip

    def save(self, path: Path) -> None:
        body: dict[str, Any] = {name: list(getattr(self, name)) for name in self.COLUMNS}
        body["cast"] = {
            "seed": self.cast.seed, "groups": self.cast.groups, "kinds": [str(kind) for kind in self.cast.kinds],
            "numeric": self.cast.numeric, "text": self.cast.text,
        }  # fmt: skip
        body["faults"] = [asdict(fault) for fault in self.faults]
        body["troubles"] = [asdict(trouble) for trouble in self.troubles]
        body |= {"violations": self.violations, "stalls": self.stalls, "notes": self.notes}
        with gzip.open(path, "wt", compresslevel=3) as file:
            json.dump(body, file)

    @classmethod
    def load(cls, path: Path) -> History:
        with gzip.open(path, "rt") as file:
            body = json.load(file)
        told = body["cast"]
        kinds = tuple(Kind(kind) for kind in told["kinds"])
        history = cls(Cast(told["seed"], told["groups"], kinds, told["numeric"], told["text"]))
        for name in cls.COLUMNS:
            getattr(history, name).extend(body[name])
        history.faults = [Fault(**fault | {"leads": tuple(fault["leads"])}) for fault in body["faults"]]
        history.troubles = [Trouble(**trouble) for trouble in body["troubles"]]
        history.violations, history.stalls, history.notes = body["violations"], body["stalls"], body["notes"]
        history.events_acked = sum(batch.count for batch in history.batches() if batch.known)
        history.events_unknown = sum(history.counts) - history.events_acked
        return history
