"""A node with several groups on one kind of kernels: what the tests of splitting, bundles and failures act with."""

from __future__ import annotations

import struct

from tests.twin_strategies import BASE, METRICS, Event, Play, v2_batch, v2_frame
from tests.twins import limits_of
from unimeter.kernels import protocol as p
from unimeter.kernels.api import Applied, Kernels
from unimeter.kernels.frame import Reply
from unimeter.kernels.reference.checksum import crc32c

V1_FAILURE = (p.V1_STATUS_REDIRECT, b"10.0.0.1:7001".ljust(24, b"\0"))
V2_FAILURE = (p.V2_STATUS_REDIRECT, b"\x81\xa7address\xa0")
STRANGERS_BYTES = 1024  # room for the bundle of another node before ours


class Cluster:
    """A node that takes requests, and the groups' states, wherever their leaders are. Each of the methods that are
    named in ENDS ends one group's open entry in its own way, and returns the answers."""

    def __init__(self, kernels: Kernels, group_count: int, play: Play, intake_bytes: int = 1 << 20) -> None:
        self.kernels = kernels
        self.group_count = group_count
        self.catalog = kernels.catalog([metric.pack(n) for n, metric in enumerate(METRICS)])
        self.splitter = kernels.splitter(group_count)
        self.states = [kernels.state(limits_of(play)) for _ in range(group_count)]
        self.intakes = [kernels.intake(group, intake_bytes, 100) for group in range(group_count)]
        self.index = 0
        self.stamp_ns = BASE

    def take(self, data: bytes, link: int = 1, local: bytes | None = None, first: int = 0) -> tuple[int, int]:
        frames = self.kernels.frame_scan(data, 1 << 20)
        assert frames.consumed == len(data)
        local = bytes([1]) * self.group_count if local is None else local
        return self.splitter.take(self.catalog, data, frames, first, link, self.intakes, local)

    def counts(self) -> object:
        return (
            self.splitter.spans_open,
            self.splitter.groups_wanted,
            [(i.batch_count, i.row_count, i.used_bytes, i.immediate_count, i.pending_count) for i in self.intakes],
        )

    def _apply(self, group: int, entry: bytes) -> Applied:
        assert self.kernels.entry_verify(entry)
        return self.states[group].apply(self.catalog, entry)

    def _place(self, group: int) -> tuple[int, int, int, int, int]:
        self.index += 1
        self.stamp_ns += 1 + group
        return group, self.index, 1, self.stamp_ns, self.states[group].meta().next_seq

    def _done(self, group: int, replies: list[Reply]) -> list[Reply]:
        assert self.intakes[group].pending_count == 0
        self.intakes[group].clear()
        return replies

    def lead(self, group: int) -> list[Reply]:
        """The group is led here: its entry goes through the log."""
        intake = self.intakes[group]
        entry = bytes(intake.seal(*self._place(group)))
        replies = intake.immediate()
        return self._done(group, replies + intake.answers(self._apply(group, entry)))

    def forward(self, group: int) -> list[Reply]:
        """The group is led elsewhere: the batches go there as a bundle, behind a stranger's."""
        intake = self.intakes[group]
        stranger = self.kernels.intake(group, STRANGERS_BYTES, 100)
        frame = v2_frame(2, 1, v2_batch([Event(group, b"plain", 1), Event(group, b"plain", 2)]))
        stranger.take(self.catalog, frame, self.kernels.frame_scan(frame, 1 << 20), 0, 1)
        body, batch_count, row_count = intake.bundle()
        leader = self.kernels.intake(group, STRANGERS_BYTES + max(48, len(body)), 100)
        assert leader.add_bundle(*stranger.bundle()) == (0, 0)
        replies = intake.immediate()
        assert leader.add_bundle(bytes(body), batch_count, row_count) == (1, 2)
        applied = self._apply(group, bytes(leader.seal(*self._place(group))))
        said = applied.extract(1, batch_count)
        remote = self.kernels.remote_applied(said, batch_count, row_count, self.stamp_ns)
        assert remote.extract(0, batch_count) == said
        assert leader.answers(applied) == []
        return self._done(group, replies + intake.answers(remote))

    def fail(self, group: int) -> list[Reply]:
        """Nobody takes it."""
        return self._done(group, self.intakes[group].fail(*V1_FAILURE, *V2_FAILURE))

    def lose(self, group: int) -> list[Reply]:
        """It was sealed, and another leader's entry took its place."""
        replies = self.intakes[group].immediate()
        self.intakes[group].seal(*self._place(group))
        if self.index % 2:
            replies += self.intakes[group].immediate()
        return replies + self.fail(group)

    def forget(self, group: int) -> list[Reply]:
        """Nobody is answered."""
        if self.index % 2:
            self.intakes[group].bundle()
        self.intakes[group].clear()
        return []


ENDS = ("lead", "forward", "fail", "lose", "forget")


def hinted(frame: bytes, hint: int) -> bytes:
    """A v2 frame with a group hint; a v1 frame as it is."""
    if frame[0] != 2:
        return frame
    head = frame[:20] + struct.pack("<I", hint) + frame[24:28]
    return head + struct.pack("<I", crc32c(head)) + frame[32:]
