"""A node whose entries are applied aside: the test is the other thread, and takes its time.

What is asked of the disk happens in `disk()`, what is asked of the other thread in `done()`: in between the node goes on
with a state that it may not touch.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

from tests.harness import JAN_1, SMALL, Bench, v1_event, v1_ingest, v1_metric, v1_usage
from tests.jobs import in_another_thread
from unimeter.config import KIB, NodeConfig
from unimeter.core.effects import Apply, Effect
from unimeter.core.inputs import ApplyDone
from unimeter.kernels import protocol as wire

ROWS = 100  # so many at once are many
ROWS_MAX = 250  # and so many committed behind an open job are too many to wait
ASIDE = replace(
    SMALL,
    apply_busy_rows=ROWS,
    apply_aside_rows=ROWS,
    apply_replicated_rows=ROWS,
    apply_aside_rows_max=ROWS_MAX,
    apply_behind_rows_max=ROWS_MAX,
)
RESTLESS = replace(
    ASIDE, checkpoint_after_bytes=8 * KIB, checkpoint_after_state_percent=0, checkpoint_chunk_bytes=4 * KIB
)
ALL_TIME = (0, 2**62)


@dataclass
class AsideBench(Bench):
    """A bench on which jobs wait until the test says that they are done."""

    config: NodeConfig = ASIDE
    jobs: list[Apply] = field(default_factory=list)
    jobs_seen: int = 0
    worked: bool = True  # done() does the work; else it only says so, and the node does it

    def _take(self, effect: Effect) -> None:
        if isinstance(effect, Apply):
            self.jobs.append(effect)
            self.jobs_seen += 1
        else:
            super()._take(effect)

    def done(self) -> None:
        """The oldest job is done, or can be finished."""
        effect = self.jobs.pop(0)
        if self.worked:
            in_another_thread(effect.job)
        self.step(ApplyDone(effect.op))
        self.turn()

    def settle(self) -> None:
        """Everything that is under way comes to its end."""
        self.disk()
        while self.jobs and self.halted is None:
            self.done()
            self.disk()

    @property
    def open(self) -> bool:
        """Are entries being applied, as the node knows?"""
        return bool(self.node.groups[0].aside)

    def crash(self) -> AsideBench:
        """What a crash right now leaves, started again."""
        files = {name: bytearray(data) for name, data in self.files.items()}
        fresh = AsideBench(files, self.config, self.limits, wall_ns=self.wall_ns)
        fresh.settle()
        fresh.link()
        return fresh


def started(config: NodeConfig = ASIDE, worked: bool = True) -> AsideBench:
    made = AsideBench(config=config, worked=worked)
    made.disk()
    assert made.node.ready, made.halted
    made.link(1)
    made.link(2)
    assert made.ask(1, v1_metric("calls", 1, ("region",), (("big", 100),))) == (0, b"")
    return made


def ingest(count: int, first: int = 0, account: int = 7, sync: bool = True, request_id: int = 1) -> bytes:
    events = [v1_event("calls", account, 1, JAN_1 + first + n) for n in range(count)]
    return v1_ingest(*events, sync=sync, request_id=request_id)


def answers(data: bytes) -> list[tuple[int, int, bytes]]:
    """(request id, status, payload) of each."""
    found = []
    while data:
        status, request_id, length = wire.V1_RESPONSE_HEADER.unpack_from(data)
        found.append((request_id, status, data[12 : 12 + length]))
        data = data[12 + length :]
    return found


def stored(data: bytes) -> list[tuple[int, int]]:
    """(request id, events stored) of each ingest answer."""
    found = [(number, struct.unpack_from("<I", payload)[0]) for number, status, payload in answers(data) if not status]
    assert len(found) == len(answers(data)), "one was refused"
    return found


def total(bench: AsideBench, account: int = 7) -> int:
    """How many events of an account are counted; whatever has to end for the answer ends."""
    assert bench.take(1) == b""
    bench.feed(1, v1_usage(account, "calls", *ALL_TIME))
    bench.settle()
    ((_, status, payload),) = answers(bench.take(1))
    assert status == 0, payload
    return int(wire.V1_AGGREGATE.unpack(payload)[2])


def open_job(bench: AsideBench, rows: int = ROWS, first: int = 0) -> None:
    bench.feed(1, ingest(rows, first))
    bench.disk()
    assert bench.open and len(bench.jobs) == 1
