"""One follower as its leader sees it.

    PROBE      the place where the two logs agree is not known: one message at a time, then wait for its answer
               (or for a heartbeat's, which shows that the follower is there and the message was lost)
    REPLICATE  it is known: send ahead without waiting, within a window of messages and bytes

       ...... match ][ in flight ........ next ...... last_index
             known    sent, not answered       not sent

`match` only grows. What is in flight may be lost; then the next message does not fit the follower's log, it says so,
and the leader probes again from `match`.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum


class Pace(IntEnum):
    PROBE = 0
    REPLICATE = 1


class Progress:
    __slots__ = (
        "acked",
        "fetching",
        "heard_ns",
        "inflight",
        "inflight_bytes",
        "match",
        "next",
        "pace",
        "read_round",
        "waits",
    )

    def __init__(self, next_index: int, now_ns: int) -> None:
        self.match = 0
        self.next = next_index
        self.pace = Pace.PROBE
        self.waits = False  # PROBE: a message is out and not answered
        self.inflight: deque[tuple[int, int]] = deque()  # last index and bytes of each message
        self.inflight_bytes = 0
        self.fetching = False  # its next entries are being read from storage
        self.heard_ns = now_ns
        self.read_round = 0  # newest that it answered
        self.acked = True  # something in flight was answered since the last heartbeat's answer

    def sent(self, last_index: int, size_bytes: int) -> None:
        """An APPEND left, with entries up to last_index."""
        if self.pace is Pace.PROBE:
            self.waits = True
        else:
            self.next = last_index + 1
            self.acked = self.acked or not self.inflight  # what leaves only now is not late
            self.inflight.append((last_index, size_bytes))
            self.inflight_bytes += size_bytes

    def has_room(self, messages_max: int, bytes_max: int) -> bool:
        if self.pace is Pace.PROBE:
            return not self.waits
        return len(self.inflight) < messages_max and self.inflight_bytes < bytes_max

    def matched(self, index: int) -> bool:
        """It has everything up to `index`. True if that is news."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
            self.acked = True
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        if self.pace is Pace.PROBE and index >= self.match:
            self.pace = Pace.REPLICATE
            self.waits = False
            self.next = self.match + 1
            self.acked = True
        return news

    def rejected(self, index: int, retry: int) -> bool:
        """An APPEND after `index` did not fit; the logs may agree at `retry`. False: an old answer, to be ignored."""
        if index <= self.match:
            return False
        if self.pace is Pace.REPLICATE:
            self.probe()
        elif index != self.next - 1:
            return False
        else:
            self.next = max(self.match + 1, min(index, retry + 1))
            self.waits = False
        return True

    def probe(self) -> None:
        """What is in flight is void: find out where it stands."""
        if self.pace is Pace.REPLICATE:
            self.next = self.match + 1
        self.pace = Pace.PROBE
        self.waits = False
        self.inflight.clear()
        self.inflight_bytes = 0
